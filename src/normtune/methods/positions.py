"""Positions of selected entries as tensors in a file: as bits or as numbers, whichever is shorter."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from normtune.errors import SelectionError

#: Prefixes of the names under which positions are stored: as packed bits, and as numbers.
PACKED = ("mask", "index")


def pack(name: str, indices: np.ndarray) -> dict[str, Tensor]:
    """Pack positions in a flattened parameter, sorted and at least one, into a tensor under the parameter's name.

    Returns:
        ``mask/NAME`` (bits, up to the last position) or ``index/NAME`` (int32; int64 where that does not suffice).
    """
    last = int(indices[-1])
    wide = np.int32 if last <= np.iinfo(np.int32).max else np.int64
    if last // 8 + 1 > np.dtype(wide).itemsize * indices.size:
        return {f"index/{name}": torch.from_numpy(indices.astype(wide))}
    bits = np.zeros(last + 1, bool)
    bits[indices] = True
    return {f"mask/{name}": torch.from_numpy(np.packbits(bits))}


def unpack(part: str, stored: Tensor, most: int) -> np.ndarray:
    """The positions that `pack` stored, int64; `part` is the prefix of the name, ``mask`` or ``index``.

    Raises:
        SelectionError: If positions are not stored in this way, or bits mark more than `most`.
    """
    if part == "mask" and stored.dtype == torch.uint8:
        bits = np.unpackbits(stored.numpy()).view(bool)
        if np.count_nonzero(bits) > most:  # a number takes 64 times the space of a bit
            raise SelectionError(f"There are more positions than the {most:,} that there can be.")
        return np.flatnonzero(bits)
    if part == "index" and stored.dtype in {torch.int32, torch.int64}:
        return stored.numpy().astype(np.int64)
    raise SelectionError(f"Positions are not stored as {part!r} of {str(stored.dtype).removeprefix('torch.')}.")
