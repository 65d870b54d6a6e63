"""How far each component moved in a fine-tuning: the paper's equation 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from normtune.models.layout import Place
from normtune.records.run import Change


def changes(places: Iterable[Place], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[Change]:
    """How far each parameter's selected entries moved, in the model's order, the head left out.

    Args:
        places: The parameters whose entries were trained.
        before: Their pre-trained values, packed, by parameter name.
        after: Their fine-tuned values, likewise.

    Returns:
        One entry a parameter, summed in float64.
    """

    def change(place: Place) -> Change:
        old, new = before[place.parameter].double(), after[place.parameter].double()
        moved = (new - old).abs()
        mean, scale = float(moved.mean()), float(old.abs().mean())
        return Change(
            component=place.component,
            layer=place.layer,
            sub=place.sub,
            entries=moved.numel(),
            mean=mean,
            relative=mean / scale if scale else None,
            l0=int((moved != 0).sum()),
            l1=float(moved.sum()),
        )

    return [*map(change, places)]
