"""``normtune mask``, as its users call it, on a tiny model: which entries it takes, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normtune.data.glue import load_glue
from normtune.deltas.delta import Delta
from normtune.importance import measurement
from normtune.importance.fisher import Request, fisher
from normtune.importance.masks import Mask, top
from normtune.importance.scores import IMPORTANCES, Importance, Inputs, Scores, magnitude, wanda
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.base import Base, load_base
from normtune.models.head import HeadSpec
from normtune.records.fisher import Estimator, FisherRecord
from normtune.records.run import Record
from normtune.studies import engine
from tests.deltas.banked import changed as moved_values
from tests.training.test_session import assert_same_delta

Run = Callable[..., tuple[int, str, str]]
Make = Callable[..., Mask]
Train = Callable[..., Path]

TASKS = ("rte", "sst2", "stsb")


@pytest.fixture
def options(tiny_folder: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Options of every mask here; the suite's folder is named in the environment."""
    monkeypatch.setenv("NORMTUNE_DATA", str(suite))
    monkeypatch.chdir(tmp_path)
    return ["mask", "--model", tiny_folder, "--device", "cpu"]


@pytest.fixture
def make(cli: Run, options: list[object], tiny_base: Base, tmp_path: Path) -> Make:
    """Runs the command and gives the mask that it saved."""
    made: list[Path] = []

    def run(*more: object) -> Mask:
        file = tmp_path / "masks" / f"{len(made)}.safetensors"
        made.append(file)
        status, _, error = cli(*options, *more, "--out", file)
        assert status == 0, error
        return Mask.load(file, tiny_base)

    return run


def flat(base: Base, suite: Path, task: str, within: str = "layernorm", **more: Any) -> np.ndarray:
    """Fisher information of the candidates through the Python API, in the layout's order."""
    data = load_glue(task, suite)
    candidates = select(base.layout, within)
    encoded = base.encode(data.labelled("train"), 128)
    found = fisher(base, data.task, encoded, Request(candidates, candidates, **more))
    assert found.scores is not None
    return np.concatenate([found.scores.values[place.parameter] for place in candidates])


def positions(selection: Selection, base: Base, within: str = "layernorm") -> set[int]:
    """The positions of the chosen entries among the candidates."""
    found, start = set(), 0
    for place in select(base.layout, within):
        own = select(base.layout, within).indices(place.parameter)
        found |= {start + int(i) for i in np.flatnonzero(np.isin(own, selection.indices(place.parameter)))}
        start += own.size
    assert len(found) == len(selection)  # and none outside them
    return found


def best(values: np.ndarray, count: int) -> set[int]:
    """The highest by plain sorting."""
    return {*np.argsort(-values, kind="stable")[:count].tolist()}


def said(error: str) -> str:
    """The one sentence of an error."""
    (line,) = [line for line in error.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in error
    return line


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.335, 1.0])
def test_individual_is_the_top_of_the_tasks_own_fisher(
    make: Make, tiny_base: Base, suite: Path, fraction: float
) -> None:
    mask = make("--tasks", "rte", "--fraction", fraction)
    count = round(fraction * 192)
    assert positions(mask.selection, tiny_base) == best(flat(tiny_base, suite, "rte"), count)
    info = mask.info
    assert (info.entries, info.candidates, info.fraction, info.within) == (count, 192, fraction, "layernorm")
    assert (info.importance, info.scope, info.tasks, info.target) == ("fisher", "individual", ("rte",), "rte")
    assert (info.examples, info.estimator, info.head_seeds) == ({"rte": 16}, "empirical", (0,))
    assert mask.name == f"fisher-individual@{fraction}"


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_global_adds_each_tasks_fisher_divided_by_its_own_sum(
    make: Make, tiny_base: Base, suite: Path, fraction: float
) -> None:
    mask = make("--tasks", "stsb,rte,SST-2", "--scope", "global", "--fraction", fraction)
    own = [flat(tiny_base, suite, task) for task in TASKS]
    values = sum(task / task.sum() for task in own)
    assert isinstance(values, np.ndarray)
    count = round(fraction * 192)
    assert positions(mask.selection, tiny_base) == best(values, count)
    assert best(values, count) != best(np.sum(own, axis=0), count)  # not divided, one task drowns the others
    assert (mask.info.scope, mask.info.tasks, mask.info.target) == ("global", TASKS, None)
    assert mask.info.examples == {"rte": 16, "sst2": 24, "stsb": 16}


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_leave_one_out_is_global_without_its_target(make: Make, tiny_base: Base, suite: Path, fraction: float) -> None:
    mask = make("--tasks", "rte,sst2,stsb", "--scope", "leave-one-out", "--target", "STS-B", "--fraction", fraction)
    own = [flat(tiny_base, suite, task) for task in ("rte", "sst2")]
    count = round(fraction * 192)
    assert positions(mask.selection, tiny_base) == best(sum(task / task.sum() for task in own), count)  # type: ignore[arg-type]
    assert (mask.info.scope, mask.info.tasks, mask.info.target) == ("leave-one-out", ("rte", "sst2"), "stsb")
    assert mask.info.examples.keys() == {"rte", "sst2"}
    other = make("--tasks", "rte,sst2", "--scope", "global", "--fraction", fraction)
    assert other.selection == mask.selection


@pytest.mark.parametrize("damage", ["missing", "garbage", "forbidden"])
def test_leave_one_out_never_reads_its_target(
    make: Make, suite: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--scope", "leave-one-out", "--target", "stsb", "--fraction", "0.2"]
    whole = make("--tasks", "rte,sst2,stsb", *common)
    if damage == "missing":
        shutil.rmtree(suite / "STS-B")
    elif damage == "garbage":
        for file in (suite / "STS-B").iterdir():
            file.write_bytes(b"\xff\xfe\x00no table at all")
    else:
        asked: list[str] = []
        real = engine.load_task

        def watched(name: str, *more: Any) -> Any:
            asked.append(name)
            assert name != "stsb"
            return real(name, *more)

        monkeypatch.setattr(engine, "load_task", watched)
    without = make("--tasks", "rte,sst2,stsb", *common, "--records", tmp_path / "records")
    assert without.selection == whole.selection
    assert without.info == whole.info
    if damage == "forbidden":
        assert asked == ["rte", "sst2"]
    assert {FisherRecord.load(path).config.task for path in (tmp_path / "records").glob("*.json")} == {"rte", "sst2"}
    # The target need not even be among the tasks named.
    assert make("--tasks", "rte,sst2", *common).selection == whole.selection


def test_a_target_among_several_tasks_is_read_alone(make: Make, suite: Path) -> None:
    alone = make("--tasks", "rte", "--fraction", "0.1")
    shutil.rmtree(suite / "SST-2")
    named = make("--tasks", "rte,sst2,stsb", "--target", "rte", "--fraction", "0.1")
    assert named.info == alone.info


def test_any_number_of_entries_over_the_whole_model(make: Make, tiny_base: Base, suite: Path) -> None:
    mask = make("--tasks", "sst2", "--within", "full", "--entries", 333)
    assert positions(mask.selection, tiny_base, "full") == best(flat(tiny_base, suite, "sst2", "full"), 333)
    assert (mask.info.entries, mask.info.fraction, mask.info.candidates) == (333, None, tiny_base.layout.size)
    assert mask.name == "fisher-individual@333 of full"
    assert len({place.component for place in mask.selection}) > 2
    assert not any(place.head for place in mask.selection)
    none, every = (make("--tasks", "sst2", "--within", "bitfit", "--entries", n) for n in (0, 32))
    assert (len(none.selection), len(every.selection)) == (0, 32)


def test_least_fisher_is_the_bottom(make: Make, tiny_base: Base, suite: Path) -> None:
    values = flat(tiny_base, suite, "rte")
    assert len({*values.tolist()}) == 192
    least = make("--tasks", "rte", "--importance", "least-fisher", "--fraction", "0.25")
    most = make("--tasks", "rte", "--fraction", "0.75")
    assert positions(least.selection, tiny_base) == {*np.argsort(values)[:48].tolist()}
    assert least.selection == select(tiny_base.layout, "layernorm") - most.selection
    assert (least.name, least.info.importance) == ("least-fisher-individual@0.25", "least-fisher")
    scoped = make("--tasks", "rte,sst2", "--importance", "least-fisher", "--scope", "global", "--fraction", "0.25")
    both = sum(own / own.sum() for own in (values, flat(tiny_base, suite, "sst2")))
    assert positions(scoped.selection, tiny_base) == {*np.argsort(both)[:48].tolist()}


def test_magnitude(make: Make, tiny_base: Base) -> None:
    mask = make("--importance", "magnitude", "--fraction", "0.1", "--within", "attention.self.*")
    state = tiny_base.model.state_dict()
    candidates = select(tiny_base.layout, "attention.self.*")
    values = np.concatenate([state[place.parameter].flatten().abs().double().numpy() for place in candidates])
    count = round(0.1 * len(candidates))
    assert len(candidates) == 3 * 3 * 32 * 33
    assert positions(mask.selection, tiny_base, "attention.self.*") == best(values, count)
    assert (mask.info.scope, mask.info.tasks, mask.name) == (None, (), "magnitude@0.1 of attention.self.*")


def test_random_is_drawn_by_its_seed(make: Make, tiny_base: Base) -> None:
    one, same, other = (make("--importance", "random", "--fraction", "0.25", "--seed", seed) for seed in (1, 1, 2))
    assert one.info == same.info
    assert one.selection == same.selection
    assert one.selection != other.selection
    assert len(one.selection) == len(other.selection) == 48
    assert (one.info.seed, other.info.seed) == (1, 2)
    assert 0 < len(one.selection & other.selection) < 48


@pytest.mark.parametrize("per", ["set", "row"])
def test_wanda_takes_a_sample_of_the_tasks_texts(make: Make, tiny_base: Base, suite: Path, per: str) -> None:
    common = ["--importance", "wanda", "--within", "intermediate.dense", "--fraction", "0.25", "--per", per]
    mask = make(*common, "--tasks", "rte,sst2", "--scope", "leave-one-out", "--target", "rte", "--examples", "10")
    sample = load_glue("sst2", suite).labelled("train").sample(10, 0)
    candidates = select(tiny_base.layout, "intermediate.dense")
    scores = wanda(Inputs(tiny_base, candidates, texts=tiny_base.encode(sample, 128)))
    assert mask.selection == top(scores.by_row() if per == "row" else scores, fraction=0.25)
    assert mask.name == f"wanda-leave-one-out@0.25{' by row' if per == 'row' else ''} of intermediate.dense"
    assert (mask.info.tasks, mask.info.examples, mask.info.seed) == (("sst2",), {"sst2": 10}, 0)


def test_an_importance_that_is_added_at_run_time(
    cli: Run, make: Make, small: list[str], tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One function and its line in the table: command, file and record follow."""

    def spread(given: Inputs) -> Scores:
        """An entry's distance from the mean of its parameter, divided by the number of texts."""
        assert given.texts is not None
        values = magnitude(given).values
        return Scores(given.within, {name: np.abs(v - v.mean()) / len(given.texts) for name, v in values.items()})

    monkeypatch.setitem(IMPORTANCES, "spread", Importance("distance from the mean", "texts", spread))
    mask = make("--importance", "spread", "--tasks", "sst2", "--fraction", "0.1")
    state = tiny_base.model.state_dict()
    values = [state[p.parameter].abs().double().numpy() for p in select(tiny_base.layout, "layernorm")]
    assert positions(mask.selection, tiny_base) == best(np.concatenate([np.abs(v - v.mean()) for v in values]), 19)
    assert mask.name == "spread-individual@0.1"
    out = tmp_path / "out"
    options = ["--task", "sst2", "--method", tmp_path / "masks" / "0.safetensors", "--lr", "0.01", *small]
    status, _, error = cli("train", *options, "--out", out)
    assert status == 0, error
    assert Record.load(out / "record.json").config.method == "spread-individual@0.1"
    status, _, error = cli("mask", "--importance", "spred", "--fraction", "0.1", "--out", tmp_path / "no.safetensors")
    assert status == 1
    assert "Did you mean 'spread'?" in said(error)


@pytest.mark.parametrize(
    ("more", "request_"),
    [
        (["--estimator", "exact"], {"estimator": Estimator(name="exact")}),
        (["--estimator", "monte-carlo", "--samples", 2], {"estimator": Estimator(name="monte-carlo", samples=2)}),
        (["--head-seeds", "3,1"], {"head_seeds": (3, 1)}),
    ],
)
def test_how_the_fisher_is_measured(make: Make, tiny_base: Base, suite: Path, more, request_: dict[str, Any]) -> None:
    common = ["--tasks", "sst2", "--within", "full", "--entries", 1000]
    mask = make(*common, *more)
    assert positions(mask.selection, tiny_base, "full") == best(
        flat(tiny_base, suite, "sst2", "full", **request_), 1000
    )
    assert mask.info.head_seeds == request_.get("head_seeds", (0,))
    assert mask.info.estimator == request_.get("estimator", Estimator()).name
    assert mask.selection != make(*common).selection


def test_until_stable_watches_the_mask_that_is_made(make: Make, tmp_path: Path) -> None:
    records = tmp_path / "records"
    common = ["--tasks", "sst2", "--until-stable", "--tolerance", "0.3", "--records", records]
    make(*common, "--fraction", "0.2")
    make(*common, "--entries", "48", "--importance", "least-fisher")
    found = [FisherRecord.load(path).stability for path in records.glob("*.json")]
    assert all(stability is not None for stability in found)
    asked = {(s.asked.of, s.asked.fraction, s.asked.tolerance) for s in found if s is not None}
    assert asked == {("mask", 0.2, 0.3), ("least-mask", 0.25, 0.3)}


def test_entries_that_fisher_kept_are_not_measured_again(
    cli: Run, make: Make, options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = ["--records", tmp_path / "records"]
    alone = make("--tasks", "rte,sst2", "--scope", "global", "--fraction", "0.1")
    status, _, error = cli("fisher", *options[1:], "--tasks", "rte,sst2", *records)
    assert status == 0, error
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        for owner, name in ((Base, "encode"), (measurement, "fisher")):
            patched.setattr(owner, name, forbidden)
        found = make("--tasks", "rte,sst2", "--scope", "global", "--fraction", "0.1", *records)
        make("--tasks", "rte", "--fraction", "0.3", *records)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()} == stamps
    assert found.info == alone.info
    # Another candidate set is another measurement, which is kept beside the first.
    make("--tasks", "rte", "--fraction", "0.3", "--within", "bitfit", *records)
    assert len([*(tmp_path / "records").iterdir()]) == len(stamps) + 2


@pytest.fixture
def train(tiny_base: Base, tmp_path: Path) -> Train:
    """Saves a delta as a run on a task would, with randomly moved values."""

    def run(task: str, seed: int = 0, method: str = "full", base: Base = tiny_base) -> Path:
        out = tmp_path / "runs" / f"{task}-{seed}-{method}"
        return moved_values(base, method, seed=seed + 10 * len(task), task=task, method=method).save(out)

    return run


def changed(base: Base, folder: Path, within: str = "layernorm") -> np.ndarray:
    """|fine-tuned - pre-trained| by hand, in the layout's order."""
    delta, state = Delta.load(folder), base.model.state_dict()
    return np.concatenate([
        (delta.values[p.parameter].double() - state[p.parameter].double().flatten()).abs().numpy()
        for p in select(base.layout, within)
    ])


def test_change_is_read_off_full_runs(make: Make, train: Train, tiny_base: Base) -> None:
    runs = {"rte": train("rte"), "sst2": train("sst2"), "again": train("sst2", seed=1), "stsb": train("stsb")}
    common = ["--importance", "change", "--fraction", "0.1"]
    own = {name: changed(tiny_base, folder) for name, folder in runs.items()}
    assert all((values > 0).mean() > 0.9 for values in own.values())

    one = make(*common, "--runs", runs["rte"])
    assert positions(one.selection, tiny_base) == best(own["rte"], 19)
    assert (one.info.tasks, one.info.target, one.name) == (("rte",), "rte", "change-individual@0.1")

    two = make(*common, "--runs", f"{runs['sst2']},{runs['again']}")
    assert positions(two.selection, tiny_base) == best(own["sst2"] + own["again"], 19)

    every = ",".join(map(str, runs.values()))
    per_task = {"rte": own["rte"], "sst2": own["sst2"] + own["again"], "stsb": own["stsb"]}
    whole = make(*common, "--runs", every, "--scope", "global")
    values: Any = sum(task / task.sum() for task in per_task.values())
    assert positions(whole.selection, tiny_base) == best(values, 19)
    assert whole.info.tasks == TASKS

    out = make(*common, "--runs", every, "--scope", "leave-one-out", "--target", "rte")
    rest: Any = sum(task / task.sum() for name, task in per_task.items() if name != "rte")
    assert positions(out.selection, tiny_base) == best(rest, 19)
    assert (out.info.tasks, out.info.target) == (("sst2", "stsb"), "rte")

    named = make(*common, "--runs", every, "--target", "rte")
    assert named.info == one.info
    wide = make("--importance", "change", "--entries", 100, "--within", "full", "--runs", runs["rte"])
    assert positions(wide.selection, tiny_base, "full") == best(changed(tiny_base, runs["rte"], "full"), 100)


def test_what_would_be_forgotten_or_not_found_again_is_refused(cli: Run, options: list[object], tmp_path: Path) -> None:
    call = [*options, "--tasks", "rte,sst2", "--fraction", "0.1"]
    status, _, error = cli(*call, "--scope", "global", "--target", "rte", "--out", tmp_path / "m.safetensors")
    assert (status, "'global' is for no single task: leave out --target." in error) == (1, True)
    status, _, error = cli(*call, "--target", "rte", "--out", tmp_path / "m.mask")
    assert (status, "A mask's file ends in .safetensors" in error) == (1, True)
    assert not (tmp_path / "m.mask").exists()


def test_change_leaves_out_the_targets_run(make: Make, train: Train) -> None:
    """The target's own run does not affect its leave-one-out mask."""
    common = ["--importance", "change", "--fraction", "0.2"]
    other, own = train("sst2"), [train("rte"), train("rte", seed=1)]
    without = [make(*common, "--scope", "leave-one-out", "--target", "rte", "--runs", f"{other},{run}") for run in own]
    assert without[0].info == without[1].info
    assert make(*common, "--runs", own[0]).selection != make(*common, "--runs", own[1]).selection


def test_a_run_of_a_task_of_ones_own(make: Make, train: Train, tiny_base: Base, tmp_path: Path) -> None:
    run = train("rte")
    delta = Delta.load(run)
    info = delta.info.model_copy(update={"task": "my intents"})
    Delta(info, delta.indices, delta.values, delta.head).save(tmp_path / "own.safetensors")
    both = f"{tmp_path / 'own.safetensors'},{train('sst2')}"
    common = ["--importance", "change", "--fraction", "0.1", "--runs", both]
    mask = make(*common, "--target", "my intents")
    assert positions(mask.selection, tiny_base) == best(changed(tiny_base, run), 19)
    assert mask.info.target == "my intents"
    other = make(*common, "--scope", "leave-one-out", "--target", "my intents")
    assert other.info.tasks == ("sst2",)


def test_it_says_how_many_it_took_and_from_what(
    cli: Run, options: list[object], tiny_base: Base, tmp_path: Path
) -> None:
    file = tmp_path / "mask.safetensors"
    common = [*options, "--tasks", "rte,sst2", "--scope", "global", "--fraction", "0.1"]
    status, text, error = cli(*common, "--out", file)
    assert status == 0, error
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == "fisher-global@0.1: 19 of 192 entries of layernorm"
    assert lines[1] == "from rte (16), sst2 (24) examples"
    assert lines[-1].endswith(f"Saved to {file}; train it with --method {file}")
    rows = [line.split() for line in lines if line.strip().startswith("output.LayerNorm")]
    assert sum(int(cell) for row in rows for cell in row[2:]) == 19
    assert {row[1] for row in rows} <= {"0", "1", "2"}

    status, text, _ = cli(
        *options, "--importance", "random", "--entries", "5000", "--within", "full", "--out", tmp_path / "b.safetensors"
    )
    assert status == 0
    assert text.startswith(f"random@5000 of full: 5,000 of {tiny_base.layout.size:,} entries of full\n")
    assert "more parts of the model" in text


def test_json(cli: Run, options: list[object], tiny_base: Base, tmp_path: Path) -> None:
    file = tmp_path / "mask.safetensors"
    status, text, _ = cli(*options, "--tasks", "rte", "--fraction", "0.1", "--out", file, "--json")
    assert status == 0
    assert json.loads(text) == Mask.load(file, tiny_base).info.model_dump(mode="json")


def test_the_same_command_gives_the_same_file(make: Make, tmp_path: Path) -> None:
    for _ in range(2):
        make("--tasks", "sst2,rte", "--scope", "global", "--fraction", "0.3")
    make("--tasks", "rte,sst2", "--scope", "global", "--fraction", "0.3")
    one, same, turned = (path.read_bytes() for path in sorted((tmp_path / "masks").iterdir()))
    assert one == same == turned


def test_what_it_makes_trains(cli: Run, make: Make, small: list[str], tiny_base: Base, tmp_path: Path) -> None:
    mask = make("--tasks", "sst2", "--fraction", "0.2", "--within", "full")
    options = ["--task", "sst2", "--lr", "0.01", *small]
    file, out = tmp_path / "masks" / "0.safetensors", tmp_path / "out"
    status, _, error = cli("train", *options, "--method", file, "--out", out)
    assert status == 0, error
    delta = Delta.load(out)
    assert delta.selection(tiny_base) == mask.selection
    assert Record.load(out / "record.json").config.method == "fisher-individual@0.2 of full"


def test_a_fraction_of_zero_is_the_head_alone(cli: Run, make: Make, small: list[str], tmp_path: Path) -> None:
    mask = make("--tasks", "sst2", "--fraction", "0")
    assert len(mask.selection) == mask.info.entries == 0
    options = ["--task", "sst2", *small]
    for name, what in (("mask", ["--method", tmp_path / "masks" / "0.safetensors"]), ("head", ["--method", "head"])):
        status, _, error = cli("train", *options, *what, "--out", tmp_path / name)
        assert status == 0, error
    assert_same_delta(Delta.load(tmp_path / "mask"), Delta.load(tmp_path / "head"))
    assert not Delta.load(tmp_path / "mask").values


def test_a_mask_of_another_model_is_refused(
    cli: Run, make_model, make_folder, small: list[str], tmp_path: Path
) -> None:
    other = make_folder(make_model("bert", seed=7).base_model)
    file, out = tmp_path / "other.safetensors", tmp_path / "out"
    status, _, error = cli("mask", "--model", other, "--importance", "random", "--fraction", "0.1", "--out", file)
    assert status == 0, error
    status, text, error = cli("train", "--task", "sst2", "--method", file, "--out", out, *small)
    assert (status, text) == (1, "")
    assert "This mask belongs to the base model" in said(error)
    assert not out.exists()


RTE, TENTH = ["--tasks", "rte"], ["--fraction", "0.1"]
BAD: list[tuple[list[str], str]] = [
    ([*RTE, *TENTH, "--importance", "fischer"], "Unknown importance 'fischer'. Did you mean 'fisher'?"),
    ([*RTE, *TENTH, "--per", "rows"], "Unknown comparison 'rows'. Did you mean 'row'?"),
    ([*RTE, *TENTH, "--scope", "globl"], "Unknown scope 'globl'. Did you mean 'global'?"),
    ([*RTE, *TENTH, "--estimator", "exakt"], "Unknown estimator 'exakt'. Did you mean 'exact'?"),
    ([*RTE, *TENTH, "--suite", "glew"], "Unknown suite 'glew'. Did you mean 'glue'?"),
    ([*RTE, *TENTH, "--protocol", "smal"], "Unknown protocol 'smal'."),
    ([*RTE, *TENTH, "--within", "layrnorm"], "Unknown"),
    ([*TENTH, "--tasks", "rtee"], "Unknown GLUE task 'rtee'. Did you mean 'rte'?"),
    ([*RTE, *TENTH, "--target", "rtee"], "Unknown GLUE task 'rtee'."),
    ([*RTE, "--fraction", "1.01"], "between 0 and 1; got 1.01"),
    ([*RTE, "--fraction", "-0.1"], "between 0 and 1; got -0.1"),
    ([*RTE, "--fraction", "nan"], "between 0 and 1; got nan"),
    ([*RTE, "--fraction", "inf"], "between 0 and 1; got inf"),
    (RTE, "either a fraction of its candidates or a number of entries"),
    ([*RTE, *TENTH, "--entries", "3"], "either a fraction of its candidates or a number of entries"),
    ([*RTE, "--entries", "193"], "between 0 and all 192 candidates; got 193"),
    ([*RTE, "--entries", "193", "--until-stable"], "between 0 and all 192 candidates; got 193"),
    ([*RTE, "--entries", "-1"], "between 0 and all 192 candidates; got -1"),
    ([*RTE, *TENTH, "--within", "head"], "There are no candidates: 'head' selects nothing"),
    (["--importance", "magnitude", *TENTH, "--within", "layernorm - layernorm"], "selects nothing"),
    (TENTH, "The importance 'fisher' is measured on tasks; name one or more"),
    ([*TENTH, "--importance", "least-fisher", "--target", "rte"], "is measured on tasks"),
    ([*RTE, *TENTH, "--runs", "somewhere"], "--runs goes with an importance that is read off runs"),
    ([*TENTH, "--importance", "change"], "name their folders with --runs"),
    ([*RTE, *TENTH, "--importance", "change", "--runs", "somewhere"], "leave out --tasks"),
    ([*TENTH, "--importance", "change", "--runs", "nowhere"], "There is no delta at nowhere"),
    ([*TENTH, "--importance", "change", "--runs", ""], "no comma-separated list"),
    ([*RTE, *TENTH, "--importance", "magnitude"], "is the same for every task; leave the tasks out"),
    ([*TENTH, "--importance", "random", "--target", "rte"], "is the same for every task"),
    ([*RTE, *TENTH, "--target", "sst2"], "Unknown target task 'sst2'"),
    ([*TENTH, "--tasks", "rte,sst2"], "A mask of the scope 'individual' is for one task; name it as the target"),
    ([*TENTH, "--tasks", "rte,sst2", "--scope", "leave-one-out"], "name it as the target"),
    ([*RTE, *TENTH, "--scope", "leave-one-out", "--target", "rte"], "There is no task left to take scores from"),
    ([*TENTH, "--tasks", "rte,"], "no comma-separated list"),
    ([*TENTH, "--tasks", "ax"], "Task 'ax' has no 'train' split"),
    ([*TENTH, "--tasks", "qnli"], "'label'"),
    ([*TENTH, "--tasks", "mrpc"], "No data of MRPC"),
    ([*RTE, *TENTH, "--until-stable", "--tolerance", "1"], "A tolerance is a share from 0 to below 1; got 1"),
    ([*RTE, *TENTH, "--until-stable", "--tolerance", "nan"], "A tolerance is a share from 0 to below 1; got nan"),
    ([*RTE, "--fraction", "0", "--until-stable"], "a fraction between 0 and 1; got 0"),
    ([*RTE, *TENTH, "--head-seeds", "0,x"], "--head-seeds takes different whole numbers"),
    ([*RTE, *TENTH, "--head-seeds", "1,1"], "--head-seeds takes different whole numbers"),
]


@pytest.mark.parametrize(("more", "wanted"), BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(
    cli: Run, options: list[object], suite: Path, tmp_path: Path, more: list[str], wanted: str
) -> None:
    for name, file, head in (("AX", "AX.tsv", "sentence1\tsentence2"), ("QNLI", "train.tsv", "question\tsentence")):
        (suite / name).mkdir()
        (suite / name / file).write_text(f"index\t{head}\n0\tthe cat\ta cat\n")
    out = tmp_path / "mask.safetensors"
    status, text, error = cli(*options, *more, "--out", out)
    assert (status, text) == (1, ""), error
    assert wanted in said(error)
    assert not out.exists()
    assert not (tmp_path / "runs").exists()


def test_a_mask_of_tasks_in_ones_own_files(cli: Run, options: list[object], tiny_base: Base, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("body,label\n" + "".join(f"the cat {i},{i % 3}\n" for i in range(30)))
    (tmp_path / "m.yaml").write_text(
        "tasks: [{name: a, train: t.csv, text: body}, {name: rte, train: t.csv, text: body}]"
    )
    common = [*options, "--tasks", "m.yaml", *TENTH]
    status, _, error = cli(*common, "--target", "a", "--out", "one.safetensors")
    assert status == 0, error
    info = Mask.load(tmp_path / "one.safetensors", tiny_base).info
    assert (info.target, info.examples) == ("a", {"a": 27})
    (tmp_path / "n.yaml").write_text("model: elsewhere\ntasks: [{name: a, train: t.csv, text: body}]")
    status, _, error = cli(*options, "--tasks", "n.yaml", *TENTH, "--target", "a", "--out", "two.safetensors")
    assert (status, "n.yaml says that its model is elsewhere; give that as --model." in error) == (1, True)
    for more, said in ((("--target", "b"), "Unknown target task 'b'"), (("--data", "glue"), "names the files")):
        status, _, error = cli(*common, *more, "--out", "two.safetensors")
        assert (status, said in error) == (1, True), error
    status, text, error = cli("fisher", "--model", options[2], "--tasks", "m.yaml", "--json")
    assert status == 0, error
    assert {name: task["examples"] for name, task in json.loads(text)["tasks"].items()} == {"a": 27, "rte": 27}


def test_a_mask_of_tags(cli: Run, options: list[object], tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.conll").write_text("the O\ncat B-A\n\na O\ndog B-A\n\n" * 8)
    (tmp_path / "m.yaml").write_text("tasks: [{name: a, train: t.conll, kind: tokens}]")
    status, _, error = cli(*options, "--tasks", "m.yaml", *TENTH, "--out", "one.safetensors")
    assert status == 0, error
    assert Mask.load(tmp_path / "one.safetensors", load_base(str(tiny_folder), HeadSpec.numbered(2, "tokens")))


def test_a_file_that_is_there_stays(cli: Run, options: list[object], tmp_path: Path) -> None:
    out = tmp_path / "mask.safetensors"
    out.write_text("precious")
    status, _, error = cli(*options, *RTE, *TENTH, "--out", out, "--records", tmp_path / "records")
    assert status == 1
    assert f"{out} exists already; choose another place or remove it first." in said(error)
    assert out.read_text() == "precious"
    assert not (tmp_path / "records").exists()


def test_runs_that_will_not_do(cli: Run, options: list[object], train: Train, make_base, tmp_path: Path) -> None:
    cases = (
        (train("sst2", method="layernorm"), "did not train .* take a full fine-tuning"),
        (train("stsb", base=make_base("bert", seed=8)), "belongs to the base model"),
    )
    for folder, wanted in cases:
        out = tmp_path / "mask.safetensors"
        more = ["--importance", "change", "--runs", folder, "--entries", "9", "--within", "bitfit"]
        status, text, error = cli(*options, *more, "--out", out)
        assert (status, text) == (1, "")
        assert re.search(wanted, said(error))
        assert not out.exists()
