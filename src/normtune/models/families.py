"""Which norms of a layer follow its attention and close the layer, for each family of models.

The paper's LayerNorm is BERT's ``output.LayerNorm``, the one that closes a layer. In families that normalise
before each block instead, it is the one in front of the feed-forward block, the last of the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from normtune.errors import SelectionError
from normtune.models.layout import Layout


@dataclass(frozen=True)
class Norms:
    """Component names of a layer's norms: those of the attention, and those that close the layer."""

    attention: tuple[str, ...]
    output: tuple[str, ...]


_BERT = Norms(("attention.output.LayerNorm",), ("output.LayerNorm",))
_LLAMA = Norms(("input_layernorm",), ("post_attention_layernorm",))
_GEMMA = Norms(("post_attention_layernorm",), ("post_feedforward_layernorm",))
_BART = Norms(
    ("encoder.self_attn_layer_norm", "decoder.self_attn_layer_norm"),
    ("encoder.final_layer_norm", "decoder.final_layer_norm"),
)
_T5 = Norms(
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
    "albert": Norms(("attention.LayerNorm",), ("full_layer_layer_norm",)),
    "distilbert": Norms(("sa_layer_norm",), ("output_layer_norm",)),
    "mpnet": Norms(("attention.LayerNorm",), ("output.LayerNorm",)),
    "xlnet": Norms(("rel_attn.layer_norm",), ("ff.layer_norm",)),
    "gpt2": Norms(("ln_1",), ("ln_2",)),
    "opt": Norms(("self_attn_layer_norm",), ("final_layer_norm",)),
    "modernbert": Norms(("attn_norm",), ("mlp_norm",)),
}


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
