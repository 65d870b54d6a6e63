"""Methods whose parameters PEFT adds, each against its paper's definition in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from normtune.errors import SelectionError
from normtune.methods.expression import specify
from normtune.methods.method import METHODS, read
from normtune.methods.peft import ia3, low_rank
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base, wrap
from tests.conftest import BaseFactory

QUERY = "bert.encoder.layer.1.attention.self.query"
#: Sizes of an attention with latent keys and values, and of the experts beside it.
_LATENT = {
    **{"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "v_head_dim": 8},
    **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
}
RANKED = [name for name, method in METHODS.items() if method.option == "rank"]


@pytest.fixture
def base(tiny_folder: Path) -> Base:
    return load_base(str(tiny_folder), head=3)


class Drawn:
    """A method on a base, with random values.

    Args:
        base: The base.
        method: The method.
        module: The module to check.
    """

    def __init__(self, base: Base, method: str, module: str) -> None:
        own: Any = base.model.get_submodule(module)
        self.weight, self.bias = own.weight.detach().double(), own.bias.detach().double()
        self.inputs = torch.randn(5, self.weight.shape[1], dtype=torch.float64)
        self.trainable = Trainable(base, specify(base.layout, method, seed=4))
        self.module: Any = base.model.get_submodule(module)
        self.before = self.outputs()
        with torch.no_grad():
            for leaf in self.trainable.leaves.values():
                leaf.normal_(mean=0.2)

    def outputs(self) -> Tensor:
        """The module's outputs for `inputs`."""
        found: Tensor = self.module(self.inputs.float()).detach().double()
        return found

    def leaf(self, name: str) -> Tensor:
        """The module's own leaf of this name."""
        [found] = [v for k, v in self.trainable.leaves.items() if self.name in k and k.endswith(name)]
        return found.detach().double()

    @property
    def name(self) -> str:
        """The module's own name among the leaves."""
        return next(name for name, module in self.trainable.base.model.named_modules() if module is self.module)

    def check(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Assert that the module computes with this matrix and bias, and began as the base's own."""
        plain = self.inputs @ self.weight.T + self.bias
        torch.testing.assert_close(self.before, plain, rtol=1e-5, atol=1e-5)
        wanted = self.inputs @ weight.T + (self.bias if bias is None else bias)
        torch.testing.assert_close(self.outputs(), wanted, rtol=1e-3, atol=1e-3)
        self.trainable.undo()


def test_dora_scales_the_directions_of_the_sum(base: Base) -> None:
    """m (W + s B A) / ||W + s B A||, a norm for each output (Liu et al. 2024, equation 5)."""
    drawn = Drawn(base, "dora@2", QUERY)
    total = drawn.weight + 2 * drawn.leaf("lora_B.weight") @ drawn.leaf("lora_A.weight")
    length = drawn.leaf("lora_magnitude_vector.weight")
    drawn.check(length[:, None] * total / total.norm(dim=1, keepdim=True))


def test_loha_is_an_elementwise_product(base: Base) -> None:
    """W + (B1 A1) * (B2 A2) (Hyeon-Woo et al. 2022, proposition 1)."""
    drawn = Drawn(base, "loha@2", QUERY)
    one, two = (drawn.leaf(f"hada_w{part}_a") @ drawn.leaf(f"hada_w{part}_b") for part in (1, 2))
    drawn.check(drawn.weight + one * two)


def test_vera_scales_matrices_that_all_layers_share(base: Base) -> None:
    """W + diag(b) B diag(d) A (Kopiczko et al. 2024, equation 2); A and B are drawn from the seed and frozen."""
    drawn = Drawn(base, "vera@3", QUERY)
    a, b = (getattr(drawn.module, f"vera_{part}")["default"].double() for part in "AB")
    scaled = drawn.leaf("vera_lambda_b")[:, None] * b @ (drawn.leaf("vera_lambda_d")[:, None] * a)
    drawn.check(drawn.weight + scaled)
    assert len(drawn.trainable.spec) == 3 * 2 * (32 + 3)  # layers x (query, value) x (outputs + rank)


def test_ia3_scales_keys_values_and_inner_units(base: Base) -> None:
    """l_k * K, l_v * V and W2 (l_ff * gamma(W1 x)) (Liu et al. 2022, section 3.3); no other matrix is touched."""
    key, wide = QUERY.replace("query", "key"), "bert.encoder.layer.1.output.dense"
    drawn = Drawn(base, "ia3", key)
    factor = drawn.leaf("ia3_l")
    drawn.check(factor * drawn.weight, factor[:, 0] * drawn.bias)
    drawn = Drawn(base, "ia3", wide)
    drawn.check(drawn.weight * drawn.leaf("ia3_l"))
    spec = specify(base.layout, "ia3")
    inner = base.model.config.intermediate_size
    assert len(spec) == 3 * (32 + 32 + inner)
    assert all("attention.output" not in name for name in spec.describe()["targets"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("family", "more", "inner", "names"),
    [
        ("distilbert", {}, 48, {"k_lin", "v_lin", "lin2"}),
        ("qwen2", {"num_key_value_heads": 2}, 48, {"k_proj", "v_proj", "down_proj"}),
        ("opt", {}, 48, {"k_proj", "v_proj", "fc2"}),
        ("t5", {"d_kv": 4}, 48, {"k", "v", "wo"}),
    ],
)
def test_ia3_scales_keys_and_values_where_they_are_made(
    make_base: BaseFactory, family: str, more: dict[str, Any], inner: int, names: set[str]
) -> None:
    """In every family, also where keys and values are narrower than the hidden units."""
    base = make_base(family, **more)
    spec = ia3(base.layout)
    trainable = Trainable(base, spec)
    assert {target.rpartition(".")[2] for target in spec.targets} == names
    for target in spec.targets:
        module: Any = base.model.get_submodule(target)
        rows, columns = module.weight.shape
        shape = tuple(module.ia3_l["default"].shape)
        assert shape == ((1, columns) if columns == inner else (rows, 1)), target
    assert sum(leaf.numel() for leaf in trainable.leaves.values()) == len(spec)
    trainable.undo()


def test_ia3_scales_the_inner_units_of_both_stacks_whatever_their_width(make_base: BaseFactory) -> None:
    base = make_base("bart", encoder_ffn_dim=64, decoder_ffn_dim=48)
    inner = [target for target in ia3(base.layout).targets if target.endswith("fc2")]
    layers = (*(f"encoder.layers.{n}" for n in range(2)), *(f"decoder.layers.{n}" for n in range(3)))
    assert inner == [f"model.{layer}.fc2" for layer in layers]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "deberta", "mixtral", "xlnet"])
def test_ia3_is_refused_where_a_kind_of_its_units_has_no_matrix(make_base: BaseFactory, family: str) -> None:
    with pytest.raises(SelectionError, match="ia3 needs matrices of their own for the keys, the values and the inner"):
        specify(make_base(family).layout, "ia3")


@pytest.mark.parametrize(
    ("family", "names"),
    [
        *(("bert", {"query", "value"}), ("distilbert", {"q_lin", "v_lin"}), ("llama", {"q_proj", "v_proj"})),
        *(("gpt2", {"c_attn"}), ("deberta", {"in_proj"}), ("modernbert", {"Wqkv"}), ("t5", {"q", "v"})),
    ],
)
def test_lora_stands_beside_queries_and_values(make_base: BaseFactory, family: str, names: set[str]) -> None:
    """Hu et al. 2021, section 7.1, and PEFT's choice wherever it has one."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as THEIRS

    spec = low_rank(make_base(family).layout, method="lora")
    assert {target.rpartition(".")[2] for target in spec.targets} == names == {*THEIRS.get(family, names)}


def test_lora_is_refused_where_queries_and_values_have_no_known_name(make_base: BaseFactory) -> None:
    layout = make_base("xlnet").layout
    with pytest.raises(SelectionError, match=r"lora finds no queries and values .* lora-all takes every matrix"):
        specify(layout, "lora")
    assert len(specify(layout, "lora-all"))


def test_factors_have_no_weight_decay(base: Base) -> None:
    trainable = Trainable(base, specify(base.layout, "ia3"))
    decayed = {p for group in trainable.param_groups(0.1) if group["weight_decay"] for p in group["params"]}
    assert not decayed & {*trainable.leaves.values()}
    trainable.undo()


def test_lora_all_takes_every_matrix_of_the_layers(base: Base) -> None:
    inner = base.model.config.intermediate_size
    assert len(specify(base.layout, "lora-all@1")) == 3 * (4 * (32 + 32) + 2 * (32 + inner))


def test_lora_all_leaves_the_routers_of_experts_alone(make_base: BaseFactory) -> None:
    base = make_base("phimoe")
    trainable = Trainable(base, specify(base.layout, "lora-all@1"))
    assert not [target for target in trainable.leaves if "router" in target]
    words = torch.ones(1, 4, dtype=torch.long)
    assert base.model(words, attention_mask=words).logits.shape == (1, 2)
    trainable.undo()


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "jamba", "wavlm"])
def test_matrices_that_a_family_reads_past_their_modules_get_nothing_beside_them(family: str) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60, "pad_token_id": 0}
    sizes = {
        "jamba": {"intermediate_size": 48, "num_key_value_heads": 2, "num_experts": 2, "mamba_d_state": 4,
                  "mamba_dt_rank": 4, "use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1},
        "wavlm": {"intermediate_size": 48, "conv_dim": (16,), "conv_kernel": (4,), "conv_stride": (4,),
                  "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 16},
    }.get(family, {"state_size": 4})  # fmt: skip
    config = AutoConfig.for_model(family, **small, **sizes)
    kind = {"jamba": AutoModelForSequenceClassification, "wavlm": AutoModelForAudioClassification}
    model = kind.get(family, AutoModelForCausalLM).from_config(config)
    for module in model.modules():
        if torch.nn.utils.parametrize.is_parametrized(module):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    base = wrap(model)
    trainable = Trainable(base, specify(base.layout, "lora-all@1"))
    inputs = torch.randn(2, 200) if family == "wavlm" else torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
    base.model(inputs).logits.sum().backward()
    assert [name for name, leaf in trainable.leaves.items() if leaf.grad is None] == []
    trainable.undo()


def test_values_that_are_made_with_queries_and_keys_have_no_bias_of_their_own(make_base: BaseFactory) -> None:
    with pytest.raises(SelectionError, match="no biases of values"):
        specify(make_base("gpt_neox").layout, "value-bias")


def test_value_bias_is_the_biases_of_the_values(base: Base) -> None:
    spec = specify(base.layout, "value-bias")
    assert {place.parameter for place in spec.places} == {
        f"bert.encoder.layer.{layer}.attention.self.value.bias" for layer in range(3)
    }


def test_value_bias_that_stands_beside_a_fused_matrix(make_base: BaseFactory) -> None:
    places = specify(make_base("deberta").layout, "value-bias").places
    assert {place.parameter.rpartition(".")[2] for place in places} == {"v_bias"}


@pytest.mark.parametrize("method", RANKED)
def test_a_rank_of_nothing_is_refused(base: Base, method: str) -> None:
    with pytest.raises(SelectionError, match=f"{method} takes a rank of 1 or more"):
        specify(base.layout, f"{method}@0")


@pytest.mark.parametrize("family", ["roberta", "gpt2", "llama", "distilbert"])
@pytest.mark.parametrize("method", [*RANKED, "ia3", "value-bias"])
def test_other_families_train_what_is_counted_or_refuse(make_base: BaseFactory, family: str, method: str) -> None:
    base = make_base(family)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    if (method, family) in REFUSED:
        with pytest.raises(SelectionError):
            Trainable(base, specify(base.layout, method))
    else:
        trainable = Trainable(base, specify(base.layout, method))
        assert sum(leaf.numel() for leaf in trainable.leaves.values()) == len(trainable.spec)
        trainable.undo()
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


REFUSED = {("ia3", "gpt2"), ("value-bias", "gpt2"), ("value-bias", "llama"), ("loha", "gpt2")}


@pytest.fixture(autouse=True)
def _same_draws() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_a_rank_beyond_measure_is_counted_without_memory(base: Base) -> None:
    described = specify(base.layout, "lora@1").describe()
    assert described is not None
    described["config"]["r"] = rank = 10**9  # as someone else's delta may have it
    assert len(read(base.layout, described)) == rank * 3 * 2 * (32 + 32)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("mixtral", {}),
        ("umt5", {}),
        ("deepseek_v3", {"n_shared_experts": 1, "n_routed_experts": 4, "first_k_dense_replace": 1, **_LATENT}),
    ],
)
def test_only_linear_layers_change(make_base: BaseFactory, family: str, more: dict[str, Any]) -> None:
    """No router, no stacked expert, no table of relative positions within a layer."""
    base = make_base(family, **more)
    kinds = {name: type(module) for name, module in base.model.named_modules()}
    linear = {name for name, kind in kinds.items() if kind is nn.Linear and any(map(str.isdigit, name.split(".")))}
    trainable = Trainable(base, specify(base.layout, "lora-all@2"))
    changed = {name for name, kind in kinds.items() if type(base.model.get_submodule(name)) is not kind}
    assert changed == linear
    trainable.undo()
    assert {name: type(module) for name, module in base.model.named_modules()} == kinds
