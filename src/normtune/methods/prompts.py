"""Methods that add trained tokens to every text: prompts, and what they share with prefixes.

Where prompts go depends on the token that the family answers from. An encoder answers from its first token: prompts
come right after it, so that the pooler reads the token, at the position, that it was trained on. A decoder answers from
the text's last token: prompts come before the text, as in the papers. PEFT's own models put them first in both, so that
an encoder pools a prompt, and a decoder padding if its batch is padded on the right.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normtune.errors import DataError, DeltaError, ModelError, SelectionError, refusing
from normtune.methods.added import Added
from normtune.methods.selection import in_range
from normtune.methods.trainable import Cost
from normtune.models.base import Base
from normtune.models.device import seeded
from normtune.models.families import FIRST_TOKEN, LAST_TOKEN, WORDS
from normtune.models.layout import Layout
from normtune.models.precision import in_full

#: Name of the module of added parameters in a model.
_MODULE = "normtune_tokens"
#: Maps a model's body and its keyword arguments to changed keyword arguments.
InputChange = Callable[[nn.Module, dict[str, Any]], dict[str, Any]]


def prompt_tuning(layout: Layout, *, seed: int = 0, option: int = 20) -> Prompts:
    """`option` trained tokens among those of the text, which start as random words (Lester et al. 2021, section 2).

    The words are drawn from the whole vocabulary (section 3.2, "sampled vocabulary").
    """
    return Prompts.of(layout, "prompt-tuning", option, seed)


def residual_prompt_tuning(layout: Layout, *, seed: int = 0, option: int = 10) -> Prompts:
    """As `prompt_tuning`, each prompt P trained as P + MLP(P) (Razdaibiedina et al. 2023, section 3).

    The network is shared by all prompts and dropped after training: two linear layers with a ReLU between them, as wide
    as the embeddings inside, and a LayerNorm.
    """
    return replace(Prompts.of(layout, "residual-prompt-tuning", option, seed), network=True)


@dataclass(frozen=True)
class Tokens(Added):
    """Trained vectors for tokens that are not part of the text.

    Attributes:
        tokens: Number of tokens.
    """

    layout: Layout
    method: str
    tokens: int
    seed: int = 0

    @property
    def cost(self) -> Cost:
        """They never merge."""
        return "extra tokens"

    @classmethod
    def of(cls, layout: Layout, method: str, tokens: int, seed: int) -> Self:
        """The spec, after checking that the model supports it.

        Raises:
            SelectionError: If there are no tokens, or the family is not known to take them.
        """
        in_range(method, "a number of tokens", tokens)
        if layout.model_type not in FIRST_TOKEN + LAST_TOKEN:
            known = ", ".join(FIRST_TOKEN + LAST_TOKEN)
            raise SelectionError(f"{method} is for {known}; this is a {layout.model_type!r}.")
        spec = cls(layout, method, tokens, seed)
        len(spec)
        return spec

    @classmethod
    def read(cls, layout: Layout, description: Mapping[str, Any]) -> Self:
        """The spec that `describe` described.

        Raises:
            DeltaError: If the description is damaged.
        """
        with refusing(DeltaError, "The delta does not say how many tokens it adds"):
            spec = cls(layout, str(description["method"]), int(description["tokens"]))
            len(spec)
        if spec.describe() != description:
            raise DeltaError(f"The delta says more of the tokens that it adds than this version knows: {description}.")
        return spec

    def describe(self) -> dict[str, Any]:
        """Method and number of tokens."""
        return {"method": self.method, "tokens": self.tokens}

    @abstractmethod
    def module(self) -> nn.Module:
        """A module of the added parameters, which `start` sets, except those that the module draws itself."""

    @abstractmethod
    def start(self, base: Base, module: nn.Module) -> None:
        """Initialise the parameters of `module` on a base, with torch's global generator as it is."""

    @abstractmethod
    def place(self, base: Base, module: nn.Module, undo: ExitStack) -> None:
        """Make a base compute with `module`."""

    @property
    def decoder(self) -> bool:
        """Whether the model answers from the text's last token."""
        return self.layout.model_type in LAST_TOKEN

    @cached_property
    def table(self) -> tuple[int, int]:
        """Rows and width of the model's word embeddings."""
        endings = tuple(f".{name}.weight" for name in WORDS)
        [(rows, width)] = [place.shape for place in self.layout.body if place.parameter.endswith(endings)]
        return rows, width

    def words(self, base: Base) -> Tensor:
        """As many random words as there are tokens, of shape (1, tokens)."""
        return torch.randint(self.table[0], (1, self.tokens)).to(base.device)

    def put(self, base: Base, undo: ExitStack) -> dict[str, nn.Parameter]:
        """The added parameters as float32 leaves (see `Spec.put`)."""
        with seeded(self.seed), torch.no_grad():
            module = self.module()
            self.start(base, module)
        module.to(base.device).requires_grad_(False)
        body = body_of(base)  # where hooks look it up, so that a copy of the model uses its own
        undo.callback(body._modules.pop, _MODULE)
        body.add_module(_MODULE, module)
        self.place(base, module, undo)
        return dict(module.named_parameters())

    def change_inputs(self, base: Base, change: InputChange, undo: ExitStack) -> None:
        """Apply `change` to the keyword arguments of a model's body, after checking that they fit."""

        def changed(body: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
            names = [*inspect.signature(body.forward).parameters]
            given = {**dict(zip(names, args, strict=False)), **given}
            if (cache := given.get("past_key_values")) is not None and cache.get_seq_length():
                raise ModelError(f"{self.method} computes a text whole each time: call generate with use_cache=False.")
            if given.get("input_ids") is None or getattr(given.get("attention_mask"), "ndim", 2) != 2:
                raise ModelError(f"{self.method} takes texts as input_ids, with an attention_mask of the same shape.")
            tokens, limit = given["input_ids"].shape[1], base.positions
            if limit is not None and tokens + self.positions > limit:
                raise DataError(
                    f"A text of {tokens} tokens and the {self.positions} of {self.method} are more than the {limit}"
                    f" that {base.name!r} takes; cut texts to {limit - self.positions}."
                )
            if given.get("attention_mask") is None:
                given["attention_mask"] = torch.ones_like(given["input_ids"])
            if self.positions and (places := given.get("position_ids")) is not None:
                seen = given["attention_mask"].bool()
                usual = places_of(given["attention_mask"])[seen]
                if not self.decoder or not torch.equal(places.expand_as(seen)[seen], usual):
                    raise ModelError(f"{self.method} numbers the positions itself: leave position_ids out.")
            return (), change(body, given)

        undo.callback(body_of(base).register_forward_pre_hook(changed, with_kwargs=True).remove)


def body_of(base: Base) -> Any:
    """The module that reads the tokens: the body, or its decoder, which OPT's language model calls directly."""
    body = base.model.base_model
    return getattr(body, "decoder", body)


def places_of(mask: Tensor, first: int = 0) -> Tensor:
    """The position of each token, without counting padding on either side; `first` is that of the first token."""
    return (mask.cumsum(1) - 1).clamp(min=0) + first


class _Prompt(nn.Module):
    """Prompts, and the network that they are trained through, if any."""

    def __init__(self, tokens: int, width: int, *, network: bool) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.empty(tokens, width))
        layers = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.LayerNorm(width)
        self.network = nn.Sequential(*layers) if network else None

    def forward(self) -> Tensor:
        """The prompts that the model reads, of shape (tokens, width)."""
        if self.network is None:
            return self.prompts
        with in_full(self.prompts.device):
            made: Tensor = self.prompts + self.network(self.prompts)
        return made


@final
@dataclass(frozen=True)
class Prompts(Tokens):
    """Trained tokens among the text's embeddings.

    Attributes:
        network: Whether they are trained through a network, which a delta does not hold.
    """

    network: bool = False

    @property
    def added(self) -> int:
        """Number of entries of the prompts; the network is dropped after training."""
        return self.tokens * self.table[1]

    @property
    def positions(self) -> int:
        """Every prompt has a position."""
        return self.tokens

    def module(self) -> nn.Module:
        """The prompts, and their network."""
        return _Prompt(self.tokens, self.table[1], network=self.network)

    def start(self, base: Base, module: nn.Module) -> None:
        """Set the prompts to the embeddings of random words."""
        module.get_parameter("prompts").copy_(base.model.get_input_embeddings()(self.words(base))[0])

    def place(self, base: Base, module: nn.Module, undo: ExitStack) -> None:
        """Put the prompts after an encoder's first token or before a decoder's text, and drop them from the outputs."""
        at = 0 if self.decoder else 1

        def longer(body: Any, given: dict[str, Any]) -> dict[str, Any]:
            text = body.get_input_embeddings()(given.pop("input_ids"))

            def joined(values: Tensor, own: Tensor) -> Tensor:
                own = own.to(values.dtype).expand(len(values), *own.shape)
                return torch.cat((values[:, :at], own, values[:, at:]), 1)

            given["inputs_embeds"] = joined(text, body.get_submodule(_MODULE)())
            for name, fill in (("attention_mask", 1), ("token_type_ids", 0)):
                if given.get(name) is not None:
                    given[name] = joined(given[name], given[name].new_full((self.tokens,), fill))
            return {**given, "position_ids": places_of(given["attention_mask"])} if self.decoder else given

        def shorter(_: nn.Module, __: Any, outputs: Any) -> Any:
            hidden = outputs[0]
            text = torch.cat((hidden[:, :at], hidden[:, at + self.tokens :]), 1)
            if isinstance(outputs, tuple):
                return text, *outputs[1:]
            outputs.last_hidden_state = text
            return outputs

        self.change_inputs(base, longer, undo)
        undo.callback(body_of(base).register_forward_hook(shorter).remove)

    def made(self, values: Mapping[str, Tensor]) -> tuple[Prompts, dict[str, Tensor]]:
        """The prompts that the network makes, without the network (see `Spec.made`)."""
        if not self.network:
            return self, dict(values)
        with torch.device("meta"):
            module = self.module()
        own = {name: values[name].view(parameter.shape) for name, parameter in module.named_parameters()}
        with torch.no_grad():
            prompts: Tensor = functional_call(module, own, ())
        return replace(self, network=False), {"prompts": prompts.reshape(-1)}
