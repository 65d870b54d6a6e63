"""Several tasks that train together, against a slow loop over the definition in float64."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call

from normtune.config import protocol
from normtune.data.task import Task, TaskData
from normtune.deltas.delta import Delta
from normtune.errors import SelectionError
from normtune.methods.hyper_adapter import HyperAdapter
from normtune.methods.trainable import Trainable
from normtune.models.base import load_base
from normtune.models.head import HeadSpec
from normtune.records.run import MEAN
from normtune.training import loop
from normtune.training.forward import Passes
from normtune.training.loop import StepInfo
from normtune.training.session import Session
from normtune.training.splits import Run
from normtune.training.together import Together, head_of, joined
from tests.training.test_session import (
    NUMBER,
    TASK,
    StoppedError,
    assert_same_delta,
    comparable,
    data,
    score,
    split,
)

RULES = protocol("small", epochs=2, batch_size=24)
#: A task of three classes, beside the one of two and the one of a number.
SIZES = Task("sizes", "Sizes", "classification", ("short", "middle", "long"), ("accuracy",))


def three() -> list[TaskData]:
    """Three tasks; one has twice as many examples as the others."""
    sized = {
        name: replace(own, labels=np.array([min(len(text.split()) // 3, 2) for text in own.texts]))
        for name, own in (("train", split(80, 3)), ("dev", split(24, 4)))
    }
    return [TaskData(SIZES, sized, "memory"), data(TASK), data(NUMBER)]


def runs_of(session: Session, rate: float = 3e-3) -> tuple[Run, ...]:
    return joined([session.prepare(own, "hyper-adapter@2", rate, 0, RULES) for own in three()])


def passes_of(session: Session, runs: tuple[Run, ...], trainable: Trainable) -> Together:
    base = session.base
    encoded = [(base.encode(run.parts.train, 64), base.encode(run.parts.pick, 64)) for run in runs]
    first = Passes(base, runs[0].data.task, *encoded[0], RULES, Accelerator(), plain=True)
    return Together(trainable, first, runs, encoded)


Values = dict[str, Tensor]


def reference(model: nn.Module, spec: HyperAdapter, values: Values, batch: Values, task: int) -> Tensor:
    """The outputs of a plain model with adapters that are made one by one, by the paper's equations, from `values`.

    Args:
        model: The base without anything added, in float64.
        spec: Where the adapters stand, and how wide they are.
        values: All that trains, in float64, by name.
        batch: One example.
        task: The task's number.
    """
    start = f"{spec.targets[0]}.added.network."
    net = {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}
    hooks = []
    for number, target in enumerate(spec.targets):
        layer, position = divmod(number, 2)
        joined = torch.cat([net["task"][64 * task : 64 * (task + 1)], net["layers"][layer], net["positions"][position]])
        inner = torch.relu(net["embed.0.weight"] @ joined + net["embed.0.bias"])
        raw = net["embed.2.weight"] @ inner + net["embed.2.bias"]
        scaled = (raw - raw.mean()) / torch.sqrt(raw.var(unbiased=False) + 1e-6)
        embedding = (scaled * net["embed.3.weight"] + net["embed.3.bias"]) / 64
        weights = net["make.weight"] @ embedding + net["make.bias"]

        def adapt(_: nn.Module, __: object, hidden: Tensor, weights: Tensor = weights) -> Tensor:
            down, b, up, c, scale, shift = weights.split([64, 2, 64, 32, 32, 32])
            wide = nn.functional.gelu(hidden @ down.view(2, 32).T + b) @ up.view(32, 2).T + c
            centred = wide - wide.mean(-1, keepdim=True)
            return hidden + scale * centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) + shift

        hooks.append(model.get_submodule(target).register_forward_hook(adapt))
    others = {name: value for name, value in values.items() if not name.startswith(start)}
    outputs: Tensor = functional_call(model, others, kwargs=batch).logits[0]
    for hook in hooks:
        hook.remove()
    return outputs


def test_a_joint_batch_has_the_loss_and_gradient_of_the_definition(tiny_folder: Path) -> None:
    """A batch of each task, against one example after the other in float64 (Mahabadi et al. 2021, section 2)."""
    session = Session(str(tiny_folder))
    runs = runs_of(session)
    base, spec = session.base, runs[0].spec
    assert isinstance(spec, HyperAdapter)
    base.put_head(head_of(runs), 0)
    plain = copy.deepcopy(base.model).double().requires_grad_(False)
    trainable = Trainable(base, replace(spec, tasks=3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for leaf in trainable.leaves.values():  # the adapters' norms begin at zero, where most gradients are zero
            leaf.add_(0.3 * torch.randn(leaf.shape, generator=generator))
    values = {
        name: value.detach().double().requires_grad_() for name, value in (trainable.leaves | trainable.head).items()
    }
    passes = passes_of(session, runs, trainable)
    batches = [np.arange(3) + 10, np.arange(40, 45), np.arange(80, 84)]  # animals 0 to 39, length to 79, then sizes
    found = sum(passes.backward(batch) for batch in batches)
    wanted = torch.zeros((), dtype=torch.float64)
    for task, (batch, columns) in enumerate(zip(batches, (slice(0, 2), slice(2, 3), slice(3, 6)), strict=True)):
        train, start = passes.parts[task].train, (0, 40, 80)[task]
        assert train.labels is not None
        for example in batch - start:
            outputs = reference(plain, spec, values, train.batch([example]), task)[columns]
            label = train.labels[example]
            loss = (outputs[0] - label) ** 2 if task == 1 else -torch.log_softmax(outputs, 0)[label]
            wanted = wanted + loss / len(batch)
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    wanted.backward()
    for name, leaf in (trainable.leaves | trainable.head).items():
        own = values[name].grad
        assert own is not None
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double(), own, rtol=1e-3, atol=1e-4 * float(own.abs().max()) + 1e-8)


def test_tasks_are_drawn_by_their_size_to_the_tenth_root(tiny_folder: Path) -> None:
    """With T = 10 a task of twice as many examples is drawn 2^(1/10) = 1.07 times as often."""
    session = Session(str(tiny_folder))
    runs = runs_of(session)
    session.base.put_head(head_of(runs), 0)
    trainable = Trainable(session.base, replace(runs[0].spec, tasks=3))
    passes = passes_of(session, runs, trainable)
    assert passes.steps == 7  # of 160 examples, 24 a step
    epochs = [passes.batches(0, epoch) for epoch in range(180)]
    tasks = [[int(np.searchsorted([40, 80], batch, "right").max()) for batch in epoch] for epoch in epochs]
    assert all(np.ptp(np.searchsorted([40, 80], batch, "right")) == 0 for epoch in epochs for batch in epoch)
    share = np.bincount(np.concatenate(tasks)) / (180 * 7)
    wanted = np.array([1, 1, 2**0.1]) / (2 + 2**0.1)
    assert share == pytest.approx(wanted, abs=4 * np.sqrt(0.25 / (180 * 7)))
    for epoch, drawn in zip(epochs, tasks, strict=True):  # two batches cover a small task's examples
        first = [batch for batch, task in zip(epoch, drawn, strict=True) if task == 0]
        seen = [example for batch in first[:2] for example in batch.tolist()]
        assert len({*seen}) == len(seen)
    again = passes.batches(0, 7)
    assert all(np.array_equal(one, other) for one, other in zip(again, epochs[7], strict=True))
    assert not np.array_equal(np.concatenate(again), np.concatenate(passes.batches(1, 7)))


def test_stopped_and_continued_it_gives_the_same_bits_and_each_delta_scores_alone(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, file = Session(str(tiny_folder)), tmp_path / "state"
    before = {name: value.clone() for name, value in session.base.model.state_dict().items()}
    runs = runs_of(session)
    whole = session.train(runs[0])
    assert all(torch.equal(before[name], value) for name, value in session.base.model.state_dict().items())

    def kill(tick: StepInfo) -> None:
        monkeypatch.setattr(loop, "SAVE_EVERY", 0.0 if tick.step == 8 else 60.0)
        if tick.step == 9:
            raise StoppedError

    with pytest.raises(StoppedError):
        session.train(runs[1], checkpoint=file, watch=kill)
    seen = list[int]()
    again = session.train(runs[2], checkpoint=file, watch=lambda tick: seen.append(tick.step))  # whichever asks for it
    assert seen[0] == 9
    alone = session.prepare(data(TASK), "hyper-adapter@2", 3e-3, 0, RULES)
    _, other = session.run(alone)
    fresh = load_base(str(tiny_folder))
    for run, (record, delta), (second, same) in zip(runs, whole, again, strict=True):
        assert comparable(record) == comparable(second)
        assert_same_delta(delta, same)
        task = run.data.task
        assert (record.id, record.config.task, record.config.method) == (
            run.id,
            task.name,
            "hyper-adapter@2:animals,length,sizes",
        )
        head = sum(value.numel() for value in delta.head.values())
        assert (record.counts.head, record.counts.selected) == (head, delta.entries)
        assert record.counts.total == fresh.layout.size + delta.entries - 2 * 32 * 7 + head
        assert delta.values.keys() == other.values.keys()  # a plain delta of the method
        delta.save(tmp_path / task.name)
        dev = fresh.encode(run.parts.dev["dev"], 64)
        with (read := Delta.load(tmp_path / task.name)).apply(fresh):
            assert (fresh.head, read.info.task) == (HeadSpec(task.kind, task.labels), task.name)
            assert score(fresh, dev, task) == pytest.approx(record.scores["dev"], abs=1e-4)
    means = [point.scores[MEAN] for point in whole[0][0].curve]
    primary = [
        [point.scores[run.data.task.primary] for point in record.curve]
        for run, (record, _) in zip(runs, whole, strict=True)
    ]
    assert means == pytest.approx(np.mean(primary, axis=0).tolist())
    assert {record.best_epoch for record, _ in whole} == {means.index(max(means)) + 1}
    up = next(name for name in other.values if name.endswith("added.up"))
    assert len({delta.values[up][0].item() for _, delta in whole}) == 3


def test_runs_of_one_task_keep_their_identity_and_joint_ones_have_their_own(tiny_folder: Path) -> None:
    session = Session(str(tiny_folder))
    runs = runs_of(session)
    two = joined([session.prepare(own, "hyper-adapter@2", 3e-3, 0, RULES) for own in three()[:0:-1]])
    alone = [session.prepare(own, "hyper-adapter@2", 3e-3, 0, RULES) for own in three()]
    assert len({run.id for run in (*runs, *two, *alone)}) == 8
    assert {run.training for run in runs} != {run.training for run in two}
    assert len({run.training for run in runs}) == 1
    with pytest.raises(SelectionError, match=r"^bitfit trains each task alone"):
        joined([session.prepare(own, "bitfit", 3e-3, 0, RULES) for own in three()])


@pytest.mark.slow
def test_tasks_that_train_together_end_above_their_heads_alone(tiny_folder: Path) -> None:
    """Two tasks on the words of a text, each against its head alone at the better of two rates."""
    session, rules = Session(str(tiny_folder)), protocol("small", epochs=15, batch_size=8)
    dogs = Task("dogs", "Dogs", "classification", ("no", "yes"), ("accuracy",))
    tasks = [TaskData(TASK, {"train": split(120, 1), "dev": split(100, 2)}, "memory")]
    with_dogs = {
        name: replace(own, labels=np.array([int("dog" in text) for text in own.texts]))
        for name, own in (("train", split(120, 5)), ("dev", split(100, 6)))
    }
    tasks.append(TaskData(dogs, with_dogs, "memory"))
    made = session.train(joined([session.prepare(own, "hyper-adapter", 3e-3, 0, rules) for own in tasks])[0])
    for own, (record, _) in zip(tasks, made, strict=True):
        heads = [session.run(session.prepare(own, "head", rate, 0, rules))[0].score for rate in (3e-2, 1e-1)]
        assert (record.score or 0) > max(score or 0 for score in heads)
