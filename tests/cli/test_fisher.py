"""``normtune fisher``, as its users call it, on a tiny model and the toy suite."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.stats import kendalltau

from normtune.cli.render import console
from normtune.data.suites import SUITES, load_task
from normtune.importance import measurement
from normtune.importance.fisher import Fisher, Request, fisher
from normtune.methods.expression import select
from normtune.models.base import Base
from normtune.models.families import FAMILIES
from normtune.records.fisher import Estimator, FisherRecord
from normtune.report import heatmap
from normtune.report.heatmap import HeatMap

Run = Callable[..., tuple[int, str, str]]

EXAMPLES = 12


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.fixture
def options(tiny_folder: Path, records: Path) -> list[object]:
    """Options of every measurement here."""
    return [
        *("fisher", "--model", tiny_folder, "--suite", "toy", "--examples", EXAMPLES),
        *("--device", "cpu", "--records", records),
    ]


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[list[HeatMap]]:
    """What was drawn, figure by figure."""
    drawn: list[list[HeatMap]] = []
    real = heatmap.figure

    def noting(maps: Sequence[HeatMap], **more: Any) -> Any:
        drawn.append([*maps])
        return real(maps, **more)

    monkeypatch.setattr(heatmap, "figure", noting)
    return drawn


def by_api(base: Base, task: str, **more: Any) -> Fisher:
    """The same through the Python API."""
    data = load_task(task, "toy")
    encoded = base.encode(data.labelled("train").sample(EXAMPLES, 0), 128)
    whole = select(base.layout, "full")
    return fisher(base, data.task, encoded, Request(whole, whole, **more))


def means_by_hand(base: Base, found: Fisher) -> dict[str, float]:
    """The mean over the entries of each component of the layers."""
    assert found.scores is not None
    entries: dict[str, list[np.ndarray]] = {}
    for place in base.layout.body:
        if place.layer is not None:
            entries.setdefault(place.component, []).append(found.scores.values[place.parameter])
    return {name: float(np.concatenate(values).mean()) for name, values in entries.items()}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_its_numbers_are_those_of_the_python_api(cli: Run, options: list[object], tiny_base: Base) -> None:
    status, text, error = cli(*options, "--tasks", "rte,SST-2,stsb", "--json")
    assert status == 0, error
    found = json.loads(text)
    assert [*found["tasks"]] == ["rte", "sst2", "stsb"]
    table = dict.fromkeys(found["ranking"], 0.0)
    for task, own in found["tasks"].items():
        wanted = means_by_hand(tiny_base, by_api(tiny_base, task))
        assert own["mean"] == pytest.approx(wanted, rel=1e-5, abs=1e-9 * max(wanted.values()))
        assert (own["examples"], own["available"], own["between_heads"]) == (EXAMPLES, 2000, None)
        assert own["slow"] == []
        for name in table:
            table[name] += wanted[name] / sum(wanted.values())
    assert found["ranking"] == pytest.approx(table, rel=1e-5, abs=1e-9)
    assert [*found["ranking"]] == sorted(table, key=lambda name: -table[name])
    assert len(table) == 8
    assert not any("embeddings" in name or "pooler" in name or "classifier" in name for name in table)


def test_the_table_in_the_terminal_and_in_markdown(
    cli: Run, options: list[object], records: Path, tiny_folder: Path
) -> None:
    _, text, _ = cli(*options, "--tasks", "rte,sst2", "--json")
    ranked = json.loads(text)
    status, shown, error = cli(*options, "--tasks", "rte,sst2")
    assert status == 0
    assert f"Records are in {records}" in error
    assert f"Mean Fisher information of the components of {tiny_folder.name}, empirical" in shown
    assert f"Examples: RTE {EXAMPLES} of 2,000, SST-2 {EXAMPLES} of 2,000." in shown
    status, markdown, _ = cli(*options, "--tasks", "rte,sst2", "--markdown")
    assert status == 0
    lines = [cells(line) for line in markdown.splitlines() if line.startswith("|")]
    assert lines[0] == ["", "component", "sum", "rte", "sst2"]
    assert lines[1] == ["---", "---", "---:", "---:", "---:"]
    body = [line.split() for line in shown.splitlines() if re.match(r"\s*\d+ +\S+\.\S+", line)]
    assert body == lines[2:]
    assert f"Examples: RTE {EXAMPLES} of 2,000, SST-2 {EXAMPLES} of 2,000." in markdown
    for place, (line, (name, total)) in enumerate(zip(body, ranked["ranking"].items(), strict=True), 1):
        assert line[:3] == [str(place), name, f"{total:.3f}"]
        for cell, own in zip(line[3:], ranked["tasks"].values(), strict=True):
            share = 100 * own["mean"][name] / sum(own["mean"].values())
            assert cell == (f"{share:.1f}" if share >= 0.05 else "<0.1")


def test_all_eight_tasks_stand_in_80_columns(cli: Run, options: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 80)
    status, text, error = cli(*options, "--examples", 2, "--within", "full - embeddings.word_embeddings")
    assert status == 0, error
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    titles = ["component", "sum", *SUITES["toy"].reported]
    assert titles in [line.split() for line in lines]
    body = [line.split() for line in lines if re.match(r"\s*\d [a-z]+\.", line)]
    assert [len(line) for line in body] == [11] * 8
    assert all(re.fullmatch(r"<0\.1|\d+\.\d", cell) for line in body for cell in line[3:])


def test_what_has_a_record_is_not_measured_again(
    cli: Run, options: list[object], records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, first, _ = cli(*options, "--tasks", "rte,sst2", "--json")
    assert status == 0
    stamps = {path: path.stat().st_mtime_ns for path in records.iterdir()}
    assert len(stamps) == 4

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    for owner, name in ((Base, "encode"), (measurement, "fisher")):
        monkeypatch.setattr(owner, name, forbidden)
    status, again, _ = cli(*options, "--tasks", "sst2,rte", "--json")
    assert status == 0
    assert {path: path.stat().st_mtime_ns for path in records.iterdir()} == stamps
    assert json.loads(again)["tasks"] == json.loads(first)["tasks"]
    assert json.loads(again)["ranking"] == pytest.approx(json.loads(first)["ranking"], rel=1e-12)


def test_other_examples_are_another_measurement(cli: Run, options: list[object], records: Path) -> None:
    for more in ([], ["--examples", 13], ["--head-seeds", "1"], ["--protocol", "held-out"], ["--estimator", "exact"]):
        assert cli(*options, "--tasks", "rte", "--within", "layernorm", *more)[0] == 0
    made = [FisherRecord.load(path) for path in records.glob("*.json")]
    assert len(made) == 5
    assert sorted(record.examples for record in made) == [12, 12, 12, 12, 13]
    assert {record.available for record in made} == {2000}


@pytest.mark.parametrize(
    ("more", "estimator"),
    [
        (["--estimator", "exact"], Estimator(name="exact")),
        (["--estimator", "monte-carlo", "--samples", "3"], Estimator(name="monte-carlo", samples=3)),
    ],
)
def test_estimators(cli: Run, options: list[object], tiny_base: Base, more: list[str], estimator: Estimator) -> None:
    _, plain, _ = cli(*options, "--tasks", "mnli", "--json")
    status, text, _ = cli(*options, "--tasks", "mnli", "--json", *more)
    assert status == 0
    found = json.loads(text)["tasks"]["mnli"]
    wanted = means_by_hand(tiny_base, by_api(tiny_base, "mnli", estimator=estimator))
    assert found["mean"] == pytest.approx(wanted, rel=1e-5, abs=1e-9 * max(wanted.values()))
    assert found["mean"] != pytest.approx(json.loads(plain)["tasks"]["mnli"]["mean"], rel=1e-3)
    assert found["id"] != json.loads(plain)["tasks"]["mnli"]["id"]


def test_several_heads(cli: Run, options: list[object], records: Path) -> None:
    status, text, _ = cli(*options, "--task", "rte", "--head-seeds", "0,1", "--json")
    assert status == 0
    found = json.loads(text)["tasks"]["rte"]
    apart = [json.loads(cli(*options, "--task", "rte", "--head-seeds", s, "--json")[1])["tasks"]["rte"] for s in "01"]
    one, other = (own["mean"] for own in apart)
    assert found["mean"] == pytest.approx({name: (one[name] + other[name]) / 2 for name in one}, rel=1e-9)
    tau = kendalltau([one[name] for name in one], [other[name] for name in one]).statistic
    assert found["between_heads"] == pytest.approx((tau + 1) / 2)
    status, shown, _ = cli(*options, "--task", "rte", "--head-seeds", "0,1")
    said = f"Pairs of components that two of the 2 heads order alike: RTE {100 * (tau + 1) / 2:.0f} %."
    assert said in shown
    assert "order alike" not in cli(*options, "--task", "rte")[1]


def test_until_stable(cli: Run, options: list[object], records: Path) -> None:
    common = [*options, "--task", "sst2", "--until-stable"]
    status, text, _ = cli(*common, "--tolerance", "0.9", "--examples", "300", "--json")
    assert status == 0
    own = json.loads(text)["tasks"]["sst2"]
    known = own["stability"]
    assert (known["reached"], known["available"]) == (True, 300)
    assert own["examples"] == known["examples"] == known["looks"][-1]["examples"] < 300
    assert known["asked"] == {"of": "ranking", "tolerance": 0.9, "fraction": 0.1, "seed": 0}
    status, shown, _ = cli(*common, "--tolerance", "0", "--examples", "9")
    assert status == 0
    assert "Examples: SST-2 9 of 2,000." in shown
    assert "Still changing when the examples ran out: SST-2." in shown
    late = [record for record in map(FisherRecord.load, records.glob("*.json")) if record.examples == 9]
    assert [record.stability.reached for record in late if record.stability] == [False]
    # Too few for halves: no look, and no crash.
    status, text, _ = cli(*common, "--examples", "5", "--json")
    assert status == 0
    assert json.loads(text)["tasks"]["sst2"]["stability"]["looks"] == []


def test_within_and_entries(cli: Run, options: list[object], records: Path, tiny_base: Base) -> None:
    wanted = by_api(tiny_base, "rte")
    assert wanted.scores is not None

    def kept() -> dict[str, np.ndarray]:
        (file,) = records.glob("*.safetensors")
        found = load_file(file)
        for path in records.iterdir():
            path.unlink()
        return found

    status, _, _ = cli(*options, "--task", "rte")
    assert status == 0
    entries = kept()
    assert entries.keys() == select(tiny_base.layout, "layernorm").chosen.keys()
    for name, values in entries.items():
        np.testing.assert_allclose(values, wanted.scores.values[name], rtol=1e-5)

    status, text, _ = cli(*options, "--task", "rte", "--within", "layernorm", "--json")
    assert json.loads(text)["ranking"] == {"output.LayerNorm": 1.0}
    assert kept().keys() == select(tiny_base.layout, "layernorm").chosen.keys()

    partly = "random & pooler.dense"
    cli(*options, "--task", "rte", "--entries", partly)
    selection = select(tiny_base.layout, partly)
    assert 0 < len(selection) < 32 * 33
    for name, values in kept().items():
        np.testing.assert_allclose(values, wanted.scores.values[name][selection.indices(name)], rtol=1e-5)

    # Biases alone: LayerNorm's weights are not summed over, so no entries of it are kept.
    status, text, _ = cli(*options, "--task", "rte", "--within", "bitfit", "--json")
    assert status == 0
    assert [path.suffix for path in records.iterdir()] == [".json"]
    means = json.loads(text)["tasks"]["rte"]["mean"]
    biases = [wanted.scores.values[f"bert.encoder.layer.{n}.output.LayerNorm.bias"] for n in range(3)]
    assert means["output.LayerNorm"] == pytest.approx(np.mean(biases), rel=1e-5)


def test_a_narrow_table_stays_narrow_beside_a_wide_record(cli: Run, options: list[object]) -> None:
    """The entries come from the record of the whole model; the table shows only what was asked for."""
    cli(*options, "--task", "rte")
    status, text, _ = cli(*options, "--task", "rte", "--within", "layernorm", "--json")
    assert status == 0
    assert json.loads(text)["ranking"] == {"output.LayerNorm": 1.0}


@pytest.mark.parametrize("normalised", [False, True])
def test_the_figure(
    cli: Run, options: list[object], tiny_base: Base, panels: list[list[HeatMap]], tmp_path: Path, normalised: bool
) -> None:
    file = tmp_path / "figures" / "figure.svg"
    more = ["--normalised"] if normalised else []
    status, _, error = cli(*options, "--tasks", "rte,stsb", "--figure", file, *more)
    assert status == 0, error
    assert f"Saved to {file}" in error
    assert file.read_text().startswith("<?xml")
    ((weight, bias),) = panels
    assert (weight.title, bias.title) == ("weight", "bias")
    assert weight.rows == bias.rows == ("2", "1", "0")  # the last layer on top
    assert weight.columns == bias.columns == ("STS-B", "RTE", *(["mean"] if normalised else []))
    columns = []
    for task in ("stsb", "rte"):
        scores = by_api(tiny_base, task).scores
        assert scores is not None
        sums = [
            scores.values[f"bert.encoder.layer.{n}.output.LayerNorm.{sub}"].sum()
            for sub in ("weight", "bias")
            for n in (2, 1, 0)
        ]
        columns.append(np.array(sums) / (sum(sums) if normalised else 1))
    found = np.array([*weight.values, *bias.values], dtype=float).T
    np.testing.assert_allclose(found[:2], columns, rtol=1e-5)
    if normalised:
        np.testing.assert_allclose(found[:2].sum(1), 1)
        np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2)


def test_the_figure_of_a_folder_shows_what_was_measured(
    cli: Run, options: list[object], records: Path, panels: list[list[HeatMap]], tmp_path: Path
) -> None:
    assert cli(*options, "--task", "rte", "--within", "bitfit")[0] == 0
    file = tmp_path / "figure.png"
    status, _, error = cli("fisher", records, "--figure", file)
    assert status == 0, error
    assert file.read_bytes().startswith(b"\x89PNG")
    cli(*options, "--task", "rte", "--within", "pooler.dense", "--records", tmp_path / "pooler")
    status, _, error = cli("fisher", tmp_path / "pooler", "--figure", tmp_path / "none.png")
    assert (status, "no layer's closing norm was measured" in error) == (1, True)
    ((only,),) = panels
    assert (only.title, only.rows, only.columns) == ("bias", ("2", "1", "0"), ("RTE",))


@pytest.mark.filterwarnings("default::normtune.errors.GuessWarning")
def test_the_closing_norm_of_an_unlisted_family_is_guessed_aloud(
    cli: Run, options: list[object], records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FAMILIES, "bert")
    status, text, error = cli(*options, "--task", "rte", "--json")
    assert status == 0, error
    assert "Note: normtune does not list the family 'bert'" in error
    assert len(json.loads(text)["ranking"]) == 8
    assert {path.suffix for path in records.iterdir()} == {".json", ".safetensors"}


BAD: list[tuple[list[str], str]] = [
    (["--suite", "glew"], "Unknown suite 'glew'. Did you mean 'glue'?"),
    (["--tasks", "rtee"], "Unknown toy task 'rtee'. Did you mean 'rte'?"),
    (["--tasks", "rte,,mrpc"], "is no comma-separated list"),
    (["--tasks", ""], "is no comma-separated list"),
    (["--estimator", "empircal"], "Unknown estimator 'empircal'. Did you mean 'empirical'?"),
    (["--protocol", "smal"], "Unknown protocol 'smal'. Did you mean 'small'?"),
    (["--within", "outptu.LayerNorm"], "Unknown"),
    (["--within", "head", "--entries", "head"], "empty set of entries"),
    (["--entries", "layrnorm"], "Unknown"),
    (["--head-seeds", "0,0"], "--head-seeds takes different whole numbers from 0, separated by commas; got '0,0'"),
    (["--head-seeds", "-1"], "--head-seeds takes different whole numbers"),
    (["--head-seeds", "1.5"], "--head-seeds takes different whole numbers"),
    (["--head-seeds", ""], "is no comma-separated list"),
    (["--until-stable", "--tolerance", "1"], "A tolerance is a share from 0 to below 1; got 1"),
    (["--until-stable", "--tolerance", "-0.1"], "A tolerance is a share from 0 to below 1; got -0.1"),
    (["--until-stable", "--tolerance", "nan"], "A tolerance is a share from 0 to below 1; got nan"),
    (["--figure", "figure.doc"], "A figure is written as .svg, .png, .pdf; the name 'figure.doc' ends otherwise"),
    (["--normalised"], "name its file with --figure"),
    (["--json", "--markdown"], "Choose one of --json and --markdown"),
    (["--model", "no/such-model-here"], "no/such-model-here"),
    (["--suite", "glue", "--data", "nowhere"], "No data of RTE: there is no folder nowhere"),
]


@pytest.mark.parametrize(("more", "said"), BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(
    cli: Run, options: list[object], more: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = [] if "--tasks" in more else ["--tasks", "rte"]
    status, text, error = cli(*options, *task, *more)
    assert (status, text) == (1, ""), error
    (line,) = [line for line in error.splitlines() if line.startswith("Error: ")]
    assert said in line
    assert "Traceback" not in error
    assert [*tmp_path.iterdir()] == []


def test_a_task_without_labels_or_training_examples(
    cli: Run, options: list[object], records: Path, tmp_path: Path
) -> None:
    for name, file, head, said in (
        ("AX", "AX.tsv", "index\tsentence1\tsentence2", "Task 'ax' has no 'train' split"),
        ("RTE", "train.tsv", "index\tsentence1\tsentence2", "label"),
    ):
        folder = tmp_path / "glue" / name
        folder.mkdir(parents=True)
        (folder / file).write_text(f"{head}\n0\tthe cat\ta cat\n")
        status, text, error = cli(*options, "--suite", "glue", "--data", tmp_path / "glue", "--tasks", name)
        assert (status, text) == (1, "")
        (line,) = [line for line in error.splitlines() if line.startswith("Error: ")]
        assert said in line
        assert not records.exists()


def test_a_folder_of_records_is_shown_without_a_model(cli: Run, options: list[object], records: Path) -> None:
    _, measured, _ = cli(*options, "--tasks", "sst2,rte", "--markdown")
    assert cli("fisher", records, "--markdown") == (0, measured, "")
    status, _, error = cli("fisher", records, "--markdown", "--model", "/nowhere")
    assert (status, "nothing is measured: leave out --model." in error) == (1, True)
    status, one, _ = cli("fisher", records, "--tasks", "rte", "--json")
    assert (status, list(json.loads(one)["tasks"])) == (0, ["rte"])


def test_tags_of_ones_own(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.conll").write_text("the O\ncat B-A\n\na O\ndog B-A\n\n" * 8)
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"cat {i},{i % 2}\n" for i in range(20)))
    tags, classes = "{name: a, train: t.conll, kind: tokens}", "{name: b, train: t.csv}"
    call = ("fisher", "--model", tiny_folder, "--examples", 4, "--records", tmp_path / "records", "--json", "--tasks")
    for tasks, wanted in ((f"[{tags}]", 0), (f"[{tags}, {classes}]", 1)):
        (tmp_path / "m.yaml").write_text(f"tasks: {tasks}")
        status, text, error = cli(*call, tmp_path / "m.yaml")
        assert status == wanted, error
        assert wanted or json.loads(text)["tasks"]["a"]["examples"] == 4
    assert "need different heads" in error
    status, text, error = cli("fisher", tmp_path / "records", "--tasks", "a", "--json")
    assert (status, [*json.loads(text)["tasks"]]) == (0, ["a"]), error


def test_a_folder_that_cannot_be_shown(cli: Run, options: list[object], records: Path, tmp_path: Path) -> None:
    def refused(*words: object) -> str:
        status, out, error = cli("fisher", *words)
        assert (status, out) == (1, "")
        return " ".join(error.split())

    assert "There is no folder of records" in refused(records)
    records.mkdir()
    assert "There are no records of Fisher information" in refused(records)
    cli(*options, "--tasks", "rte")
    assert "There is no Fisher information of cola" in refused(records, "--tasks", "cola")
    cli(*options, "--tasks", "rte", "--head-seeds", "1")
    assert "were not all made in the same way" in refused(records)
