"""Fisher information and Wanda's norms of image models, against loops in float64."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from normtune.data.digits import load_digits
from normtune.importance.activations import feature_norms
from normtune.importance.task_masks import TaskMasks
from normtune.methods.expression import specify
from normtune.methods.top import Top
from normtune.models.base import load_base

DATA = load_digits("digits")


def test_a_mask_of_pictures_is_of_how_they_are_read(image_folders: dict[str, Path], tmp_path: Path) -> None:
    own, train = Path(shutil.copytree(image_folders["vit"], tmp_path / "other")), DATA.split("train").take(range(16))
    fields = json.loads((own / "preprocessor_config.json").read_text())
    (own / "preprocessor_config.json").write_text(json.dumps({**fields, "image_std": [0.05], "do_normalize": True}))
    for folder in (image_folders["vit"], own):
        base = load_base(str(folder), head=10)
        top = specify(base.layout, "fish-mask")
        assert isinstance(top, Top)
        TaskMasks(base, tmp_path / "masks").selection(top, DATA, train, 16, threads=1)
    assert len([*(tmp_path / "masks").iterdir()]) == 2


def test_what_a_convolution_and_a_batchnorm_multiply(image_folders: dict[str, Path]) -> None:
    """The norms of Sun et al. (2024, section 3), over all patches of all pictures, against sums by hand."""
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
