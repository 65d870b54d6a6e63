"""The one reader of records: of runs, of measurements, and of a results folder that holds both; a store of runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from normtune.config import Protocol
from normtune.errors import ConfigError, DataError
from normtune.records.ablation import AblationRecord
from normtune.records.fisher import FisherRecord
from normtune.records.run import Record
from normtune.records.saved import Saved
from normtune.records.submission import SubmissionRecord

AnyRecord = TypeVar("AnyRecord", Record, FisherRecord, AblationRecord)


class _Plan(Saved, extra="ignore"):
    """The model, the protocol and the seeds in a study's file."""

    noun: ClassVar[str] = "study"
    model: str | None = None
    protocol: Protocol | None = None
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Results:
    """The records of one base model under one protocol.

    Attributes:
        runs: Finished, failed and pruned runs.
        fisher: One measurement of Fisher information a task.
        planned: The seeds that ``study.json`` asks for, where there is one.
        submissions: Submissions of this model to the GLUE server (``submission*.json``), with its reply where it was
            recorded.
        ablations: Ablations of models.
    """

    runs: tuple[Record, ...]
    fisher: tuple[FisherRecord, ...]
    planned: tuple[int, ...] = ()
    submissions: tuple[SubmissionRecord, ...] = ()
    ablations: tuple[AblationRecord, ...] = ()

    @property
    def done(self) -> tuple[Record, ...]:
        """The runs that finished."""
        return tuple(run for run in self.runs if run.status == "done" and run.score is not None)


class Store:
    """Records of runs in a folder: a file each, named after the run's identity, so that nothing is run twice.

    Args:
        folder: Where they are stored; it is made with the first record.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: str) -> Path:
        """The file of the run called `identity`."""
        return self.folder / f"{identity}.json"

    def get(self, identity: str) -> Record | None:
        """The record of a run, or None if there is none."""
        path = self.path(identity)
        return Record.load(path) if path.is_file() else None

    def put(self, record: Record) -> None:
        """Write a record, whole or not at all."""
        record.save(self.path(record.id))

    def __iter__(self) -> Iterator[Record]:
        """Every record, in the order of their names."""
        yield from _all(self.folder, Record)


def load_runs(folder: Path, *, model: str | None = None, protocol: str | None = None) -> list[Record]:
    """The records of runs in `folder`, or in its ``runs``, in the order of their file names; at least one.

    With `model` or `protocol`, only those of this model, as its user called it, and of this protocol.

    Raises:
        DataError: If there is no such folder, it holds no such record, or one is damaged.
    """
    found = [run for run in _inside(folder, "runs", Record) if _wanted(run, model, protocol)]
    if not found:
        raise DataError(f"There are no records of runs{_words(model, protocol)} in {folder}.")
    return found


def load_fisher(folder: Path) -> list[FisherRecord]:
    """The measurements of Fisher information in `folder`, or in its ``fisher``, in the order of their file names.

    Raises:
        DataError: If there is no such folder, it holds no such record, or one is damaged.
    """
    found = _inside(folder, "fisher", FisherRecord)
    if not found:
        raise DataError(f"There are no records of Fisher information in {folder}.")
    return found


def read(folder: Path, *, model: str | None = None, protocol: str | None = None) -> Results:
    """Read a results folder: the JSON files in ``runs``, ``fisher`` and ``ablate``, its study and its submissions.

    Args:
        folder: The folder.
        model: Only records of this model, as its user called it, or None for the only one there is.
        protocol: Only runs of this protocol, likewise.

    Returns:
        The records of one base model and protocol.

    Raises:
        DataError: If there is no such folder, nothing in it fits, or a record is damaged.
        ConfigError: If the records are of several models, protocols, or sets of data.
    """
    if not folder.is_dir():
        raise DataError(f"There is no results folder at {folder}.")
    runs = [run for run in _all(folder / "runs", Record) if _wanted(run, model, protocol)]
    fisher = [each for each in _all(folder / "fisher", FisherRecord) if model in {None, each.config.model}]
    ablations = [each for each in _all(folder / "ablate", AblationRecord) if model in {None, each.config.model}]
    if not runs and not fisher and not ablations:
        places = " or ".join(f"{folder}/{name}" for name in ("runs", "fisher", "ablate"))
        raise DataError(f"There are no records{_words(model, protocol)} in {places}.")
    check_one_setting(runs, fisher)
    plan = _Plan.load(folder / "study.json") if (folder / "study.json").is_file() else _Plan()
    ours = plan.protocol is None or any(
        run.config.protocol == plan.protocol and plan.model in {None, run.config.model} for run in runs
    )
    submissions = [SubmissionRecord.load(path) for path in sorted(folder.glob("submission*.json"))]
    measured: list[Record | FisherRecord | AblationRecord] = [*runs, *fisher, *ablations]
    bases = {each.base_identity for each in measured}
    return Results(
        tuple(runs),
        tuple(_one_each(fisher)),
        plan.seeds if ours else (),
        tuple(
            each
            for each in submissions
            if all(answer.source is None or answer.source.base_identity in bases for answer in each.answers)
        ),
        tuple(ablations),
    )


def _inside(folder: Path, name: str, kind: type[AnyRecord]) -> list[AnyRecord]:
    """The records in `folder`, or in the folder called `name` inside, where there is one.

    Raises:
        DataError: If there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder of records at {folder}.")
    if (folder / name).is_dir():
        return _all(folder / name, kind)
    found = _all(folder, kind)
    if kind is Record and not found:  # of trainings, each in a folder of its own
        found = [kind.load(path) for path in sorted({*folder.glob("*/record.json"), *folder.glob("*/*/*/record.json")})]
    return found


def _all(folder: Path, kind: type[AnyRecord]) -> list[AnyRecord]:
    return [kind.load(path) for path in sorted(folder.glob("*.json"))]


def _wanted(run: Record, model: str | None, protocol: str | None) -> bool:
    return model in {None, run.config.model} and protocol in {None, run.config.protocol.name}


def _words(model: str | None, protocol: str | None) -> str:
    return "".join(f" of {kind} {name}" for kind, name in (("model", model), ("protocol", protocol)) if name)


def check_one_setting(runs: Sequence[Record], fisher: Sequence[FisherRecord] = ()) -> None:
    """Refuse to show records side by side that differ in model, protocol or data.

    Raises:
        ConfigError: If they do.
    """
    models: dict[Any, str] = {}
    every: list[Record | FisherRecord] = [*runs, *fisher]
    for each in every:
        models[each.base_identity, each.config.dtype] = f"{each.config.model} ({each.config.dtype})"
    _refuse_several("models", models.values(), "--model")
    protocols = {run.config.protocol: run.config.protocol.name for run in runs}
    _refuse_several("protocols", protocols.values(), "--protocol")
    for task in {run.config.task for run in runs}:
        kinds = {tuple(sorted(run.data.identity.items())) for run in runs if run.config.task == task}
        if len(kinds) > 1:
            raise ConfigError(f"The runs of {task} are on different data; keep their records in folders apart.")


def _refuse_several(kind: str, names: Iterable[str], option: str) -> None:
    """Refuse more than one.

    Raises:
        ConfigError: If there are several.
    """
    found = sorted(names)
    if len(found) > 1:
        known = ", ".join(sorted(set(found)))
        hint = f"choose one with {option}" if len(set(found)) > 1 else "keep them in folders apart"
        raise ConfigError(f"These records are of several {kind}, {known}; {hint}.")


def _one_each(fisher: Sequence[FisherRecord]) -> list[FisherRecord]:
    """One measurement a task: the empirical one, if any, with the most examples, then the most head seeds.

    All are of the same part of the model: the whole if any is, else the part with the most measurements.
    """

    def weight(each: FisherRecord) -> tuple[bool, int, int]:
        own = each.config
        return own.estimator.name == "empirical", each.examples, len(own.head_seeds)

    parts, groups = Counter(each.config.within for each in fisher), defaultdict[str, list[FisherRecord]](list)
    within = "full" if parts["full"] else max(parts, key=parts.__getitem__, default="full")
    for each in fisher:
        if each.config.within == within:
            groups[each.config.task].append(each)
    return [max(group, key=weight) for group in groups.values()]
