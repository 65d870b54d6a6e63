"""The paper's eight claims, judged by what was measured: one rule for all of them.

Each claim says that something is larger than something else, or no worse than it. Both are measured on the same tasks
and seeds, so what is judged is the mean of their differences over tasks, with an interval over tasks and seeds.
A claim is confirmed where the whole interval is on its side, refuted where the whole interval is on the other, and
undecided otherwise: few tasks or a wide spread decide nothing. A claim of two parts needs both and falls with either.
Claims about scores are judged once more on the tasks clear of their floor: where no method scores more than one answer
for all, none can be better.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, variance
from typing import Literal

import numpy as np

from normtune.statistics.paired import LEAST, mean_interval, mean_squares

Verdict = Literal["confirmed", "refuted", "undecided"]
EvidenceKind = Literal["ratio", "difference"]

#: A difference of scores below it counts as none.
MARGIN = 0.01
#: Simulated studies, which tell how often a number of tasks decides to about two in a hundred.
_DRAWS = 400


@dataclass(frozen=True)
class Evidence:
    """What is measured for a claim, or for a part of it.

    Attributes:
        name: What it is, in words.
        kind: ``ratio``: natural logarithms of a ratio, which the claim says is above 1. ``difference``: differences of
            scores, which the claim says are above minus `margin`.
        values: By task, a value for each seed.
        margin: By how much a difference may be negative.
        left_out: Tasks that lack runs for it.
        floored: Tasks on which neither method is clear of what one answer for all scores.
    """

    name: str
    kind: EvidenceKind
    values: Mapping[str, Sequence[float]]
    margin: float = 0.0
    left_out: tuple[str, ...] = ()
    floored: tuple[str, ...] = ()

    @property
    def clear(self) -> Evidence:
        """The same evidence on only the tasks clear of their floor."""
        return replace(self, values={task: each for task, each in self.values.items() if task not in self.floored})

    @property
    def seeds(self) -> int:
        """The fewest seeds of any task."""
        return min((len(each) for each in self.values.values()), default=0)

    @property
    def mean(self) -> float | None:
        """The mean over tasks: a ratio, or a difference."""
        return self._shown(self._average) if self.values else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval; None with fewer tasks than a test needs."""
        if len(self.values) < LEAST:
            return None
        low, high = mean_interval([np.array(each) for each in self.values.values()])
        return self._shown(low), self._shown(high)

    @property
    def verdict(self) -> Verdict:
        """The verdict on this part."""
        interval = self.interval
        if interval is None:
            return "undecided"
        bound = self._shown(-self.margin)
        return "confirmed" if interval[0] > bound else "refuted" if interval[1] < bound else "undecided"

    @property
    def agreeing(self) -> int:
        """On how many tasks the mean over seeds is on the claim's side."""
        return sum(_rounded(mean(each) + self.margin) > 0 for each in self.values.values())

    def takes(self) -> int | None:
        """How many tasks like these, more than there are but with as many seeds, would decide it four times in five.

        Studies are simulated from normal distributions with the measured mean and the measured variances of tasks, of
        what seeds share, and of the rest.

        Returns:
            The tasks; None where a thousand are not enough, or the spread is not known.
        """
        away = _rounded(abs(self._average + self.margin)) if self.values else 0.0
        if len(self.values) < LEAST or self.seeds < 2 or away == 0:
            return None
        each, k = [*self.values.values()], self.seeds
        rest = shared = mean(map(variance, each))
        of_tasks = k * variance(map(mean, each))
        if same := all(len(own) == k for own in each):
            of_tasks, shared, rest = map(float, mean_squares(np.array(each)))
        spreads = np.sqrt(np.fmax([(of_tasks - rest) / k, (shared - rest) / len(each), rest], 0))

        def decides(tasks: int) -> bool:
            normal = np.random.default_rng(0).standard_normal
            shapes = (_DRAWS, tasks, 1), (_DRAWS, 1, k), (_DRAWS, tasks, k)
            drawn = away + sum(spread * normal(shape) for spread, shape in zip(spreads, shapes, strict=True))
            low, _ = mean_interval(drawn if same else drawn.mean(-1, keepdims=True))
            return float(np.mean(low > 0)) >= 0.8

        sizes = range(len(each) + 1, 1001)
        place = bisect_left(sizes, True, key=decides)
        return sizes[place] if place < len(sizes) else None

    @property
    def _average(self) -> float:
        return mean(mean(each) for each in self.values.values())

    def _shown(self, value: float) -> float:
        if self.kind == "difference":
            return _rounded(value)
        return math.exp(value) if value < 30 else math.inf  # nothing of the one part was measured


def _rounded(difference: float) -> float:
    """A difference of scores without the rounding of floats, which must not decide at exactly the margin."""
    return round(float(difference), 12)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        text: What is claimed.
        where: Where in the paper.
        parts: Names of what is measured for it (`normtune.report.evidence`).
    """

    text: str
    where: str
    parts: tuple[str, ...]

    def judged(self, parts: Sequence[Evidence]) -> Verdict:
        """The verdict on it from the evidence, which may lack some of its parts."""
        verdicts = {part.verdict for part in parts}
        if "refuted" in verdicts:
            return "refuted"
        return "confirmed" if len(parts) == len(self.parts) and verdicts == {"confirmed"} else "undecided"


CLAIMS = (
    Claim("output.LayerNorm changes most in full fine-tuning", "figure 1", ("change",)),
    Claim(
        "output.LayerNorm has the largest mean Fisher information, attention.output.LayerNorm the second",
        "table 1",
        ("first", "second"),
    ),
    Claim("LayerNorm alone is comparable with full fine-tuning and BitFit", "tables 2, 3", ("full", "bitfit")),
    Claim("Random entries of the same number are worse", "tables 2, 3", ("random",)),
    Claim("A small fraction of LayerNorm is enough, f = 0.1", "figure 2", ("fraction",)),
    Claim("Later layers carry more information", "figures 3, 4", ("layers",)),
    Claim("The bias carries more information than the weight", "figures 3, 4", ("bias",)),
    Claim("Global and leave-one-out masks do as well as individual ones", "figure 5", ("global", "left-out")),
)
