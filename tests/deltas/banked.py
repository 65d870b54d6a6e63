"""What the tests of the bank share: a base with many deltas of every kind, and each delta's answers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from normtune.deltas.answers import Text, examples
from normtune.deltas.delta import Delta
from normtune.evaluation import logits
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.methods.trainable import Trainable
from normtune.models.base import Base
from normtune.models.head import HeadSpec

TWO = HeadSpec("classification", ("no", "yes"))
FIVE = HeadSpec("classification", tuple("abcde"))
NUMBER = HeadSpec("regression")
TEXTS = ("the cat sat", "a dog", "one old bird likes the great river and the dull film, not the book", "good ?")


def changed(base: Base, selection: Selection | str, spec: HeadSpec = TWO, seed: int = 0, **info: object) -> Delta:
    """A delta whose values all moved; the base is left as it was."""
    if isinstance(selection, str):
        selection = select(base.layout, selection)
    swap = base.put_head(spec, seed)
    tuning = Trainable(base, selection)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    delta = Delta.capture(tuning, **{"task": f"task-{seed}", **info})
    tuning.undo()
    swap.undo()
    return delta


def alone(base: Base, delta: Delta, text: Text) -> np.ndarray:
    """The outputs for one text with the delta applied to the base, which is left as it was."""
    encoded = base.encode(examples([text], delta.info.as_task), delta.info.max_length)
    with delta.apply(base):
        return logits(base, encoded)[0]


def assert_as_alone(base: Base, deltas: Sequence[Delta], rows: Sequence[np.ndarray], texts: Sequence[Text]) -> None:
    """Every row of a mixed batch is what its delta gives alone, to 1e-5."""
    for row, delta, text in zip(rows, deltas, texts, strict=True):
        np.testing.assert_allclose(row, alone(base, delta, text), rtol=1e-5, atol=1e-5)
