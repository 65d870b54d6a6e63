"""The paper's printed results (ValizadehAslani and Liang 2024, arXiv:2403.20284), to compare ours with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normtune.statistics.scores import ScoreTable

MODEL = "bert-large-cased"

#: Columns of tables 2 and 3; MNLI-m and MNLI-mm are one model on two test sets.
TASKS = ("QNLI", "SST2", "MNLI-m", "MNLI-mm", "CoLA", "MRPC", "STSB", "RTE", "QQP")

#: Tables 2 (dev) and 3 (test): scores by split and method, in the order of `TASKS`.
TABLES: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "dev": {
        "full": (0.9143, 0.9335, 0.8559, 0.8567, 0.6554, 0.9239, 0.9091, 0.7653, 0.8769),
        "bitfit": (0.9145, 0.9278, 0.8399, 0.8457, 0.6364, 0.9183, 0.9043, 0.7473, 0.8476),
        "layernorm": (0.9072, 0.9312, 0.8285, 0.8348, 0.6412, 0.913, 0.9039, 0.7401, 0.8361),
        "random": (0.8975, 0.922, 0.8113, 0.8105, 0.5851, 0.8493, 0.8822, 0.6065, 0.8391),
    },
    "test": {
        "full": (0.917, 0.918, 0.849, 0.841, 0.59, 0.89, 0.872, 0.706, 0.696),
        "bitfit": (0.912, 0.928, 0.841, 0.838, 0.559, 0.877, 0.86, 0.687, 0.687),
        "layernorm": (0.91, 0.926, 0.831, 0.828, 0.542, 0.871, 0.865, 0.682, 0.669),
        "random": (0.894, 0.924, 0.811, 0.813, 0.52, 0.817, 0.804, 0.562, 0.666),
    },
}
METHODS = tuple(TABLES["dev"])

#: Entries that train, head included, with two labels.
TRAINED: Mapping[str, int] = {
    "full": 333_581_314,
    "bitfit": 274_434,
    "layernorm": 51_202,
    "random": 51_202,
}

#: Table 1: components by their mean Fisher information, the largest first.
RANKING = (
    "output.LayerNorm",
    "attention.output.LayerNorm",
    "attention.output.dense",
    "attention.self.value",
    "output.dense",
    "attention.self.query",
    "intermediate.dense",
    "attention.self.key",
)


def scores(split: str) -> ScoreTable:
    """The paper's scores, one seed each.

    Args:
        split: ``dev`` (table 2), ``test`` (table 3), or ``pooled`` for both, whose rows are not independent.
    """
    parts = [*TABLES] if split == "pooled" else [split]
    names = tuple(f"{task} {part}" for part in parts for task in TASKS) if split == "pooled" else TASKS
    rows = np.concatenate([np.array([TABLES[part][method] for method in METHODS]).T for part in parts])
    return ScoreTable(METHODS, names, tuple(rows[:, None, :]), (("",),) * len(names))
