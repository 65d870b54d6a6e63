"""The command line: gathers the commands and turns errors into one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys

import typer
from rich.console import Console

from normtune.commands import components, evaluate, export, import_, merge, predict, push, study, table, tasks, train
from normtune.errors import NormtuneError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Fine-tune a transformer by training only a chosen sliver of it, by default its output LayerNorm.",
)
for module in (components, tasks, train, evaluate, predict, table, study, merge, export, import_, push):
    module.register(app)


def main() -> None:
    """Run the command line; a known error becomes one sentence on standard error and exit status 1.

    Raises:
        OSError: If the system refuses something that is no matter of space or permission: a defect of ours.
    """
    # Progress bars of the libraries underneath would break ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except NormtuneError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("Stopped. The same command continues where it stopped, if it was given an output folder.", status=130)
    except BrokenPipeError:
        # Whoever read our output has gone; that is their choice and no error.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
            raise
        _fail(f"Cannot write{f' {error.filename}' if error.filename else ''}: {error.strerror}.")


def _fail(message: str, status: int = 1) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print("[bold red]Error:[/]", end=" ")
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(message)
    sys.exit(status)
