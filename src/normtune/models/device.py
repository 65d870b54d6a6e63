"""Where a model runs."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from normtune.errors import ConfigError


def accelerator(device: str = "auto", precision: str = "no") -> Accelerator:
    """An accelerator for ``auto``, ``cpu`` or ``cuda``, in mixed precision ``no``, ``bf16`` or ``fp16``.

    Raises:
        ConfigError: If the device or the precision is not known, or not here.
    """
    if device not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"Unknown device {device!r}; known: auto, cpu, cuda.")
    if precision not in {"no", "bf16", "fp16"}:
        raise ConfigError(f"Unknown precision {precision!r}; known: no, bf16, fp16.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device here; use --device cpu.")
    if precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("Mixed precision fp16 needs a CUDA device; use bf16 or no.")
    return Accelerator(cpu=device == "cpu", mixed_precision=precision)
