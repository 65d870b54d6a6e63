"""``normtune train --method FILE``, as its users call it, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from normtune.cli.progress import ProgressDisplay
from normtune.deltas.delta import Delta
from normtune.importance.masks import Mask
from normtune.importance.scores import Inputs, magnitude, random_scores
from normtune.methods.expression import select
from normtune.methods.method import METHODS
from normtune.models.base import Base, load_base
from normtune.records.run import Record
from normtune.training import loop
from tests.training.test_session import assert_same_delta, comparable

Run = Callable[..., tuple[int, str, str]]
Save = Callable[..., Path]


@pytest.fixture
def save(tiny_base: Base, tmp_path: Path) -> Save:
    """Saves a mask of the tiny model in a file of this name: by default a random tenth of its LayerNorm."""

    def make(name: str, within: str = "layernorm", *, seed: int = 0, base: Base = tiny_base, **info: object) -> Path:
        size = {"fraction": 0.1} if not {"fraction", "entries"} & info.keys() else {}
        scores = random_scores(select(base.layout, within), seed)
        mask = Mask.make(base, scores, **{"importance": "random", "within": within, **size, **info})
        return mask.save(tmp_path / "masks" / f"{name}.safetensors")

    return make


def test_exactly_the_masks_entries_train(
    cli: Run, small: list[str], suite: Path, save: Save, tiny_base: Base, tmp_path: Path
) -> None:
    file, out = save("mask", "layernorm + pooler.dense", fraction=0.25), tmp_path / "out"
    mask = Mask.load(file, tiny_base)
    status, text, error = cli("train", "--task", "sst2", "--method", file, "--out", out, *small)
    assert status == 0, error
    assert "accuracy" in text
    record, delta = Record.load(out / "record.json"), Delta.load(out)
    assert delta.selection(tiny_base) == mask.selection
    assert record.trains == mask.info.content
    assert record.counts.selected == mask.info.entries == round(0.25 * (192 + 32 * 32 + 32))
    assert record.config.method == delta.info.method == mask.name == "random@0.25 of layernorm + pooler.dense"
    assert record.config.mask == mask.info.content[:16]
    assert mask.name in (out / "README.md").read_text()
    before = dict(tiny_base.model.named_parameters())
    moved = [value.ne(before[n].detach().flatten()[mask.selection.indices(n)]) for n, value in delta.values.items()]
    assert torch.cat(moved).float().mean() > 0.9
    status, text, _ = cli("evaluate", out, "--data", suite, "--json")
    assert status == 0
    assert json.loads(text)["scores"] == record.scores["dev"]


def test_a_mask_of_everything_trains_as_the_method_itself(cli: Run, small: list[str], save: Save, tmp_path) -> None:
    options = ["--task", "sst2", "--lr", "0.01", *small]
    cli("train", *options, "--method", save("all", fraction=1.0), "--out", tmp_path / "mask")
    cli("train", *options, "--method", "layernorm", "--out", tmp_path / "method")
    one, other = (Record.load(tmp_path / name / "record.json") for name in ("mask", "method"))
    assert_same_delta(Delta.load(tmp_path / "mask"), Delta.load(tmp_path / "method"))
    assert (one.curve[0].loss, one.scores) == (other.curve[0].loss, other.scores)
    assert one.id != other.id
    assert (one.config.mask is None, other.config.mask is None) == (False, True)


def test_an_empty_mask_trains_the_head_alone(cli: Run, small: list[str], save: Save, tmp_path: Path) -> None:
    options = ["--task", "sst2", *small]
    status, _, error = cli("train", *options, "--method", save("none", fraction=0), "--out", tmp_path / "mask")
    assert status == 0, error
    cli("train", *options, "--method", "head", "--out", tmp_path / "head")
    assert Record.load(tmp_path / "mask" / "record.json").config.method == "random@0.0"
    assert_same_delta(Delta.load(tmp_path / "mask"), Delta.load(tmp_path / "head"))


def test_every_mask_is_a_row_and_each_task_takes_its_own(cli: Run, small: list[str], save: Save, tmp_path) -> None:
    own = {"importance": "fisher", "scope": "individual"}
    files = {
        "sst2": save("sst2", seed=1, target="sst2", **own),
        "stsb": save("stsb", seed=2, target="stsb", **own),
        "random": save("random", seed=3),
        "rte": save("rte", seed=4, target="rte", importance="change", scope="individual"),
    }
    store = tmp_path / "records"
    given = ",".join(["head", *map(str, files.values())])
    status, text, error = cli("train", "--task", "sst2,stsb", "--method", given, "--records", store, *small)
    assert status == 0, error
    rows = ["fisher-individual@0.1", "random@0.1", "change-individual@0.1 for rte", "head"]
    assert all(row in text for row in rows)
    prints = {name: Mask.load(file, load_base(small[1])).info.content for name, file in files.items()}
    found = {(r.config.method, r.config.task): r.trains for r in map(Record.load, store.iterdir())}
    assert found.pop(("head", "sst2")) == found.pop(("head", "stsb"))
    assert found == {
        **{(rows[0], task): prints[task] for task in ("sst2", "stsb")},
        **{(rows[1], task): prints["random"] for task in ("sst2", "stsb")},
        **{(rows[2], task): prints["rte"] for task in ("sst2", "stsb")},
    }


def test_what_is_recorded_is_not_run_again_and_another_draw_is(cli: Run, small: list[str], save: Save, tmp_path):
    options = ["--task", "sst2", "--records", tmp_path / "records", *small]
    one, other = save("one"), save("other", seed=1)
    for file, cached in ((one, False), (one, True), (other, False)):
        status, _, error = cli("train", *options, "--method", file)
        assert status == 0
        assert ("(found in the" in error) is cached


def test_search_tries_the_grid_of_layernorm(cli: Run, small: list[str], save: Save, tmp_path: Path) -> None:
    # Six entries of some ten thousand: a mask by random scores does not get the grid of the method `random`.
    file = save("mask", "full", entries=6)
    cli("train", "--task", "sst2", "--method", file, "--lr", "auto", "--records", tmp_path / "mask", *small)
    cli("train", "--task", "sst2", "--lr", "auto", "--records", tmp_path / "method", *small)
    tried = [{Record.load(path).config.rate for path in (tmp_path / n).iterdir()} for n in ("mask", "method")]
    grid = set(METHODS["layernorm"].narrow[:3])
    assert all(grid <= rates and len(rates) <= 5 for rates in tried)


def test_killed_and_continued_it_gives_the_same(
    cli: Run, small: list[str], save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    options = [
        "--task",
        "sst2",
        "--method",
        save("mask", fraction=0.5),
        *small,
        "--protocol",
        "small,epochs=1,batch_size=8",
    ]
    cli("train", *options, "--out", tmp_path / "whole")
    seen: list[int] = []

    def killed(self: ProgressDisplay, job: object, done: int, total: int, note: str) -> None:
        seen.append(done)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ProgressDisplay, "tick", killed)
    out = tmp_path / "out"
    status, _, error = cli("train", *options, "--out", out)
    assert status == 130
    assert "Repeat the command to continue" in error
    status, _, error = cli("train", *options, "--out", out)
    assert status == 0
    assert "Continuing" in error
    assert seen == [1, 2, 2, 3]
    whole, again = (Record.load(folder / "record.json") for folder in (tmp_path / "whole", out))
    assert comparable(again) == comparable(whole)
    assert_same_delta(Delta.load(out), Delta.load(tmp_path / "whole"))


def test_bad_input_is_one_sentence_and_loses_nothing(
    cli: Run, small: list[str], save: Save, make_base, tmp_path: Path
) -> None:
    good, own = save("good"), {"importance": "fisher", "scope": "individual"}
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-1])
    cli("train", "--task", "sst2", "--method", "head", "--out", tmp_path / "head", *small)
    other = make_base("bert", seed=4)
    foreign = Mask.make(
        other, magnitude(Inputs(other, select(other.layout, "layernorm"))), fraction=0.1, importance="magnitude"
    )
    rte, mrpc = save("rte", target="rte", **own), save("mrpc", target="mrpc", **own)
    out = tmp_path / "out"
    for given, more, said in (
        (tmp_path / "none.safetensors", [], "There is no mask at"),
        (f"{good},{tmp_path / 'none.safetensors'}", [], "There is no mask at"),
        (f"{good},", [], "no comma-separated list"),
        (tmp_path / "cut.safetensors", [], "truncated or corrupt"),
        (tmp_path / "head" / "delta.safetensors", [], "is no normtune mask"),
        (foreign.save(tmp_path / "foreign.safetensors"), [], r"This mask belongs to the base model .*, not to .*model"),
        (f"{good},{good}", [], "2 masks are called 'random@0.1'"),
        (f"{rte},{mrpc}", [], "'fisher-individual@0.1', and 0 of them were made for sst2"),
    ):
        status, text, error = cli("train", "--task", "sst2", "--method", given, "--out", out, *more, *small)
        assert (status, text) == (1, ""), (said, error)
        lines = [line for line in error.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1
        assert re.search(said, lines[0]), error
        assert "Traceback" not in error
        assert not out.exists()
