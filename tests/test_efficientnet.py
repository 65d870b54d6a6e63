"""`examples/efficientnet.py`: what it converts answers as Lite0 in plain torch, whatever the weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageClassification

from normtune.methods.expression import select
from normtune.models.base import load_base

FILE = Path(__file__).parent.parent / "examples" / "efficientnet.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("efficientnet", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(script: ModuleType) -> dict[str, Tensor]:
    """Random weights with Lite0's names and shapes, scaled so that pictures reach the outputs."""
    sizes = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "num_labels": 1000}
    with torch.device("meta"):
        twin = AutoModelForImageClassification.from_config(AutoConfig.for_model("efficientnet", **sizes)).state_dict()
    modules = [*script.OUTSIDE, *(f"_blocks.{block}.{name}" for block in range(16) for name in script.NAMES)]
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    generator, made = torch.Generator().manual_seed(0), {}
    for name in (f"{module}.{leaf}" for module in modules for leaf in leaves):
        if (own := twin.get(script.renamed(name))) is not None:
            drawn = torch.randn(own.shape, generator=generator)
            if own.ndim > 1:
                made[name] = drawn * (2 / own[0].numel()) ** 0.5
            else:  # a norm that changes little, so that rounding does not grow from layer to layer
                made[name] = (0.1 * drawn + name.endswith((".weight", "running_var"))).abs().to(own.dtype)
    return made


def test_the_converted_model_is_lite0(script: ModuleType, weights: dict[str, Tensor], tmp_path: Path) -> None:
    trained = {name: value.numel() for name, value in weights.items() if name.endswith((".weight", ".bias"))}
    assert sum(trained.values()) == 4_652_008  # published as 4.65 million
    for size in (64, 96):
        assert script.compare(script.convert(weights, size), weights, size) < 1e-4
    model = script.convert(weights, 64)
    script.save(model, tmp_path, 64)
    base = load_base(str(tmp_path), head=10)
    assert len(select(base.layout, "batchnorm")) == 42_016
    assert base.layout.size == 4_652_008 - 1281 * 1000 + 26_896  # without a head, with the neutral layers
    assert {place.parameter.rpartition(".")[0] for place in base.layout if place.batch} == {
        script.renamed(f"{name}.weight").removesuffix(".weight")
        for name in {name.rpartition(".")[0] for name in weights if name.endswith("running_mean")}
    }
    pixels = base.reader.processor(torch.zeros(3, 28, 28, dtype=torch.uint8), return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 3, 64, 64)
    torch.testing.assert_close(pixels["pixel_values"], torch.full((1, 3, 64, 64), -127 / 128))


def test_the_neutral_layers_have_no_gradient(script: ModuleType, weights: dict[str, Tensor]) -> None:
    model = script.convert(weights, 32).requires_grad_()
    model(pixel_values=torch.ones(1, 3, 32, 32)).logits.sum().backward()
    neutral = [value.grad for name, value in model.named_parameters() if ".squeeze_excite." in name]
    assert sum(grad.numel() for grad in neutral) == 26_896
    assert not any(bool(grad.any()) for grad in neutral)


def test_another_model_is_told(script: ModuleType, weights: dict[str, Tensor]) -> None:
    model = script.convert(weights, 32)
    with torch.no_grad():
        model.efficientnet.encoder.blocks[3].squeeze_excite.expand.bias.fill_(0.0)
    with pytest.raises(SystemExit, match="answers otherwise than Lite0"):
        script.compare(model, weights, 32)
