"""Methods that look for what to keep: killed before they found it and continued, they find the same.

`tests/methods/test_trainable.py` tests near the end of a training that any method is continued to the bit.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from normtune.config import protocol
from normtune.training import loop
from normtune.training.loop import StepInfo
from normtune.training.session import Session
from tests.training.test_session import StoppedError, assert_same_delta, comparable, data


@pytest.mark.parametrize("method", ["adalora@1", "diff-pruning@500"])
def test_stopped_in_the_first_half_and_continued_it_gives_the_same_bits(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Killed in the third of eight steps, four per epoch."""
    session, file, seen = Session(str(tiny_folder)), tmp_path / "state", list[int]()
    run = session.prepare(data(), method, 1e-3, 0, protocol("small", epochs=2, batch_size=10))
    whole, delta = session.run(run)

    def kill(tick: StepInfo) -> None:
        monkeypatch.setattr(loop, "SAVE_EVERY", 0.0 if tick.step == 2 else 60.0)  # saved before the step of the kill
        if tick.step == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        session.run(run, checkpoint=file, watch=kill)
    again, other = session.run(run, checkpoint=file, watch=lambda tick: seen.append(tick.step))
    assert seen[0] == 3
    assert comparable(again) == comparable(whole)
    assert_same_delta(delta, other)


@pytest.mark.parametrize("method", ["adalora@1", "diff-pruning@500"])
def test_the_best_epoch_is_one_that_keeps_what_it_says(tiny_folder: Path, method: str) -> None:
    """Of three epochs of four steps, the first ends before half of all steps; the judge's answers do not count."""
    session = Session(str(tiny_folder))
    run = session.prepare(data(), method, 1e-6, 0, protocol("small", epochs=3, batch_size=10))
    record, _ = session.run(run, judge=lambda *_: False)
    # At this rate nothing changes, and of equals the first is taken.
    assert len({point.scores["accuracy"] for point in record.curve}) == 1
    assert record.best_epoch == 2
