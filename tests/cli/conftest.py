"""A small folder in GLUE's layout, and the options of small trainings on it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder in GLUE's layout with a small SST-2, RTE and STS-B of our own."""
    words = ("cat", "dog", "bird", "mat")
    films = [f"the {word} {verb}\t{int(verb == 'sat')}" for word in words for verb in ("sat", "ran")] * 3
    pairs = [
        f"{i}\tthe {a} sat\ta {b} sat\t{'entailment' if a == b else 'not_entailment'}"
        for i, (a, b) in enumerate((a, b) for a in words for b in words)
    ]
    scores = [
        "\t".join([*["-"] * 7, f"the {a} sat", f"the {b} sat", f"{5 * (a == b):.3f}"]) for a in words for b in words
    ]
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    for name, head, rows in (
        ("SST-2", "sentence\tlabel", films),
        ("RTE", "index\tsentence1\tsentence2\tlabel", pairs),
        ("STS-B", header, scores),
    ):
        folder = tmp_path / "glue" / name
        folder.mkdir(parents=True)
        for split in ("train", "dev"):
            (folder / f"{split}.tsv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return tmp_path / "glue"


@pytest.fixture
def small(tiny_folder: Path, suite: Path) -> list[str]:
    """Options of every training here."""
    return ["--model", str(tiny_folder), "--data", str(suite), "--protocol", "small,epochs=1", "--device", "cpu"]
