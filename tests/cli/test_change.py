"""``normtune change`` on records of real runs of a tiny model, and on runs of its own."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch

from normtune.cli.change import number
from normtune.cli.render import console
from normtune.config import protocol
from normtune.data.task import Task
from normtune.records.results import Store
from normtune.records.run import Record
from normtune.training.session import Session
from tests.training.test_session import NUMBER, SMALL, TASK, data

Run = Callable[..., tuple[int, str, str]]


def run(session: Session, folder: Path, task: Task, method: str, rate: float, seed: int) -> None:
    """Train once, and keep the record."""
    record, _ = session.run(session.prepare(data(task), method, rate, seed, SMALL))
    Store(folder).put(record)


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, two seeds at the better of two rates, and a run that trains the head alone."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    session = Session(str(tiny_folder))
    for task in (TASK, NUMBER):
        for rate, seed in ((1e-4, 0), (1e-3, 0), (1e-3, 1)):
            run(session, folder, task, "full", rate, seed)
    run(session, folder, TASK, "head", 1e-2, 0)
    return folder


@pytest.fixture
def records(made: Path, tmp_path: Path) -> Path:
    """A copy of `made`, to add to."""
    return Path(shutil.copytree(made, tmp_path / "records"))


def shown(folder: Path, task: str) -> list[Record]:
    """The runs of a task that have a second seed at their rate."""
    full = [record for record in Store(folder) if (record.config.task, record.config.method) == (task, "full")]
    rate = next(record.config.rate for record in full if record.config.seed == 1)
    return sorted((r for r in full if r.config.rate == rate), key=lambda record: record.config.seed)


def edited(record: Record, folder: Path, name: str, **changes: object) -> None:
    """Save a copy of `record` with these fields changed; ``config_`` marks fields of its configuration."""
    plain = record.model_dump(mode="json")
    for key, value in changes.items():
        place, key = (plain["config"], key.removeprefix("config_")) if key.startswith("config_") else (plain, key)
        place[key] = value
    Record.model_validate({**plain, "id": name}).save(folder / f"{name}.json")


def test_values_are_means_over_the_seeds_of_the_rate_that_the_table_shows(cli: Run, made: Path) -> None:
    status, text, _ = cli("change", made, "--task", "animals", "--json")
    assert status == 0
    (found,) = json.loads(text)
    runs = shown(made, "animals")
    assert found["seeds"] == [0, 1]
    assert found["records"] == [record.id for record in runs]
    assert found["rate"] == runs[0].config.rate
    assert (found["task"], found["protocol"], found["measure"], found["sub"]) == ("animals", "small*", "mean", None)
    for cell in found["cells"]:
        spot = cell["component"], cell["layer"]
        values = []
        for record in runs:
            parts = [change for change in record.changes if (change.component, change.layer) == spot]
            values.append(sum(c.mean * c.entries for c in parts) / sum(c.entries for c in parts))
        assert cell["mean"] == pytest.approx(mean(values), rel=1e-12)
        assert cell["spread"] == pytest.approx(stdev(values), rel=1e-6)
    assert {cell["layer"] for cell in found["cells"]} == {0, 1, 2}
    outside = {line["component"] for line in found["components"] if not line["in_layers"]}
    assert outside == {
        *("embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.token_type_embeddings"),
        *("embeddings.LayerNorm", "pooler.dense"),
    }
    ranked = sorted((line for line in found["components"] if line["rank"]), key=lambda line: line["rank"])
    assert [line["mean"] for line in ranked] == sorted((line["mean"] for line in ranked), reverse=True)
    assert [line["rank"] for line in ranked] == [*range(1, 9)]
    assert not any(line["in_layers"] for line in found["components"] if not line["rank"])


def test_the_terminal_shows_a_ranking_in_80_columns(cli: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 80)
    status, text, _ = cli("change", made)
    assert status == 0
    assert max(map(len, text.splitlines())) <= 80
    for task in ("animals", "length"):
        assert f"{task}: " in text
    assert text.count("protocol small*, 2 seeds") == 2
    assert re.search(r"^Change: mean \|change\| \(mean over 2 tasks\)", text, re.MULTILINE)
    lines = [line.split() for line in text.splitlines() if re.match(r"\s*[a-z.A-Z_]+ +\d", line)]
    means = [float(line[1]) for line in lines[:8]]
    assert means == sorted(means, reverse=True)
    assert [{*column} for column in zip(*(line[2:] for line in lines[:8]), strict=True)] == [{*"12345678"}] * 2
    assert [len(line) for line in lines[8:]] == [2] * 5
    assert "±" not in text


def test_one_task_shows_its_spread(cli: Run, made: Path) -> None:
    _, text, _ = cli("change", made, "--task", "length")
    assert re.search(r"output\.LayerNorm +[\d.e-]+ ± [\d.e-]+ +\d", text)
    assert "± is the standard deviation over seeds" in text


def test_weight_and_bias_apart(cli: Run, made: Path) -> None:
    _, text, _ = cli("change", made, "--task", "animals", "--subs", "--json", "--measure", "l1")
    weight, bias = json.loads(text)
    _, text, _ = cli("change", made, "--task", "animals", "--json", "--measure", "l1")
    (both,) = json.loads(text)
    assert [panel["sub"] for panel in (weight, bias)] == ["weight", "bias"]
    for one, other, together in zip(weight["cells"], bias["cells"], both["cells"], strict=True):
        assert one["mean"] + other["mean"] == pytest.approx(together["mean"], rel=1e-12)
    ranks = sorted(line["rank"] for panel in (weight, bias) for line in panel["components"] if line["rank"])
    assert ranks == [*range(1, 17)]
    _, text, _ = cli("change", made, "--task", "animals", "--subs")
    assert " output.LayerNorm.bias " in text


def test_markdown_and_csv(cli: Run, made: Path) -> None:
    status, text, _ = cli("change", made, "--markdown", "--measure", "relative")
    assert status == 0
    (table,) = [part.splitlines() for part in text.split("\n\n") if part.startswith("| ")]
    assert table[0] == "| component | change | animals | length |"
    assert len(table) == 2 + 8 + 5
    status, text, _ = cli("change", made, "--task", "animals", "--csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(text)))
    (plain,) = json.loads(cli("change", made, "--task", "animals", "--json")[1])
    assert len(rows) == len(plain["components"]) + len(plain["cells"])
    for row, line in zip(rows, [*plain["components"], *plain["cells"]], strict=True):
        assert (row["task"], row["component"], row["layer"]) == (
            "animals",
            line["component"],
            str(line.get("layer", "")),
        )
        assert float(row["mean"]) == line["mean"]


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (9.284e-4, 43.21, 0.0, None)] == ["9.28e-04", "4.32e+01", "0.00e+00", "-"]


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_the_figure(suffix: str, cli: Run, made: Path, tmp_path: Path) -> None:
    path = tmp_path / f"deep/change.{suffix}"
    status, text, error = cli("change", made, "--subs", "--figure", path, "--json")
    assert status == 0, error
    assert json.loads(text)
    assert f"Saved to {path}" in error
    assert path.stat().st_size > 5000


def test_the_records_of_a_training_are_read(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    options = ["--protocol", "small,epochs=1,max_train=32,max_dev=16", "--device", "cpu", "--records", tmp_path]
    call = ["train", "--model", tiny_folder, "--suite", "toy", "--task", "sst2,RTE", "--method", "full"]
    status, _, error = cli(*call, "--seed", "0,1", "--lr", "0.001", *options)
    assert status == 0, error
    _, text, _ = cli("change", tmp_path, "--task", "SST-2,rte", "--json")
    assert [(panel["task"], panel["seeds"]) for panel in json.loads(text)] == [("sst2", [0, 1]), ("rte", [0, 1])]
    assert "2 seeds, rate 0.001" in cli("change", tmp_path)[1]


def test_a_relative_change_that_is_none_is_said(cli: Run, records: Path) -> None:
    for place, record in enumerate(shown(records, "animals")):
        changes = [c.model_dump() for c in record.changes]
        changes = [{**c, "relative": None} if c["component"] == "pooler.dense" else c for c in changes]
        edited(record, records, f"none{place}", changes=changes, config_task="mine")
    status, text, _ = cli("change", records, "--task", "mine", "--measure", "relative")
    assert status == 0
    assert re.search(r"No relative change \(-\) of pooler\.dense:", text)
    _, text, _ = cli("change", records, "--task", "mine")
    assert "No relative change" not in text


def test_runs_that_differ_in_threads_only_count_once(cli: Run, records: Path) -> None:
    runs = shown(records, "animals")
    for place, record in enumerate(runs):
        edited(record, records, f"threads{place}", machine={**record.machine, "threads": 7})
    _, text, _ = cli("change", records, "--task", "animals", "--json")
    assert json.loads(text)[0]["seeds"] == [0, 1]


def refused(cli: Run, *arguments: object) -> str:
    status, text, error = cli("change", *arguments)
    assert status == 1
    assert text == ""
    assert error.startswith("Error: ")
    assert len(error.splitlines()) == 1
    return error


def test_what_cannot_be_shown_is_refused_in_one_sentence(cli: Run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no folder of records" in refused(cli, tmp_path / "nowhere")
    assert "no records of runs in" in refused(cli, tmp_path / "empty")
    assert "no records of runs of protocol paper" in refused(cli, made, "--protocol", "paper")
    assert "no records of runs of model minilm" in refused(cli, made, "--model", "minilm")
    assert "no full fine-tuning of rte" in refused(cli, made, "--task", "animals,rte")
    assert "Unknown task 'animal'. Did you mean 'animals'?" in refused(cli, made, "--task", "animal")
    assert "Unknown measure 'l2'" in refused(cli, made, "--measure", "l2")
    assert ".svg, .png, .pdf" in refused(cli, made, "--figure", tmp_path / "map.jpg")
    assert "Choose one of" in refused(cli, made, "--json", "--markdown")


def test_what_must_not_be_averaged_or_compared_is_refused(cli: Run, records: Path, tmp_path: Path) -> None:
    first, second = shown(records, "animals")
    edited(first, records, "other", base_identity="other", config_model="bert-large")
    assert "bert-large (float32)" in (error := refused(cli, records))
    assert "several models" in error
    status, _, _ = cli("change", records, "--model", first.config.model)
    assert status == 0
    (records / "other.json").unlink()

    edited(first, records, "other", config_protocol=protocol("paper").model_dump())
    assert "several protocols, paper, small*" in refused(cli, records)
    status, _, _ = cli("change", records, "--protocol", "small*")
    assert status == 0
    (records / "other.json").unlink()

    facts = first.data.model_copy(update={"identity": {"train": "other"}}).model_dump()
    edited(first, records, "other", data=facts, config_seed=7)
    assert "animals are on different data" in refused(cli, records)
    status, _, _ = cli("change", records, "--task", "length")
    assert status == 0
    (records / "other.json").unlink()

    for place, record in enumerate((first, second)):
        edited(record, records, f"bare{place}", changes=[], config_task="bare")
    assert "bare0 (bare) does not say" in refused(cli, records, "--task", "bare")


def test_without_matplotlib_it_says_so_before_it_reads_anything(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'normtune[report]'" in refused(cli, "nowhere", "--figure", tmp_path / "map.svg")


def test_a_model_without_biases_has_weights_alone(cli: Run, made: Path, tmp_path: Path) -> None:
    for file in (made / "runs" if (made / "runs").is_dir() else made).glob("*.json"):
        run = Record.load(file)
        weights = tuple(change for change in run.changes if change.sub == "weight")
        run.model_copy(update={"changes": weights}).save(tmp_path / "runs" / file.name)
    status, text, error = cli("change", tmp_path, "--task", "animals", "--subs", "--json")
    assert status == 0, error
    assert [panel["sub"] for panel in json.loads(text)] == ["weight"]
