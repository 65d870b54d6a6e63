"""Importances as scores of every candidate, and how those of several tasks are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import add
from typing import get_args

import numpy as np
from torch import Tensor

from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, SelectionError, UnknownNameError
from normtune.importance.masks import Scope
from normtune.importance.scores import Scores
from normtune.methods.selection import Selection
from normtune.models.base import Base

SCOPES: tuple[str, ...] = get_args(Scope)


def magnitude(base: Base, within: Selection) -> Scores:
    """|pre-trained| of every candidate.

    Args:
        base: The base model, as it was loaded.
        within: The candidates.

    Returns:
        Their scores.
    """
    return Scores(within, {name: np.abs(values) for name, values in _pretrained(base, within).items()})


def random_scores(within: Selection, seed: int = 0) -> Scores:
    """A uniform draw for every candidate, so that a mask is one without replacement.

    Args:
        within: The candidates.
        seed: Seeds the draw.

    Returns:
        Their scores.
    """
    generator = np.random.default_rng([seed, 0x5C0E])
    return Scores(within, {place.parameter: generator.random(within.count(place.parameter)) for place in within})


def change_scores(base: Base, within: Selection, delta: Delta) -> Scores:
    """|fine-tuned - pre-trained| of every candidate, from a run that trained all of them.

    Args:
        base: The base model, as it was loaded.
        within: The candidates.
        delta: What the run left, such as one of full fine-tuning.

    Returns:
        Their scores.

    Raises:
        SelectionError: If the run did not train one of them.
    """
    trained = delta.selection(base)
    missing = len(within - trained)
    if missing:
        raise SelectionError(
            f"The run of {delta.info.method or 'unknown method'!r} did not train {missing:,}"
            f" of the {len(within):,} candidates; take a full fine-tuning."
        )
    # Of the parameters in question only, since a full fine-tuning holds the whole model.
    there = Selection(base.layout, {name: trained.chosen[name] for name in within.chosen})
    moved = {name: np.abs(_plain(delta.values[name]) - old) for name, old in _pretrained(base, there).items()}
    return Scores(there, moved).restrict(within)


def combined(per_task: Mapping[str, Callable[[], Scores]], scope: str, target: str | None = None) -> Scores:
    """The scores that a mask of this scope is taken from.

    Args:
        per_task: For each task what gives its scores; only what `scope` needs is called, so that ``leave-one-out``
            never reads its target. All are of the same candidates, and none is negated yet.
        scope: ``individual``, the target's own; ``global``, every task's divided by its own sum over the candidates,
            then added; or ``leave-one-out``, the same without the target.
        target: The task that the mask is for; ``global`` needs none.

    Returns:
        The scores.

    Raises:
        UnknownNameError: If there is no such scope, or the target is none of the tasks.
        ConfigError: If there is no target, or no other task than the target.
    """
    if scope not in SCOPES:
        raise UnknownNameError("scope", scope, SCOPES)
    if scope == "global":
        return _shares(per_task, per_task)
    if target is None:
        raise ConfigError(f"A mask of the scope {scope!r} is for one task; name it as the target.")
    if target not in per_task:
        raise UnknownNameError("target task", target, per_task)
    if scope == "individual":
        return per_task[target]()
    return _shares(per_task, [task for task in per_task if task != target])


def _shares(per_task: Mapping[str, Callable[[], Scores]], tasks: Iterable[str]) -> Scores:
    ordered = sorted(tasks)  # so that the sum is the same to the bit, in whatever order the tasks were given
    if not ordered:
        raise ConfigError("There is no task left to take scores from.")
    return reduce(add, (_share(task, per_task[task]()) for task in ordered))


def _share(task: str, scores: Scores) -> Scores:
    try:
        return scores.normalised()
    except SelectionError as error:
        raise SelectionError(f"{task}: {error}") from error


def _pretrained(base: Base, within: Selection) -> dict[str, np.ndarray]:
    parameters = dict(base.model.named_parameters())
    values = {name: _plain(parameters[name]) for name in within.chosen}
    return {name: v if within.is_whole(name) else v[within.indices(name)] for name, v in values.items()}


def _plain(values: Tensor) -> np.ndarray:
    """Values flattened, in float64."""
    plain: np.ndarray = values.detach().reshape(-1).double().cpu().numpy()
    return plain
