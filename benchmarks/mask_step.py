"""What a step under a mask costs: against LayerNorm's step, and against the same mask with a dense gradient.

``python benchmarks/fisher.py --parts mask_step`` runs it: about two minutes on two cores. All steps are of MiniLM,
forward, backward and AdamW, with the fast linear layers. ``mask`` draws as many entries as LayerNorm has over the whole
model, so its gradients also go through layer 0's attention and the embeddings; ``mask_above`` draws as many among the
linear weights of the layers above, where no gradient goes deeper than LayerNorm's. ``dense_mask`` trains the entries of
``mask`` the usual way: every parameter that holds one gets its whole gradient, which is then multiplied by the mask.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from harness import alternate, ratio, summary
from torch import Tensor

from normtune.fast.linear import fast_linear
from normtune.methods.expression import select
from normtune.methods.selection import Selection, at, where
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base
from normtune.models.layout import Place

#: Shape of MRPC's batches: 32 pairs of about 53 tokens.
BATCH, TOKENS = 32, 53

Step = Callable[[], None]


def measure(rounds: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Time the steps, which take turns.

    Args:
        rounds: How many steps of each.

    Returns:
        Seconds a step (median, smallest, largest), and the masks' steps' time over LayerNorm's.
    """
    base = load_base("minilm")
    layernorm, mask = select(base.layout, "layernorm"), select(base.layout, "random")
    above = drawn(where(base.layout, _is_linear_above), len(layernorm))
    # Each tuning has its model to itself, so that a step is timed and not the change from one to the other.
    steps = {
        "layernorm": tuned(base, layernorm),
        "mask": tuned(load_base("minilm"), mask),
        "mask_above": tuned(load_base("minilm"), above),
        "dense_mask": dense(load_base("minilm"), mask),
    }
    seconds = alternate(steps, rounds, warmup=2)
    return {f"step_{name}": summary(values) for name, values in seconds.items()}, {
        f"{name}_step_vs_layernorm_step": ratio(seconds[key], seconds["layernorm"])
        for name, key in (("mask", "mask"), ("mask_above", "mask_above"), ("dense_masked", "dense_mask"))
    }


def drawn(within: Selection, count: int) -> Selection:
    """`count` entries of `within`, a selection of whole parameters, each equally likely."""
    layout, start, spans = within.layout, 0, []
    for place in layout.body:
        if within.is_whole(place.parameter):
            spans.append(np.arange(start, start + place.size))
        start += place.size
    return at(layout, np.random.default_rng(0).choice(np.concatenate(spans), count, replace=False))


def tuned(base: Base, selection: Selection) -> Step:
    """A step of `Trainable` on `base`, whose model stays tuned."""
    tuning = Trainable(base, selection)
    optimizer = torch.optim.AdamW(tuning.param_groups(0.01), lr=1e-4, fused=True)
    forward = loss(base)

    def run() -> None:
        with fast_linear():
            forward().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def dense(base: Base, selection: Selection) -> Step:
    """A step of the same entries by whole gradients, multiplied by a mask of ones and zeros."""
    parameters = dict(base.model.named_parameters())
    masks = {}
    for place in selection:
        parameter = parameters[place.parameter].requires_grad_()
        masks[parameter] = torch.zeros(place.size)
        masks[parameter][torch.from_numpy(selection.indices(place.parameter))] = 1
    head = [parameters[place.parameter].requires_grad_() for place in base.layout.head]
    optimizer = torch.optim.AdamW([*masks, *head], lr=1e-4, weight_decay=0, fused=True)
    forward = loss(base)

    def run() -> None:
        with fast_linear():
            forward().backward()
        for parameter, mask in masks.items():
            assert parameter.grad is not None
            parameter.grad.mul_(mask.view(parameter.shape))
        optimizer.step()
        optimizer.zero_grad()

    return run


def loss(base: Base) -> Callable[[], Tensor]:
    """The loss on one batch."""
    ids = torch.randint(1000, 20000, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    labels = torch.arange(BATCH) % 2
    return lambda: torch.nn.functional.cross_entropy(base.model(**inputs).logits, labels)


def _is_linear_above(place: Place) -> bool:
    return len(place.shape) == 2 and place.layer is not None and place.layer > 0
