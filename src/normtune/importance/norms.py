"""Per-example gradients of normalisations, from fused layers' own backward pass.

A fused layer (`normtune.fast.fused`) is one operation, which knows the gradient of a normalisation's outputs and
what it saw. Where nothing but normalisations of a BERT-like encoder is wanted, that is all that is needed: each
example's rows are added up on the spot, and no gradient of a whole batch is ever formed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from normtune.fast.first_token import can_shorten
from normtune.fast.fused import fusable, fused
from normtune.fast.layer import NORMS, Normalised, fits
from normtune.importance.squares import norm_sums
from normtune.importance.uses import Factor

#: Tokens from which on it pays to lay weights out; laying out and computing both grow with a model's weights.
WORTH = 512


class FusedNorms:
    """The fused encoder of a model, of which `can_fuse` holds, as a source of normalisations' per-example gradients.

    Weights are laid out once, when they are first used, and must not change as long as this is used. The last layer,
    which is computed for the first token alone, is torch's: its normalisations are no part of this.

    Args:
        model: The model, frozen.
        parameters: The parameters wanted, by name.

    Attributes:
        uses: How often each of them that is part of this is used.
    """

    def __init__(self, model: PreTrainedModel, parameters: Mapping[str, nn.Parameter]) -> None:
        self._model = model
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._layers = fusable(model, observe=self._observe)
        self._take: Callable[[str, Factor], None] | None = None
        own = [parameter for layer in _layers(model)[:-1] for parameter in norm_parameters(layer)]
        self._own = [parameter for parameter in own if id(parameter) in self._names]
        self.uses = Counter(self._names[id(parameter)] for parameter in self._own)

    @contextmanager
    def forward(self, take: Callable[[str, Factor], None]) -> Iterator[None]:
        """Within this context the model is computed by fused layers.

        Args:
            take: Told of each use's factor, of shape (examples, width), in the backward pass through it.
        """
        self._take = take
        for parameter in self._own:
            parameter.requires_grad_()
        try:
            with fused(self._model, layers=self._layers):
                yield
        finally:
            for parameter in self._own:
                parameter.requires_grad_(False)

    def _observe(self, seen: Normalised) -> None:
        assert self._take is not None
        normalised = (seen.inputs, seen.mean, seen.scale)
        for parameter, saw in ((seen.norm.bias, None), (seen.norm.weight, normalised)):
            name = self._names.get(id(parameter))
            if name is not None:
                sums = norm_sums(seen.grad, seen.batch.lengths, saw)
                self._take(name, Factor("vector", _in_order(sums, seen.batch.texts)))


def can_fuse(model: PreTrainedModel, parameters: Mapping[str, nn.Parameter], tokens: int) -> bool:
    """Whether `FusedNorms` can give the gradients of all of these, and pays for so many tokens.

    It can where they are vectors of the encoder's normalisations, the family and the device are among those of fused
    layers, and the encoder is untouched: what a user hung on its modules, or put there, would not run.
    """
    if tokens < WORTH or not can_shorten(model):
        return False
    own = {id(parameter) for layer in _layers(model) for parameter in norm_parameters(layer)}
    return (
        all(id(parameter) in own for parameter in parameters.values())
        and all(fits(layer) for layer in _layers(model))
        and all(_is_untouched(module) for module in _encoder(model).modules())
    )


def norm_parameters(layer: Any) -> list[nn.Parameter]:
    """The weights and biases of a layer's normalisations."""
    return [parameter for name, parameter in layer.named_parameters() if name.startswith(NORMS)]


def _in_order(sums: Tensor, texts: Sequence[int]) -> Tensor:
    """Of shape (examples, width), where row i of `sums` is that of example ``texts[i]``."""
    return (
        sums
        if list(texts) == [*range(len(texts))]
        else torch.empty_like(sums).index_copy_(0, torch.tensor(texts), sums)
    )


def _encoder(model: PreTrainedModel) -> Any:
    return model.base_model.encoder


def _layers(model: PreTrainedModel) -> list[Any]:
    return list(_encoder(model).layer)


def _is_untouched(module: nn.Module) -> bool:
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks),
        "forward" in vars(module),
    )
    return not any(hooks) and type(module).__module__.startswith(("torch.nn.", "transformers."))
