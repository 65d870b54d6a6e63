"""A planned run and its examples: how a protocol cuts a task's data, and what a record says about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normtune.config import Protocol, RunConfig, fingerprint
from normtune.data.task import Split, TaskData
from normtune.methods.trainable import Spec
from normtune.records.run import DataFacts


@dataclass(frozen=True)
class Parts:
    """The examples of one run: what it learns from, what picks the epoch, and what is scored at the end."""

    train: Split
    pick: Split
    dev: dict[str, Split]


def parts_of(data: TaskData, protocol: Protocol) -> Parts:
    """Cut `data` as `protocol` says.

    With ``held_out``, a seeded slice of the training split (its end, for running text) picks the epoch, and dev is
    only scored at the end. Samples and slice depend on the protocol's ``sample_seed``, not on the run's seed.

    Raises:
        DataError: If a split is missing, empty or unlabelled.
    """
    train, dev = data.labelled("train"), data.labelled("dev")
    scored = {"dev": dev.sample(protocol.max_dev, protocol.sample_seed)}
    if "dev_mismatched" in data.splits:
        scored["dev_mismatched"] = data.labelled("dev_mismatched").sample(protocol.max_dev, protocol.sample_seed)
    if not protocol.held_out:
        return Parts(train.sample(protocol.max_train, protocol.sample_seed), scored["dev"], scored)
    order = np.random.default_rng([protocol.sample_seed, 0x4E1D]).permutation(len(train))
    if train.kind == "lines":  # of running text, hold out the end in one piece
        order = np.arange(len(train))[::-1]
    cut = max(1, round(protocol.held_out * len(train)))
    rest = train.take(np.sort(order[cut:]))
    return Parts(rest.sample(protocol.max_train, protocol.sample_seed), train.take(np.sort(order[:cut])), scored)


@dataclass(frozen=True)
class Run:
    """A planned run.

    Attributes:
        config: Its configuration.
        data: The task and its data.
        parts: The examples, as its protocol cuts them.
        spec: What trains.
        id: Its identity.
        together: The runs that one training makes, this one among them; empty if it trains alone.
    """

    config: RunConfig
    data: TaskData
    parts: Parts
    spec: Spec
    id: str
    together: tuple[Run, ...] = ()

    @property
    def training(self) -> str:
        """The identity of the training that makes this run, as in a checkpoint."""
        return fingerprint({"runs": [run.id for run in self.together]}) if self.together else self.id


def identities(parts: Parts) -> dict[str, str]:
    """Content hashes of the examples of a run, by split."""
    splits = {"train": parts.train, "pick": parts.pick, **parts.dev}
    return {name: split.identity()[:16] for name, split in splits.items()}


def facts_of(data: TaskData, parts: Parts, truncated: Mapping[str, int]) -> DataFacts:
    """What a run was trained and scored on; `truncated` is the number of texts that were cut, by split."""
    return DataFacts(
        source=Path(data.source).name,
        suite=data.suite,
        train=len(parts.train),
        train_of=len(data.splits["train"]),
        dev=len(parts.dev["dev"]),
        dev_of=len(data.splits["dev"]),
        held_out=0 if parts.pick is parts.dev["dev"] else len(parts.pick),
        identity=identities(parts),
        truncated=dict(truncated),
        dropped=dict(data.dropped),
    )
