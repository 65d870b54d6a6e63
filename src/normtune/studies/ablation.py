"""Ablation: switch off parts of a trained model, and compare the loss in score with that for random parts.

A dimension of a norm is off when its weight and bias are zero, as in Kovaleva et al. 2021 (arXiv 2105.06990), on which
the paper's section 2.3 rests; norms that multiply by (1 + weight), as Gemma's do, get a weight of -1 there. If a
layer's last norm were zero as a whole, nothing would pass through the layer, which says nothing about the norm. So in a
component, sub-component or layer every entry becomes zero except a norm's weight, which becomes one (Gemma's zero): it
still normalises (LayerNorm-simple, Xu et al. 2019) without what it learnt. A layer then passes on its inputs.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from normtune.data.task import TaskData
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError
from normtune.evaluation import score
from normtune.importance.masks import top
from normtune.importance.scores import random_scores
from normtune.machine import machine
from normtune.methods.expression import select
from normtune.methods.selection import Selection, everything, where
from normtune.models.base import Base
from normtune.records.ablation import AblationConfig, AblationPoint, AblationRecord, RankedOver
from normtune.studies.sparsity import zeroed
from normtune.training.splits import identities, parts_of
from normtune.versions import versions

#: Entries that are switched off together: their fields in the record, the entries, a function from a draw's number to
#: as many random entries, and, by parameter, the value that they get where it is not zero.
Switch = tuple[dict[str, object], Selection, Callable[[int], Selection], Mapping[str, float]]


class Ablater:
    """A trained model whose parts are switched off, and on again.

    Args:
        base: The base model.
        data: The task, with the delta's center and scale.
        config: What is switched off.
        delta: The delta on the base model.

    Raises:
        ConfigError: If a part selects nothing, or `config.norm` selects no norm, or norms with too few dimensions.
        SelectionError: If an expression cannot be read, or the layers have no norms.
        UnknownNameError: If the model has no such component.
    """

    def __init__(self, base: Base, data: TaskData, config: AblationConfig, delta: Delta) -> None:
        self.base, self.config, self._delta = base, config, delta
        self._task, self._splits = data.task, parts_of(data, config.protocol)
        self._parts = {text: select(base.layout, text) for text in config.parts}
        for text in [text for text, gone in self._parts.items() if not len(gone)]:
            raise ConfigError(f"{text!r} selects no pre-trained entry that could be switched off.")
        self._norms = _norms(base, config) if config.dimensions else {}
        weights = [place.parameter for place in base.layout.body if place.norm and place.sub == "weight"]
        self._silent = {name: _silent(base.model.get_submodule(_owner(name))) for name in weights}

    def run(self, tell: Callable[[AblationPoint], None] = lambda _: None) -> AblationRecord:
        """Switch off one part after the other; the base model is left as it was.

        Args:
            tell: Called after each part.
        """
        dev = self.base.encode(self._splits.dev["dev"], self.config.protocol.max_length)
        points: list[AblationPoint] = []

        def without(gone: Selection, off: Mapping[str, float]) -> dict[str, float]:
            with zeroed(self.base, gone, off=off):
                return score(self.base, dev, self._task)

        with self._delta.apply(self.base, merge=True):
            dense = score(self.base, dev, self._task)
            for said, gone, drawn, off in self._switches():
                started, scores = time.monotonic(), without(gone, off)
                random = tuple(without(drawn(number), off) for number in range(self.config.draws))
                seconds = round(time.monotonic() - started, 3)
                found = {"entries": len(gone), "scores": scores, "random": random, "seconds": seconds}
                points.append(AblationPoint.model_validate({**said, **found}))
                tell(points[-1])
        return AblationRecord(
            config=self.config,
            base_identity=self.base.identity,
            data=identities(self._splits),
            primary=self._task.primary,
            dense=dense,
            points=tuple(points),
            machine=machine(self.base.device),
            versions=versions(),
        )

    def _switches(self) -> Iterator[Switch]:
        """Yield what is switched off, with the dimensions ranked by the present weights."""
        learnt = {name: silent + 1 for name, silent in self._silent.items()}
        for text, gone in self._parts.items():
            yield {"part": text}, gone, partial(self._random_entries, gone), learnt
        for per in self.config.per if self.config.dimensions else ():
            order = self._order(per)
            for count in self.config.dimensions:
                positions = tuple(next(iter(order.values()))[:count].tolist()) if per == "model" else None
                said = {"part": self.config.norm, "dimensions": count, "per": per, "positions": positions}
                drawn = partial(self._random_dimensions, per, count)
                yield said, self._dimensions(order, count), drawn, self._silent

    def _random_entries(self, gone: Selection, draw: int) -> Selection:
        """As many random entries as `gone` has: from the layers if all of it is there, else from the whole model."""
        layers = where(self.base.layout, lambda place: place.layer is not None)
        within = everything(self.base.layout) if len(gone - layers) else layers
        return top(random_scores(within, self.config.seed * self.config.draws + draw), entries=len(gone))

    def _random_dimensions(self, per: RankedOver, count: int, draw: int) -> Selection:
        """Random dimensions of each norm; a draw with a larger `count` includes the same draw with a smaller one."""
        rng = np.random.default_rng([self.config.seed, draw, 0xAB1A])
        widths = {module: self.base.layout.by_name[names[0]].size for module, names in self._norms.items()}
        same = rng.permutation(min(widths.values()))
        order = {module: same if per == "model" else rng.permutation(width) for module, width in widths.items()}
        return self._dimensions(order, count)

    def _order(self, per: RankedOver) -> dict[str, np.ndarray]:
        """The dimensions of each norm, largest |scale| first; under ``model`` by the mean of |scale| over all norms."""
        sizes: dict[str, np.ndarray] = {}
        for module in self._norms:
            weight = self.base.model.get_parameter(name := f"{module}.weight").detach().double().cpu().numpy()
            sizes[module] = np.abs(weight - self._silent[name])
        if per == "model":
            sizes = dict.fromkeys(sizes, np.stack([*sizes.values()]).mean(axis=0))
        return {module: np.argsort(-own, kind="stable") for module, own in sizes.items()}

    def _dimensions(self, order: Mapping[str, np.ndarray], count: int) -> Selection:
        """The first `count` dimensions of each norm: of weight, bias or both, as `config.norm` selects."""
        chosen = {name: order[module][:count] for module, names in self._norms.items() for name in names}
        return Selection(self.base.layout, chosen)


def _norms(base: Base, config: AblationConfig) -> dict[str, list[str]]:
    """The selected parameters of each norm."""
    found, within = defaultdict(list), select(base.layout, config.norm)
    for place in within:
        if not place.norm or not within.is_whole(place.parameter):
            raise ConfigError(f"Only norms have dimensions to switch off; {config.norm!r} has {place.parameter}.")
        found[_owner(place.parameter)].append(place.parameter)
    if not found:
        raise ConfigError(f"{config.norm!r} selects no norm.")
    widths, most = {place.size for place in within}, max(config.dimensions)
    if most > min(widths):
        raise ConfigError(f"{config.norm!r} has {min(widths)} dimensions, so that {most} cannot be switched off.")
    if "model" in config.per and len(widths) > 1:
        raise ConfigError(f"The norms of {config.norm!r} are not equally wide; rank their dimensions per layer.")
    return found


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


@torch.no_grad()
def _silent(norm: nn.Module) -> float:
    """The weight with which a norm outputs zero: 0, or -1 for a norm that multiplies by (1 + weight)."""
    if isinstance(norm, (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)):
        return 0.0
    own = copy.deepcopy(norm).cpu().float()
    for parameter in own.parameters():
        parameter.zero_()
    return -1.0 if type(own).forward(own, torch.ones(1, 1, own.get_parameter("weight").numel())).any() else 0.0
