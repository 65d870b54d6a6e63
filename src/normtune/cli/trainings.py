"""Tables of trainings, and the tasks of a manifest: planned, run and shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from normtune.cli import render
from normtune.cli.options import notes, tell
from normtune.cli.progress import run_jobs
from normtune.config import fingerprint
from normtune.data.kinds import KINDS
from normtune.errors import ConfigError, NormtuneError, OutputError, TrainingError
from normtune.fast.linear import bfloat16_pays_off
from normtune.files import hold
from normtune.importance.masks import read_info
from normtune.records.aggregate import tabulate
from normtune.records.run import Record
from normtune.report.table import Entry
from normtune.studies import output
from normtune.studies.engine import Engine, Storage
from normtune.studies.jobs import Job, TrainJob
from normtune.studies.manifest import OwnFiles
from normtune.studies.plan import mask_rows, method_rows, trainings
from normtune.training.splits import parts_of

#: Gives the folder for the result of a run, or None.
Folder = Callable[[TrainJob], Path | None]


@dataclass(frozen=True)
class Trainings:
    """What is trained: every task under every method, at every seed.

    Attributes:
        tasks: Names of the suite's tasks, or of tasks in the user's own files.
        methods: Names, expressions, or files of masks (``*.safetensors``).
        seeds: Seeds, in order.
        rates: Rates to try, or None for the methods' own.
        search: Without `rates`: whether to search each method's grid rather than take its default.
    """

    tasks: tuple[tuple[str, OwnFiles | None], ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    rates: tuple[float, ...] | None = None
    search: bool = False

    @property
    def masks(self) -> list[Path]:
        """The files among the methods."""
        return [Path(method) for method in self.methods if method.endswith(".safetensors")]

    @property
    def named(self) -> list[str]:
        """The methods that are not files."""
        return [method for method in self.methods if not method.endswith(".safetensors")]

    @property
    def rows(self) -> list[str]:
        """Names of the methods and masks."""
        return [*self.named, *dict.fromkeys(read_info(file).name for file in self.masks)]

    @property
    def many(self) -> bool:
        """Whether each run has a folder of its own inside the output folder."""
        return len(self.tasks) * len(self.rows) * len(self.seeds) > 1

    def folder(self) -> Path:
        """The output folder where none is named."""
        words = [*(name for name, _ in self.tasks), *self.rows]
        return Path("runs") / (output.safe("-".join(words)) if len(words) < 6 else "many")

    def plan(
        self, engine: Engine, tasks: Sequence[TrainJob], folder: Folder = lambda _: None
    ) -> tuple[tuple[Job, ...], list[tuple[TrainJob, ...]]]:
        """The jobs of the table, and for each of its cells the runs that give its results.

        `tasks` has a run of each task, whatever its method, and `folder` gives the folder for the result of a run.
        """
        session = engine.session
        rows = [*method_rows(session, tasks, self.named), *mask_rows(session, tasks, self.masks)]
        if engine.setup.prune and (shared := [row.method for row, _ in rows if row.together]):
            raise ConfigError(f"--prune is for runs that train alone, and {shared[0]} trains these tasks together.")
        return trainings(engine.setup, rows, self.seeds, rates=self.rates, search=self.search, folder=folder)


def storage_of(out: Path | None, records: Path | None, data: Path | None, track: tuple[str, ...]) -> Storage:
    """The engine's storage for an output folder or, without one, for a folder of records alone."""
    beside = records or out
    assert beside is not None
    return Storage(
        results=beside if out is None else out / output.UNFINISHED,
        data=data,
        checkpoints=out is not None,
        deltas=out is not None,
        records=records,
        track=track,
        logs=beside.parent / "tracking",
    )


def holding(engine: Engine, out: Path | None) -> AbstractContextManager[None]:
    """Lock the output folder against other trainings; of several processes that train together, the main one does."""
    return hold(out) if out is not None and engine.session.accelerator.is_main_process else nullcontext()


def train_table(
    engine: Engine, wanted: Trainings, out: Path | None, form: render.Form, *, overwrite: bool = False
) -> None:
    """Train a table, and show it; a run without a result raises an error at the end.

    Without an output folder only records are kept; `overwrite` replaces another training in that folder.
    """
    if out is not None and out.suffix == ".safetensors":
        raise ConfigError(f"--out is a folder, and {out} would be taken for a delta's file; choose another name.")
    tasks = [load(engine, name, files) for name, files in wanted.tasks]  # missing data is reported first
    many, main = wanted.many, engine.session.accelerator.is_main_process

    def folder(job: TrainJob) -> Path | None:
        if out is None or not many:
            return out
        return out / output.safe(job.task) / output.safe(job.method) / f"seed-{job.seed}"

    jobs, cells = wanted.plan(engine, tasks, folder)
    training, runs = _identity(engine, jobs, many=many)
    ends = [job for cell in cells for job in cell]
    finished = out is not None and output.read_state(out).training == training
    finished &= all(job.out is not None and (job.out / output.RECORD).is_file() for job in ends)
    finished &= not _tell_lost(engine, ends)
    engine.session.accelerator.wait_for_everyone()  # all processes look before one of them writes
    if main and not finished:  # of several processes, one writes and prints
        if out is not None and output.claim(out, training, runs, overwrite=overwrite):
            notes.print(f"Continuing what was left unfinished in {out}.")
        rules, device = engine.setup.protocol, engine.session.accelerator.device
        if rules.products == "bfloat16" and device.type == "cpu" and not bfloat16_pays_off():
            notes.print("This processor has no products of bfloat16: float32 ones would be faster.")
    engine.session.accelerator.wait_for_everyone()
    results = {} if finished else run_jobs(jobs, engine)
    done = [[job for job in cell if finished or results[job.key].state == "done"] for cell in cells]
    lost = [cell for cell, runs in zip(cells, done, strict=True) if len(runs) < len(cell)]
    if lost and len(cells) == 1:
        job, why = next((job, own.error) for job in lost[0] if (own := results[job.key]).state != "done")
        raise TrainingError(f"{job.method} on {job.task}: {why}")
    if main:
        records = [engine.record(job, results.get(job.key)) for own in done for job in own]
        saved = [f"{'Done before, in' if finished else 'Saved to'} {out}"] if out is not None else []
        parts = [render.scores(tabulate(records))] if many else _facts(records[0], engine, ends[0])
        render.show([*parts, *saved], form, plain=[plain_record(record) for record in records])
        if out is not None and not lost:
            if overwrite:
                output.clear(out, [job.out for job in ends if job.out is not None])
            output.finish(out)
    if lost:
        raise TrainingError(f"{len(lost)} of {len(cells)} cells of the table lack results; the notes above say why.")


def train_manifest(engine: Engine, wanted: Trainings, out: Path, form: render.Form) -> None:
    """Train every task of a manifest into a folder of its own.

    A task whose folder already holds this very run is not trained again, so repeating a killed call continues it. A
    task that fails is listed with its reason; the others are trained, then an error is raised.
    """
    state = output.read_state(out)
    if state.kind == "finished" or state.id:
        raise OutputError(f"The output {out} holds another training: choose another place.")
    wanted.plan(engine, [])  # a method that does not exist is refused once, not for every task
    why, tasks = dict[str, str](), list[TrainJob]()
    for name, files in wanted.tasks:
        try:
            if output.read_state(out / name).kind == "foreign":
                output.claim(out / name, "")
            tasks.append(load(engine, name, files, called=f"{name}: "))
        except NormtuneError as error:
            why[name] = str(error)
            notes.print(f"{name}: {error}", style="red", soft_wrap=True)
    jobs, cells = wanted.plan(engine, tasks, lambda job: out / job.task)
    _tell_lost(engine, [job for cell in cells for job in cell])
    results = run_jobs(jobs, engine)
    if not engine.session.accelerator.is_main_process:
        return
    records, earlier = dict[str, Record](), set[str]()
    for (job,) in cells:
        result = results[job.key]
        if result.state == "done":
            records[job.task] = engine.record(job, result)
            earlier |= {job.task} if result.known else set()
        else:
            why[job.task] = result.error or ""
    rows, plain = list[list[str | Entry]](), list[dict[str, object]]()
    for name, files in wanted.tasks:
        own = records.get(name)
        plain.append({"name": name, "error": why.get(name), "record": None if own is None else plain_record(own)})
        if own is None:
            rows.append([name, "", "", Entry("failed", kind="bad"), "", ""])
        else:
            classes = str(own.outputs) if files and KINDS[files.asks].named else ""
            counts = (f"{own.score:.4f}", classes, f"{own.data.train:,}")
            rows.append([name, own.primary, "done before" if name in earlier else "", *counts])
    header = ("task", "metric", "", "dev", "classes", "examples")
    shown = render.table(header, rows, title=f"{len(rows)} tasks in {out}", texts=3)
    failures = [f"{name}: {why[name]}" for name, _ in wanted.tasks if name in why]
    render.show([shown, *failures], form, plain=plain)
    if why:  # keep the unfinished state of failed tasks for the next call
        raise TrainingError(f"{len(why)} of {len(rows)} tasks failed: {', '.join(sorted(why))}.")
    output.finish(out)


def _tell_lost(engine: Engine, jobs: Sequence[TrainJob]) -> bool:
    """Print which finished runs have a missing or damaged delta; returns whether there are any."""
    lost = [job.out for job in jobs if job.out is not None and output.lost(job.out)]
    for folder in lost if engine.session.accelerator.is_main_process else ():
        notes.print(f"The delta in {folder} is missing or damaged, so it is made again.", soft_wrap=True)
    return bool(lost)


def plain_record(record: Record) -> dict[str, object]:
    """A record as JSON data, without how far each parameter moved."""
    return record.model_dump(mode="json", exclude={"changes"})


def load(engine: Engine, name: str, files: OwnFiles | None, called: str = "") -> TrainJob:
    """A run on a task, without a method yet; notes on the user's files go to standard error.

    Each note begins with `called`, which names the task where there are several.
    """
    found = engine.task(name, files)
    if found.labels_count:
        named = [*found.labels_count.items()][:8]
        shown = ", ".join(f"{render.shortened(name)} ({count:,})" for name, count in named)
        more = f" and {len(found.labels_count) - 8} more" if len(found.labels_count) > 8 else ""
        notes.print(f"{called}{len(found.labels_count)} classes: {shown}{more}")
    tell([f"{called}{note}" for note in found.notes])
    parts_of(found, engine.setup.protocol)
    return TrainJob(task=found.task.name, files=files, method="", seed=0)


def _identity(engine: Engine, jobs: Sequence[Job], *, many: bool) -> tuple[str, tuple[str, ...]]:
    """A training's identity, and those of the runs that may be its only result and whose rates are known."""
    runs = [job for job in jobs if isinstance(job, TrainJob)]
    known = tuple(engine.setup_run(job, {}).id for job in runs if job.rate is not None)
    words = [job.model_dump(mode="json", include={"task", "method", "seed", "rate", "beyond"}) for job in runs]
    return fingerprint({"runs": words, "known": known}), () if many else known


def _facts(record: Record, engine: Engine, job: TrainJob) -> list[str]:
    """The result of one run, in words."""
    counts, data, config, session = record.counts, record.data, record.config, engine.session
    taken = session.spec(config.method).positions if config.mask is None else 0
    limit = session.base.limit(config.protocol.max_length, taken)
    texts = session.base.reads == "text"
    cut = f"; {sum(data.truncated.values()):,} texts were cut to {limit} tokens" if texts else ""
    scores = render.metrics(record.scores["dev"], engine.data(job).task.labels)
    return [
        f"{config.task} dev: {scores} (best of {len(record.curve)} epochs: {record.best_epoch})",
        f"trained {counts.trained:,} of {counts.total:,} entries (a head of {counts.head:,} among them)"
        f" on {data.train:,} of {data.train_of:,} examples, scored on {data.dev:,}, in {record.seconds:.0f} s{cut}",
    ]
