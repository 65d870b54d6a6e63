"""METHODS: the named ways to make something trainable out of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from normtune.errors import UnknownNameError
from normtune.methods.adalora import adalora
from normtune.methods.adapter import Adapter, adapter
from normtune.methods.child_tuning import child_tuning_f
from normtune.methods.components import (
    all_layernorm,
    attention_layernorm,
    batchnorm,
    bitfit,
    last_layers,
    layernorm,
    random,
    value_bias,
)
from normtune.methods.diff_pruning import diff_pruning
from normtune.methods.hyper_adapter import HyperAdapter, hyper_adapter
from normtune.methods.peft import Peft, ia3, low_rank
from normtune.methods.prefixes import Prefixes, prefix_tuning
from normtune.methods.prompts import Prompts, prompt_tuning, residual_prompt_tuning
from normtune.methods.red import Red, red
from normtune.methods.selection import everything, nothing
from normtune.methods.top import child_tuning_d, fish_mask
from normtune.methods.trainable import Spec
from normtune.models.layout import Layout

#: The families of the paper's section 5, after the baselines: the two extremes that every method lies between.
MethodGroup = Literal["baselines", "partial training", "low rank", "adapters", "prompts"]
GROUPS: tuple[MethodGroup, ...] = get_args(MethodGroup)


@dataclass(frozen=True)
class Method:
    """A named way to make something trainable.

    Attributes:
        make: Makes the spec for a layout: a selection of its entries, or another kind. It takes ``seed`` if it draws,
            and ``option`` if it takes a number.
        about: What trains, in a few words.
        paper: Where it comes from.
        option: What the number after ``@`` means; empty if it takes none.
        seeded: Whether it draws random numbers.
        wide: Learning rates for wide models, in the order in which a search tries them, the default first.
        narrow: The same for narrow ones (see `NARROW_BELOW`).
        read: Rebuilds a spec from what `Spec.describe` returned; None if its delta holds a selection.
        hooked: Whether it trains existing entries with a hook (`normtune.methods.hooked`).
        measured: Whether it selects entries by a measurement on the task (`normtune.methods.top`).
        shared: Whether several tasks of a suite train together (`normtune.training.together`).
        group: Its family.
    """

    make: Callable[..., Spec]
    about: str
    paper: str = ""
    option: str = ""
    seeded: bool = False
    wide: tuple[float, ...] = (7e-4, 4e-4, 1e-3, 1e-4)
    narrow: tuple[float, ...] = (1e-2, 3e-3, 3e-2, 1e-3)
    read: Callable[[Layout, Mapping[str, Any]], Spec] | None = None
    group: MethodGroup = "partial training"
    hooked: bool = False
    measured: bool = False
    shared: bool = False

    @property
    def selects(self) -> bool:
        """Whether it gives a selection, which an expression can combine with others."""
        return self.read is None and not self.hooked and not self.measured

    def __call__(self, layout: Layout, *, seed: int = 0, option: int | None = None) -> Spec:
        """The spec for a model; `option` is the number after ``@``, or None for the method's default.

        Raises a `SelectionError` if the model lacks what the method trains, or the number is out of range.
        """
        given: dict[str, Any] = {"seed": seed} if self.seeded else {}
        if option is not None:
            given["option"] = option
        return self.make(layout, **given)


#: Models with a smaller hidden size are narrow. Wide ones take the paper's rates, for BERT-large; those of narrow ones
#: were measured on MiniLM, half a decade apart on STS-B, with the same effort for each method (``docs/rates.md``).
NARROW_BELOW = 512
_FULL: dict[str, Any] = {"wide": (3e-5, 2e-5, 5e-5, 1e-5), "narrow": (3e-5, 1e-4, 1e-5, 3e-4)}
_BIAS: dict[str, Any] = {"narrow": (3e-3, 1e-3, 1e-2, 3e-4)}
_SCALE: dict[str, Any] = {"narrow": (1e-2, 3e-2, 3e-3, 1e-1)}
_NETWORK: dict[str, Any] = {"narrow": (3e-2, 1e-1, 1e-2, 3e-1)}
#: Fields shared by the methods with a rank (through PEFT), with bottleneck layers of a width, and with added tokens.
_RANK: dict[str, Any] = {"option": "rank", "seeded": True, "read": Peft.read, "group": "low rank", **_BIAS}
_WIDTH: dict[str, Any] = {"option": "width", "seeded": True, "group": "adapters"}
_TOKENS: dict[str, Any] = {"option": "tokens", "seeded": True, "group": "prompts"}


def _low_rank(name: str, about: str, paper: str) -> Method:
    return Method(partial(low_rank, method=name), about, paper, **_RANK)


METHODS: dict[str, Method] = {
    "head": Method(nothing, "the head alone", narrow=(3e-1, 1e-1, 1.0, 3e-2), group="baselines"),
    "full": Method(everything, "every entry", group="baselines", **_FULL),
    "bitfit": Method(bitfit, "every bias", "Zaken et al. 2021", **_BIAS),
    "layernorm": Method(layernorm, "the norm that closes each layer", "ValizadehAslani and Liang 2024"),
    "attention-layernorm": Method(attention_layernorm, "the norm of each layer's attention"),
    "all-layernorm": Method(all_layernorm, "every norm"),
    "random": Method(
        random, "as many random entries as layernorm has", "", "entries", seeded=True, narrow=(1e-1, 3e-2, 3e-1, 1e-2)
    ),
    "last-layers": Method(last_layers, "the last layers, a quarter of them", "Lee et al. 2019", "layers", **_FULL),
    "fish-mask": Method(
        fish_mask,
        "as many entries as layernorm has, by Fisher information",
        "Sung et al. 2021",
        "entries",
        measured=True,
    ),
    "child-tuning-d": Method(
        child_tuning_d,
        "a fifth of the model, by Fisher information",
        "Xu et al. 2021",
        "per cent",
        measured=True,
        **_FULL,
    ),
    "batchnorm": Method(batchnorm, "every BatchNorm, in image models", "Frankle et al. 2021"),
    "value-bias": Method(value_bias, "the bias of each attention's values", "Huang et al. 2025", **_BIAS),
    "child-tuning-f": Method(
        child_tuning_f,
        "every entry, along a random 30 % of each gradient",
        "Xu et al. 2021",
        "per cent",
        hooked=True,
        **_FULL,
    ),
    "diff-pruning": Method(
        diff_pruning, "a sparse difference, in 0.5 % of the entries", "Guo et al. 2021", "entries", hooked=True, **_FULL
    ),
    "lora": _low_rank("lora", "low-rank matrices beside those of the attention, of rank 8", "Hu et al. 2021"),
    "lora-all": _low_rank("lora-all", "low-rank matrices beside all of the layers, of rank 8", "Hu et al. 2021"),
    "dora": _low_rank("dora", "lora, with lengths and directions apart", "Liu et al. 2024"),
    "adalora": Method(
        adalora,
        "low-rank matrices beside all of the layers, their ranks by importance",
        "Zhang et al. 2023",
        **_RANK,
    ),
    "loha": _low_rank("loha", "products of two low-rank matrices", "Hyeon-Woo et al. 2022"),
    "vera": Method(
        partial(low_rank, method="vera", option=256),
        "scales of shared random matrices, of rank 256",
        "Kopiczko et al. 2024",
        **{**_RANK, **_SCALE},
    ),
    "ia3": Method(
        ia3, "factors of keys, values and inner units", "Liu et al. 2022", read=Peft.read, group="adapters", **_SCALE
    ),
    "red": Method(
        red,
        "a scale and a bias after each feed-forward block",
        "Wu et al. 2024",
        read=Red.read,
        group="adapters",
        **_SCALE,
    ),
    "adapter": Method(
        adapter,
        "bottlenecks of 64 after each block, and every norm",
        "Houlsby et al. 2019",
        read=Adapter.read,
        narrow=(3e-4, 1e-4, 1e-3, 3e-5),
        **_WIDTH,
    ),
    "hyper-adapter": Method(
        hyper_adapter,
        "adapters from one network, and every norm",
        "Mahabadi et al. 2021",
        read=HyperAdapter.read,
        narrow=(1e-3, 3e-4, 3e-3, 1e-4),
        shared=True,
        **_WIDTH,
    ),
    "prompt-tuning": Method(
        prompt_tuning, "20 tokens in every text", "Lester et al. 2021", read=Prompts.read, **_TOKENS, **_SCALE
    ),
    "residual-prompt-tuning": Method(
        residual_prompt_tuning,
        "10 tokens in every text, trained through a network",
        "Razdaibiedina et al. 2023",
        read=Prompts.read,
        **_TOKENS,
        **_NETWORK,
    ),
    "prefix-tuning": Method(
        prefix_tuning,
        "keys and values of 10 tokens in every layer",
        "Li and Liang 2021",
        read=Prefixes.read,
        **_TOKENS,
        **_NETWORK,
    ),
}


def named(name: str) -> Method | None:
    """The method of this name; None for an expression or a mask.

    The name may be followed by ``@`` and a number, and by a colon and the tasks that trained together.
    """
    return None if {*name} & {"+", "&", " "} else METHODS.get(re.split("[@:]", name)[0])


def read(layout: Layout, description: Mapping[str, Any]) -> Spec:
    """The spec that `Spec.describe` described.

    Raises:
        UnknownNameError: If there is no such method in this version.
    """
    method = METHODS.get(str(description.get("method")))
    if method is None or method.read is None:
        raise UnknownNameError("method", str(description.get("method")), METHODS)
    return method.read(layout, description)


def grid(method: str | None, spec: Spec, width: int) -> tuple[float, ...]:
    """The rates to try for a method's name, an expression or, where `method` is None, a mask, on a model of `width`.

    Returns:
        The rates in the order in which a shorter search takes them, the default first: the method's own; for an
        expression or a mask those of full fine-tuning where it trains more than one entry in a hundred, else
        LayerNorm's; for an empty mask the head's.
    """
    if method is None:
        method = "" if len(spec) else "head"
    known = named(method) or METHODS["full" if spec.share > 0.01 else "layernorm"]
    return known.narrow if width < NARROW_BELOW else known.wide


def width_of(layout: Layout) -> int:
    """The model's hidden size: the commonest length of its vectors' last dimension, norms before others."""
    sizes = [place.shape[-1] for place in layout.body if place.norm] or [place.shape[-1] for place in layout.body]
    return max(set(sizes), key=sizes.count)
