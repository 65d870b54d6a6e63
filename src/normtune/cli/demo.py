"""``normtune study methods``: the methods side by side on the toy suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.filesize import decimal

from normtune.cli import options, render
from normtune.config import read_protocol
from normtune.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normtune.data.task import TaskData
    from normtune.records.run import Record
    from normtune.report.table import Table

TASKS = "sst2,stsb,rte"
METHODS = "head,full,bitfit,layernorm,random"
PROTOCOL = "small,max_train=1000"


def compare(
    model: str, tasks: str | None, methods: str | None, seed: str, protocol: str | None, threads: int, form: render.Form
) -> None:
    """Train every method once on every task of the toy suite, at its default rate, and show the scores.

    Args:
        model: Hub id, folder or packaged name.
        tasks: Tasks of the toy suite, separated by commas; None takes a few.
        methods: Methods to compare, separated by commas; None takes the head and the paper's.
        seed: The seed.
        protocol: How they are trained; None takes little time.
        threads: Threads of the CPU.
        form: How results are printed.

    Raises:
        ConfigError: If there are several seeds.
        TrainingError: If a run has no result.
    """
    seeds = options.seeds(seed)
    if len(seeds) > 1:
        raise ConfigError("normtune study methods takes one seed; normtune study table2 takes several.")
    names, rules = options.names(tasks or TASKS), read_protocol(protocol or PROTOCOL)
    from normtune.cli.progress import run_jobs
    from normtune.cli.trainings import Wanted, load, plain_record
    from normtune.studies.config import Setup
    from normtune.studies.engine import Engine, Place

    setup = Setup(model=model, suite="toy", protocol=rules, threads=threads)
    wanted = Wanted(tuple((name, None) for name in names), tuple(options.methods(methods or METHODS)), tuple(seeds))
    with TemporaryDirectory() as folder:
        engine = Engine(setup, Place(results=Path(folder), checkpoints=False))
        jobs, cells = wanted.plan(engine, [load(engine, name, None) for name in names])
        results = run_jobs(jobs, engine)
        for result in results.values():
            if result.state != "done":
                raise TrainingError(str(result.error))
        records = [engine.record(job, results[job.key]) for cell in cells for job in cell]
        sources = [engine.task(name) for name in names]
    majority = {data.task.name: majority_score(data) for data in sources}
    facts = f"{records[0].data.train:,} examples, {rules.epochs} epochs, seed {seed}"
    parts: list[render.Part] = [
        _table(records, majority),
        f"Toy suite (not GLUE), {model}, {facts}, each method at its default rate.",
        "Scores are on dev, x 100; seconds a mean over tasks; memory the process's largest.",
    ]
    plain = {"majority": majority, "records": [plain_record(record) for record in records]}
    render.show(parts, form, plain=plain)


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


def _table(records: Sequence[Record], majority: Mapping[str, float]) -> Table:
    tasks = [*dict.fromkeys(record.config.task for record in records)]
    primaries = {record.config.task: record.primary for record in records}
    header = ["method", *(f"{name}, {primaries[name]}" for name in tasks), *("entries", "share", "seconds")]
    rows = [["majority class", *(f"{100 * majority[name]:.1f}" for name in tasks), *[""] * 5]]
    for method in dict.fromkeys(record.config.method for record in records):
        own = {record.config.task: record for record in records if record.config.method == method}
        counts = own[tasks[0]].counts
        rows.append([
            method,
            *(f"{100 * (own[name].score or 0):.1f}" for name in tasks),
            f"{counts.trained:,}",
            f"{counts.share:.3%}",
            f"{mean(record.seconds for record in own.values()):.0f}",
            decimal(max(record.peak_memory for record in own.values())),
            decimal(max(record.delta_bytes for record in own.values())),
        ])
    return render.table([*header, "peak memory", "delta"], rows, title="Dev scores of each method")
