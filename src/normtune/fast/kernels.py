"""The C++ kernels of compiled layers (``cpp/kernels.cpp``), built once for a processor and a version of torch.

They are built when they are first asked for, in seconds, and kept where torch keeps extensions: in the folder that
``TORCH_EXTENSIONS_DIR`` names, or in the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from normtune.errors import ConfigError

_SOURCE = Path(__file__).with_name("cpp") / "kernels.cpp"

#: What a compiler is told of the processor, by torch's name for what that can do. Nothing more than that: a folder of
#: kernels may be shared by several machines.
_PROCESSORS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
}
_FLAGS = ("-O3", "-std=c++20", "-shared", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-Wno-psabi")


@cache
def kernels() -> Any:
    """The kernels, as ``torch.ops`` gives them; built first, where that was not done before.

    Raises:
        ConfigError: If there is no compiler, it fails, or what it built can be neither kept nor loaded.
    """
    built = _place()
    try:
        if not built.is_file():
            _build(built)
        torch.ops.load_library(str(built))
    except OSError as error:
        raise ConfigError(f"Compiled layers cannot be kept at {built}: {error}; use --layers fused.") from error
    return torch.ops.normtune


def compiler() -> list[str]:
    """The C++ compiler that is called, and what it is told in any case; whether it is here is another question."""
    return shlex.split(os.environ.get("CXX", "")) or ["c++"]


def _place() -> Path:
    """Where what is built of this source lies, for this torch and this processor."""
    capability = torch.backends.cpu.get_cpu_capability()
    sources = [file.read_text(encoding="utf-8") for file in sorted(_SOURCE.parent.iterdir())]
    made_of = "\n".join([*sources, torch.__version__, capability, *_command()])
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    return Path(root) / "normtune" / f"kernels-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"


def _command() -> list[str]:
    """What builds the source, but for what it is written to."""
    processor = _PROCESSORS.get(torch.backends.cpu.get_cpu_capability(), ())
    home = Path(torch.__file__).parent
    includes = [f"-I{home / 'include'}", f"-I{home / 'include' / 'torch' / 'csrc' / 'api' / 'include'}"]
    return [*compiler(), *_FLAGS, *processor, *includes, str(_SOURCE), f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10"]


def _build(into: Path) -> None:
    command = _command()
    if shutil.which(command[0]) is None:
        raise ConfigError(f"Compiled layers need a C++ compiler, and {command[0]!r} is none; use --layers fused.")
    into.parent.mkdir(parents=True, exist_ok=True)
    # Whoever builds at the same time, or is killed in between, leaves no half a file.
    with tempfile.TemporaryDirectory(dir=into.parent) as folder:
        made = Path(folder) / into.name
        done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-200:])
            raise ConfigError(f"Compiled layers could not be built; use --layers fused. The compiler said: {said}")
        made.replace(into)
