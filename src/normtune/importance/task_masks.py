"""The masks of methods that are measured on a task before they train (`normtune.methods.top`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from normtune.config import fingerprint
from normtune.data.task import Split, TaskData
from normtune.errors import known
from normtune.importance.masks import Mask
from normtune.importance.measurement import WHOLE, Measurement
from normtune.importance.recipe import MaskRecipe, Sources, make_mask
from normtune.importance.scores import IMPORTANCES
from normtune.methods.selection import Selection
from normtune.methods.top import Top
from normtune.models.base import Base
from normtune.records.fisher import Estimator, FisherConfig


@dataclass(frozen=True)
class TaskMasks:
    """The masks of one base model: each is measured once, whatever the seeds and rates of the runs that train it.

    Attributes:
        folder: Where masks are stored, or None to keep them in this process only.
    """

    base: Base
    folder: Path | None = None
    _made: dict[str, Selection] = field(default_factory=dict, init=False)

    def selection(
        self, top: Top, data: TaskData, train: Split, max_length: int, *, threads: int, keep: bool = True
    ) -> Selection:
        """The entries that a method trains on a task.

        `train` holds the training examples that may be used. The `threads` of the runs may change last bits, and with
        them a mask. This process writes to the folder only if `keep`.
        """
        task = data.task
        key = fingerprint({
            **self.base.unpinned,
            "base": [self.base.identity, str(self.base.model.dtype), self.base.device.type, threads],
            "task": [task.name, task.kind, task.outputs, task.center, task.scale],
            "train": train.identity(),
            "max_length": max_length,
            "top": top.fingerprint,
        })
        if key not in self._made:
            file = None if self.folder is None else self.folder / f"{task.name}-{top.method}-{key}.safetensors"
            if file is not None and file.is_file():
                mask = Mask.load(file, self.base)
            else:
                mask = measure(self.base, top, data, train, max_length)
                if file is not None and keep:
                    mask.save(file, over=True)  # another process may be saving it too
            self._made[key] = mask.selection
        return self._made[key]


def measure(base: Base, top: Top, data: TaskData, train: Split, max_length: int) -> Mask:
    """The mask of the top entries by an importance, measured on a task (see `TaskMasks.selection`).

    Fisher information is taken with the head of seed 0, so that every seed of a run trains the same entries.

    Raises:
        ConfigError: If the importance needs runs, for which there is no source.
    """
    importance, task = IMPORTANCES[known("importance", top.importance, IMPORTANCES)], data.task.name
    config = FisherConfig(
        model=base.name,
        task=task,
        entries=WHOLE,
        estimator=Estimator(name=importance.estimator),
        max_length=max_length,
        examples=top.examples,
    )
    sources = Sources(
        fisher=lambda _: Measurement(base, data, train, config).measure(),
        texts=lambda _: base.encode(train.sample(top.examples, 0), max_length),
    )
    tasks = () if importance.needs == "nothing" else (task,)
    recipe = MaskRecipe(importance=top.importance, tasks=tasks, within=WHOLE, entries=top.entries)
    return make_mask(base, recipe, sources)
