"""Training exactly the selected entries of a model, whatever the optimizer.

The trained leaf is the packed float32 vector of the selected values, which the forward pass puts in place. So weight
decay, momentum, clipping and optimizer state never see an entry that is not selected. A parameter that is selected
whole, and is float32 already, trains as itself.

They are put into the frozen tensor itself, so that a step copies no weight; `Tuning.undo` puts back what was there.
As with any weight that torch trains, outputs of before a change can then no longer be differentiated, and say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from normtune.errors import ModelError, SelectionError
from normtune.methods.entries import Entries
from normtune.methods.packed import Packed
from normtune.methods.trainable import Applied, Frozen, Trainable, decays
from normtune.models.base import Base
from normtune.models.precision import RaisedNorm

if TYPE_CHECKING:
    from normtune.methods.selection import Selection


@final
class Placed(Applied):
    """Values, packed, by parameter name, in the place of a base's own."""

    def __init__(self, base: Base, selection: Selection, values: Mapping[str, Tensor]) -> None:
        refuse_sharded(base.model)
        self._base, self._selection = base, selection
        self._norms = raise_norms(base.model, selection)
        self._kept: dict[str, Tensor] = {}
        for name, own in values.items():
            flat, at = self._flat(name)
            self._kept[name] = flat[at].clone()
            flat[at] = own.to(flat)

    def _flat(self, name: str) -> tuple[Tensor, Tensor]:
        """A parameter as a vector, and the positions of the values in it."""
        flat = self._base.model.get_parameter(name).data.view(-1)
        return flat, torch.from_numpy(self._selection.indices(name)).to(flat.device)

    def undo(self) -> None:
        """Put back the base's own values, to the bit."""
        for name, own in self._kept.items():
            flat, at = self._flat(name)
            flat[at] = own.to(flat.device)
        for norm in self._norms:
            norm.undo()


@final
class Tuning(Trainable):
    """A model whose selected entries and head train, and nothing else.

    Args:
        base: The base model; its model is changed in place until `undo`.
        selection: What trains beside the head.

    Raises:
        SelectionError: If the selection is of another model.
        ModelError: If the model is being tuned already, or its parameters are sharded.
    """

    def __init__(self, base: Base, selection: Selection) -> None:
        if selection.layout.fingerprint != base.layout.fingerprint:
            raise SelectionError("The selection is of another model.")
        refuse_sharded(base.model)
        self.base, self.spec, self.selection = base, selection, selection
        self._frozen = Frozen(base)
        self.head = self._frozen.head
        self._norms = raise_norms(base.model, selection)
        parameters = dict(base.model.named_parameters())
        self._kept: dict[str, Tensor] = {}
        # For each module with a packed parameter: its own parameters, in their order.
        self._owned: dict[nn.Module, dict[str, nn.Parameter | None]] = {}
        self._packed: list[tuple[nn.Module, str]] = []
        self._placed: list[Packed] = []
        self.leaves: dict[str, nn.Parameter] = {}
        for place in selection:
            self._add(place.parameter, parameters[place.parameter])

    def decays(self, name: str) -> bool:
        """Whether the parameter called `name` has weight decay."""
        return decays(self.base.layout.by_name[name])

    def _add(self, name: str, parameter: nn.Parameter) -> None:
        if self.selection.is_whole(name) and parameter.dtype == torch.float32:
            self._kept[name] = parameter.detach().clone()
            parameter.requires_grad_()
            self.leaves[name] = parameter
            return
        indices = torch.from_numpy(self.selection.indices(name)).to(parameter.device)
        holders = list(_holders(self.base.model, parameter))
        # torch rescales the rows of such an embedding in place, which must not reach the frozen tensor.
        rescaled = any(getattr(module, "max_norm", None) is not None for module, _ in holders)
        packed = Packed(parameter, Entries(indices, parameter.shape), in_place=not rescaled)
        for module, attribute in holders:
            self._owned.setdefault(module, dict(module._parameters))
            parametrize.register_parametrization(module, attribute, packed, unsafe=True)
            # A tensor that several modules share has one leaf.
            parametrizations: Any = module.parametrizations
            parametrizations[attribute].original0 = packed.leaf
        self._packed.extend(holders)
        self._placed.append(packed)
        self.leaves[name] = packed.leaf

    def undo(self) -> None:
        """Put the model back, to the bit, as it was before."""
        # Without gradients torch would leave a buffer behind.
        with torch.inference_mode(False), torch.enable_grad():
            for module, attribute in self._packed:
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
        for module, owned in self._owned.items():
            # Cleared first: the order of a module's parameters is part of the layout.
            module._parameters.clear()
            module._parameters.update(owned)
        for packed in self._placed:
            packed.restore()
        with torch.no_grad():
            for name, value in self._kept.items():
                self.base.model.get_parameter(name).copy_(value)
        for norm in self._norms:
            norm.undo()
        self._frozen.undo()


def raise_norms(model: nn.Module, selection: Selection) -> list[RaisedNorm]:
    """Make the selected normalisations of a lower-precision model float32, so that small updates do not vanish."""
    owners = {place.parameter.rpartition(".")[0] for place in selection if place.norm}
    modules = [model.get_submodule(owner) for owner in sorted(owners)]
    return [RaisedNorm(module) for module in modules if next(module.parameters()).dtype.itemsize < 4]


def refuse_sharded(model: nn.Module) -> None:
    """Check that every parameter lies whole on this process.

    Raises:
        ModelError: If one is sharded, or its model is being tuned already.
    """
    for module in model.modules():
        if parametrize.is_parametrized(module):
            raise ModelError("This model is being tuned already; undo that first.")
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id") or hasattr(parameter, "device_mesh") or "_fsdp_wrapped_module" in name:
            raise ModelError(
                "This model's parameters are sharded (FSDP, DeepSpeed or DTensor); normtune needs them whole."
            )


def _holders(model: PreTrainedModel, parameter: nn.Parameter) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is parameter:
                yield module, name
