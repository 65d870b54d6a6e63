"""Merging: a plain transformers model with a delta in it, which runs without normtune."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from normtune.data.images import Picture
from normtune.data.task import Split
from normtune.deltas.delta import Delta, DeltaInfo
from normtune.errors import DeltaError
from normtune.evaluation import logits
from normtune.files import fresh_folder
from normtune.models.base import Base
from normtune.models.sources import quiet

# A scaled head is checked on these; any texts or pictures do.
_TEXTS = Split.of_texts(("a", "is this so ?"))
_PICTURES = Split({"picture": tuple(Picture("grey", np.full((8, 8), grey, np.uint8)) for grey in (0, 200))})


def merge(delta: Delta, base: Base, folder: str | Path) -> None:
    """Write `base` with `delta` in it as a plain transformers model: all that its base's folder holds.

    The weights are float32 whatever the base's dtype, so no trained value is rounded: a float32 base gives the same
    logits to the bit. A regression's center and scale go into the last layer of the head, so the model answers on the
    targets' own scale.

    Args:
        delta: The delta.
        base: Its base model; it is left as it was.
        folder: Where to write: absent or empty; written whole or not at all.

    Raises:
        DeltaError: If `base` is another model, carries a delta already or is quantised, or the head cannot take a
            regression's scale.
        OutputError: If something is in the folder, or it cannot be written.
    """
    if getattr(base.model, "is_quantized", False):
        raise DeltaError("A quantised base stays quantised; merge into the same model in float32 or bfloat16.")
    with _in_float32(base.model), delta.apply(base, merge=True):
        if is_scaled(delta.info):
            _absorb_scale(base, delta.info)
        with fresh_folder(Path(folder)) as aside:
            _save_model(base.model, aside)
            if base.tokenizer is not None:
                base.tokenizer.save_pretrained(aside)
            if base.reader is not None:
                base.reader.processor.save_pretrained(aside)


def is_scaled(info: DeltaInfo) -> bool:
    """Whether the head's output must be multiplied or shifted to give the answer."""
    return (info.center, info.scale) != (0.0, 1.0)


def _save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write configuration and weights in float32. Saving changes the configuration, so it gets a copy."""
    own, plain = model.config, copy.deepcopy(model.config)
    model.config = plain
    try:
        with quiet():
            model.save_pretrained(folder)
            plain.dtype = torch.float32
            plain.save_pretrained(folder)
    finally:
        model.config = own


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Within this context the floating-point tensors of a model are float32; afterwards they are as they were."""
    before = [(t, t.data) for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    try:
        for tensor, data in before:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in before:
            tensor.data = data


def _absorb_scale(base: Base, info: DeltaInfo) -> None:
    """Make the head on `base` answer on the targets' scale. The head belongs to the delta and is removed with it."""
    cannot = f"The head of {base.name!r} cannot take this delta's scale"
    linears = [m for root in base.roots for m in base.model.get_submodule(root).modules() if isinstance(m, nn.Linear)]
    last = next((linear for linear in reversed(linears) if linear.out_features == info.head.outputs), None)
    if last is None:
        raise DeltaError(f"{cannot}: it does not end in a linear layer.")
    if last.bias is None and info.center:
        raise DeltaError(f"{cannot}: its last layer has no bias that could take the center {info.center:g}.")
    before = _answers(base)
    with torch.no_grad():
        last.weight.copy_(last.weight.double() * info.scale)
        if last.bias is not None:
            last.bias.copy_(last.bias.double() * info.scale + info.center)
    expected = before * info.scale + info.center
    if not np.allclose(_answers(base), expected, rtol=1e-4, atol=1e-4 * abs(info.scale)):
        raise DeltaError(f"{cannot}: its last linear layer does not give its answer.")


def _answers(base: Base) -> np.ndarray:
    return logits(base, base.encode(_TEXTS if base.reads == "text" else _PICTURES, 16)).astype(np.float64)
