"""How a study's plan and its results are printed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from normtune.cli import render
from normtune.cli.progress import is_tried, savings
from normtune.config import Protocol
from normtune.data.task import TaskData
from normtune.records.results import Results
from normtune.records.run import Record
from normtune.report.cells import Cells
from normtune.report.comparisons import against_layernorm
from normtune.report.methods import methods_table
from normtune.report.table import Table
from normtune.statistics.comparison import sentence
from normtune.studies.jobs import Job, MaskJob, Result, TrainJob, describe
from normtune.studies.study import Study
from normtune.training.splits import parts_of

#: How many jobs without a result are listed.
_REASONS = 20


def unanswered(jobs: Sequence[Job], results: Mapping[str, Result]) -> list[Job]:
    """The jobs without a result, except for rates that failed while another rate of the same search worked.

    A rate that was dropped early has a result: it lost.
    """
    done = {_search(job) for job in jobs if _word(job, results) in _DONE}
    return [
        job
        for job in jobs
        if (word := _word(job, results)) not in {*_DONE, "pruned", "skipped"}
        and not (word == "failed" and is_tried(job) and _search(job) in done)
    ]


def _search(job: Job) -> object:
    return (job.task, job.method, job.seed, job.mask) if isinstance(job, TrainJob) else job.key


# The plan


def show_plan(study: Study, seconds: Mapping[str, float], workers: int, form: render.Form) -> None:
    """Print a study's plan for so many workers; `seconds` has the times of its missing jobs, as far as known."""
    total, config = _total(study.missing, seconds), study.config
    jobs = _needed(study.jobs, study.known)
    known = len(jobs) - len(study.missing)
    plan = [_plain(job, study.known.get(job.key), seconds.get(job.key)) for job in jobs]
    facts = {"jobs": len(jobs), "known": known, "seconds": total, "workers": workers}
    plain = {**facts, "config": config.model_dump(mode="json"), "plan": plan}
    count = Counter(job.kind for job in jobs)
    bound = "up to " if any(isinstance(job, TrainJob) and job.beyond for job in study.missing) else ""
    made = f"{bound}{count['train']} runs, {count['fisher']} measurements, {count['mask']} masks"
    counted = f"{made}: {known} of {len(jobs)} known in {study.engine.storage.results}."
    each = f"{config.threads} thread{'s' if config.threads > 1 else ''} each"
    lines = [f"Protocol {config.protocol.name}; {each}, which are part of a record's identity (--threads)."]
    if study.missing:
        time = "unknown" if total is None else f"about {_time(total / workers)}"
        lines.append(f"Time left: {time} with {workers} worker{'s' if workers > 1 else ''} on this machine.")
    render.show([_plan_table(study, jobs, seconds), counted, *lines], form, plain=plain)


def _total(jobs: Sequence[Job], seconds: Mapping[str, float]) -> float | None:
    """Total seconds of `jobs`; None if one is not known."""
    return sum(seconds[job.key] for job in jobs) if {job.key for job in jobs} <= seconds.keys() else None


def _needed(jobs: Sequence[Job], results: Mapping[str, Result]) -> list[Job]:
    """The jobs without the rates that turned out not to be needed."""
    return [job for job in jobs if _word(job, results) != "skipped"]


def _plain(job: Job, known: Result | None, seconds: float | None) -> dict[str, object]:
    return {
        "key": job.key,
        **job.model_dump(mode="json"),
        "needs": job.needs,
        "state": "missing" if known is None else known.state,
        "id": None if known is None else known.id,
        "seconds": None if known is not None else seconds,
    }


def _plan_table(study: Study, every: Sequence[Job], seconds: Mapping[str, float]) -> Table:
    groups: dict[tuple[str, str, str], list[Job]] = defaultdict(list)
    for job in every:
        masked = isinstance(job, MaskJob) or (isinstance(job, TrainJob) and job.mask is not None)
        groups[job.kind, job.task or "all", job.about.split("@")[0] if masked else job.about].append(job)
    rows = []
    for (kind, task, about), jobs in groups.items():
        todo = [job for job in jobs if job.key not in study.known]
        counts = (len(jobs), len(jobs) - len(todo), len(todo))
        time = _time(_total(todo, seconds)) if todo else ""
        rows.append((kind, task, about, *(f"{n:,}" for n in counts), time))
    return render.table(("kind", "task", "method", "jobs", "known", "to do", "time"), rows, texts=3)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# The results


def show_summary(study: Study, results: Mapping[str, Result], form: render.Form, *, methods: bool = False) -> None:
    """Print the outcomes of a study's jobs and, if `methods` is set, its scores as a table of methods."""
    every, rule = _needed(study.jobs, results), study.config.prune
    counts = Counter(_word(job, results) for job in every)
    errors = {key: result.error for key, result in results.items()}
    plain = {
        **{name: counts[name] for name in _WORDS},
        "saved_epochs": sum(result.saved for result in results.values()),
        "jobs": [{**_plain(job, results.get(job.key), None), "error": errors.get(job.key)} for job in every],
    }
    said = ", ".join(f"{counts[name]} {name}" for name in _WORDS if counts[name])
    lines: list[render.Block] = [f"{len(every)} jobs: {said}. Results are in {study.engine.storage.results}."]
    if rule is not None:
        lines.append(savings(every, results, rule.margin, study.config.protocol.epochs))
    lost = [job for job in every if _word(job, results) in {"failed", "blocked", "missing"}]
    for job in lost[:_REASONS]:
        lines.append(f"{_word(job, results)}: {describe(job)}: {errors.get(job.key, 'not run yet')}")
    if len(lost) > _REASONS:
        lines.append(f"and {len(lost) - _REASONS} more")
    if methods:
        runs = [job for job in every if isinstance(job, TrainJob) and _word(job, results) in _DONE]
        records = {results[job.key].id: study.engine.record(job, results[job.key]) for job in runs}
        plain["records"] = [record.model_dump(mode="json", exclude={"changes"}) for record in records.values()]
        lines += _methods(study, tuple(records.values())) if records else []
    render.show(lines, form, plain=plain)


def _methods(study: Study, records: tuple[Record, ...]) -> list[render.Block]:
    """Methods side by side: scores and costs, tests against LayerNorm, and notes that a reader needs."""
    config, engine = study.config, study.engine
    cells = Cells(Results(records, (), config.seeds))
    table = methods_table(cells)
    comparison, notes = against_layernorm(cells)
    files = {str(own.name): own for own in config.files}
    tasks = [engine.task(task, files.get(task)) for task in config.tasks]
    floors = [
        f"{data.task.name} {100 * low:.1f}" for data in tasks if (low := _floor(data, config.protocol)) is not None
    ]
    said: list[render.Block] = [table, table.caption]
    if floors:
        said.append(f"One answer for every example scores at most: {', '.join(floors)}.")
    if config.entries is not None:
        over = [
            f"{run.config.method} ({run.counts.selected:,})"
            for run in {run.config.method: run for run in records}.values()
            if run.counts.selected > config.entries
        ]
        fixed = f"; over it, since they take no size: {', '.join(over)}" if over else ""
        said.append(f"Budget: {config.entries:,} entries; @ stands before a method's size{fixed}.")
    pairs = [] if comparison is None else comparison.pairs
    said.append("\n".join(["Against layernorm:\n", *(f"- {text}" for text in (*map(sentence, pairs), *notes))]))
    return [*said, f"The picture and more: normtune report {engine.storage.results}"]


def _floor(data: TaskData, rules: Protocol) -> float | None:
    """The primary metric on dev of the best constant answer taken from train; None if there is none."""
    parts, asks = parts_of(data, rules), data.task.asks
    train, dev = parts.train.labels, parts.dev["dev"].labels
    assert train is not None
    assert dev is not None
    guesses = (np.broadcast_to(answer, dev.shape) for answer in asks.constants(train))
    return max((asks.score(guess, dev, data.task)[data.task.primary] for guess in guesses), default=None)


_DONE = ("done", "known")
_WORDS = (*_DONE, "pruned", "failed", "blocked", "missing")


def _word(job: Job, results: Mapping[str, Result]) -> str:
    if job.key not in results:
        return "missing"
    own = results[job.key]
    return "known" if own.known and own.state == "done" else own.state
