"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from normtune.errors import ConfigError

if TYPE_CHECKING:
    from normtune.config import Pruning

#: For people: progress and notes go to standard error, so that standard output stays readable by programs.
notes = Console(stderr=True)
#: For results.
console = Console()

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="NORMTUNE_DATA", help="Folder in GLUE's layout. Without it the data comes from the hub."
    ),
]
Suite = Annotated[str, typer.Option(help="glue, or templates for the embedded suite.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
Revision = Annotated[str | None, typer.Option(help="Commit, tag or branch of a hub model.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the CPU; all cores by default.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Examples = Annotated[
    int | None, typer.Option(min=1, help="Training examples of each task, a seeded sample. [default: all]")
]
UntilStable = Annotated[
    bool, typer.Option("--until-stable", help="Add examples until what is read off no longer changes.")
]
Tolerated = Annotated[float, typer.Option(help="Share in which two halves of the examples may then still differ.")]
Estimate = Annotated[str, typer.Option(help="empirical (true labels), exact or monte-carlo (the model's own).")]
Samples = Annotated[int, typer.Option(min=1, help="Labels drawn for each example by monte-carlo.")]
HeadSeeds = Annotated[
    str, typer.Option(help="Seeds of the new head, separated by commas; the information is averaged over them.")
]


Track = Annotated[
    list[str] | None,
    typer.Option("--track", help="Log each run by tensorboard, mlflow, wandb or another tracker of accelerate."),
]

Prune = Annotated[
    float | None,
    typer.Option(
        "--prune", min=0, help="Drop a rate of a search early once it is this far behind another, such as 0.05."
    ),
]


Precision = Annotated[
    str,
    typer.Option(help="float32; bf16 or fp16: mixed; bfloat16 or float16: the frozen part is loaded so."),
]


def precision_of(text: str) -> tuple[str, str]:
    """Reads ``--precision``: the dtype of the frozen part, and the mixed precision.

    Raises:
        ConfigError: If it is neither.
    """
    if text in {"bf16", "fp16"}:
        return "float32", text
    if text not in {"float32", "bfloat16", "float16"}:
        raise ConfigError(f"Unknown precision {text!r}; known: float32, bf16, fp16, bfloat16, float16.")
    return text, "no"


def names(text: str) -> list[str]:
    """The parts of a comma-separated list.

    Raises:
        ConfigError: If it is empty, or a part is.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"{text!r} is no comma-separated list of names.")
    return parts


def methods(text: str) -> list[str]:
    """The methods of a comma-separated list; a comma between layer numbers belongs to an expression."""
    parts: list[str] = []
    for part in names(text):
        if parts and part[0].isdigit():
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def seeds(text: str, option: str = "--seed") -> list[int]:
    """The seeds of a comma-separated list.

    Raises:
        ConfigError: If one is no whole number from 0, or stands twice.
    """
    parts = names(text)
    if not all(part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise ConfigError(f"{option} takes different whole numbers from 0, separated by commas; got {text!r}.")
    return [int(part) for part in parts]


def rates(text: str | None) -> tuple[list[float] | None, bool]:
    """Reads ``--lr``: (rates or None for the method's own, whether to search the method's grid).

    Raises:
        ConfigError: If it is neither ``auto`` nor positive numbers.
    """
    if text is None or text == "auto":
        return None, text == "auto"
    try:
        values = [float(part) for part in names(text)]
    except ValueError as error:
        raise ConfigError(f"--lr takes 'auto' or positive numbers separated by commas; got {text!r}.") from error
    if not all(0 < value < float("inf") for value in values):
        raise ConfigError(f"--lr takes positive numbers; got {text!r}.")
    return values, False


def trackers(given: list[str] | None) -> tuple[str, ...]:
    """Reads ``--track``, given several times or separated by commas.

    Raises:
        ConfigError: If there is no such tracker, or its library is not installed.
    """
    if not given:
        return ()
    from normtune.training.tracking import check_trackers

    return check_trackers([name for text in given for name in names(text)])


def pruning(margin: float | None) -> Pruning | None:
    """Reads ``--prune``."""
    from normtune.config import Pruning

    return None if margin is None else Pruning(margin=margin)


def set_threads(threads: int | None) -> int:
    """Use this many threads of the CPU, or leave torch's own choice; answers how many there are."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()
