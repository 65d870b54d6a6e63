"""Methods that select entries by the layout alone: some components, some layers, or random entries."""

from __future__ import annotations

import math

import numpy as np

from normtune.errors import SelectionError
from normtune.methods.selection import Selection, at, in_range, where
from normtune.models.families import VALUES, attention_norms, closing_norms, stack
from normtune.models.layout import Layout, Place


def bitfit(layout: Layout) -> Selection:
    """Every bias, those of norms and pooler included (Zaken et al., 2021)."""
    return _not_empty(where(layout, lambda place: place.sub == "bias"), "biases")


def value_bias(layout: Layout) -> Selection:
    """The bias of each attention's values (BEFT, Huang et al. 2025)."""
    biases = (*(f".{name}.bias" for name in VALUES), ".v_bias")
    return _not_empty(where(layout, lambda place: f".{place.parameter}".endswith(biases)), "biases of values")


def layernorm(layout: Layout) -> Selection:
    """The norm that closes each layer, weight and bias: the paper's method; for BERT ``output.LayerNorm``."""
    return _components(layout, closing_norms(layout))


def attention_layernorm(layout: Layout) -> Selection:
    """The norm of each layer's attention; for BERT ``attention.output.LayerNorm``."""
    return _components(layout, attention_norms(layout))


def all_layernorm(layout: Layout) -> Selection:
    """Every normalisation of the model, those of the embeddings and at the end included."""
    return _not_empty(where(layout, lambda place: place.norm), "normalisations")


def batchnorm(layout: Layout) -> Selection:
    """The weight and bias of every BatchNorm (Frankle et al., 2021), as section 6 of the paper proposes.

    Running statistics are not parameters; `normtune.config.Protocol.statistics` says how they are treated.
    """
    return _not_empty(where(layout, lambda place: place.batch), "BatchNorm")


def random(layout: Layout, *, seed: int = 0, option: int | None = None) -> Selection:
    """`option` random pre-trained entries, by default as many as `layernorm` selects.

    The draw is uniform and without replacement; a shared tensor counts once.

    Raises:
        SelectionError: If the model's layers have no norms, or it has fewer entries.
    """
    try:
        size = len(layernorm(layout)) if option is None else option
    except SelectionError as error:
        raise SelectionError(f"random draws as many entries as layernorm has. {error}") from error
    in_range("random", "a number of entries", size, layout.size)
    generator = np.random.default_rng([seed, 0x7A4D])
    return at(layout, generator.choice(layout.size, size=size, replace=False, shuffle=False))


def last_layers(layout: Layout, *, option: int | None = None) -> Selection:
    """The whole of the last layers, and of a pooler in the checkpoint (Lee et al., 2019, "What would ELSA do?").

    These are the last `option` layers of each stack, by default a quarter of them, rounded up.
    """
    if option is not None:
        in_range("last-layers", "a number of layers", option, layout.layers)
    depths: dict[str, int] = {}
    for place in layout.body:
        if place.layer is not None:
            depths[stack(place)] = max(depths.get(stack(place), 0), place.layer + 1)

    def last(place: Place) -> bool:
        if place.layer is None:
            return place.component.split(".")[0] == "pooler"
        depth = depths[stack(place)]
        return place.layer >= depth - (math.ceil(depth / 4) if option is None else option)

    return where(layout, last)


def _components(layout: Layout, names: tuple[str, ...]) -> Selection:
    wanted = set(names)
    return _not_empty(where(layout, lambda place: place.component in wanted), " or ".join(names))


def _not_empty(selection: Selection, what: str) -> Selection:
    if not len(selection):
        raise SelectionError(f"This {selection.layout.model_type!r} model has no {what}.")
    return selection
