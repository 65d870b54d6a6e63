"""Logs runs to the trackers of an accelerator (TensorBoard, MLflow, W&B, ...), without changing any number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from normtune.config import RunConfig
from normtune.errors import ConfigError, known
from normtune.records.database import leaves
from normtune.records.run import EpochScore, Record
from normtune.training.loop import Judge, StepInfo
from normtune.training.splits import Run

#: What trackers group runs by: an experiment of MLflow, a project of W&B.
PROJECT = "normtune"
#: The most logged points of a run's training loss.
POINTS = 1000

#: The arguments that give each tracker a run's name; those not listed get it in place of the project's.
_NAMED: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "wandb": lambda run, folder: {"name": run, "dir": str(folder)},
    "mlflow": lambda run, folder: {"run_name": run},
    "trackio": lambda run, folder: {"name": run},
    "swanlab": lambda run, folder: {"experiment_name": run, "logdir": str(folder)},
    "clearml": lambda run, folder: {"task_name": run},
    "dvclive": lambda run, folder: {"dir": str(folder / run)},
}


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Check names of trackers, and return each once.

    Raises:
        UnknownNameError: If accelerate knows no such tracker.
        ConfigError: If its library is not installed.
    """
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        known("tracker", name, LOGGER_TYPE_TO_CLASS)
        if name not in available:
            extra = "'normtune[track]'" if name == "tensorboard" else name.replace("_", "-")
            raise ConfigError(f"The tracker {name} is not installed; install it with: pip install {extra}.")
    return tuple(dict.fromkeys(names))


def run_name(config: RunConfig, identity: str) -> str:
    """A run's name, which is also that of its folder: what it is, and the start of its identity."""
    method = re.sub(r"[^\w.,@+-]+", "_", config.method)
    return f"{config.task}-{method}-{config.rate:g}-seed{config.seed}-{identity[:8]}"


class Log:
    """Logs a run to the trackers of an accelerator, if it has any, and calls `watch` and `judge`.

    Args:
        accelerator: Made with ``log_with``, and with ``project_dir`` for trackers that write to a folder.
        run: The run. Its configuration is logged flat, and its identity is part of its name.
        watch: Called after each step.
        judge: Asked after each epoch whether the run goes on.
    """

    def __init__(
        self, accelerator: Accelerator, run: Run, watch: Callable[[StepInfo], None] | None, judge: Judge | None
    ) -> None:
        self._accelerator, self._run, self._watch, self._judge = accelerator, run, watch, judge

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within this context the trackers are open; without trackers, calls are only passed on.

        Raises:
            ConfigError: If a tracker fails. The run itself has not failed and can be continued.
        """
        accelerator, config, wanted = self._accelerator, self._run.config, self._accelerator.log_with
        if not wanted:
            yield
            return
        # accelerate gives all its trackers one name, which is a run's for some and a project's for others.
        name, folder = run_name(config, self._run.id), Path(accelerator.logging_dir or ".")
        accelerator.log_with = [_tracker(tracker, name, folder) for tracker in wanted]
        settings = {key: value for key, value in leaves(config.model_dump(mode="json")) if value is not None}
        try:
            with self._at_work():
                accelerator.init_trackers(PROJECT, config={"run": self._run.id, **settings})
            yield
            # Not `end_training`, which ends the process group too, and other runs may follow.
            with self._at_work():
                for tracker in accelerator.trackers:
                    tracker.finish()
        except BaseException:
            for tracker in accelerator.trackers:
                with suppress(Exception):  # one that never started cannot finish; the error is raised anyway
                    tracker.finish()
            raise
        finally:
            accelerator.trackers, accelerator.log_with = [], wanted

    def tick(self, tick: StepInfo) -> None:
        """Log the loss and the rate of a step; in long runs, only of every so many steps."""
        if tick.step % math.ceil(tick.steps / POINTS) == 0:
            self._log({"train/loss": tick.loss, "train/rate": tick.rate}, tick.step)
        if self._watch is not None:
            self._watch(tick)

    def epoch(self, curve: tuple[EpochScore, ...], step: int) -> bool:
        """Log the last epoch, at the step that it ended with, and return whether the run goes on."""
        last = curve[-1]
        picked = "held_out" if self._run.config.protocol.held_out else "dev"
        scores = {f"{picked}/{name}": value for name, value in last.scores.items()}
        self._log({"epoch": last.epoch, "train/epoch_loss": last.loss, **scores}, step)
        return self._judge is None or self._judge(curve, step)

    def best(self, record: Record) -> None:
        """Log a finished run's scores at its best epoch."""
        scores = {f"best/{name}": value for name, value in leaves(record.scores, "/")}
        self._log({"best/epoch": record.best_epoch, **scores}, record.steps)

    def _log(self, values: dict[str, Any], step: int) -> None:
        if self._accelerator.trackers:
            with self._at_work():
                self._accelerator.log(values, step=step)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Turn whatever a tracker raises in this context into a `ConfigError`."""
        try:
            yield
        except Exception as error:
            names = ", ".join(str(getattr(tracker, "name", tracker)) for tracker in self._accelerator.log_with)
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(f"A tracker failed ({names}): {first}") from error


def _tracker(tracker: Any, run: str, folder: Path) -> GeneralTracker:
    """A tracker for one run; a tracker that the user made is returned as it is."""
    if isinstance(tracker, GeneralTracker):
        return tracker
    kind, name = LOGGER_TYPE_TO_CLASS[str(tracker)], str(tracker)
    if kind.requires_logging_directory:
        return kind(run, str(folder))
    return kind(PROJECT, **_NAMED[name](run, folder)) if name in _NAMED else kind(run)
