"""What a bank lets in: whole deltas of its base, made into values that rows of a batch can have for themselves."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

from torch import Tensor

from normtune.deltas.answering import task_of
from normtune.deltas.delta import Delta
from normtune.deltas.entry import Entry
from normtune.deltas.row_model import Row, RowModel
from normtune.errors import DeltaError, ModelError, SelectionError
from normtune.methods.selection import Selection
from normtune.methods.sparse import Sparse
from normtune.models.base import Base
from normtune.models.head import head_shapes


class Admission:
    """Checks deltas and makes a bank's entries of them.

    Args:
        base: The bank's base model.
        model: Its twin, which knows what can differ from row to row.
        quiet: Held while a batch is made up to prove a new kind of delta, so that no other batch runs meanwhile.
    """

    def __init__(self, base: Base, model: RowModel, quiet: AbstractContextManager[object]) -> None:
        self._base, self._model, self._quiet = base, model, quiet
        self._head = head_shapes(base.model, base.roots)

    def admit(self, name: str, delta: Delta, *, apart: bool) -> Entry:
        """The entry of a delta.

        Args:
            name: The name that it answers to.
            delta: The delta.
            apart: Whether one that cannot share batches may run apart.

        Raises:
            DeltaError: If it is of another base or is damaged, or cannot share batches and may not run apart.
        """
        try:
            delta.check(self._base)
        except DeltaError as error:
            raise DeltaError(f"The delta {name!r} does not fit: {error}") from error
        self._check_values(name, delta)
        self._check_head(name, delta)
        task = replace(task_of(delta), name=name)
        try:
            return Entry(name, delta.info, task, self._row(delta))
        except ModelError as error:
            if apart:
                return Entry(name, delta.info, task, delta)
            raise DeltaError(
                f"The delta {name!r} cannot share batches with others: {error} Add it with apart, and it runs in"
                " batches of its own."
            ) from error

    def _row(self, delta: Delta) -> Row:
        own = delta.spec(self._base).vectors(delta.values)
        for name in own:
            if name not in self._model.vectors:
                raise ModelError(f"it changes {name}, and only vectors can differ from row to row.")
        row = self._model.row({name: self._whole(name, *values) for name, values in own.items()}, delta.head)
        if not self._model.is_proven(row.names):
            with self._quiet:
                self._model.prove(row.names)
        return row

    def _whole(self, name: str, indices: Tensor, values: Tensor) -> Tensor:
        whole = self._model.vectors[name].to("cpu", copy=True)
        whole[indices] = values.float()
        return whole

    def _check_values(self, name: str, delta: Delta) -> None:
        try:
            spec = delta.spec(self._base)
        except SelectionError as error:
            raise DeltaError(f"The delta {name!r} is damaged: {error}") from error
        if isinstance(spec, Sparse):
            _check_sizes(name, delta, spec.selection)
        for parameter, values in (*delta.values.items(), *delta.head.items()):
            if not bool(values.isfinite().all()):
                raise DeltaError(f"The delta {name!r} is damaged: a value of {parameter} is not finite.")

    def _check_head(self, name: str, delta: Delta) -> None:
        if odd := sorted(self._head.keys() ^ delta.head.keys()):
            raise DeltaError(f"The head of the delta {name!r} does not fit: {', '.join(odd)} only on one side.")
        outputs = max(1, len(delta.info.labels))
        for parameter, shape in self._head.items():
            wanted = tuple(outputs if size is None else size for size in shape)
            if tuple(delta.head[parameter].shape) != wanted:
                raise DeltaError(
                    f"The head of the delta {name!r} does not fit: {parameter} has the shape"
                    f" {tuple(delta.head[parameter].shape)} instead of {wanted}."
                )


def _check_sizes(name: str, delta: Delta, selection: Selection) -> None:
    for parameter, values in delta.values.items():
        if values.numel() != selection.count(parameter):
            raise DeltaError(
                f"The delta {name!r} is damaged: it has {values.numel()} values for {selection.count(parameter)}"
                f" entries of {parameter}."
            )
