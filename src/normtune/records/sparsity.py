"""The record of a pruning: what the score was before and after entries of the matrices became zero, as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from normtune.config import Protocol, Strict
from normtune.records.saved import DevRecord

#: Fraction of the entries, from 0 to below 1.
Sparsity = Annotated[float, Field(ge=0, lt=1)]


class PruneConfig(Strict):
    """What is pruned, and how: everything that a user chooses.

    Attributes:
        model: Hub id, folder or packaged name of the base model.
        delta: The delta on it, where a trained model is pruned.
        suite: The task's suite.
        task: The task's name.
        importances: What entries are ranked by; empty ranks whole structures by their first-order score.
        structure: ``heads`` or ``units``, where whole structures are pruned.
        per: ``row`` takes the same share of every output row; ``set`` ranks all matrices together.
        sparsities: Fractions of the entries that become zero.
        examples: Training examples that importances are measured on.
        retrain: Whether LayerNorm is trained afterwards, with a new head.
        rate: Learning rate for that; None takes LayerNorm's default.
        seed: Seeds the sample, the new head and the retraining.
        protocol: Which examples are scored, and how LayerNorm is retrained.
    """

    model: str
    delta: str | None = None
    suite: str = "glue"
    task: str
    importances: tuple[str, ...] = ()
    structure: str | None = None
    per: str = "row"
    sparsities: tuple[Sparsity, ...]
    examples: int = 128
    retrain: bool = False
    rate: float | None = None
    seed: int = 0
    protocol: Protocol


class PrunePoint(Strict):
    """One pruned model.

    Attributes:
        importance: What the entries were ranked by.
        sparsity: The fraction that was asked for.
        zeros: How many entries became zero.
        of: How many there were to prune from.
        scores: All metrics on dev without any training; None for a model without a trained head.
        retrained: All metrics on dev once LayerNorm is retrained, where it was.
        seconds: Time that it took.
    """

    importance: str
    sparsity: float
    zeros: int
    of: int
    scores: dict[str, float] | None = None
    retrained: dict[str, float] | None = None
    seconds: float


class PruneRecord(DevRecord):
    """Everything about one pruning.

    Attributes:
        config: What the user chose.
        retrained: The scores once LayerNorm is trained on the dense model, where it was.
        points: The pruned models.
    """

    config: PruneConfig
    retrained: dict[str, float] | None = None
    points: tuple[PrunePoint, ...] = ()
