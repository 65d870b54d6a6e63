"""Damaged files of every kind: refused in a sentence, or read as they were written; in bounded memory and time."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from normtune.errors import NormtuneError
from tests.soak.damage import damaged
from tests.soak.kinds import KINDS, World, world

#: The most that reading one file may take.
SECONDS, KIB = 20, 2**20
# So that a fault of the program does not exhaust the machine.
_HARD_SECONDS, _HARD_BYTES = 60, 2**32


class TooLongError(BaseException):
    """Reading takes too long. It is no `Exception`, which a reader may catch."""


@pytest.fixture(scope="module")
def place(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"), tiny_folder)


@pytest.fixture
def limited() -> Iterator[None]:
    """Ends what takes far too long or too much memory."""

    def stop(*_: object) -> None:
        raise TooLongError

    before, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _HARD_BYTES, limits[1]))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_or_read_as_it_was_written(name: str, place: World, cases: int) -> None:
    kind, faults = KINDS[name], list[str]()
    file = kind.make(place)
    good = file.read_bytes()
    wanted, room = kind.read(place, file), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for number in range(cases):
            bad = damaged(Random(f"{name} {number}"), good, kind.form)
            file.write_bytes(bad)
            began, fault = time.monotonic(), ""
            signal.alarm(_HARD_SECONDS)
            try:
                found = kind.read(place, file)
            except NormtuneError as error:
                fault = "more than one line" if "\n" in str(error) else ""
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                where = traceback.extract_tb(error.__traceback__)
                own = [f"{step.filename}:{step.lineno}" for step in where if "/normtune/" in step.filename]
                fault = f"{type(error).__name__}: {str(error)[:200]} ({' > '.join(own[-3:])})"
            else:
                fault = "read as something else" if kind.told and found != wanted else ""
            signal.alarm(0)
            took, now = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            fault = fault or (f"{took:.0f} s" if took > SECONDS else f"{now - room} KiB" if now - room > KIB else "")
            if fault:
                faults.append(f"{name} {number}: {fault}")
    finally:
        file.write_bytes(good)
    assert not faults, "\n".join([f"{len(faults)} of {cases}", *faults[:20]])
