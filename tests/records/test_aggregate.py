"""The table: each cell shows what is behind it, and gaps are never averaged over."""

from __future__ import annotations

import pytest

from normtune.cli import render
from normtune.config import RunConfig, protocol
from normtune.errors import ConfigError
from normtune.records.aggregate import by_rate, tabulate
from normtune.records.run import Counts, DataFacts, EpochScore, Record
from normtune.report.table import score


def record(method: str, task: str, seed: int, rate: float, score: float) -> Record:
    """A finished run with this score."""
    facts = DataFacts(
        source="x", train=1, train_of=1, dev=1, dev_of=1, held_out=0, identity={}, truncated={}, dropped={}
    )
    return Record(
        id=f"{method}{task}{seed}{rate}",
        status="done",
        config=RunConfig(model="m", task=task, method=method, rate=rate, seed=seed, protocol=protocol("small")),
        base_identity="b",
        trains="s",
        counts=Counts(selected=10, head=2, trained=12, total=100, share=0.1),
        data=facts,
        primary="accuracy",
        score=score,
        scores={"dev": {"accuracy": score}},
        best_epoch=1,
        curve=(EpochScore(epoch=1, loss=1.0, scores={"accuracy": score}, seconds=1.0),),
        machine={},
        versions={},
    )


def test_mean_and_sample_deviation_over_seeds() -> None:
    cells = tabulate(record("head", "rte", seed, 1e-2, value) for seed, value in enumerate((0.5, 0.6, 0.8)))
    cell = cells["head", "rte"]
    assert cell.mean == pytest.approx(1.9 / 3)
    assert cell.spread == pytest.approx(
        (((0.5 - 1.9 / 3) ** 2 + (0.6 - 1.9 / 3) ** 2 + (0.8 - 1.9 / 3) ** 2) / 2) ** 0.5
    )
    assert str(score(cell)) == "63.3 ± 15.3"


def test_a_seed_that_was_run_twice_counts_once() -> None:
    runs = [record("head", "rte", seed, 1e-2, score) for seed, score in enumerate((0.5, 0.6))]
    other = runs[1].model_copy(update={"id": "elsewhere", "score": 0.9, "machine": {"threads": 2}})
    cell = tabulate([*runs, other])["head", "rte"]
    assert (len(cell.values), cell.mean) == (2, pytest.approx(0.55))
    again = runs[0].model_copy(update={"id": "again", "score": 0.1})
    assert by_rate([runs[0], again], ["rte"], ["head"]) == {"head on rte": {1e-2: 0.5}}


def test_runs_of_other_entries_under_one_name_are_not_mixed() -> None:
    """As of masks that were measured on another number of examples."""
    run = record("fisher-individual@0.1", "rte", 0, 1e-2, 0.5)
    with pytest.raises(ConfigError, match=r"fisher-individual@0\.1 on rte have one rate and one seed, but differ in"):
        tabulate([run, run.model_copy(update={"id": "other", "trains": "t"})])


def test_under_held_out_dev_picks_no_rate() -> None:
    one, other = (record("head", "rte", 0, rate, score) for rate, score in ((1e-2, 0.5), (3e-2, 0.6)))
    worse = EpochScore(epoch=1, loss=1.0, scores={"accuracy": 0.4}, seconds=1.0)  # on the slice held out
    cell = tabulate([one, other.model_copy(update={"curve": (worse,)})])["head", "rte"]
    assert (cell.rate, cell.mean) == (1e-2, 0.5)


def test_of_equal_rates_the_lowest_is_taken_as_in_a_search() -> None:
    runs = [record("head", "rte", 0, rate, 0.5) for rate in (1e-1, 1e-3, 1e-2)]
    assert tabulate(runs)["head", "rte"].rate == 1e-3


def test_a_search_is_read_as_it_was_made_best_first_seed_then_its_other_seeds() -> None:
    runs = [record("head", "rte", 0, rate, score) for rate, score in ((1e-3, 0.5), (1e-2, 0.7), (1e-1, 0.9))]
    assert tabulate(runs)["head", "rte"].rate == 1e-1
    runs.append(record("head", "rte", 1, 1e-2, 0.1))
    cell = tabulate(runs)["head", "rte"]
    assert (cell.rate, len(cell.values), cell.mean) == (1e-2, 2, pytest.approx(0.4))


def test_the_rates_shown_are_those_of_the_seed_that_was_searched_on() -> None:
    runs = [record("head", "rte", 0, 1e-2, 0.1)]
    runs += [record("head", "rte", 1, rate, score) for rate, score in ((1e-2, 0.7), (1e-3, 0.5))]
    assert by_rate(runs, ["rte"], ["head", "full"]) == {"head on rte": {1e-3: 0.5, 1e-2: 0.7}, "full on rte": {}}


def test_a_method_without_a_finished_run_has_no_number_of_entries() -> None:
    lost = record("head", "rte", 0, 1.0, 0.5).model_copy(update={"status": "failed", "score": None})
    assert [str(cell) for cell in render.scores(tabulate([lost]), ["head"], ["rte"]).rows[0][:2]] == ["head", "—"]


def test_a_gap_is_shown() -> None:
    runs = [
        record("head", "rte", 0, 1e-2, 0.5),
        record("head", "rte", 1, 1e-2, 0.5),
        record("full", "cola", 0, 1e-4, 0.25),
    ]
    lines = render.as_markdown([render.scores(tabulate(runs))]).splitlines()
    assert lines == [
        "| method | entries | rte | cola |",
        "| --- | ---: | ---: | ---: |",
        "| head | 10 | 50.0 ± 0.0 | — |",
        "| full | 10 | — | 1 of 2 |",
    ]


def test_runs_of_other_entries_on_another_machine_are_not_mixed_either() -> None:
    run = record("fisher-individual@0.1", "rte", 0, 1e-2, 0.5)
    other = run.model_copy(update={"id": "other", "trains": "other", "machine": {"threads": 4}})
    with pytest.raises(ConfigError, match="differ in what"):
        tabulate([run, other])
