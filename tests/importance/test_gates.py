"""Learnt gates against the definition: plain autograd in float64, with the same uniform numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase

from normtune.data.encode import buckets
from normtune.data.kinds import KINDS
from normtune.data.task import Split, Task
from normtune.importance import gates as code
from normtune.importance.gates import learnt, shut
from normtune.importance.structure import Structure, lowest
from normtune.methods.hooked import generator_of
from normtune.models.base import wrap
from normtune.models.head import HeadSpec
from tests.conftest import BaseFactory
from tests.importance.reference import TASKS, texts

MODULES = {"heads": "bert.encoder.layer.{}.attention.output.dense", "units": "bert.encoder.layer.{}.output.dense"}


@pytest.mark.parametrize("structure", MODULES)
def test_gates_and_multipliers_follow_the_definition(
    make_base: BaseFactory, monkeypatch: pytest.MonkeyPatch, structure: Structure
) -> None:
    """z = min(1, max(0, s (r - l) + l)) (Louizos et al. 2018), and a (s - t) + b (s - t)^2, each with its own Adam."""
    monkeypatch.setattr(code, "EPOCHS", 2)
    monkeypatch.setattr(code, "BATCH", 2)
    base, task = make_base("bert"), TASKS["three"]
    sample = texts(task, (5, 9, 3, 4))
    base.put_head(HeadSpec(task.kind, task.labels), 0)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    found = learnt(base, task, sample, structure, 0.5, seed=3)
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
    model, modules = base.model.double(), [MODULES[structure].format(layer) for layer in range(3)]
    groups = 4 if structure == "heads" else 48
    alpha = [torch.full((groups,), 5.0, dtype=torch.float64, requires_grad=True) for _ in modules]
    multipliers = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    down, up = torch.optim.Adam(alpha, lr=0.1), torch.optim.Adam([multipliers], lr=0.1, maximize=True)
    batches = [batch for epoch in (0, 1) for batch in buckets(sample.lengths, 2, seed=3, epoch=epoch)]
    for step, batch in enumerate(batches, 1):
        generator, handles = generator_of(torch.device("cpu"), 3, step), []
        for module, own in zip(modules, alpha, strict=True):
            u = torch.rand(groups, generator=generator).double()
            z = (torch.sigmoid(u.log() - (1 - u).log() + own) * 3 - 1.5).clamp(0, 1)

            def scaled(_: Any, args: Any, z: torch.Tensor = z) -> Any:
                return (args[0] * z.repeat_interleave(args[0].shape[-1] // groups), *args[1:])

            handles.append(model.get_submodule(module).register_forward_pre_hook(scaled))
        outputs = model(**sample.batch(batch)).logits
        for handle in handles:
            handle.remove()
        loss = torch.nn.functional.cross_entropy(outputs, sample.labels[batch])
        gone = 1 - torch.sigmoid(torch.cat(alpha)).mean()  # log(-l / r) is zero
        behind = gone - 0.5 * min(1, step / 2)
        for optimizer in (down, up):
            optimizer.zero_grad()
        (loss + multipliers[0] * behind + multipliers[1] * behind**2).backward()
        down.step()
        up.step()
    for module, own in zip(modules, alpha, strict=True):
        np.testing.assert_allclose(found[f"{module}.weight"], own.detach().numpy(), rtol=1e-3, atol=2e-3)


def test_of_words_the_answered_tokens_count(make_base: BaseFactory, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    labels = ("O", "B-X", "I-X")
    model = AutoModelForTokenClassification.from_config(make_base("bert").model.config)
    base = wrap(model, tiny_tokenizer)
    base.put_head(HeadSpec("tokens", labels), 0)
    split = Split({"sentence": ("the cat zzz", "good")}, np.array([[0, 1, 2], [0, -100, -100]]))  # of more pieces
    task = Task("t", "t", "tokens", labels, KINDS["tokens"].metrics(labels), ("sentence",))
    found = learnt(base, task, base.encode(split, 16), "heads", 0.5)
    assert {len(own) for own in found.values()} == {4}


def test_they_shut_until_so_many_are_gone_as_are_to_go(make_base: BaseFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "EPOCHS", 120)
    base, task = make_base("bert", num_hidden_layers=1), TASKS["three"]
    base.put_head(HeadSpec(task.kind, task.labels), 0)
    found = learnt(base, task, texts(task, (5, 3)), "units", 0.5)
    assert float(shut({name: torch.from_numpy(own) for name, own in found.items()})) == pytest.approx(0.5, abs=0.15)
    assert len(lowest(base, found, 0.5)) == 24 * 32
