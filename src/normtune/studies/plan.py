"""The plan of a study: the jobs that it takes, each once, and after those that it needs."""

from __future__ import annotations

from collections.abc import Iterable

from normtune.importance.masks import top
from normtune.importance.scores import random_scores
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.studies.jobs import FisherJob, Job, MaskJob, TrainJob, mask_name
from normtune.studies.pruning import trial_order
from normtune.studies.study import MaskKind, StudyConfig
from normtune.training.rates import Grid
from normtune.training.session import Session

#: What the masks of the study are taken of.
CANDIDATES = "layernorm"


def plan(config: StudyConfig, session: Session) -> tuple[Job, ...]:
    """The jobs of a study.

    For every method each rate of its grid is tried on the first seed, as many for one as for another, and the best one
    is used for the other seeds. A mask takes the rate that LayerNorm was given on the task. With pruning the rates of a
    search come one after the other, from the middle one outwards.

    Args:
        config: The study.
        session: The base model.

    Returns:
        Each job once, after those that it needs.
    """
    planner = _Planner(config, session)
    for part in config.parts:
        if part == "table2":
            planner.cells(config.methods)
        elif part == "figure1":
            planner.cells(["full"])
        elif part == "figure2":
            planner.masks(["individual"])
        elif part == "figure5":
            planner.masks(config.masks)
        else:
            planner.fishers()
    return tuple(planner.jobs.values())


class _Planner:
    def __init__(self, config: StudyConfig, session: Session) -> None:
        self._config, self._session = config, session
        self.jobs: dict[str, Job] = {}

    def cells(self, methods: Iterable[str]) -> None:
        """Every task under every method."""
        for task in self._config.tasks:
            for method in methods:
                self._cell(task, method)

    def fishers(self) -> None:
        """Fisher information of every task."""
        for task in self._config.tasks:
            self._add(FisherJob(task=task))

    def masks(self, kinds: Iterable[MaskKind]) -> None:
        """Every task under every kind of mask at every fraction; none of LayerNorm is the head, all of it LayerNorm."""
        wanted = list(kinds)
        for task in self._config.tasks:
            for fraction in self._config.fractions:
                if fraction in {0, 1}:
                    self._cell(task, "head" if fraction == 0 else CANDIDATES)
                else:
                    for kind in wanted:
                        self._masked(task, kind, fraction)

    def _add(self, job: Job) -> str:
        self.jobs.setdefault(job.key, job)
        return job.key

    def _rates(self, grid: Grid) -> tuple[float, ...]:
        return grid.first(self._config.protocol.rates)

    def _search(self, task: str, method: str) -> TrainJob:
        """The search of a method's rates on the first seed; what it gives is a run without a seed of its own yet."""
        first = self._config.seeds[0]
        rates = self._rates(self._session.grid(method))
        return self._tried(TrainJob(task=task, method=method, seed=first), rates)

    def _tried(self, like: TrainJob, rates: tuple[float, ...]) -> TrainJob:
        """A run at each rate; what it gives is a run at the best. Those that may be dropped wait for each other."""
        prune, tried = self._config.prune is not None, dict[float, str]()
        for rate in trial_order(rates) if prune else rates:
            rivals = tuple(tried.values()) if prune else ()
            tried[rate] = self._add(like.model_copy(update={"rate": rate, "rivals": rivals}))
        return _at_best(like, [tried[rate] for rate in rates], rates)

    def _cell(self, task: str, method: str) -> None:
        other = self._search(task, method)
        for seed in self._config.seeds[1:]:
            self._add(other.model_copy(update={"seed": seed}))

    def _masked(self, task: str, kind: MaskKind, fraction: float) -> None:
        seeds = list(self._config.seeds)
        method = mask_name(kind, fraction)
        like = TrainJob(task=task, method=method, seed=seeds[0])
        if self._config.search_masks:
            first = seeds.pop(0)
            mask = self._mask(task, kind, fraction, first)
            rates = self._rates(self._session.grid(method, self._sized(fraction)))
            like = self._tried(like.model_copy(update={"mask": mask}), rates)
        else:
            found = self._search(task, CANDIDATES)
            like = like.model_copy(update={"rate": found.rate, "best_of": found.best_of})
        for seed in seeds:
            mask = self._mask(task, kind, fraction, seed)
            self._add(like.model_copy(update={"seed": seed, "mask": mask}))

    def _mask(self, task: str, kind: MaskKind, fraction: float, seed: int) -> str:
        """The mask of a kind for a task; a random one is drawn anew for each seed."""
        if kind == "random":
            return self._add(MaskJob(mask=kind, fraction=fraction, seed=seed))
        if kind == "global":
            tasks = sorted(self._config.sources)
        elif kind == "leave-one-out":
            tasks = sorted({*self._config.sources} - {task})
        else:
            tasks = [task]
        fishers = tuple(self._add(FisherJob(task=own)) for own in tasks)
        target = None if kind == "global" else task
        return self._add(MaskJob(mask=kind, fraction=fraction, task=target, tasks=tuple(tasks), fishers=fishers))

    def _sized(self, fraction: float) -> Selection:
        """Any selection of a mask's size: a grid of rates depends on nothing else of it."""
        return top(random_scores(select(self._session.base.layout, CANDIDATES)), fraction=fraction)


def _at_best(job: TrainJob, tried: list[str], rates: tuple[float, ...]) -> TrainJob:
    """A run at the best of the rates tried; one rate alone needs no waiting."""
    own = {"rate": rates[0]} if len(rates) == 1 else {"best_of": tuple(tried)}
    return job.model_copy(update=own)
