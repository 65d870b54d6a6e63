"""Sizes under a budget: as many entries as there may be, and never more."""

from __future__ import annotations

import pytest

from normtune.errors import ConfigError, SelectionError
from normtune.methods.budget import sized
from normtune.methods.expression import specify
from tests.conftest import TEXT_METHODS as METHODS, BaseFactory


def test_every_method_with_a_size_gets_the_largest_that_fits(make_base: BaseFactory) -> None:
    layout = make_base("bert").layout
    budget = 20_000
    for name, method in METHODS.items():
        if not method.option:
            assert sized(layout, [name], budget) == (name,)
            continue
        found = sized(layout, [name], budget)[0]
        count = len(specify(layout, found, seed=0))
        _, _, size = found.partition("@")
        if not size and len(method(layout, option=1)) == len(method(layout, option=2)):
            continue  # its number does not set how many entries train
        assert count <= budget, found
        if size:
            try:
                assert len(method(layout, option=int(size) + 1)) > budget
            except SelectionError:
                assert int(size) > 1  # the model allows no larger size


def test_counts_by_hand(make_base: BaseFactory) -> None:
    """A rank of lora is 3 layers x (query, value) x (32 + 32) entries; layernorm has 3 x 2 x 32."""
    layout = make_base("bert").layout
    assert sized(layout, ["lora", "random", "layernorm", "lora@7", "bitfit & layernorm"], 3 * 384 + 1) == (
        *("lora@3", "random@1153", "layernorm", "lora@7", "bitfit & layernorm"),
    )
    assert sized(layout, ["lora", "random"], 8 * 384) == ("lora", "random@3072")
    assert sized(layout, ["random", "fish-mask"], 192) == ("random", "fish-mask")
    assert sized(layout, ["random"], 10**12) == (f"random@{layout.size}",)


def test_a_budget_that_is_too_small_is_refused(make_base: BaseFactory) -> None:
    layout = make_base("bert").layout
    with pytest.raises(ConfigError, match="A budget of 383 entries is too small for lora: with 1 for its rank it trai"):
        sized(layout, ["head", "lora"], 383)
