"""The seams hold: a new method, importance, suite and family, added from this file alone.

Each is one entry in one table, and goes through training, delta, mask, table and report of the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from normtune.data.suites import SUITES, Column, Suite
from normtune.data.task import Split, Task, TaskData
from normtune.deltas.delta import Delta
from normtune.errors import ModelError
from normtune.importance.scores import IMPORTANCES, Importance, Inputs, Scores
from normtune.methods.method import METHODS, Method
from normtune.methods.trainable import Spec
from normtune.models.base import Base, load_base
from normtune.models.families import FAMILIES, Norms
from normtune.models.layout import Layout, Place
from normtune.records.run import Record
from tests.conftest import VOCABULARY, FolderFactory

Run = Callable[..., tuple[int, str, str]]


# A method with parameters of its own: a factor for each layer's output, 1 in the beginning.


@final
@dataclass(frozen=True)
class Factors(Spec):
    layout: Layout

    def __len__(self) -> int:
        return self.layout.layers

    fingerprint = "factors"
    places: tuple[Place, ...] = ()

    @property
    def added(self) -> int:
        return len(self)

    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        leaves = {}
        layers: Any = base.model.base_model.encoder.layer
        for number, layer in enumerate(layers):
            layer.register_parameter("factor", nn.Parameter(torch.ones(1), requires_grad=False))
            undo.callback(layer._parameters.pop, "factor")
            leaves[f"factor.{number}"] = layer.factor
            # A layer gives its hidden states, alone or as the first of a tuple.
            hook = layer.register_forward_hook(
                lambda own, _, out: (own.factor * out[0], *out[1:]) if isinstance(out, tuple) else own.factor * out
            )
            undo.callback(hook.remove)
        return leaves

    def decays(self, name: str, leaf: nn.Parameter) -> bool:
        return False

    def apply(self, base: Base, state: Mapping[str, Tensor], undo: ExitStack) -> None:
        for name, leaf in self.put(base, undo).items():
            leaf.data.copy_(state[name])

    merge = apply

    def vectors(self, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        raise ModelError("it has factors.")

    def describe(self) -> dict[str, Any]:
        return {"method": "factors"}


# An importance, a suite of one task, and a family.


def alphabetical(given: Inputs) -> Scores:
    """Scores that are highest for the first entries of every parameter."""
    return Scores(given.within, {p.parameter: -np.arange(given.within.count(p.parameter)) for p in given.within})


TASK = Task("felines", "Felines", "classification", ("no", "yes"), ("accuracy", "macro_f1"))


def felines(_: str, __: Path | None) -> TaskData:
    texts = [
        f"the {animal} {verb}" for animal in ("cat", "dog", "bird", "child") for verb in ("sees", "reads", "likes")
    ]
    labels = np.array(["cat" in text for text in texts], dtype=np.int64)
    split = Split.of_texts(tuple(texts), labels=labels)
    return TaskData(TASK, {"train": split, "dev": split}, "memory")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in each table."""
    read = lambda layout, _: Factors(layout)  # noqa: E731
    monkeypatch.setitem(METHODS, "factors", Method(Factors, "a factor for each layer's output", read=read))
    monkeypatch.setitem(IMPORTANCES, "alphabetical", Importance("the first entries", "nothing", alphabetical))
    monkeypatch.setitem(
        SUITES, "animals", Suite("animals", {"felines": TASK}, (Column("Felines", "felines"),), felines)
    )
    norms = Norms(attention=("attention.output.LayerNorm",), closing=("output.LayerNorm",))
    monkeypatch.setitem(FAMILIES, "roformer", norms)


@pytest.fixture
def roformer(make_folder: FolderFactory) -> Path:
    """A tiny random model of a family that the package does not know."""
    assert "roformer" not in FAMILIES
    config = AutoConfig.for_model(
        "roformer", hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, embedding_size=32,
        vocab_size=len(VOCABULARY), max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_folder(AutoModel.from_config(config))


def test_all_four_go_from_training_to_the_report(cli: Run, roformer: Path, tables: None, tmp_path: Path) -> None:
    store = tmp_path / "results"

    def run(*words: object) -> str:
        status, out, error = cli(*words)
        assert status == 0, error
        return out

    mask = tmp_path / "first.safetensors"
    run("mask", "--model", roformer, "--importance", "alphabetical", "--fraction", "0.25", "--out", mask)
    common = ("--model", roformer, "--suite", "animals", "--task", "felines", "--protocol", "small", "--lr", "0.01")
    common = (*common, "--threads", "1", "--records", store / "runs")
    for method in ("factors", "layernorm", "full"):
        run("train", *common, "--method", method, "--out", tmp_path / method)
    run("train", *common, "--method", mask, "--out", tmp_path / "masked")

    delta = Delta.load(tmp_path / "factors")
    assert {*delta.values} == {"factor.0", "factor.1", "factor.2"}
    assert all(float(value) != 1 for value in delta.values.values())
    base = load_base(str(roformer))
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    delta.apply(base).remove()
    assert [*before] == [*base.model.state_dict()]

    assert "accuracy" in run("evaluate", tmp_path / "factors", "--suite", "animals", "--task", "felines")
    assert run("predict", tmp_path / "factors", "--text", "the cat sees").strip()

    record = Record.load(tmp_path / "factors" / "record.json")
    assert (record.counts.selected, record.data.suite) == (3, "animals")
    assert record.norms.closing == ("output.LayerNorm",)
    table = run("table", store / "runs")
    assert all(name in table for name in ("felines", "factors", "layernorm", "alphabetical@0.25"))

    run("report", store, "--out", tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("Felines", "factors", "alphabetical"))
    table2 = next((tmp_path / "report").rglob("table2*.md")).read_text(encoding="utf-8")
    assert "Felines" in table2
    assert "QNLI" not in table2
