"""Prefixes: trained keys and values that the attention of every layer sees before those of the text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from normtune.errors import SelectionError
from normtune.methods.prompts import Tokens, places_of
from normtune.models.base import Base
from normtune.models.families import FUSED, VALUES
from normtune.models.layout import Layout
from normtune.modes import kept_modes

#: The name of `_attend` in transformers, and the attribute of an attention that holds its keys and values.
_ATTENTION, _MARK = "normtune_prefix", "_normtune_prefix"


def prefix_tuning(layout: Layout, *, seed: int = 0, option: int = 10) -> Prefixes:
    """Trained keys and values that every layer's attention sees before the text's (Li and Liang 2021, section 4.2).

    They start as the keys and values of `option` random words (section 7.4), and train directly, without the paper's
    network in between, as by default in PEFT. In a decoder the text's positions start after them; in an encoder they
    have none.
    """
    return Prefixes.of(layout, "prefix-tuning", option, seed)


@final
@dataclass(frozen=True)
class Prefixes(Tokens):
    """Trained keys and values in every layer."""

    @property
    def added(self) -> int:
        """Number of entries of the keys and values."""
        return 2 * self.tokens * sum(self.attentions.values())

    @property
    def positions(self) -> int:
        """In a decoder the text starts after the prefix; in an encoder the prefix has no positions."""
        return self.tokens if self.decoder else 0

    @cached_property
    def attentions(self) -> dict[str, int]:
        """The width of the keys, and of the values, of each layer's attention, by module path.

        Raises:
            SelectionError: If no layer has a matrix for them by a known name.
        """
        found = {}
        for place in self.layout.body:
            path, _, name = place.parameter.removesuffix(".weight").rpartition(".")
            if place.layer is not None and place.sub == "weight" and name in VALUES:
                found[path] = place.shape[0]
            elif name in FUSED and max(place.shape) == 3 * min(place.shape):
                found[path] = min(place.shape)
        if not found:
            raise SelectionError(f"{self.method} finds no values of attention in a {self.layout.model_type!r} model.")
        return found

    def module(self) -> nn.Module:
        """Keys and values of each layer, of shape (2, tokens, width)."""
        return nn.ParameterList(torch.empty(2, self.tokens, width) for width in self.attentions.values())

    def start(self, base: Base, module: nn.Module) -> None:
        """Set the prefix to the keys and values of random words.

        Raises:
            SelectionError: If keys cannot be added to the model's attention.
        """
        seen: list[list[Tensor]] = [[] for _ in self.attentions]
        words = self.words(base)
        with kept_modes(base.model), ExitStack() as once:
            base.model.eval()
            self._attend(base, seen, once)
            for part in words.split(base.positions or self.tokens, 1):  # as many as the model reads at once
                base.model.base_model(input_ids=part, attention_mask=torch.ones_like(part))
        if not all(seen):
            raise SelectionError(f"{self.method} does not reach the attention of a {self.layout.model_type!r} model.")
        for own, keys_and_values in zip(module.parameters(), seen, strict=True):
            own.copy_(torch.cat(keys_and_values, 2).transpose(1, 2).flatten(2))

    def place(self, base: Base, module: nn.Module, undo: ExitStack) -> None:
        """Let each layer's attention see its keys and values."""
        # By index, so that parameters put into the module by `functional_call` are used.
        self._attend(base, [(module, number) for number in range(len(self.attentions))], undo)
        if self.decoder:

            def shifted(_: nn.Module, own: dict[str, Any]) -> dict[str, Any]:
                return {**own, "position_ids": places_of(own["attention_mask"], self.tokens)}

            self.change_inputs(base, shifted, undo)

    def _attend(self, base: Base, own: Sequence[object], undo: ExitStack) -> None:
        """Route the attention of each layer through the function `_attend`, with its element of `own`."""
        config = base.model.config
        if config._attn_implementation != "sdpa":
            raise SelectionError(f"{self.method} needs torch's attention (sdpa), not {config._attn_implementation}.")
        AttentionInterface.register(_ATTENTION, _attend)
        AttentionMaskInterface.register(_ATTENTION, _mask)
        undo.callback(setattr, config, "_attn_implementation", "sdpa")
        config._attn_implementation = _ATTENTION
        for path, values in zip(self.attentions, own, strict=True):
            attributes = vars(base.model.get_submodule(path))
            undo.callback(attributes.pop, _MARK)
            attributes[_MARK] = values


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Compute torch's attention with the module's keys and values before the text's, or collect the text's in a list.

    Query, key and value are of shape (texts, heads, tokens, width); the last two may have fewer heads. The mask, of
    shape (texts, 1, tokens, tokens), is true where a query may attend.
    """
    own = vars(module)[_MARK]
    if isinstance(own, list):
        own.append(torch.cat((key, value)))
    else:
        held, number = own
        beside = held[number].to(key.dtype).unflatten(2, (key.shape[1], -1)).transpose(1, 2)
        key, value = (
            torch.cat((mine.expand(len(text), -1, -1, -1), text), 2)
            for mine, text in zip(beside, (key, value), strict=True)
        )
        if attention_mask is not None:
            attention_mask = nn.functional.pad(attention_mask, (beside.shape[2], 0), value=True)
    found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    return found


def _mask(*args: Any, **more: Any) -> Tensor | None:
    """The mask for torch's attention; a decoder's is always explicit, since torch's causal mask ignores the prefix."""
    return sdpa_mask(*args, **{**more, "allow_is_causal_skip": False})
