"""Fisher information and Wanda's norms of image models, beside loops in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from normtune.data.digits import load_digits
from normtune.importance.activations import feature_norms
from normtune.importance.fisher import Request, fisher
from normtune.methods.selection import everything
from normtune.models.base import load_base
from tests.conftest import PICTURES
from tests.importance.reference import assert_same, by_loop, in_float64

DATA = load_digits("digits")
#: What has no closed form; norms, linear layers and convolutions over all channels have one.
SLOW = {"vit": {"cls_token", "position_embeddings"}, "resnet": set(), "convnext": {"dwconv", "layer_scale_parameter"}}


@pytest.mark.parametrize("family", PICTURES)
def test_fisher_is_that_of_a_loop_over_pictures(image_folders: dict[str, Path], family: str) -> None:
    """Equation 2 of the paper, for every entry of every parameter, depthwise convolutions and class tokens included."""
    base = load_base(str(image_folders[family]), head=10)
    encoded = base.encode(DATA.split("train").take(range(4)), 128)
    encoded = replace(encoded, fields={"pixel_values": [own.double() for own in encoded.fields["pixel_values"]]})
    base = in_float64(base)
    everywhere = everything(base.layout)
    found = fisher(base, DATA.task, encoded, Request(everywhere, everywhere))
    assert found.scores is not None
    assert_same(dict(found.scores.values), by_loop(base, DATA.task, encoded), zero=1e-9)
    assert_same(found.totals, by_loop(base, DATA.task, encoded), zero=1e-9)
    assert {base.layout.by_name[name].component.split(".")[-1] for name in found.slow} == SLOW[family]


def test_what_a_convolution_and_a_batchnorm_multiply(image_folders: dict[str, Path]) -> None:
    """The norms of Sun et al. (2024, section 3), over all patches of all pictures, beside sums by hand."""
    base = load_base(str(image_folders["resnet"]), head=10)
    encoded = base.encode(DATA.split("train").take(range(3)), 128)
    names = [f"resnet.embedder.embedder.{name}" for name in ("convolution.weight", "normalization.weight")]
    found = feature_norms(base, encoded, [*names, names[1].replace("weight", "bias")])
    module = base.model.get_submodule("resnet.embedder.embedder")
    pixels = torch.stack([*encoded.fields["pixel_values"]])
    patches = functional.unfold(pixels, 7, padding=3, stride=2).double()  # (pictures, 49, places)
    weight: Tensor = base.model.get_parameter(names[0])
    wanted = patches.square().sum((0, 2)).sqrt().expand(len(weight), -1).flatten()
    np.testing.assert_allclose(found[names[0]], wanted, rtol=1e-5)
    norm = module.normalization
    outputs = module.convolution(pixels).double()
    scale = (norm.running_var + norm.eps).sqrt()[:, None, None]
    normalised = (outputs - norm.running_mean[:, None, None]) / scale
    np.testing.assert_allclose(found[names[1]], normalised.square().sum((0, 2, 3)).sqrt().detach(), rtol=1e-5)
    places = outputs[:, 0].numel()
    np.testing.assert_allclose(found[names[1].replace("weight", "bias")], [places**0.5] * len(weight))
