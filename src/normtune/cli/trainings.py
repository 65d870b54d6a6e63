"""What ``normtune train`` does: a table of runs, or the tasks of a manifest, planned, run and shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table as RichTable

from normtune.cli.options import console, notes
from normtune.cli.outputs import plain_record, show
from normtune.cli.progress import run_jobs, savings
from normtune.config import fingerprint
from normtune.errors import NormtuneError, TrainingError
from normtune.fast import bfloat16
from normtune.importance.masks import read_info
from normtune.records.run import Record
from normtune.studies import output
from normtune.studies.config import Setup
from normtune.studies.engine import Engine, Place
from normtune.studies.jobs import Job, Result, TrainJob
from normtune.studies.plan import Cell, mask_rows, method_rows, trainings
from normtune.studies.source import OwnFiles
from normtune.training.splits import parts_of


@dataclass(frozen=True)
class Wanted:
    """What is trained: every task under every method or mask, at every seed.

    Attributes:
        tasks: Names of the suite's tasks, or of tasks in the user's own files.
        methods: Names or expressions; none where there are masks.
        masks: Files of masks.
        seeds: Seeds, in order.
        rates: Rates to try, or None for the methods' own.
        search: Without `rates`: whether to search each method's grid rather than take its default.
    """

    tasks: tuple[tuple[str, OwnFiles | None], ...]
    methods: tuple[str, ...]
    masks: tuple[Path, ...]
    seeds: tuple[int, ...]
    rates: tuple[float, ...] | None
    search: bool

    @property
    def rows(self) -> list[str]:
        """Names of the methods and masks."""
        return [*self.methods, *dict.fromkeys(read_info(file).name for file in self.masks)]

    @property
    def many(self) -> bool:
        """Whether each run has a folder of its own inside the output folder."""
        return len(self.tasks) * len(self.rows) * len(self.seeds) > 1

    def folder(self) -> Path:
        """The output folder where none is named."""
        words = [*(name for name, _ in self.tasks), *self.rows]
        return Path("runs") / (output.safe("-".join(words)) if len(words) < 6 else "many")

    def plan(
        self, engine: Engine, tasks: list[TrainJob], folder: Callable[[TrainJob], Path | None]
    ) -> tuple[tuple[Job, ...], list[Cell]]:
        """The jobs of the table, and for each of its cells the runs that give its results."""
        session = engine.session
        rows = mask_rows(session, tasks, self.masks) if self.masks else method_rows(session, tasks, self.methods)
        return trainings(engine.setup, rows, self.seeds, rates=self.rates, search=self.search, folder=folder)


@dataclass(frozen=True)
class Kept:
    """Where what is trained is kept.

    Attributes:
        out: Output folder, or None to keep records only.
        records: Folder of records, or None to keep none beside the output folder.
        data: Folder of the suite, or None for the hub.
        track: Trackers.
    """

    out: Path | None
    records: Path | None
    data: Path | None
    track: tuple[str, ...]

    def place(self, records: Path | None = None) -> Place:
        """The place of the engine; `records` is the folder of records where none is named."""
        aside = None if self.out is None else self.out / output.UNFINISHED
        beside = self.records or self.out
        assert beside is not None
        return Place(
            results=aside or beside,
            data=self.data,
            checkpoints=aside is not None,
            deltas=aside is not None,
            records=self.records or records,
            track=self.track,
            logs=beside.parent / "tracking",
        )


def train_table(setup: Setup, wanted: Wanted, kept: Kept, *, as_json: bool) -> None:
    """Train a table, and show it.

    Args:
        setup: The base model, and how it is trained.
        wanted: What is trained.
        kept: Where results go.
        as_json: Whether to print JSON.

    Raises:
        TrainingError: At the end, if a run has no result.
    """
    engine, root, many = Engine(setup, kept.place()), kept.out, wanted.many
    tasks = [_load(engine, name, files) for name, files in wanted.tasks]  # what is missing is said before all else

    def folder(job: TrainJob) -> Path | None:
        if root is None or not many:
            return root
        return root / output.safe(job.task) / output.safe(job.method) / f"seed-{job.seed}"

    jobs, cells = wanted.plan(engine, tasks, folder)
    main = engine.session.accelerator.is_main_process  # of several processes, one writes and speaks
    if main and root is not None and output.claim(root, *_identity(engine, jobs, many=many)):
        notes.print(f"Continuing what was left unfinished in {root}.", highlight=False)
    if main:
        _warn(engine)
    engine.session.accelerator.wait_for_everyone()
    results = run_jobs(jobs, engine)
    if main and setup.prune is not None:
        notes.print(savings(jobs, results, setup.prune.margin, setup.protocol.epochs), highlight=False)
    lost = [cell for cell in cells if any(results[job.key].state != "done" for job in cell.runs)]
    if lost and len(cells) == 1:
        why = next(own.error for job in lost[0].runs if (own := results[job.key]).state != "done")
        raise TrainingError(f"{lost[0].method} on {lost[0].task}: {why}")
    if main:
        show(_records(engine, cells, results), many=many, as_json=as_json)
        if root is not None and not lost:
            output.finish(root)
        if root is not None and not as_json:
            console.print(f"Saved to {root}", highlight=False)
    if lost:
        raise TrainingError(f"{len(lost)} of {len(cells)} cells of the table lack results; the notes above say why.")


def train_manifest(setup: Setup, wanted: Wanted, kept: Kept, *, as_json: bool) -> None:
    """Train every task of a manifest into a folder of its own.

    A task whose folder holds the very run that is asked for is not trained again, so a call that was killed is
    continued by the same call. A task that fails is listed with its reason, and the others are trained.

    Args:
        setup: The base model, and how it is trained.
        wanted: The tasks, and one method and seed.
        kept: Where results go.
        as_json: Whether to print JSON.

    Raises:
        TrainingError: At the end, if any task failed.
    """
    assert kept.out is not None
    root, why, tasks = kept.out, dict[str, str](), list[TrainJob]()
    engine = Engine(setup, kept.place(root / ".records"))
    wanted.plan(engine, [], lambda _: None)  # a method that does not exist is refused once, not for every task
    for name, files in wanted.tasks:
        try:
            if output.read_state(root / name).kind == "foreign":
                output.claim(root / name, "")
            tasks.append(_load(engine, name, files))
        except NormtuneError as error:
            why[name] = str(error)
            notes.print(f"{name}: {error}", style="red", highlight=False, markup=False)
    jobs, cells = wanted.plan(engine, tasks, lambda job: root / job.task)
    results = run_jobs(jobs, engine)
    if not engine.session.accelerator.is_main_process:
        return
    done: dict[str, tuple[Record, bool]] = {}
    for cell in cells:
        (job,) = cell.runs
        result = results[job.key]
        if result.state == "done":
            done[cell.task] = engine.record(job, result), result.known
        else:
            why[cell.task] = result.error or ""
    _show_tasks([name for name, _ in wanted.tasks], done, why, root, as_json)
    output.finish(root)
    if why:
        raise TrainingError(f"{len(why)} of {len(wanted.tasks)} tasks failed: {', '.join(sorted(why))}.")


def _load(engine: Engine, name: str, files: OwnFiles | None) -> TrainJob:
    """A run on a task, without a method yet; what the author of its files should know is told on standard error."""
    found = engine.task(name, files)
    if found.labels_count:
        shown = ", ".join(f"{label} ({count:,})" for label, count in list(found.labels_count.items())[:8])
        more = f" and {len(found.labels_count) - 8} more" if len(found.labels_count) > 8 else ""
        notes.print(f"{len(found.labels_count)} classes: {shown}{more}", highlight=False, markup=False)
    for note in found.notes:
        notes.print(f"Note: {note}", highlight=False, markup=False)
    parts_of(found.data, engine.setup.protocol)
    return TrainJob(task=found.data.task.name, files=files, method="", seed=0)


def _warn(engine: Engine) -> None:
    """Say that products of bfloat16 are no faster here, where that is so."""
    rules, device = engine.setup.protocol, engine.session.accelerator.device
    if rules.products == "bfloat16" and device.type == "cpu" and not bfloat16.pays_off():
        notes.print("This processor has no products of bfloat16: float32 ones would be faster.", highlight=False)


def _identity(engine: Engine, jobs: tuple[Job, ...], *, many: bool) -> tuple[str, tuple[str, ...]]:
    """A training's identity, and those of the runs that may be its only result, as far as their rates are known."""
    runs = [job for job in jobs if isinstance(job, TrainJob)]
    known = tuple(engine.setup_run(job, {}).id for job in runs if job.rate is not None)
    words = [job.model_dump(mode="json", include={"task", "method", "seed", "rate", "beyond"}) for job in runs]
    return fingerprint({"runs": words, "known": known}), () if many else known


def _records(engine: Engine, cells: list[Cell], results: Mapping[str, Result]) -> list[Record]:
    """The records of a table, at the best rates."""
    runs = [job for cell in cells for job in cell.runs if results[job.key].state == "done"]
    return [engine.record(job, results[job.key]) for job in runs]


def _show_tasks(
    names: list[str], done: Mapping[str, tuple[Record, bool]], why: Mapping[str, str], root: Path, as_json: bool
) -> None:
    if as_json:
        plain = [
            {"name": name, "error": why.get(name), "record": plain_record(done[name][0]) if name in done else None}
            for name in names
        ]
        print(json.dumps(plain, indent=1))
        return
    table = RichTable(title=f"{len(names)} tasks in {root}", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("task", "metric", "dev", "classes", "examples", ""):
        table.add_column(column, justify="right" if column in {"dev", "classes", "examples"} else "left")
    for name in names:
        if name not in done:
            table.add_row(name, "", "failed", "", "", why[name], style="red")
            continue
        record, earlier = done[name]
        how, examples = "done before" if earlier else "", f"{record.data.train:,}"
        table.add_row(name, record.primary, f"{record.score:.4f}", str(record.outputs), examples, how)
    console.print(table)
