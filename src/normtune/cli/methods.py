"""``normtune study methods``: the methods side by side on the toy suite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from normtune.cli.options import console
from normtune.errors import TrainingError

if TYPE_CHECKING:
    from normtune.data.task import TaskData
    from normtune.records.run import Record

TASKS = "sst2,stsb,rte"
METHODS = "head,full,bitfit,layernorm,random"
EPOCHS, MAX_TRAIN = 3, 1000


def compare(
    model: str,
    tasks: Sequence[str],
    methods: Sequence[str],
    *,
    seed: int,
    epochs: int,
    max_train: int,
    threads: int,
    as_json: bool,
) -> None:
    """Train every method once on every task of the toy suite, and show the scores.

    Args:
        model: Hub id, folder or packaged name.
        tasks: Tasks of the toy suite.
        methods: Methods to compare, each at its default rate, under the protocol small.
        seed: The seed.
        epochs: Passes over the training data.
        max_train: Training examples of each task.
        threads: Threads of the CPU.
        as_json: Whether to print JSON.
    """
    from normtune.cli.outputs import plain_record
    from normtune.cli.progress import run_jobs
    from normtune.config import protocol
    from normtune.studies.config import Setup
    from normtune.studies.engine import Engine, Place
    from normtune.studies.jobs import TrainJob
    from normtune.studies.plan import method_rows, trainings

    chosen = protocol("small", epochs=epochs, max_train=max_train)
    setup = Setup(model=model, suite="toy", protocol=chosen, threads=threads)
    with TemporaryDirectory() as folder:
        engine = Engine(setup, Place(results=Path(folder), checkpoints=False))
        sources = {name: engine.task(name).data for name in tasks}
        likes = [TrainJob(task=data.task.name, method="", seed=seed) for data in sources.values()]
        jobs, cells = trainings(setup, method_rows(engine.session, likes, methods), [seed])
        results = run_jobs(jobs, engine)
        runs = [(job, results[job.key]) for cell in cells for job in cell.runs]
        for job, result in runs:
            if result.state != "done":
                raise TrainingError(f"{job.method} on {job.task}: {result.error}")
        records = [engine.record(job, result) for job, result in runs]
    majority = {data.task.name: majority_score(data) for data in sources.values()}
    if as_json:
        plain = [plain_record(record) for record in records]
        print(json.dumps({"majority": majority, "records": plain}, indent=1))
        return
    console.print(_table(records, majority))
    facts = f"{records[0].data.train:,} examples, {epochs} epochs, seed {seed}, each method at its default rate"
    console.print(f"Toy suite (not GLUE), {model}, {facts}.", style="dim")
    console.print("Scores are on dev, x 100; seconds a mean over tasks; memory the process's largest.", style="dim")


def majority_score(data: TaskData) -> float:
    """The primary metric on dev of always answering train's commonest label, or train's mean."""
    import numpy as np

    from normtune.data.metrics import compute

    train, dev = data.labelled("train").labels, data.labelled("dev").labels
    assert train is not None
    assert dev is not None
    constant = train.mean() if data.task.kind == "regression" else np.bincount(train).argmax()
    guesses = np.full(len(dev), constant)
    return compute([data.task.primary], guesses, dev)[data.task.primary]


def _table(records: list[Record], majority: dict[str, float]) -> Table:
    from normtune.records.aggregate import tabulate

    scores = tabulate(records)
    table = Table(title="Dev scores of each method", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("method")
    primaries = {record.config.task: record.primary for record in records}
    for name in scores.tasks:
        table.add_column(f"{name}\n[dim]{primaries[name]}[/]", justify="right")
    for name in ("trained\nentries", "share", "seconds\na task", "peak\nmemory", "delta"):
        table.add_column(name, justify="right")
    table.add_row("majority class", *(f"{100 * majority[name]:.1f}" for name in scores.tasks), style="dim")
    for method in scores.methods:
        own = [record for record in records if record.config.method == method]
        cells = [scores.scores.get((method, name)) for name in scores.tasks]
        table.add_row(
            method,
            *("missing" if score is None else f"{100 * score.mean:.1f}" for score in cells),
            f"{own[0].counts.trained:,}",
            f"{own[0].counts.share:.3%}",
            f"{mean(record.seconds for record in own):.0f}",
            f"{max(record.peak_memory for record in own) / 2**20:,.0f} MiB",
            _bytes(max(record.delta_bytes for record in own)),
        )
    return table


def _bytes(count: int) -> str:
    if count < 10_000:
        return f"{count:,} B"
    return f"{count / 1000:,.0f} kB" if count < 10_000_000 else f"{count / 1e6:,.0f} MB"
