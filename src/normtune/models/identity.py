"""The identity of a base model: a content hash over its encoder's tensors as they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from normtune.errors import ModelError, refusing

# Names that checkpoints from before LayerNorm was called weight and bias still hold.
_OLD_LEAVES = {"gamma": "weight", "beta": "bias"}


def canonical_name(stored: str, prefix: str) -> str:
    """A stored tensor's name as the encoder itself calls it: no base prefix, no outdated leaf."""
    path, _, leaf = stored.removeprefix(f"{prefix}.").rpartition(".")
    leaf = _OLD_LEAVES.get(leaf, leaf)
    return f"{path}.{leaf}" if path else leaf


def tensors_identity(tensors: Mapping[str, Tensor]) -> str:
    """Hash of `tensors` by canonical name, dtype, shape and bytes, whatever their order (hexadecimal SHA-256)."""
    return _identity(tensors, tensors.__getitem__)


def checkpoint_identity(files: Iterable[Path], prefix: str, own: Iterable[str]) -> str:
    """Hash of the encoder's tensors as `files` store them, independent of the dtype they are loaded in.

    Args:
        files: The checkpoint's safetensors files.
        prefix: The family's base prefix (``bert``).
        own: Canonical names of what the loaded encoder took from the checkpoint: parameters, and norms' statistics.

    Returns:
        A hexadecimal SHA-256.

    Raises:
        ModelError: If a file cannot be read.
    """
    where: dict[str, tuple[Path, str]] = {}
    for file in files:
        with refusing(ModelError, f"Cannot read the checkpoint {file}"), safe_open(file, "pt") as stored:
            where.update({canonical_name(name, prefix): (file, name) for name in stored.keys()})  # noqa: SIM118
    wanted = set(own)
    # A family whose loader renames or fuses tensors shares no names with its checkpoint: then all of it counts.
    names = [name for name in where if name in wanted] if wanted <= where.keys() else list(where)

    def read(name: str) -> Tensor:
        file, key = where[name]
        with refusing(ModelError, f"Cannot read the checkpoint {file}"), safe_open(file, "pt") as stored:
            tensor: Tensor = stored.get_tensor(key)
        return tensor

    return _identity(names, read)


def _identity(names: Iterable[str], read: Callable[[str], Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(names):
        tensor = read(name).detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
