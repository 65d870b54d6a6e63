"""Several candidates on one frozen model: each trains normalisations and a head of its own, and a pass serves them all.

A joint batch holds each candidate's examples one after the other. What is frozen is computed over all of them at once;
a normalisation that trains, and the head, are computed for each candidate's examples with that candidate's values. No
example meets another one anywhere, so a candidate's numbers are those of its own batch but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normtune.errors import ConfigError
from normtune.fast.first_token import FAMILIES
from normtune.methods.selection import Selection
from normtune.methods.sparse import refuse_sharded
from normtune.methods.trainable import Trainable as Trained
from normtune.models.base import Base
from normtune.models.head import new_head

#: The components that may train.
NORMS = ("output.LayerNorm", "attention.output.LayerNorm")


class Candidate(Trained):
    """What one candidate trains: values of its own, which are none of the model's parameters.

    Args:
        base: The base model, with a head of the candidates' shape.
        selection: What trains beside the head.
        seed: Seeds the head.
    """

    def __init__(self, base: Base, selection: Selection, seed: int) -> None:
        parameters = dict(base.model.named_parameters())
        self.base = base
        self.leaves: dict[str, nn.Parameter] = {}
        self._places: dict[str, Tensor] = {}
        for place in selection:
            frozen = parameters[place.parameter].detach()
            places = torch.from_numpy(selection.indices(place.parameter)).to(frozen.device)
            self._places[place.parameter] = places
            self.leaves[place.parameter] = nn.Parameter(frozen.index_select(0, places).to(torch.float32, copy=True))
        #: The head's modules by path.
        self.heads = new_head(base.model, base.roots, base.head, seed)
        own = {
            f"{path}.{name}": value
            for path, module in self.heads.items()
            for name, value in module.eval().requires_grad_().named_parameters()
        }
        self.head = {place.parameter: own[place.parameter] for place in base.layout.head}

    def value(self, name: str, frozen: Tensor) -> Tensor:
        """The parameter called `name`, frozen but for this candidate's values, in float32 or better."""
        whole = frozen.detach().to(torch.promote_types(frozen.dtype, torch.float32))
        if name not in self.leaves:
            return whole
        return whole.scatter(0, self._places[name], self.leaves[name].to(whole.dtype))


@dataclass(frozen=True)
class Share:
    """A candidate's part of a joint batch.

    Attributes:
        candidate: The candidate.
        examples: How many of the examples are its own, after those of the candidates before it.
    """

    candidate: Candidate
    examples: int


class Stack:
    """The model that candidates share.

    Args:
        base: The base model, with a head of the candidates' shape.
        selection: What each of them trains beside the head.

    Raises:
        ConfigError: If more than LayerNorm of layers trains, or the family is built in another way.
    """

    def __init__(self, base: Base, selection: Selection) -> None:
        if base.layout.model_type not in FAMILIES or base.model.config.is_decoder:
            known = ", ".join(FAMILIES)
            kind = base.layout.model_type
            raise ConfigError(f"Candidates share a pass in {known}, not in {kind!r}; leave out --together.")
        others = [place.component for place in selection if place.layer is None or place.component not in NORMS]
        if others:
            raise ConfigError(
                f"Candidates share a pass where LayerNorm of layers and the head train; {others[0]} is selected too,"
                " so leave out --together."
            )
        refuse_sharded(base.model)
        self._base, self._selection = base, selection
        paths = sorted({place.parameter.rpartition(".")[0] for place in selection})
        #: The normalisations that train, and their paths.
        self._owners: dict[nn.Module, str] = {base.model.get_submodule(path): path for path in paths}
        self._shares: Sequence[Share] = ()

    def candidate(self, seed: int) -> Candidate:
        """A new candidate, with the head that `seed` draws."""
        return Candidate(self._base, self._selection, seed)  # type: ignore[abstract]

    def show(self, *shares: Share) -> None:
        """From now on the model takes joint batches of these shares, or any batch for a single candidate."""
        self._shares = shares

    @property
    def sizes(self) -> tuple[int, ...]:
        """Examples of each candidate in the joint batches of now; nothing where a single candidate is shown."""
        return tuple(share.examples for share in self._shares) if len(self._shares) > 1 else ()

    def values(self, norm: Any) -> tuple[Tensor, Tensor]:
        """Weight and bias of a normalisation.

        They are of shape (width) where it is frozen or a single candidate is shown, else of shape (candidates, width).
        """
        if norm not in self._owners:
            return norm.weight, norm.bias
        found = [self._own(norm, share.candidate) for share in self._shares]
        if len(found) == 1:
            return found[0]
        weights, biases = zip(*found, strict=True)
        return torch.stack(weights), torch.stack(biases)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within this context the model computes with the values of the candidates that are shown."""
        changed: list[Any] = [*self._owners]
        for norm in changed:
            norm.forward = partial(self._normalised, norm)
        for path in self._base.roots:
            head: Any = self._base.model.get_submodule(path)
            head.forward = partial(self._answered, path)
            changed.append(head)
        try:
            yield
        finally:
            for module in changed:
                del module.forward

    @contextmanager
    def alone(self, candidate: Candidate) -> Iterator[None]:
        """Within this context the model is that of one candidate."""
        with self.installed():
            self.show(Share(candidate, 0))
            yield

    def _own(self, norm: Any, candidate: Candidate) -> tuple[Tensor, Tensor]:
        path = self._owners[norm]
        return candidate.value(f"{path}.weight", norm.weight), candidate.value(f"{path}.bias", norm.bias)

    def _normalised(self, norm: Any, inputs: Tensor) -> Tensor:
        def own(candidate: Candidate, part: Tensor) -> Tensor:
            weight, bias = self._own(norm, candidate)
            outputs = nn.functional.layer_norm(part.to(weight.dtype), norm.normalized_shape, weight, bias, norm.eps)
            return outputs.to(norm.weight.dtype)

        return self._each(own, inputs)

    def _answered(self, path: str, inputs: Tensor) -> Tensor:
        return self._each(lambda candidate, part: candidate.heads[path](part), inputs)

    def _each(self, function: Callable[[Candidate, Tensor], Tensor], inputs: Tensor) -> Tensor:
        """`function` of each candidate and its part of `inputs`, of which the first dimension is that of examples."""
        if len(self._shares) == 1:
            return function(self._shares[0].candidate, inputs)
        parts = inputs.split([share.examples for share in self._shares])
        return torch.cat([function(share.candidate, part) for share, part in zip(self._shares, parts, strict=True)])
