"""Options that several commands share, and functions that parse their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from normtune.cli.render import Form, Terminal
from normtune.config import Protocol, read_protocol
from normtune.errors import ConfigError, DeltaError, ModelError, known

if TYPE_CHECKING:
    from normtune.deltas.delta import Delta
    from normtune.models.base import Base

N = TypeVar("N", int, float)

#: Progress and notes go to standard error, so that standard output stays readable by programs.
notes = Terminal(stderr=True, highlight=False, markup=False)

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="NORMTUNE_DATA", help="Folder in GLUE's layout. Without it the data comes from the hub."
    ),
]
Suite = Annotated[str, typer.Option(help="Suite of the tasks: glue, or toy, which needs no data.")]
DeltaSuite = Annotated[str | None, typer.Option("--suite", help="Suite of the task. [default: the delta's own]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, with all digits.")]
OfModel = Annotated[str | None, typer.Option("--model", help="Only runs of this model.")]
OfProtocol = Annotated[str | None, typer.Option("--protocol", help="Only runs under this protocol.")]
BaseAt = Annotated[
    str | None, typer.Option("--model", help="Where the base model is now. [default: where it was in training]")
]
Read = Annotated[
    str,
    typer.Option(
        help="How to read your file, where this is not recognised: delimiter=semicolon, encoding=cp1252, decimal=comma,"
        " labels=bar (between several labels in a cell), skip-bad-rows (leaves out rows that lack a cell or its value);"
        " separate several by commas.",
        show_default=False,
    ),
]
Model = Annotated[str, typer.Option(help="Hub id, also with @REVISION, folder or packaged name.")]
Dtype = Annotated[str, typer.Option(help="Dtype of the frozen model: float32, bfloat16, float16, int8 or nf4.")]
ProtocolText = Annotated[
    str | None,
    typer.Option(
        help="paper, held-out, reduced, small or own, and fields to change, such as small,epochs=1,max_train=500"
        " (epochs, batch_size, max_length, max_train, max_dev and others). [default: paper; own for your own files]"
    ),
]
Whose = Annotated[str, typer.Option("--protocol", help="Training examples as under paper, held-out, reduced or small.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the CPU; all cores by default.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Examples = Annotated[
    int | None, typer.Option(min=1, help="Training examples of each task, a seeded sample. [default: all]")
]
UntilStable = Annotated[
    bool, typer.Option("--until-stable", help="Add examples until the ranking, or the mask, no longer changes.")
]
Tolerated = Annotated[float, typer.Option(help="Share in which --until-stable lets two halves of the examples differ.")]
Estimate = Annotated[str, typer.Option(help="empirical (true labels), exact or monte-carlo (the model's own).")]
Samples = Annotated[int, typer.Option(min=1, help="Labels drawn for each example by monte-carlo.")]
Measurements = Annotated[
    Path, typer.Option("--records", help="Folder of records and entries: what is in it is not measured again.")
]
HeadSeeds = Annotated[
    str, typer.Option(help="Seeds of the new head, separated by commas; the information is averaged over them.")
]

Track = Annotated[
    list[str] | None,
    typer.Option("--track", help="Log each run to tensorboard, mlflow, wandb or another tracker of accelerate."),
]

Prune = Annotated[
    float | None,
    typer.Option(
        "--prune", min=0, help="Drop a rate of a search early once it is this far behind another, such as 0.05."
    ),
]


Precision = Annotated[
    str,
    typer.Option(help="float32; bf16 (mixed precision); or bfloat16, float16, int8 or nf4 for the frozen part."),
]


def tell(said: Iterable[str]) -> None:
    """Print notes on the user's files."""
    for note in said:
        notes.print(f"Note: {note}", soft_wrap=True)


def form(*, as_json: bool = False, markdown: bool = False, as_csv: bool = False) -> Form:
    """The form in which to print results; choosing more than one is an error."""
    asked: dict[Form, bool] = {"json": as_json, "csv": as_csv, "markdown": markdown}
    chosen = [name for name, wanted in asked.items() if wanted]
    if len(chosen) > 1:
        raise ConfigError(f"Choose one of {' and '.join(f'--{name}' for name in chosen)}.")
    return chosen[0] if chosen else "text"


def only(context: typer.Context, taken: Iterable[str], why: str) -> None:
    """Refuse all options but those in `taken`, as `refuse` does."""
    refuse(context, {each.name or "" for each in context.command.params} - {*taken}, why)


def refuse(context: typer.Context, useless: Iterable[str], why: str) -> None:
    """Refuse options that have no effect here.

    Args:
        context: The call.
        useless: Names of the parameters without effect.
        why: Why they have no effect; begins the error message.

    Raises:
        ConfigError: If one of them is given on the command line; values from the environment are not refused.
    """
    sources = {each: context.get_parameter_source(each.name or "") for each in context.command.params}
    given = [each for each, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    beyond = sorted(each.opts[0] for each in given if each.name in {*useless})
    if beyond:
        raise ConfigError(f"{why}: leave out {', '.join(beyond)}.")


def refuse_data(context: typer.Context, suite: str) -> None:
    """Refuse ``--data`` for a suite that comes with the package."""
    from normtune.data.suites import suite_of

    if suite_of(suite).survey is None:
        refuse(context, {"data"}, f"The suite {suite!r} comes with the package")


def open_delta(text: str) -> Delta:
    """The delta at a place: a folder, a file or a hub id. A language model's folder gives a delta that changes nothing.

    A base named by a relative path is looked for from the current folder, then from each folder above the delta.
    """
    if (Path(text) / "config.json").is_file() and not (Path(text) / "delta.safetensors").is_file():
        return _unchanged(text)
    from normtune.deltas.delta import Delta
    from normtune.deltas.hub import fetch
    from normtune.models.sources import PACKAGED

    place = fetch(text)
    delta = Delta.load(place)
    name, info = delta.info.base, delta.info
    if name in PACKAGED or info.base_revision or name.startswith("~") or (Path(name) / "config.json").is_file():
        return delta
    above = (folder / name for folder in (place.resolve(), *place.resolve().parents))
    found = next((str(folder) for folder in above if (folder / "config.json").is_file()), name)
    return replace(delta, info=info.model_copy(update={"base": found}))


def _unchanged(model: str) -> Delta:
    """A delta that leaves a language model as it is, on up to 1,024 tokens, as transformers' run_clm."""
    from normtune.deltas.delta import Delta
    from normtune.methods.selection import nothing
    from normtune.models.base import load_base
    from normtune.models.head import HeadSpec

    try:
        base = load_base(model, HeadSpec("language"))
    except ModelError as error:
        raise DeltaError(f"{model} holds no delta, and is no language model to use as it is: {error}") from error
    told = {"task": Path(model).name, "columns": ("text",), "max_length": base.limit(1024)}
    return Delta.of(base, nothing(base.layout), {}, {}, **told)


def base_of(delta: Delta, model: str | None, device: str = "cpu", dtype: str = "float32") -> Base:
    """A delta's base model on `device`, from `model` or, without one, from where the delta says.

    `dtype` is that of the frozen part.
    """
    from normtune.models.base import load_base
    from normtune.models.device import accelerator
    from normtune.models.sources import DTYPES, PACKAGED

    info, dtype = delta.info, known("dtype", dtype, DTYPES)
    # A packaged model's revision is the package's version, which cannot be chosen.
    revision = None if model or info.base in PACKAGED else info.base_revision
    try:
        base = load_base(model or info.base, info.head, revision=revision, dtype=dtype)
    except ModelError as error:
        if model is not None:
            raise
        raise ModelError(f"{error} The delta was trained on {info.base!r}; --model says where that is now.") from error
    delta.check(base)
    base.model.to(accelerator(device).device)
    return base


def protocol_of(text: str, delta: Delta | None) -> Protocol:
    """Read ``--protocol``; unless it sets ``max_length``, that is the length that the delta was trained with."""
    return read_protocol(text, max_length=None if delta is None or "max_length" in text else delta.info.max_length)


def precision_of(text: str) -> tuple[str, str]:
    """Read ``--precision``: the dtype of the frozen part, and the mixed precision."""
    if text == "bf16":
        return "float32", text
    return known("precision", text, ("float32", "bf16", "bfloat16", "float16", "int8", "nf4")), "no"


def names(text: str) -> list[str]:
    """The parts of a comma-separated list, none of them empty."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"{text!r} is no comma-separated list of names.")
    return parts


def methods(text: str) -> list[str]:
    """The methods of a comma-separated list; a comma between layer numbers belongs to an expression."""
    parts: list[str] = []
    for part in names(text):
        if parts and part[0].isdigit() and not part.endswith(".safetensors"):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def columns(text: str) -> tuple[str, str | None]:
    """Read ``--text``: the column of the texts, and that of their pairs or None."""
    first, *others = names(text)
    if len(others) > 1:
        raise ConfigError(f"--text takes one column, or two separated by a comma for pairs; got {text!r}.")
    return first, others[0] if others else None


def numbers(text: str, option: str, what: str, read: Callable[[str], N], fits: Callable[[N], bool]) -> tuple[N, ...]:
    """The numbers of a comma-separated list, each once.

    Args:
        text: The list.
        option: The option that it is the value of.
        what: The values that the option takes, in words.
        read: ``int`` or ``float``.
        fits: Whether the option takes a number.
    """
    values: tuple[N, ...] = ()
    with suppress(ValueError):
        values = tuple(map(read, names(text)))
    if not values or not all(map(fits, values)) or len({*values}) < len(values):
        raise ConfigError(f"{option} takes different {what}, separated by commas; got {text!r}.")
    return values


def seeds(text: str, option: str = "--seed") -> tuple[int, ...]:
    """The seeds of a comma-separated list."""
    return numbers(text, option, "whole numbers from 0", int, lambda seed: seed >= 0)


def rates(text: str | None) -> tuple[tuple[float, ...] | None, bool]:
    """Read ``--lr``: (rates or None for the method's own, whether to search the method's grid)."""
    if text is None or text == "auto":
        return None, text == "auto"
    return numbers(text, "--lr", "positive numbers, or auto", float, lambda rate: 0 < rate < math.inf), False


def trackers(given: list[str] | None) -> tuple[str, ...]:
    """Read ``--track``, given several times or separated by commas."""
    if not given:
        return ()
    from normtune.training.tracking import check_trackers

    return check_trackers([name for text in given for name in names(text)])


def set_threads(threads: int | None) -> int:
    """Use this many CPU threads, or keep torch's choice; returns how many are used."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()
