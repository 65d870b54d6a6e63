"""Pruning: set the lowest-ranked entries of a model's matrices to zero, and score what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from types import MappingProxyType
from typing import get_args

import torch

from normtune.data.encode import Encoded
from normtune.data.task import TaskData
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, known
from normtune.evaluation import score
from normtune.importance.activations import transposed
from normtune.importance.fisher import Request, fisher
from normtune.importance.gates import learnt
from normtune.importance.masks import Per, top
from normtune.importance.scores import IMPORTANCES, Inputs
from normtune.importance.structure import STRUCTURES, ends, first_order, lowest
from normtune.importance.uses import uses_of
from normtune.machine import machine
from normtune.methods.selection import Selection, where
from normtune.methods.trainable import copy_values
from normtune.models.base import Base
from normtune.records.fisher import Estimator
from normtune.records.sparsity import PruneConfig, PrunePoint, PruneRecord
from normtune.training.session import Session
from normtune.training.splits import identities, parts_of
from normtune.versions import versions

#: What whole structures are ranked by, the default first.
RANKED = FIRST_ORDER, LEARNT = "first-order", "learnt"


class Pruner:
    """Sets entries of a model to zero, and puts them back.

    Args:
        session: The base model.
        data: The task, with the delta's center and scale where there is a delta.
        config: What is pruned, and how.
        delta: The delta on the base model, or None for the model as it was pre-trained.

    Raises:
        ConfigError: If nothing can be scored, or an importance needs runs.
    """

    def __init__(self, session: Session, data: TaskData, config: PruneConfig, delta: Delta | None) -> None:
        if delta is None and not config.retrain:
            raise ConfigError("A model without a delta has no trained head to score; add --retrain, or name a delta.")
        if config.structure is not None:
            known("structure", config.structure, STRUCTURES)
        for name in config.importances:
            if config.structure is not None:
                known("ranking of heads or units", name, RANKED)
            elif IMPORTANCES[known("importance", name, IMPORTANCES)].needs == "runs":
                raise ConfigError(f"The importance {name!r} is read off runs, which say nothing of what to prune.")
        known("comparison", config.per, get_args(Per))
        self.session, self.base, self.config = session, session.base, config
        self._data, self._delta, self._parts = data, delta, parts_of(data, config.protocol)

    def run(self, tell: Callable[[PrunePoint], None] = lambda _: None) -> PruneRecord:
        """Prune at every sparsity by every importance; the base model is left as it was.

        Args:
            tell: Called after each pruned model.
        """
        with ExitStack() as stack:
            if self._delta is not None:
                stack.enter_context(self._delta.apply(self.base, merge=True))
            dense, retrained = self._scored()
            points = []
            for point in self._points():
                points.append(point)
                tell(point)
        return PruneRecord(
            config=self.config,
            base_identity=self.base.identity,
            data=identities(self._parts),
            primary=self._data.task.primary,
            dense=dense,
            retrained=retrained,
            points=tuple(points),
            machine=machine(self.base.device),
            versions=versions(),
        )

    @cached_property
    def _dev(self) -> Encoded:
        """The dev examples, which are scored."""
        return self.base.encode(self._parts.dev["dev"], self.config.protocol.max_length)

    def _points(self) -> Iterator[PrunePoint]:
        length = self.config.protocol.max_length
        sample = self.base.encode(self._parts.train.sample(self.config.examples, self.config.seed), length)
        for name in self.config.importances or (FIRST_ORDER,):
            rank = self._ranked(name, sample) if self.config.structure is None else self._structured(name, sample)
            for sparsity in self.config.sparsities:
                started, (gone, of, update) = time.monotonic(), rank(sparsity)
                with zeroed(self.base, gone, update):
                    scores, retrained = self._scored()
                yield PrunePoint(
                    importance=name,
                    sparsity=sparsity,
                    zeros=len(gone),
                    of=of,
                    scores=scores,
                    retrained=retrained,
                    seconds=round(time.monotonic() - started, 3),
                )

    def _ranked(self, name: str, sample: Encoded) -> Ranked:
        """A function from a sparsity to the entries of the layers' matrices that an importance ranks lowest."""
        base, importance = self.base, IMPORTANCES[name]
        uses = uses_of(base.model, dict(base.model.named_parameters())).values()
        matrices = {use.name for own in uses for use in own if use.kind == "matrix"}  # no tables of positions
        within = where(base.layout, lambda p: p.layer is not None and len(p.shape) == 2 and p.parameter in matrices)
        given = Inputs(base, within, self.config.seed, texts=sample)
        if importance.needs == "fisher":
            request = Request(within, within, Estimator(name=importance.estimator), head_seeds=(None,))
            given = Inputs(base, within, fisher=fisher(base, self._data.task, sample, request).scores)
        scores = importance.scores(given)
        worst = scores if importance.least else -scores
        if self.config.per == "row":
            worst = worst.by_row(transposed(base.model))
        update = importance.update
        apply = None if update is None else lambda gone: update(given, gone)
        return lambda sparsity: (top(worst, fraction=sparsity), len(within), apply)

    def _structured(self, name: str, sample: Encoded) -> Ranked:
        """A function from a sparsity to the entries of the lowest-ranked heads or units."""
        base, task, seed = self.base, self._data.task, self.config.seed
        structure = known("structure", self.config.structure or "", STRUCTURES)
        of = sum(base.layout.by_name[name].size for name in ends(base, structure))
        if name == LEARNT:
            return lambda part: (lowest(base, learnt(base, task, sample, structure, part, seed=seed), part), of, None)
        scores = first_order(base, task, sample, structure)
        return lambda part: (lowest(base, scores, part), of, None)

    def _scored(self) -> tuple[dict[str, float] | None, dict[str, float] | None]:
        """All metrics on dev as the model is now, if its head is trained; and with LayerNorm retrained, if wanted."""
        scores, retrained, config = None, None, self.config
        if self._delta is not None:
            scores = score(self.base, self._dev, self._data.task)
        if config.retrain:
            rate = config.rate or self.session.grid("layernorm")[0]
            run = self.session.prepare(self._data, "layernorm", rate, config.seed, config.protocol)
            retrained = self.session.run(run)[0].scores["dev"]
        return scores, retrained


#: From a sparsity to the entries to prune, the number of candidates, and a function that makes up for the loss.
Ranked = Callable[[float], tuple[Selection, int, Callable[[Selection], None] | None]]


@contextmanager
def zeroed(
    base: Base,
    gone: Selection,
    update: Callable[[Selection], None] | None = None,
    off: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[None]:
    """Set entries of a model to zero within this context; afterwards all entries are as they were.

    Args:
        base: The model.
        gone: The entries.
        update: Sets them to zero and adjusts other entries of their parameters to make up for it.
        off: Values that entries get instead of zero, by parameter.
    """
    parameters = {name: base.model.get_parameter(name) for name in gone.chosen}
    with ExitStack() as undo:
        for parameter in parameters.values():
            undo.callback(copy_values, parameter, parameter.detach().clone())
        if update is not None:
            update(gone)
        for name, parameter in parameters.items():
            at = torch.from_numpy(gone.indices(name)).to(parameter.device)
            parameter.data.view(-1)[at] = off.get(name, 0.0)
        yield
