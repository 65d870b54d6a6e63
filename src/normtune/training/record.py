"""The complete record of one run, as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from normtune.config import RunConfig, Strict
from normtune.importance.change import Change
from normtune.saved import Saved
from normtune.training.checkpoint import EpochScore


class DataFacts(Strict):
    """What a run was trained and scored on.

    Attributes:
        source: Where the data was read from: the folder's or the hub's name.
        train: Examples trained on.
        train_of: Examples that the training split holds; more than `train` where a sample was taken.
        dev: Examples scored on.
        dev_of: Examples that the dev split holds.
        held_out: Examples of the training split that rate and epoch were picked on; 0 where dev did that.
        identity: Content hashes of the examples used, by split.
        truncated: Examples cut to the limit of tokens, by split.
        dropped: Rows that the reader left out, by split.
    """

    source: str
    train: int
    train_of: int
    dev: int
    dev_of: int
    held_out: int
    identity: dict[str, str]
    truncated: dict[str, int]
    dropped: dict[str, int]


class Counts(Strict):
    """How many entries trained.

    Attributes:
        selected: Entries of the pre-trained model.
        head: Entries of the head.
        trained: Both.
        total: Entries of the whole model.
        share: `selected` over all pre-trained entries.
    """

    selected: int
    head: int
    trained: int
    total: int
    share: float


class Record(Saved):
    """Everything about one run.

    Attributes:
        id: Fingerprint of all that changes a number: configuration, model, data, selection, threads, device.
        status: ``done`` or ``failed``.
        error: What went wrong, where it failed.
        config: What the user chose.
        base_identity: Content hash of the base model.
        selection: Fingerprint of what was trained.
        counts: How many entries.
        outputs: Width of the head: the number of labels, or 1 for regression.
        data: On what.
        primary: Name of the metric that `score` is.
        score: That metric at the best epoch: on dev.
        scores: All metrics on dev at the best epoch, by split (``dev``; for MNLI ``dev_mismatched`` too).
        best_epoch: Number of the best epoch, from 1.
        curve: Every epoch's loss and the metrics on the data that the epoch was picked on.
        steps: Optimizer steps.
        seconds: Time of the training, evaluation included.
        peak_memory: Largest memory of the process during the run, in bytes.
        delta_bytes: Bytes of the delta's tensors beside the head.
        changes: How far each trained parameter moved (equation 1).
        machine: What it ran on.
        versions: With which libraries.
    """

    id: str
    status: Literal["done", "failed"]
    error: str | None = None
    config: RunConfig
    base_identity: str
    selection: str
    counts: Counts
    outputs: int = 0
    data: DataFacts
    primary: str
    score: float | None = None
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)
    best_epoch: int | None = None
    curve: tuple[EpochScore, ...] = ()
    steps: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    delta_bytes: int = 0
    changes: tuple[Change, ...] = ()
    machine: dict[str, str | int]
    versions: dict[str, str]
