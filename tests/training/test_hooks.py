"""Methods that act in each step: a run that is killed and continued gives the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from normtune.training import loop
from normtune.training.loop import Tick
from normtune.training.session import Session
from tests.training.test_session import SMALL, StoppedError, assert_same_delta, comparable, data

HOOKED = ["child-tuning-f", "adalora@1", "diff-pruning@500"]


@pytest.mark.parametrize("method", HOOKED)
def test_stopped_and_continued_it_gives_the_same_bits(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    session = Session(str(tiny_folder))
    run = session.prepare(data(), method, 1e-3, 0, SMALL)
    whole, delta = session.run(run)
    assert delta.entries == whole.counts.selected == len(session.spec(method))
    seen: list[int] = []
    for stop in (4, 9):
        file = tmp_path / f"{stop}.safetensors"

        def kill(tick: Tick, stop: int = stop) -> None:
            # Saved before the step at which it is killed.
            monkeypatch.setattr(loop, "SAVE_EVERY", 0.0 if tick.step == stop - 1 else 60.0)
            if tick.step == stop:
                raise StoppedError

        with pytest.raises(StoppedError):
            session.run(run, checkpoint=file, watch=kill)
        seen.clear()
        again, other = session.run(run, checkpoint=file, watch=lambda tick: seen.append(tick.step))
        assert seen[0] == stop
        assert comparable(again) == comparable(whole)
        assert_same_delta(delta, other)
