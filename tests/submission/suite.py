"""What the tests of submissions share: a small GLUE with every test file, quickly made deltas, a reader of zips."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from normtune.data.glue_tasks import GLUE
from normtune.deltas.delta import Delta
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import Base
from normtune.models.head import HeadSpec
from normtune.submission.files import FILES

TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
#: Rows of each test file of the small GLUE.
ROWS = {"CoLA": 5, "SST-2": 4, "MRPC": 6, "STS-B": 7, "QQP": 9, "MNLI-m": 8, "MNLI-mm": 3, "QNLI": 5, "RTE": 6, "AX": 4}
#: The eleven files with the small GLUE's numbers of rows.
SMALL = tuple(replace(file, rows=ROWS.get(file.title, file.rows)) for file in FILES)
#: Where each test file lies, and its columns as GLUE publishes them.
TESTS: dict[str, tuple[str, str, bool]] = {
    "CoLA": ("CoLA/test.tsv", "index\tsentence", False),
    "SST-2": ("SST-2/test.tsv", "index\tsentence", False),
    "MRPC": ("MRPC/test.tsv", "index\t#1 String\t#2 String", True),
    "STS-B": ("STS-B/test.tsv", "index\tsentence1\tsentence2", True),
    "QQP": ("QQP/test.tsv", "id\tquestion1\tquestion2", True),
    "MNLI-m": ("MNLI/test_matched.tsv", "index\tsentence1\tsentence2", True),
    "MNLI-mm": ("MNLI/test_mismatched.tsv", "index\tsentence1\tsentence2", True),
    "QNLI": ("QNLI/test.tsv", "index\tquestion\tsentence", True),
    "RTE": ("RTE/test.tsv", "index\tsentence1\tsentence2", True),
    "AX": ("diagnostic/diagnostic.tsv", "index\tsentence1\tsentence2", True),
}
WORDS = (
    "the cat is old",
    "a dog reads",
    "no bird",
    "every great film was dull",
    "one child likes the river",
    "is it ?",
)

Text = str | tuple[str, str]


def texts(title: str) -> list[Text]:
    """The texts of a test file of the small GLUE."""
    start = list(TESTS).index(title)
    firsts = [f"{WORDS[(start + i) % 6]} {'very ' * i}good" for i in range(ROWS[title])]
    if not TESTS[title][2]:
        return list(firsts)
    return [(first, WORDS[(start + 2 * i + 1) % 6]) for i, first in enumerate(firsts)]


def write_suite(folder: Path) -> Path:
    """A folder with every test file, small."""
    for title, (name, header, _) in TESTS.items():
        rows = [text if isinstance(text, str) else "\t".join(text) for text in texts(title)]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *(f"{i}\t{row}" for i, row in enumerate(rows))]) + "\n", encoding="utf-8")
    return folder


def outputs(base: Base, given: Sequence[Text], limit: int = 64) -> torch.Tensor:
    """The model's outputs for texts, one at a time without our batching: of shape (texts, outputs)."""
    rows = []
    for text in given:
        words = (text,) if isinstance(text, str) else text
        inputs = base.need_tokenizer()(*words, truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            rows.append(base.model(**inputs).logits[0])
    return torch.stack(rows)


def make_delta(base: Base, name: str, given: Sequence[Text], /, **info: object) -> Delta:
    """A delta with an untrained head that gives every label for some of `given`; its scores go beyond 0..5."""
    asked = GLUE[name]
    swap = base.put_head(HeadSpec(asked.kind, asked.labels), 1)
    tuning = Trainable(base, select(base.layout, "layernorm"))
    delta = Delta.capture(tuning, **{"task": name, "pair": asked.pair, "method": "layernorm", **info})
    found = outputs(base, given, delta.info.max_length)
    tuning.undo()
    swap.undo()
    bias = next(name for name in delta.head if name.endswith("classifier.bias"))
    spread = {} if asked.labels else {"scale": 4 / float(found.std()), "center": 2.5}
    head = {**delta.head, bias: delta.head[bias] - found.mean(0)}
    return replace(delta, head=head, info=delta.info.model_copy(update=spread))


def save_deltas(base: Base, folder: Path, tasks: Sequence[str] = TASKS) -> dict[str, Path]:
    """Deltas for tasks of the small GLUE, in folders."""
    titles = {file.model: file.title for file in reversed(FILES) if file.model == file.task}
    return {task: make_delta(base, task, texts(titles[task])).save(folder / task).parent for task in tasks}


def read_zip(path: Path) -> dict[str, list[str]]:
    """The predictions of each file of a submission, read as the server would: a header, and indices from 0 up."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            text = archive.read(name).decode("ascii")
            assert text.endswith("\n")
            assert "\r" not in text
            header, *rows = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
            assert header == ["index", "prediction"]
            assert [row[0] for row in rows] == [str(number) for number in range(len(rows))]
            assert {len(row) for row in rows} == {2}
            found[name] = [row[1] for row in rows]
    return found
