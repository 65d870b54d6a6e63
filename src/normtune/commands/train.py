"""``normtune train``: one run, or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from normtune.commands.options import (
    Data,
    Device,
    Json,
    Revision,
    Threads,
    methods,
    names,
    notes,
    rates,
    seeds,
    set_threads,
)

if TYPE_CHECKING:
    from normtune.config import RunConfig
    from normtune.studies.runs import Finished, Watch
    from normtune.training.loop import Tick


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("train")(train)


def train(
    task: Annotated[str, typer.Option(help="Task, or several separated by commas (normtune tasks lists them).")],
    model: Annotated[str, typer.Option(help="Hub id, folder or packaged name.")] = "minilm",
    method: Annotated[
        str, typer.Option(help="Method or expression, or several separated by commas (normtune components lists them).")
    ] = "layernorm",
    lr: Annotated[
        str | None, typer.Option(help="Rate, or auto to search the method's grid. [default: the method's own]")
    ] = None,
    seed: Annotated[str, typer.Option(help="Seed, or several separated by commas.")] = "0",
    protocol: Annotated[str, typer.Option(help="paper, held-out or small.")] = "paper",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the protocol's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the protocol's.")] = None,
    max_length: Annotated[int | None, typer.Option(min=8, help="Tokens, instead of the protocol's.")] = None,
    max_train: Annotated[int | None, typer.Option(min=1, help="A seeded sample of the training examples.")] = None,
    max_dev: Annotated[int | None, typer.Option(min=1, help="A seeded sample of the dev examples.")] = None,
    dropout: Annotated[bool | None, typer.Option(help="Instead of the protocol's.")] = None,
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for delta, record, curve and model card. [default: runs/TASK-METHOD]")
    ] = None,
    records: Annotated[Path | None, typer.Option(help="Store of records: what is in it is not run again.")] = None,
    revision: Revision = None,
    dtype: Annotated[str, typer.Option(help="Of the frozen part: float32, bfloat16 or float16.")] = "float32",
    precision: Annotated[str, typer.Option(help="Mixed precision: no, bf16 or fp16.")] = "no",
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a chosen sliver of a model on a task, and save it as a delta of kilobytes.

    Examples:
    `normtune train --task rte`

    `normtune train --task cola,mrpc --method head,bitfit,layernorm --protocol small --lr auto --seed 0,1,2`

    `normtune train --task rte --method "layernorm@3- + pooler.dense" --out runs/mine`
    """
    rate_list, search = rates(lr)
    task_list, method_list, seed_list = names(task), methods(method), seeds(seed)
    set_threads(threads)
    from normtune.commands.outputs import Outputs
    from normtune.config import protocol as make_protocol
    from normtune.errors import TrainingError
    from normtune.models.device import accelerator
    from normtune.studies.runs import Runner, cells
    from normtune.studies.store import Store
    from normtune.tasks.glue import load_glue
    from normtune.training.session import Session

    chosen = make_protocol(
        protocol,
        epochs=epochs,
        batch_size=batch_size,
        max_length=max_length,
        max_train=max_train,
        max_dev=max_dev,
        dropout=dropout,
    )
    sources = [load_glue(name, data) for name in task_list]
    outputs = Outputs.plan(
        out, [source.task.name for source in sources], method_list, seed_list, keep=out is not None or records is None
    )
    session = Session(model, revision=revision, dtype=dtype, accelerator=accelerator(device, precision))
    plan = cells(session, sources, method_list, seed_list, protocol=chosen, rates=rate_list, search=search)
    outputs.claim()
    store = Store(records) if records is not None else None
    with Watcher(sum(cell.runs for cell in plan)) as watcher:
        runner = Runner(
            session, chosen, store=store, aside=outputs.aside, begin=watcher.begin, end=watcher.end, fail=watcher.fail
        )
        results = []
        for cell in plan:
            try:
                results.append(runner.cell(cell))
            except TrainingError:
                if len(plan) == 1:
                    raise
        for runs in results:
            outputs.write(runs)
    outputs.finish()
    outputs.show(results, as_json)
    if len(results) < len(plan):
        raise TrainingError(
            f"{len(plan) - len(results)} of {len(plan)} cells of the table have no result; the notes above say why."
        )


class Watcher:
    """Live progress on standard error: the runs, and the steps of the present one, with the time left."""

    def __init__(self, runs: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"),
            console=notes,
        )
        self._all = self._progress.add_task("runs", total=runs, note="", visible=runs > 1)
        self._one = self._progress.add_task("", total=None, note="", start=False)

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
            self._progress.update(self._one, total=step.steps, completed=step.step, note=note)

        return tick

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
