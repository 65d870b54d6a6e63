"""Jobs begin when what they need is settled, and those that never can are marked so."""

from __future__ import annotations

import pytest

from normtune.studies.jobs import FisherJob, Job, MaskJob, Result, TrainJob, beyond, rate_of
from normtune.studies.schedule import Schedule

LOW, HIGH = (TrainJob(task="rte", method="head", seed=0, rate=rate) for rate in (0.1, 0.3))
OTHER = TrainJob(task="rte", method="head", seed=1, best_of=(LOW.key, HIGH.key))
FISHER = FisherJob(task="rte")
MASK = MaskJob(mask="individual", fraction=0.1, task="rte", tasks=("rte",), fishers=(FISHER.key,))
MASKED = TrainJob(task="rte", method="m", seed=0, best_of=(LOW.key, HIGH.key), mask=MASK.key)
ALL: tuple[Job, ...] = (LOW, HIGH, OTHER, FISHER, MASK, MASKED)


def done(job: Job, **facts: object) -> Result:
    return Result.model_validate({"key": job.key, "state": "done", **facts})


def failed(job: Job) -> Result:
    return Result(key=job.key, state="failed", error="too hot")


def taken(schedule: Schedule) -> Job | None:
    found = schedule.take()
    return None if found is None else found[0]


def test_a_job_waits_for_all_that_it_needs() -> None:
    schedule = Schedule(ALL, {})
    assert [taken(schedule) for _ in range(4)] == [LOW, HIGH, FISHER, None]
    schedule.settle(done(HIGH, rate=0.3))
    assert taken(schedule) is None
    schedule.settle(done(FISHER))
    assert schedule.take() == (MASK, {FISHER.key: done(FISHER)})
    schedule.settle(done(LOW, rate=0.1))
    assert taken(schedule) == OTHER
    assert taken(schedule) is None
    schedule.settle(done(MASK))
    assert taken(schedule) == MASKED
    assert taken(schedule) is None


def test_what_is_known_is_not_taken_again_and_what_is_given_back_is() -> None:
    schedule = Schedule(ALL, {job.key: done(job, rate=0.1) for job in (LOW, HIGH, FISHER, MASK)})
    assert taken(schedule) == OTHER
    schedule.give_back(OTHER)
    assert [taken(schedule) for _ in range(3)] == [OTHER, MASKED, None]


def test_one_rate_that_works_is_enough() -> None:
    schedule = Schedule((LOW, HIGH, OTHER), {LOW.key: failed(LOW), HIGH.key: done(HIGH, rate=0.3, picked=0.2)})
    assert taken(schedule) == OTHER
    assert rate_of(OTHER, schedule.results) == 0.3


def test_a_job_is_blocked_where_no_rate_worked_or_its_mask_failed() -> None:
    schedule = Schedule((LOW, HIGH, OTHER), {LOW.key: failed(LOW), HIGH.key: failed(HIGH)})
    assert taken(schedule) is None
    result = schedule.results[OTHER.key]
    assert (result.state, result.error) == ("blocked", "no rate worked for it: too hot")
    schedule = Schedule(ALL, {LOW.key: done(LOW, rate=0.1), HIGH.key: done(HIGH, rate=0.3), FISHER.key: failed(FISHER)})
    assert [taken(schedule) for _ in range(2)] == [OTHER, None]
    assert [schedule.results[job.key].state for job in (MASK, MASKED)] == ["blocked", "blocked"]


def test_of_equal_rates_the_lowest_is_best() -> None:
    results = {LOW.key: done(LOW, rate=0.1, picked=0.5), HIGH.key: done(HIGH, rate=0.3, picked=0.5)}
    assert rate_of(OTHER, results) == 0.1
    assert rate_of(OTHER, {**results, HIGH.key: done(HIGH, rate=0.3, picked=0.6)}) == 0.3
    # A correlation can be negative: the less bad one is the better one.
    low, high = done(LOW, rate=0.1, picked=-0.5), done(HIGH, rate=0.3, picked=-0.1)
    assert rate_of(OTHER, {LOW.key: low, HIGH.key: high}) == 0.3


@pytest.mark.parametrize(
    ("best", "tried", "following"),
    [
        (0.3, (0.1, 0.3), 1.0),
        (1.0, (0.1, 0.3, 1.0), 3.0),
        (0.1, (0.1, 0.3), 0.03),
        (0.3, (0.1, 0.3, 1.0), None),
        (0.3, (0.03, 0.1, 0.3, 1.0), None),
        (1e-3, (4e-4, 7e-4, 1e-3), 3e-3),
        (7e-4, (7e-4, 1e-3), 3e-4),
        (5e-5, (2e-5, 3e-5, 5e-5), 1e-4),
        (2e-5, (2e-5, 3e-5), 1e-5),
    ],
)
def test_the_next_half_decade_is_tried_where_the_best_is_at_an_end(
    best: float, tried: tuple[float, ...], following: float | None
) -> None:
    assert beyond(best, tried) == following


def test_a_rate_beyond_is_taken_from_results_or_not_needed() -> None:
    further = TrainJob(task="rte", method="head", seed=0, beyond=True, best_of=(LOW.key, HIGH.key))
    other = OTHER.model_copy(update={"best_of": (LOW.key, HIGH.key, further.key)})

    def after(low: Result, high: Result) -> Schedule:
        return Schedule((LOW, HIGH, further, other), {LOW.key: low, HIGH.key: high})

    schedule = after(done(LOW, rate=0.1, picked=0.5), done(HIGH, rate=0.3, picked=0.6))
    assert taken(schedule) == further
    assert rate_of(further, schedule.results) == 1.0
    assert taken(schedule) is None
    schedule.settle(done(further, rate=1.0, picked=0.7))
    assert taken(schedule) == other
    assert rate_of(other, schedule.results) == 1.0
    # A failed rate was tried, too, so the best is no longer at the end.
    lost = failed(HIGH).model_copy(update={"rate": 0.3})
    schedule = after(done(LOW, rate=0.1, picked=0.5), lost)
    assert rate_of(further, schedule.results) == 0.03
    schedule = after(failed(LOW), failed(HIGH))
    assert taken(schedule) is None
    assert [schedule.results[job.key].state for job in (further, other)] == ["skipped", "blocked"]
