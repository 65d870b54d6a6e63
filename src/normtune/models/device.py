"""Where a model runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from normtune.errors import ConfigError, known


def accelerator(
    device: str = "auto", precision: str = "no", *, trackers: Sequence[str] = (), folder: Path | None = None
) -> Accelerator:
    """An accelerator for ``auto``, ``cpu`` or ``cuda``, in mixed precision ``no``, ``bf16`` or ``fp16``.

    Its trackers log every run (`normtune.training.tracking.check_trackers`), some of them to files in `folder`.

    Raises:
        UnknownNameError: If the device or the precision is not known.
        ConfigError: If it is not here.
    """
    known("device", device, ("auto", "cpu", "cuda"))
    known("precision", precision, ("no", "bf16", "fp16"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device here; use --device cpu.")
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("Mixed precision fp16 needs a CUDA device; use bf16 or no.")
    log = {"log_with": [*trackers], "project_dir": None if folder is None else str(folder)} if trackers else {}
    return Accelerator(cpu=device == "cpu", mixed_precision=precision, **log)
