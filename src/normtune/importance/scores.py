"""Scores, one number for every entry of a set of candidates, and IMPORTANCES, the table of ways to compute them.

To add an importance, write a function from `Inputs` to `Scores` and its line in IMPORTANCES. `normtune mask`, `normtune
study --masks` and the names of masks take it from there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import add
from typing import Literal

import numpy as np
from torch import Tensor

from normtune.data.encode import Encoded
from normtune.deltas.delta import Delta
from normtune.errors import ModelError, SelectionError
from normtune.importance import surgeon
from normtune.importance.activations import feature_norms
from normtune.methods.selection import Selection
from normtune.models.base import Base


@dataclass(frozen=True, eq=False)
class Scores:
    """How much each candidate matters, by some importance.

    Attributes:
        within: The candidates.
        values: For each parameter with candidates one number per candidate, float64, in the order of `within.indices`.
    """

    within: Selection
    values: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        """Check that there is one finite number for every candidate, and make them read-only.

        Raises:
            SelectionError: If they are missing, too many or too few, not finite, or of a parameter without candidates.
        """
        names = self.within.chosen.keys()
        for name in names - self.values.keys():
            raise SelectionError(f"{name!r} has candidates but no scores.")
        for name in self.values.keys() - names:
            raise SelectionError(f"{name!r} has scores but no candidates.")
        tidy = {name: _tidy(name, self.values[name], self.within.count(name)) for name in names}
        object.__setattr__(self, "values", tidy)

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.within)

    def normalised(self) -> Scores:
        """The scores divided by their own sum over all candidates, so that they add up to 1.

        Raises:
            SelectionError: If that sum is zero, negative or not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(np.sum([values.sum() for values in self.values.values()]))
        if not 0 < total < np.inf:
            raise SelectionError(f"Scores that add up to {total:g} cannot be divided by their sum.")
        return Scores(self.within, {name: values / total for name, values in self.values.items()})

    def __add__(self, other: Scores) -> Scores:
        """The sum of two scores of the same candidates.

        Raises:
            SelectionError: If the candidates differ.
        """
        if self.within != other.within:
            raise SelectionError("Scores of different candidates cannot be added.")
        return Scores(self.within, {name: values + other.values[name] for name, values in self.values.items()})

    def __neg__(self) -> Scores:
        """The scores negated, so that the top is what had the lowest."""
        return Scores(self.within, {name: -values for name, values in self.values.items()})

    def by_row(self, columns: Collection[str] = ()) -> Scores:
        """The rank of each candidate in its output row, from 0 to 1, so that a mask takes equal shares of all rows.

        The highest of n candidates in a row gets 1 - 1 / 2n, the next 1 - 3 / 2n, and so on; of equal ones the first
        ranks higher. A parameter of one dimension is one row; for those in `columns`, which are stored with their
        inputs first, the columns are the rows.
        """
        ranked = {}
        for place in self.within:
            values, at = self.values[place.parameter], self.within.indices(place.parameter)
            width = place.shape[0] if len(place.shape) == 1 else prod(place.shape[1:])
            rows = at % width if place.parameter in columns else at // width
            order = np.lexsort((at, -values, rows))
            starts, counts = np.unique(rows[order], return_index=True, return_counts=True)[1:]
            rank = np.arange(order.size) - np.repeat(starts, counts)
            own = ranked[place.parameter] = np.empty(order.size)
            own[order] = 1 - (rank + 0.5) / np.repeat(counts, counts)
        return Scores(self.within, ranked)


def _tidy(name: str, values: np.ndarray, count: int) -> np.ndarray:
    tidy = np.asarray(values, np.float64).view()
    if tidy.shape != (count,):
        raise SelectionError(f"The scores of {name!r} have the shape {tidy.shape}, its candidates ({count},).")
    if not np.isfinite(tidy).all():
        first = int(np.flatnonzero(~np.isfinite(tidy))[0])
        raise SelectionError(f"The scores of {name!r} are not finite: number {first} of {count:,} is {tidy[first]}.")
    tidy.flags.writeable = False
    return tidy


#: What an importance is computed from: nothing but the model; or, for each task, a measurement of Fisher information,
#: runs that trained the candidates, or a sample of the task's training texts.
Needs = Literal["nothing", "fisher", "runs", "texts"]


@dataclass(frozen=True)
class Inputs:
    """What an importance is computed from: the model, and what it needs of one task.

    Attributes:
        base: The base model, as it was loaded.
        within: The candidates.
        seed: Seeds a draw.
        fisher: The task's Fisher information of every candidate.
        runs: The deltas of runs on the task, such as full fine-tunings.
        texts: A sample of the task's training texts.
    """

    base: Base
    within: Selection
    seed: int = 0
    fisher: Scores | None = None
    runs: tuple[Delta, ...] = ()
    texts: Encoded | None = None


@dataclass(frozen=True)
class Importance:
    """A way to score entries.

    Attributes:
        about: A description in one line.
        needs: What it is computed from.
        scores: Computes the scores; the field of `Inputs` that it needs is set.
        least: Whether a mask takes the lowest scores.
        estimator: The default estimator of the Fisher information that it needs.
        update: For pruning that also changes what stays: zeroes entries of matrices, and adjusts others to compensate.
        seeded: Whether it draws, if only the sample of texts.
    """

    about: str
    needs: Needs
    scores: Callable[[Inputs], Scores]
    least: bool = False
    seeded: bool = False
    estimator: str = "empirical"
    update: Callable[[Inputs, Selection], None] | None = None


def fisher(given: Inputs) -> Scores:
    """Fisher information of every candidate.

    Raises:
        SelectionError: If it is that of other entries.
    """
    if given.fisher is None or given.fisher.within != given.within:
        raise SelectionError("The Fisher information is of other entries than the candidates.")
    return given.fisher


def obd(given: Inputs) -> Scores:
    """Half the curvature of -log p(y | x) times the square of the value: Optimal Brain Damage (LeCun et al. 1989).

    This is their saliency (section 2.3): the rise in loss when the entry becomes zero, to second order, with a diagonal
    Hessian. The exact Fisher information is the diagonal of the Gauss-Newton matrix, which they use.
    """
    values = magnitude(given).values
    return Scores(given.within, {name: own * values[name] ** 2 / 2 for name, own in fisher(given).values.items()})


def obs(given: Inputs) -> Scores:
    """The rise in a layer's squared error without the candidate, with the rest of its row readjusted.

    This is the saliency w^2 / 2 [H^-1] of Optimal Brain Surgeon (Hassibi and Stork 1993, equation 5), with the Hessian
    of each layer's own outputs over the sample, as in SparseGPT (Frantar and Alistarh 2023, equation 3). For norms,
    biases and embeddings, whose Hessian is diagonal, it is the square of `wanda`.
    """
    assert given.texts is not None
    curvature = surgeon.freed_curvatures(given.base, given.texts, given.within.chosen)
    values = {name: v**2 * curvature[name][given.within.indices(name)] for name, v in magnitude(given).values.items()}
    return Scores(given.within, values)


def magnitude(given: Inputs) -> Scores:
    """|pre-trained| of every candidate."""
    parameters, within = dict(given.base.model.named_parameters()), given.within
    return Scores(within, {name: np.abs(_plain(parameters[name]))[within.indices(name)] for name in within.chosen})


def random_scores(within: Selection, seed: int = 0) -> Scores:
    """A uniform draw for every candidate, seeded, so that a mask is a draw without replacement."""
    generator = np.random.default_rng([seed, 0x5C0E])
    return Scores(within, {place.parameter: generator.random(within.count(place.parameter)) for place in within})


def change(given: Inputs) -> Scores:
    """|fine-tuned - pre-trained| of every candidate, added over runs that trained all of them.

    Raises:
        SelectionError: If a run did not train one of them.
    """
    return reduce(add, (_moved(given.base, given.within, delta) for delta in given.runs))


def wanda(given: Inputs) -> Scores:
    """|pre-trained| times the L2 norm of the entry's input over the sample, all tokens together (Sun et al., 2024).

    The input of a linear weight's entry is the feature that it multiplies, as in the paper, which scores nothing else.
    Here a norm's weight multiplies the normalised feature, a bias is multiplied by one, and a row of an embedding by
    one for each token that looks it up (see `normtune.importance.activations`).
    """
    assert given.texts is not None
    norms = feature_norms(given.base, given.texts, given.within.chosen)
    values = {name: v * norms[name][given.within.indices(name)] for name, v in magnitude(given).values.items()}
    return Scores(given.within, values)


#: Importances by name.
IMPORTANCES: dict[str, Importance] = {
    "fisher": Importance("Fisher information, the highest (the paper)", "fisher", fisher),
    "least-fisher": Importance("Fisher information, the lowest", "fisher", fisher, least=True),
    "change": Importance("how far the entry moved in full fine-tunings", "runs", change),
    "magnitude": Importance("the size of the pre-trained value", "nothing", magnitude),
    "wanda": Importance(
        "the size of the value times the norm of its input (Sun et al., 2024)", "texts", wanda, seeded=True
    ),
    "obd": Importance(
        "half the curvature times the square of the value (LeCun et al., 1989)", "fisher", obd, estimator="exact"
    ),
    "obs": Importance(
        "what the layer's error rises by without the entry (Hassibi and Stork, 1993)",
        "texts",
        obs,
        seeded=True,
        update=lambda given, gone: surgeon.prune(given.base, given.texts, gone),
    ),
    "random": Importance("a draw", "nothing", lambda given: random_scores(given.within, given.seed), seeded=True),
}


def _moved(base: Base, within: Selection, delta: Delta) -> Scores:
    trained = delta.selection(base)
    missing = len(within - trained)
    if missing:
        raise SelectionError(
            f"The run of {delta.info.method or 'unknown method'!r} did not train {missing:,}"
            f" of the {len(within):,} candidates; take a full fine-tuning."
        )
    parameters, moved = dict(base.model.named_parameters()), {}
    for name in within.chosen:
        old, at = _plain(parameters[name]), trained.indices(name)
        change = np.zeros_like(old)
        change[at] = np.abs(_plain(delta.values[name]) - old[at])
        moved[name] = change[within.indices(name)]
    return Scores(within, moved)


def _plain(values: Tensor) -> np.ndarray:
    """Values flattened, in float64.

    Raises:
        ModelError: If they are codes of a quantised matrix.
    """
    if not values.is_floating_point():
        raise ModelError("The size of a quantised entry is not known; load the model in bfloat16 or float32.")
    plain: np.ndarray = values.detach().reshape(-1).double().cpu().numpy()
    return plain
