"""Which norms of a layer follow its attention and close the layer, for each family of models.

The paper's LayerNorm is BERT's ``output.LayerNorm``, the one that closes a layer. In families that normalise
before each block instead, it is the one in front of the feed-forward block, the last of the layer.
"""

from __future__ import annotations

from normtune.errors import SelectionError
from normtune.models.layout import Layout
from normtune.records.run import Norms


def _norms(attention: tuple[str, ...], closing: tuple[str, ...]) -> Norms:
    return Norms(attention=attention, closing=closing)


_BERT = _norms(("attention.output.LayerNorm",), ("output.LayerNorm",))
_LLAMA = _norms(("input_layernorm",), ("post_attention_layernorm",))
_GEMMA = _norms(("post_attention_layernorm",), ("post_feedforward_layernorm",))
_BART = _norms(
    ("encoder.self_attn_layer_norm", "decoder.self_attn_layer_norm"),
    ("encoder.final_layer_norm", "decoder.final_layer_norm"),
)
_T5 = _norms(
    ("encoder.layer.0.layer_norm", "decoder.layer.0.layer_norm"),
    ("encoder.layer.1.layer_norm", "decoder.layer.2.layer_norm"),
)

FAMILIES: dict[str, Norms] = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "electra", "deberta", "deberta-v2", "layoutlm", "ernie"), _BERT
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gpt_neox", "phi3", "gemma"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA),
    **dict.fromkeys(("bart", "mbart"), _BART),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    "albert": _norms(("attention.LayerNorm",), ("full_layer_layer_norm",)),
    "distilbert": _norms(("sa_layer_norm",), ("output_layer_norm",)),
    "mpnet": _norms(("attention.LayerNorm",), ("output.LayerNorm",)),
    "xlnet": _norms(("rel_attn.layer_norm",), ("ff.layer_norm",)),
    "gpt2": _norms(("ln_1",), ("ln_2",)),
    "opt": _norms(("self_attn_layer_norm",), ("final_layer_norm",)),
    "modernbert": _norms(("attn_norm",), ("mlp_norm",)),
}


#: Families whose matrices are stored as (inputs, outputs).
TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
#: What the matrix that makes an attention's values is called.
VALUES = ("value", "value_proj", "v_proj", "v_lin", "v")


def norms_of(layout: Layout) -> Norms:
    """The norms of the layers of `layout`.

    Raises:
        SelectionError: If the family is not known, naming the norms that it has and how to select one of them.
    """
    norms = FAMILIES.get(layout.model_type)
    if norms is None:
        own = [c.name for c in layout.components if c.norm and c.layers]
        raise SelectionError(
            f"normtune does not know which norm closes a layer of a {layout.model_type!r} model;"
            f" its layers have: {', '.join(own) or 'none'}. Name one as the method instead."
        )
    return norms


def known_norms(layout: Layout) -> Norms:
    """The norms of the layers of `layout`; empty where the family is not known."""
    return FAMILIES.get(layout.model_type, Norms())
