"""Modules of our own around those of the base, each against its paper's definition in float64."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from normtune.deltas.delta import Delta
from normtune.deltas.merge import merge
from normtune.errors import DeltaError, SelectionError
from normtune.methods.expression import specify
from normtune.methods.method import METHODS
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base
from normtune.models.families import BLOCK_ENDS, block_ends
from tests.conftest import BaseFactory

ATTENTION, FEED_FORWARD = "bert.encoder.layer.1.attention.output", "bert.encoder.layer.1.output"
OURS = ("red", "adapter", "hyper-adapter")


@pytest.fixture
def base(tiny_folder: Path) -> Base:
    return load_base(str(tiny_folder), head=3)


def drawn(base: Base, method: str) -> tuple[Trainable, dict[str, np.ndarray]]:
    """A method on a base with random values, and these values in float64."""
    trainable = Trainable(base, specify(base.layout, method, seed=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for leaf in trainable.leaves.values():
            leaf.add_(0.3 * torch.randn(leaf.shape, generator=generator))
    return trainable, {name: leaf.detach().double().numpy() for name, leaf in trainable.leaves.items()}


def block(base: Base, path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The outputs of a BERT block for random inputs and a random residual, those of its matrix, and the residual."""
    own: Any = base.model.get_submodule(path)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(5, own.dense.in_features, generator=generator)
    residual = torch.randn(5, own.dense.out_features, generator=generator)
    with torch.no_grad():
        outputs = own(inputs, residual)
    weight, bias = (value.detach().double().numpy() for value in (own.dense.weight, own.dense.bias))
    return outputs.double().numpy(), inputs.double().numpy() @ weight.T + bias, residual.double().numpy()


def norm(values: np.ndarray, scale: np.ndarray, shift: np.ndarray, eps: float) -> np.ndarray:
    middle, spread = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return scale * (values - middle) / np.sqrt(spread + eps) + shift


def gelu(values: np.ndarray) -> np.ndarray:
    return values * (1 + np.vectorize(math.erf)(values / math.sqrt(2))) / 2


def check(base: Base, path: str, found: np.ndarray, changed: np.ndarray, residual: np.ndarray) -> None:
    """Assert that the block adds `changed` to the residual and normalises the sum by its current norm."""
    own: Any = base.model.get_submodule(path).LayerNorm
    scale, shift = (value.detach().double().numpy() for value in (own.weight, own.bias))
    np.testing.assert_allclose(found, norm(changed + residual, scale, shift, own.eps), rtol=1e-4, atol=1e-4)


def test_red_edits_what_the_feed_forward_block_gives(base: Base) -> None:
    """h becomes scale * h + bias before the residual (Wu et al. 2024); the attention's outputs stay."""
    trainable, leaves = drawn(base, "red")
    found, made, residual = block(base, FEED_FORWARD)
    scale, bias = (leaves[f"{FEED_FORWARD}.dense.added.{name}"] for name in ("scale", "bias"))
    check(base, FEED_FORWARD, found, scale * made + bias, residual)
    found, made, residual = block(base, ATTENTION)
    check(base, ATTENTION, found, made, residual)
    assert len(trainable.spec) == 3 * 2 * 32


def test_red_costs_a_layer_where_it_cannot_merge(base: Base, make_base: BaseFactory) -> None:
    assert specify(base.layout, "red").cost == "none"
    llama = make_base("llama")
    spec = specify(llama.layout, "red")
    assert spec.cost == "extra layers"
    trainable = Trainable(llama, spec)
    values = trainable.values()
    trainable.undo()
    with ExitStack() as undo, pytest.raises(DeltaError, match="has no bias"):
        spec.merge(llama, values, undo)


@pytest.mark.parametrize("method", ["red", "hyper-adapter"])
def test_they_begin_as_the_base(base: Base, method: str) -> None:
    tokens = torch.tensor([[2, 6, 7, 3]])
    with torch.no_grad():
        before: Tensor = base.model(tokens).logits
        trainable = Trainable(base, specify(base.layout, method))
        assert torch.equal(base.model(tokens).logits, before)
    trainable.undo()


@pytest.mark.parametrize("path", [ATTENTION, FEED_FORWARD])
def test_adapters_are_bottlenecks_before_the_residual(base: Base, path: str) -> None:
    """An adapter gives h + U gelu(D h + b) + c, and the norm trains (Houlsby et al. 2019, section 2.1 and figure 2)."""
    trainable, leaves = drawn(base, "adapter@5")
    found, made, residual = block(base, path)
    down, b, up, c = (leaves[f"{path}.dense.added.{n}.{m}"] for n in ("down", "up") for m in ("weight", "bias"))
    assert down.shape == (5, 32)
    check(base, path, found, made + gelu(made @ down.T + b) @ up.T + c, residual)
    assert f"{path}.LayerNorm.weight" in leaves
    norms = 2 * 32 * (2 * 3 + 1)
    assert len(trainable.spec) == 3 * 2 * (2 * 32 * 5 + 32 + 5) + norms


def test_adapters_begin_near_the_base_and_are_drawn_from_the_seed(base: Base) -> None:
    """Gaussians with a standard deviation of 0.01, cut at two of them (section 3.6)."""
    values = []
    for seed in (0, 0, 1):
        trainable = Trainable(base, specify(base.layout, "adapter", seed=seed))
        own = trainable.values()
        values.append(torch.cat([own[name] for name in own if name.endswith(("down.weight", "up.weight"))]))
        assert all(not own[name].any() for name in own if name.endswith(("down.bias", "up.bias")))
        trainable.undo()
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert values[0].abs().max() <= 0.02
    assert values[0].std() == pytest.approx(0.88 * 0.01, rel=0.03)  # the deviation of a Gaussian cut there


@pytest.mark.parametrize(("path", "position"), [(ATTENTION, 0), (FEED_FORWARD, 1)])
def test_one_network_makes_all_adapters(base: Base, path: str, position: int) -> None:
    """An adapter gives h + norm(U gelu(D h)), made from task, layer and position (Mahabadi et al. 2021, section 2)."""
    trainable, every = drawn(base, "hyper-adapter@3")
    shared = {name.split(".network.")[1]: value for name, value in every.items() if ".network." in name}
    found, made, residual = block(base, path)
    joined = np.concatenate([shared["task"], shared["layers"][1], shared["positions"][position]])
    inner = np.maximum(shared["embed.0.weight"] @ joined + shared["embed.0.bias"], 0)
    embedding = shared["embed.2.weight"] @ inner + shared["embed.2.bias"]
    embedding = norm(embedding, shared["embed.3.weight"], shared["embed.3.bias"], 1e-6) / 64
    weights = shared["make.weight"] @ embedding + shared["make.bias"]
    down, b, up, c, scale, shift = np.split(weights, np.cumsum([96, 3, 96, 32, 32]))
    changed = gelu(made @ down.reshape(3, 32).T + b) @ up.reshape(32, 3).T + c
    check(base, path, found, made + norm(changed, scale, shift, 1e-5), residual)
    delta = Delta.capture(trainable)
    assert not any("network" in name for name in delta.values)
    np.testing.assert_allclose(delta.values[f"{path}.dense.added.down"].numpy(), down, rtol=1e-5, atol=1e-5)
    held = 3 * 2 * (2 * 96 + 3 + 3 * 32) + 2 * 32 * (2 * 3 + 1)
    assert len(trainable.spec) == delta.entries == held
    network = 64 * (1 + 3 + 2) + 192 * 128 + 128 + 128 * 64 + 64 + 2 * 64 + 65 * (2 * 96 + 3 + 3 * 32)
    assert sum(value.size for value in shared.values()) == network


@pytest.mark.parametrize("method", OURS)
def test_matrices_alone_have_weight_decay(base: Base, method: str) -> None:
    trainable = Trainable(base, specify(base.layout, method))
    leaves = {*trainable.leaves.values()}
    for group in trainable.param_groups(0.1):
        assert all((leaf.ndim > 1) is bool(group["weight_decay"]) for leaf in leaves & {*group["params"]})
    trainable.undo()


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.option == "width"])
def test_a_width_of_nothing_is_refused(base: Base, method: str) -> None:
    with pytest.raises(SelectionError, match=f"{method} takes a width of 1 or more; got 0"):
        specify(base.layout, f"{method}@0")


@pytest.mark.parametrize("family", BLOCK_ENDS)
def test_the_blocks_of_every_family_end_in_matrices_as_wide_as_the_model(make_base: BaseFactory, family: str) -> None:
    layout = make_base(family).layout
    for ends in block_ends(layout):
        places = [layout.by_name[f"{name}.weight"] for name in ends]
        assert [place.layer for place in places] == [0, 1, 2]
        assert all(32 in place.shape and len(place.shape) == 2 for place in places)


def test_a_family_whose_blocks_are_not_known_is_refused(make_base: BaseFactory) -> None:
    layout = make_base("xlnet").layout
    for method in OURS:
        with pytest.raises(SelectionError, match="where the blocks of a 'xlnet' model end; it does for bert, "):
            specify(layout, method)


@pytest.mark.parametrize("family", ["roberta", "gpt2", "llama", "distilbert"])
def test_other_families_answer_from_their_delta_and_merge_or_refuse(
    make_base: BaseFactory, family: str, tmp_path: Path
) -> None:
    base = make_base(family)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    tokens = torch.tensor([[2, 6, 7, 3], [2, 8, 9, 3]])

    @torch.no_grad()
    def answers(own: Base) -> Tensor:
        found: Tensor = own.model(tokens).logits
        return found

    plain = answers(base)
    for method in OURS:
        trainable, _ = drawn(base, method)
        found, delta = answers(base), Delta.capture(trainable)
        assert delta.entries == len(trainable.spec)
        assert not torch.allclose(found, plain, atol=1e-2)
        trainable.undo()
        with delta.apply(base):
            assert torch.equal(answers(base), found)
        if method != "red" or family == "llama":
            with pytest.raises(DeltaError, match="cannot be merged"):
                merge(delta, base, tmp_path / method)
        else:
            merge(delta, base, tmp_path / method)
            torch.testing.assert_close(answers(load_base(str(tmp_path / method), keep_head=True)), found)
    after = base.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ["adapter", "hyper-adapter"])
def test_a_damaged_description_is_refused(base: Base, method: str) -> None:
    trainable, _ = drawn(base, method)
    delta = Delta.capture(trainable)
    trainable.undo()
    added = delta.info.added or {}
    inner = [*added["targets"][:-1], "bert.encoder.layer.0.intermediate.dense"]
    for change in ({"size": -1}, {"size": "wide"}, {"size": 10**15}, {"targets": inner}, {"targets": None}):
        damaged = Delta(delta.info.model_copy(update={"added": {**added, **change}}), {}, delta.values, delta.head)
        with pytest.raises(DeltaError):
            damaged.apply(base)
