"""Records as one table, against the files themselves."""

from __future__ import annotations

import json

import pytest

from normtune.errors import DataError
from normtune.studies.database import rows


def test_a_row_says_what_the_record_says(tmp_path):
    config = {"task": "rte", "method": "head", "rate": 0.1, "seed": 3, "model": "m", "protocol": {"name": "small"}}
    record = {"id": "a", "status": "done", "config": config, "primary": "accuracy", "score": 0.5, "seconds": 2.0}
    (tmp_path / "a.json").write_text(json.dumps(record), encoding="utf-8")
    (row,) = rows(tmp_path)
    assert {k: row[k] for k in ("id", "task", "seed", "score")} == {"id": "a", "task": "rte", "seed": 3, "score": 0.5}
    assert row["protocol"] == "small"


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no records"):
        rows(tmp_path)
    (tmp_path / "a.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="no record of a run"):
        rows(tmp_path)
