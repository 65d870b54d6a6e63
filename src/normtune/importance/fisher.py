"""Fisher information of a model's entries on a task: the paper's equation 2, exact and per example.

The Fisher information of an entry is the mean over examples of the squared gradient of log p(y | x), with dropout off.
The log-likelihood is our own: cross entropy without class weights, or a Gaussian of unit variance on the raw label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from normtune.data.encode import Encoded, by_tokens
from normtune.data.task import Task
from normtune.errors import DataError, ImportanceError
from normtune.importance.estimators import passes
from normtune.importance.gradients import PerExample
from normtune.importance.scores import Scores
from normtune.importance.tally import Tally
from normtune.methods.selection import Selection, nothing
from normtune.models.base import Base
from normtune.models.head import HeadSpec
from normtune.models.layout import Place
from normtune.records.fisher import Estimator, Information

#: Most tokens in a batch, padding included, to bound memory whatever the lengths.
TOKENS = {"cpu": 2048, "cuda": 1 << 17}

#: Most padding in a batch, in tokens: beyond it, splitting the batch costs less.
PADDING = {"cpu": 64, "cuda": 1 << 13}


@dataclass(frozen=True)
class Request:
    """Which Fisher information to compute.

    Attributes:
        within: Entries to sum over, per parameter.
        entries: Entries among these whose single values are wanted too; None for none.
        estimator: Which labels to take.
        head_seeds: Seeds of the heads to average over: the head is random before training. None means the head that the
            model has.
        tokens: Most tokens in a batch, padding included; changes memory and speed, but no result.
    """

    within: Selection
    entries: Selection | None = None
    estimator: Estimator = field(default_factory=Estimator)
    head_seeds: tuple[int | None, ...] = (0,)
    tokens: int | None = None

    def __post_init__(self) -> None:
        """Check the request.

        Raises:
            ImportanceError: If `within` is empty, head seeds are missing or repeated, or `entries` are not in `within`.
        """
        if not len(self.within):
            raise ImportanceError("Fisher information of an empty set of entries was asked for.")
        if not self.head_seeds or len(set(self.head_seeds)) < len(self.head_seeds):
            raise ImportanceError("Fisher information takes one or more different head seeds.")
        if self.entries is not None and len(self.entries - self.within):
            raise ImportanceError("The entries whose single values are wanted must be among those summed over.")

    @property
    def single(self) -> Selection:
        """The entries whose single values are wanted."""
        return nothing(self.within.layout) if self.entries is None else self.entries


@dataclass(frozen=True)
class Fisher:
    """Fisher information on one task.

    Attributes:
        by_seed: For each head seed, the sum of the Fisher information over each parameter's entries.
        scores: Fisher information of the single entries requested, or None.
        examples: Numbers of the examples that it is a mean over.
        slow: Parameters that had to be computed example by example.
    """

    by_seed: tuple[Mapping[str, float], ...]
    scores: Scores | None
    examples: np.ndarray
    slow: tuple[str, ...]

    @property
    def totals(self) -> dict[str, float]:
        """For each parameter the sum over its entries, averaged over head seeds."""
        return {name: float(np.mean([own[name] for own in self.by_seed])) for name in self.by_seed[0]}


def fisher(
    base: Base,
    task: Task,
    encoded: Encoded,
    request: Request,
    *,
    examples: np.ndarray | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Fisher:
    """Fisher information on labelled examples.

    Args:
        base: The base model; heads are put on it and taken off again.
        task: The examples' task.
        encoded: The examples.
        request: Which Fisher information to compute.
        examples: Numbers of the examples to take the mean over; all of them by default.
        progress: Called with the number of further examples done; each head seed counts them anew.

    Raises:
        ImportanceError: If a gradient is not finite; the example is named.
        DataError: If there are no examples, or no labels where the estimator needs them.
        ModelError: If the model is not deterministic.
    """
    numbers = np.arange(len(encoded)) if examples is None else np.asarray(examples)
    if not len(numbers):
        raise DataError(f"Task {task.name!r} has no examples to take Fisher information on.")
    estimation = Estimation(base, task, encoded, request)
    return estimation.fisher([estimation.count(seed, numbers, progress) for seed in request.head_seeds], numbers)


class Estimation:
    """The estimation of Fisher information on one task: sums of squared gradients over batches, head seed by head seed.

    Its arguments are those of `fisher`.

    Raises:
        DataError: If there are no labels where the estimator needs them.
    """

    def __init__(self, base: Base, task: Task, encoded: Encoded, request: Request) -> None:
        if request.estimator.needs_labels and encoded.labels is None:
            raise DataError(f"The {request.estimator.name} Fisher information of task {task.name!r} needs labels.")
        self.request = request
        self._base, self._task, self._encoded = base, task, encoded
        # A parameter that is wanted in part is computed whole, entry by entry, and the rest is dropped in the end.
        partial = {name for name in request.within.chosen if not request.within.is_whole(name)}
        self._single = {*request.single.chosen, *partial}
        with self.head(request.head_seeds[0]):
            self._gradients = PerExample(base, request.within.chosen, encoded)

    @contextmanager
    def head(self, seed: int | None) -> Iterator[None]:
        """Put the head of this seed on the model within this context; `add` needs a head."""
        if seed is None:
            yield
            return
        swap = self._base.put_head(HeadSpec(self._task.kind, self._task.labels), seed)
        try:
            yield
        finally:
            swap.undo()

    def tally(self) -> Tally:
        """An empty tally."""
        return Tally(self._gradients.parameters, self._single)

    def batches(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The examples at `numbers` in batches of similar length, of bounded tokens and little padding."""
        device = self._base.device.type
        tokens = self.request.tokens or TOKENS.get(device, TOKENS["cpu"])
        padding = PADDING.get(device, PADDING["cpu"])
        return [numbers[own] for own in by_tokens(self._encoded.lengths[numbers], tokens, padding)]

    def add(self, batch: np.ndarray, tally: Tally) -> None:
        """Add the examples whose numbers are `batch` to `tally`.

        Raises:
            ImportanceError: If a gradient is not finite; the example is named.
        """
        self._gradients.add(batch, self._passes, tally)
        if tally.finite:
            return
        for number in batch:
            alone = self.tally()
            self._gradients.alone(number, self._passes, alone)
            if not alone.finite:
                break
        raise ImportanceError(
            f"The gradient of example {number + 1} of the {len(self._encoded):,} taken of task {self._task.name!r} is"
            " not a finite number;"
            " look at that example, or load the model in float32."
        )

    def count(self, seed: int | None, numbers: np.ndarray, progress: Callable[[int], None]) -> Tally:
        """The sums over the examples at `numbers` for one head seed."""
        with self.head(seed):
            tally = self.tally()
            for batch in self.batches(numbers):
                self.add(batch, tally)
                progress(len(batch))
        return tally

    def fisher(self, tallies: Sequence[Tally], examples: np.ndarray) -> Fisher:
        """Fisher information from each head seed's sums over these examples, in the request's order of seeds."""
        within, single = self.request.within, self.request.single
        return Fisher(
            by_seed=tuple(totals(tally, within) for tally in tallies),
            scores=None if self.request.entries is None else scores(tallies, single),
            examples=examples,
            slow=self._gradients.slow,
        )

    def _passes(self, outputs: Tensor, numbers: np.ndarray) -> Iterator[Tensor]:
        labels = self._encoded.labels
        own = None if labels is None else labels[torch.from_numpy(numbers)].to(outputs.device)
        return passes(self.request.estimator, outputs, self._task, own, numbers.tolist())


def totals(tally: Tally, within: Selection) -> dict[str, float]:
    """The mean over examples, summed over each parameter's entries within a selection."""
    sums, partial = tally.totals(), (name for name in within.chosen if not within.is_whole(name))
    sums.update({name: float(_packed(tally, within, name).sum()) for name in partial})
    return {name: sums[name] / tally.examples for name in within.chosen}


def scores(tallies: Sequence[Tally], single: Selection) -> Scores:
    """Mean over examples, and over tallies, of every entry of a selection."""
    values = {}
    for name in single.chosen:
        each = [_packed(tally, single, name) / tally.examples for tally in tallies]
        # float32, as in a file, so that a mask is the same before saving and after.
        values[name] = (each[0] if len(each) == 1 else np.mean(each, axis=0)).astype(np.float32)
    return Scores(single, values)


def information(within: Selection, by_seed: Sequence[Mapping[str, float]]) -> tuple[Information, ...]:
    """Sums by parameter, one mapping per head seed, as rows of a record."""

    def row(place: Place) -> Information:
        own = tuple(sums[place.parameter] for sums in by_seed)
        return Information(
            component=place.component,
            layer=place.layer,
            sub=place.sub,
            entries=within.count(place.parameter),
            total=sum(own) / len(own),
            by_seed=own,
        )

    return tuple(map(row, within))


def _packed(tally: Tally, selection: Selection, name: str) -> np.ndarray:
    """The sums of the selected entries of a parameter that is tallied entry by entry."""
    flat: np.ndarray = tally.entries[name].flatten().cpu().numpy()
    return flat if selection.is_whole(name) else flat[selection.indices(name)]
