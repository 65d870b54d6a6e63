"""What the tests of the server share: a server in a thread of this process, and each delta's answers alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from normtune.deltas.answers import Prediction, Predictor, Text
from normtune.deltas.delta import Delta
from normtune.models.base import Base, load_base
from normtune.models.head import HeadSpec
from normtune.serving.batcher import Batcher
from normtune.serving.folder import DeltaFolder
from normtune.serving.server import Server
from normtune.serving.settings import Settings
from normtune.serving.tasks import Catalogue
from tests.deltas.banked import FIVE, NUMBER, TWO, changed

KINDS: dict[str, HeadSpec] = {"two": TWO, "five": FIVE, "number": NUMBER}
TEXTS = ("the cat sat", "a dog", "one old bird likes the great river and the dull film, not the book", "good ?")


def deltas(base: Base) -> dict[str, Delta]:
    """A delta of each kind of head, and one that reads pairs."""
    some = {name: changed(base, "layernorm", spec, seed) for seed, (name, spec) in enumerate(KINDS.items())}
    return {**some, "pairs": changed(base, "bitfit", TWO, 7, pair=True)}


def alone(base: Base, delta: Delta, text: Text) -> Prediction:
    """What the delta answers when nothing else is on the base."""
    with Predictor(base, delta) as predictor:
        return predictor.predict([text])[0]


def same(answer: Mapping[str, Any], wanted: Prediction) -> bool:
    """Whether an answer of the server is that prediction, to 1e-5."""
    if wanted.value is not None:
        return answer["label"] is None and abs(answer["value"] - wanted.value) < 1e-5
    assert wanted.probabilities is not None
    got = answer["probabilities"] or {}
    close = got.keys() == wanted.probabilities.keys() and all(
        abs(got[label] - share) < 1e-5 for label, share in wanted.probabilities.items()
    )
    return answer["label"] == wanted.label and close


@dataclass
class Running:
    """A running server.

    Attributes:
        url: Its address.
        batcher: The batcher that it serves.
        server: The server itself.
    """

    url: str
    batcher: Batcher
    server: Server

    def client(self, **more: Any) -> httpx2.Client:
        """A client of the server."""
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=False, **more)


@contextmanager
def running(
    model: Path | Base, given: Mapping[str, Delta], *, read: Path | None = None, follow: bool = False, **settings: Any
) -> Iterator[Running]:
    """A server over a base model, or the one in a folder, on a free port of loopback."""
    base = model if isinstance(model, Base) else load_base(str(model))
    catalogue = Catalogue(base, Settings(**settings), None if read is None else DeltaFolder(read), follow=follow)
    for name, delta in given.items():
        catalogue.give(name, delta)
    batcher = Batcher(catalogue)
    up, found = threading.Event(), []

    def listening(address: str) -> None:
        found.append(address)
        up.set()

    server = Server(batcher, "127.0.0.1", 0, listening)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        assert up.wait(30)
        yield Running(found[0], batcher, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
