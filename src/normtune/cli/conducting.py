"""How a study is shown: its plan, its progress and what came of it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from normtune.cli.options import console, notes
from normtune.errors import TrainingError
from normtune.studies.conduct import Study
from normtune.studies.estimate import Estimate, estimate
from normtune.studies.jobs import FisherJob, Job, MaskJob, Result, TrainJob, describe

if TYPE_CHECKING:
    from rich.progress import TaskID

    from normtune.studies.executors.executor import Executor
    from normtune.studies.study import StudyConfig
    from normtune.studies.work import Place, Work

#: Reasons that are listed.
_REASONS = 20


def conduct(
    config: StudyConfig,
    place: Place,
    executor: Callable[[Work], Executor],
    *,
    plan_only: bool,
    workers: int,
    as_json: bool,
) -> None:
    """Plan a study and, unless only the plan is wanted, run it.

    Args:
        config: The study.
        place: Where it lies.
        executor: Makes what does its jobs.
        plan_only: Whether to stop after the plan.
        workers: How many jobs run at a time, for the estimate.
        as_json: Whether to print JSON.
    """
    # The trial runs behind an estimate are nobody's, so a plan logs nothing.
    study = Study.open(config, place.model_copy(update={"track": ()}) if plan_only else place)
    if plan_only:
        guess = estimate(study.missing, study.work, trial=True)
        _show_plan(study, guess, workers, as_json)
        return
    if place.mode == "read-only":
        _show_summary(study, study.known, as_json)
    else:
        own = executor(study.work)
        guess = estimate(study.missing, study.work, trial=False)
        with Watcher(study, guess) as watcher:
            results = study.run(own, watcher)
        _show_summary(study, results, as_json)
        study = Study(study.jobs, results, study.work)
    gaps = unanswered(study.jobs, study.known)
    if gaps:
        raise TrainingError(f"{len(gaps)} of {len(study.jobs)} jobs have no result, such as: {describe(gaps[0])}.")


def unanswered(jobs: Sequence[Job], results: Mapping[str, Result]) -> list[Job]:
    """The jobs without a result, but for rates that failed while another one of the same search worked.

    A rate that was dropped early was tried, and lost.
    """
    done = {_search(job) for job in jobs if _state(job, results) == "done"}
    return [
        job
        for job in jobs
        if (state := _state(job, results)) not in {"done", "pruned"}
        and not (state == "failed" and isinstance(job, TrainJob) and job.rate is not None and _search(job) in done)
    ]


def _search(job: Job) -> object:
    return (job.task, job.method, job.seed, job.mask) if isinstance(job, TrainJob) else job.key


def _state(job: Job, results: Mapping[str, Result]) -> str:
    return results[job.key].state if job.key in results else "missing"


# The plan


def _show_plan(study: Study, guess: Estimate, workers: int, as_json: bool) -> None:
    total = guess.total(study.missing)
    config, place = study.work.config, study.work.place
    if as_json:
        jobs = [_plain(job, study.known.get(job.key), guess.seconds.get(job.key)) for job in study.jobs]
        facts = {"jobs": len(jobs), "known": len(study.known), "seconds": total, "workers": workers}
        plain = {**facts, "sources": guess.sources, "config": config.model_dump(mode="json"), "plan": jobs}
        print(json.dumps(plain, indent=1))
        return
    console.print(_plan_table(study, guess))
    count = Counter(job.kind for job in study.jobs)
    console.print(
        f"{count['train']} runs, {count['fisher']} measurements, {count['mask']} masks:"
        f" {len(study.known)} of {len(study.jobs)} known in {place.results}.",
        highlight=False,
        soft_wrap=True,
    )
    for line in _remarks(study, guess, workers, total):
        console.print(line, style="dim", highlight=False, soft_wrap=True)


def _plain(job: Job, known: Result | None, seconds: float | None) -> dict[str, object]:
    return {
        "key": job.key,
        **job.model_dump(mode="json"),
        "needs": job.needs,
        "state": "missing" if known is None else known.state,
        "id": None if known is None else known.id,
        "seconds": None if known is not None else seconds,
    }


def _plan_table(study: Study, guess: Estimate) -> Table:
    groups: dict[tuple[str, str, str], list[Job]] = defaultdict(list)
    for job in study.jobs:
        groups[job.kind, job.task or "all", job.about.split("@")[0] if _is_masked(job) else job.about].append(job)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(("kind", "task", "method", "needs", "jobs", "known", "to do", "time")):
        table.add_column(name, justify="right" if number > 3 else "left", overflow="fold")
    for (kind, task, about), jobs in groups.items():
        todo = [job for job in jobs if job.key not in study.known]
        counts = (len(jobs), len(jobs) - len(todo), len(todo))
        time = guess.total(todo)
        needs = _needs(jobs, {job.key: job for job in study.jobs})
        table.add_row(kind, task, about, needs, *(f"{n:,}" for n in counts), _time(time) if todo else "")
    return table


def _is_masked(job: Job) -> bool:
    return isinstance(job, MaskJob) or (isinstance(job, TrainJob) and job.mask is not None)


def _needs(jobs: Sequence[Job], by_key: Mapping[str, Job]) -> str:
    """What a group of jobs waits for, in words."""
    words: dict[str, None] = {}
    for job in jobs:
        if isinstance(job, TrainJob) and job.best_of:
            first = by_key[job.best_of[0]]
            words[f"best of {len(job.best_of)} rates of {first.about.split('@')[0]}"] = None
        if isinstance(job, TrainJob) and job.mask is not None:
            words["its mask"] = None
        if isinstance(job, TrainJob) and job.rivals:
            words["the rates before it"] = None
        if isinstance(job, MaskJob) and job.tasks:
            own = by_key[job.fishers[0]]
            assert isinstance(own, FisherJob)
            words[f"fisher of {own.task if len(job.tasks) == 1 else f'{len(job.tasks)} tasks'}"] = None
    return ", ".join(words)


def _remarks(study: Study, guess: Estimate, workers: int, total: float | None) -> list[str]:
    config = study.work.config
    each = f"{config.threads} thread{'s' if config.threads > 1 else ''} each"
    lines = [f"Protocol {config.protocol.name}; {each}, which are part of a record's identity (--threads)."]
    if study.missing:
        time = "unknown" if total is None else f"about {_time(total / workers)}"
        lines.append(f"Time left: {time} with {workers} worker{'s' if workers > 1 else ''} on this machine.")
        words = {"records": "records made on this machine", "trial": "a trial of a few steps", "none": "nothing"}
        for source, text in words.items():
            kinds = [kind for kind, own in guess.sources.items() if own == source]
            if kinds:
                lines.append(f"Throughput from {text}: {', '.join(kinds)}.")
    others = _other_threads(study)
    if others:
        found = ", ".join(f"{count} with {threads}" for threads, count in sorted(others.items()))
        lines.append(f"Records of this model there with other threads: {found}.")
    return lines


def _other_threads(study: Study) -> Counter[int]:
    """How many runs of this model and protocol were made with other numbers of threads, where that could be why."""
    if not study.missing:
        return Counter()
    config, base = study.work.config, study.work.session.base.identity
    like = (run for run in study.work.store if run.base_identity == base and run.config.protocol == config.protocol)
    found = Counter(int(run.machine.get("threads", 0)) for run in like)
    del found[config.threads]
    return found


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# Progress


class Watcher:
    """Live progress of a study on standard error: how much of it is done, the jobs that run, and the time left.

    Args:
        study: The study.
        guess: How long its jobs take; what is not known counts like the mean of the others.
    """

    def __init__(self, study: Study, guess: Estimate) -> None:
        usual = [seconds for seconds in guess.seconds.values() if seconds] or [1.0]
        mean = sum(usual) / len(usual)
        self._weights = {job.key: max(guess.seconds.get(job.key, mean), 0.01) for job in study.missing}
        self._count, self._done = len(study.missing), 0
        self._lines: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=notes,
            speed_estimate_period=3600,
        )
        total = sum(self._weights.values())
        self._all = self._progress.add_task("study", total=total, note=f"0/{self._count}", visible=bool(self._count))
        if len(study.known):
            self._say(f"{len(study.known)} of {len(study.jobs)} jobs are known.")

    def __enter__(self) -> Watcher:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, job: Job) -> None:
        """Show a job that runs."""
        self._lines[job.key] = self._progress.add_task(describe(job), total=None, note="")

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        """Show how far it is."""
        if job.key in self._lines:
            self._progress.update(self._lines[job.key], completed=done, total=total, note=f"{done}/{total} {note}")

    def end(self, job: Job, result: Result) -> None:
        """Count a job, and leave a line about it."""
        line = self._lines.pop(job.key, None)
        if line is not None:
            self._progress.remove_task(line)
        self._done += 1
        self._progress.update(self._all, advance=self._weights.get(job.key, 0), note=f"{self._done}/{self._count}")
        if isinstance(job, MaskJob) and result.state == "done":
            return
        how = "found" if result.known else f"{result.seconds:.0f} s"
        if result.state == "done":
            rate = "" if result.rate is None or not isinstance(job, TrainJob) or job.rate else f" ({result.rate:g})"
            score = "" if result.score is None else f" {result.score:.4f}"
            self._say(f"{describe(job)}{rate}:{score} ({how})")
        elif result.state == "pruned":
            self._say(f"{describe(job)}: {result.error} ({how})", "yellow")
        else:
            self._say(f"{describe(job)}: {result.state}: {result.error}", "red")

    def _say(self, text: str, style: str | None = None) -> None:
        self._progress.console.print(text, style=style, highlight=False, markup=False)


# What came of it


def _show_summary(study: Study, results: Mapping[str, Result], as_json: bool) -> None:
    counts = Counter(_word(job, results) for job in study.jobs)
    if as_json:
        jobs = [
            {**_plain(job, results.get(job.key), None), "error": results[job.key].error if job.key in results else None}
            for job in study.jobs
        ]
        facts = {**{name: counts[name] for name in _WORDS}, "saved_epochs": sum(r.saved for r in results.values())}
        print(json.dumps({**facts, "jobs": jobs}, indent=1))
        return
    said = ", ".join(f"{counts[name]} {name}" for name in _WORDS if counts[name])
    console.print(f"{len(study.jobs)} jobs: {said}. Results are in {study.work.place.results}.", soft_wrap=True)
    if study.work.config.prune is not None:
        console.print(_savings(study, results), highlight=False, soft_wrap=True)
    lost = [job for job in study.jobs if _word(job, results) in {"failed", "blocked", "missing"}]
    for job in lost[:_REASONS]:
        why = results[job.key].error if job.key in results else "not run yet"
        console.print(f"{_word(job, results)}: {describe(job)}: {why}", highlight=False, markup=False, soft_wrap=True)
    if len(lost) > _REASONS:
        console.print(f"and {len(lost) - _REASONS} more")


def _savings(study: Study, results: Mapping[str, Result]) -> str:
    """How much a search was shortened, in words."""
    tried = [job.key for job in study.jobs if isinstance(job, TrainJob) and job.rate is not None and job.key in results]
    lost = [results[key] for key in tried if results[key].state == "pruned"]
    config = study.work.config
    assert config.prune is not None
    return (
        f"Dropped early, more than {config.prune.margin:g} behind: {len(lost)} of {len(tried)} rates tried;"
        f" {sum(result.saved for result in lost)} of {len(tried) * config.protocol.epochs} epochs saved."
    )


_WORDS = ("done", "known", "pruned", "failed", "blocked", "missing")


def _word(job: Job, results: Mapping[str, Result]) -> str:
    if job.key not in results:
        return "missing"
    own = results[job.key]
    return "known" if own.known and own.state == "done" else own.state
