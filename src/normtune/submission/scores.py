"""The server's reply, as a person copies it from the website into a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from normtune.data.glue_tasks import GLUE
from normtune.data.task import plain
from normtune.errors import DataError, UnknownNameError
from normtune.submission.files import FILES, AnswerFile

#: A score is of a file and a metric; the average over tasks is of neither.
Key = tuple[str, str]
OVERALL: Key = ("overall", "")

#: What the website calls each file in a submission's details.
_LONG = {
    "CoLA": "The Corpus of Linguistic Acceptability",
    "SST-2": "The Stanford Sentiment Treebank",
    "MRPC": "Microsoft Research Paraphrase Corpus",
    "STS-B": "Semantic Textual Similarity Benchmark",
    "QQP": "Quora Question Pairs",
    "MNLI-m": "MultiNLI Matched",
    "MNLI-mm": "MultiNLI Mismatched",
    "QNLI": "Question NLI",
    "RTE": "Recognizing Textual Entailment",
    "WNLI": "Winograd NLI",
    "AX": "Diagnostics Main",
}
_METRICS = {
    "accuracy": ("accuracy", "acc"),
    "f1": ("f1", "f1 score"),
    "matthews": ("matthews", "mcc", "matthew's corr", "matthews corr", "matthews correlation"),
    "pearson": ("pearson", "pearson corr", "pearson correlation"),
    "spearman": ("spearman", "spearman corr", "spearman correlation"),
}
_MAY_BE_NEGATIVE = {"matthews", "pearson", "spearman"}


def read_scores(path: Path) -> tuple[dict[str, dict[str, float]], float | None]:
    """Read the server's reply.

    The file is JSON (``{"CoLA": 52.1, "MRPC": "88.9/84.8"}``, or a mapping by metric for each task), or CSV or TSV of
    task, metric (optional) and score. Tasks go by the files' names, by the website's, or with the metric behind
    (``MRPC F1``). Scores are the server's, times 100; two of one task stand in the server's order with a slash.

    Args:
        path: The file.

    Returns:
        Scores by file and metric and the average, or None where that is not given: as fractions of 1.

    Raises:
        DataError: If the file cannot be read, or a task, metric or score in it cannot be true.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8.") from error
    found: dict[Key, float] = {}
    for place, name, value in _json(path, text) if path.suffix == ".json" else _rows(path, text):
        for key, score in _scores(place, name, value):
            if key in found:
                raise DataError(f"{place}: the score of {' '.join(key).strip()} stands there twice.")
            found[key] = score
    if not found:
        raise DataError(f"{path} holds no scores.")
    if all(abs(score) <= 1 for score in found.values()):
        raise DataError(f"{path}: no score is above 1; give them as the server prints them, times 100.")
    overall = found.pop(OVERALL, None)
    scores: dict[str, dict[str, float]] = {}
    for (title, metric), score in found.items():
        scores.setdefault(title, {})[metric] = _fraction(score)
    return scores, None if overall is None else _fraction(overall)


def _fraction(score: float) -> float:
    return round(score / 100, 8)


def _json(path: Path, text: str) -> Iterator[tuple[str, str, str]]:
    """Where a score stands, its name and the score as text.

    Raises:
        DataError: If the file is no JSON object.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise DataError(f"{path} holds no JSON object of scores by task.")
    for task, value in raw.items():
        if isinstance(value, dict):
            yield from ((str(path), f"{task} {metric}", str(score)) for metric, score in value.items())
        else:
            yield str(path), task, str(value)


def _rows(path: Path, text: str) -> Iterator[tuple[str, str, str]]:
    """Where a score stands, its name and the score as text.

    Raises:
        DataError: If a line is no row of two or three columns.
    """
    separator = "\t" if "\t" in text else ","
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    for number, line in lines:
        cells = [cell.strip().strip('"') for cell in line.split(separator)]
        if len(cells) not in (2, 3):
            raise DataError(f"{path}, line {number}: not a task, perhaps a metric, and a score.")
        if number == lines[0][0] and plain(cells[-1]) in _HEADINGS:
            continue
        yield f"{path}, line {number}", " ".join(cells[:-1]), cells[-1]


_HEADINGS = {"score", "scores", "value", "result"}


def _scores(place: str, name: str, text: str) -> list[tuple[Key, float]]:
    """The scores that one entry gives.

    Raises:
        DataError: If its name is not known, or its scores are not as many or not as large as they may be.
    """
    keys = _KEYS.get(plain(name))
    if keys is None:
        unknown = UnknownNameError("GLUE task or metric", name, [file.title for file in FILES])
        raise DataError(f"{place}: {unknown}")
    parts = text.split("/")
    if len(parts) != len(keys):
        wanted = " / ".join(" ".join(key).strip() for key in keys)
        raise DataError(f"{place}: {name} takes {len(keys)} score{'s' * (len(keys) > 1)} ({wanted}); got {text!r}.")
    return [(key, _number(place, part, key)) for key, part in zip(keys, parts, strict=True)]


def _number(place: str, text: str, key: Key) -> float:
    """A score times 100.

    Raises:
        DataError: If it is no number, or out of the metric's range.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    lowest = -100 if key[1] in _MAY_BE_NEGATIVE else 0
    if not lowest <= value <= 100:
        raise DataError(f"{place}: the score {text.strip()!r} is no number from {lowest} to 100.")
    return value


def _names(file: AnswerFile) -> tuple[str, ...]:
    return (file.title, GLUE[file.task].name if file.task != "mnli" else file.title, _LONG[file.title])


def _known(files: Iterable[AnswerFile]) -> dict[str, tuple[Key, ...]]:
    """All names under which scores may stand, as they are compared, with the scores that each takes."""
    known: dict[str, tuple[Key, ...]] = {}
    for file in files:
        both = tuple((file.title, metric) for metric in file.metrics)
        endings: dict[str, tuple[Key, ...]] = {
            "": both,
            **{" ".join(words): both for words in product(*(_METRICS[metric] for metric in file.metrics))},
            **{word: ((file.title, metric),) for metric in file.metrics for word in _METRICS[metric]},
        }
        known |= {plain(name + ending): keys for name in _names(file) for ending, keys in endings.items()}
    matched = (("MNLI-m", "accuracy"), ("MNLI-mm", "accuracy"))
    known |= dict.fromkeys(("mnli", "mnliaccuracy", "mnlimmm"), matched)
    known |= dict.fromkeys(
        map(plain, ("overall", "overall score", "score", "average", "glue", "glue score")), (OVERALL,)
    )
    return known


_KEYS = _known(FILES)
