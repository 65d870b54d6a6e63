"""Fisher information: ours against a loop of single examples, Opacus, and ``torch.func``'s vmap, on real texts.

Each is asked for the same three things: every entry of LayerNorm; a sum for each component, which table 1 needs; and
every entry of the whole model. The texts are training examples of five GLUE tasks at their own lengths.

Times are per example. Ours runs on as many examples as a small use has, its check of the model included. The others
run on a few of the same, spread evenly over the lengths: their time an example does not depend on how many there are.
On those few, each is compared with the loop: the largest relative difference over the parameters' sums is recorded.

Run ``python benchmarks/fisher.py``, with ``NORMTUNE_DATA`` naming a GLUE folder: about six minutes on two cores; Opacus
is in the extra ``bench``. It writes ``results/benchmarks/fisher.json`` after each part; ``--parts`` measures some anew
(``--parts rte,mask_step``) and keeps the others.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import mask_step
import numpy as np
import torch
from harness import alternate, glue, ratio, read, summary, write
from torch import Tensor
from torch.func import functional_call, grad, vmap

from normtune.data.encode import Encoded, encode
from normtune.data.task import Task
from normtune.importance.fisher import Request, fisher
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.base import Base, load_base
from normtune.models.head import HeadSpec

TASKS = ("cola", "sst2", "stsb", "mrpc", "rte")
#: Steps of a mask, beside the tasks.
STEPS = "mask_step"
#: Examples of ours, by what is measured, and of the others; the peers' batch size, to bound memory.
EXAMPLES, FEW, PEER_BATCH = {"layernorm": 192, "component_totals": 128, "all_entries": 96}, 24, 8
#: What is measured: the selection that is summed over, and the one of which every entry is kept.
WANTED = {
    "layernorm": ("layernorm", "layernorm"),
    "component_totals": ("full", None),
    "all_entries": ("full", "full"),
}
Sums = dict[str, float]
Case = Callable[[], Sums]


@dataclass(frozen=True)
class Setting:
    """One task's texts and what is wanted of them."""

    base: Base
    task: Task
    encoded: Encoded
    within: Selection
    entries: Selection | None

    def log_likelihood(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The sum over examples of log p(y | x)."""
        if self.task.kind == "regression":
            return -(((labels - outputs[:, 0]) ** 2) / 2).sum()
        return outputs.log_softmax(1).gather(1, labels[:, None]).sum()

    def labels(self, numbers: np.ndarray | slice) -> Tensor:
        """The labels of some examples."""
        labels = self.encoded.labels
        assert labels is not None
        return labels[numbers].float() if self.task.kind == "regression" else labels[numbers]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default=",".join((*TASKS, STEPS)))
    parser.add_argument("--against", default="loop,opacus,vmap")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cases = read("fisher")
    for part in options.parts.split(","):
        if part == STEPS:
            steps, against = mask_step.measure(7 * options.rounds)
            cases[STEPS] = {**steps, "ratios": against}
        else:
            cases.update(measure(part, options.against.split(","), options.rounds))
        path = write("fisher", cases, together(cases), examples=EXAMPLES, examples_of_others=FEW, rounds=options.rounds)
    for name, value in together(cases).items():
        print(f"{name}: {value:.2f}")
    print(path)


def together(cases: dict[str, Any]) -> dict[str, float]:
    """The ratios of all cases; the geometric mean of what was measured on several tasks."""
    found: dict[str, list[float]] = {}
    for case in cases.values():
        for name, value in case["ratios"].items():
            found.setdefault(name, []).append(value)
    return {name: statistics.geometric_mean(values) for name, values in found.items()}


def measure(name: str, against: list[str], rounds: int) -> dict[str, Any]:
    """The cases of one task."""
    base = load_base("minilm")
    base.model.set_attn_implementation("sdpa")
    data = glue(name)
    encoded = encode(data.labelled("train").sample(max(EXAMPLES.values()), 0), base.need_tokenizer(), 128)
    base.put_head(HeadSpec(data.task.kind, data.task.labels), 0)
    cases = {}
    for wanted, (within, entries) in WANTED.items():
        kept = None if entries is None else select(base.layout, entries)
        many = spread(encoded, EXAMPLES[wanted])
        setting = Setting(base, data.task, many, select(base.layout, within), kept)
        case = cases[f"{wanted} {name}"] = compare(setting, wanted, against, rounds)
        print(name, wanted, {peer: round(value, 2) for peer, value in case["ratios"].items()}, flush=True)
    return cases


def spread(encoded: Encoded, count: int) -> Encoded:
    """`count` examples, spread evenly over the lengths."""
    order = np.argsort(encoded.lengths, kind="stable")
    chosen = order[((np.arange(count) + 0.5) * len(order) / count).astype(int)]
    assert encoded.labels is not None
    fields = {name: tuple(values[i] for i in chosen) for name, values in encoded.fields.items()}
    return replace(encoded, fields=fields, labels=encoded.labels[chosen], cut=())


def compare(setting: Setting, wanted: str, against: list[str], rounds: int) -> dict[str, Any]:
    """Seconds an example of each, the difference of its sums from the loop's, and the peers' times over ours."""
    few = replace(setting, encoded=spread(setting.encoded, FEW))
    peers = {name: PEERS[name](few) for name in against}
    own = {"ours": ours(setting)}
    checked = {"loop": loop(few), "ours": ours(few), **peers}
    sums = {name: run() for name, run in checked.items()}
    taken = alternate({**own, **peers}, rounds, warmup=0)
    seconds = {
        name: [one / (len(setting.encoded) if name in own else FEW) for one in values] for name, values in taken.items()
    }
    return {
        "mean_tokens": {"ours": float(setting.encoded.lengths.mean()), "others": float(few.encoded.lengths.mean())},
        **{
            name: {**summary(values), "difference": _difference(sums[name], sums["loop"])}
            for name, values in seconds.items()
        },
        "ratios": {f"{wanted}_vs_{name}": ratio(seconds[name], seconds["ours"]) for name in seconds if name != "ours"},
    }


def _difference(sums: Sums, truth: Sums) -> float:
    """Largest relative difference, over parameters whose information is more than rounding."""
    floor = 1e-9 * max(truth.values())
    return max(abs(sums[name] - value) / value for name, value in truth.items() if value > floor and name in sums)


def ours(setting: Setting) -> Case:
    """`normtune.importance.fisher`, as the command line calls it."""
    request = Request(setting.within, setting.entries)

    def run() -> Sums:
        return {
            name: total * len(setting.encoded)
            for name, total in fisher(setting.base, setting.task, setting.encoded, request).totals.items()
        }

    return run


def loop(setting: Setting) -> Case:
    """One forward and one backward pass an example, unpadded, with only what is wanted requiring a gradient."""
    model = setting.base.model

    def run() -> Sums:
        parameters = dict(model.named_parameters())
        own = {name: parameters[name].requires_grad_() for name in setting.within.chosen}
        squares = {name: torch.zeros_like(parameter) for name, parameter in own.items()}
        for number in range(len(setting.encoded)):
            outputs = model(**setting.encoded.batch([number])).logits
            setting.log_likelihood(outputs, setting.labels(slice(number, number + 1))).backward()
            for name, parameter in own.items():
                if parameter.grad is not None:
                    squares[name] += parameter.grad.square()
                    parameter.grad = None
        model.requires_grad_(False)
        return {name: float(values.sum()) for name, values in squares.items()}

    return run


def batches(encoded: Encoded) -> list[np.ndarray]:
    """The peers' batches, by length, as a careful user of theirs would make them."""
    order = np.argsort(encoded.lengths, kind="stable")
    return list(np.split(order, range(PEER_BATCH, len(order), PEER_BATCH)))


def opacus(setting: Setting) -> Case:
    """Opacus: per-example gradients as an attribute of each parameter."""
    from opacus import GradSampleModule

    model = setting.base.model

    @contextmanager
    def wrapped() -> Iterator[GradSampleModule]:
        parameters = dict(model.named_parameters())
        for name in setting.within.chosen:
            # Opacus has no gradient for position embeddings, which have no dimension for examples.
            parameters[name].requires_grad_("position" not in name)
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p, module.kept = 0.0, module.p  # type: ignore[assignment]
        sampler = GradSampleModule(model, loss_reduction="sum", strict=False)
        yield sampler
        sampler.to_standard_module()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = module.kept  # type: ignore[assignment]
        model.eval().requires_grad_(False)

    def run() -> Sums:
        with wrapped() as sampler:
            own = {n: p for n, p in model.named_parameters() if p.requires_grad and n in setting.within.chosen}
            squares = {name: torch.zeros_like(parameter) for name, parameter in own.items()}
            for numbers in batches(setting.encoded):
                outputs = sampler(**setting.encoded.batch(numbers)).logits
                setting.log_likelihood(outputs, setting.labels(numbers)).backward()
                for name, parameter in own.items():
                    squares[name] += parameter.grad_sample.square().sum(0)  # type: ignore[attr-defined]
                sampler.zero_grad()
        return {name: float(values.sum()) for name, values in squares.items()}

    return run


def vmapped(setting: Setting) -> Case:
    """``torch.func``: vmap over the gradient of one example; it needs eager attention and a mask made beforehand."""
    model = setting.base.model

    def run() -> Sums:
        model.set_attn_implementation("eager")
        everything = {name: parameter.detach() for name, parameter in model.named_parameters()}
        own = {name: everything[name] for name in setting.within.chosen}

        def single(values: dict[str, Tensor], ids: Tensor, types: Tensor, mask: Tensor, label: Tensor) -> Tensor:
            inputs = {"input_ids": ids[None], "token_type_ids": types[None], "attention_mask": mask}
            outputs = functional_call(model, {**everything, **values}, (), inputs).logits
            return setting.log_likelihood(outputs, label[None])

        gradients = vmap(grad(single), in_dims=(None, 0, 0, 0, 0))
        squares = {name: torch.zeros_like(parameter) for name, parameter in own.items()}
        for numbers in batches(setting.encoded):
            batch = setting.encoded.batch(numbers)
            mask = (1 - batch["attention_mask"][:, None, None, None, :].float()) * torch.finfo(torch.float32).min
            found = gradients(own, batch["input_ids"], batch["token_type_ids"], mask, setting.labels(numbers))
            for name, values in found.items():
                squares[name] += values.square().sum(0)
        model.set_attn_implementation("sdpa")
        return {name: float(values.sum()) for name, values in squares.items()}

    return run


#: What ours is compared with.
PEERS: dict[str, Callable[[Setting], Case]] = {"loop": loop, "opacus": opacus, "vmap": vmapped}

if __name__ == "__main__":
    main()
