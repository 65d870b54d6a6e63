"""Masks: the top fraction of a set of candidates by an importance, and the file that keeps one.

One safetensors file holds a mask: for each parameter with selected entries ``mask/NAME`` (packed bits) or
``index/NAME`` (positions), whichever is shorter, or an empty ``whole/NAME`` where all of it is selected. Its header
says where the mask comes from, as JSON. It holds no head, so that tasks with different labels can share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from normtune.config import Strict
from normtune.errors import ConfigError, SelectionError
from normtune.files import read_tensors, refuse_existing, write_tensors
from normtune.importance.scores import Scores
from normtune.methods.positions import pack, unpack
from normtune.methods.selection import Indices, Selection, nothing
from normtune.models.base import Base
from normtune.models.layout import Layout
from normtune.versions import versions

FORMAT = 1
_KEY = "normtune-mask"

Scope = Literal["individual", "global", "leave-one-out"]
Per = Literal["set", "row"]


def top(scores: Scores, *, fraction: float | None = None, entries: int | None = None) -> Selection:
    """The candidates with the highest scores, ranked jointly over layers, weight and bias.

    Ties are broken by the layout's order, by parameter, then by position, so that the same scores give the same mask on
    every machine. `fraction` or `entries` says how many are taken (see `size_of`).
    """
    count, within = size_of(len(scores), fraction, entries), scores.within
    if not count:
        return nothing(within.layout)
    joint = np.concatenate(list(scores.values.values()))
    joint.partition(joint.size - count)  # linear in time, and in place: one copy of the scores at most
    threshold = joint[joint.size - count]
    left = count - int(np.count_nonzero(joint > threshold))  # of those at the threshold itself
    chosen: dict[str, Indices] = {}
    for name, values in scores.values.items():  # in the layout's order
        taken = values > threshold
        ties = np.flatnonzero(values == threshold)[:left]
        taken[ties] = True
        left -= ties.size
        kept = np.flatnonzero(taken)
        chosen[name] = kept if within.is_whole(name) else within.indices(name)[kept]
    return Selection(within.layout, chosen)


def size_of(candidates: int, fraction: float | None, entries: int | None) -> int:
    """How many of the candidates a mask takes: ``entries``, or exactly ``round(fraction * candidates)``, half to even.

    Raises:
        ConfigError: If not exactly one of `fraction` and `entries` is given, or it is out of range.
        SelectionError: If there are no candidates.
    """
    if (fraction is None) == (entries is None):
        raise ConfigError("A mask takes either a fraction of its candidates or a number of entries.")
    if not candidates:
        raise SelectionError("There are no candidates to take a mask from.")
    if fraction is not None and not 0 <= fraction <= 1:
        raise ConfigError(f"The fraction of a mask lies between 0 and 1; got {fraction:g}.")
    count = entries if fraction is None else round(fraction * candidates)
    if count is None or not 0 <= count <= candidates:
        raise ConfigError(f"A mask takes between 0 and all {candidates:,} candidates; got {count}.")
    return count


class MaskInfo(Strict):
    """A mask's metadata.

    Attributes:
        format: Version of the file's layout.
        base: Name of the base model, as its user called it.
        base_identity: Its content hash; the mask fits no other base.
        layout: Fingerprint of the base's parameter names and shapes.
        importance: What entries were ranked by, a name in IMPORTANCES.
        scope: Whose importance, where it depends on a task.
        tasks: The tasks whose importance was used.
        target: The task that it was made for, if any.
        within: The candidates, as an expression.
        candidates: How many there were.
        entries: How many were taken.
        fraction: The fraction requested, or None if a number of entries was.
        per: Whether entries were compared over the whole ``set``, or within each output ``row``.
        seed: Seed of an importance that draws.
        examples: How many examples each task's importance was measured on.
        estimator: How a Fisher was estimated.
        head_seeds: Seeds of the heads that it was averaged over.
        note: Its author's remark.
        versions: Versions of the libraries that made it.
        content: Fingerprint of the selection; a file that does not match it is refused.
    """

    format: int = FORMAT
    base: str
    base_identity: str
    layout: str
    importance: str
    scope: Scope | None = None
    tasks: tuple[str, ...] = ()
    target: str | None = None
    within: str = "layernorm"
    candidates: int
    entries: int
    fraction: float | None = None
    per: Per = "set"
    seed: int | None = None
    examples: dict[str, int] = Field(default_factory=dict)
    estimator: str | None = None
    head_seeds: tuple[int, ...] = ()
    note: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    content: str

    @property
    def name(self) -> str:
        """The mask as a method, for records and tables: ``fisher-individual@0.1``, ``random@4608 of full``."""
        kind = "-".join(filter(None, (self.importance, self.scope)))
        size = self.entries if self.fraction is None else self.fraction
        # `random@100` alone is a method, which draws from all of the model.
        bare = self.within == "layernorm" and (self.importance != "random" or self.fraction is not None)
        within = "" if bare else f" of {self.within}"
        return f"{kind}@{size}{' by row' if self.per == 'row' else ''}{within}"

    def name_on(self, task: str) -> str:
        """The name in a record of `task`; it names the mask's target if that is another task."""
        return self.name if self.target in {None, task} else f"{self.name} for {self.target}"


@dataclass(frozen=True)
class Mask:
    """A selection, and the metadata of where it comes from."""

    selection: Selection
    info: MaskInfo

    def __post_init__(self) -> None:
        """Check that `info` describes `selection`.

        Raises:
            SelectionError: If it describes another one.
        """
        if self.info.content != self.selection.fingerprint or self.info.entries != len(self.selection):
            raise SelectionError("The mask's entries do not match what it says of itself.")

    @classmethod
    def make(
        cls, base: Base, scores: Scores, *, fraction: float | None = None, entries: int | None = None, **info: object
    ) -> Mask:
        """The mask of the highest `scores`, which were measured on `base`; negated ones give a mask of the lowest.

        Args:
            base: The base model.
            scores: One number for each candidate.
            fraction: How many candidates to take (see `size_of`).
            entries: How many, instead of a fraction.
            **info: Fields of `MaskInfo` that do not follow from the scores: ``importance``, ``scope``, ``target``, ...

        Raises:
            SelectionError: If the scores are of another model.
        """
        if scores.within.layout.fingerprint != base.layout.fingerprint:
            raise SelectionError(f"The scores are of another model than {base.name!r}.")
        selection = top(scores, fraction=fraction, entries=entries)
        fields = {
            "base": base.name,
            "base_identity": base.identity,
            "layout": base.layout.fingerprint,
            "candidates": len(scores),
            "entries": len(selection),
            "fraction": fraction,
            "versions": versions(),
            "content": selection.fingerprint,
        }
        return cls(selection, MaskInfo.model_validate({**fields, **info}))

    @property
    def name(self) -> str:
        """Its name as a method (see `MaskInfo.name`)."""
        return self.info.name

    def save(self, path: str | Path, *, over: bool = False) -> Path:
        """Write the mask to the file `path`, whole or not at all; overwrite an existing file only if `over`.

        Raises:
            OutputError: If the file exists, or cannot be written.
        """
        file = Path(path)
        refuse_existing(None if over else file)
        tensors: dict[str, Tensor] = {}
        for name, indices in self.selection.chosen.items():
            whole = {f"whole/{name}": torch.empty(0, dtype=torch.uint8)}
            tensors.update(whole if indices is None else pack(name, indices))
        write_tensors(file, _KEY, self.info, tensors)
        return file

    @classmethod
    def load(cls, path: str | Path, base: Base) -> Mask:
        """Read a mask of `base`.

        Raises:
            SelectionError: If there is none, or it is truncated, corrupt, of a later version or for another model.
        """
        info, tensors = read_tensors(Path(path), "mask", _KEY, MaskInfo, SelectionError)
        if info.base_identity != base.identity or info.layout != base.layout.fingerprint:
            raise SelectionError(
                f"This mask belongs to the base model {info.base!r} ({info.base_identity[:12]}),"
                f" not to {base.name!r} ({base.identity[:12]})."
            )
        try:
            chosen = dict(_unpack(name, stored, base.layout) for name, stored in tensors.items())
            return cls(Selection(base.layout, chosen), info)
        except SelectionError as error:
            raise SelectionError(f"The mask {path} is corrupt: {error}") from error


def read_info(path: str | Path) -> MaskInfo:
    """The metadata of the mask in the file `path`.

    Raises:
        SelectionError: If there is none, or it is truncated, corrupt or of a later version.
    """
    return read_tensors(Path(path), "mask", _KEY, MaskInfo, SelectionError)[0]


def _unpack(key: str, stored: Tensor, layout: Layout) -> tuple[str, Indices | None]:
    part, _, name = key.partition("/")
    most = layout.by_name[name].size if name in layout.by_name else 0
    return name, None if part == "whole" else unpack(part, stored, most)
