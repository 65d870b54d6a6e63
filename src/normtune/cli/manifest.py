"""``normtune train --manifest``: many tasks of one's own in one go."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from normtune.cli.options import console, notes, rates
from normtune.cli.outputs import RECORD, Outputs
from normtune.cli.sources import OwnFiles, own_source
from normtune.cli.watcher import Watcher
from normtune.errors import NormtuneError, TrainingError

if TYPE_CHECKING:
    from normtune.config import Protocol
    from normtune.records.run import Record
    from normtune.studies.manifest import Entry, Manifest
    from normtune.training.session import Session


@dataclass(frozen=True)
class Result:
    """What became of one task: its record, or why there is none; and whether an earlier call had done it."""

    name: str
    record: Record | None
    why: str = ""
    earlier: bool = False


def train_manifest(path: Path, out: Path | None, device: str, precision: str, as_json: bool) -> None:
    """Train every task of the manifest at `path` into a folder of its own below `out`.

    A task whose record is there already is not trained again, so a call that was killed is continued by the same call.
    A task that fails is listed with its reason, and the others are trained.

    Raises:
        TrainingError: At the end, if any task failed.
    """
    from normtune.config import protocol
    from normtune.models.device import accelerator
    from normtune.studies.manifest import read_manifest
    from normtune.training.session import Session

    manifest = read_manifest(path)
    chosen = protocol(manifest.protocol, epochs=manifest.epochs)
    session = Session(manifest.model, accelerator=accelerator(device, precision))
    session.spec(manifest.method)  # a method that does not exist is refused once, not for every task
    root = out or Path("runs") / path.stem
    with Watcher(len(manifest.tasks)) as watcher:
        results = [_one(session, manifest, entry, chosen, root / entry.name, watcher) for entry in manifest.tasks]
    _show(results, root, as_json)
    failed = [result for result in results if result.record is None]
    if failed:
        raise TrainingError(f"{len(failed)} of {len(results)} tasks failed: {', '.join(r.name for r in failed)}.")


def _one(
    session: Session, manifest: Manifest, entry: Entry, chosen: Protocol, folder: Path, watcher: Watcher
) -> Result:
    from normtune.records.run import Record
    from normtune.studies.runs import Runner, cells

    try:
        if (folder / RECORD).is_file():
            watcher.skip()
            return Result(entry.name, Record.load(folder / RECORD), earlier=True)
        own = OwnFiles(**entry.model_dump())
        data = own_source(own)
        rate_list, search = rates(None if manifest.lr is None else str(manifest.lr))
        [cell] = cells(
            session, [data], [manifest.method], [manifest.seed], protocol=chosen, rates=rate_list, search=search
        )
        outputs = Outputs(folder, many=False)
        outputs.claim()
        watcher.more(cell.runs - 1)
        runner = Runner(session, chosen, aside=outputs.aside, begin=watcher.begin, end=watcher.end, fail=watcher.fail)
        runs = runner.cell(cell)
        outputs.write(runs)
        outputs.finish()
        return Result(entry.name, runs[0].record)
    except NormtuneError as error:
        watcher.skip()
        notes.print(f"{entry.name}: {error}", style="red", highlight=False, markup=False)
        return Result(entry.name, None, str(error))


def _show(results: list[Result], root: Path, as_json: bool) -> None:
    if as_json:
        plain = [
            {
                "name": r.name,
                "error": r.why or None,
                "record": r.record and r.record.model_dump(mode="json", exclude={"changes"}),
            }
            for r in results
        ]
        print(json.dumps(plain, indent=1))
        return
    table = Table(title=f"{len(results)} tasks in {root}", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("task", "metric", "dev", "classes", "examples"):
        table.add_column(name, justify="left" if name in {"task", "metric"} else "right")
    table.add_column("")
    for result in results:
        record = result.record
        if record is None:
            table.add_row(result.name, "", "failed", "", "", result.why, style="red")
            continue
        how = "done before" if result.earlier else ""
        examples = f"{record.data.train:,}"
        table.add_row(result.name, record.primary, f"{record.score:.4f}", str(record.outputs), examples, how)
    console.print(table)
