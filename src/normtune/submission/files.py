"""The eleven files that the GLUE server takes: their names, labels and numbers of rows."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from normtune.data.glue import HIGHEST_SCORE
from normtune.data.glue_tasks import COLUMNS, GLUE

#: The answer for every row of WNLI: ``not_entailment``, 323 of the 635 training examples. Models that are fine-tuned on
#: WNLI do worse, so its score says nothing about a method.
WNLI_MAJORITY = 0

# A fixed date: the same answers give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class AnswerFile:
    """One file of a submission.

    Attributes:
        name: Its exact name.
        task: The task whose texts it answers.
        rows: How many answers the server wants.
        metrics: The metrics of its scores, in the server's order.
        split: The split of the task that holds the texts.
        model: The task whose delta answers, or None for the majority class.
        words: The name of each class in the file; empty if answers are numbers.
    """

    name: str
    task: str
    rows: int
    metrics: tuple[str, ...]
    split: str = "test"
    model: str | None = None
    words: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The file's name without its ending: ``MNLI-m``."""
        return self.name.removesuffix(".tsv")

    @property
    def place(self) -> str:
        """Where the texts are looked for first, in a folder in GLUE's layout."""
        return f"{GLUE[self.task].title}/{COLUMNS[self.task].files[self.split][0]}"

    @property
    def remark(self) -> str:
        """A warning for readers of its score, or nothing."""
        if self.model is None:
            return f"majority class ({GLUE[self.task].labels[WNLI_MAJORITY]}) for every row, no model"
        return "" if self.model == self.task else f"answered by the model of {GLUE[self.model].title}"


_NUMBERS = ("0", "1")
_F1 = ("f1", "accuracy")
_ACCURACY = ("accuracy",)
_MATTHEWS = ("matthews",)
_ENTAILED = GLUE["rte"].labels
_INFERENCE = GLUE["mnli"].labels

FILES = (
    AnswerFile("CoLA.tsv", "cola", 1063, _MATTHEWS, model="cola", words=_NUMBERS),
    AnswerFile("SST-2.tsv", "sst2", 1821, _ACCURACY, model="sst2", words=_NUMBERS),
    AnswerFile("MRPC.tsv", "mrpc", 1725, _F1, model="mrpc", words=_NUMBERS),
    AnswerFile("STS-B.tsv", "stsb", 1379, ("pearson", "spearman"), model="stsb"),
    AnswerFile("QQP.tsv", "qqp", 390_965, _F1, model="qqp", words=_NUMBERS),
    AnswerFile("MNLI-m.tsv", "mnli", 9796, _ACCURACY, model="mnli", words=_INFERENCE),
    AnswerFile("MNLI-mm.tsv", "mnli", 9847, _ACCURACY, "test_mismatched", model="mnli", words=_INFERENCE),
    AnswerFile("QNLI.tsv", "qnli", 5463, _ACCURACY, model="qnli", words=_ENTAILED),
    AnswerFile("RTE.tsv", "rte", 3000, _ACCURACY, model="rte", words=_ENTAILED),
    AnswerFile("WNLI.tsv", "wnli", 146, _ACCURACY, words=_NUMBERS),
    AnswerFile("AX.tsv", "ax", 1104, _MATTHEWS, model="mnli", words=_INFERENCE),
)
#: The tasks that need a delta, in the server's order.
TASKS = tuple(dict.fromkeys(file.model for file in FILES if file.model is not None))


def content(file: AnswerFile, answers: np.ndarray) -> str:
    """The text of a file: a header and a line for each row, separated by tabs.

    Rows are numbered from 0 in the order of the test file. Scores are clipped to 0..5 and have three decimals, as in
    GLUE's own baselines.

    Args:
        file: Which one.
        answers: Class numbers, or scores, of shape (rows,).
    """
    if file.words:
        cells = [file.words[int(answer)] for answer in answers]
    else:
        # Adding zero turns -0.0 into 0.0.
        cells = [f"{value:.3f}" for value in np.clip(answers, 0.0, HIGHEST_SCORE) + 0.0]
    return "index\tprediction\n" + "".join(f"{index}\t{cell}\n" for index, cell in enumerate(cells))


def pack(contents: Mapping[str, str]) -> bytes:
    """A zip of texts by file name; the same texts give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in contents.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()
