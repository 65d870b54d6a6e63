"""Watching how a model uses its parameters, and collecting what their per-example gradients are made of.

Inside `Watch`, every function of torch that meets a watched parameter is known. Those with a closed form (linear
layers, embeddings, norms, scaling and shifting) run as they are, and a hook on their output hands over its gradient;
so one backward pass over a whole batch, with every parameter frozen, is enough. A parameter that is used in any other
way is reported as irregular and never gets a wrong number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: How the examples lie in what a function saw: one after the other in the first dimension; each as several rows of it;
#: or not at all, as for positions that all examples share.
Way = Literal["batched", "flattened", "shared"]
Kind = Literal["matrix", "vector", "table"]


@dataclass(frozen=True)
class Factor:
    """What one use of a parameter adds to its per-example gradients.

    Attributes:
        kind: ``matrix``: the gradient is ``grad^T inputs`` over an example's tokens; ``vector``: the sum of ``grad``
            over them; ``table``: the sum of ``grad`` over the tokens that look the same row up.
        grad: Of shape (B, T, O).
        inputs: For a matrix what the layer saw, (B, T, I); for a table the row numbers, (B, T).
        turned: Whether the matrix is stored with its inputs first.
    """

    kind: Kind
    grad: Tensor
    inputs: Tensor | None = None
    turned: bool = False


class Watch(TorchFunctionMode):
    """Within this context, what watched parameters' gradients are made of is handed over in the backward pass.

    Args:
        parameters: What to watch, by name; all of them frozen.
        examples: Number of examples in the batch.
        ways: For each parameter how the examples lie in each of its uses, in order, as a first pass found it; None for
            that first pass, which finds out.
        take: Told of each use's factor, in the backward pass.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        examples: int,
        take: Callable[[str, Factor], None],
        ways: Mapping[str, list[Way]] | None = None,
    ) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._alive: list[Tensor] = []  # what `_names` knows besides, so that no number is given twice
        self._examples, self._take, self._known = examples, take, ways
        self.ways: dict[str, list[Way]] = defaultdict(list)
        self.irregular: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        met = self._met((*args, *kwargs.values()))
        if not met or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        handler = None if _BY_NAME & kwargs.keys() else _HANDLERS.get(func)
        result = handler(self, func, *args, **kwargs) if handler is not None else NotImplemented
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if func not in _HARMLESS and _has_tensor(result):
            self.irregular.update(met)
        return result

    def _met(self, values: Iterable[Any]) -> set[str]:
        names = set()
        for value in values:
            if isinstance(value, Tensor):
                if id(value) in self._names:
                    names.add(self._names[id(value)])
            elif isinstance(value, (list, tuple)):
                names |= self._met(value)
        return names

    def name(self, value: Any) -> str | None:
        """The watched name of `value`, or None."""
        return self._names.get(id(value))

    def alias(self, name: str, value: Tensor) -> Tensor:
        """From now on `value` stands for the parameter called `name`, whose gradient it has."""
        self._names[id(value)] = name
        self._alive.append(value)
        return value

    def way(self, name: str, leading: int, *, shared: bool = False) -> Way | None:
        """How the examples lie in the next use of `name`, or None where they cannot be told apart."""
        if self._known is not None:
            way: Way | None = next(iter(self._known.get(name, [])[len(self.ways[name]) :]), None)
        elif shared:
            way = "shared"
        elif leading == self._examples:
            way = "batched"
        else:
            way = "flattened" if leading % self._examples == 0 else None
        if way is None:
            self.irregular.add(name)
        else:
            self.ways[name].append(way)
        return way

    def listen(self, output: Tensor, factors: Callable[[Tensor], Iterable[tuple[str, Factor]]]) -> Tensor:
        """`output`, whose gradient will be made into factors and handed over."""
        if not output.requires_grad:
            # The first layer that matters: the graph begins here. Cloned, since models change such tensors in place.
            output = output.detach().requires_grad_().clone()

        def hook(grad: Tensor) -> None:
            with torch.no_grad():
                for name, factor in factors(grad):
                    self._take(name, factor)

        output.register_hook(hook)
        return output

    def examples_first(self, values: Tensor, way: Way) -> Tensor:
        """`values` as (B, T, last dimension)."""
        if way == "flattened":
            values = values.reshape(self._examples, -1, values.shape[-1])
        return values.flatten(1, -2) if values.ndim > 2 else values[:, None]

    @property
    def examples(self) -> int:
        """Number of examples in the batch."""
        return self._examples


def _has_tensor(result: Any) -> bool:
    return isinstance(result, Tensor) or (isinstance(result, (list, tuple)) and any(map(_has_tensor, result)))


def _linear(watch: Watch, func: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    matrix, shift = watch.name(weight), watch.name(bias)
    return _affine(watch, inputs, func(inputs, weight, bias), matrix, shift, turned=False)


def _addmm(watch: Watch, func: Any, bias: Tensor, inputs: Tensor, weight: Tensor, **scales: Any) -> Any:
    if scales or watch.name(inputs) is not None:
        return NotImplemented
    return _affine(watch, inputs, func(bias, inputs, weight), watch.name(weight), watch.name(bias), turned=True)


def _affine(
    watch: Watch, inputs: Tensor, output: Tensor, matrix: str | None, shift: str | None, *, turned: bool
) -> Tensor:
    ways = {name: watch.way(name, inputs.shape[0]) for name in (matrix, shift) if name is not None}
    kept = inputs.detach()

    def factors(grad: Tensor) -> Iterable[tuple[str, Factor]]:
        for name, way in ways.items():
            if way is not None:
                out = watch.examples_first(grad, way)
                if name == shift:
                    yield name, Factor("vector", out)
                else:
                    yield name, Factor("matrix", out, watch.examples_first(kept, way), turned)

    return watch.listen(output, factors)


def _embedding(
    watch: Watch,
    func: Any,
    ids: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    *others: Any,
    **more: Any,
) -> Any:
    name = watch.name(weight)
    shared = ids.ndim == 2 and ids.shape[0] == 1 != watch.examples
    if name is None or max_norm is not None or not (shared or ids.shape[0] == watch.examples):
        return NotImplemented
    way = watch.way(name, ids.shape[0], shared=shared)
    if way == "shared":
        ids = ids.expand(watch.examples, *ids.shape[-1:])
    output = func(ids, weight, padding_idx, max_norm, *others, **more)
    if way is None:
        return output
    rows = watch.examples_first(ids[..., None], "batched" if way == "shared" else way)[..., 0]

    def factors(grad: Tensor) -> Iterable[tuple[str, Factor]]:
        out = watch.examples_first(grad, "batched" if way == "shared" else way)
        if padding_idx is not None:
            out = out.masked_fill((rows == padding_idx % len(weight))[..., None], 0)
        yield name, Factor("table", out, rows)

    return watch.listen(output, factors)


def _layer_norm(
    watch: Watch,
    func: Any,
    inputs: Tensor,
    shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if len(shape) != 1:
        return NotImplemented
    output = func(inputs, shape, weight, bias, eps)
    return _scaled(watch, inputs, output, weight, bias, lambda kept: functional.layer_norm(kept, shape, eps=eps))


def _rms_norm(
    watch: Watch, func: Any, inputs: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None
) -> Any:
    if len(shape) != 1:
        return NotImplemented
    output = func(inputs, shape, weight, eps)
    return _scaled(watch, inputs, output, weight, None, lambda kept: functional.rms_norm(kept, shape, eps=eps))


def _mul(watch: Watch, func: Any, left: Any, right: Any) -> Any:
    weight, inputs = (left, right) if watch.name(left) is not None else (right, left)
    if not _stretches(weight, inputs) or watch.name(inputs) is not None:
        return NotImplemented
    return _scaled(watch, inputs, func(left, right), weight, None, lambda kept: kept)


def _add(watch: Watch, func: Any, left: Any, right: Any, **scales: Any) -> Any:
    bias, inputs = (left, right) if watch.name(left) is not None else (right, left)
    name = watch.name(bias)
    if name is not None and isinstance(inputs, (int, float)) and not scales:
        return watch.alias(name, func(left, right))  # "1 + weight", as Gemma's norms have it
    if scales or not _stretches(bias, inputs) or watch.name(inputs) is not None:
        return NotImplemented
    return _scaled(watch, inputs, func(left, right), None, bias, lambda kept: kept)


def _cast(watch: Watch, func: Any, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    name = watch.name(value)
    result = func(value, *args, **kwargs)
    return result if name is None or result is value else watch.alias(name, result)


def _stretches(vector: Any, over: Any) -> bool:
    """Whether `vector` is stretched over all but the last dimension of `over`."""
    return (
        isinstance(over, Tensor)
        and vector.ndim == 1
        and over.ndim > 1
        and over.shape[-1] == vector.shape[0]
        and over.is_floating_point()
    )


def _scaled(
    watch: Watch,
    inputs: Tensor,
    output: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scaled: Callable[[Tensor], Tensor],
) -> Tensor:
    """A vector that multiplies ``scaled(inputs)``, and one that is added."""
    ways = {name: watch.way(name, inputs.shape[0]) for name in map(watch.name, (weight, bias)) if name is not None}
    multiplies, kept = watch.name(weight), inputs.detach()

    def factors(grad: Tensor) -> Iterable[tuple[str, Factor]]:
        for name, way in ways.items():
            if way is not None:
                own = grad * scaled(kept) if name == multiplies else grad
                yield name, Factor("vector", watch.examples_first(own, way))

    return watch.listen(output, factors)


_HANDLERS: dict[Any, Callable[..., Any]] = {
    functional.linear: _linear,
    functional.embedding: _embedding,
    functional.layer_norm: _layer_norm,
    functional.rms_norm: _rms_norm,
    torch.addmm: _addmm,
    torch.mul: _mul,
    Tensor.mul: _mul,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__radd__: _add,
    Tensor.float: _cast,
    Tensor.to: _cast,
    Tensor.type_as: _cast,
    Tensor.contiguous: _cast,
}

#: Arguments that are given by their place; where one is named, the call is not understood.
_BY_NAME = {"input", "other", "mat1", "mat2", "out"}

#: Functions that give a tensor without a gradient for what they met.
_HARMLESS = {Tensor.detach, Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, torch.zeros_like, torch.ones_like}
