from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from normtune.errors import ConfigError, UnknownNameError
from normtune.importance.estimators import passes
from normtune.records.fisher import ESTIMATORS, Estimator
from tests.importance.reference import TASKS

LOGITS = [[0.3, -1.2, 2.0], [0.0, 0.0, 0.0], [5.0, 1.0, -7.0], [-0.4, 0.9, 0.1]]
CLASSES = torch.tensor([2, 0, 1, 1])
TARGETS = torch.tensor([1.0, -2.5, 4.0, 0.0], dtype=torch.float64)
NUMBERS = (5, 0, 17, 3)


def outputs_for(task, dtype=torch.float64):
    return torch.tensor(LOGITS, dtype=dtype)[:, : task.outputs].requires_grad_()


def labels_for(task):
    return TARGETS if task.kind == "regression" else CLASSES.clamp(max=task.outputs - 1)


def gradients(estimator, task, numbers=NUMBERS, outputs=None):
    """Each pass's gradient with respect to the outputs: of shape (passes, B, outputs)."""
    outputs = outputs_for(task) if outputs is None else outputs
    labels = labels_for(task) if estimator.needs_labels else None
    found = passes(estimator, outputs, task, labels, numbers)
    return torch.stack([torch.autograd.grad(own.sum(), outputs, retain_graph=True)[0] for own in found])


def squares(estimator, task, **options):
    return gradients(estimator, task, **options).square().sum(0)


def away(task):
    """The gradient of log p(y | x) with respect to the outputs for every y, of shape (B, y, outputs), and p."""
    p = outputs_for(task).detach().softmax(1)
    return torch.eye(task.outputs, dtype=torch.float64) - p[:, None], p


@pytest.mark.parametrize("name", ["two", "three"])
def test_empirical_is_at_the_true_label(name):
    task = TASKS[name]
    at, _ = away(task)
    wanted = torch.stack([own[label] for own, label in zip(at, labels_for(task), strict=True)])
    torch.testing.assert_close(gradients(Estimator(), task), wanted[None])


@pytest.mark.parametrize("name", ["two", "three"])
def test_exact_is_the_expectation_over_the_models_labels(name):
    task = TASKS[name]
    at, p = away(task)
    torch.testing.assert_close(squares(Estimator(name="exact"), task), (p[:, :, None] * at**2).sum(1))


@pytest.mark.parametrize("name", ["number", "scaled"])
def test_a_number_is_a_gaussian_of_unit_variance_on_the_raw_label(name):
    task = TASKS[name]
    predicted = outputs_for(task).detach() * task.scale + task.center
    empirical = ((TARGETS[:, None] - predicted) * task.scale) ** 2
    torch.testing.assert_close(squares(Estimator(), task), empirical)
    torch.testing.assert_close(squares(Estimator(name="exact"), task), torch.full((4, 1), task.scale**2).double())
    noise = np.array([np.random.default_rng([7, n]).standard_normal(3) for n in NUMBERS])
    drawn = torch.from_numpy((noise**2).mean(1, keepdims=True) * task.scale**2)
    torch.testing.assert_close(squares(Estimator(name="monte-carlo", samples=3, seed=7), task), drawn)


@pytest.mark.parametrize("name", ["two", "three"])
def test_monte_carlo_draws_labels_example_by_example(name):
    task = TASKS[name]
    at, p = away(task)
    wanted = torch.zeros(4, task.outputs, dtype=torch.float64)
    for row, number in enumerate(NUMBERS):
        for u in np.random.default_rng([7, number]).random(6):
            label = int((p[row].cumsum(0) < u).sum())
            wanted[row] += at[row, label] ** 2 / 6
    torch.testing.assert_close(squares(Estimator(name="monte-carlo", samples=6, seed=7), task), wanted)


@pytest.mark.parametrize("name", TASKS)
def test_monte_carlo_converges_to_exact(name):
    task = TASKS[name]
    exact = squares(Estimator(name="exact"), task)
    errors = []
    for samples in (100, 10_000):
        # One draw for each of many copies of the examples, which all have different numbers.
        many = outputs_for(task).detach().repeat(samples, 1).requires_grad_()
        numbers = np.random.default_rng(1).permutation(samples * 4).tolist()
        (drawn,) = gradients(Estimator(name="monte-carlo", seed=3), task, numbers, many)
        each = drawn.square().view(samples, 4, task.outputs)
        errors.append((each.mean(0) - exact).abs())
    assert (errors[1] <= 4.5 * each.std(0) / samples**0.5 + 1e-4).all()
    assert float(errors[1].max()) < float(errors[0].max()) / 3


@pytest.mark.parametrize("name", TASKS)
def test_draws_depend_on_seed_and_number_alone(name):
    task, estimator = TASKS[name], Estimator(name="monte-carlo", samples=8, seed=1)
    whole = squares(estimator, task)
    order = [2, 0, 3]
    some = outputs_for(task).detach()[order].requires_grad_()
    torch.testing.assert_close(
        squares(estimator, task, numbers=[NUMBERS[i] for i in order], outputs=some), whole[order]
    )
    assert not torch.allclose(squares(Estimator(name="monte-carlo", samples=8, seed=2), task), whole)
    assert not torch.allclose(squares(estimator, task, numbers=(6, 1, 18, 4)), whole)


@pytest.mark.parametrize("name", TASKS)
def test_more_samples_begin_with_the_fewer(name):
    task = TASKS[name]
    few = gradients(Estimator(name="monte-carlo", samples=2), task) * 2**0.5
    many = gradients(Estimator(name="monte-carlo", samples=5), task) * 5**0.5
    torch.testing.assert_close(many[:2], few)


def test_the_number_of_passes():
    for task in TASKS.values():
        outputs = task.outputs if task.kind == "classification" else 1
        counts = {name: len(gradients(Estimator(name=name, samples=4), task)) for name in ESTIMATORS}
        assert counts == {"empirical": 1, "exact": outputs, "monte-carlo": 4}


def test_a_certain_model_draws_the_certain_label():
    certain = torch.tensor([[-900.0, 900.0, -900.0]] * 4).requires_grad_()
    found = squares(Estimator(name="monte-carlo", samples=20), TASKS["three"], outputs=certain)
    assert float(found.abs().max()) == 0
    assert float(squares(Estimator(name="exact"), TASKS["three"], outputs=certain).abs().max()) == 0


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_in_float32(name, task):
    estimator = Estimator(name=name, samples=3)
    low = squares(estimator, task, outputs=outputs_for(task, torch.float32))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), squares(estimator, task), rtol=1e-4, atol=1e-5)


def test_only_the_empirical_needs_labels():
    assert {name: Estimator(name=name).needs_labels for name in ESTIMATORS} == {
        "empirical": True,
        "exact": False,
        "monte-carlo": False,
    }
    assert Estimator() == Estimator(name="empirical", samples=1, seed=0)


def test_what_cannot_be_is_refused():
    with pytest.raises(UnknownNameError, match=r"Unknown estimator 'emprical'\. Did you mean 'empirical'\?"):
        Estimator(name="emprical")
    for samples in (0, -3):
        with pytest.raises(ConfigError, match=f"at least 1 sample an example; got {samples}"):
            Estimator(name="monte-carlo", samples=samples)
    with pytest.raises(ValidationError):
        Estimator(sample=2)
    with pytest.raises(ValidationError):
        Estimator().name = "exact"
