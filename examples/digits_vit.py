r"""A ViT of the size of scikit-learn's digits, untrained, as a folder that ``--model`` takes.

Train it on upright digits, then only parts of it on digits that lie on their side::

    python examples/digits_vit.py models/untrained
    normtune train --suite digits --task digits --model models/untrained --method full --lr 1e-3 \
        --protocol reduced,epochs=40 --out runs/upright
    normtune merge runs/upright --out models/digits-vit
    normtune study methods --suite digits --tasks turned --model models/digits-vit --methods head,layernorm,random,full
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessorPil


def main() -> None:
    """Draw the weights, and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model goes")
    folder: Path = parser.parse_args().folder
    torch.manual_seed(0)
    picture = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
    config = AutoConfig.for_model("vit", **picture, **sizes)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    print(f"Saved to {folder}")


if __name__ == "__main__":
    main()
