"""Squared per-example gradients of a model's log-likelihood, summed over the examples of whole batches.

One forward and one backward pass a batch, with every parameter frozen (see `normtune.importance.uses`). Before the
first batch, the shortest and the longest example are computed together and one by one; a parameter for which the two
differ, or whose use has no closed form, is from then on computed example by example: slower, and exact as well.

Where a family's head reads the first token alone, so does the last layer in batches (`normtune.fast.first_token`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from normtune.data.encode import Encoded
from normtune.errors import ModelError
from normtune.fast.first_token import can_shorten, shortened
from normtune.fast.linear import fast_linear
from normtune.importance.squares import linear_entries, linear_total, per_example, table_rows
from normtune.importance.tally import Tally
from normtune.importance.uses import Factor, Watch, Way
from normtune.models.base import Base

#: Gives, from the head's outputs and the numbers of the examples, one number an example for every pass.
Passes = Callable[[Tensor, np.ndarray], Iterable[Tensor]]

#: Part of a parameter's sum by which the two ways may differ: rounding is far below it, any mistake far above.
_CLOSE = {torch.float64: 1e-6, torch.float32: 0.02}
_CLOSE_LOW = 0.2


@dataclass(frozen=True)
class Plan:
    """How a model uses its parameters, which depends on its architecture and not on its head's values.

    Attributes:
        ways: For each parameter how the examples lie in each of its uses.
        slow: Parameters that are computed example by example.
        short: Whether the last layer is computed for the first token alone.
    """

    ways: Mapping[str, list[Way]]
    slow: tuple[str, ...]
    short: bool = False


class PerExample:
    """Squared per-example gradients of some parameters of one model.

    Args:
        base: The model with the head of the task; it is in evaluation mode while this works.
        names: The parameters wanted.
        encoded: The examples.

    Attributes:
        plan: How the model uses its parameters.

    Raises:
        ModelError: If the model does not answer the same twice.
    """

    def __init__(self, base: Base, names: Iterable[str], encoded: Encoded) -> None:
        self._base, self._encoded = base, encoded
        parameters = dict(base.model.named_parameters())
        self.parameters = {name: parameters[name] for name in names}
        self.plan = Plan({}, ())
        with self._frozen():
            self.plan = self._probe()

    @property
    def slow(self) -> tuple[str, ...]:
        """Parameters that are computed example by example."""
        return self.plan.slow

    def add(self, indices: np.ndarray, passes: Passes, tally: Tally) -> None:
        """Add the examples at `indices`, one batch, to `tally`.

        Args:
            indices: Their numbers in the data.
            passes: What to differentiate.
            tally: Where the sums are kept.
        """
        with self._frozen():
            watch = self._together(indices, passes, tally)
            if watch.irregular:  # a use that the first examples did not show
                late = {*self.slow, *watch.irregular}
                self.plan = replace(self.plan, slow=tuple(name for name in self.parameters if name in late))
            if self.slow:
                for index in indices:
                    self._alone(np.array([index]), passes, tally, self.slow)
        tally.examples += len(indices)

    def alone(self, index: int, passes: Passes, tally: Tally) -> None:
        """Add one example by plain automatic differentiation: the reference, and the way for irregular parameters."""
        with self._frozen():
            self._alone(np.array([index]), passes, tally, self.parameters)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """The model frozen and without dropout, and as it was afterwards."""
        model = self._base.model
        flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
        modes = {module: module.training for module in model.modules()}
        model.eval().requires_grad_(False)
        try:
            with torch.enable_grad(), fast_linear():
                yield
        finally:
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)
            for module, mode in modes.items():
                module.training = mode

    def _outputs(self, indices: np.ndarray) -> Tensor:
        outputs: Tensor = self._base.model(**self._encoded.batch(indices, self._base.device)).logits
        return outputs if outputs.dtype == torch.float64 else outputs.float()

    def _probe(self) -> Plan:
        indices = _spread(self._encoded.lengths)
        self._check_that_it_answers_the_same(indices[:1])
        first, alone = (Tally(self.parameters, (), self.parameters) for _ in range(2))
        self._alone(indices[:1], _any_direction, first, self.parameters)
        self._alone(indices[1:2], _any_direction, alone, self.parameters)
        for _ in range(2):  # it stands there twice
            alone.include(first)
        if can_shorten(self._base.model):
            plan = self._compared(indices, alone, Plan({}, (), short=True))
            if not plan.slow:
                return plan
        return self._compared(indices, alone, Plan({}, ()))

    def _check_that_it_answers_the_same(self, indices: np.ndarray) -> None:
        with torch.no_grad():
            once, again = self._outputs(indices), self._outputs(indices)
        if not torch.allclose(once, again, rtol=0, atol=0, equal_nan=True):
            raise ModelError("The model is not deterministic: it answers the same texts differently each time.")

    def _compared(self, indices: np.ndarray, alone: Tally, blank: Plan) -> Plan:
        """The plan that comes out of examples together, whose sums one by one are `alone`."""
        together = Tally(self.parameters, (), self.parameters)
        self.plan = blank
        watch = self._together(indices, _any_direction, together, find_out=True)
        slow = watch.irregular | _differing(together.totals(), alone.totals(), self.parameters)
        return replace(blank, ways=dict(watch.ways), slow=tuple(name for name in self.parameters if name in slow))

    def _together(self, indices: np.ndarray, passes: Passes, tally: Tally, *, find_out: bool = False) -> Watch:
        collector = _Collector(tally)
        regular = {name: parameter for name, parameter in self.parameters.items() if name not in self.slow}
        watch = Watch(regular, len(indices), collector.take, None if find_out else self.plan.ways)
        with watch, shortened(self._base.model) if self.plan.short else nullcontext():
            outputs = self._outputs(indices)
        collector.uses = {name: len(ways) for name, ways in watch.ways.items() if name not in watch.irregular}
        for scalars in passes(outputs, indices) if outputs.requires_grad else ():
            scalars.sum().backward(retain_graph=True)
            collector.finish()
        return watch

    def _alone(self, indices: np.ndarray, passes: Passes, tally: Tally, names: Iterable[str]) -> None:
        own = {name: self.parameters[name] for name in names}
        for parameter in own.values():
            parameter.requires_grad_()
        outputs = self._outputs(indices)
        for scalars in passes(outputs, indices) if outputs.requires_grad else ():
            grads = torch.autograd.grad(scalars.sum(), list(own.values()), retain_graph=True, allow_unused=True)
            for name, grad in zip(own, grads, strict=True):
                if grad is not None:
                    tally.add(name, _working(grad).square())
        for parameter in own.values():
            parameter.requires_grad_(False)


class _Collector:
    """Puts the uses of each parameter together and adds their squares to a tally.

    A parameter that is used several times (a shared layer, say) waits for all of its uses, since they add before they
    are squared; one that is used once is squared at once, so that nothing is kept.
    """

    def __init__(self, tally: Tally) -> None:
        self.uses: dict[str, int] = {}
        self._tally = tally
        self._waiting: dict[str, list[Factor]] = defaultdict(list)

    def take(self, name: str, factor: Factor) -> None:
        if name not in self.uses:
            return
        self._waiting[name].append(factor)
        if len(self._waiting[name]) == self.uses[name]:
            self._square(name, self._waiting.pop(name))

    def finish(self) -> None:
        """Square what is still waiting, for uses that the outputs do not depend on."""
        for name in list(self._waiting):
            self._square(name, self._waiting.pop(name))

    def _square(self, name: str, factors: list[Factor]) -> None:
        if len({(factor.kind, factor.turned) for factor in factors}) > 1:
            self._tally.add(name, factors[0].grad.new_tensor(torch.nan))  # which the check on the first examples finds
            return
        kind = factors[0].kind
        grads = [_working(factor.grad) for factor in factors]
        if kind == "vector":
            self._tally.add(name, torch.stack([per_example(grad) for grad in grads]).sum(0).square_().sum(0))
            return
        grad = grads[0] if len(grads) == 1 else torch.cat(grads, 1)
        given = [factor.inputs for factor in factors if factor.inputs is not None]
        inputs = given[0] if len(given) == 1 else torch.cat(given, 1)
        if kind == "table":
            self._tally.add_rows(name, *table_rows(inputs, grad))
            return
        if self._tally.wants_entries(name):
            squares = linear_entries(_working(inputs), grad)
            self._tally.add(name, squares.t() if factors[0].turned else squares)
        else:
            self._tally.add(name, linear_total(_working(inputs), grad))


def _working(values: Tensor) -> Tensor:
    """In float32, or float64 where the model is: squares of lower precisions would vanish."""
    return values if values.dtype == torch.float64 else values.float()


def _spread(lengths: np.ndarray) -> np.ndarray:
    """Numbers of the shortest and the longest example, so that padding is among what is checked.

    The shortest twice, so that what adds up two examples' gradients at the same place is found.
    """
    return np.array([lengths.argmin(), lengths.argmax(), lengths.argmin()])


def _any_direction(outputs: Tensor, _: np.ndarray) -> Iterator[Tensor]:
    """Some fixed function of the outputs in which every one of them takes part."""
    weights = torch.linspace(1.0, 2.0, outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    yield (outputs * weights).tanh().sum(1) + (outputs * weights).sum(1)


def _differing(
    together: Mapping[str, float], alone: Mapping[str, float], parameters: Mapping[str, nn.Parameter]
) -> set[str]:
    """Parameters whose two sums differ by more than rounding, beside the largest mean square of any of them."""
    floor = max((alone[name] / parameters[name].numel() for name in parameters), default=0.0)
    wrong = set()
    for name, parameter in parameters.items():
        close = _CLOSE.get(parameter.dtype, _CLOSE_LOW)
        slack = close * alone[name] + 1e-9 * floor * parameter.numel()
        if not abs(together[name] - alone[name]) <= slack:
            wrong.add(name)
    return wrong
