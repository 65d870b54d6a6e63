from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from normtune.submission.files import FILES, AnswerFile, content, pack

NUMBERS, ENTAILED, INFERENCE = ("0", "1"), ("entailment", "not_entailment"), ("entailment", "neutral", "contradiction")
# Written down from the server's instructions, not from our table.
SERVER = {
    "CoLA.tsv": (1063, NUMBERS),
    "SST-2.tsv": (1821, NUMBERS),
    "MRPC.tsv": (1725, NUMBERS),
    "STS-B.tsv": (1379, ()),
    "QQP.tsv": (390965, NUMBERS),
    "MNLI-m.tsv": (9796, INFERENCE),
    "MNLI-mm.tsv": (9847, INFERENCE),
    "QNLI.tsv": (5463, ENTAILED),
    "RTE.tsv": (3000, ENTAILED),
    "WNLI.tsv": (146, NUMBERS),
    "AX.tsv": (1104, INFERENCE),
}


def named(title: str) -> AnswerFile:
    return next(file for file in FILES if file.title == title)


def test_the_eleven_files() -> None:
    assert {file.name: (file.rows, file.words) for file in FILES} == SERVER
    assert {file.title: file.place for file in FILES if file.split != "test" or file.task in {"mnli", "ax"}} == {
        "MNLI-m": "MNLI/test_matched.tsv",
        "MNLI-mm": "MNLI/test_mismatched.tsv",
        "AX": "AX/test.tsv",
    }
    assert {file.title: file.remark for file in FILES if file.remark} == {
        "WNLI": "majority class (not_entailment) for every row, no model",
        "AX": "answered by the model of MNLI",
    }


@pytest.mark.parametrize(
    ("title", "answers", "expected"),
    [
        ("CoLA", [1, 0], ["1", "0"]),
        ("RTE", [1, 0], ["not_entailment", "entailment"]),
        ("AX", [2, 0, 1], ["contradiction", "entailment", "neutral"]),
        ("STS-B", [-1.5, -0.0, 2.34567, 4.9999, 5.2, -1e-9], ["0.000", "0.000", "2.346", "5.000", "5.000", "0.000"]),
    ],
)
def test_content(title: str, answers: list[float], expected: list[str]) -> None:
    kind = np.float64 if title == "STS-B" else np.int64
    lines = content(named(title), np.array(answers, dtype=kind)).split("\n")
    assert lines == ["index\tprediction", *(f"{i}\t{word}" for i, word in enumerate(expected)), ""]


def test_the_same_contents_give_the_same_zip() -> None:
    packed = pack({"RTE.tsv": "a\n", "AX.tsv": "b\n"})
    assert packed == pack({"RTE.tsv": "a\n", "AX.tsv": "b\n"})
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"RTE.tsv": b"a\n", "AX.tsv": b"b\n"}
