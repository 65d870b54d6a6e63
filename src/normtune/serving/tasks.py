"""The tasks of a server: those that it was given, and those in its folder, which are loaded on demand."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Generic, TypeVar

from normtune.deltas.answers import Text
from normtune.deltas.bank import Bank, BankTask, Prepared
from normtune.deltas.delta import Delta
from normtune.errors import DataError, DeltaError, NormtuneError
from normtune.models.base import Base
from normtune.serving.folder import DeltaFolder, FolderUnreachableError, Stamp
from normtune.serving.settings import Settings

_log = logging.getLogger(__name__)

V = TypeVar("V")
#: The number of refused deltas whose error is remembered, so that a file is not read again within `Settings.recheck`.
_REFUSALS = 1_000


class UnknownTaskError(NormtuneError):
    """A task that the server does not have. The message lists none, since there may be a million."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no task {name!r}; GET /v1/tasks lists them.")


class Cache(Generic[V]):
    """Values by name. The least recently used are dropped when all take more than a limit of bytes.

    The newest value stays even if it alone exceeds the limit. Not thread-safe.

    Args:
        limit: Bytes that the values may take.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: The values and their bytes, the least recently used first.
        self.values: OrderedDict[str, tuple[V, int]] = OrderedDict()
        self.bytes = self.hits = self.misses = self.evictions = 0

    def get(self, name: str) -> V | None:
        """A value, which becomes the most recently used, or None."""
        if name not in self.values:
            self.misses += 1
            return None
        self.hits += 1
        self.values.move_to_end(name)
        return self.values[name][0]

    def put(self, name: str, value: V, size: int) -> list[str]:
        """Add or replace a value of `size` bytes; returns the names of the values that were dropped to make room."""
        self.drop(name)
        self.values[name] = value, size
        self.bytes += size
        dropped = []
        while self.bytes > self.limit and len(self.values) > 1:
            dropped.append(next(iter(self.values)))
            self.drop(dropped[-1])
        self.evictions += len(dropped)
        return dropped

    def drop(self, name: str) -> bool:
        """Remove a value, and say whether there was one."""
        found = self.values.pop(name, None)
        self.bytes -= 0 if found is None else found[1]
        return found is not None


@dataclass
class _Loaded:
    """A task loaded from the folder: the version of its file (or of the one refused since), and when it was checked."""

    stamp: Stamp
    checked: float


class Catalogue:
    """The tasks of a server. Those given by name stay; those of a followed folder are loaded on demand.

    Thread-safe: one thread at a time loads, adds, removes or prepares.

    Args:
        base: The base model, on its device.
        settings: The limits.
        folder: Where deltas are read from, or None.
        follow: Whether every delta in the folder is a task with the delta's name.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        base: Base,
        settings: Settings,
        folder: DeltaFolder | None = None,
        *,
        follow: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bank, self.folder = Bank(base, max_batch=settings.max_batch), folder
        self._followed = folder if follow else None
        self.settings, self._clock, self._lock = settings, clock, RLock()
        self._given: set[str] = set()
        #: The tasks loaded from the folder.
        self.cache: Cache[_Loaded] = Cache(settings.cache_bytes)
        #: The errors of the last deltas that were refused.
        self._wrong: Cache[tuple[_Loaded, str]] = Cache(_REFUSALS)
        #: How many deltas were refused when they were loaded from the folder.
        self.refused = 0

    def give(self, name: str, delta: Delta) -> BankTask:
        """Add or replace a task, which then stays.

        Raises:
            DeltaError: If the delta does not fit; the old task stays.
        """
        with self._lock:
            entry = self.bank.add(name, delta, apart=self.settings.apart)
            self._given.add(name)
            self.cache.drop(name)
            return entry

    def add(self, name: str, delta: str) -> tuple[BankTask, bool]:
        """Add or replace a task with the delta called `delta` in the folder; also returns whether the task is new.

        Raises:
            DeltaError: If there is no folder or no such delta, or it is damaged or does not fit; the old task stays.
        """
        if self.folder is None:
            raise DeltaError("The server was started without a folder of deltas.")
        loaded = self.folder.load(delta)
        with self._lock:
            new = name not in self
            return self.give(name, loaded), new

    def remove(self, name: str) -> None:
        """Remove a task that was given. Texts accepted before are still answered.

        Raises:
            UnknownTaskError: If there is no such task.
            DataError: If its delta is in the followed folder, so that it would come back.
        """
        with self._lock:
            if name in self._given:
                self._given.remove(name)
                self.bank.remove(name)
                return
        if name in self:
            raise DataError(f"The task {name!r} stays for as long as its delta is in the folder; remove it there.")
        raise UnknownTaskError(name)

    def prepare(self, rows: Sequence[tuple[str, Text]]) -> list[Prepared]:
        """Check and tokenize texts, each given with the name of its task, for the bank to answer.

        Raises:
            UnknownTaskError: If there is no such task.
            DeltaError: If its delta in the folder is refused.
            DataError: If a text is empty, is no pair though its task reads pairs, or the reverse.
        """
        alike: dict[str, list[int]] = defaultdict(list)
        for number, (name, _) in enumerate(rows):
            alike[name].append(number)
        prepared: dict[int, Prepared] = {}
        for name, numbers in alike.items():
            with self._lock:  # one task at a time, since more may be asked for than fit into memory
                self._load(name)
                some = self.bank.prepare_many([rows[number][1] for number in numbers], name)
            prepared.update(zip(numbers, some, strict=True))
        return [prepared[number] for number in range(len(rows))]

    def entry(self, name: str) -> BankTask:
        """A task, which is loaded first if need be.

        Raises:
            UnknownTaskError: If there is no such task.
            DeltaError: If its delta in the folder is refused.
        """
        with self._lock:
            self._load(name)
            return self.bank.entry(name)

    def names(self) -> list[str]:
        """The names of all tasks, sorted, loaded or not.

        Raises:
            FolderUnreachableError: If the followed folder cannot be read.
        """
        with self._lock:
            given = set(self._given)
        return sorted(given.union(self._followed.names() if self._followed else ()))

    def is_there(self) -> bool:
        """Whether the folder that it follows can be read, if it follows one."""
        return self._followed is None or self._followed.is_there()

    def __contains__(self, name: str) -> bool:
        return name in self._given or (self._followed is not None and self._followed.find(name) is not None)

    def _load(self, name: str) -> None:
        """Make the bank hold the task as the folder has it, unless it was checked within `Settings.recheck`."""
        if name in self._given:
            return
        if self._followed is None:
            raise UnknownTaskError(name)
        now = self._clock()
        known = self.cache.get(name)
        if known is not None and now - known.checked < self.settings.recheck:
            return
        try:
            stamp = self._followed.stamp(name)
        except FolderUnreachableError:
            if known is None:
                raise
            stamp = known.stamp
        if stamp is None:
            if self.cache.drop(name):
                self.bank.remove(name)
            raise UnknownTaskError(name)
        wrong = self._wrong.get(name)
        if known is None and wrong and wrong[0].stamp == stamp and now - wrong[0].checked < self.settings.recheck:
            raise DeltaError(wrong[1])
        if known is None or stamp != known.stamp:
            try:
                entry = self.bank.add(name, self._followed.load(name), apart=self.settings.apart)
            except DeltaError as error:
                self.refused += 1
                self._wrong.put(name, (_Loaded(stamp, now), str(error)), 1)
                if known is None:
                    raise
                _log.warning("The task %s stays as it was: %s", name, error)
            else:
                for dropped in self.cache.put(name, _Loaded(stamp, now), entry.bytes):
                    self.bank.remove(dropped)
        if known is not None:
            known.stamp, known.checked = stamp, now
