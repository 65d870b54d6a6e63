"""Pruning: the lowest entries are zero while a model is scored, and everything is put back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from normtune.config import protocol
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, UnknownNameError
from normtune.evaluation import logits, score_outputs
from normtune.importance import gates
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.head import HeadSpec
from normtune.records.sparsity import PruneConfig, PruneRecord
from normtune.studies import sparsity
from normtune.studies.sparsity import Pruner, zeroed
from normtune.training.session import Session
from tests.conftest import FolderFactory, ModelFactory
from tests.training.test_session import TASK, data

MATRICES = " + ".join(
    f"{name}.weight" for name in ("attention.self.*", "attention.output.dense", "intermediate.dense", "output.dense")
)
RULES = protocol("small", epochs=1, batch_size=8)


@pytest.fixture
def session(tiny_folder: Path) -> Session:
    return Session(str(tiny_folder))


@pytest.fixture
def delta(session: Session) -> Delta:
    """A delta that moves every entry, with a head."""
    base = session.base
    swap = base.put_head(HeadSpec("classification", TASK.labels))
    trainable, generator = Trainable(base, select(base.layout, "full")), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    made = Delta.capture(trainable, method="full", task=TASK.name, max_length=16)
    trainable.undo()
    swap.undo()
    return made


def config(**changes: object) -> PruneConfig:
    fields = {"model": "tiny", "task": TASK.name, "sparsities": (0.5,), "examples": 8, "protocol": RULES}
    return PruneConfig.model_validate({**fields, **changes})


def test_the_smallest_of_each_row_are_zero_and_the_score_is_that_models(session: Session, delta: Delta) -> None:
    base, dev = session.base, data().splits["dev"]
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    record = Pruner(session, data(), config(importances=("magnitude",), sparsities=(0.25, 0.9)), delta).run()
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
    encoded = base.encode(dev, 128)
    assert dev.labels is not None
    with delta.apply(base):
        assert record.dense == score_outputs(logits(base, encoded), dev.labels, TASK)
        for point in record.points:
            undo = []
            for place in select(base.layout, MATRICES):
                parameter = base.model.get_parameter(place.parameter)
                undo.append((parameter, parameter.detach().clone()))
                for row in parameter.data:  # by hand: the smallest of each row
                    row[row.abs().argsort()[: round(point.sparsity * len(row))]] = 0
            assert point.scores == score_outputs(logits(base, encoded), dev.labels, TASK)
            for parameter, own in undo:
                parameter.data.copy_(own)
    assert {point.of for point in record.points} == {len(select(base.layout, MATRICES))}
    assert [point.zeros for point in record.points] == [round(p.sparsity * p.of) for p in record.points]


def test_every_importance_and_structure_prunes_and_puts_back(
    session: Session, delta: Delta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []

    def watched(base: object, gone: object, update: object) -> object:
        seen.append((len(gone), update is not None))  # type: ignore[arg-type]
        return zeroed(base, gone, update)

    monkeypatch.setattr(sparsity, "zeroed", watched)
    base = session.base
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    importances = ("obd", "obs", "wanda", "random", "least-fisher")
    made = Pruner(session, data(), config(importances=importances, per="set"), delta).run()
    heads = Pruner(session, data(), config(structure="heads"), delta).run()
    monkeypatch.setattr(gates, "EPOCHS", 1)
    learnt = Pruner(session, data(), config(structure="heads", importances=("learnt",)), delta).run()
    assert (seen[6][0], learnt.points[0].importance) == (heads.points[0].of // 2, "learnt")
    assert [update for _, update in seen] == [False, True, *[False] * 5]
    assert {count for count, _ in seen[:5]} == {made.points[0].of // 2}
    assert seen[5][0] == heads.points[0].zeros == heads.points[0].of // 2
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
    made.save(tmp_path / "record.json")
    assert PruneRecord.load(tmp_path / "record.json") == made


def test_curvature_is_that_of_the_trained_head(session: Session, delta: Delta) -> None:
    """Without a seed, the model's present head counts."""
    from normtune.importance.fisher import Request, fisher

    within = select(session.base.layout, "layernorm")
    encoded = session.base.encode(data().splits["train"], 16)
    with delta.apply(session.base):
        own = fisher(session.base, TASK, encoded, Request(within, head_seeds=(None,))).totals
        fresh = fisher(session.base, TASK, encoded, Request(within, head_seeds=(0,))).totals
        assert torch.equal(session.base.model.get_parameter("classifier.weight"), delta.head["classifier.weight"])
    assert own.keys() == fresh.keys()
    assert not np.allclose([*own.values()], [*fresh.values()])


def test_what_cannot_be_pruned_is_refused_before_anything_runs(session: Session, delta: Delta) -> None:
    for own, changes, said in (
        (None, {"importances": ("magnitude",)}, "has no trained head to score; add --retrain"),
        (delta, {"importances": ("change",)}, "read off runs"),
        (delta, {"importances": ("wandah",)}, "Did you mean 'wanda'"),
        (delta, {"structure": "layers"}, "Unknown structure 'layers'"),
        (delta, {"structure": "heads", "importances": ("learned",)}, "Did you mean 'learnt'"),
        (delta, {"importances": ("wanda",), "per": "matrix"}, "Unknown comparison 'matrix'"),
    ):
        with pytest.raises((ConfigError, UnknownNameError), match=said):
            Pruner(session, data(), config(**changes), own)


def test_the_command(cli: Callable[..., tuple[int, str, str]], session: Session, delta: Delta, tmp_path: Path) -> None:
    def run(*words: object) -> tuple[int, str, str]:
        return cli("prune", *words, "--suite", "toy", "--threads", 1)

    for words, said in (
        (("minilm", "--sparsity", "0.5"), "if it is a base model, name the --task to retrain it on"),
        (("minilm", "--task", "rte", "--sparsity", "1"), "--sparsity takes different numbers from 0 to below 1"),
        (("minilm", "--task", "rte", "--sparsity", "0.5", "--lr", "1"), "Only --retrain trains"),
        (("minilm", "--task", "rte", "--sparsity", "0.5", "--structured", "heads", "--per", "set"), "leave out --per"),
    ):
        status, _, error = run(*words)
        assert status == 1
        assert said in error
    small = "small,epochs=1,max_train=16,max_dev=16"
    words = (session.base.name, "--task", "rte", "--sparsity", "0.5", "--retrain", "--examples", "4")
    status, out, error = run(*words, "--protocol", small, "--out", tmp_path / "made.json")
    assert status == 0, error
    assert "magnitude at 0.5: retrained accuracy" in error
    assert "nothing pruned" in out
    record = PruneRecord.load(tmp_path / "made.json")
    assert record.dense is None
    assert record.retrained is not None


def test_a_table_of_positions_is_no_matrix(make_folder: FolderFactory, make_model: ModelFactory) -> None:
    session = Session(str(make_folder(make_model("t5"))))
    tuning = Trainable(session.base, select(session.base.layout, "head"))
    delta = Delta.capture(tuning, method="head", task=TASK.name, max_length=16)
    tuning.undo()
    [point] = Pruner(session, data(), config(importances=("obs",)), delta).run().points
    modules = [own for name, own in session.base.model.named_modules() if ".block." in name]
    assert point.of == sum(own.weight.numel() for own in modules if isinstance(own, torch.nn.Linear))
