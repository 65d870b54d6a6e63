"""Jobs begin when what they need is settled, and those that never can are told so."""

from __future__ import annotations

from normtune.studies.jobs import FisherJob, Job, MaskJob, Result, TrainJob, best_rate
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


def test_a_job_waits_for_all_that_it_needs() -> None:
    schedule = Schedule(ALL, {})
    assert [schedule.take(), schedule.take(), schedule.take(), schedule.take()] == [LOW, HIGH, FISHER, None]
    schedule.settle(done(HIGH))
    assert schedule.take() is None
    schedule.settle(done(FISHER))
    assert schedule.take() == MASK
    schedule.settle(done(LOW))
    assert schedule.take() == OTHER
    assert schedule.take() is None
    schedule.settle(done(MASK))
    assert schedule.take() == MASKED
    assert (schedule.take(), schedule.left) == (None, 2)


def test_what_is_known_is_not_taken_again_and_what_is_given_back_is() -> None:
    schedule = Schedule(ALL, {job.key: done(job) for job in (LOW, HIGH, FISHER, MASK)})
    assert schedule.take() == OTHER
    schedule.give_back(OTHER)
    assert [schedule.take(), schedule.take(), schedule.take()] == [OTHER, MASKED, None]


def test_one_rate_that_works_is_enough() -> None:
    schedule = Schedule((LOW, HIGH, OTHER), {LOW.key: failed(LOW), HIGH.key: done(HIGH, rate=0.3, picked=0.2)})
    assert schedule.blocked() == []
    assert schedule.take() == OTHER
    assert best_rate(OTHER, schedule.needs(OTHER)) == 0.3


def test_a_job_is_blocked_where_no_rate_worked_or_its_mask_failed() -> None:
    schedule = Schedule((LOW, HIGH, OTHER), {LOW.key: failed(LOW), HIGH.key: failed(HIGH)})
    [(job, result)] = schedule.blocked()
    assert (job, result.state, result.error) == (OTHER, "blocked", "no rate worked for it: too hot")
    schedule = Schedule(ALL, {LOW.key: done(LOW), HIGH.key: done(HIGH), FISHER.key: failed(FISHER)})
    assert [job for job, _ in schedule.blocked()] == [MASK, MASKED]
    assert schedule.take() == OTHER
    assert schedule.left == 1


def test_of_equal_rates_the_lowest_is_best() -> None:
    results = {LOW.key: done(LOW, rate=0.1, picked=0.5), HIGH.key: done(HIGH, rate=0.3, picked=0.5)}
    assert best_rate(OTHER, results) == 0.1
    assert best_rate(OTHER, {**results, HIGH.key: done(HIGH, rate=0.3, picked=0.6)}) == 0.3
    # A correlation can be negative: the less bad one is the better one.
    low, high = done(LOW, rate=0.1, picked=-0.5), done(HIGH, rate=0.3, picked=-0.1)
    assert best_rate(OTHER, {LOW.key: low, HIGH.key: high}) == 0.3
