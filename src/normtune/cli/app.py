"""The command line: gathers the commands and turns errors into one sentence and an exit code."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from normtune.cli import (
    ablate,
    change,
    compare,
    components,
    evaluate,
    export,
    fisher,
    import_,
    mask,
    merge,
    methods,
    predict,
    prune,
    push,
    report,
    runs,
    serve,
    study,
    submit,
    table,
    tasks,
    train,
)
from normtune.cli.options import notes
from normtune.cli.render import Terminal
from normtune.config import Protocol
from normtune.errors import ConfigError, GuessWarning, NormtuneError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Fine-tune a transformer by training only a chosen sliver of it, by default its output LayerNorm.",
)


class _Command(TyperCommand):
    """A command that, given a field of a protocol as an option, says how to write it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = getattr(error, "option_name", "")
            field = option.removeprefix("--").removeprefix("no-").replace("-", "_")
            if self.name not in {"train", "study", "prune"} or field not in {*Protocol.model_fields} - {"name"}:
                raise
            how = f"write it as a field of the protocol, such as --protocol small,{field}=VALUE"
            raise ConfigError(f"There is no {option}: {how}.") from error


COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train and use": (train.train, evaluate.evaluate, predict.predict, serve.serve),
    "Look inside": (
        tasks.tasks,
        methods.methods,
        components.components,
        change.change,
        fisher.fisher,
        mask.mask,
        prune.prune,
        ablate.ablate,
    ),
    "Studies and records": (study.study, runs.runs, table.table, compare.compare, report.report, submit.submit),
    "Pass on": (merge.merge, export.export, import_.import_, push.push),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(command.__name__.strip("_"), cls=_Command, rich_help_panel=panel)(command)


def main() -> None:
    """Run the command line; a known error becomes one sentence on standard error and exit status 1.

    Raises:
        OSError: If its errno is not in `_REFUSED`: a defect of ours.
    """
    _use_utf8()
    # Progress bars of the libraries underneath would break ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The hub's client logs each retry; one sentence at the end says enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        with _stoppable(), _noted_guesses():
            app()
    except NormtuneError as error:
        _fail(str(error))
    except _StoppedError:
        _fail("Stopped. Repeat the command to continue a study, or a training with an output folder.", status=130)
    except (BrokenPipeError, SystemExit) as stop:
        # The reader of our output has gone, which is no error; typer and rich make a SystemExit of it.
        if BrokenPipeError not in {type(stop), type(stop.__context__)}:
            raise
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        named = "" if error.filename is None else f" {error.filename!s:.100}"
        _fail(f"Cannot {'use' if error.errno == errno.ENAMETOOLONG else 'write'}{named}: {error.strerror}.")


#: System errors that the user can mend.
_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG}


def _use_utf8() -> None:
    """Refuse arguments that are not UTF-8, and write standard output as UTF-8, or in a terminal's own encoding.

    Without this a redirect on Windows would use cp1252, and a character that it lacks would end the program.
    """
    for argument in sys.argv[1:]:
        if argument != argument.encode(errors="replace").decode():
            _fail(f"The argument {argument!a} is not in UTF-8; rename the file, or write the text in UTF-8.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


@contextmanager
def _noted_guesses() -> Iterator[None]:
    """Within this context a `GuessWarning` is printed as a note."""
    with warnings.catch_warnings():
        show: Any = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, GuessWarning):
                notes.print(f"Note: {message}", soft_wrap=True)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = note
        yield


class _StoppedError(BaseException):
    """Raised on SIGINT and SIGTERM; not a KeyboardInterrupt, which click handles in its own way."""


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within this context SIGINT and SIGTERM raise `_StoppedError`, so that cleanup runs."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _StoppedError

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail(message: str, status: int = 1) -> None:
    Terminal(stderr=True).print(Text.assemble(("Error:", "bold red"), f" {message}"), soft_wrap=True)
    sys.exit(status)
