"""The complete record of one run, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from normtune.config import RunConfig, Strict, Sub, fingerprint
from normtune.records.saved import Saved


class Change(Strict):
    """How far the selected entries of one parameter moved.

    Attributes:
        component: The component it belongs to.
        layer: Number of its layer from 0, or None outside the layers.
        sub: Its sub-component.
        entries: How many entries were compared.
        mean: D, the mean of |fine-tuned - pre-trained| over them (equation 1).
        relative: D divided by the mean of |pre-trained|; None where that is zero.
        l0: How many of them differ (appendix B).
        l1: The sum of |fine-tuned - pre-trained| (appendix B).
    """

    component: str
    layer: int | None
    sub: Sub
    entries: int
    mean: float
    relative: float | None
    l0: int
    l1: float


class EpochScore(Strict):
    """One point of the training curve.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Mean training loss over the epoch.
        scores: All metrics on the data that the epoch is picked on, the primary one first.
        seconds: Time since the start, evaluation included.
    """

    epoch: int
    loss: float
    scores: dict[str, float]
    seconds: float


class Norms(Strict):
    """Names of the components that normalise a layer in a family of models (`normtune.models.families`).

    Attributes:
        attention: Those of the attention; in most families one.
        closing: Those that close the layer, which the paper trains; in most families one.
    """

    attention: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()


class DataFacts(Strict):
    """What a run was trained and scored on.

    Attributes:
        source: Where the data was read from: the folder's or the hub's name.
        suite: The task's suite; empty for the user's own files.
        train: Examples trained on.
        train_of: Examples that the training split holds; more than `train` where a sample was taken.
        dev: Examples scored on.
        dev_of: Examples that the dev split holds.
        held_out: Examples of the training split that rate and epoch were picked on; 0 if they were picked on dev.
        identity: Content hashes of the examples used, by split.
        truncated: Examples cut to the limit of tokens, by split.
        dropped: Rows that the reader left out, by split.
    """

    source: str
    suite: str = ""
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


class Pruned(Strict):
    """Why a run was pruned before its end (`normtune.studies.pruning`).

    Attributes:
        epoch: The epoch after which it was pruned.
        of: Epochs that a whole run has.
        score: Its best score until then, on the data that the epoch is picked on.
        leader: Identity of the whole run, at another rate, that led at that epoch.
        leader_rate: Its rate.
        leader_score: Its best score until that epoch.
        margin: How far behind the leader a run had to be.
        after: Fraction of the epochs that every run gets before it may be pruned.
    """

    epoch: int
    of: int
    score: float
    leader: str
    leader_rate: float
    leader_score: float
    margin: float
    after: float

    def __str__(self) -> str:
        return (
            f"dropped after epoch {self.epoch} of {self.of}: its best score {self.score:.4f} is more than"
            f" {self.margin:g} below {self.leader_score:.4f} of rate {self.leader_rate:g}"
        )


#: Raised when the same configuration gives numbers with another meaning, so that old records are not reused.
_SCHEMA = 2


def identity(
    config: RunConfig,
    *,
    base: str,
    trains: str,
    data: Mapping[str, str],
    machine: Mapping[str, str | int],
    **more: object,
) -> str:
    """A run's identity: a fingerprint of all that changes more of a number than its last bits.

    Args:
        config: What the user chose.
        base: Content hash of the base model.
        trains: Fingerprint of what trains.
        data: Content hashes of the examples, by split.
        machine: What it runs on; only its device and number of threads count.
        **more: Settings that are not the usual ones: ``precision`` (mixed), ``processes``, ``plain`` (no faster ways),
            ``loss`` (a task's center, scale and class weights), and `Base.unpinned`.

    Returns:
        The identity. It is the same whichever of the faster ways compute the run.
    """
    return fingerprint({
        "schema": _SCHEMA,
        # Without defaults, so that a field added later leaves the identity of earlier runs alone.
        "config": config.model_dump(mode="json", exclude_defaults=True),
        "base": base,
        "trains": trains,
        "data": dict(data),
        "device": machine["device"],
        "threads": machine["threads"],
        **more,
    })


#: Name of the mean of the primary metrics of tasks that train together.
MEAN = "mean over tasks"


class Record(Saved):
    """Everything about one run.

    Attributes:
        id: Fingerprint of all that changes a number: configuration, model, data, selection, threads, device.
        status: ``done``, ``failed``, or ``pruned`` (stopped early by the pruning rule). Only a run that is done has
            scores.
        error: What went wrong, or why it was pruned.
        config: What the user chose.
        base_identity: Content hash of the base model.
        norms: The family's names for its norms; empty in older records; a guess for an unlisted family.
        trains: Fingerprint of what was trained.
        counts: How many entries trained.
        outputs: Width of the head: the number of labels, or 1 for regression.
        data: What it was trained and scored on.
        primary: Name of the metric of `score`.
        score: That metric on dev at the best epoch.
        scores: All metrics on dev at the best epoch, by split (``dev``; for MNLI ``dev_mismatched`` too).
        best_epoch: Number of the best epoch, from 1.
        curve: Every epoch's loss and the metrics on the data that the epoch was picked on.
        steps: Optimizer steps.
        ways: The faster ways in which it was computed; empty for plain torch.
        cost: What the method costs at inference, once all that can be merged is merged: ``none``, ``extra tokens`` or
            ``extra layers``.
        seconds: Time of the training, evaluation included.
        peak_memory: Largest memory of the process during the run, in bytes.
        delta_bytes: Bytes of the delta's tensors, without the head.
        changes: How far each trained parameter moved (equation 1).
        machine: What it ran on.
        versions: Versions of the libraries.
        pruned: Why it was pruned; absent from the file if it was not.
    """

    id: str
    status: Literal["done", "failed", "pruned"]
    error: str | None = None
    config: RunConfig
    base_identity: str
    norms: Norms = Norms()
    trains: str
    counts: Counts
    outputs: int = 0
    data: DataFacts
    primary: str
    score: float | None = None
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)
    best_epoch: int | None = None
    curve: tuple[EpochScore, ...] = ()
    steps: int = 0
    ways: tuple[str, ...] = ()
    cost: str = "none"
    seconds: float = 0.0
    peak_memory: int = 0
    delta_bytes: int = 0
    changes: tuple[Change, ...] = ()
    machine: dict[str, str | int]
    versions: dict[str, str]
    # Left out if None, so that records of whole runs are as they were before there was pruning.
    pruned: Pruned | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def picked(self) -> float:
        """The score that rates are compared by: the primary metric at the best epoch, on the data that picked it.

        For tasks that trained together it is the mean of their metrics, so that they get one rate.
        """
        scores = next(point.scores for point in self.curve if point.epoch == self.best_epoch)
        return scores.get(MEAN, scores[self.primary])
