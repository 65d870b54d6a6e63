"""Fisher information by definition: a plain loop over single, unpadded examples, in float64; and examples for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from normtune.data.encode import Encoded
from normtune.data.task import Task
from normtune.models.base import Base
from normtune.models.head import HeadSpec
from normtune.records.fisher import Estimator

#: Every kind of task; the last one is trained on (y - 2.5) / 1.5, but its Fisher information is that of y.
TASKS = {
    "two": Task("two", "Two", "classification", ("no", "yes"), ("accuracy",)),
    "three": Task("three", "Three", "classification", ("a", "b", "c"), ("accuracy",)),
    "number": Task("number", "Number", "regression", (), ("pearson",)),
    "scaled": Task("scaled", "Scaled", "regression", (), ("pearson",), center=2.5, scale=1.5),
}

LENGTHS = (5, 9, 3, 8, 12, 4, 7)


def texts(
    task: Task, lengths: Sequence[int] = LENGTHS, *, seed: int = 0, types: bool = False, side: str = "right"
) -> Encoded:
    """Random texts of these lengths, the same token more than once in some, with labels."""
    generator = np.random.default_rng(seed)
    ids = tuple(torch.tensor([2, *generator.integers(5, 30, length - 2), 3]) for length in lengths)
    fields = {"input_ids": ids, "attention_mask": tuple(map(torch.ones_like, ids))}
    if types:
        fields["token_type_ids"] = tuple((torch.arange(len(own)) > len(own) // 2).long() for own in ids)
    if task.kind == "regression":
        labels = torch.from_numpy(generator.normal(3, 2, len(ids)))
    else:
        labels = torch.from_numpy(generator.integers(0, task.outputs, len(ids)))
    return Encoded(fields, labels, pad=dict.fromkeys(fields, 0), side=side)


class Float64(Base):
    """A base in float64, with heads in float64."""

    def put_head(self, spec: HeadSpec, seed: int = 0):
        swap = super().put_head(spec, seed)
        for root in self.roots:
            head = self.model.get_submodule(root).double()
            head._forward_pre_hooks.clear()
        return swap


def in_float64(base: Base) -> Float64:
    """Convert the model of `base` to float64 in place."""
    base.model.double()
    return Float64(**{field.name: getattr(base, field.name) for field in fields(base) if field.init})


def stay_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep norms that compute in float32 whatever the model's dtype, as in many families, from lowering float64."""
    to, as_float = Tensor.to, Tensor.float

    def raised(own: Tensor, value: object) -> object:
        return torch.float64 if own.dtype == torch.float64 and value is torch.float32 else value

    def patched(own: Tensor, *args: object, **kwargs: object) -> Tensor:
        named = {name: raised(own, value) for name, value in kwargs.items()}
        return to(own, *(raised(own, value) for value in args), **named)

    monkeypatch.setattr(Tensor, "to", patched)
    monkeypatch.setattr(Tensor, "float", lambda own: own if own.dtype == torch.float64 else as_float(own))


def values(
    estimator: Estimator, task: Task, logits: Tensor, label: Tensor | None, number: int
) -> list[tuple[float, Tensor]]:
    """Log-likelihoods of one example, each with the weight of its squared gradient."""
    name, samples = estimator.name, estimator.samples
    draws = np.random.default_rng([estimator.seed, number])
    if task.kind == "regression":
        mean = logits[0] * task.scale + task.center
        middle = float(mean.detach())
        if name == "exact":  # over y ~ N(mean, 1), E[(y - mean)^2] = 1
            return [(1.0, mean)]
        if name == "empirical":
            targets = [float(label)]
        else:
            targets = [middle + float(noise) for noise in draws.standard_normal(samples)]
        normal = [torch.distributions.Normal(mean, 1.0).log_prob(torch.tensor(y, dtype=mean.dtype)) for y in targets]
        return [(1 / len(targets), own) for own in normal]
    log_p = torch.log_softmax(logits, 0)
    if name == "empirical":
        return [(1.0, log_p[int(label)])]
    if name == "exact":
        return [(float(own.detach().exp()), own) for own in log_p]
    reached = np.cumsum(log_p.detach().exp().numpy())
    return [(1 / samples, log_p[int(np.argmax(reached >= u))]) for u in draws.random(samples)]


def by_loop(
    base: Base,
    task: Task,
    encoded: Encoded,
    estimator: Estimator | None = None,
    *,
    seed: int = 0,
    examples: Iterable[int] | None = None,
    names: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """The mean over examples of each pre-trained parameter's squared gradient: equation 2, word by word."""
    estimator = estimator or Estimator()
    numbers = range(len(encoded)) if examples is None else list(examples)
    swap = base.put_head(HeadSpec(task.kind, task.labels), seed)
    model = base.model.eval()
    own = {place.parameter: model.get_parameter(place.parameter) for place in base.layout.body}
    own = own if names is None else {name: own[name] for name in names}
    flags = [parameter.requires_grad for parameter in own.values()]
    for parameter in own.values():
        parameter.requires_grad_(True)
    sums = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in own.items()}
    for number in numbers:
        inputs = {field: rows[number][None] for field, rows in encoded.fields.items()}
        logits = model(**inputs).logits[0]
        label = None if encoded.labels is None else encoded.labels[number]
        for weight, value in values(estimator, task, logits, label, number):
            grads = torch.autograd.grad(value, [*own.values()], retain_graph=True, allow_unused=True)
            for name, grad in zip(own, grads, strict=True):
                sums[name] += 0 if grad is None else weight * grad.double() ** 2
    for parameter, flag in zip(own.values(), flags, strict=True):
        parameter.requires_grad_(flag)
    swap.undo()
    return {name: total / len(numbers) for name, total in sums.items()}


def assert_same(found: dict, wanted: dict[str, Tensor], *, rtol: float = 1e-6, zero: float = 1e-12) -> None:
    """Assert that entries, or each parameter's sum, agree to a relative tolerance, and zeros to a part of the largest.

    Args:
        found: Each parameter's entries, flattened, or their sum.
        wanted: Each parameter's entries.
        rtol: Relative tolerance.
        zero: Part of the largest entry that counts as zero.
    """
    assert found.keys() <= wanted.keys()
    assert found
    largest = max(float(value.max()) for value in wanted.values())
    assert largest > 0
    for name, value in found.items():
        entries = wanted[name].flatten().numpy()
        own = entries if np.ndim(value) else entries.sum()
        slack = zero * largest * (1 if np.ndim(value) else entries.size)
        np.testing.assert_allclose(value, own, rtol=rtol, atol=slack, err_msg=name)
