"""Records as one table: a row a run, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from normtune.errors import ConfigError, DataError

COLUMNS = ("id", "status", "task", "method", "rate", "seed", "protocol", "model", "primary", "score", "seconds")


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the records in `folder`, or in its ``runs``, by file name.

    Raises:
        DataError: If there are none, or a file is no record.
    """
    place = folder / "runs" if (folder / "runs").is_dir() else folder
    found = [_row(file) for file in sorted(place.glob("*.json"))]
    if not found:
        raise DataError(f"There are no records in {folder}.")
    return found


def _row(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        flat = {**record, **record["config"], "protocol": record["config"]["protocol"]["name"]}
        return {name: flat.get(name) for name in COLUMNS}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no record of a run.") from error


def frame(folder: Path | str) -> Any:
    """The records in `folder` as a pandas DataFrame, a row a run; scores are fractions, times seconds.

    Raises:
        ConfigError: If pandas is missing.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ConfigError("A DataFrame needs pandas: pip install pandas.") from error
    return pd.DataFrame(rows(Path(folder)), columns=list(COLUMNS))
