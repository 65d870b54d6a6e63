"""Measuring Fisher information task by task, for the commands that need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import MofNCompleteColumn, Progress

from normtune.cli.options import names
from normtune.cli.progress import bars
from normtune.config import protocol as make_protocol
from normtune.data.encode import Encoded, encode
from normtune.data.suites import load_task, suite_of
from normtune.importance.measurement import Measured, Measurement
from normtune.records.fisher import FisherConfig

if TYPE_CHECKING:
    from normtune.config import Protocol
    from normtune.data.task import Split, TaskData
    from normtune.models.base import Base


def task_names(text: str, suite: str, target: str | None = None) -> list[str]:
    """The tasks of a comma-separated list, each once, and the target; ``all`` stands for those that tables show."""
    chosen = suite_of(suite)
    given = list(chosen.reported) if text.strip() == "all" else names(text)
    return list(dict.fromkeys(chosen.resolve(name) for name in [*given, *([target] if target else [])]))


@dataclass(frozen=True)
class Measurer:
    """Measures the tasks of one suite on one base model.

    Attributes:
        base: The base model.
        config: What is measured; its task is filled in.
        protocol: Says which part of the training data may be looked at.
        folder: Where measurements are kept and found, or None.
        suite: The suite that the tasks are of.
        data: GLUE's folder, or None for the hub.
        bar: Shows how far it has come.
    """

    base: Base
    config: FisherConfig
    protocol: Protocol
    folder: Path | None
    suite: str
    data: Path | None
    bar: Progress

    def keeping(self, entries: str) -> Measurer:
        """The same, keeping every single entry of an expression."""
        return replace(self, config=self.config.model_copy(update={"entries": entries}))

    def _train(self, task: str) -> tuple[TaskData, Split]:
        """A task, read only now, and its training examples."""
        from normtune.training.splits import parts_of

        found = load_task(task, self.suite, self.data)
        return found, parts_of(found, self.protocol).train

    def texts(self, count: int, seed: int) -> Callable[[str], Encoded]:
        """What gives a sample of a task's training texts."""

        def sample(task: str) -> Encoded:
            texts = self._train(task)[1].sample(count, seed)
            return encode(texts, self.base.need_tokenizer(), self.protocol.max_length)

        return sample

    def measure(self, task: str) -> Measured:
        """Fisher information on the task called `task`."""
        found, train = self._train(task)
        config = self.config.model_copy(update={"task": found.task.name})
        own = Measurement(self.base, found, train, config, self.folder)
        line = self.bar.add_task(found.task.name, total=len(own.sample) * len(config.head_seeds))
        measured = own.find() or own.measure(progress=lambda done: self.bar.advance(line, done))
        done = measured.record.examples * len(config.head_seeds)
        self.bar.update(line, total=done, completed=done)
        return measured


@contextmanager
def measurer(
    config: FisherConfig,
    *,
    protocol: str,
    suite: str,
    data: Path | None,
    folder: Path | None,
    device: str,
    base: Base | None = None,
) -> Iterator[Measurer]:
    """A measurer on a base model.

    Args:
        config: What is measured.
        protocol: Name of the protocol.
        suite: The suite that the tasks are of.
        data: GLUE's folder, or None for the hub.
        folder: Where measurements are kept and found, or None.
        device: ``auto``, ``cpu`` or ``cuda``.
        base: The base model, where it is loaded already.

    Yields:
        The measurer; its progress is shown within this context.
    """
    from normtune.models.base import load_base
    from normtune.models.device import accelerator

    rules = make_protocol(protocol)
    if base is None:
        base = load_base(config.model, revision=config.revision, dtype=config.dtype)
        base.model.to(accelerator(device).device)
    known = config.model_copy(update={"model": base.name, "revision": base.revision, "max_length": rules.max_length})
    with bars(MofNCompleteColumn()) as bar:
        yield Measurer(base, known, rules, folder, suite, data, bar)
