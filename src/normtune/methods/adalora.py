"""AdaLoRA: low-rank matrices whose ranks are allocated during training (Zhang et al. 2023), through PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from normtune.errors import SelectionError
from normtune.methods.peft import ADAPTER, Peft, every_matrix
from normtune.methods.selection import in_range
from normtune.methods.trainable import Hook
from normtune.models.layout import Layout


def adalora(layout: Layout, *, seed: int = 0, option: int = 8) -> Peft:
    """W + P diag(lambda) Q beside every matrix of the layers (AdaLoRA, Zhang et al. 2023, equation 3).

    P and Q start random, and lambda at zero. `option` is the final mean rank; training starts with 1.5 times that,
    rounded up. The delta also holds the rows whose lambda is zero.
    """
    first = -(-3 * in_range("adalora", "a rank", option) // 2)
    # PEFT requires a number of steps; the hook sets the right one.
    config = {"peft_type": "ADALORA", "target_r": option, "init_r": first, "lora_alpha": 2 * first, "total_step": 1}
    targets = every_matrix(layout)
    return Peft(layout, "adalora", json.dumps(config, sort_keys=True), targets, seed, partial(AdaLora, config))


@final
class AdaLora(Hook):
    """Keeps P and Q nearly orthogonal, and cuts the rank of matrices where it matters least, by PEFT's allocator.

    The schedule is that of the paper's section 3.3, with fractions of the steps close to those of the authors' script
    for RTE: full rank for the first 15 %, a cubic decrease until half of the steps are done, then no change.

    Args:
        config: PEFT's configuration.
        leaves: The parameters that train, by name.
    """

    def __init__(self, config: Mapping[str, Any], leaves: Mapping[str, nn.Parameter]) -> None:
        self._config, self._leaves = config, leaves
        self.ready = False

    def start(self, steps: int, seed: int) -> None:
        """Set the schedule.

        Raises:
            SelectionError: If there are fewer than two steps.
        """
        from peft import AdaLoraConfig
        from peft.tuners import adalora as tuner

        if steps < 2:
            raise SelectionError("adalora needs 2 steps or more to give away its rank; train on more examples.")
        own = {name: value for name, value in self._config.items() if name != "peft_type"}
        schedule = {"tinit": round(0.15 * steps), "tfinal": min(steps // 2, steps - 2), "total_step": steps}
        self._schedule: Any = AdaLoraConfig(**{**own, **schedule})
        # Stand-ins with what PEFT's allocator and `update_and_allocate` read of their models.
        named = [(f"{name}.{ADAPTER}", leaf) for name, leaf in self._leaves.items()]
        model, allocator = SimpleNamespace(named_parameters=lambda: named), cast(Any, tuner.RankAllocator)
        self._allocator = allocator(model, self._schedule, ADAPTER)
        self._model: Any = SimpleNamespace(
            model=model,
            peft_config={ADAPTER: self._schedule},
            rankallocator=self._allocator,
            trainable_adapter_name=ADAPTER,
        )

    def gradient(self, step: int) -> None:
        """Add the gradient of the orthogonality term; a matrix that the model does not use has gradient zero."""
        factors = [leaf for name, leaf in self._leaves.items() if ".lora_E" not in name]
        with torch.enable_grad():
            grads = torch.autograd.grad(self._schedule.orth_reg_weight * self.penalty(), factors)
        for leaf, grad in zip(factors, grads, strict=True):
            leaf.grad = grad if leaf.grad is None else leaf.grad + grad
        for leaf in self._leaves.values():
            leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def penalty(self) -> Tensor:
        """The orthogonality term: the mean over all P and Q of ||P'P - I|| and ||QQ' - I||, Frobenius norms.

        The paper's equation 4 squares these norms; PEFT and the authors' code, with which the term's weights were
        tuned, do not.
        """
        norms = []
        for name, leaf in self._leaves.items():
            if ".lora_E" not in name:
                gram = leaf @ leaf.T if ".lora_A" in name else leaf.T @ leaf
                norms.append((gram - torch.eye(len(gram), device=gram.device)).norm())
        return torch.stack(norms).mean()

    def stepped(self, step: int) -> None:
        """Update the importances, and zero what exceeds the step's budget (equations 5 to 11)."""
        from peft import AdaLoraModel

        tuner: Any = AdaLoraModel
        tuner.update_and_allocate(self._model, step)
        self.ready = step >= self._schedule.total_step - self._schedule.tfinal

    def state(self) -> dict[str, Tensor]:
        """The smoothed importances, their uncertainties, and the rows that are kept."""
        kept = {name: torch.tensor(rows) for name, rows in (self._schedule.rank_pattern or {}).items()}
        parts = {"importance": self._allocator.exp_avg_ipt, "uncertainty": self._allocator.exp_avg_unc, "kept": kept}
        return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Resume from what `state` returned."""
        device, kept = next(iter(self._leaves.values())).device, {}
        for key, value in state.items():
            part, _, name = key.partition("/")
            if part == "kept":
                kept[name] = value.tolist()
            elif part == "importance":
                self._allocator.exp_avg_ipt[name] = value.to(device)
                self._allocator.ipt[name] = value.to(device)  # replaced before it is read
            else:
                self._allocator.exp_avg_unc[name] = value.to(device)
        self._schedule.rank_pattern = kept or None
        # PEFT forgets the importances once the budget is final.
        self.ready = bool(kept) and not self._allocator.exp_avg_ipt
