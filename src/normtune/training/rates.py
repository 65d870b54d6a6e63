"""Learning rates: a grid for each method and model size, and a default.

For wide models the grids are the paper's, for BERT-large. A narrow model needs higher rates: those grids were found on
MiniLM (384 wide) with the same effort for each method, rates half a decade apart on STS-B; the records are in
``results/runs`` and ``docs/rates.md`` says how they were read. A user's own selection takes the grid of full
fine-tuning or of LayerNorm, by the number of its entries.
"""

from __future__ import annotations

from normtune.methods.method import METHODS, named
from normtune.methods.trainable import Spec
from normtune.models.layout import Layout

#: Models with a smaller hidden size are narrow and use the measured grids; others use the paper's.
NARROW_BELOW = 512


def grid(method: str | None, spec: Spec, width: int) -> tuple[float, ...]:
    """The rates to try for a method's name, an expression or, where `method` is None, a mask, on a model of `width`.

    Returns:
        The rates in the order in which a shorter search takes them, the default first: the method's own; for an
        expression or a mask those of full fine-tuning where it trains more than one entry in a hundred, else
        LayerNorm's; for an empty mask the head's.
    """
    if method is None:
        method = "" if len(spec) else "head"
    known = named(method) or METHODS["full" if spec.share > 0.01 else "layernorm"]
    return known.narrow if width < NARROW_BELOW else known.wide


def width_of(layout: Layout) -> int:
    """The model's hidden size: the commonest length of its vectors' last dimension, norms before others."""
    sizes = [place.shape[-1] for place in layout.body if place.norm] or [place.shape[-1] for place in layout.body]
    return max(set(sizes), key=sizes.count)
