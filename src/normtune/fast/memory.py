"""What is kept of the forward pass for the backward pass: the user's choice of memory against time.

Training LayerNorm keeps no inputs of frozen layers already, since torch asks what each gradient needs. What is left can
be had from less: the masks of dropout from the random state that they were drawn in, attention's probabilities from
queries and keys, these and the inner activations of a feed-forward block from the block's input, that input from what
its normalisation keeps anyway, and everything of a layer from the layer's input. All of it is computed again by the
same operations on the same values, so a training comes out the same to the bit, whatever is chosen.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from normtune.fast.activated import Activations
from normtune.fast.first_token import FAMILIES

#: What is kept: ``plain`` what torch keeps; ``lean`` no probabilities of attention and no masks of dropout, no product
#: of a linear layer being computed again; ``light`` no outputs of frozen linear layers either, for those products more
#: that an activation or attention needs; ``layers`` the inputs of layers only, for a whole forward pass more.
Memory = Literal["plain", "lean", "light", "layers"]


@contextmanager
def memory_of(model: nn.Module, memory: Memory) -> Iterator[None]:
    """Within this context, forward passes of `model` keep for their backward passes what `memory` says.

    Enter it inside the contexts that decide how a layer is computed (`fast_linear`, `dropout_of`), so that what is
    computed again goes the same way; backward passes belong inside them too. On Linux, activations that are freed go
    back to the system from then on, for the whole process: glibc keeps them by default, with gaps that nothing fits.

    Args:
        model: The model.
        memory: What is kept.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        if memory != "plain":
            give_back()
        if memory == "layers":
            stack.enter_context(_checkpointed(model))
        elif memory != "plain":
            stack.enter_context(_let_go(model))
            recipes = _Recipes()
            stack.enter_context(saved_tensors_hooks(recipes.pack, recipes.unpack))
            stack.enter_context(_Lean(recipes, linear=memory == "light"))
        yield


@contextmanager
def _checkpointed(model: nn.Module) -> Iterator[None]:
    """The layers of `model` keep their inputs only; in evaluation mode too, since dropout may be off."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        # Set on the object, where it hides the class's own.
        object.__setattr__(layer, "forward", partial(_again, layer.forward))
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


@contextmanager
def _let_go(model: nn.Module) -> Iterator[None]:
    """Feed-forward blocks of BERT-like layers let go of their activation's outputs as soon as these are multiplied."""
    known = isinstance(model, PreTrainedModel) and model.config.model_type in FAMILIES
    body: Any = model.base_model if known else None
    layers = [layer for layer in body.encoder.layer if _is_plain(layer.output)] if known else []
    for layer in layers:
        layer.feed_forward_chunk = partial(_feed_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.feed_forward_chunk


def _is_plain(module: nn.Module) -> bool:
    """Whether nothing is hung on `module`, which is passed by."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module) and type(module).__module__.startswith("transformers.")


def _feed_forward(layer: Any, inputs: Tensor) -> Tensor:
    """What the layer's own method computes, in which a name holds the activation's outputs to the end."""
    hidden = layer.output.dense(layer.intermediate(inputs))
    result: Tensor = layer.output.LayerNorm(layer.output.dropout(hidden) + inputs)
    return result


#: glibc's number for the size from which a block of memory is mapped by itself, and the size: that of an activation.
_M_MMAP_THRESHOLD, _BLOCK = -3, 4 << 20


@cache
def give_back() -> None:
    """Let blocks of an activation's size go back to the system when they are freed."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BLOCK)


def _again(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function` of what is given, of which nothing is kept but that."""
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    # A cache of keys and values would grow with every pass; classifiers have no use for one.
    args = tuple(None if isinstance(value, Cache) else value for value in args)
    kwargs = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
    return checkpoint(function, *args, use_reentrant=False, **kwargs)


@dataclass(frozen=True)
class _Kept:
    """A tensor as it is, which nobody may change before it is used."""

    tensor: Tensor
    version: int

    def make(self) -> Tensor:
        """The tensor.

        Raises:
            RuntimeError: If it was changed in place; torch does not look where tensors are packed.
        """
        if self.tensor._version != self.version:
            raise RuntimeError("A tensor that the backward pass needs was changed in place after the forward pass.")
        return self.tensor


@dataclass(frozen=True)
class _Recipe:
    """How a tensor can be had again."""

    function: Callable[..., Tensor]
    parts: tuple[Any, ...]

    def make(self) -> Tensor:
        """The tensor, once more."""
        with torch.no_grad():
            return self.function(*[part.make() if isinstance(part, _Recipe | _Kept) else part for part in self.parts])


@dataclass(frozen=True)
class _Made:
    """What a recipe is of: all of a storage, as long as that lives and is not changed."""

    storage: StorageWeakRef
    shape: torch.Size
    dtype: torch.dtype
    version: int
    recipe: _Recipe


#: How many times as large a tensor must be as its view for the view to be kept as a copy.
_PART = 8


class _Recipes:
    """Recipes of tensors that are alive; torch hands what it saves over as another object on the same memory."""

    def __init__(self) -> None:
        self._made: dict[int, _Made] = {}

    def note(self, made: Tensor, function: Callable[..., Tensor], *parts: Any) -> None:
        """Remember that `function` of `parts` is `made`."""
        # A recipe keeps what it is made from, which nobody needs once the tensor is gone.
        self._made = {key: known for key, known in self._made.items() if not known.storage.expired()}
        if not made.is_contiguous():
            return
        recipe = _Recipe(function, tuple(self.pack(p.detach()) if isinstance(p, Tensor) else p for p in parts))
        storage = StorageWeakRef(made.untyped_storage())
        self._made[made.data_ptr()] = _Made(storage, made.shape, made.dtype, made._version, recipe)

    def pack(self, saved: Tensor) -> _Kept | _Recipe:
        """The recipe of what torch wants to keep, or the tensor itself where there is none."""
        if saved.untyped_storage().nbytes() > _PART * saved.nbytes:
            saved = saved.clone()  # such as the first token of all, which would keep the others alive
        known = self._made.get(saved.data_ptr())
        if known is None or known.storage.expired() or known.version != saved._version:
            return _Kept(saved, saved._version)
        if known.dtype != saved.dtype or known.shape.numel() != saved.numel():
            return _Kept(saved, saved._version)
        # A view of all of it, such as attention's heads, is that of what is made again.
        return _Recipe(_viewed, (known.recipe, saved.shape, saved.stride()))

    def unpack(self, kept: _Kept | _Recipe) -> Tensor:
        """The tensor; with the backward pass that asks for it, what was alive in the forward pass is forgotten."""
        self._made.clear()
        return kept.make()


def _viewed(made: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    return made.as_strided(shape, stride)


class _Lean(TorchFunctionMode):
    """Sees the operations whose outputs can be had again for little.

    Args:
        recipes: Told how.
        linear: Whether outputs of frozen linear layers are among them.
    """

    def __init__(self, recipes: _Recipes, *, linear: bool) -> None:
        super().__init__()
        self._recipes, self._linear, self._activations = recipes, linear, Activations()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func is torch.nn.functional.scaled_dot_product_attention and args[0].requires_grad:
            return checkpoint(func, *args, use_reentrant=False, **kwargs)
        if func is torch.nn.functional.dropout and not kwargs.get("inplace"):
            return _dropped(*args, **kwargs)
        if func is torch.nn.functional.linear and not kwargs:
            after = self._activations.linear(*args)
            if after is not None:
                return after
        result = func(*args, **kwargs)
        if func is torch.nn.functional.gelu and len(args) == 1:
            self._activations.note(result, *args, **kwargs)
        if func is torch.nn.functional.layer_norm and result.requires_grad:
            self._recipes.note(result, partial(func, **kwargs), *args)
        if func is torch.nn.functional.linear and self._linear and not kwargs and _is_wide(result, *args):
            self._recipes.note(result, func, *args)
        return result


def _is_wide(result: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether this is a frozen layer whose outputs are no narrower than its inputs, which carry a gradient."""
    trains = weight.requires_grad or (bias is not None and bias.requires_grad)
    return inputs.requires_grad and not trains and result.shape[-1] >= inputs.shape[-1]


def _dropped(inputs: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.dropout`; on the CPU its mask is drawn once more for the backward pass."""
    if not (training and 0.0 < p < 1.0 and inputs.requires_grad and inputs.device.type == "cpu"):
        return torch.nn.functional.dropout(inputs, p, training, inplace)
    return _redrawn(inputs, p)


class _Redrawn(torch.autograd.Function):
    """Dropout, which is a product with its mask both ways: from one random state, one mask."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, p: float) -> Tensor:
        ctx.state, ctx.p = torch.get_rng_state(), p
        return torch.nn.functional.dropout(inputs.contiguous(), p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(ctx.state)
            return torch.nn.functional.dropout(grads[0].contiguous(), ctx.p), None


#: torch leaves `apply` untyped.
_redrawn: Callable[..., Tensor] = _Redrawn.apply
