"""``normtune methods``: every line of METHODS, with its facts on a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from normtune.methods.method import GROUPS, METHODS
from normtune.models.base import Base
from tests.conftest import TEXT_METHODS

Run = Callable[..., tuple[int, str, str]]


def test_every_method_is_listed_in_its_group(cli: Run, tiny_base: Base, tiny_folder: Path) -> None:
    status, out, _ = cli("methods", "--model", tiny_folder, "--json")
    found = json.loads(out)["methods"]
    assert status == 0
    assert [*found] == [*METHODS]
    assert {facts["group"] for facts in found.values()} <= {*GROUPS}
    assert found["batchnorm"]["entries"] is None
    for name, method in TEXT_METHODS.items():
        spec = method(tiny_base.layout)
        assert (found[name]["entries"], found[name]["cost"]) == (len(spec), spec.cost)
        assert found[name]["share"] == pytest.approx(spec.share)
    status, out, _ = cli("methods", "--model", tiny_folder, "--markdown")
    assert all(f"| {name}" in out for name in METHODS)


def test_why_a_model_cannot_have_a_method_is_said(cli: Run, tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    status, out, _ = cli("methods", "--model", tmp_path)
    assert status == 0
    assert "not here" in out
    assert "those of this 'gpt2' model are in one, stacked, or of no known name." in " ".join(out.split())
