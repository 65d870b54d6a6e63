"""GLUE's tasks, and where their columns and splits are in the official files and on the hub.

Wang et al., *GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding* (2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from normtune.data.task import PAIR, TEXT, Task

_INFERENCE = ("entailment", "neutral", "contradiction")
_ENTAILED = ("entailment", "not_entailment")
_ACCURACY = ("accuracy", "macro_f1")
_F1 = ("f1", "accuracy", "macro_f1")
_MATTHEWS = ("matthews", "macro_f1")


def _classes(
    name: str,
    title: str,
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    about: str,
    inputs: tuple[str, ...] = PAIR,
) -> Task:
    return Task(name, title, "classification", labels, metrics, inputs, about=about)


GLUE: Mapping[str, Task] = {
    task.name: task
    for task in (
        _classes("cola", "CoLA", ("unacceptable", "acceptable"), _MATTHEWS, "Is the sentence good English?", TEXT),
        _classes("sst2", "SST-2", ("negative", "positive"), _ACCURACY, "Does the review like the film?", TEXT),
        _classes("mrpc", "MRPC", ("not_equivalent", "equivalent"), _F1, "Do two sentences of the news say the same?"),
        Task("stsb", "STS-B", "regression", (), ("spearman", "pearson"), PAIR, about="How alike are two texts?"),
        _classes("qqp", "QQP", ("not_duplicate", "duplicate"), _F1, "Do two questions ask the same?"),
        _classes("mnli", "MNLI", _INFERENCE, _ACCURACY, "Does the second text follow, contradict, or neither?"),
        _classes("qnli", "QNLI", _ENTAILED, _ACCURACY, "Does the sentence answer the question?"),
        _classes("rte", "RTE", _ENTAILED, _ACCURACY, "Does the second text follow from the first?"),
        _classes("wnli", "WNLI", _ENTAILED[::-1], _ACCURACY, "Is the pronoun resolved as the second text says?"),
        _classes("ax", "AX", _INFERENCE, _MATTHEWS, "GLUE's diagnostics: MNLI's question, test only."),
    )
}


@dataclass(frozen=True)
class Columns:
    """Where a task's columns are, in its files and on the hub.

    Attributes:
        texts: Names of the text columns in the files.
        label: Name of the label column in the files.
        named: Whether the files hold labels by name; otherwise by number.
        hub_texts: Names of the text columns on the hub, where they differ.
        header: Names of all columns of the train and dev files, where these have no header line.
        folders: Other names that the task's folder may have.
        files: For each split, the names that its file may have; the first also gives the split's name on the hub.
        flawed: Whether the official train and dev files hold broken rows, which are left out.
        unsettled: The label of rows on which annotators did not agree; such rows are left out.
    """

    texts: tuple[str, ...]
    label: str = "label"
    named: bool = False
    hub_texts: tuple[str, ...] = ()
    header: tuple[str, ...] | None = None
    folders: tuple[str, ...] = ()
    files: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {split: (f"{split}.tsv",) for split in ("train", "dev", "test")}
    )
    flawed: bool = False
    unsettled: str | None = None


_SENTENCES = ("sentence1", "sentence2")
COLUMNS = {
    "cola": Columns(("sentence",), header=("source", "label", "original", "sentence")),
    "sst2": Columns(("sentence",)),
    "mrpc": Columns(("#1 String", "#2 String"), label="Quality", hub_texts=_SENTENCES),
    "stsb": Columns(_SENTENCES, label="score"),
    "qqp": Columns(("question1", "question2"), label="is_duplicate", flawed=True),
    "mnli": Columns(
        _SENTENCES,
        label="gold_label",
        named=True,
        hub_texts=("premise", "hypothesis"),
        files={
            "train": ("train.tsv",),
            "dev": ("dev_matched.tsv",),
            "dev_mismatched": ("dev_mismatched.tsv",),
            "test": ("test_matched.tsv",),
            "test_mismatched": ("test_mismatched.tsv",),
        },
        unsettled="-",
    ),
    "qnli": Columns(("question", "sentence"), named=True, folders=("QNLIv2",)),
    "rte": Columns(_SENTENCES, named=True),
    "wnli": Columns(_SENTENCES),
    "ax": Columns(
        _SENTENCES,
        hub_texts=("premise", "hypothesis"),
        folders=("diagnostic",),
        files={"test": ("test.tsv", "AX.tsv", "diagnostic.tsv")},
    ),
}


#: Further names: both parts of MNLI are one task, with two dev splits.
ALIASES = {**dict.fromkeys(("mnlim", "mnlimm", "mnlimatched", "mnlimismatched"), "mnli"), "diagnostic": "ax"}
