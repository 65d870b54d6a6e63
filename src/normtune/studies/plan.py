"""Plans: the jobs of a study or of a table of trainings, each once, and after those that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from normtune.errors import ConfigError
from normtune.importance.masks import Mask, size_of
from normtune.importance.recipe import kind_of
from normtune.importance.scores import IMPORTANCES
from normtune.methods.budget import sized
from normtune.methods.method import named
from normtune.records.fisher import Estimator
from normtune.studies.config import Setup, StudyConfig
from normtune.studies.importance import CANDIDATES, asked
from normtune.studies.jobs import FisherJob, Job, MaskJob, TrainJob, mask_name
from normtune.studies.pruning import trial_order
from normtune.training.session import Session

#: The most rates that a search tries beyond the protocol's, and the least rates and epochs of the protocol for that:
#: with fewer the best rate is mostly at an end, because little was learnt rather than because the grid is too narrow.
BEYOND, _ENOUGH = 2, 3


def plan(config: StudyConfig, session: Session) -> tuple[Job, ...]:
    """The jobs of a study.

    Every method tries the same number of rates of its grid on the first seed; while the best is the lowest or the
    highest of them, the next half decade is tried too, at most twice, under a protocol of at least three rates and
    epochs. The other seeds use the best rate. A mask takes LayerNorm's rate on the task, unless `search_masks` is set.
    With pruning the rates of a search run one after the other, from the middle one outwards.

    Each job occurs once, after those that it needs.
    """
    planner = _Study(config, session)
    for part in config.parts:
        if part == "table2":
            names, budget = config.methods, config.entries
            planner.cells(names if budget is None else sized(session.base.layout, names, budget))
        elif part == "figure1":
            planner.cells(["full"])
        elif part == "figure2":
            planner.masks(["individual"])
        elif part == "figure5":
            planner.masks(config.masks)
        else:
            planner.fishers()
    return tuple(planner.searches.jobs.values())


class _Searches:
    """The planned jobs, and the rate searches among them."""

    def __init__(self, setup: Setup) -> None:
        self._prune = setup.prune is not None
        self._beyond = BEYOND if min(setup.protocol.rates, setup.protocol.epochs) >= _ENOUGH else 0
        self.jobs: dict[str, Job] = {}

    def add(self, job: Job) -> str:
        """Plan a job, unless it is planned already; returns its key."""
        self.jobs.setdefault(job.key, job)
        return job.key

    def best(self, like: TrainJob, rates: Sequence[float], *, more: bool = True) -> TrainJob:
        """Plan a run at each rate; with pruning each waits for those before it.

        Args:
            like: The run, without a rate.
            rates: The rates, ascending; a single one is not tried first.
            more: Whether rates beyond them are tried, where the best is the lowest or the highest.

        Returns:
            A run at the best of the rates, not planned yet.
        """
        if len(rates) == 1:
            return like.model_copy(update={"rate": rates[0]})
        tried: list[str] = []
        for rate in trial_order(rates) if self._prune else rates:
            rivals = tuple(tried) if self._prune else ()
            tried.append(self.add(like.model_copy(update={"rate": rate, "rivals": rivals})))
        for _ in range(self._beyond if more else 0):
            rivals, before = tuple(tried) if self._prune else (), tuple(tried)
            job = like.model_copy(update={"beyond": True, "best_of": before, "rivals": rivals})
            tried.append(self.add(job))
        return like.model_copy(update={"best_of": tuple(tried)})


class _Study:
    def __init__(self, config: StudyConfig, session: Session) -> None:
        self._config, self._session = config, session
        self._files = {str(own.name): own for own in config.files}
        self.searches = _Searches(config)

    def cells(self, methods: Iterable[str]) -> None:
        """Every task under every method."""
        for task in self._config.tasks:
            for method in methods:
                self._cell(task, method)

    def fishers(self) -> None:
        """Fisher information of every task."""
        for task in self._config.tasks:
            self.searches.add(FisherJob(task=task))

    def masks(self, kinds: Iterable[str]) -> None:
        """Every task under every kind of mask at every fraction; 0 is the head alone, 1 the whole LayerNorm."""
        wanted, candidates = list(kinds), len(self._session.spec(CANDIDATES))
        for fraction in self._config.fractions:
            if fraction and not size_of(candidates, fraction, None):
                raise ConfigError(f"A mask of {fraction:g} of the {candidates:,} entries has none; take a larger part.")
        for task in self._config.tasks:
            for fraction in self._config.fractions:
                if fraction in {0, 1}:
                    self._cell(task, "head" if fraction == 0 else CANDIDATES)
                else:
                    for kind in wanted:
                        self._masked(task, kind, fraction)

    def _search(self, task: str, method: str, mask: str | None = None, name: str = "") -> TrainJob:
        """Plan a rate search on the first seed, for a method or a mask called `name`; returns a run at the best."""
        files, seed = self._files.get(task), self._config.seeds[0]
        like = TrainJob(task=task, files=files, method=name or method, seed=seed, mask=mask)
        return self.searches.best(like, sorted(self._session.grid(method)[: self._config.protocol.rates]))

    def _cell(self, task: str, method: str) -> None:
        best = self._search(task, method)
        for seed in self._config.seeds[1:] if best.best_of else self._config.seeds:
            self.searches.add(best.model_copy(update={"seed": seed}))

    def _masked(self, task: str, kind: str, fraction: float) -> None:
        seeds, name = self._config.seeds, mask_name(kind, fraction)
        if self._config.search_masks:
            best = self._search(task, CANDIDATES, self._mask(task, kind, fraction, seeds[0]), name)
            seeds = seeds[1:] if best.best_of else seeds
        else:
            best = self._search(task, CANDIDATES)
        for seed in seeds:
            changes = {"method": name, "seed": seed, "mask": self._mask(task, kind, fraction, seed)}
            self.searches.add(best.model_copy(update=changes))

    def _mask(self, task: str, kind: str, fraction: float, seed: int) -> str:
        """Plan the mask of a kind for a task; returns its key. A random one is drawn anew for each seed."""
        add, (name, scope) = self.searches.add, kind_of(kind)
        importance = IMPORTANCES[name]
        if importance.needs == "nothing":
            return add(MaskJob(mask=kind, fraction=fraction, seed=seed if importance.seeded else None))
        if scope == "global":
            tasks = sorted(self._config.sources)
        elif scope == "leave-one-out":
            tasks = sorted({*self._config.sources} - {task})
        else:
            tasks = [task]
        measured = importance.needs == "fisher"
        fishers = tuple(add(self._fisher(own, importance.estimator)) for own in tasks) if measured else ()
        target = None if scope == "global" else task
        return add(MaskJob(mask=kind, fraction=fraction, task=target, tasks=tuple(tasks), fishers=fishers))

    def _fisher(self, task: str, estimator: str) -> FisherJob:
        """The job that measures Fisher information for a mask."""
        own = Estimator(name=estimator)
        return FisherJob(task=task, config=None if own == Estimator() else asked(self._config, own))


# Tables of trainings


#: A run of one task under one method or mask, without seed and rate, and the rates that suit it, the default first.
TableRow = tuple[TrainJob, tuple[float, ...]]


def method_rows(session: Session, tasks: Sequence[TrainJob], methods: Sequence[str]) -> list[TableRow]:
    """A row for every task and method, task by task; `tasks` has a run of each task, whose method is replaced.

    Several tasks of a suite train together if the method is `shared`.
    """
    grids = {method: session.grid(method) for method in methods}
    names = tuple(sorted(task.task for task in tasks if task.files is None))
    together = {name: names for name in methods if (method := named(name)) and method.shared and len(names) > 1}
    return [
        (task.model_copy(update={"method": name, "together": together.get(name, ())}), grids[name])
        for task in tasks
        for name in methods
    ]


def mask_rows(session: Session, tasks: Sequence[TrainJob], files: Sequence[Path]) -> list[TableRow]:
    """A row for every task and mask, task by task; `tasks` has a run of each task, whose method is replaced.

    Of masks with the same name, made for different tasks, each task trains its own. A mask with a name of its own
    trains on every task; if it was made for another one, it gets a name that says so (`MaskInfo.name_on`).

    Raises:
        SelectionError: If a mask is of another model.
        ConfigError: If several masks have the same name, and not exactly one of them was made for a task.
    """
    masks = [(file.absolute(), Mask.load(file, session.base)) for file in files]
    rows = []
    for task in tasks:
        for name in dict.fromkeys(mask.name for _, mask in masks):
            alike = [(file, mask) for file, mask in masks if mask.name == name]
            own = alike if len(alike) == 1 else [each for each in alike if each[1].info.target == task.task]
            if len(own) != 1:
                raise ConfigError(
                    f"{len(alike)} masks are called {name!r}, and {len(own)} of them were made for {task.task}; give"
                    " one for each task, or train them separately."
                )
            file, mask = own[0]
            like = task.model_copy(update={"method": mask.info.name_on(task.task), "mask_file": file})
            rows.append((like, session.grid(name, mask.selection)))
    return rows


def trainings(
    setup: Setup,
    rows: Sequence[TableRow],
    seeds: Sequence[int],
    *,
    rates: Sequence[float] | None = None,
    search: bool = False,
    folder: Callable[[TrainJob], Path | None] = lambda _: None,
) -> tuple[tuple[Job, ...], list[tuple[TrainJob, ...]]]:
    """The jobs of a table: every rate on the first seed, then the best rate on the others.

    Args:
        setup: Says how many rates of a grid a search tries, and whether lost ones are pruned.
        rows: The table's rows, a task each.
        seeds: Seeds, in order.
        rates: Rates to try, or None for the rows' own.
        search: Without `rates`: whether to search each row's grid, rather than take its default.
        folder: The folder for the result of a run; by default none.

    Returns:
        The jobs, each after those that it needs, and for each row, seed by seed, the runs that give its results.
    """
    searches, cells = _Searches(setup), []
    for like, grid in rows:
        own = rates or grid[: setup.protocol.rates if search else 1]
        best = searches.best(like.model_copy(update={"seed": seeds[0]}), sorted(own), more=not rates)
        seeded = [best.model_copy(update={"seed": seed}) for seed in seeds]
        runs = tuple(job.model_copy(update={"out": folder(job)}) for job in seeded)
        for job in runs:
            searches.add(job)
        cells.append(runs)
    return tuple(searches.jobs.values()), cells
