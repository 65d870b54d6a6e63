"""The families that normtune claims to take, with facts on each from elsewhere: one row per family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_ROBERTA = {**_BERT, "max_position_embeddings": 514, "type_vocab_size": 1}
_DEBERTA = {
    **{**_BERT, "type_vocab_size": 0, "relative_attention": True, "max_relative_positions": -1},
    **{"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"]},
    "position_biased_input": False,
}


#: For each stage of EfficientNet-B0: layers, inputs, outputs and the expansion.
_STAGES = ((1, 32, 16, 1), (2, 16, 24, 6), (2, 24, 40, 6), (3, 40, 80, 6), (3, 80, 112, 6), (4, 112, 192, 6))
_STAGES += ((1, 192, 320, 6),)


def _b0() -> int:
    """The entries of EfficientNet-B0's norms: in each layer two of the expansion's width and one of the outputs'."""
    widths = [32, 1280]
    for layers, inputs, outputs, expansion in _STAGES:
        for layer in range(layers):
            inner = expansion * (outputs if layer else inputs)
            widths += [inner, outputs, *([inner] if expansion > 1 else [])]
    return 2 * sum(widths)


@dataclass(frozen=True)
class Row:
    """What is known of a family.

    Attributes:
        published: A published model of it.
        config: The sizes of that model, from its own configuration.
        body: Its entries without a head, and without a pooler that a classifier leaves out, as the hub counts them in
            its checkpoint. The method ``full`` trains these.
        norms: The entries of all of its norms: number of vectors times width.
        closing: The entries of the norms that close its layers.
        method: The norm method that the family is known for.
        slow: Parts of the names of the parameters whose Fisher information has no closed form; None where that is most
            of them.
        apart: The methods whose rows in a bank run in batches of their own.
    """

    published: str
    config: dict[str, Any]
    body: int
    norms: int
    closing: int
    method: str = "layernorm"
    slow: tuple[str, ...] | None = ()
    apart: tuple[str, ...] = ()


ROWS: dict[str, Row] = {
    "bert": Row(
        "bert-large-cased",
        {
            **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
            "vocab_size": 28996,
        },
        *(333_579_264, 49 * 2 * 1024, 24 * 2 * 1024),
    ),
    "roberta": Row("roberta-base", {**_ROBERTA, "vocab_size": 50265}, 124_055_040, 25 * 2 * 768, 12 * 2 * 768),
    "xlm-roberta": Row("xlm-roberta-base", {**_ROBERTA, "vocab_size": 250002}, 277_453_056, 25 * 1536, 12 * 1536),
    "distilbert": Row(
        "distilbert-base-uncased",
        {"dim": 768, "hidden_dim": 3072, "n_layers": 6, "n_heads": 12, "vocab_size": 30522},
        *(66_362_880, 13 * 2 * 768, 6 * 2 * 768),
    ),
    "electra": Row(
        "google/electra-base-discriminator",
        {**_BERT, "embedding_size": 768, "vocab_size": 30522},
        *(108_891_648, 25 * 2 * 768, 12 * 2 * 768),
    ),
    "albert": Row(  # its layers share their parameters
        "albert-base-v2",
        {**_BERT, "embedding_size": 128, "vocab_size": 30000},
        *(11_683_584, 2 * 128 + 2 * 2 * 768, 2 * 768),
    ),
    "deberta-v2": Row(
        "microsoft/deberta-v3-base",
        {**_DEBERTA, "vocab_size": 128100},
        *(183_831_552, 26 * 2 * 768, 12 * 2 * 768),
        slow=("query_proj", "key_proj", "rel_embeddings", "encoder.LayerNorm"),
        apart=("bitfit",),  # a norm and two matrices see what all rows share
    ),
    "mpnet": Row(
        "microsoft/mpnet-base",
        {**_BERT, "vocab_size": 30527, "max_position_embeddings": 514},
        *(108_895_872, 25 * 2 * 768, 12 * 2 * 768),
        slow=("relative_attention_bias",),
    ),
    "xlnet": Row(
        "xlnet-base-cased",
        {"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072, "vocab_size": 32000},
        *(116_718_336, 24 * 2 * 768, 12 * 2 * 768),
        slow=None,  # its first dimension is the tokens
        apart=("layernorm", "bitfit"),
    ),
    "modernbert": Row(  # without biases; its first layer has no norm before the attention
        "answerdotai/ModernBERT-base",
        {"hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12, "intermediate_size": 1152},
        *(149_014_272, (1 + 21 + 22 + 1) * 768, 22 * 768),
    ),
    "gpt2": Row(
        "openai-community/gpt2",
        {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257},
        *(124_439_808, 25 * 2 * 768, 12 * 2 * 768),
    ),
    "opt": Row(
        "facebook/opt-125m",
        {**_BERT, "ffn_dim": 3072, "word_embed_proj_dim": 768, "vocab_size": 50272},
        *(125_239_296, 25 * 2 * 768, 12 * 2 * 768),
    ),
    "llama": Row(
        "HuggingFaceTB/SmolLM2-135M",
        {
            **{"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
            **{"intermediate_size": 1536, "vocab_size": 49152},
        },
        *(134_515_008, 61 * 576, 30 * 576),
    ),
    "qwen2": Row(
        "Qwen/Qwen2-0.5B",
        {
            **{"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2},
            **{"intermediate_size": 4864, "vocab_size": 151936},
        },
        *(494_032_768, 49 * 896, 24 * 896),
    ),
    "qwen3": Row(  # with norms of each head's queries and keys
        "Qwen/Qwen3-0.6B",
        {
            **{"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8},
            **{"head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936},
        },
        *(596_049_920, 57 * 1024 + 28 * 2 * 128, 28 * 1024),
    ),
    "gemma2": Row(  # four norms a layer
        "google/gemma-2-2b",
        {
            **{"hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4},
            **{"head_dim": 256, "intermediate_size": 9216, "vocab_size": 256000},
        },
        *(2_614_341_888, 105 * 2304, 26 * 2304),
    ),
    "gemma3_text": Row(
        "google/gemma-3-1b-pt",
        {
            **{"hidden_size": 1152, "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1},
            **{"head_dim": 256, "intermediate_size": 6912, "vocab_size": 262144},
        },
        *(999_885_952, 105 * 1152 + 26 * 2 * 256, 26 * 1152),
    ),
    "olmo2": Row(
        "allenai/OLMo-2-0425-1B",
        {
            **{"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16, "intermediate_size": 8192},
            "vocab_size": 100352,
        },
        *(1_484_916_736 - 100352 * 2048, 65 * 2048, 16 * 2048),  # less the matrix that gives the next token
    ),
    "mixtral": Row(
        "mistralai/Mixtral-8x7B-v0.1",
        {
            **{"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
            **{"intermediate_size": 14336, "num_local_experts": 8, "vocab_size": 32000},
        },
        *(46_702_792_704 - 32000 * 4096, 65 * 4096, 32 * 4096),
        slow=("experts", "gate"),  # matrices of all experts in one tensor of three dimensions
    ),
    "qwen3_moe": Row(
        "Qwen/Qwen3-30B-A3B",
        {
            **{"hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4},
            **{"head_dim": 128, "moe_intermediate_size": 768, "num_experts": 128, "vocab_size": 151936},
        },
        *(30_532_122_624 - 151936 * 2048, 97 * 2048 + 48 * 2 * 128, 48 * 2048),
        slow=("experts", "gate"),
    ),
    "vit": Row(
        "google/vit-base-patch16-224",
        {**_BERT, "image_size": 224, "patch_size": 16},
        *(85_798_656, 25 * 2 * 768, 12 * 2 * 768),
        slow=("cls_token", "position_embeddings"),
        apart=("bitfit",),  # a convolution's bias
    ),
    "resnet": Row(
        "microsoft/resnet-50",
        {"hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
        25_557_032 - 2049 * 1000,
        # The stem; in each layer two as wide as its bottleneck and one four times as wide; each stage's shortcut.
        2 * (64 + 6 * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512) + 256 + 512 + 1024 + 2048),
        2 * (3 * 256 + 4 * 512 + 6 * 1024 + 3 * 2048),
        method="batchnorm",
        apart=("batchnorm", "bitfit"),
    ),
    "efficientnet": Row(
        "google/efficientnet-b0",
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
        5_288_548 - 1281 * 1000,
        _b0(),
        2 * (16 + 2 * 24 + 2 * 40 + 3 * 80 + 3 * 112 + 4 * 192 + 320),
        method="batchnorm",
        slow=("depthwise_conv.weight",),
        apart=("batchnorm", "bitfit"),
    ),
    "convnext": Row(
        "facebook/convnext-tiny-224",
        {"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3]},
        28_589_128 - 769 * 1000,
        2 * (96 + 3 * 96 + 96 + 3 * 192 + 192 + 9 * 384 + 384 + 3 * 768 + 768),
        2 * (3 * 96 + 3 * 192 + 9 * 384 + 3 * 768),
        slow=("dwconv", "layer_scale_parameter"),
        apart=("layernorm", "bitfit"),
    ),
}
