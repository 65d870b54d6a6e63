"""Live progress of a training, on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from normtune.cli.options import notes

if TYPE_CHECKING:
    from normtune.config import RunConfig
    from normtune.records.run import Pruned, Record
    from normtune.studies.runs import Finished, Watch
    from normtune.training.loop import Tick


class Watcher:
    """Live progress on standard error: the runs, and the steps of the present one, with the time left."""

    def __init__(self, runs: int, *, silent: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"),
            console=Console(quiet=True) if silent else notes,
        )
        self._all = self._progress.add_task("runs", total=runs, note="", visible=runs > 1)
        self._one = self._progress.add_task("", total=None, note="", start=False)
        self._dropped: list[Pruned] = []

    def __enter__(self) -> Watcher:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, config: RunConfig) -> Watch:
        """Show a new run."""
        name = f"{config.task} {config.method} {config.rate:g} seed {config.seed}"
        self._progress.reset(self._one, description=name, total=None, note="")

        def tick(step: Tick) -> None:
            best = "" if step.score is None else f"  best {step.score:.4f}"
            note = f"loss {step.loss:.3f}{best}"
            # Of several runs in one pass each says its own in turn.
            self._progress.update(self._one, description=name, total=step.steps, completed=step.step, note=note)

        return tick

    def more(self, runs: int) -> None:
        """Expect this many runs more than was said at the start."""
        total = self._progress.tasks[self._all].total or 0
        self._progress.update(self._all, total=total + runs, visible=total + runs > 1)

    def skip(self) -> None:
        """Count a run that was not needed, or could not be started."""
        self._progress.advance(self._all)

    def end(self, run: Finished) -> None:
        """Count a finished run, and leave a line about it."""
        record = run.record
        self._progress.advance(self._all)
        config = record.config
        how = "found in the store" if run.cached else f"{record.seconds:.0f} s"
        cut = sum(record.data.truncated.values())
        note = f", {cut} texts cut" if cut else ""
        self._progress.console.print(
            f"{config.task} {config.method} rate {config.rate:g} seed {config.seed}:"
            f" {record.primary} {record.score:.4f} at epoch {record.best_epoch} ({how}{note})",
            highlight=False,
        )

    def fail(self, config: RunConfig, message: str) -> None:
        """Count a run that could not be finished, and say why."""
        self._progress.advance(self._all)
        self._progress.console.print(
            f"[red]{config.task} {config.method} rate {config.rate:g}: {message}[/]", highlight=False
        )

    def drop(self, record: Record) -> None:
        """Count a run that was dropped early, and say why."""
        self._progress.advance(self._all)
        assert record.pruned is not None
        self._dropped.append(record.pruned)
        config = record.config
        self._progress.console.print(
            f"[yellow]{config.task} {config.method} rate {config.rate:g} seed {config.seed}: {record.pruned}[/]",
            highlight=False,
        )

    def savings(self, tried: int, epochs: int) -> None:
        """Say how many of the rates tried were dropped early, and how many of their epochs that saved."""
        saved = sum(why.of - why.epoch for why in self._dropped)
        notes.print(
            f"Dropped early: {len(self._dropped)} of {tried} rates tried; {saved} of {tried * epochs} epochs saved.",
            highlight=False,
        )
