from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from normtune.errors import SelectionError
from normtune.methods.positions import PACKED, pack, unpack


@given(st.sets(st.integers(0, 3000), min_size=1))
def test_packed_and_unpacked_they_are_the_same_in_the_shorter_way(positions):
    indices = np.array(sorted(positions))
    [(key, stored)] = pack("a.weight", indices).items()
    part, _, name = key.partition("/")
    assert name == "a.weight"
    assert part in PACKED
    back = unpack(part, stored, len(positions))
    assert back.dtype == np.int64
    assert back.tolist() == sorted(positions)
    assert stored.nbytes == min(4 * len(positions), -(-(max(positions) + 1) // 8))


def test_which_way_is_shorter():
    assert [*pack("x", np.arange(31))] == ["mask/x"]
    assert [*pack("x", np.array([31]))] == ["mask/x"]
    assert [*pack("x", np.array([32]))] == ["index/x"]


@pytest.mark.parametrize(("last", "dtype"), [(2**31 - 1, torch.int32), (2**31, torch.int64)])
def test_positions_beyond_what_int32_holds(last, dtype):
    stored = pack("x", np.array([3, last]))["index/x"]
    assert stored.dtype == dtype
    assert unpack("index", stored, 2).tolist() == [3, last]


@pytest.mark.parametrize(
    ("part", "dtype", "said"),
    [("mask", torch.float32, "'mask' of float32"), ("index", torch.uint8, "'index' of uint8"), ("x", torch.uint8, "x")],
)
def test_what_no_positions_are_stored_as_is_refused(part, dtype, said):
    with pytest.raises(SelectionError, match=f"Positions are not stored as .*{said}"):
        unpack(part, torch.zeros(3, dtype=dtype), 24)


def test_bits_for_more_positions_than_there_are_values_are_refused():
    stored = torch.full((2,), 255, dtype=torch.uint8)
    assert len(unpack("mask", stored, 16)) == 16
    with pytest.raises(SelectionError, match="more positions than the 15"):
        unpack("mask", stored, 15)
