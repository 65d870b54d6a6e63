"""The output folder of a training: what it must be before, what lies in it after."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from normtune.cli import render
from normtune.cli.options import console, notes
from normtune.deltas.card import model_card
from normtune.files import claim_folder, write_atomically
from normtune.records.aggregate import tabulate

if TYPE_CHECKING:
    from normtune.records.run import Record
    from normtune.studies.runs import Finished

RECORD, CURVE, CARD = "record.json", "curve.csv", "README.md"
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Outputs:
    """Where the results of a training go.

    Attributes:
        root: The folder, or None to keep records only.
        many: Whether each run has a folder of its own inside.
    """

    root: Path | None
    many: bool

    @classmethod
    def plan(cls, out: Path | None, tasks: list[str], methods: list[str], seeds: list[int], *, keep: bool) -> Outputs:
        """Decide on the folder: `out`, or one named after what is trained; none unless `keep`."""
        many = len(tasks) * len(methods) * len(seeds) > 1
        if not keep:
            return cls(None, many)
        name = _plain("-".join([*tasks, *methods])) if len(tasks) + len(methods) < 6 else "many"
        return cls(out or Path("runs") / name, many)

    @property
    def aside(self) -> Path | None:
        """Where the state of an unfinished training lies."""
        return None if self.root is None else self.root / _UNFINISHED

    def claim(self) -> None:
        """Make the folder, unless an unfinished training in it is to be continued.

        Raises:
            OutputError: If something else is in the folder.
        """
        if self.root is None or self.aside is None:
            return
        if self.aside.is_dir():
            notes.print(f"Continuing what was left unfinished in {self.root}.", highlight=False)
            return
        claim_folder(self.root)
        self.aside.mkdir()

    def write(self, runs: list[Finished]) -> None:
        """Write each run's delta, curve, model card and, last, its record."""
        if self.root is None:
            return
        for run in runs:
            assert run.delta is not None
            config = run.record.config
            folder = self.root / config.task / _plain(config.method) / f"seed-{config.seed}" if self.many else self.root
            if (folder / RECORD).exists():
                continue
            (folder / "delta.safetensors").unlink(missing_ok=True)
            run.delta.save(folder)
            write_atomically(folder / CURVE, _curve(run.record))
            write_atomically(folder / CARD, model_card(run.delta.info, run.record))
            run.record.save(folder / RECORD)

    def finish(self) -> None:
        """Remove the state that an unfinished training would have needed."""
        if self.aside is not None:
            shutil.rmtree(self.aside, ignore_errors=True)

    def show(self, results: list[list[Finished]], as_json: bool) -> None:
        """Print what came out: the records as JSON, a table, or for one run a few lines."""
        records = [run.record for runs in results for run in runs]
        if as_json:
            print(json.dumps([record.model_dump(mode="json", exclude={"changes"}) for record in records], indent=1))
        elif self.many:
            render.show([render.scores(tabulate(records))])
        elif records:
            self._show_one(records[0])
        if self.root is not None and not as_json:
            console.print(f"Saved to {self.root}", highlight=False)

    def _show_one(self, record: Record) -> None:
        counts, data = record.counts, record.data
        scores = ", ".join(f"{name} {value:.4f}" for name, value in record.scores["dev"].items())
        console.print(
            f"[bold]{record.config.task}[/] dev: {scores} (best of {len(record.curve)} epochs: {record.best_epoch})",
            highlight=False,
        )
        console.print(
            f"trained {counts.trained:,} of {counts.total:,} entries (a head of {counts.head:,} among them)"
            f" on {data.train:,} of {data.train_of:,} examples in {record.seconds:.0f} s;"
            f" {sum(data.truncated.values()):,} texts were cut to {record.config.protocol.max_length} tokens",
            highlight=False,
        )


def _curve(record: Record) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(record.curve[0].scores)
    writer.writerow(["epoch", "loss", *names, "seconds"])
    for point in record.curve:
        writer.writerow([point.epoch, point.loss, *(point.scores[name] for name in names), point.seconds])
    return text.getvalue()


def _plain(name: str) -> str:
    """A name that is safe in a path."""
    return re.sub(r"[^\w.,@+-]+", "_", name).strip("_.") or "run"
