"""Many runs: the search, the store, and continuing after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from normtune.config import RunConfig, protocol
from normtune.errors import TrainingError
from normtune.studies.runs import Cell, Finished, Runner, cells
from normtune.studies.store import Store
from normtune.training.session import Session
from tests.training.test_session import data

SMALL = protocol("small", epochs=2, batch_size=8)


@pytest.fixture
def session(tiny_folder: Path) -> Session:
    return Session(str(tiny_folder))


def test_the_best_rate_of_the_first_seed_is_used_for_the_others(session: Session, tmp_path: Path) -> None:
    store = Store(tmp_path)
    cell = Cell(data(), "full", (0, 1, 2), (1e-9, 1e-3))
    found = Runner(session, protocol("small", epochs=10, batch_size=8), store=store).cell(cell)
    tried = {(r.config.seed, r.config.rate): r.score for r in store}
    best = max((1e-9, 1e-3), key=lambda rate: tried[0, rate] or 0.0)
    assert [(run.record.config.seed, run.record.config.rate) for run in found] == [(0, best), (1, best), (2, best)]
    assert len(tried) == cell.runs == 4


def test_what_is_in_the_store_is_not_run_again(session: Session, tmp_path: Path) -> None:
    cell = Cell(data(), "head", (0, 1), (1e-2, 1e-1))
    Runner(session, SMALL, store=Store(tmp_path)).cell(cell)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    seen: list[Finished] = []
    Runner(session, SMALL, store=Store(tmp_path), end=seen.append).cell(cell)
    assert [run.cached for run in seen] == [True, True, True]
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_deltas_wanted_but_not_kept_are_trained_again(session: Session, tmp_path: Path) -> None:
    cell = Cell(data(), "head", (0,), (1e-2,))
    Runner(session, SMALL, store=Store(tmp_path / "store")).cell(cell)
    for cached in (False, True):
        [run] = Runner(session, SMALL, store=Store(tmp_path / "store"), aside=tmp_path / "aside").cell(cell)
        assert run.delta is not None
        assert run.cached is cached


def test_one_rate_that_diverges_is_told_and_the_search_goes_on(session: Session) -> None:
    told: list[tuple[RunConfig, str]] = []
    runner = Runner(session, SMALL, fail=lambda config, message: told.append((config, message)))
    [run] = runner.cell(Cell(data(), "full", (0,), (1e-3, 1e18)))
    assert run.record.config.rate == 1e-3
    assert [config.rate for config, _ in told] == [1e18]
    with pytest.raises(TrainingError, match=r"at step \d+ of 10"):
        runner.cell(Cell(data(), "full", (0,), (1e18,)))


def test_every_method_gets_as_many_rates(session: Session) -> None:
    methods = ["head", "full", "bitfit", "layernorm", "random", "last-layers@1", "pooler.dense"]
    plan = cells(session, [data()], methods, [0], protocol=SMALL, rates=None, search=True)
    assert {len(cell.rates) for cell in plan} == {3}
    single = cells(session, [data()], methods, [0], protocol=SMALL, rates=None, search=False)
    assert all(len(one.rates) == 1 and one.rates[0] in many.rates for one, many in zip(single, plan, strict=True))
