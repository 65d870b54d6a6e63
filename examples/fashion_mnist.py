r"""Fashion-MNIST (70,000 grey pictures of clothes, 28 by 28 pixels) as files that ``--train`` takes, from Debian.

It needs ``apt-get`` and ``dpkg-deb``; nothing is installed::

    python examples/fashion_mnist.py data/fashion
    normtune train --train data/fashion/fashion.yaml --model models/lite0 --method batchnorm --protocol reduced \
        --out runs/fashion
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGE = "dataset-fashion-mnist"
SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
#: The manifest of the task.
MANIFEST = """\
tasks:
  - {name: fashion-mnist, train: train-images-idx3-ubyte.gz, dev: t10k-images-idx3-ubyte.gz}
"""


def main() -> None:
    """Fetch, check and copy the files, and write a manifest of the task.

    Raises:
        SystemExit: If a file is not the one expected.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go")
    folder: Path = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as fetched:
        subprocess.run(["apt-get", "download", "--quiet", PACKAGE], cwd=fetched, check=True)
        [archive] = Path(fetched).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", archive, fetched], check=True)
        found = Path(fetched, "usr", "share", "datasets", "fashion-mnist")
        for name, expected in SHA256.items():
            if hashlib.sha256((found / name).read_bytes()).hexdigest() != expected:
                raise SystemExit(f"{name} is not the one of 2017: its SHA-256 differs. Nothing was written.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHA256:
            shutil.copyfile(found / name, folder / name)
    (folder / "fashion.yaml").write_text(MANIFEST, encoding="utf-8")
    print(f"Saved to {folder}")


if __name__ == "__main__":
    main()
