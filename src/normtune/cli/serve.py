"""``normtune serve``: many tasks from one frozen base model, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normtune.cli import options
from normtune.cli.options import Device, Dtype, Threads, notes
from normtune.errors import ConfigError

if TYPE_CHECKING:
    from normtune.deltas.delta import Delta
    from normtune.serving.batcher import Batcher


def serve(
    context: typer.Context,
    deltas: Annotated[
        list[str] | None,
        typer.Argument(
            help="Deltas (folders, files or hub ids) or folders of them; NAME=DELTA names the task.", show_default=False
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The base model. [default: that of the first delta]")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Further host name to answer to, such as a proxy's. [default: any, if other machines call]"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    deltas_folder: Annotated[
        Path | None, typer.Option(help="The only folder from which tasks can be added while it serves.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Every delta in that folder is a task, loaded on request.")
    ] = False,
    cache_mb: Annotated[int, typer.Option(min=1, help="Memory for the tasks loaded with --follow, in MB.")] = 256,
    apart: Annotated[
        bool, typer.Option("--apart", help="Also take deltas that cannot share batches; they get batches of their own.")
    ] = False,
    fixed: Annotated[bool, typer.Option("--fixed", help="Refuse the calls that add or remove tasks.")] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token for calls that change tasks. [default: the variable NORMTUNE_TOKEN]"),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Rows a batch.")] = 64,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, max=10_000, help="How long an idle model waits for a batch to fill.")
    ] = 2.0,
    max_queue: Annotated[int, typer.Option(min=1, help="Rows that may wait; beyond that, requests get 503.")] = 1024,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows a request.")] = 256,
    max_text: Annotated[int, typer.Option(min=1, help="Characters a text.")] = 20_000,
    max_body_kb: Annotated[int, typer.Option(min=1, help="Size of a request's body.")] = 1024,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Connections at a time, fewer than the files that a process may open.")
    ] = 512,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds to report not ready after SIGTERM before stopping.")
    ] = 1.0,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Answer for many tasks from one base model in memory, over HTTP.

    Requests for different tasks share batches. The address /docs shows every call, with examples to try.

    Examples:
    `normtune serve runs/intents runs/spam --deltas-folder runs`

    `normtune serve --model minilm --deltas-folder deltas --follow --fixed --host 0.0.0.0`
    """
    if not deltas and model is None:
        raise ConfigError("Give deltas, or the base model with --model.")
    if follow and deltas_folder is None:
        raise ConfigError("--follow needs the folder: --deltas-folder.")
    if not follow:
        options.refuse(context, {"cache_mb"}, "Only --follow loads tasks on request")
    if fixed:
        unused = {"token_file"} if follow else {"token_file", "deltas_folder"}
        options.refuse(context, unused, "With --fixed no call changes the tasks")
    try:
        import fastapi as fastapi
    except ImportError as error:
        raise ConfigError("Serving needs more packages: pip install 'normtune[serve]'.") from error
    from normtune.serving.settings import Settings, check_open, is_loopback, read_token

    token = read_token(token_file)
    for name in (host, *(allow_host or ())):
        check_open(name, token, fixed=fixed)
    options.set_threads(threads)
    settings = Settings(
        max_batch=max_batch,
        max_wait=max_wait_ms / 1000,
        max_queue=max_queue,
        max_rows=max_rows,
        max_text=max_text,
        max_body=max_body_kb * 1024,
        max_connections=max_connections,
        drain_seconds=drain_seconds,
        cache_bytes=cache_mb * 10**6,
        hosts=tuple(map(str.lower, allow_host or ())) if allow_host or is_loopback(host) else None,
        apart=apart,
        fixed=fixed,
        token=token,
    )
    from normtune.models.base import load_base
    from normtune.models.device import accelerator
    from normtune.serving.batcher import Batcher
    from normtune.serving.folder import DeltaFolder
    from normtune.serving.server import Server
    from normtune.serving.tasks import Catalogue

    named = _named(deltas or [])
    for name, delta in named.items():
        if delta.info.picture:
            raise ConfigError(f"The task {name!r} reads pictures, and a server takes texts only.")
    if named:
        base = options.base_of(next(iter(named.values())), model, device, dtype)
    else:
        base = load_base(str(model), dtype=dtype)
        base.model.to(accelerator(device).device)
    folder = None if deltas_folder is None else DeltaFolder(deltas_folder)
    if follow and folder is not None and (other := folder.unnamed()):
        shown = ", ".join(map(repr, other[:5])) + (f" and {len(other) - 5:,} more" if len(other) > 5 else "")
        notes.print(f"Not served, since {_RULE}: {shown}.", soft_wrap=True)
    catalogue = Catalogue(base, settings, folder, follow=follow)
    for name, delta in named.items():
        catalogue.give(name, delta)
    batcher = Batcher(catalogue)
    server = Server(batcher, host, port, lambda address: _welcome(address, batcher, open_=not fixed))
    server.run()
    cut = f"{server.cut:,} connections were cut off before their clients had the whole answer"
    notes.print(f"Stopped; {cut if server.cut else 'every accepted request was answered'}.")


_RULE = "a name is made of letters (a to z), digits, dots, dashes and underscores"


def _named(deltas: list[str]) -> dict[str, Delta]:
    """The deltas by the names of their tasks."""
    import re

    from normtune.deltas.hub import named_places
    from normtune.serving.folder import NAME

    places = named_places(deltas)
    for name in places:
        if not re.fullmatch(NAME, name):
            raise ConfigError(f"{name!r} cannot name a task, since {_RULE}; give the delta as NAME=DELTA.")
    return {name: options.open_delta(place) for name, place in places.items()}


def _welcome(address: str, batcher: Batcher, *, open_: bool) -> None:
    tasks, settings = batcher.catalogue.names(), batcher.settings
    shown = ", ".join(tasks[:5]) + (f" and {len(tasks) - 5:,} more" if len(tasks) > 5 else "")
    lines = [
        f"Serving {len(tasks):,} {'task' if len(tasks) == 1 else 'tasks'} at {address}{f': {shown}' if shown else ''}",
        f"Documentation: {address}/docs   metrics: {address}/metrics   stop: Ctrl-C",
    ]
    if open_ and settings.token is None:
        lines.append("Calls from this machine may change the tasks; there is no token.")
    for line in lines:
        notes.print(line, soft_wrap=True)
