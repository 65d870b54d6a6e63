"""Peak memory of a training step of a model of BERT-large's shape, ours and the peers', and what saving it costs.

Weights are random, float32 on the CPU; batches of 32 texts of 128 tokens, dropout on as in BERT's configuration, AdamW
with its state. Run ``python benchmarks/memory.py``: about six minutes on two quiet cores. ``--part peak`` runs each
case in a process of its own; in ``--part time`` the cases take turns on a model of four layers; ``--cases`` selects
some of them, and ``--missing`` those whose peak is not known yet. Each result is written to
``results/benchmarks/memory.json`` as soon as it is there. On the CPU the peak is the process's largest resident set,
interpreter and the libraries that the case needs included; freed activations go back to the system in the peers' cases.
With ``--device cuda`` it is torch's allocations, products are bfloat16, and tokens a second and the share of the
accelerator's peak are given too. ``NORMTUNE_CLOCK=cpu`` times by the processor's clock, for a machine that is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from harness import alternate, now, ratio, read, write
from products import Products, Shape, peak_rate
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from normtune.config import Memory
from normtune.fast.memory import keep_freed
from normtune.fast.ways import choose
from normtune.machine import peak_memory, reset_peak_memory
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import wrap

#: By name: the method, and how much memory it may take.
CASES: dict[str, tuple[str, Memory]] = {
    "full": ("full", "plain"),
    "full_recomputing": ("full", "low"),
    "lora": ("lora", "plain"),
    "lora_recomputing": ("lora", "low"),
    "peft_layernorm": ("layernorm", "plain"),
    "peft_layernorm_recomputing": ("layernorm", "low"),
    "ours": ("ours", "plain"),
    "ours_low": ("ours", "low"),
}
RATIOS = tuple((f"{name}_of_full", name, "full") for name in CASES if name != "full")
TIMES = (
    ("low_time_of_ours", "ours_low", "ours"),
    ("peft_recomputing_time_of_peft", "peft_layernorm_recomputing", "peft_layernorm"),
    ("peft_time_of_ours", "peft_layernorm", "ours"),
    ("full_time_of_ours", "full", "ours"),
)


def main() -> None:
    """Measure what is asked for, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=("all", "peak", "time", "one"), default="all")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--batch", type=int, help="of peaks 32 by default, of times 8")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = options.cases.split(",")
    if options.part == "one":
        print(json.dumps(peak(names[0], options.layers or 24, options.batch or 32, options)))
        return
    stored = read("memory")
    for name in names if options.part != "time" else ():
        if options.missing and name in stored.get("peak", {}):
            continue
        stored.setdefault("peak", {})[name] = apart(name)
        print(name, stored["peak"][name], flush=True)
        save(stored)
    if options.part != "peak":
        stored["time"] = times(names, options.layers or 4, options.batch or 8, options)
    save(stored)


def apart(name: str) -> dict[str, float]:
    """Measure the case in a process of its own."""
    command = [sys.executable, *sys.argv, "--part", "one", "--cases", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peak(name: str, layers: int, batch: int, options: argparse.Namespace) -> dict[str, float]:
    """Peak GiB of a step, and its seconds."""
    device = torch.device(options.device)
    libraries = peak_memory(device)
    case = Case(name, layers, options.device)
    case.step(1, 8)  # makes the optimizer's state
    reset_peak_memory(device)
    seconds = case.timed(batch, options.tokens)
    found = {
        "layers": layers,
        "peak_gib": round(peak_memory(device) / 2**30, 3),
        "libraries_gib": round(libraries / 2**30, 3),
        "step_seconds": round(seconds, 2),
    }
    if device.type == "cuda":
        found.update(case.rates(batch, options.tokens))
    return found


class Case:
    """A model that one of the cases trains.

    Args:
        name: The case.
        layers: How many of BERT-large's 24 layers the model has.
        device: Where it lies.
    """

    def __init__(self, name: str, layers: int, device: str) -> None:
        method, self._memory = CASES[name]
        self._ours = method == "ours"
        if not self._ours:
            import peers  # PEFT and the Trainer, which a process of ours does without
        keep_freed(False)  # the peers' peaks come out lower for it
        self._device = device
        torch.manual_seed(0)
        config = BertConfig(hidden_size=1024, num_hidden_layers=layers, num_attention_heads=16, intermediate_size=4096)
        base = wrap(BertForSequenceClassification(config))
        self._shape = Shape.of(config)
        # On an accelerator the frozen part is bfloat16; peers keep float32 weights and cast, as the Trainer does.
        if self._ours:
            nn.Module.to(base.model, device, torch.bfloat16 if device == "cuda" else torch.float32)
        self.model: nn.Module = base.model if self._ours else peers.peer_model(base, method)
        nn.Module.to(self.model, device).train()
        groups: Any = (
            Trainable(base, select(base.layout, "layernorm")).param_groups(0.01)
            if self._ours
            else [p for p in self.model.parameters() if p.requires_grad]
        )
        self._ways = choose(base, dropout=True, memory=self._memory) if self._ours else None
        self._optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
        if not self._ours and self._memory == "low":
            peer: Any = self.model
            peer.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            peer.enable_input_require_grads()

    def step(self, batch: int, tokens: int) -> None:
        """A forward pass, a backward pass and a step of AdamW, on random tokens."""
        ids = torch.randint(1000, 20000, (batch, tokens), device=self._device)
        labels = torch.arange(batch, device=self._device) % 2
        with ExitStack() as stack:
            if self._ways is not None:
                stack.enter_context(self._ways.context())
            elif self._device == "cuda":
                stack.enter_context(torch.autocast("cuda", torch.bfloat16))
            outputs = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
            torch.nn.functional.cross_entropy(outputs, labels).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def timed(self, batch: int, tokens: int) -> float:
        """Seconds of a step."""
        self._wait()
        started = now()
        self.step(batch, tokens)
        self._wait()
        return now() - started

    def rates(self, batch: int, tokens: int, steps: int = 10) -> dict[str, float]:
        """Tokens a second, and the share of the accelerator's peak that training LayerNorm's products come to."""
        seconds = min(self.timed(batch, tokens) for _ in range(steps))
        operations = Products(self._shape, self._device, torch.bfloat16).operations(batch, tokens)
        return {
            "tokens_a_second": round(batch * tokens / seconds),
            "share_of_peak": round(operations / seconds / peak_rate(self._device, 8192), 4),
        }

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def times(names: list[str], layers: int, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step in every round, by case; the cases take turns, after a round that is not counted."""
    cases = {name: partial(Case(name, layers, options.device).timed, batch, options.tokens) for name in names}
    seconds = {name: [round(s, 4) for s in each] for name, each in alternate(cases, options.rounds).items()}
    sizes = {"layers": layers, "batch": batch, "tokens": options.tokens, "threads": options.threads}
    return {**sizes, "clock": os.environ.get("NORMTUNE_CLOCK", "wall"), "cases": seconds}


def save(stored: dict[str, Any]) -> None:
    """Write what there is, with its ratios."""
    peaks, seconds = stored.get("peak", {}), stored.get("time", {}).get("cases", {})
    found = {
        name: peaks[own]["peak_gib"] / peaks[full]["peak_gib"] for name, own, full in RATIOS if {own, full} <= {*peaks}
    }
    found |= {name: ratio(seconds[a], seconds[b]) for name, a, b in TIMES if {a, b} <= {*seconds}}
    print(write("memory", stored, found))
    for name, value in found.items():
        print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    main()
