"""Methods that train the top entries of the whole model by an importance, measured on the task before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, final

from normtune.config import fingerprint
from normtune.errors import SelectionError
from normtune.methods.components import layernorm
from normtune.methods.selection import in_range
from normtune.methods.trainable import Spec
from normtune.models.layout import Layout


def fish_mask(layout: Layout, *, option: int | None = None) -> Top:
    """The entries with the most Fisher information on 1,024 training examples (FISH Mask, Sung et al. 2021).

    There are `option` of them, by default as many as `layernorm` has, by empirical Fisher information, with the true
    labels (section 3).
    """
    return Top(layout, "fish-mask", len(layernorm(layout)) if option is None else option, examples=1024)


def child_tuning_d(layout: Layout, *, option: int = 20) -> Top:
    """`option` per cent of the model by Fisher information on all training examples (Child-Tuning_D, Xu et al. 2021).

    All entries of the model are ranked together; those chosen stay the same for the whole training, and no other entry
    changes. The authors' code ranks the entries of the layers together, by the squares of clipped mean gradients, and
    trains embeddings and pooler whole.
    """
    in_range("child-tuning-d", "a percentage", option, 100)
    return Top(layout, "child-tuning-d", round(option / 100 * layout.size))


@final
@dataclass(frozen=True)
class Top(Spec):
    """The top entries by an importance, which become a selection once it is measured on a task.

    They depend on the task's training examples, so this spec cannot be put on a model: a
    `normtune.training.session.Session` measures it before a run. The entries are the same for every seed and rate.

    Attributes:
        method: The method's name.
        entries: Number of entries.
        importance: A name in `normtune.importance.scores.IMPORTANCES`.
        examples: Number of training examples to measure on, a seeded sample; None takes all.
    """

    layout: Layout
    method: str
    entries: int
    importance: str = "fisher"
    examples: int | None = None

    def __post_init__(self) -> None:
        """Check that the model has that many entries."""
        in_range(self.method, "a number of entries", self.entries, self.layout.size)

    def __len__(self) -> int:
        return self.entries

    @property
    def fingerprint(self) -> str:
        """A hash over the layout and all that determines what is measured, except the data."""
        own = {name: getattr(self, name) for name in ("entries", "importance", "examples")}
        return fingerprint({"layout": self.layout.fingerprint, "top": own})

    def put(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse.

        Raises:
            SelectionError: Always.
        """
        raise SelectionError(
            f"{self.method} trains the entries that matter most on a task, so it needs the task's training examples:"
            " train it with `normtune train`, or tune a mask's selection (`normtune mask`)."
        )

    decays = apply = merge = vectors = put
