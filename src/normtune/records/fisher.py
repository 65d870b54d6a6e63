"""The complete record of one measurement of Fisher information, as JSON."""

from __future__ import annotations

from typing import Literal

from normtune.config import Strict, Sub
from normtune.errors import ConfigError, known
from normtune.records.run import Norms
from normtune.records.saved import Saved

ESTIMATORS = ("empirical", "exact", "monte-carlo")


class Estimator(Strict):
    """Which labels the gradients are taken at.

    Attributes:
        name: ``empirical``, ``exact`` or ``monte-carlo``.
        samples: For ``monte-carlo``, how many labels are drawn for each example.
        seed: For ``monte-carlo``, seeds the draws of each example, independent of the batches.
    """

    name: str = "empirical"
    samples: int = 1
    seed: int = 0

    def model_post_init(self, _: object) -> None:
        """Check the fields.

        Raises:
            UnknownNameError: If there is no such estimator.
            ConfigError: If the number of samples is not positive, or the seed negative.
        """
        known("estimator", self.name, ESTIMATORS)
        if self.samples < 1:
            raise ConfigError(f"An estimate takes at least 1 sample an example; got {self.samples}.")
        if self.seed < 0:
            raise ConfigError(f"A seed is a whole number from 0; got {self.seed}.")

    @property
    def needs_labels(self) -> bool:
        """Whether it takes the true labels."""
        return self.name == "empirical"


class Tolerance(Strict):
    """When an estimate is stable enough to stop.

    Attributes:
        of: The ``ranking`` of components, the ``mask`` of the top entries, or the ``least-mask`` of the lowest.
        tolerance: Largest share of pairs, or of the mask, in which two halves may differ, error included.
        fraction: For a mask, its fraction of the entries.
        seed: Seeds the order of the examples.
    """

    of: Literal["ranking", "mask", "least-mask"] = "ranking"
    tolerance: float = 0.1
    fraction: float = 0.1
    seed: int = 0

    def model_post_init(self, _: object) -> None:
        """Check the numbers.

        Raises:
            ConfigError: If the tolerance or the fraction is not between 0 and 1.
        """
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"A tolerance is a share from 0 to below 1; got {self.tolerance:g}.")
        if not 0 < self.fraction < 1:
            raise ConfigError(
                f"A mask whose stability is watched is a fraction between 0 and 1; got {self.fraction:g}."
            )


class SplitHalf(Strict):
    """One comparison of two halves of the examples.

    Attributes:
        examples: Examples in both halves together.
        agreement: Mean share in which two halves agree.
        error: Its standard error over the ways to halve the examples.
    """

    examples: int
    agreement: float
    error: float


class Stability(Strict):
    """How an estimate became stable.

    Attributes:
        asked: The tolerance that was asked for.
        reached: Whether it was reached before the examples ran out.
        examples: How many it took.
        available: How many there were.
        looks: Every comparison of halves, in order.
    """

    asked: Tolerance
    reached: bool
    examples: int
    available: int
    looks: tuple[SplitHalf, ...]


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
        dtype: Dtype of the model.
        task: The task's name.
        within: What was summed over, as an expression.
        entries: What was kept entry by entry, as an expression, or None.
        estimator: Which labels the gradients are taken at.
        head_seeds: Seeds of the heads that the information is averaged over.
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
        norms: The family's names for its norms; empty in older records; a guess for an unlisted family.
        suite: The task's suite; empty for the user's own files.
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
        versions: Versions of the libraries.
    """

    id: str
    config: FisherConfig
    base_identity: str
    norms: Norms = Norms()
    suite: str = ""
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
