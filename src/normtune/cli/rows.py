"""The rows of a training's table: methods, or masks from files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normtune.cli.options import methods, names
from normtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normtune.config import Protocol
    from normtune.data.task import TaskData
    from normtune.studies.runs import Cell
    from normtune.training.session import Session

DEFAULT = "layernorm"


@dataclass(frozen=True)
class Rows:
    """What is trained on each task: either methods or masks.

    Attributes:
        methods: Names or expressions.
        files: Files of masks.
    """

    methods: tuple[str, ...]
    files: tuple[str, ...]

    @classmethod
    def read(cls, method: str | None, mask: str | None) -> Rows:
        """Reads ``--method`` and ``--mask``.

        Raises:
            ConfigError: If both are given.
        """
        if mask is None:
            return cls(tuple(methods(DEFAULT if method is None else method)), ())
        if method is not None:
            raise ConfigError("Give either --method or --mask: a mask says itself which entries train.")
        return cls((), tuple(names(mask)))

    def check(self) -> None:
        """Say what is wrong with a file before anything is loaded."""
        from normtune.importance.masks import read_info

        for file in self.files:
            read_info(file)

    def cells(
        self,
        session: Session,
        tasks: Sequence[TaskData],
        seeds: Sequence[int],
        *,
        protocol: Protocol,
        rates: Sequence[float] | None,
        search: bool,
    ) -> list[Cell]:
        """Every task under every row (see `normtune.studies.runs.cells` and `mask_cells`)."""
        from normtune.importance.masks import Mask
        from normtune.studies.runs import cells, mask_cells

        if not self.files:
            return cells(session, tasks, self.methods, seeds, protocol=protocol, rates=rates, search=search)
        masks = [Mask.load(file, session.base) for file in self.files]
        return mask_cells(session, tasks, masks, seeds, protocol=protocol, rates=rates, search=search)
