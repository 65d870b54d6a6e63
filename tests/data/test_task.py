"""Splits: named columns and labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normtune.data.task import Split
from normtune.errors import DataError

TEXTS, PAIRS = ("A cat sat.", "Où ?"), ("On a mat.", "")


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (
            Split.of_texts(TEXTS, PAIRS, np.array([1, 0])),
            "65be27cd30ac1cb5d5973e5403a3c0a6ce2f52c7f4677413fb4c8bdaf5fd8b9d",
        ),
        (
            Split.of_texts(TEXTS, labels=np.array([0.5, 4.25])),
            "23fc4f1ce89c140bca8bff0dbd08f96c65092da5c3aa6c2d70d658ba98022b0e",
        ),
        (Split.of_texts(TEXTS), "769b5020bb19780e3ccc3c7fcfbaaf7c87773d5dd4cadef85d0bebd58f9d2d11"),
    ],
)
def test_identities_are_those_that_records_name(split: Split, expected: str) -> None:
    assert split.identity() == expected


def test_a_column_of_another_kind() -> None:
    pictures = Split({"picture": (b"\x00", b"\x01\x02", b"\x03")}, np.array([0, 1, 0]))
    assert len(pictures) == 3
    assert pictures.take([2, 0]).columns == {"picture": (b"\x03", b"\x00")}
    swapped = replace(pictures, columns={"picture": (b"\x00\x01", b"\x02", b"\x03")})
    assert len({pictures.identity(), swapped.identity(), pictures.take([0, 1, 2]).identity()}) == 2


def test_columns_have_one_length() -> None:
    with pytest.raises(DataError, match="differ in length: text 2, pair 1, labels 2"):
        Split.of_texts(TEXTS, PAIRS[:1], np.array([1, 0]))


def test_a_sample_keeps_the_order() -> None:
    split = Split.of_texts(map(str, range(50)), labels=np.arange(50))
    drawn = split.sample(20, seed=3)
    assert drawn.labels is not None
    assert drawn.labels.tolist() == sorted(drawn.labels.tolist()) == list(map(int, drawn.texts))
    assert split.sample(20, seed=3).identity() == drawn.identity() != split.sample(20, seed=4).identity()
    assert split.sample(50, seed=0) is split.sample(None, seed=0) is split
