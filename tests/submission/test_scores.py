from __future__ import annotations

import json
from pathlib import Path

import pytest

from normtune.errors import DataError
from normtune.submission.scores import read_scores

# As the website shows the details of a submission, copied into a file; the scores are BERT-large's.
WEBSITE = """Task\tMetric\tScore
The Corpus of Linguistic Acceptability\tMatthew's Corr\t60.5
The Stanford Sentiment Treebank\tAccuracy\t94.9
Microsoft Research Paraphrase Corpus\tF1 / Accuracy\t89.3/85.4
Semantic Textual Similarity Benchmark\tPearson-Spearman Corr\t87.6/86.5
Quora Question Pairs\tF1 / Accuracy\t72.1/89.3
MultiNLI Matched\tAccuracy\t86.7
MultiNLI Mismatched\tAccuracy\t85.9
Question NLI\tAccuracy\t92.7
Recognizing Textual Entailment\tAccuracy\t70.1
Winograd NLI\tAccuracy\t65.1
Diagnostics Main\tMatthew's Corr\t39.6
"""
EXPECTED = {
    "CoLA": {"matthews": 0.605},
    "SST-2": {"accuracy": 0.949},
    "MRPC": {"f1": 0.893, "accuracy": 0.854},
    "STS-B": {"pearson": 0.876, "spearman": 0.865},
    "QQP": {"f1": 0.721, "accuracy": 0.893},
    "MNLI-m": {"accuracy": 0.867},
    "MNLI-mm": {"accuracy": 0.859},
    "QNLI": {"accuracy": 0.927},
    "RTE": {"accuracy": 0.701},
    "WNLI": {"accuracy": 0.651},
    "AX": {"matthews": 0.396},
}


def reply(folder: Path, text: str, name: str = "reply.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_website(tmp_path: Path) -> None:
    assert read_scores(reply(tmp_path, "\ufeff" + WEBSITE)) == (EXPECTED, None)


@pytest.mark.parametrize(
    "text",
    [
        "task,score\nCoLA,60.5\nMRPC,89.3/85.4\nMNLI-m,86.7\nMNLI-mm,85.9\nScore,80.5\n",
        "cola,60.5\r\nmrpc_f1,89.3\r\nMRPC accuracy,85.4\r\nMNLI-(m/mm),86.7/85.9\r\n\r\noverall,80.5\r\n",
        'CoLA,mcc,60.5\nMRPC,F1,89.3\n"MRPC",acc,85.4\nMNLI,,86.7 / 85.9\naverage,80.5',
    ],
)
def test_rows(tmp_path: Path, text: str) -> None:
    scores, overall = read_scores(reply(tmp_path, text))
    assert scores == {title: EXPECTED[title] for title in ("CoLA", "MRPC", "MNLI-m", "MNLI-mm")}
    assert overall == 0.805


def test_json(tmp_path: Path) -> None:
    raw = {"cola": 60.5, "MRPC": {"f1": 89.3, "acc": "85.4"}, "STS-B": "87.6/86.5", "AX": -0.5, "overall": 80.5}
    scores, overall = read_scores(reply(tmp_path, json.dumps(raw), "reply.json"))
    assert scores == {**{title: EXPECTED[title] for title in ("CoLA", "MRPC", "STS-B")}, "AX": {"matthews": -0.005}}
    assert overall == 0.805


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.csv", "CoLA,60.5\nCola,mcc,61", "line 2: the score of CoLA matthews stands there twice"),
        ("r.csv", "CoLA,sixty", "line 1: the score 'sixty' is no number from -100 to 100"),
        ("r.csv", "RTE,-3", "line 1: the score '-3' is no number from 0 to 100"),
        ("r.csv", "RTE,nan", "'nan' is no number"),
        ("r.csv", "RTE,700", "'700' is no number"),
        ("r.csv", "MRPC,88", r"MRPC takes 2 scores \(MRPC f1 / MRPC accuracy\); got '88'"),
        ("r.csv", "RTE,88/87", r"RTE takes 1 score \(RTE accuracy\)"),
        ("r.csv", "RTE,f1,70", "Unknown GLUE task or metric 'RTE f1'"),
        ("r.csv", "RTF,70", "Did you mean 'RTE'"),
        ("r.csv", "RTE", "line 1: not a task"),
        ("r.csv", "RTE,0.7\nCoLA,0.6", "no score is above 1"),
        ("r.csv", "task,score\n", "holds no scores"),
        ("r.json", "{", "is no JSON"),
        ("r.json", "[1]", "no JSON object"),
        ("r.json", '{"RTE": true}', "'True' is no number"),
    ],
)
def test_what_cannot_be_true_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_scores(reply(tmp_path, text, name))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_bytes(b"RTE,\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        read_scores(tmp_path / "bad.csv")
