"""Training end to end on a tiny model: exact, repeatable, stoppable anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from normtune.config import protocol
from normtune.data.encode import Encoded, encode
from normtune.data.glue_tasks import GLUE
from normtune.data.task import Split, Task, TaskData
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, DataError, SelectionError, TrainingError
from normtune.evaluation import logits, score_outputs
from normtune.methods.expression import select
from normtune.models.base import Base
from normtune.records.run import Record
from normtune.training import loop
from normtune.training.loop import StepInfo
from normtune.training.session import Session
from normtune.training.splits import parts_of

WORDS = ("the", "a", "cat", "dog", "bird", "sat", "ran", "on", "mat")
TASK = Task("animals", "Animals", "classification", ("no", "yes"), ("accuracy", "macro_f1"))
NUMBER = Task("length", "Length", "regression", (), ("spearman", "pearson"))
SMALL = protocol("small", epochs=2, batch_size=8)


def split(size: int, seed: int) -> Split:
    """Sentences labelled by whether they name a cat."""
    generator = np.random.default_rng(seed)
    texts = tuple(" ".join(generator.choice(WORDS, size=generator.integers(2, 9))) for _ in range(size))
    return Split.of_texts(texts, labels=np.array(["cat" in text for text in texts], dtype=np.int64))


def data(task: Task = TASK) -> TaskData:
    splits = {"train": split(40, 1), "dev": split(24, 2)}
    if task.kind == "regression":
        splits = {n: replace(s, labels=np.array([float(len(t.split())) for t in s.texts])) for n, s in splits.items()}
    return TaskData(task, splits, "memory")


@pytest.fixture
def session(tiny_folder: Path) -> Session:
    return Session(str(tiny_folder))


def comparable(record: Record) -> dict[str, object]:
    """A record without what a rerun may change."""
    plain = record.model_dump(mode="json", exclude={"seconds", "peak_memory", "machine", "versions"})
    for point in plain["curve"]:
        del point["seconds"]
    return plain


def score(base: Base, encoded: Encoded, task: Task) -> dict[str, float]:
    assert encoded.labels is not None
    return score_outputs(logits(base, encoded), encoded.labels.numpy(), task)


def assert_same_delta(one: Delta, other: Delta) -> None:
    for mine, theirs in ((one.values, other.values), (one.head, other.head)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("method", ["head", "full", "bitfit", "layernorm", "random", "last-layers@1"])
def test_every_method_learns_and_leaves_the_base_to_the_bit(session: Session, method: str) -> None:
    before = {name: value.clone() for name, value in session.base.model.state_dict().items()}
    chosen = protocol("small", epochs=12, batch_size=8)
    record, delta = session.run(session.prepare(data(), method, 3e-2 if method != "full" else 1e-3, 0, chosen))
    assert record.curve[-1].loss < record.curve[0].loss
    assert all(torch.equal(before[name], value) for name, value in session.base.model.state_dict().items())
    assert record.counts.selected == delta.entries == len(session.spec(method))


def test_the_delta_scores_what_the_record_says(session: Session) -> None:
    run = session.prepare(data(), "layernorm", 1e-2, 0, protocol("small", epochs=6, batch_size=8))
    record, delta = session.run(run)
    dev = encode(data().splits["dev"], session.base.need_tokenizer(), 128)
    with delta.apply(session.base):
        scores = score(session.base, dev, TASK)
    assert scores == record.scores["dev"]
    assert record.score == max(point.scores["accuracy"] for point in record.curve)
    first = next(point.epoch for point in record.curve if point.scores["accuracy"] == record.score)
    assert record.best_epoch == first


@pytest.mark.parametrize("dropout", [True, False])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(session: Session, dropout: bool) -> None:
    chosen = protocol("small", epochs=2, batch_size=8, dropout=dropout)
    runs = [session.run(session.prepare(data(), "random", 1e-2, seed, chosen)) for seed in (3, 3, 4)]
    assert comparable(runs[0][0]) == comparable(runs[1][0])
    assert_same_delta(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1].head["classifier.weight"], runs[2][1].head["classifier.weight"])
    assert len({record.id for record, _ in runs}) == 2


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["layernorm", "bitfit"])
def test_what_is_kept_for_the_backward_pass_changes_no_bit(
    products: str, method: str, session: Session, tiny_folder: Path
) -> None:
    chosen = SMALL.model_copy(update={"dropout": True, "products": products})
    run = session.prepare(data(), method, 1e-2, 0, chosen)
    wanted, less = session.run(run), Session(str(tiny_folder), memory="low").run(run)
    assert comparable(less[0]) == comparable(wanted[0])
    assert_same_delta(less[1], wanted[1])


@pytest.mark.parametrize("dropout", [False, True])
def test_products_in_bfloat16_train_and_pick_the_epoch_and_the_record_is_scored_in_float32(
    session: Session, dropout: bool
) -> None:
    ways = {"epochs": 4, "batch_size": 8, "dropout": dropout}
    exact, lower = protocol("small", **ways), protocol("small", **ways, products="bfloat16")
    (wanted, other), (record, delta) = (
        session.run(session.prepare(data(NUMBER), "layernorm", 1e-2, 0, rules)) for rules in (exact, lower)
    )
    assert record.id != wanted.id
    name = "bert.encoder.layer.1.output.LayerNorm.weight"
    assert not torch.equal(delta.values[name], other.values[name])
    assert torch.allclose(delta.values[name], other.values[name], atol=0.02)
    losses = [[point.loss for point in run.curve] for run in (record, wanted)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    scored = [[point.scores["pearson"] for point in run.curve] for run in (record, wanted)]
    assert scored[0] != scored[1]
    assert scored[0] == pytest.approx(scored[1], abs=0.05)
    assert record.best_epoch is not None
    picked = [point.scores["spearman"] for point in record.curve]
    assert record.best_epoch == picked.index(max(picked)) + 1
    assert record.scores["dev"] != record.curve[record.best_epoch - 1].scores
    dev = encode(data(NUMBER).splits["dev"], session.base.need_tokenizer(), 128)
    with delta.apply(session.base):
        assert record.scores["dev"] == pytest.approx(score(session.base, dev, NUMBER), rel=1e-5)


@pytest.mark.parametrize("more", [{"dtype": "bfloat16"}, {"plain": True}])
def test_only_products_of_a_float32_model_in_the_fast_ways_can_be_lowered(
    tiny_folder: Path, more: dict[str, Any]
) -> None:
    low = Session(str(tiny_folder), **more)
    run = low.prepare(data(), "layernorm", 1e-2, 0, SMALL.model_copy(update={"products": "bfloat16"}))
    with pytest.raises(ConfigError, match="float32 model in the fast ways; leave out --precision and --plain"):
        low.run(run)


def test_the_global_random_state_is_left_alone(session: Session) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    session.run(session.prepare(data(), "layernorm", 1e-2, 0, SMALL))
    assert torch.equal(torch.rand(3), expected)


class StoppedError(Exception):
    """Simulates a kill at a step."""


@pytest.mark.parametrize(("method", "plain"), [("layernorm", True), ("random", False), ("layernorm", False)])
def test_stopped_anywhere_and_continued_it_gives_the_same_bits(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, plain: bool
) -> None:
    session = Session(str(tiny_folder), plain=plain)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    chosen = protocol("small", epochs=2, batch_size=8, dropout=True)
    run = session.prepare(data(), method, 1e-2, 0, chosen)
    whole, delta = session.run(run)
    seen: list[int] = []
    for stop in (1, 4, 5, 6, 9):
        file = tmp_path / f"{stop}.safetensors"

        def kill(tick: StepInfo, stop: int = stop) -> None:
            if tick.step == stop:
                raise StoppedError

        with pytest.raises(StoppedError):
            session.run(run, checkpoint=file, watch=kill)
        assert file.exists() == (stop > 1)
        seen.clear()
        again, delta_again = session.run(run, checkpoint=file, watch=lambda tick: seen.append(tick.step))
        assert seen[0] == stop
        assert comparable(again) == comparable(whole)
        assert_same_delta(delta, delta_again)


@pytest.mark.parametrize("damage", ["zeroed", "flipped", "cut", "no hash", "no tensors"])
def test_a_damaged_checkpoint_starts_the_run_over_with_a_note(
    session: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    run, file, seen = session.prepare(data(), "layernorm", 1e-2, 0, SMALL), tmp_path / "state", []
    whole, delta = session.run(run)

    def kill(tick: StepInfo) -> None:
        if tick.step == 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        session.run(run, checkpoint=file, watch=kill)
    good = file.read_bytes()
    at = good.index(b'\\"epoch\\": ') + len(b'\\"epoch\\": ')
    tensors = load_file(file)
    if damage == "zeroed":
        file.write_bytes(good[:-100] + bytes(100))
    elif damage == "flipped":  # another number of epochs
        file.write_bytes(good[:at] + bytes([good[at] ^ 2]) + good[at + 1 :])
    elif damage == "cut":
        file.write_bytes(good[:-1])
    elif damage == "no hash":
        save_file(tensors, file, {"state": '{"run": "' + run.id + '"}'})
    else:
        file.write_bytes(b"")
    again, other = session.run(run, checkpoint=file, watch=lambda tick: seen.append(tick.step))
    assert seen[0] == 1
    assert "The run that it belongs to starts over." in caplog.text
    assert comparable(again) == comparable(whole)
    assert_same_delta(delta, other)


def test_a_checkpoint_of_another_run_is_not_continued(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    session.run(session.prepare(data(), "layernorm", 1e-2, 0, SMALL), checkpoint=file)
    seen: list[int] = []
    run = session.prepare(data(), "layernorm", 2e-2, 0, SMALL)
    session.run(run, checkpoint=file, watch=lambda tick: seen.append(tick.step))
    assert seen[0] == 1


def test_a_loss_that_stops_being_finite_names_the_step_and_leaves_the_base(session: Session) -> None:
    before = {name: value.clone() for name, value in session.base.model.state_dict().items()}
    run = session.prepare(data(), "full", 1e18, 0, protocol("small", epochs=3, batch_size=8))
    with pytest.raises(TrainingError, match=r"stopped being finite at step \d+ of 15; try a smaller learning rate"):
        session.run(run)
    assert all(torch.equal(before[name], value) for name, value in session.base.model.state_dict().items())


@pytest.mark.parametrize("method", ["layernorm", "full"])
def test_a_base_that_is_not_finite_is_blamed_and_not_the_rate(session: Session, method: str) -> None:
    with torch.no_grad():
        session.base.model.get_parameter("bert.encoder.layer.1.output.dense.bias")[3] = float("nan")
    with pytest.raises(
        TrainingError, match=r"base model holds values that are not finite.*layer\.1\.output\.dense\.bias"
    ):
        session.run(session.prepare(data(), method, 1e-3, 0, SMALL))


def test_a_delta_names_the_limit_at_which_texts_were_cut(session: Session) -> None:
    session.base.need_tokenizer().model_max_length = 6
    record, delta = session.run(session.prepare(data(), "head", 1e-3, 0, protocol("small", epochs=1, max_length=99)))
    assert (delta.info.max_length, record.config.protocol.max_length) == (6, 99)
    whole = session.base.need_tokenizer()(list(data().split("train").texts))["input_ids"]
    assert record.data.truncated["train"] == sum(len(numbers) > 6 for numbers in whole) > 0


def test_a_token_without_an_embedding_is_said_before_anything_is_trained(session: Session) -> None:
    session.base.need_tokenizer().add_tokens(["ticketid"])
    own = data()
    dev = Split.of_texts(("a cat", "my ticketid is"), labels=np.array([0, 1]))
    steps: list[StepInfo] = []
    rules = protocol("held-out", epochs=1, batch_size=8)
    run = session.prepare(replace(own, splits={**own.splits, "dev": dev}), "head", 1e-3, 0, rules)
    with pytest.raises(
        DataError, match=r"Text 2 of 2 has the token 'ticketid', which the tokenizer of .* knows and its"
    ):
        session.run(run, watch=steps.append)
    assert not steps


def test_regression_trains_in_the_tasks_scale_and_answers_on_the_targets_own(session: Session) -> None:
    targets = data(NUMBER).splits["train"].labels
    assert targets is not None
    task = replace(NUMBER, center=float(targets.mean()), scale=float(targets.std()), metrics=("spearman", "mse"))
    run = session.prepare(data(task), "full", 3e-3, 0, protocol("small", epochs=15, batch_size=8))
    record, delta = session.run(run)
    assert (delta.info.center, delta.info.scale) == (task.center, task.scale)
    assert record.scores["dev"]["mse"] < float(targets.var())


def test_class_weights_change_the_run_and_its_identity(session: Session) -> None:
    plain, weighted = TASK, replace(TASK, weights=(1.0, 50.0))
    one, other = (session.run(session.prepare(data(task), "full", 1e-3, 0, SMALL))[0] for task in (plain, weighted))
    assert one.id != other.id
    assert one.curve[0].loss != other.curve[0].loss
    several = Session(str(session.base.name), accelerator=session.accelerator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(several.accelerator), "num_processes", 2)
        with pytest.raises(ConfigError, match="Class weights are for one process"):
            several.prepare(data(weighted), "full", 1e-3, 0, SMALL)


def test_held_out_picks_on_a_slice_of_train_and_dev_is_only_scored(session: Session) -> None:
    chosen = protocol("held-out", epochs=3, batch_size=8, held_out=0.25)
    parts = parts_of(data(), chosen)
    assert len(parts.pick) == 10
    assert sorted(parts.pick.texts + parts.train.texts) == sorted(data().splits["train"].texts)
    record, _ = session.run(session.prepare(data(), "layernorm", 1e-2, 0, chosen))
    assert record.data.held_out == 10
    assert record.data.train == 30
    assert record.scores["dev"].keys() == record.curve[0].scores.keys()


def test_samples_are_seeded_and_recorded(session: Session) -> None:
    chosen = protocol("small", epochs=1, max_train=16, max_dev=8)
    one, other = parts_of(data(), chosen), parts_of(data(), chosen)
    assert one.train.texts == other.train.texts
    assert chosen.name == "small*"
    record, _ = session.run(session.prepare(data(), "head", 1e-2, 0, chosen))
    assert (record.data.train, record.data.train_of, record.data.dev, record.data.dev_of) == (16, 40, 8, 24)


def test_identity_names_all_that_changes_a_number_and_nothing_else(session: Session, tiny_folder: Path) -> None:
    known = session.prepare(data(), "layernorm", 1e-2, 0, SMALL)
    assert known.id == Session(str(tiny_folder)).prepare(data(), "layernorm", 1e-2, 0, SMALL).id
    dropping = protocol("small", epochs=2, batch_size=8, dropout=True)
    more = TaskData(TASK, {**data().splits, "train": split(40, 9)}, "memory")
    others = [
        session.prepare(data(), "layernorm", 2e-2, 0, SMALL),
        session.prepare(data(), "layernorm", 1e-2, 1, SMALL),
        session.prepare(data(), "bitfit", 1e-2, 0, SMALL),
        session.prepare(data(), "layernorm", 1e-2, 0, dropping),
        session.prepare(more, "layernorm", 1e-2, 0, SMALL),
    ]
    assert len({run.id for run in (known, *others)}) == 6
    # No revision names the content of a folder, whose configuration may be edited.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(session.base), "computes", ("another", session.base.computes[1]))
        assert session.prepare(data(), "layernorm", 1e-2, 0, SMALL).id != known.id


def test_full_fine_tuning_records_how_far_each_component_moved(session: Session) -> None:
    record, delta = session.run(session.prepare(data(), "full", 1e-3, 0, SMALL))
    base = dict(session.base.model.named_parameters())
    place = session.base.layout.by_name["bert.encoder.layer.1.output.LayerNorm.bias"]
    found = [c for c in record.changes if (c.component, c.layer, c.sub) == (place.component, 1, "bias")]
    moved = [
        abs(float(new) - float(old))
        for new, old in zip(delta.values[place.parameter], base[place.parameter], strict=True)
    ]
    assert len(found) == 1
    assert found[0].mean == pytest.approx(sum(moved) / len(moved), rel=1e-6)
    assert {c.component for c in record.changes} == {place.component for place in session.base.layout.body}


def test_outputs_do_not_depend_on_padding(session: Session) -> None:
    texts = data().splits["dev"]
    together = logits(session.base, encode(texts, session.base.need_tokenizer(), 128))
    alone = np.concatenate([
        logits(session.base, encode(texts.take([i]), session.base.need_tokenizer(), 128)) for i in range(len(texts))
    ])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_selection_of_ones_own_trains_as_the_method_that_makes_it(session: Session) -> None:
    selection = select(session.base.layout, "layernorm")
    own = session.prepare(data(), "mine", 1e-2, 0, SMALL, selection)
    record, delta = session.run(own)
    expected, delta_expected = session.run(session.prepare(data(), "layernorm", 1e-2, 0, SMALL))
    assert_same_delta(delta, delta_expected)
    assert (record.scores, record.trains) == (expected.scores, expected.trains)
    assert (record.config.method, delta.info.method, record.config.mask) == ("mine", "mine", selection.fingerprint[:16])
    assert record.id == own.id != expected.id


def test_a_selection_of_another_model_is_refused(session: Session, make_base: Callable[..., Base]) -> None:
    foreign = select(make_base("bert", num_hidden_layers=2).layout, "layernorm")
    with pytest.raises(SelectionError, match="The selection 'mine' is of another model"):
        session.prepare(data(), "mine", 1e-2, 0, SMALL, foreign)


def test_a_run_by_plain_torch_is_another(session: Session, tiny_folder: Path) -> None:
    run, plain = (
        own.prepare(data(), "layernorm", 1e-2, 0, SMALL) for own in (session, Session(str(tiny_folder), plain=True))
    )
    assert run.config == plain.config
    assert run.id != plain.id


def test_records_from_before_a_field_was_added_are_found_again(session: Session) -> None:
    run = session.prepare(data(), "layernorm", 1e-2, 0, SMALL).config
    assert run.model_dump(exclude_defaults=True).keys() == {"model", "task", "method", "rate", "protocol"}


@pytest.fixture
def mixing() -> Iterator[Accelerator]:
    """An accelerator that mixes precisions, which is one setting for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_mixed_precision_is_taken_off_the_base_after_a_run(tiny_folder: Path, mixing: Accelerator) -> None:
    mixed = Session(str(tiny_folder), accelerator=mixing)
    examples = encode(split(8, 3), mixed.base.need_tokenizer(), 16)
    before = logits(mixed.base, examples)
    mixed.run(mixed.prepare(data(), "layernorm", 1e-2, 0, SMALL))
    assert not {"forward", "_original_forward"} & {*vars(mixed.base.model)}
    np.testing.assert_array_equal(logits(mixed.base, examples), before)


def test_a_failed_run_leaves_the_model_in_the_mode_that_it_was_in(session: Session) -> None:
    with pytest.raises(TrainingError):
        session.run(session.prepare(data(), "full", 1e18, 0, protocol("small", epochs=1, dropout=True)))
    assert not session.base.model.training


def test_names_of_ones_own_labels_and_columns_are_part_of_a_run(session: Session) -> None:
    """The delta answers with them, so a run with others is not the same result."""
    own = replace(TASK, columns=("text", "label"))
    tasks = (TASK, own, replace(own, labels=("neg", "pos")), replace(own, columns=("body", "label")))
    assert len({session.prepare(data(task), "layernorm", 1e-2, 0, SMALL).id for task in tasks}) == 4


def test_answers_that_differ_by_rounding_alone_are_no_ranking() -> None:
    """As a regression that has collapsed gives in batches of different lengths."""
    outputs = np.array([[2.751229], [2.7512298], [2.751229], [2.7512298]], np.float32)
    assert score_outputs(outputs, np.array([0.0, 5.0, 1.0, 4.0]), GLUE["stsb"])["spearman"] == 0
