"""The record of an ablation: what the score loses when parts of a model are switched off, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from normtune.config import Protocol, Strict
from normtune.records.saved import DevRecord

#: ``model``: the same dimensions in every layer. ``layer``: each layer's own.
RankedOver = Literal["model", "layer"]
PERS: tuple[RankedOver, ...] = get_args(RankedOver)


class AblationConfig(Strict):
    """What is switched off, and what it is compared with: everything that a user chooses.

    Attributes:
        model: Hub id, folder or packaged name of the base model.
        delta: The delta on it; empty for a language model as it is.
        suite: The task's suite; empty for the user's own text file.
        task: The task's name.
        parts: Expressions for what is switched off as a whole: components, sub-components, layers.
        norm: The norms whose dimensions are switched off, as an expression.
        dimensions: How many dimensions are switched off at once.
        per: What the dimensions are ranked over.
        draws: Random draws that each is compared with.
        seed: Seeds the draws.
        protocol: Which examples are scored.
    """

    model: str
    delta: str
    suite: str = "glue"
    task: str
    parts: tuple[str, ...] = ()
    norm: str = "layernorm"
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = ()
    per: tuple[RankedOver, ...] = ("model",)
    draws: Annotated[int, Field(ge=0)] = 5
    seed: int = 0
    protocol: Protocol


class AblationPoint(Strict):
    """One part that was switched off.

    Attributes:
        part: The expression that selects it, or the norms.
        dimensions: How many dimensions of the norms; None for a whole part.
        per: What they were ranked over.
        positions: Which dimensions, the largest first, where they are the same in every layer.
        entries: How many entries were switched off.
        scores: All metrics on dev without them.
        random: The same for each draw of as many random dimensions or entries.
        seconds: Time that it took.
    """

    part: str
    dimensions: int | None = None
    per: RankedOver | None = None
    positions: tuple[int, ...] | None = None
    entries: int
    scores: dict[str, float]
    random: tuple[dict[str, float], ...] = ()
    seconds: float

    @property
    def name(self) -> str:
        """What was switched off, in words."""
        if self.dimensions is None:
            return self.part
        own = ", each layer's own" if self.per == "layer" else ""
        return f"{self.dimensions} dimension{'s' * (self.dimensions > 1)} of {self.part}{own}"


class AblationRecord(DevRecord):
    """Everything about one ablation.

    Attributes:
        config: What the user chose.
        points: What was switched off.
    """

    config: AblationConfig
    points: tuple[AblationPoint, ...] = ()

    @property
    def shown(self) -> int:
        """Factor with which its scores are shown: 100, or 1 for a log-likelihood."""
        return 1 if self.primary == "log_likelihood" else 100

    def loss(self, scores: dict[str, float]) -> float:
        """The drop of the task's primary metric from the whole model's scores to these."""
        assert self.dense is not None
        return self.dense[self.primary] - scores[self.primary]
