"""Methods measured on a task: which entries they train, and that these stay the same for a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from normtune.config import protocol
from normtune.data.encode import encode
from normtune.errors import SelectionError
from normtune.importance import task_masks
from normtune.importance.task_masks import TaskMasks, measure
from normtune.methods.expression import select, specify, tune
from normtune.methods.top import Top
from normtune.models.base import Base
from normtune.training import loop
from normtune.training.loop import StepInfo
from normtune.training.session import Session
from tests.importance.reference import by_loop
from tests.training.test_session import TASK, StoppedError, assert_same_delta, data

SMALL = protocol("small", epochs=1, batch_size=8)
TRAIN = data().splits["train"]


def test_the_top_entries_of_the_whole_model_by_fisher(tiny_base: Base) -> None:
    """Sung et al. 2021, section 3: the largest mean squared gradients of log p(y | x), over all pre-trained entries."""
    wanted = by_loop(tiny_base, TASK, encode(TRAIN, tiny_base.need_tokenizer(), 16))
    every = np.sort(np.concatenate([own.flatten().numpy() for own in wanted.values()]))
    tenth = round(0.1 * tiny_base.layout.size)
    for method, entries in (("fish-mask", 192), ("fish-mask@50", 50), ("child-tuning-d@10", tenth)):
        top = specify(tiny_base.layout, method)
        assert isinstance(top, Top)
        found = measure(tiny_base, top, data(), TRAIN, 16).selection
        assert len(found) == len(top) == entries
        taken = np.sort(np.concatenate([wanted[name].flatten().numpy()[found.indices(name)] for name in found.chosen]))
        np.testing.assert_allclose(taken, every[-entries:], rtol=1e-3)


def test_any_importance_can_be_taken(tiny_base: Base) -> None:
    for importance, estimator in (("magnitude", None), ("wanda", None), ("obd", "exact"), ("fisher", "empirical")):
        made = measure(tiny_base, Top(tiny_base.layout, "mine", 40, importance, examples=8), data(), TRAIN, 16)
        assert (made.info.importance, len(made.selection), made.info.within) == (importance, 40, "full")
        assert made.info.estimator == estimator


def test_a_session_measures_once_for_all_seeds_and_rates(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def counted(base: Base, top: Top, *rest: object) -> object:
        asked.append(top.method)
        return measure(base, top, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(task_masks, "measure", counted)
    session = Session(str(tiny_folder), masks=tmp_path)
    runs = [session.prepare(data(), "fish-mask", rate, seed, SMALL) for rate, seed in ((1e-2, 0), (1e-3, 1))]
    other = session.prepare(data(), "fish-mask@30", 1e-2, 0, SMALL)
    assert len({run.id for run in (*runs, other)}) == 3
    assert not asked  # a plan measures nothing
    before = {name: value.clone() for name, value in session.base.model.state_dict().items()}
    made = [session.run(run) for run in runs]
    again = Session(str(tiny_folder), masks=tmp_path)
    made.append(again.run(again.prepare(data(), "fish-mask", 1e-2, 0, SMALL)))
    assert asked == ["fish-mask"]
    assert len([*tmp_path.iterdir()]) == 1
    assert session.measured(other, keep=False).spec == session.measured(other).spec
    assert len([*tmp_path.iterdir()]) == 1
    first = made[0][1].selection(session.base)
    assert all(delta.selection(session.base) == first for _, delta in made)
    assert {record.trains for record, _ in made} == {first.fingerprint}
    assert {record.counts.selected for record, _ in made} == {192}
    assert_same_delta(made[0][1], made[2][1])
    assert all(torch.equal(before[name], value) for name, value in session.base.model.state_dict().items())


def test_a_resume_goes_on_with_the_same_entries_or_starts_over(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    session, file, seen = Session(str(tiny_folder)), tmp_path / "state", list[int]()
    run = session.prepare(data(), "fish-mask@60", 1e-2, 0, SMALL)

    def kill(tick: StepInfo, at: int = 4) -> None:
        seen.append(tick.step)
        if tick.step == at:
            raise StoppedError

    with pytest.raises(StoppedError):
        session.run(run, checkpoint=file, watch=kill)
    (tmp_path / "copy").write_bytes(file.read_bytes())
    whole, again = session.run(run), session.run(run, checkpoint=file, watch=lambda tick: seen.append(tick.step))
    assert seen == [1, 2, 3, 4, 4, 5]
    assert_same_delta(whole[1], again[1])
    seen.clear()
    other = select(session.base.layout, "output.LayerNorm.bias@0-1")
    monkeypatch.setattr(TaskMasks, "selection", lambda *_, **__: other)
    with pytest.raises(StoppedError):
        session.run(run, checkpoint=tmp_path / "copy", watch=lambda tick: kill(tick, 1))
    assert seen == [1]


def test_without_a_task_it_is_refused_in_a_sentence(tiny_base: Base) -> None:
    before = {name: value.clone() for name, value in tiny_base.model.state_dict().items()}
    with pytest.raises(SelectionError, match="fish-mask trains the entries that matter most on a task"):
        tune(tiny_base, "fish-mask")
    assert all(torch.equal(before[name], value) for name, value in tiny_base.model.state_dict().items())
    for text, said in (
        ("fish-mask & layernorm", "'fish-mask' is measured on a task, so it stands alone"),
        ("fish-mask@20 + layernorm", "'fish-mask' is measured on a task, so it stands alone"),
        ("lora@4 + layernorm", "'lora' does more than select entries, so it stands alone"),
        ("fish-mask@0", "fish-mask takes a number of entries of 1 to"),
        ("fish-mask@999999999", "fish-mask takes a number of entries of 1 to"),
        ("child-tuning-d@0", "takes a percentage of 1 to 100"),
        ("child-tuning-d@101", "takes a percentage of 1 to 100"),
        ("ia3@2", "ia3 takes no number"),
    ):
        with pytest.raises(SelectionError, match=said):
            specify(tiny_base.layout, text)
