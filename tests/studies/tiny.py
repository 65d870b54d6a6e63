"""A tiny study on the toy suite, and how two results folders are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from normtune.config import protocol
from normtune.importance.masks import read_info
from normtune.records.fisher import FisherRecord
from normtune.records.results import Store
from normtune.studies.config import StudyConfig
from tests.training.test_session import comparable

RULES = protocol("small", epochs=1, batch_size=16, max_length=32, max_train=48, max_dev=32).model_copy(
    update={"rates": 2}
)
SIZES = "batch_size=16,max_length=32,max_train=48,max_dev=32"
#: The same for the command line, but for the number of rates.
OPTIONS = (*("--suite", "toy", "--protocol", f"small,epochs=1,{SIZES}", "--threads", "1", "--device", "cpu"),)


def config(model: Path, **changes: Any) -> StudyConfig:
    """Two tasks, two seeds, two fractions."""
    given = {
        "model": str(model),
        "suite": "toy",
        "tasks": ("rte", "sst2"),
        "sources": ("rte", "sst2"),
        "methods": ("head", "layernorm", "random"),
        "seeds": (0, 1),
        "fractions": (0.0, 0.1, 1.0),
        "protocol": RULES,
        "head_seeds": (0, 1),
        "examples": 12,
        "device": "cpu",
        "threads": 1,
        **changes,
    }
    return StudyConfig.model_validate(given)


def contents(results: Path) -> dict[str, object]:
    """All that a study left, by file, without what a rerun may change."""
    found: dict[str, object] = {record.id: comparable(record) for record in Store(results / "runs")}
    for path in sorted((results / "fisher").glob("*.json")):
        record = FisherRecord.load(path)
        found[path.name] = record.model_dump(mode="json", exclude={"seconds", "machine", "versions"})
        entries = load_file(path.with_suffix(".safetensors"))
        found[f"{path.stem} entries"] = {name: values.tolist() for name, values in entries.items()}
    for path in sorted((results / "masks").glob("*.safetensors")):
        found[path.name] = read_info(path).model_dump(mode="json", exclude={"versions"})
    found["study"] = json.loads((results / "study.json").read_text())
    return found
