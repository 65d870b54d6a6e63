"""Loading the base model that a delta asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normtune.deltas.delta import Delta
    from normtune.models.base import Base


def base_of(delta: Delta, model: str | None, device: str) -> Base:
    """The base model of `delta`, on `device` (``auto``, ``cpu`` or ``cuda``).

    Args:
        delta: The delta, which knows its base by name and by content.
        model: Where the base is to be found instead of under the name in the delta.
        device: Where it is to run.
    """
    from normtune.models.base import load_base
    from normtune.models.device import accelerator
    from normtune.models.sources import PACKAGED

    info = delta.info
    # A packaged model's revision is the package's version, which cannot be asked for.
    revision = None if model or info.base in PACKAGED else info.base_revision
    base = load_base(model or info.base, info.head, revision=revision)
    delta.check(base)
    base.model.to(accelerator(device).device)
    return base
