"""Ablation: a model whose parts are off is the plain model whose tensors were edited by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, SelectionError, UnknownNameError
from normtune.evaluation import score_outputs
from normtune.methods.selection import everything, where
from normtune.records.ablation import AblationConfig, AblationRecord
from normtune.studies import ablation
from normtune.studies.ablation import Ablater
from normtune.studies.sparsity import zeroed
from normtune.training.session import Session
from tests.conftest import BaseFactory
from tests.studies.test_sparsity import RULES, delta, session
from tests.training.test_session import TASK, data

__all__ = ["delta", "session"]  # fixtures


def config(**changes: object) -> AblationConfig:
    fields = {"model": "tiny", "delta": "there", "task": TASK.name, "draws": 2, "protocol": RULES}
    return AblationConfig.model_validate({**fields, **changes})


@pytest.fixture
def switched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, dict[str, torch.Tensor]]]:
    """The selections that were switched off, each with the tensors of the model while it was."""
    seen: list[tuple[object, dict[str, torch.Tensor]]] = []

    @contextmanager
    def watched(base, gone, **more):
        with zeroed(base, gone, **more):
            seen.append((gone, {name: value.clone() for name, value in base.model.state_dict().items()}))
            yield

    monkeypatch.setattr(ablation, "zeroed", watched)
    return seen


def by_hand(model: nn.Module, point: int) -> None:
    """Edit the tensors of a plain model as the given point of the test below should."""
    layers = model.bert.encoder.layer
    norms = [layer.output.LayerNorm for layer in layers]
    if point == 0:  # the norm's whole weight and bias, in every layer
        for norm in norms:
            norm.weight.fill_(1.0)
            norm.bias.fill_(0.0)
    elif point == 1:
        layers[1].attention.self.value.bias.zero_()
    elif point == 2:  # a layer
        for name, parameter in layers[2].named_parameters():
            parameter.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
    else:
        mean = torch.stack([norm.weight.abs() for norm in norms]).mean(0)
        for norm in norms:
            count, sizes = {3: (1, mean), 4: (5, mean), 5: (1, norm.weight.abs()), 6: (5, norm.weight.abs())}[point]
            for dimension in sizes.argsort(descending=True)[:count].tolist():
                norm.weight[dimension] = 0.0
                norm.bias[dimension] = 0.0


@torch.no_grad()
def test_a_model_with_parts_off_is_the_plain_one_edited_by_hand(session: Session, delta: Delta, switched) -> None:
    base, dev = session.base, data().splits["dev"]
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    what = ("output.LayerNorm", "attention.self.value.bias@1", "full@2")
    asked = config(parts=what, dimensions=(1, 5), per=("model", "layer"))
    record = Ablater(base, data(), asked, delta).run()
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
    encoded = base.encode(dev, 128)
    batch = encoded.batch(list(range(len(encoded))), torch.device("cpu"))
    with delta.apply(base):
        plain = copy.deepcopy(base.model)
    assert record.dense == score_outputs(plain(**batch).logits.numpy(), dev.labels, TASK)
    assert len(record.points) == len(switched) // 3 == 7
    for number, point in enumerate(record.points):
        edited = copy.deepcopy(plain)
        by_hand(edited, number)
        (gone, own), *random = switched[3 * number : 3 * number + 3]
        assert all(torch.equal(own[name], value) for name, value in edited.state_dict().items())
        assert point.scores == score_outputs(edited(**batch).logits.numpy(), dev.labels, TASK)
        assert [len(drawn) for drawn, _ in random] == [len(gone)] * 2 == [point.entries] * 2
        assert random[0][0] != random[1][0]
        assert len(point.random) == 2
    assert [point.entries for point in record.points] == [192, 32, len(layer(base, 2)), 6, 30, 6, 30]
    assert record.points[4].name == "5 dimensions of layernorm"
    assert record.points[5].name == "1 dimension of layernorm, each layer's own"
    mean = sum(layer.output.LayerNorm.weight.abs() for layer in plain.bert.encoder.layer)
    assert record.points[4].positions == tuple(mean.argsort(descending=True)[:5].tolist())


def layer(base, number: int):
    return where(base.layout, lambda place: place.layer == number)


def test_random_ones_are_of_the_same_kind(session: Session, delta: Delta) -> None:
    """Dimensions are whole and, per model, the same in every layer; entries stay in the layers where the part does."""
    base = session.base
    ablater = Ablater(base, data(), config(parts=("full@0", "full"), dimensions=(3, 32)), delta)
    drawn = {per: ablater._random_dimensions(per, 3, 0) for per in ("model", "layer")}
    for per, selection in drawn.items():
        positions = {name: selection.indices(name).tolist() for name in selection.chosen}
        for name, own in positions.items():
            assert len(own) == 3
            assert own == positions[name.replace("weight", "bias")]
        assert (len({tuple(own) for own in positions.values()}) == 1) == (per == "model")
    assert not len(drawn["model"] - ablater._random_dimensions("model", 5, 0))
    assert ablater._random_entries(layer(base, 0), 1).places == tuple(
        p for p in base.layout.body if p.layer is not None
    )
    assert ablater._random_entries(everything(base.layout), 0) == everything(base.layout)


@torch.no_grad()
def test_a_norm_that_adds_one_to_its_weight_is_silent_at_minus_one(make_base: BaseFactory) -> None:
    for family, weight in (("bert", 0.0), ("llama", 0.0), ("gemma2", -1.0)):
        base = make_base(family, num_hidden_layers=1)
        place = next(place for place in base.layout.body if place.norm and place.sub == "weight")
        norm = base.model.get_submodule(place.parameter.removesuffix(".weight"))
        assert ablation._silent(norm) == weight
        kept = copy.deepcopy(norm)
        kept.weight.fill_(weight)
        getattr(kept, "bias", kept.weight[:0]).zero_()
        assert not kept(torch.randn(2, 3, 32)).any()


def test_what_cannot_be_switched_off_is_refused_before_anything_is_scored(session: Session, delta: Delta) -> None:
    for changes, said in (
        ({"parts": ("output.LayerNrm",)}, "Unknown method or component 'output.LayerNrm'. Did you mean 'output.Layer"),
        ({"parts": ("full@7",)}, "layers that are not there"),
        ({"parts": ("head",)}, "selects no pre-trained entry"),
        ({"dimensions": (1,), "norm": "head"}, "selects no norm"),
        ({"dimensions": (1, 33)}, "'layernorm' has 32 dimensions, so that 33 cannot be switched off"),
        ({"dimensions": (1,), "norm": "output.dense"}, "Only norms have dimensions"),
    ):
        with pytest.raises((ConfigError, SelectionError, UnknownNameError), match=said):
            Ablater(session.base, data(), config(**changes), delta)


def test_a_model_without_norms_or_with_unequal_ones_is_refused(
    make_base: BaseFactory, session: Session, delta: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = session.base
    bare = [place for place in base.layout.places if not place.norm]
    monkeypatch.setattr(base, "layout", type(base.layout)("new", tuple(bare)))
    with pytest.raises(SelectionError, match="have no norms"):
        Ablater(base, data(), config(dimensions=(1,)), delta)
    unequal = make_base("electra", embedding_size=16)  # its embeddings' norm is narrower
    asked = config(dimensions=(1,), norm="output.LayerNorm + embeddings.LayerNorm")
    with pytest.raises(ConfigError, match="not equally wide; rank their dimensions per layer"):
        Ablater(unequal, data(), asked, delta)


def test_the_command(cli: Callable[..., tuple[int, str, str]], session: Session, delta: Delta, tmp_path: Path) -> None:
    labels = {"task": "rte", "labels": ("entailment", "not_entailment")}
    replace(delta, info=delta.info.model_copy(update=labels)).save(tmp_path / "delta")

    def run(*words: object) -> tuple[int, str, str]:
        return cli("ablate", *words, "--suite", "toy", "--threads", 1, "--protocol", "small,max_dev=16")

    for words, said in (
        (("nowhere",), "There is no delta"),
        ((tmp_path / "delta", "--dimensions", "0"), "--dimensions takes different whole numbers from 1"),
        ((tmp_path / "delta", "full@1", "--per", "layer"), "Only --dimensions uses norms and a ranking"),
        ((tmp_path / "delta", "--per", "row"), "Unknown ranking 'row'"),
        ((tmp_path / "delta", "--figure", "a.txt"), "A figure is written as"),
    ):
        status, _, error = run(*words)
        assert status == 1
        assert said in error
    words = (tmp_path / "delta", "output.LayerNorm", "--dimensions", "2,1", "--per", "layer,model", "--draws", 2)
    places = ("--out", tmp_path / "made.json", "--figure", tmp_path / "made.svg")
    status, out, error = run(*words, *places, "--markdown")
    assert status == 0, error
    assert "output.LayerNorm: accuracy" in error
    assert "| switched off | entries | score | loss | random loss | largest of these |" in out
    assert "| 2 dimensions of layernorm, each layer's own | 12 |" in out
    record = AblationRecord.load(tmp_path / "made.json")
    assert [(point.per, point.dimensions) for point in record.points][1:] == [
        *(("layer", 2), ("layer", 1), ("model", 2), ("model", 1))
    ]
    drawn = (tmp_path / "made.svg").read_text(encoding="utf-8")
    assert "largest weights of each layer" in drawn
    assert "as many at random: all draws" in drawn
    again = (tmp_path / "delta", "output.LayerNorm.bias", "--draws", 0, "--json")
    assert "made.json exists already" in run(*again, *places[:2])[2]
    status, out, _ = run(*again, "--out", tmp_path / "again.json")
    assert json.loads(out)["points"][0]["entries"] == 96
