"""Many runs on one base model: tasks by methods by seeds, with the rate given or searched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from normtune.config import Protocol, Pruning, RunConfig
from normtune.data.task import TaskData
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, TrainingError
from normtune.importance.masks import Mask
from normtune.methods.selection import Selection
from normtune.records.run import Record
from normtune.records.store import Store
from normtune.studies.pruning import judge, pruned_identity, trial_order
from normtune.studies.unfinished import pruned
from normtune.training.loop import PrunedError, Tick
from normtune.training.rates import Grid
from normtune.training.session import Session

Watch = Callable[[Tick], None]


@dataclass(frozen=True)
class Cell:
    """One task under one method.

    Attributes:
        data: The task and its data.
        method: The method's name or an expression.
        seeds: Seeds, in order.
        rates: Rates to try, ascending; the best is picked on the first seed and the other seeds reuse it.
        selection: What trains, where it is not what `method` says but, say, a mask of that name.
    """

    data: TaskData
    method: str
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    selection: Selection | None = None

    @property
    def runs(self) -> int:
        """How many runs the cell takes."""
        return len(self.rates) + len(self.seeds) - 1


@dataclass(frozen=True)
class Finished:
    """One finished run of a cell.

    Attributes:
        record: Its record.
        delta: Its delta, or None where the record was found in the store and no deltas are kept.
        cached: Whether the record was found in the store.
    """

    record: Record
    delta: Delta | None
    cached: bool


#: What becomes of a run: it is finished, or dropped, of which there is a record, or its loss stopped being finite.
Ended = Finished | Record | TrainingError


class Runner:
    """Runs cells on a session.

    Args:
        session: The base model.
        protocol: How every run is trained.
        store: Where records are kept and found again, or None.
        aside: A folder for checkpoints, records and deltas of an unfinished study, or None to keep none of them.
        begin: Told before each run; its answer watches the run's steps.
        end: Told after each run.
        fail: Told of each run whose loss stopped being finite.
        prune: When clearly lost rates of a cell are dropped early; None never does.
        drop: Told of each run that was dropped, with its record.
    """

    def __init__(
        self,
        session: Session,
        protocol: Protocol,
        *,
        store: Store | None = None,
        aside: Path | None = None,
        begin: Callable[[RunConfig], Watch | None] = lambda _: None,
        end: Callable[[Finished], None] = lambda _: None,
        fail: Callable[[RunConfig, str], None] = lambda _, __: None,
        prune: Pruning | None = None,
        drop: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._session, self._protocol, self._aside = session, protocol, aside
        stores = [store, Store(aside / "records") if aside is not None else None]
        self._stores = [known for known in stores if known is not None]
        self._begin, self._end, self._fail = begin, end, fail
        self._prune, self._drop = prune, drop

    def cell(self, cell: Cell) -> list[Finished]:
        """Run a cell: every rate on the first seed, then the best rate on the other seeds.

        Args:
            cell: What to run.

        Returns:
            One finished run a seed, at the best rate, in the order of the seeds.

        Raises:
            TrainingError: If no rate gave a finite loss on the first seed.
        """
        tried = self._search(cell)
        done = [run for run in tried if isinstance(run, Finished)]
        if not done:
            tail = "" if len(tried) == 1 else f" So it was at each of the {len(tried)} rates tried."
            raise TrainingError(f"{cell.method} on {cell.data.task.name}: {tried[0]}{tail}")
        best = max(done, key=lambda run: (picked(run.record), -run.record.config.rate))
        others = self._several(cell, [(best.record.config.rate, seed) for seed in cell.seeds[1:]])
        return [best, *(run for run in others if isinstance(run, Finished))]

    def _search(self, cell: Cell) -> list[Ended]:
        """Every rate on the first seed; where lost ones are dropped, each is compared with the whole runs before it."""
        if self._prune is None:
            return self._several(cell, [(rate, cell.seeds[0]) for rate in cell.rates])
        tried: list[Ended] = []
        for rate in trial_order(cell.rates):
            rivals = [run.record for run in tried if isinstance(run, Finished)]
            tried.append(self._try(cell, rate, cell.seeds[0], rivals))
        return tried

    def _several(self, cell: Cell, pairs: Sequence[tuple[float, int]]) -> list[Ended]:
        """Runs at these rates and seeds."""
        return [self._try(cell, rate, seed) for rate, seed in pairs]

    def _config(self, cell: Cell, rate: float, seed: int) -> RunConfig:
        return self._session.config(cell.data.task.name, cell.method, rate, seed, self._protocol, cell.selection)

    def _checkpoint(self, identity: str) -> Path | None:
        return None if self._aside is None else self._aside / f"{identity}.safetensors"

    def _try(self, cell: Cell, rate: float, seed: int, rivals: Sequence[Record] = ()) -> Ended:
        """A run, or the record of one that was dropped, or why there is none."""
        config = self._config(cell, rate, seed)
        identity = self._session.identify(config, cell.data, cell.selection)
        watch = self._begin(config)
        run: Ended | None = self._known(identity) or (self._dropped(identity, rivals) if rivals else None)
        if run is None:
            try:
                run = self._train(config, cell, identity, watch, list(rivals))
            except TrainingError as error:
                run = error
        return self._told(config, run)

    def _told(self, config: RunConfig, run: Ended) -> Ended:
        """What became of a run, after it was said."""
        if isinstance(run, TrainingError):
            self._fail(config, str(run))
        elif isinstance(run, Record):
            self._drop(run)
        else:
            self._end(run)
        return run

    def _dropped(self, identity: str, rivals: Sequence[Record]) -> Record | None:
        """The record of a run that was dropped before, for the same reason as it would be again."""
        assert self._prune is not None
        own = pruned_identity(identity, self._prune, rivals)
        return next((found for store in self._stores if (found := store.get(own)) is not None), None)

    def _known(self, identity: str) -> Finished | None:
        """A run that was finished before, where everything that is to be kept of it is there."""
        found = (store.get(identity) for store in self._stores)
        record = next((known for known in found if known is not None and known.status == "done"), None)
        if record is None or self._aside is None:
            return None if record is None else Finished(record, None, cached=True)
        delta = self._aside / "deltas" / f"{identity}.safetensors"
        return Finished(record, Delta.load(delta), cached=True) if delta.is_file() else None

    def _train(
        self, config: RunConfig, cell: Cell, identity: str, watch: Watch | None, rivals: list[Record]
    ) -> Finished | Record:
        checkpoint = self._checkpoint(identity)
        rule, primary = self._prune, cell.data.task.primary
        judging = judge(rule, primary, config.protocol.epochs, rivals) if rule and rivals else None
        try:
            record, delta = self._session.run(
                config, cell.data, selection=cell.selection, checkpoint=checkpoint, watch=watch, judge=judging
            )
        except PrunedError as error:
            assert rule is not None
            lost = pruned(self._session, config, cell.data, cell.selection, identity, rule, rivals, error)
            self._put(lost, checkpoint)
            return lost
        return self._finish(record, delta, checkpoint)

    def _finish(self, record: Record, delta: Delta, checkpoint: Path | None) -> Finished:
        """A run that was finished now, of which everything is kept that is to be."""
        if self._aside is not None and self._session.accelerator.is_main_process:
            file = self._aside / "deltas" / f"{record.id}.safetensors"
            file.unlink(missing_ok=True)
            delta.save(file)
        self._put(record, checkpoint)
        return Finished(record, delta, cached=False)

    def _put(self, record: Record, checkpoint: Path | None) -> None:
        """Keep a record; the state that it came from is then no longer needed."""
        if not self._session.accelerator.is_main_process:
            return
        for store in self._stores:
            store.put(record)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)


def picked(record: Record) -> float:
    """What rates are compared by: the primary metric at the best epoch, on the data that the epoch was picked on."""
    assert record.best_epoch is not None
    return record.curve[record.best_epoch - 1].scores[record.primary]


def cells(
    session: Session,
    tasks: Iterable[TaskData],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    protocol: Protocol,
    rates: Sequence[float] | None,
    search: bool,
) -> list[Cell]:
    """Every task under every method.

    Args:
        session: The base model.
        tasks: The tasks and their data.
        methods: Names or expressions.
        seeds: Seeds.
        protocol: Says how many rates of a method's grid a search tries.
        rates: Rates to try, or None for the methods' own.
        search: Without `rates`: whether to search each method's grid rather than take its default.

    Returns:
        The cells, task by task.
    """
    return [
        Cell(data, method, tuple(seeds), _rates(session.grid(method), protocol, rates, search))
        for data in tasks
        for method in methods
    ]


def mask_cells(
    session: Session,
    tasks: Iterable[TaskData],
    masks: Sequence[Mask],
    seeds: Sequence[int],
    *,
    protocol: Protocol,
    rates: Sequence[float] | None,
    search: bool,
) -> list[Cell]:
    """Every task under every mask.

    Masks of one name, made for different tasks, are one method: each task trains its own. A mask that stands alone
    trains on every task, under a name that says whose it is where it was made for another (`MaskInfo.name_on`).

    Args:
        session: The base model.
        tasks: The tasks and their data.
        masks: Masks of this base.
        seeds: Seeds.
        protocol: Says how many rates of a grid a search tries.
        rates: Rates to try, or None for what suits each mask's size.
        search: Without `rates`: whether to search the grid rather than take its default.

    Returns:
        The cells, task by task.

    Raises:
        SelectionError: If a mask is of another model.
        ConfigError: If two masks cannot be told apart, or a task's own is missing among several.
    """
    groups: dict[str, list[Mask]] = {}
    for mask in masks:
        mask.check(session.base)
        groups.setdefault(mask.name, []).append(mask)
    pairs = [(data, _own(group, data.task.name)) for data in tasks for group in groups.values()]
    return [
        Cell(
            data,
            mask.info.name_on(data.task.name),
            tuple(seeds),
            _rates(session.grid(mask.name, mask.selection), protocol, rates, search),
            mask.selection,
        )
        for data, mask in pairs
    ]


def _own(group: list[Mask], task: str) -> Mask:
    """Of masks of one name the one for this task.

    Raises:
        ConfigError: If two masks cannot be told apart, or there is none for the task.
    """
    if len(group) == 1:
        return group[0]
    targets = [mask.info.target for mask in group]
    if len(set(targets)) < len(targets) or None in targets:
        raise ConfigError(f"Two masks are called {group[0].name!r} and cannot be told apart; train them separately.")
    if task not in targets:
        known = ", ".join(map(str, targets))
        raise ConfigError(f"The masks called {group[0].name!r} are for {known}; none is for {task}.")
    return group[targets.index(task)]


def _rates(grid: Grid, protocol: Protocol, given: Sequence[float] | None, search: bool) -> tuple[float, ...]:
    if given:
        return tuple(sorted(given))
    return grid.first(protocol.rates) if search else (grid.default,)
