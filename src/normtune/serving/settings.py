"""The limits of a server, and who may change its tasks."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from normtune.config import Strict
from normtune.errors import ConfigError

#: The environment variable that holds the token.
TOKEN = "NORMTUNE_TOKEN"
_SHORTEST = 16


class Settings(Strict):
    """How a server forms batches, and what it refuses.

    Attributes:
        max_batch: Rows a batch.
        max_wait: Seconds that the first row of a batch waits for others while the model is idle.
        max_queue: Rows in the queue; a request beyond it gets 503.
        max_rows: Rows a request.
        max_text: Characters a text.
        max_body: Bytes of a request's body.
        max_bodies: Bytes of the bodies of all requests at a time.
        max_head: Bytes of a request's headers.
        max_requests: Requests at a time, of any kind.
        max_connections: Connections at a time; of more, those are closed that have waited longest for their clients.
        body_seconds: Seconds within which a body must arrive.
        client_seconds: Seconds within which headers must arrive, and a client must go on reading an answer.
        drain_seconds: Seconds after a signal to stop in which requests are still accepted, but ``/readyz`` says no.
        cache_bytes: Memory for the tasks that are loaded from the folder on demand.
        recheck: Seconds for which a loaded task is not compared with its file again.
        hosts: Host names that requests may use, besides those of the machine itself; None for any.
        apart: Accept deltas that cannot share batches; they run in batches of their own.
        fixed: Refuse the calls that change tasks, since one of several replicas cannot answer them for all.
        token: The token that calls that change tasks must carry, or None if they need none.
    """

    max_batch: Annotated[int, Field(ge=1)] = 64
    max_wait: Annotated[float, Field(ge=0, le=10)] = 0.002
    max_queue: Annotated[int, Field(ge=1)] = 1024
    max_rows: Annotated[int, Field(ge=1)] = 256
    max_text: Annotated[int, Field(ge=1)] = 20_000
    max_body: Annotated[int, Field(ge=64)] = 2**20
    max_bodies: Annotated[int, Field(ge=64)] = 64 * 2**20
    max_head: Annotated[int, Field(ge=1024)] = 2**14
    max_requests: Annotated[int, Field(ge=1)] = 2048
    max_connections: Annotated[int, Field(ge=1)] = 512
    body_seconds: Annotated[float, Field(gt=0)] = 10.0
    client_seconds: Annotated[float, Field(gt=0)] = 10.0
    drain_seconds: Annotated[float, Field(ge=0)] = 0.0
    cache_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    recheck: Annotated[float, Field(ge=0)] = 1.0
    hosts: tuple[str, ...] | None = ()
    apart: bool = False
    fixed: bool = False
    token: SecretStr | None = None


def read_token(file: Path | None) -> SecretStr | None:
    """The token in `file`, or else in the environment, or None if there is neither.

    Raises:
        ConfigError: If the file cannot be read, or the token is too short or not valid in a header.
    """
    source = str(file) if file is not None else f"the environment variable {TOKEN}"
    try:
        text = file.read_text(encoding="utf-8") if file is not None else os.environ.get(TOKEN)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The token file {file} cannot be read: {error}.") from error
    if text is None:
        return None
    token = text.strip()
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"The token in {source} must be at least {_SHORTEST} visible ASCII characters without spaces."
        )
    return SecretStr(token)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`: a name, or an address with or without brackets."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_open(host: str, token: SecretStr | None, *, fixed: bool) -> None:
    """Check that strangers cannot change the tasks.

    Raises:
        ConfigError: If other machines reach `host`, changes are allowed and there is no token.
    """
    if token is None and not fixed and not is_loopback(host):
        raise ConfigError(
            f"Anybody who reaches {host} could change the tasks: set a token in {TOKEN} or give --token-file,"
            " or refuse all changes with --fixed."
        )
