"""The machine that a number was made on."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

import torch

from normtune.execution.linear import linear_backend


def machine(device: torch.device) -> dict[str, str | int]:
    """Processor, cores, threads, accelerator and the library behind float32 products, for a record."""
    facts: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "linear": linear_backend() if device.type == "cpu" else "torch",
    }
    if device.type == "cuda":
        facts["accelerator"] = torch.cuda.get_device_name(device)
    return facts


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def peak_memory(device: torch.device) -> int:
    """Largest memory in bytes so far: the accelerator's allocations, or this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
