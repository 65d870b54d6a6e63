"""Several candidates in one pass against each trained alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from normtune.config import Protocol, protocol
from normtune.data.encode import encode
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, TrainingError
from normtune.fast.point import Point
from normtune.fast.prefix import Prefix
from normtune.fast.stack import Stack
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.methods.sparse import Tuning
from normtune.methods.trainable import Trained
from normtune.models.base import Base, load_base
from normtune.models.head import HeadSpec
from normtune.records.run import Record
from normtune.training import loop
from normtune.training.forward import Goal, Passes
from normtune.training.loop import Loop, Outcome, PrunedError, Tick
from normtune.training.session import Session
from normtune.training.together import Together, Trial
from tests.conftest import needs_compiler
from tests.training.test_session import TASK, StoppedError, assert_same_delta, comparable, data

#: Rates and seeds: all that candidates differ in.
PAIRS = ((1e-2, 0), (3e-3, 0), (1e-2, 1))
SMALL = protocol("small", epochs=2, batch_size=8, together=len(PAIRS))


def assert_near(one: Delta | Outcome, other: Delta | Outcome, bound: float) -> None:
    """The same values and head, relative to the size of each tensor."""
    for mine, theirs in ((one.values, other.values), (one.head, other.head)):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert (value - theirs[name]).norm() <= bound * value.norm(), name


def trials(
    session: Session, rules: Protocol, method: str = "layernorm", selection: Selection | None = None
) -> list[Trial]:
    return [Trial(session.config("animals", method, rate, seed, rules, selection)) for rate, seed in PAIRS]


def done(results: list[tuple[Record, Delta] | TrainingError | PrunedError]) -> list[tuple[Record, Delta]]:
    found = [result for result in results if not isinstance(result, Exception)]
    assert len(found) == len(results)
    return found


def third(selection: Selection) -> Selection:
    """A third of the entries of each parameter."""
    taken = {place.parameter: selection.indices(place.parameter)[::3] for place in selection}
    return Selection(selection.layout, taken)


TWO = "output.LayerNorm@0,2 + attention.output.LayerNorm.bias@1"


@pytest.mark.parametrize("layers", ["torch", "fused"])
@pytest.mark.parametrize(
    ("method", "prefix"), [("layernorm", True), ("mask", False), ("mask", True), (TWO, False), ("head", True)]
)
def test_each_gives_what_it_gives_alone(tiny_folder: Path, method: str, prefix: bool, layers: str) -> None:
    session = Session(str(tiny_folder))
    selection = third(session.selection("layernorm@1-")) if method == "mask" else None
    rules = SMALL.model_copy(update={"prefix": prefix, "layers": layers})
    group = trials(session, rules, method, selection)
    before = {name: value.clone() for name, value in session.base.model.state_dict().items()}
    results = done(session.together(group, data(), selection=selection))
    assert all(torch.equal(before[name], value) for name, value in session.base.model.state_dict().items())
    for trial, (record, delta) in zip(group, results, strict=True):
        own = trial.config.model_copy(update={"protocol": rules.model_copy(update={"together": 1})})
        wanted, alone = session.run(own, data(), selection=selection)
        assert record.id == session.identify(trial.config, data(), selection) != wanted.id
        assert [p.loss for p in record.curve] == pytest.approx([p.loss for p in wanted.curve], rel=1e-5)
        assert (record.scores, record.best_epoch, record.steps) == (wanted.scores, wanted.best_epoch, wanted.steps)
        assert (record.counts, delta.entries) == (wanted.counts, alone.entries)
        assert_near(delta, alone, 1e-5)


def passes_of(base: Base, rules: Protocol, selection: Selection, stack: Stack | None = None) -> Passes:
    splits = data().splits
    train, dev = (encode(splits[name], base.need_tokenizer(), 64) for name in ("train", "dev"))
    prefix = Prefix(base, Point.of(base, selection)) if rules.prefix else None
    return Passes(base, Goal(TASK, train, dev), rules, Accelerator(), prefix=prefix, stack=stack)


def alone_in_float64(folder: Path, rules: Protocol, rate: float, seed: int) -> Outcome:
    base = load_base(str(folder))
    base.put_head(HeadSpec(TASK.kind, TASK.labels), seed)
    base.model.double()
    selection = third(select(base.layout, "layernorm"))
    tuning = Tuning(base, selection)
    to_float64(tuning)
    return Loop(tuning, passes_of(base, rules, selection), rate=rate, seed=seed).run()


def to_float64(trained: Trained) -> None:
    for parameter in trained.parameters():
        parameter.data = parameter.data.double()


WAYS = [
    *((prefix, layers) for prefix in (False, True) for layers in ("torch", "fused")),
    pytest.param(True, "compiled", marks=needs_compiler),
]


@pytest.mark.parametrize(("prefix", "layers"), WAYS)
def test_in_float64_it_is_so_to_a_billionth(tiny_folder: Path, prefix: bool, layers: str) -> None:
    rules = SMALL.model_copy(update={"prefix": prefix, "layers": layers})
    base = load_base(str(tiny_folder))
    base.put_head(HeadSpec(TASK.kind, TASK.labels))
    selection = third(select(base.layout, "layernorm"))
    stack = Stack(base, selection)
    candidates = [stack.candidate(seed) for _, seed in PAIRS]
    for trained in candidates:
        to_float64(trained)
    base.model.double()
    passes = passes_of(base, rules, selection, stack)
    loops = {
        candidate: Loop(candidate, passes, rate=rate, seed=seed)
        for candidate, (rate, seed) in zip(candidates, PAIRS, strict=True)
    }
    for (rate, seed), outcome in zip(PAIRS, Together(stack, passes, loops).run(), strict=True):
        assert isinstance(outcome, Outcome)
        wanted = alone_in_float64(tiny_folder, rules, rate, seed)
        assert [p.loss for p in outcome.curve] == pytest.approx([p.loss for p in wanted.curve], rel=1e-9)
        assert_near(outcome, wanted, 1e-9)


def test_one_that_ends_early_leaves_the_others(tiny_folder: Path) -> None:
    session = Session(str(tiny_folder))
    whole = done(session.together(trials(session, SMALL), data()))
    group = trials(session, SMALL)
    steps: list[int] = []
    # One is judged to be lost after its first epoch; of another the loss stops being finite.
    lost = replace(group[0], judge=lambda *_: False, watch=lambda tick: steps.append(tick.step))
    wild = replace(group[2], config=group[2].config.model_copy(update={"rate": 1e30}))
    pruned, kept, failed = session.together([lost, group[1], wild], data())
    assert isinstance(pruned, PrunedError)
    assert isinstance(failed, TrainingError)
    assert steps == [1, 2, 3, 4, 5]
    assert [point.loss for point in pruned.curve] == pytest.approx([whole[0][0].curve[0].loss], rel=1e-5)
    assert not isinstance(kept, Exception)
    assert kept[0].scores == whole[1][0].scores
    assert_near(kept[1], whole[1][1], 1e-5)


@pytest.mark.parametrize("stop", [3, 6])
def test_stopped_and_continued_it_gives_the_same(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    session = Session(str(tiny_folder))
    whole = done(session.together(trials(session, SMALL), data()))

    def kill(tick: Tick) -> None:
        if tick.step == stop:
            raise StoppedError

    group = [replace(trial, checkpoint=tmp_path / f"{n}") for n, trial in enumerate(trials(session, SMALL))]
    with pytest.raises(StoppedError):
        session.together([group[0], replace(group[1], watch=kill), group[2]], data())
    seen: list[list[int]] = [[], [], []]
    again = done(
        session.together(
            [replace(t, watch=lambda tick, n=n: seen[n].append(tick.step)) for n, t in enumerate(group)], data()
        )
    )
    # The first had done the step at which the second was stopped.
    assert [steps[0] for steps in seen] == [stop + 1, stop, stop]
    for (record, delta), (wanted, other) in zip(again, whole, strict=True):
        assert comparable(record)["scores"] == comparable(wanted)["scores"]
        assert [p.loss for p in record.curve] == pytest.approx([p.loss for p in wanted.curve], rel=1e-5)
        assert_near(delta, other, 1e-5)


def test_the_same_group_gives_the_same_bits(tiny_folder: Path) -> None:
    one, other = (done(s.together(trials(s, SMALL), data())) for s in (Session(str(tiny_folder)) for _ in range(2)))
    for (record, delta), (again, same) in zip(one, other, strict=True):
        assert comparable(record) == comparable(again)
        assert_same_delta(delta, same)


def test_a_single_run_of_such_a_protocol_is_a_group_of_one(tiny_folder: Path) -> None:
    session = Session(str(tiny_folder))
    config = trials(session, SMALL)[0].config
    record, delta = session.run(config, data())
    (other, same) = done(session.together([Trial(config)], data()))[0]
    assert comparable(record) == comparable(other)
    assert_same_delta(delta, same)
    with pytest.raises(PrunedError):
        session.run(config, data(), judge=lambda *_: False)


def test_what_cannot_share_a_pass_is_refused(tiny_folder: Path) -> None:
    session = Session(str(tiny_folder))
    group = trials(session, SMALL)
    with pytest.raises(ConfigError, match="only with dropout off"):
        protocol("paper", together=2)
    with pytest.raises(ConfigError, match="only with dropout off"):
        session.together(trials(session, SMALL.model_copy(update={"dropout": True})), data())
    with pytest.raises(ConfigError, match="differ in rate or seed, and in nothing else"):
        session.together([group[0], group[0]], data())
    with pytest.raises(ConfigError, match="differ in rate or seed, and in nothing else"):
        session.together([group[0], trials(session, SMALL, "bitfit")[1]], data())
    with pytest.raises(ConfigError, match="lets 2 candidates share a pass; 3 were given"):
        session.together(trials(session, SMALL.model_copy(update={"together": 2})), data())
    for method, other in (
        ("bitfit", "is selected too"),
        ("layernorm + embeddings.LayerNorm", "embeddings.LayerNorm is"),
    ):
        with pytest.raises(ConfigError, match=other):
            session.together(trials(session, SMALL, method), data())
    assert all("forward" not in vars(module) for module in session.base.model.modules())
