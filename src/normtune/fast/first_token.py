"""The last layer computed for the first token alone, since the heads of BERT-like families read no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from normtune.fast.dropout import dropout
from normtune.fast.modules import is_changed, is_library, is_plain, replaced

#: Families whose encoder is ``embeddings`` and a list of layers that each end in ``output.LayerNorm``.
BERTS = ("bert", "roberta", "xlm-roberta", "camembert")


def reads_first_token(config: PretrainedConfig) -> bool:
    """Whether `first_token` can replace the last layer of a classifier with this configuration."""
    return config.model_type in BERTS and not config.is_decoder and config._attn_implementation == "sdpa"


def classifies_texts(model: PreTrainedModel) -> bool:
    """Whether the head answers for a whole text, and head and body are a library's: others may read more tokens."""
    around = (model, *model.children(), *model.base_model.children())
    return all(map(is_library, around)) and "ForSequenceClassification" in type(model).__name__


def first_token(layer: Any, hidden: Tensor, mask: Tensor | None = None, *_: object, **__: object) -> Tensor:
    """A layer's output, of shape (batch, 1, width), for each example's first token, which attends to all tokens.

    `hidden` is of shape (batch, tokens, width); `mask` is as `scaled_dot_product_attention` takes it. In training mode
    dropout is on.
    """
    own, first = layer.attention.self, hidden[:, :1]

    def heads(values: Tensor) -> Tensor:
        split: Tensor = values.unflatten(2, (own.num_attention_heads, -1))
        return split.transpose(1, 2)

    seen = torch.nn.functional.scaled_dot_product_attention(
        heads(own.query(first)),
        heads(own.key(hidden)),
        heads(own.value(hidden)),
        attn_mask=None if mask is None else mask[:, :, :1],
        dropout_p=own.dropout.p if own.dropout.training else 0.0,
        scale=own.scaling,
    )
    output: Tensor = layer.feed_forward_chunk(layer.attention.output(seen.transpose(1, 2).flatten(2), first))
    return output


def can_shorten(model: PreTrainedModel) -> bool:
    """Whether `shortened` keeps the outputs: the family reads the first token, and the last layer is unchanged.

    `first_token` calls the parts of the layer's attention itself, so a hook on the layer or attention would not run.
    """
    if not (reads_first_token(model.config) and classifies_texts(model)):
        return False
    last, body = last_of(model), cast(Any, model.base_model)
    if sum(layer is last for layer in body.encoder.layer) > 1:
        return False  # layers that are one module: none of them is only the last
    return not any(is_changed(module) for module in (last, last.attention, last.attention.self))


def shorter_layer(model: PreTrainedModel) -> Callable[..., Tensor] | None:
    """The fastest function that can replace the last layer of `model`, if any: `last_layer` or `first_token`."""
    if not can_shorten(model):
        return None
    return last_layer if is_plain(last_of(model)) else first_token


@contextmanager
def shortened(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the last layer is computed for the first token alone; `model` must pass `can_shorten`."""
    last = last_of(model)
    with replaced(last, partial(first_token, last)):
        yield


def last_of(model: PreTrainedModel) -> Any:
    """The last layer of a BERT-like model."""
    body: Any = model.base_model
    return body.encoder.layer[-1]


def last_layer(layer: Any, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Like `first_token`, for a plain layer, with projections for each example rather than for each of its tokens.

    The first token's query q scores a token's hidden state h by q . (K h) = (K' q) . h, and its sum of values is
    V (sum of p h), so keys and values of the other tokens are never computed. `mask`, of shape (batch, 1, 1, tokens),
    is added to scores. In training mode dropout is on, from the fast generator on a CPU.
    """
    own, first = layer.attention.self, hidden[:, 0]
    heads = own.num_attention_heads
    key, value = (module.weight.unflatten(0, (heads, -1)) for module in (own.key, own.value))
    # A query is of shape (heads, batch, width of a head), a key's bias (heads, width of a head, 1).
    query = own.query(first).view(len(hidden), heads, -1).transpose(0, 1)
    alike = (query @ own.key.bias.view(heads, -1, 1)).transpose(0, 1)
    scores = ((query @ key).transpose(0, 1) @ hidden.mT + alike) * own.scaling
    if mask is not None:
        scores = scores + mask[:, :, 0]
    chances = dropout(scores.softmax(-1), own.dropout.p if own.dropout.training else 0.0)
    seen = ((chances @ hidden).transpose(0, 1) @ value.mT).transpose(0, 1)
    seen = seen + chances.sum(-1, keepdim=True) * own.value.bias.unflatten(0, (heads, -1))
    output: Tensor = layer.feed_forward_chunk(layer.attention.output(seen.reshape(first.shape), first))
    return output[:, None]
