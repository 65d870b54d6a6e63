"""A store of records: one JSON file a run, named after the run's identity, so that nothing is run twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from normtune.records.run import Record


class Store:
    """Records in a folder.

    Args:
        folder: Where they lie; it is made when the first is put in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: str) -> Path:
        """The file of the run called `identity`."""
        return self.folder / f"{identity}.json"

    def get(self, identity: str) -> Record | None:
        """The record of a finished run, or None where there is none."""
        path = self.path(identity)
        return Record.load(path) if path.is_file() else None

    def put(self, record: Record) -> None:
        """Write a record, whole or not at all."""
        record.save(self.path(record.id))

    def __iter__(self) -> Iterator[Record]:
        """Every record, in the order of their names."""
        for path in sorted(self.folder.glob("*.json")):
            yield Record.load(path)
