"""Recipes, plain values that describe a mask, and the one function that makes a mask from a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any, Self, TypedDict, get_args

from normtune.config import Strict
from normtune.data.encode import Encoded
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, SelectionError, known
from normtune.importance.activations import transposed
from normtune.importance.masks import Mask, Per, Scope, size_of
from normtune.importance.measurement import MeasuredFisher
from normtune.importance.scores import IMPORTANCES, Inputs, Scores
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.base import Base

SCOPES: tuple[str, ...] = get_args(Scope)

#: Default number of texts of each task for an importance that needs texts: that of Wanda's and SparseGPT's authors.
TEXTS = 128


class MaskRecipe(Strict):
    """The description of a mask to make.

    Attributes:
        importance: What entries are ranked by, a name in IMPORTANCES.
        scope: Whose importance: ``individual``, the target's own; ``global``, every task's divided by its own sum over
            the candidates, then added; ``leave-one-out``, the same without the target. It has no effect if the
            importance is the same for every task.
        tasks: The tasks whose importance may be used.
        target: The task that the mask is for; by default the only one of `tasks`. ``global`` needs none.
        within: The candidates, as an expression.
        fraction: How many of them to take, as a fraction.
        entries: How many, instead of a fraction.
        per: ``set`` compares all candidates, so that the top of the whole set is taken; ``row`` compares those within
            each output row, as Wanda does for pruning, so that every row gives the same share.
        seed: Seeds an importance that draws.
    """

    importance: str = "fisher"
    scope: str = "individual"
    tasks: tuple[str, ...] = ()
    target: str | None = None
    within: str = "layernorm"
    fraction: float | None = None
    entries: int | None = None
    per: str = "set"
    seed: int = 0

    def model_post_init(self, _: object) -> None:
        """Check the fields.

        Raises:
            UnknownNameError: If there is no such importance, scope or comparison.
            ConfigError: If tasks are missing, or given for an importance that is the same for every task.
        """
        known("importance", self.importance, IMPORTANCES)
        known("scope", self.scope, SCOPES)
        known("comparison", self.per, get_args(Per))
        if not self.per_task and (self.tasks or self.target):
            raise ConfigError(f"The importance {self.importance!r} is the same for every task; leave the tasks out.")
        if self.per_task and not self.tasks:
            raise ConfigError(f"The importance {self.importance!r} is measured on tasks; name one or more.")

    @classmethod
    def of(cls, kind: str, **fields: Any) -> Self:
        """The recipe of a kind of mask: ``fisher-leave-one-out``, ``wanda-global``, ``random``, or ``global``.

        Raises:
            UnknownNameError: If there is no such kind.
        """
        importance, scope = kind_of(kind)
        return cls(importance=importance, scope=scope, **fields)

    @property
    def per_task(self) -> bool:
        """Whether the importance depends on the task."""
        return IMPORTANCES[self.importance].needs != "nothing"

    def candidates(self, base: Base) -> Selection:
        """The candidates in a base model, checked to be enough for the size requested.

        Raises:
            SelectionError: If there are none.
            ConfigError: If the size requested is out of range (see `size_of`).
        """
        candidates = select(base.layout, self.within)
        if not len(candidates):
            raise SelectionError(f"There are no candidates: {self.within!r} selects nothing but the head.")
        size_of(len(candidates), self.fraction, self.entries)
        return candidates

    @property
    def target_and_sources(self) -> tuple[str | None, tuple[str, ...]]:
        """The task that the mask is for, if any, and the tasks whose importance is used, sorted.

        For ``leave-one-out`` the target is never among the latter.

        Raises:
            ConfigError: If there is no target where one is needed, or no other task than the target.
            UnknownNameError: If the target is none of the tasks.
        """
        if self.scope == "global" or not self.per_task:
            return None, tuple(sorted(self.tasks))
        target = self.tasks[0] if self.target is None and len(self.tasks) == 1 else self.target
        if target is None:
            raise ConfigError(f"A mask of the scope {self.scope!r} is for one task; name it as the target.")
        known("target task", target, self.tasks)
        if self.scope == "individual":
            return target, (target,)
        if not {*self.tasks} - {target}:
            raise ConfigError("There is no task left to take scores from.")
        return target, tuple(sorted({*self.tasks} - {target}))


def kind_of(kind: str) -> tuple[str, str]:
    """The importance and the scope of a kind of mask.

    A scope alone means Fisher, and an importance alone means ``individual``.

    Raises:
        UnknownNameError: If there is no such kind.
    """
    kinds: dict[str, tuple[str, str]] = {
        **{scope: ("fisher", scope) for scope in SCOPES},
        **{name: (name, "individual") for name in IMPORTANCES},
        **{f"{name}-{scope}": (name, scope) for name in IMPORTANCES for scope in SCOPES},
    }
    return kinds[known("kind of mask", kind, kinds)]


class Sources(TypedDict, total=False):
    """Functions that return what an importance needs of a task (see `Inputs`). Only the needed one is called."""

    fisher: Callable[[str], MeasuredFisher]
    runs: Callable[[str], Sequence[Delta]]
    texts: Callable[[str], Encoded]


def make_mask(base: Base, recipe: MaskRecipe, sources: Sources | None = None) -> Mask:
    """The mask of a recipe, on a base as it was loaded; `sources` provide what its importance needs.

    Raises:
        SelectionError: If there are no candidates, or their scores cannot be combined.
        ConfigError: If the recipe's target or tasks do not fit its scope, or no source gives what the importance needs.
    """
    candidates = recipe.candidates(base)
    importance, (target, tasks) = IMPORTANCES[recipe.importance], recipe.target_and_sources
    facts: dict[str, Any] = {"seed": recipe.seed} if importance.seeded else {}
    source: Any = dict(sources or {}).get(importance.needs)

    def of_task(task: str) -> Scores:
        """The scores of one task; adds to `facts` how they were measured."""
        found = source(task)
        if isinstance(found, MeasuredFisher):
            config = found.record.config
            facts["examples"][task] = found.record.examples
            facts.update(estimator=config.estimator.name, head_seeds=config.head_seeds)
            found = found.scores
        elif importance.needs == "texts":
            facts["examples"][task] = len(found)
        return importance.scores(Inputs(base, candidates, recipe.seed, **{importance.needs: found}))

    if not recipe.per_task:
        scores = importance.scores(Inputs(base, candidates, recipe.seed))
    elif source is None:
        raise ConfigError(f"The importance {recipe.importance!r} needs {importance.needs}, and nothing gives it.")
    else:
        facts |= {"scope": recipe.scope, "tasks": tasks, "target": target, "examples": {}}
        each = ((task, of_task(task)) for task in tasks)
        scores = next(each)[1] if recipe.scope == "individual" else combined(each)
    scores = -scores if importance.least else scores
    if recipe.per == "row":
        scores = scores.by_row(transposed(base.model))
    facts |= recipe.model_dump(include={"importance", "within", "per"})
    return Mask.make(base, scores, fraction=recipe.fraction, entries=recipe.entries, **facts)


def combined(by_task: Iterable[tuple[str, Scores]]) -> Scores:
    """Every task's scores divided by their own sum over the candidates, then added, in the order given.

    Raises:
        SelectionError: If a task's scores add up to nothing, or are of other candidates.
    """

    def share(task: str, scores: Scores) -> Scores:
        try:
            return scores.normalised()
        except SelectionError as error:
            raise SelectionError(f"{task}: {error}") from error

    return reduce(add, (share(task, scores) for task, scores in by_task))
