"""Methods: named ways to make a selection of a model's pre-trained entries."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from normtune.errors import SelectionError
from normtune.methods.selection import Selection, at, everything, nothing, where
from normtune.models.families import norms_of
from normtune.models.layout import Layout


def full(layout: Layout) -> Selection:
    """Every entry: ordinary fine-tuning."""
    return everything(layout)


def head(layout: Layout) -> Selection:
    """No entry, so that the head alone trains: the control below which nothing counts."""
    return nothing(layout)


def bitfit(layout: Layout) -> Selection:
    """Every bias, those of norms and pooler included (Zaken et al., 2021).

    Raises:
        SelectionError: If the model has no biases.
    """
    return _not_empty(where(layout, lambda place: place.sub == "bias"), "biases")


def layernorm(layout: Layout) -> Selection:
    """The norm that closes each layer, weight and bias: the paper's method; for BERT ``output.LayerNorm``.

    Raises:
        SelectionError: If the family's norms are not known.
    """
    return _components(layout, norms_of(layout).closing)


def attention_layernorm(layout: Layout) -> Selection:
    """The norm of each layer's attention; for BERT ``attention.output.LayerNorm``.

    Raises:
        SelectionError: If the family's norms are not known.
    """
    return _components(layout, norms_of(layout).attention)


def all_layernorm(layout: Layout) -> Selection:
    """Every normalisation of the model, those of the embeddings and at the end included.

    Raises:
        SelectionError: If the model has no normalisation with parameters.
    """
    return _not_empty(where(layout, lambda place: place.norm), "normalisations")


def random(layout: Layout, *, seed: int = 0) -> Selection:
    """As many entries as `layernorm` selects, drawn uniformly without replacement over all pre-trained entries.

    Args:
        layout: The model's parameters, a shared tensor once.
        seed: Seeds the draw.

    Returns:
        The drawn entries.

    Raises:
        SelectionError: If the family's norms are not known.
    """
    size = len(layernorm(layout))
    generator = np.random.default_rng([seed, 0x7A4D])
    return at(layout, generator.choice(layout.size, size=size, replace=False, shuffle=False))


def last_layers(layout: Layout, *, layers: int | None = None) -> Selection:
    """Everything from the last layers up, a pooler included (Lee et al., 2019, "What would ELSA do?").

    Args:
        layout: The model's parameters.
        layers: How many layers; a quarter of them, rounded up, unless given.

    Returns:
        The whole of these layers, and of the pooler where the checkpoint holds one.

    Raises:
        SelectionError: If the model does not have that many layers.
    """
    count = math.ceil(layout.layers / 4) if layers is None else layers
    if not 1 <= count <= layout.layers:
        raise SelectionError(f"last-layers takes 1 to {layout.layers} layers of this model; got {count}.")
    first = layout.layers - count
    return where(
        layout,
        lambda place: place.layer >= first if place.layer is not None else place.component.split(".")[0] == "pooler",
    )


#: Methods by name. `random` also takes a seed and `last-layers` a number of layers.
METHODS: dict[str, Callable[[Layout], Selection]] = {
    "head": head,
    "full": full,
    "bitfit": bitfit,
    "layernorm": layernorm,
    "attention-layernorm": attention_layernorm,
    "all-layernorm": all_layernorm,
    "random": random,
    "last-layers": last_layers,
}


def _components(layout: Layout, names: tuple[str, ...]) -> Selection:
    wanted = set(names)
    return _not_empty(where(layout, lambda place: place.component in wanted), " or ".join(names))


def _not_empty(selection: Selection, what: str) -> Selection:
    if not len(selection):
        raise SelectionError(f"This {selection.layout.model_type!r} model has no {what}.")
    return selection
