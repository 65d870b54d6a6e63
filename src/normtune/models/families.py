"""Which norms of a layer follow its attention and close the layer, for each family of models.

The paper's LayerNorm is BERT's ``output.LayerNorm``, the one that closes a layer. In families that normalise
before each block instead, it is the norm before the feed-forward block, the layer's last. For a family not listed here,
the last norm among each layer's modules is taken for the closing one, with a warning.
"""

from __future__ import annotations

import re
import warnings

from normtune.errors import GuessWarning, SelectionError
from normtune.models.layout import Layout, Place
from normtune.records.run import Norms


def _norms(attention: tuple[str, ...], closing: tuple[str, ...]) -> Norms:
    return Norms(attention=attention, closing=closing)


_BERTS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "deberta", "deberta-v2", "layoutlm", "ernie")
_BERT = _norms(("attention.output.LayerNorm",), ("output.LayerNorm",))
_LLAMAS = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma")
_LLAMA = _norms(("input_layernorm",), ("post_attention_layernorm",))
_GEMMA = _norms(("post_attention_layernorm",), ("post_feedforward_layernorm",))
_BART = _norms(
    ("encoder.self_attn_layer_norm", "decoder.self_attn_layer_norm"),
    ("encoder.final_layer_norm", "decoder.final_layer_norm"),
)
_VIT = _norms(("layernorm_before",), ("layernorm_after",))
_T5 = _norms(
    ("encoder.layer.0.layer_norm", "decoder.layer.0.layer_norm"),
    ("encoder.layer.1.layer_norm", "decoder.layer.2.layer_norm"),
)

FAMILIES: dict[str, Norms] = {
    **dict.fromkeys(_BERTS, _BERT),
    **dict.fromkeys((*_LLAMAS, "gpt_neox", "mixtral", "phimoe", "qwen3_moe"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text", "olmo2"), _GEMMA),
    **dict.fromkeys(("bart", "mbart"), _BART),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    "albert": _norms(("attention.LayerNorm",), ("full_layer_layer_norm",)),
    "distilbert": _norms(("sa_layer_norm",), ("output_layer_norm",)),
    "mpnet": _norms(("attention.LayerNorm",), ("output.LayerNorm",)),
    "xlnet": _norms(("rel_attn.layer_norm",), ("ff.layer_norm",)),
    "gpt2": _norms(("ln_1",), ("ln_2",)),
    "opt": _norms(("self_attn_layer_norm",), ("final_layer_norm",)),
    "modernbert": _norms(("attn_norm",), ("mlp_norm",)),
    **dict.fromkeys(("vit", "vit_msn", "beit", "data2vec-vision", "swin", "swinv2"), _VIT),
    "dinov2": _norms(("norm1",), ("norm2",)),
    **dict.fromkeys(("convnext", "convnextv2"), _norms((), ("layernorm",))),
}


#: The matrices that end a layer's attention and its feed-forward block; their outputs are added to the residual.
BLOCK_ENDS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(_BERTS, ("attention.output.dense", "output.dense")),
    **dict.fromkeys(_LLAMAS, ("self_attn.o_proj", "mlp.down_proj")),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "mpnet": ("attention.attn.o", "output.dense"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.out_proj", "fc2"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
}

#: Families whose matrices are stored as (inputs, outputs).
TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
#: Names of the attention matrices that compute the queries, the keys, the values, and all three at once.
QUERIES = ("query", "query_proj", "q_proj", "q_lin", "q")
KEYS = ("key", "key_proj", "k_proj", "k_lin", "k")
VALUES = ("value", "value_proj", "v_proj", "v_lin", "v")
FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "self.in_proj")
#: Matrices that some families read without calling their modules, so that anything added beside those never runs.
READ_PAST: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("mamba", "falcon_mamba"), ("dt_proj", "x_proj", "out_proj")),
    "jamba": ("dt_proj",),
    "wavlm": ("q_proj", "k_proj", "v_proj", "out_proj"),
}
#: Names of the token embeddings.
WORDS = ("word_embeddings", "embed_tokens", "wte", "embed_in")
#: Families that answer from a text's first token, [CLS], and causal ones, which answer from its last.
FIRST_TOKEN = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "distilbert")
LAST_TOKEN = ("gpt2", "gpt_neox", "opt", *_LLAMAS)


def stack(place: Place) -> str:
    """The path of the list of layers that a parameter is in."""
    return re.split(r"\.\d+\.", place.parameter)[0]


def norms_of(layout: Layout) -> Norms:
    """The norms of the layers of `layout`; for a family that is not listed, a guess without attention norms."""
    if layout.model_type in FAMILIES:
        return FAMILIES[layout.model_type]
    # By the parent of the list of layers, since XLM has a list of each norm.
    last = {
        (stack(place).rpartition(".")[0], place.layer): place.component
        for place in layout.body
        if place.norm and place.layer is not None and not place.stage
    }
    return Norms(closing=tuple(dict.fromkeys(last.values())))


def closing_norms(layout: Layout) -> tuple[str, ...]:
    """The norms that close the layers of `layout`, with a warning where they are guessed.

    Raises:
        SelectionError: If its layers have no norms.
    """
    closing = norms_of(layout).closing
    if not closing:
        raise SelectionError(f"The layers of this {layout.model_type!r} model have no norms.")
    if layout.model_type not in FAMILIES:
        guess = f"is taken for the one that closes it: {' or '.join(closing)}"
        warnings.warn(
            f"normtune does not list the family {layout.model_type!r}; the last norm of each layer {guess}.",
            GuessWarning,
            stacklevel=2,
        )
    return closing


def attention_norms(layout: Layout) -> tuple[str, ...]:
    """The norms of the attention in the layers of `layout`.

    Raises:
        SelectionError: If the family is not listed, naming the norms that its layers have, or has no attention.
    """
    if layout.model_type not in FAMILIES:
        own = [component.name for component in layout.components if component.norm and component.layers]
        raise SelectionError(
            f"normtune does not know which norm follows the attention in a {layout.model_type!r} model;"
            f" its layers have: {', '.join(own) or 'none'}. Name one as the method instead."
        )
    if not (norms := norms_of(layout).attention):
        raise SelectionError(f"The layers of this {layout.model_type!r} model have no attention.")
    return norms


def block_ends(layout: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules that end the attention of each layer of `layout`, and those that end its feed-forward block.

    Raises:
        SelectionError: If they are not known for the family.
    """
    if layout.model_type not in BLOCK_ENDS:
        raise SelectionError(
            f"normtune does not know where the blocks of a {layout.model_type!r} model end; it does for"
            f" {', '.join(BLOCK_ENDS)}."
        )
    attention, feed_forward = (
        tuple(
            place.parameter.removesuffix(".weight")
            for place in layout.body
            if (place.component, place.sub) == (name, "weight")
        )
        for name in BLOCK_ENDS[layout.model_type]
    )
    return attention, feed_forward
