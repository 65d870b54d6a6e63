"""Live progress of a training or a study, on standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress as Bars,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from normtune.cli.options import notes
from normtune.studies.executors.executor import Here
from normtune.studies.jobs import Job, MaskJob, Result, TrainJob, describe
from normtune.studies.schedule import Schedule, Watcher

if TYPE_CHECKING:
    from rich.progress import TaskID

    from normtune.studies.engine import Engine


def bars(count: ProgressColumn, console: Console = notes) -> Bars:
    """Progress bars: what is done, the bar, a count, and the time passed and left."""
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        count,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        speed_estimate_period=3600,
        disable=not console.is_terminal,
    )


class ProgressDisplay(Watcher):
    """Shows what is done, the jobs that run, and the time left; each job that ends leaves a line.

    If standard error is no terminal, only these lines are shown.

    Args:
        jobs: The jobs to do.
        weights: How much of the whole each job is, by key; by default all count the same.
        silent: Whether to show nothing.
    """

    def __init__(self, jobs: Sequence[Job], weights: Mapping[str, float] = {}, *, silent: bool = False) -> None:
        self._weights = {job.key: weights.get(job.key, 1.0) for job in jobs}
        self._count, self._done = len(jobs), 0
        self._lines: dict[str, TaskID] = {}
        self._bars = bars(TextColumn("{task.fields[note]}", markup=False), Console(quiet=True) if silent else notes)
        total = sum(self._weights.values())
        self._all = self._bars.add_task("all", total=total, note=f"0/{self._count}", visible=self._count > 1)

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, job: Job) -> None:
        """Show a job that runs."""
        if job.key not in self._lines:
            self._lines[job.key] = self._bars.add_task(describe(job), total=None, note="")

    def tick(self, job: Job, done: int, total: int, note: str) -> None:
        """Show how far a job is."""
        if job.key in self._lines:
            self._bars.update(self._lines[job.key], completed=done, total=total, note=f"{done}/{total} {note}")

    def end(self, job: Job, result: Result) -> None:
        """Count a job, and leave a line about it."""
        line = self._lines.pop(job.key, None)
        if line is not None:
            self._bars.remove_task(line)
        self._done += 1
        self._bars.update(self._all, advance=self._weights.get(job.key, 0), note=f"{self._done}/{self._count}")
        if result.state == "skipped" or (isinstance(job, MaskJob) and result.state == "done"):
            return
        how = "found in the store" if result.known else f"{result.seconds:.0f} s"
        searched = isinstance(job, TrainJob) and job.rate is None and result.rate is not None
        name = describe(job) + (f" ({result.rate:g})" if searched else "")
        if result.state == "done":
            self.say(f"{name}:{f' {result.note}' if result.note else ''} ({how})")
        elif result.state == "pruned":
            self.say(f"{name}: {result.error} ({how})", "yellow")
        else:
            self.say(f"{name}: {result.state}: {result.error}", "red")

    def say(self, text: str, style: str | None = None) -> None:
        """Leave a line."""
        self._bars.console.print(text, style=style, soft_wrap=True)


def is_tried(job: Job) -> bool:
    """Whether a job tries a rate of a search."""
    return isinstance(job, TrainJob) and (job.rate is not None or job.beyond)


def savings(jobs: Sequence[Job], results: Mapping[str, Result], margin: float, epochs: int) -> str:
    """How much pruning shortened searches, in words."""
    runs = filter(is_tried, jobs)
    tried = [own for job in runs if (own := results.get(job.key)) is not None and own.state != "skipped"]
    lost = [own for own in tried if own.state == "pruned"]
    return (
        f"Dropped early, more than {margin:g} behind: {len(lost)} of {len(tried)} rates tried;"
        f" {sum(own.saved for own in lost)} of {len(tried) * epochs} epochs saved."
    )


def run_jobs(jobs: Sequence[Job], engine: Engine) -> dict[str, Result]:
    """Run jobs in this process, each after those that it needs, and show their progress; returns the results by key.

    Of several processes that train together, only the main one prints.
    """
    speaks = engine.session.accelerator.is_main_process
    with ProgressDisplay(jobs, silent=not speaks) as progress:
        schedule = Schedule(jobs, {}, progress)
        Here().run(schedule, engine)
        if speaks and (rule := engine.setup.prune) is not None:
            progress.say(savings(jobs, schedule.results, rule.margin, engine.setup.protocol.epochs))
    return schedule.results
