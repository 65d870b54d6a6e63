"""The complete record of one measurement of Fisher information, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from normtune.config import Strict
from normtune.importance.estimators import Estimator
from normtune.importance.tolerance import Stability, Tolerance
from normtune.models.components import Sub
from normtune.saved import Saved
from normtune.selection.selection import Selection


class Information(Strict):
    """Fisher information of one parameter.

    Attributes:
        component: The component it belongs to.
        layer: Number of its layer from 0, or None outside the layers.
        sub: Its sub-component.
        entries: How many of its entries were summed over.
        total: The sum of their Fisher information: the mean over head seeds.
        by_seed: The same for each head seed.
    """

    component: str
    layer: int | None
    sub: Sub
    entries: int
    total: float
    by_seed: tuple[float, ...]


class FisherConfig(Strict):
    """What Fisher information is measured on, and how: everything that a user chooses.

    Attributes:
        model: Hub id, folder or packaged name.
        revision: Commit on the hub or version of the package, where there is one.
        dtype: Of the model.
        task: The task's name.
        within: What was summed over, as an expression.
        entries: What was kept entry by entry, as an expression, or None.
        estimator: With which labels.
        head_seeds: Seeds of the heads that it is averaged over.
        max_length: Limit in tokens.
        examples: Largest number of examples, a seeded sample; None takes all.
        sample_seed: Seeds the sample.
        stable: When to stop adding examples; None takes all of the sample.
    """

    model: str
    revision: str | None = None
    dtype: str = "float32"
    task: str
    within: str = "full"
    entries: str | None = None
    estimator: Estimator = Estimator()
    head_seeds: tuple[int, ...] = (0,)
    max_length: int = 128
    examples: int | None = None
    sample_seed: int = 0
    stable: Tolerance | None = None


class FisherRecord(Saved):
    """Everything about one measurement of Fisher information.

    Attributes:
        id: Fingerprint of all that changes a number.
        config: What the user chose.
        base_identity: Content hash of the base model.
        selection: Fingerprint of what was summed over.
        source: Where the data was read from: the folder's or the hub's name.
        examples: Examples that it is a mean over.
        available: Examples that the training split holds.
        identity: Content hash of the examples that could be taken.
        truncated: How many of these were cut to the limit of tokens.
        information: One entry a parameter, in the model's order.
        stability: How it became stable, where that was asked for.
        slow: Parameters that had to be computed example by example.
        seconds: Time that it took.
        machine: What it ran on.
        versions: With which libraries.
    """

    id: str
    config: FisherConfig
    base_identity: str
    selection: str
    source: str
    examples: int
    available: int
    identity: str
    truncated: int
    information: tuple[Information, ...]
    stability: Stability | None = None
    slow: tuple[str, ...] = ()
    seconds: float
    machine: dict[str, str | int]
    versions: dict[str, str]


def information(within: Selection, by_seed: Sequence[Mapping[str, float]]) -> tuple[Information, ...]:
    """Sums by parameter, one mapping a head seed, as entries of a record."""
    rows = []
    for place in within:
        own = tuple(sums[place.parameter] for sums in by_seed)
        rows.append(
            Information(
                component=place.component,
                layer=place.layer,
                sub=place.sub,
                entries=within.count(place.parameter),
                total=sum(own) / len(own),
                by_seed=own,
            )
        )
    return tuple(rows)
