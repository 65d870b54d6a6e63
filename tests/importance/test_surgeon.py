"""Optimal Brain Surgeon against least squares, entry by entry, in float64; and Optimal Brain Damage by definition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from normtune.data.encode import Encoded
from normtune.importance import surgeon
from normtune.importance.fisher import Request, fisher
from normtune.importance.scores import Inputs, obd, obs, wanda
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.base import Base
from normtune.records.fisher import Estimator
from tests.conftest import BaseFactory
from tests.importance.reference import TASKS, by_loop, in_float64, texts

NAME, ROWS, COLUMNS = "layer.weight", 3, 5


class One(nn.Module):
    """One linear layer over random features of each token."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.features = torch.randn(9, COLUMNS, dtype=torch.float64)

    def forward(self, input_ids: Tensor) -> Tensor:
        found: Tensor = self.layer(self.features[input_ids])
        return found


@pytest.fixture(params=[False, True], ids=["linear", "turned"])
def base(request: pytest.FixtureRequest) -> Base:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = Conv1D(ROWS, COLUMNS) if request.param else nn.Linear(COLUMNS, ROWS)
        nn.init.normal_(layer.weight)
        model = One(layer.double())
    return cast(Base, SimpleNamespace(model=model, device="cpu"))


SAMPLE = Encoded({"input_ids": (torch.tensor([0, 1, 5, 2]), torch.tensor([3, 4, 6, 7, 8, 8]))}, None, {})


def parts(base: Base) -> tuple[np.ndarray, np.ndarray, bool]:
    """The matrix (a row per output), the inputs (a column per token), and whether the matrix is stored transposed."""
    layer, turned = base.model.layer, isinstance(base.model.layer, Conv1D)
    weight = layer.weight.detach().numpy().copy()
    inputs = base.model.features[torch.cat(SAMPLE.fields["input_ids"])].numpy().T
    return (weight.T if turned else weight), inputs, turned


def test_the_saliency_is_what_the_error_rises_by_when_the_rest_follows(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surgeon, "DAMPING", 0.0)
    weight, inputs, turned = parts(base)
    half = surgeon.freed_curvatures(base, SAMPLE, {NAME})[NAME].reshape(base.model.layer.weight.shape)
    found = weight**2 * (half.T if turned else half)
    for row in range(ROWS):
        for column in range(COLUMNS):
            rest = np.delete(inputs, column, 0)
            best = np.linalg.lstsq(rest.T, inputs.T @ weight[row], rcond=None)[0]
            error = np.square(best @ rest - weight[row] @ inputs).sum()
            assert found[row, column] == pytest.approx(error, rel=1e-9)


def test_what_stays_makes_up_for_what_goes_input_by_input(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """SparseGPT, algorithm 1: the inputs are fixed in order, each while the later ones are at their least squares."""
    monkeypatch.setattr(surgeon, "DAMPING", 0.0)
    monkeypatch.setattr(surgeon, "_BLOCK", 2)
    weight, inputs, turned = parts(base)
    gone = np.random.default_rng(1).random(weight.shape) < 0.5
    expected = weight.copy()
    for row in range(ROWS):
        for column in range(COLUMNS):
            left = inputs.T @ weight[row] - inputs[:column].T @ expected[row, :column]
            best = np.linalg.lstsq(inputs[column:].T, left, rcond=None)[0]
            expected[row, column] = 0 if gone[row, column] else best[0]
    positions = np.flatnonzero(gone.T if turned else gone)
    chosen = SimpleNamespace(chosen={NAME: positions}, indices={NAME: positions}.__getitem__)
    surgeon.prune(base, SAMPLE, cast(Selection, chosen))
    found = parts(base)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert (found[gone] == 0).all()


def test_what_has_a_diagonal_hessian_has_the_square_of_wanda(make_base: BaseFactory) -> None:
    base, sample = make_base("bert"), texts(TASKS["two"], (5, 9, 3))
    within = select(base.layout, "bitfit + all-layernorm + embeddings.word_embeddings")
    given = Inputs(base, within, texts=sample)
    for name, values in obs(given).values.items():
        np.testing.assert_allclose(values, wanda(given).values[name] ** 2, rtol=1e-9, atol=1e-12)
    assert len(obs(Inputs(base, select(base.layout, "full"), texts=sample)))  # inputs that never occur do no harm


@pytest.mark.parametrize("kind", ["three", "scaled"])
def test_obd_is_half_the_curvature_times_the_square(make_base: BaseFactory, kind: str) -> None:
    base, task = in_float64(make_base("bert")), TASKS[kind]
    sample, within, exact = (
        texts(task),
        select(base.layout, "layernorm + attention.self.query"),
        Estimator(name="exact"),
    )
    information = fisher(base, task, sample, Request(within, within, exact)).scores
    found = obd(Inputs(base, within, fisher=information)).values
    for name, curvature in by_loop(base, task, sample, exact, names=within.chosen).items():
        expected = curvature * base.model.get_parameter(name).detach() ** 2 / 2
        np.testing.assert_allclose(found[name], expected.flatten().numpy(), rtol=1e-5, atol=1e-14)
