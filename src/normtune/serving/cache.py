"""A cache that drops what was longest unused, once its values take more than a limit of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class Cache(Generic[V]):
    """Values by name, the least recently used of which give way.

    It keeps the newest value even if that alone is beyond the limit. It is not thread-safe.

    Args:
        limit: Bytes that the values may take.
        size: Bytes of a value.
        dropped: Called with the name of each value that gives way.
    """

    def __init__(
        self, limit: int, size: Callable[[V], int], dropped: Callable[[str], None] = lambda name: None
    ) -> None:
        self.limit, self._size, self._dropped = limit, size, dropped
        self._values: OrderedDict[str, tuple[V, int]] = OrderedDict()
        #: Bytes of the values in it.
        self.bytes = 0
        self.hits = self.misses = self.evictions = 0

    def get(self, name: str) -> V | None:
        """The value of this name, now the most recently used, or None."""
        found = self._values.get(name)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._values.move_to_end(name)
        return found[0]

    def put(self, name: str, value: V) -> None:
        """Put in a value, or another for its name, and drop what no longer fits."""
        self.drop(name)
        size = self._size(value)
        self._values[name] = (value, size)
        self.bytes += size
        while self.bytes > self.limit and len(self._values) > 1:
            oldest = next(iter(self._values))
            self.drop(oldest)
            self.evictions += 1
            self._dropped(oldest)

    def drop(self, name: str) -> None:
        """Take out a value, if it is there."""
        _, size = self._values.pop(name, (None, 0))
        self.bytes -= size

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._values])
