"""The record of an ablation: what the score loses when parts of a model are switched off, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from normtune.config import Protocol, Strict
from normtune.records.saved import DevRecord

#: ``model``: the same dimensions in every layer. ``layer``: each layer's own.
Per = Literal["model", "layer"]
PERS: tuple[Per, ...] = get_args(Per)


class AblationConfig(Strict):
    """What is switched off, and what it is compared with: everything that a user chooses.

    Attributes:
        model: Hub id, folder or packaged name of the base model.
        delta: The delta on it; empty for a language model as it is.
        suite: The suite that the task is of; empty for a text file of the user's own.
        task: The task's name.
        parts: Expressions for what is switched off as a whole: components, sub-components, layers.
        norm: The norms whose dimensions are switched off, as an expression.
        dimensions: How many of them at once.
        per: Over what these are ranked.
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
    per: tuple[Per, ...] = ("model",)
    draws: Annotated[int, Field(ge=0)] = 5
    seed: int = 0
    protocol: Protocol


class AblationPoint(Strict):
    """One part that was switched off.

    Attributes:
        part: The expression that names it, or that of the norms.
        dimensions: How many dimensions of these, where it is no whole part.
        per: Over what they were ranked.
        positions: Which they are, where they are the same in every layer, the largest first.
        entries: How many entries were switched off.
        scores: All metrics on dev without them.
        random: The same for each draw of as many random dimensions or entries.
        seconds: Time that it took.
    """

    part: str
    dimensions: int | None = None
    per: Per | None = None
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
        """What its scores are multiplied by in print: 100, but a log-likelihood is shown as it is."""
        return 1 if self.primary == "log_likelihood" else 100

    def loss(self, scores: dict[str, float]) -> float:
        """What the task's first metric loses from the whole model's to these scores."""
        assert self.dense is not None
        return self.dense[self.primary] - scores[self.primary]
