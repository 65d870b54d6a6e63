"""Bases whose matrices have eight or four bits an entry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.deltas.merge import merge
from normtune.errors import DeltaError, ModelError
from normtune.importance.uses import frozen
from normtune.methods.expression import specify
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base
from tests.conftest import FolderFactory, ModelFactory

pytest.importorskip("bitsandbytes")
TOKENS = torch.arange(5, 29).view(3, 8)


@pytest.fixture(scope="module")
def folders(make_folder: FolderFactory, make_model: ModelFactory) -> dict[str, str]:
    """A model of each family; all but GPT-2 are as wide as an NF4 block, whose entries share one scale."""
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    wide = {name: make_model(name, **sizes) for name in ("bert", "roberta", "llama")}
    return {name: str(make_folder(model.base_model)) for name, model in {**wide, "gpt2": make_model("gpt2")}.items()}


@pytest.fixture(params=["int8", "nf4"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def answer(base: Base) -> torch.Tensor:
    with torch.inference_mode():
        outputs: torch.Tensor = base.model(input_ids=TOKENS).logits
    return outputs


@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
def test_the_encoders_matrices_are_quantised_and_the_base_is_the_same(
    folders: dict[str, str], family: str, dtype: str
) -> None:
    folder = folders[family]
    low, full = load_base(folder, dtype=dtype), load_base(folder)
    assert (low.identity, low.layout, low.roots) == (full.identity, full.layout, full.roots)
    quantised = {n for n, p in low.model.named_parameters() if not p.is_floating_point()}
    matrices = {n for n, m in full.model.named_modules() if isinstance(m, nn.Linear) and ".layer" in n}
    assert quantised == {f"{name}.weight" for name in matrices}
    assert all(p.dtype == torch.float32 for p in low.model.get_submodule(low.roots[0]).parameters())
    torch.testing.assert_close(answer(low), answer(full), rtol=0.0, atol=0.05 if dtype == "int8" else 0.2)


@pytest.mark.parametrize("method", ["layernorm", "bitfit", "lora"])
def test_what_trains_is_float32_and_a_delta_gives_the_same_answers(
    folders: dict[str, str], tmp_path: Path, dtype: str, method: str
) -> None:
    base = load_base(folders["bert"], dtype=dtype)
    before, frozen_values = answer(base), {n: p.clone() for n, p in base.model.named_parameters()}
    tuning = Trainable(base, specify(base.layout, method))
    assert {p.dtype for p in tuning.parameters()} == {torch.float32}
    optimizer = torch.optim.AdamW(tuning.param_groups(weight_decay=0.01), lr=1e-2)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = base.model(input_ids=TOKENS, labels=torch.tensor([0, 1, 0])).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after, delta = answer(base), Delta.capture(tuning, task="x")
    tuning.undo()
    assert all(torch.equal(frozen_values[n], p) for n, p in base.model.named_parameters())
    assert torch.equal(answer(base), before)
    delta.save(tmp_path / "delta")
    again = load_base(folders["bert"], dtype=dtype)
    with Delta.load(tmp_path / "delta").apply(again):
        assert torch.equal(answer(again), after)


def test_a_bank_answers_on_it(folders: dict[str, str], dtype: str) -> None:
    base = load_base(folders["bert"], dtype=dtype)
    bank = Bank(base)
    tuning = Trainable(base, specify(base.layout, "layernorm"))
    delta = Delta.capture(tuning, task="x")
    tuning.undo()
    bank.add("x", delta, apart=True)
    (found,) = map(torch.from_numpy, bank.logits(bank.prepare_many(["a dog"], ["x"])))
    with delta.apply(base), torch.inference_mode():
        alone = base.model(**base.need_tokenizer()(["a dog"], return_tensors="pt")).logits[0]
    torch.testing.assert_close(found, alone, rtol=0.0, atol=0.05)


def test_what_cannot_be_is_one_sentence(folders: dict[str, str], tmp_path: Path, dtype: str) -> None:
    base = load_base(folders["bert"], dtype=dtype)
    with pytest.raises(ModelError, match=r"query\.weight is quantised, so its entries cannot change"):
        Trainable(base, specify(base.layout, "full"))
    for method in ("dora", "ia3", "loha", "adalora"):
        with pytest.raises(ModelError, match=f"{method} does not train on a quantised model"):
            Trainable(base, specify(base.layout, method))
    with pytest.raises(ModelError, match="A 'gpt2' model is not quantised here"):
        load_base(folders["gpt2"], dtype=dtype)
    tuning = Trainable(base, specify(base.layout, "layernorm"))
    delta = Delta.capture(tuning, task="x")
    tuning.undo()
    with pytest.raises(DeltaError, match="merge into the same model in float32"):
        merge(delta, base, tmp_path / "merged")
    with pytest.raises(ModelError, match="not measured on a quantised model"), frozen(base.model):
        pass


def test_without_the_library_its_name_is_said(
    folders: dict[str, str], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(ModelError) as told:
        load_base(folders["bert"], dtype=dtype)
    assert str(told.value) == f"{dtype} needs the library bitsandbytes: pip install 'normtune[quantised]'."
