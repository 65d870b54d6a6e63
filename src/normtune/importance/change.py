"""How far each component moved in a fine-tuning: the paper's equation 1."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from normtune.config import Strict
from normtune.models.components import Sub
from normtune.selection.selection import Selection


class Change(Strict):
    """How far the selected entries of one parameter moved.

    Attributes:
        component: The component it belongs to.
        layer: Number of its layer from 0, or None outside the layers.
        sub: Its sub-component.
        entries: How many entries were compared.
        mean: D, the mean of |fine-tuned - pre-trained| over them (equation 1).
        relative: D divided by the mean of |pre-trained|; None where that is zero.
        l0: How many of them differ (appendix B).
        l1: The sum of |fine-tuned - pre-trained| (appendix B).
    """

    component: str
    layer: int | None
    sub: Sub
    entries: int
    mean: float
    relative: float | None
    l0: int
    l1: float


def changes(selection: Selection, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[Change]:
    """How far each parameter's selected entries moved, in the model's order, the head left out.

    Args:
        selection: Which entries were trained.
        before: Their pre-trained values, packed, by parameter name.
        after: Their fine-tuned values, likewise.

    Returns:
        One entry a parameter, summed in float64.
    """
    result = []
    for place in selection:
        old, new = before[place.parameter].double(), after[place.parameter].double()
        moved = (new - old).abs()
        scale = float(old.abs().mean())
        mean = float(moved.mean())
        result.append(
            Change(
                component=place.component,
                layer=place.layer,
                sub=place.sub,
                entries=moved.numel(),
                mean=mean,
                relative=mean / scale if scale else None,
                l0=int((moved != 0).sum()),
                l1=float(moved.sum()),
            )
        )
    return result
