"""The plan: every run once, what each needs by hand, and as many rates for one method as for another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from normtune.errors import ConfigError, UnknownNameError
from normtune.studies.config import METHODS
from normtune.studies.jobs import FisherJob, Job, MaskJob, TrainJob
from normtune.studies.plan import plan
from normtune.training.session import Session
from tests.studies.tiny import config


@pytest.fixture(scope="module")
def session(tiny_folder: Path) -> Session:
    return Session(str(tiny_folder))


def trained(jobs: tuple[Job, ...]) -> list[TrainJob]:
    return [job for job in jobs if isinstance(job, TrainJob)]


def test_table_2_searches_on_the_first_seed_and_uses_the_best_on_the_others(
    session: Session, tiny_folder: Path
) -> None:
    study = config(tiny_folder, parts=("table2",), tasks=("rte",), methods=("head", "full"), seeds=(5, 1, 2))
    jobs = trained(plan(study, session))
    grids = {method: tuple(sorted(session.grid(method)[:2])) for method in study.methods}
    assert len(jobs) == 2 * (2 + 2)
    for method in study.methods:
        own = [job for job in jobs if job.method == method]
        assert [(job.seed, job.rate) for job in own[:2]] == [(5, rate) for rate in grids[method]]
        assert [(job.seed, job.rate, job.best_of) for job in own[2:]] == [
            (seed, None, tuple(job.key for job in own[:2])) for seed in (1, 2)
        ]


def test_every_method_gets_as_many_rates_and_one_rate_needs_no_waiting(session: Session, tiny_folder: Path) -> None:
    study = config(tiny_folder, parts=("table2",), tasks=("rte",), methods=METHODS)
    searched = Counter(job.method for job in trained(plan(study, session)) if job.rate is not None)
    assert searched == dict.fromkeys(study.methods, 2)
    single = study.model_copy(update={"protocol": study.protocol.model_copy(update={"rates": 1})})
    jobs = trained(plan(single, session))
    assert len(jobs) == 5 * 2
    assert all(job.rate is not None and not job.needs for job in jobs)


def test_a_mask_by_any_importance_needs_what_that_needs(session: Session, tiny_folder: Path) -> None:
    kinds = ("wanda", "obs-global", "obd", "magnitude")
    jobs = plan(config(tiny_folder, parts=("figure5",), fractions=(0.1,), tasks=("rte",), masks=kinds), session)
    fishers = {job.key: job for job in jobs if isinstance(job, FisherJob)}
    made = {job.about: job for job in jobs if isinstance(job, MaskJob)}
    assert [job.config.estimator.name for job in fishers.values() if job.config] == ["exact"]
    assert {about: ([*job.tasks], job.task, len(job.needs)) for about, job in made.items()} == {
        "wanda-individual@0.1": (["rte"], "rte", 0),
        "obs-global@0.1": (["rte", "sst2"], None, 0),
        "obd-individual@0.1": (["rte"], "rte", 1),
        "magnitude@0.1": ([], None, 0),
    }
    for kind, said in (("change", "read off runs; use normtune mask"), ("wandah", "Unknown kind of mask 'wandah'")):
        with pytest.raises(ConfigError, match=said):
            config(tiny_folder, masks=(kind,))


def test_masks_need_their_own_fisher_all_or_all_others_and_only_those(session: Session, tiny_folder: Path) -> None:
    kinds = ("individual", "global", "leave-one-out", "random", "least-fisher")
    sources = ("rte", "sst2", "cola")
    jobs = plan(config(tiny_folder, parts=("figure5",), fractions=(0.1, 0.2), masks=kinds, sources=sources), session)
    fishers = {job.key: job.task for job in jobs if isinstance(job, FisherJob)}
    masks = {job.key: job for job in jobs if isinstance(job, MaskJob)}
    assert sorted(fishers.values()) == ["cola", "rte", "sst2"]
    needed = {
        (job.mask, job.task, job.seed): sorted(fishers[key] for key in job.needs)
        for job in masks.values()
        if job.fraction == 0.1
    }
    assert needed == {
        ("individual", "rte", None): ["rte"],
        ("individual", "sst2", None): ["sst2"],
        ("least-fisher", "rte", None): ["rte"],
        ("least-fisher", "sst2", None): ["sst2"],
        ("global", None, None): ["cola", "rte", "sst2"],
        ("leave-one-out", "rte", None): ["cola", "sst2"],
        ("leave-one-out", "sst2", None): ["cola", "rte"],
        ("random", None, 0): [],
        ("random", None, 1): [],
    }
    by_key = {job.key: job for job in jobs}
    for job in trained(jobs):
        if job.mask is not None:
            searched = [by_key[key] for key in job.best_of]
            assert {(own.task, own.about, own.needs) for own in searched} == {(job.task, "layernorm", ())}
            assert masks[job.mask].about == job.method
            assert masks[job.mask].task in {job.task, None}
            assert masks[job.mask].seed in {job.seed, None}
    assert len([job for job in trained(jobs) if job.mask is not None]) == 2 * 2 * 5 * 2


def test_none_of_layernorm_is_the_head_and_all_of_it_the_method(session: Session, tiny_folder: Path) -> None:
    figure = plan(config(tiny_folder, parts=("figure2",), fractions=(0.0, 1.0)), session)
    table = plan(config(tiny_folder, parts=("table2",), methods=("head", "layernorm")), session)
    assert {job.key for job in figure} == {job.key for job in table}


def test_a_mask_without_entries_is_refused(session: Session, tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"A mask of 0.001 of the \d+ entries has none"):
        plan(config(tiny_folder, parts=("figure2",), fractions=(0.001, 1.0)), session)


def test_studies_share_their_jobs_and_nothing_is_there_twice(session: Session, tiny_folder: Path) -> None:
    paper = plan(config(tiny_folder, methods=METHODS), session)
    keys = [job.key for job in paper]
    assert len(set(keys)) == len(keys)
    for place, job in enumerate(paper):
        assert {*job.needs} <= {*keys[:place]}, "a job stands before what it needs"
    every = {
        job.key
        for part in ("table1", "table2", "figure1", "figure2", "figure3", "figure4", "figure5")
        for job in plan(config(tiny_folder, parts=(part,), methods=METHODS), session)
    }
    assert every == {*keys}
    # Two tasks: five methods of 2 + 1 runs; at f = 0.1 three masks by two seeds.
    assert Counter(job.kind for job in paper) == {"train": 2 * 5 * 3 + 2 * 3 * 2, "fisher": 2, "mask": 2 + 1 + 2}


@pytest.mark.parametrize("part", ["table1", "figure3", "figure4"])
def test_fisher_alone_takes_no_runs(session: Session, tiny_folder: Path, part: str) -> None:
    jobs = plan(config(tiny_folder, parts=(part,)), session)
    assert [(job.kind, job.task) for job in jobs] == [("fisher", "rte"), ("fisher", "sst2")]


def test_figure_1_takes_full_runs_alone(session: Session, tiny_folder: Path) -> None:
    assert {job.about for job in plan(config(tiny_folder, parts=("figure1",)), session)} == {"full"}


def test_a_mask_searches_for_itself_on_request(session: Session, tiny_folder: Path) -> None:
    study = config(tiny_folder, parts=("figure2",), tasks=("rte",), fractions=(0.1,), search_masks=True)
    jobs = trained(plan(study, session))
    assert [job.method for job in jobs] == ["fisher-individual@0.1"] * 3
    assert [job.rate for job in jobs] == [*sorted(session.grid("layernorm")[:2]), None]
    assert jobs[2].best_of == (jobs[0].key, jobs[1].key)


def test_a_job_is_named_after_its_content(session: Session, tiny_folder: Path) -> None:
    jobs = plan(config(tiny_folder), session)
    assert all(type(job).model_validate_json(job.model_dump_json()).key == job.key for job in jobs)
    assert jobs[0].key != jobs[0].model_copy(update={"task": "mrpc"}).key


def test_an_unknown_method_is_refused(session: Session, tiny_folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="bitfitt"):
        plan(config(tiny_folder, parts=("table2",), methods=("bitfitt",)), session)
