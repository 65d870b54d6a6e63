"""Where a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from normtune.errors import ConfigError, known


def accelerator(
    device: str = "auto", precision: str = "no", *, trackers: Sequence[str] = (), folder: Path | None = None
) -> Accelerator:
    """An accelerator for ``auto``, ``cpu`` or ``cuda``, in mixed precision ``no`` or ``bf16``.

    Its trackers log every run (`normtune.training.tracking.check_trackers`), some of them to files in `folder`.

    Raises:
        UnknownNameError: If the device or the precision is not known.
        ConfigError: If there is no CUDA device.
    """
    known("device", device, ("auto", "cpu", "cuda"))
    known("precision", precision, ("no", "bf16"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device here; use --device cpu.")
    log = {"log_with": [*trackers], "project_dir": None if folder is None else str(folder)} if trackers else {}
    # In some families a parameter takes no part, such as XLNet's mask embedding.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device == "cpu", mixed_precision=precision, kwargs_handlers=[parallel], **log)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this context torch draws on the CPU from `seed`, so that a seed gives the same values on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds every GPU too
        yield
