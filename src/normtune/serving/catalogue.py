"""The tasks that a server answers: those it was given, and those it finds in its folder when they are asked for."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import RLock

from normtune.deltas.answers import Text
from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.deltas.entry import Entry, Prepared
from normtune.errors import DataError, DeltaError, NormtuneError
from normtune.serving.cache import Cache
from normtune.serving.folder import DeltaFolder, Stamp

_log = logging.getLogger(__name__)


class UnknownTaskError(NormtuneError):
    """A task that the server does not have. The message lists none: there may be a million."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no task {name!r}; GET /v1/tasks lists them.")


@dataclass
class _Found:
    """A task loaded from the folder.

    Attributes:
        entry: What the bank made of it.
        stamp: The version of its file, or of the one refused since.
        checked: When it was last compared with the folder.
    """

    entry: Entry
    stamp: Stamp
    checked: float


class Catalogue:
    """The tasks of a bank: those given by name, which stay, and those of a folder, loaded when they are asked for.

    Thread-safe: one thread at a time loads, adds, removes or prepares.

    Args:
        bank: Where they answer.
        folder: Where deltas are read from, or None.
        follow: Whether every delta in the folder is a task under its own name.
        cache_bytes: Bytes that the tasks from the folder may take; the longest unused give way.
        recheck: Seconds for which a loaded task is taken for what the folder holds.
        apart: Let in deltas that cannot share batches.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        bank: Bank,
        folder: DeltaFolder | None = None,
        *,
        follow: bool = False,
        cache_bytes: int = 2**28,
        recheck: float = 1.0,
        apart: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bank, self.folder, self._apart = bank, folder, apart
        self._followed = folder if follow else None
        self._recheck, self._clock, self._lock = recheck, clock, RLock()
        self._given: set[str] = set()
        self.cache: Cache[_Found] = Cache(cache_bytes, lambda found: found.entry.bytes, self.bank.remove)
        #: Deltas in the folder that were refused when they were loaded on demand.
        self.refused = 0

    def give(self, name: str, delta: Delta) -> Entry:
        """Add a task that stays, or replace the one of this name.

        Raises:
            DeltaError: If the delta does not fit; what was there stays.
        """
        with self._lock:
            self.bank.add(name, delta, apart=self._apart)
            self._given.add(name)
            self.cache.drop(name)
            return self.bank.tasks[name]

    def add(self, name: str, delta: str) -> tuple[Entry, bool]:
        """Add a task, or replace the one of this name, with a delta of the folder.

        Args:
            name: The name it answers to.
            delta: The delta's name in the folder.

        Returns:
            What the bank made of it, and whether there was none of this name.

        Raises:
            DeltaError: If there is no folder or no such delta, or it is damaged or does not fit; what was there stays.
        """
        if self.folder is None:
            raise DeltaError("The server was started without a folder of deltas.")
        loaded = self.folder.load(delta)
        with self._lock:
            new = name not in self
            return self.give(name, loaded), new

    def remove(self, name: str) -> None:
        """Remove a task that was given; what was asked before is still answered.

        Raises:
            UnknownTaskError: If there is none of this name.
            DataError: If it comes from the folder that is followed: it would come back.
        """
        with self._lock:
            if name in self._given:
                self._given.remove(name)
                self.bank.remove(name)
                return
        if name in self:
            raise DataError(f"The task {name!r} is there for as long as its delta is in the folder; remove it there.")
        raise UnknownTaskError(name)

    def prepare(self, rows: Sequence[tuple[str, Text]]) -> list[Prepared]:
        """Check and tokenize texts, each with the name of its task before it.

        Raises:
            UnknownTaskError: If there is no such task.
            DeltaError: If its delta in the folder is refused.
            DataError: If a text is empty, or its task does not read such.
        """
        alike: dict[str, list[int]] = defaultdict(list)
        for number, (name, _) in enumerate(rows):
            alike[name].append(number)
        prepared: dict[int, Prepared] = {}
        for name, numbers in alike.items():
            with self._lock:  # a task at a time: more of them than fit may be asked for at once
                self._want(name)
                some = self.bank.prepare_many([rows[number][1] for number in numbers], name)
            prepared.update(zip(numbers, some, strict=True))
        return [prepared[number] for number in range(len(rows))]

    def entry(self, name: str) -> Entry:
        """A task, loaded if it is in the folder only.

        Raises:
            UnknownTaskError: If there is no such task.
            DeltaError: If its delta in the folder is refused.
        """
        with self._lock:
            self._want(name)
            return self.bank.tasks[name]

    def names(self) -> list[str]:
        """The names of all tasks, sorted, loaded or not."""
        with self._lock:
            given = set(self._given)
        return sorted(given.union(self._followed.names() if self._followed else ()))

    def __contains__(self, name: str) -> bool:
        return name in self._given or (self._followed is not None and self._followed.find(name) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _want(self, name: str) -> None:
        """Make sure that the bank holds the task as the folder has it.

        Raises:
            UnknownTaskError: If there is no such task.
        """
        if name in self._given:
            return
        if self._followed is None:
            raise UnknownTaskError(name)
        now = self._clock()
        known = self.cache.get(name)
        if known is not None and now - known.checked < self._recheck:
            return
        stamp = self._followed.stamp(name)
        if stamp is None:
            self._forget(name)
            raise UnknownTaskError(name)
        if known is None or stamp != known.stamp:
            self._load(self._followed, name, stamp, known)
        if known is not None:
            known.checked = now

    def _load(self, folder: DeltaFolder, name: str, stamp: Stamp, known: _Found | None) -> None:
        try:
            self.bank.add(name, folder.load(name), apart=self._apart)
        except DeltaError as error:
            self.refused += 1
            if known is None:
                raise
            known.stamp = stamp  # refused once; asked again when the file changes
            _log.warning("The task %s stays as it was: %s", name, error)
            return
        self.cache.put(name, _Found(self.bank.tasks[name], stamp, self._clock()))

    def _forget(self, name: str) -> None:
        if name in self.cache:
            self.cache.drop(name)
            self.bank.remove(name)
