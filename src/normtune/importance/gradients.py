"""Squared per-example gradients of a model's log-likelihood, summed over the examples of whole batches.

Each batch takes one forward pass, and one backward pass per objective, with every parameter frozen: hooks on modules
collect what per-example gradients are made of (see `normtune.importance.uses`). Before the first batch, the shortest
and the longest example are computed together and one by one. A parameter for which the two differ, since it is used in
another way, is then computed example by example, which is slower but also exact.

If a family's head reads the first token alone, batches compute the last layer for it (`normtune.fast.first_token`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from normtune.data.encode import Encoded
from normtune.errors import ModelError
from normtune.fast.first_token import can_shorten, shortened
from normtune.fast.linear import fast_linear
from normtune.importance.squares import linear_entries, linear_total, table_rows
from normtune.importance.tally import Tally, merged
from normtune.importance.uses import Use, frozen, hooked, uses_of
from normtune.models.base import Base

#: Maps the head's outputs and the examples' numbers to objectives, each with one number per example.
Objectives = Callable[[Tensor, np.ndarray], Iterable[Tensor]]

#: Fraction of a parameter's sum by which the two ways may differ: rounding is far below it, any mistake far above.
_CLOSE = {torch.float64: 1e-6, torch.float32: 0.02}
_CLOSE_LOW = 0.2


class PerExample:
    """Squared per-example gradients of some parameters of one model.

    Args:
        base: The model with the head of the task; it is put into evaluation mode during each call.
        names: The parameters wanted.
        encoded: The examples.

    Attributes:
        parameters: The parameters, by name.
        slow: The names of those that are computed example by example.
        short: Whether the last layer is computed for the first token alone.

    Raises:
        ModelError: If the model is not deterministic.
    """

    def __init__(self, base: Base, names: Iterable[str], encoded: Encoded) -> None:
        self._base, self._encoded = base, encoded
        parameters = dict(base.model.named_parameters())
        self.parameters = {name: parameters[name] for name in names}
        self._uses = uses_of(base.model, self.parameters)
        self.slow: tuple[str, ...] = ()
        self.short = False
        self._known: Counter[str] | None = None  # how often each is used in a pass, once known
        with self._frozen():
            self._probe()

    def add(self, indices: np.ndarray, passes: Objectives, tally: Tally) -> None:
        """Add the examples at `indices`, one batch, to `tally`."""
        with self._frozen():
            late = self._together(indices, passes, tally).irregular
            if late:  # a use that the first examples did not show
                self.slow = self._ordered({*self.slow, *late})
            if self.slow:
                for index in indices:
                    self._alone(index, passes, tally, self.slow)
        tally.examples += len(indices)

    def alone(self, index: int, passes: Objectives, tally: Tally) -> None:
        """Add one example by plain automatic differentiation: the reference, and the way for slow parameters."""
        with self._frozen():
            self._alone(index, passes, tally, self.parameters)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        once = self._base.language.once() if self._base.language else nullcontext()
        with once, frozen(self._base.model), torch.enable_grad(), fast_linear():
            yield

    def _outputs(self, indices: np.ndarray) -> Tensor:
        outputs: Tensor = self._base.model(**self._encoded.batch(indices, self._base.device)).logits
        outputs = self._encoded.answered(outputs, indices)
        return outputs if outputs.dtype == torch.float64 else outputs.float()

    def _ordered(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(name for name in self.parameters if name in names)

    def _probe(self) -> None:
        """Find out how the parameters are used, and whether the last layer needs its first token alone."""
        lengths = self._encoded.lengths
        # Two lengths, to check padding; the shortest twice, to detect a sum over two examples at the same place.
        longest = len(lengths) - 1 - lengths[::-1].argmax()
        indices = np.array([lengths.argmin(), longest, lengths.argmin()])
        with torch.no_grad():
            once, again = self._outputs(indices[:1]), self._outputs(indices[:1])
        if not torch.allclose(once, again, rtol=0, atol=0, equal_nan=True):
            raise ModelError("The model is not deterministic: it answers the same examples differently each time.")
        short, long = Tally(self.parameters), Tally(self.parameters)
        self._alone(indices[0], _any_direction, short, self.parameters)
        self._alone(indices[1], _any_direction, long, self.parameters)
        alone = merged([short, long, short]).totals()
        for shorten in (True, False) if can_shorten(self._base.model) else (False,):
            self.short, tally = shorten, Tally(self.parameters)
            batch = self._together(indices, _any_direction, tally)
            slow = batch.irregular | _differing(tally.totals(), alone, self.parameters)
            if not slow:
                break
        self._known, self.slow = batch.uses, self._ordered(slow)

    def _together(self, indices: np.ndarray, passes: Objectives, tally: Tally) -> _Batch:
        batch = _Batch(len(indices), tally)
        uses = {module: [use for use in own if use.name not in self.slow] for module, own in self._uses.items()}
        short = shortened(self._base.model) if self.short else nullcontext()
        with short, hooked({module: own for module, own in uses.items() if own}, batch.see):
            outputs = self._outputs(indices)
        if self._known is not None:
            batch.irregular |= {name for name, count in batch.uses.items() if count > self._known[name]}
        for scalars in passes(outputs, indices) if outputs.requires_grad else ():
            scalars.sum().backward(retain_graph=True)
            batch.finish()
        return batch

    def _alone(self, index: int, passes: Objectives, tally: Tally, names: Iterable[str]) -> None:
        own, indices = {name: self.parameters[name] for name in names}, np.array([index])
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


class _Batch:
    """Collects what the gradients of one batch are made of, and adds their squares to a tally.

    For one use of a matrix, an example's gradient is ``grad^T inputs`` over its tokens, with `grad` and `inputs` of
    shapes (B, T, O) and (B, T, I). For a table, whose inputs are row numbers (B, T), it is the sum of `grad` over the
    tokens that look up the same row; for a vector, which has no inputs, the sum over all tokens.

    A parameter that is used several times (a shared layer, say) waits for all of its uses, since they add before they
    are squared; one that is used once is squared immediately, so that nothing is kept.

    Args:
        examples: Number of examples in the batch.
        tally: Where the squares go.

    Attributes:
        uses: For each parameter how often it was used.
        irregular: Parameters whose examples cannot be told apart; nothing is added for them.
    """

    def __init__(self, examples: int, tally: Tally) -> None:
        self.uses, self.irregular = Counter[str](), set[str]()
        self._examples, self._tally = examples, tally
        self._waiting: dict[str, list[tuple[str, Tensor, Tensor | None]]] = defaultdict(list)

    def see(self, uses: list[Use], inputs: Tensor, output: Tensor) -> Tensor | None:
        """Record the uses in one module, and hook the gradient of its output."""
        if not torch.is_grad_enabled():
            return None
        inputs = inputs.detach()
        if uses[0].kind == "table" and len(inputs) == 1:  # positions that all examples share
            inputs, output = (own.expand(self._examples, *own.shape[1:]) for own in (inputs, output))
        if len(inputs) % self._examples:
            self.irregular.update(use.name for use in uses)
        self.uses.update(use.name for use in uses)
        if not output.requires_grad:
            # The first layer that matters: the graph starts here. Cloned, since models change such tensors in place.
            output = output.detach().requires_grad_().clone()

        def take(grad: Tensor) -> None:
            for use in uses:
                if use.name not in self.irregular:
                    self._take(use, inputs, grad)

        output.register_hook(take)
        return output

    @torch.no_grad()
    def _take(self, use: Use, inputs: Tensor, grad: Tensor) -> None:
        grad = _working(grad)
        waiting = self._waiting[use.name]
        grad = use.last(grad)
        if use.kind == "matrix":
            own, out = _working(self._by_example(use.features(inputs))), self._by_example(grad)
            waiting.append(("matrix", own, out) if use.turned else ("matrix", out, own))
        elif use.kind == "table":
            rows, padding = inputs.reshape(self._examples, -1), getattr(use.module, "padding_idx", None)
            out = self._by_example(grad)
            if padding is not None:
                out = out.masked_fill((rows == padding)[..., None], 0)
            waiting.append(("table", out, rows))
        else:
            own = grad * use.features(inputs) if use.kind == "scale" else grad
            waiting.append(("vector", self._by_example(own).sum(1, keepdim=True), None))
        if len(waiting) == self.uses[use.name]:
            self._square(use.name)

    def _by_example(self, values: Tensor) -> Tensor:
        """`values` as (examples, tokens, features), whether its first dimension holds examples or their tokens."""
        return values.reshape(self._examples, -1, values.shape[-1])

    def finish(self) -> None:
        """Square the parameters that still wait for uses on which the outputs do not depend."""
        for name in list(self._waiting):
            self._square(name)

    @torch.no_grad()
    def _square(self, name: str) -> None:
        kinds, grads, inputs = zip(*self._waiting.pop(name), strict=True)
        if len({*kinds}) > 1:
            self._tally.add(name, grads[0].new_tensor(torch.nan))  # the check on the first examples finds this
            return
        grad = _joined(grads)
        if kinds[0] == "vector":
            self._tally.add(name, grad.sum(1).square_().sum(0))
        elif kinds[0] == "table":
            rows, squares = table_rows(_joined(inputs), grad)
            self._tally.add(name, squares, rows)
        else:
            kept = self._tally.entries.get(name)
            square = linear_total if kept is None else linear_entries
            squares = square(_joined(inputs), grad)
            self._tally.add(name, squares if kept is None else squares.view(kept.shape))


def _joined(values: tuple[Tensor, ...]) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat(values, 1)


def _working(values: Tensor) -> Tensor:
    """Values in float32, or in float64 if they are already: in lower precision, squares would underflow."""
    return values if values.dtype == torch.float64 else values.float()


def _any_direction(outputs: Tensor, _: np.ndarray) -> Iterator[Tensor]:
    """A fixed function of the outputs that depends on every one of them."""
    weights = torch.linspace(1.0, 2.0, outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    yield (outputs * weights).tanh().flatten(1).sum(1) + (outputs * weights).flatten(1).sum(1)


def _differing(
    together: Mapping[str, float], alone: Mapping[str, float], parameters: Mapping[str, nn.Parameter]
) -> set[str]:
    """Parameters whose two sums differ by more than rounding, judged by the sum and the largest mean square of any."""
    floor = max((alone[name] / parameters[name].numel() for name in parameters), default=0.0)
    wrong = set()
    for name, parameter in parameters.items():
        close = _CLOSE.get(parameter.dtype, _CLOSE_LOW)
        slack = close * alone[name] + 1e-9 * floor * parameter.numel()
        if not abs(together[name] - alone[name]) <= slack:
            wrong.add(name)
    return wrong
