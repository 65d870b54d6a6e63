"""The effect on the loss, to first order, of whole attention heads or of units of a feed-forward block."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from normtune.data.encode import Encoded
from normtune.data.task import Task
from normtune.errors import SelectionError
from normtune.importance.activations import spread
from normtune.importance.estimators import passes
from normtune.importance.masks import top
from normtune.importance.scores import Scores
from normtune.importance.uses import frozen
from normtune.methods.selection import Selection, where
from normtune.models.base import Base
from normtune.models.families import block_ends
from normtune.records.fisher import Estimator

Structure = Literal["heads", "units"]
STRUCTURES: tuple[Structure, ...] = get_args(Structure)


def ends(base: Base, structure: Structure) -> dict[str, int]:
    """The matrices whose inputs are the heads or units of a layer, and how many of these each has.

    Raises:
        SelectionError: If the family's matrices are not known, or their inputs do not divide into the heads.
    """
    attention, feed_forward = block_ends(base.layout)
    config: Any = base.model.config.get_text_config()
    found = {}
    for module in attention if structure == "heads" else feed_forward:
        inputs = _inputs(base.model.get_submodule(module))
        found[f"{module}.weight"] = config.num_attention_heads if structure == "heads" else inputs
        if inputs % found[f"{module}.weight"]:
            raise SelectionError(f"The {inputs} inputs of {module} are not made of {config.num_attention_heads} heads.")
    return found


def first_order(base: Base, task: Task, encoded: Encoded, structure: Structure) -> dict[str, np.ndarray]:
    """How far the loss of an example changes when a head or a unit is removed, to first order.

    This is ``I = E |xi dL / d xi|`` for a factor xi = 1 on its outputs (Michel et al. 2019, section 4.1), which is
    ``E |h . dL / dh|`` for the outputs h of all tokens; the scores of a layer are divided by their L2 norm. The model,
    which has the head of the task, is left as it was.

    Returns:
        For each matrix whose inputs are heads or units, one number for each of these, float64.
    """
    counts = ends(base, structure)
    sums = {name: np.zeros(count) for name, count in counts.items()}
    labels = encoded.labels
    assert labels is not None

    def watch(name: str) -> Any:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # The first layer's inputs have no graph, since the model is frozen.
            inputs = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()

            def take(grad: Tensor) -> None:
                by_unit = (inputs.detach() * grad).double().reshape(-1, counts[name], grad.shape[-1] // counts[name])
                sums[name] += by_unit.sum((0, 2)).abs().cpu().numpy()

            inputs.register_hook(take)
            return inputs, *args[1:]

        return before

    modules = {name: base.model.get_submodule(name.removesuffix(".weight")) for name in counts}
    with ExitStack() as undo, frozen(base.model), torch.enable_grad():
        for name, module in modules.items():
            undo.callback(module.register_forward_pre_hook(watch(name)).remove)
        for number in range(len(encoded)):
            outputs = encoded.answered(base.model(**encoded.batch([number], base.device)).logits.float(), [number])
            for log_p in passes(Estimator(), outputs, task, labels[[number]].to(outputs.device), [number]):
                log_p.sum().backward()
    return {name: own / (np.linalg.norm(own) or 1.0) for name, own in sums.items()}


def lowest(base: Base, scores: dict[str, np.ndarray], fraction: float) -> Selection:
    """The matrix entries that multiply a fraction of the heads or units, those with the lowest scores of all layers.

    They are whole columns of the matrices, or rows where these are stored with their inputs first.
    """
    within = where(base.layout, lambda place: place.parameter in scores)
    # Ranks, so that there are no ties, of which a part might be taken.
    ranks = np.split(rankdata(np.concatenate([*scores.values()]), "ordinal"), np.cumsum([*map(len, scores.values())]))
    values = {}
    for name, own in zip(scores, ranks, strict=False):
        inputs = _inputs(base.model.get_submodule(name.removesuffix(".weight")))
        values[name] = spread(base, name, torch.from_numpy(-own.astype(np.float64).repeat(inputs // len(own))))
    units = sum(map(len, scores.values()))
    return top(Scores(within, values), entries=round(fraction * units) * (len(within) // units))


def _inputs(module: nn.Module) -> int:
    """How many inputs a linear layer has."""
    found: int = getattr(module, "in_features", None) or module.get_parameter("weight").shape[0]
    return found
