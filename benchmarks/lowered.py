"""What fewer bits, and compiling, would gain where the base is frozen: products, whole steps, scores.

The parts are run apart and gathered in ``results/benchmarks/lowered.json``::

    python benchmarks/lowered.py --part products   # seconds
    python benchmarks/lowered.py --part steps      # about two minutes on one core
    python benchmarks/lowered.py --part compiled   # about three minutes
    python benchmarks/lowered.py --part scores     # a quarter of an hour; NORMTUNE_DATA names a GLUE folder

**products**: one linear layer, rounding of inputs included, and how far the result is from float32's. **steps**:
forward and backward pass of LayerNorm training without dropout, the cases taking turns. **compiled**: the same through
``torch.compile``, and how long it takes to compile. **scores**: dev scores after training on 1,000 examples for three
epochs without dropout, with a prefix, three seeds. ``NORMTUNE_CLOCK=cpu`` times by the processor's clock.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from harness import RESULTS, alternate, glue, ratio, write
from torch import Tensor
from torch._inductor import config
from transformers import BertConfig, BertForSequenceClassification

from normtune.config import Protocol
from normtune.fast.fused import fused
from normtune.fast.linear import fast_linear, infer
from normtune.fast.lowered import Lowered
from normtune.methods.expression import select
from normtune.methods.sparse import Tuning
from normtune.models.base import Base, load_base, wrap
from normtune.training.session import Session

Case = Callable[[], object]
#: By name: model, texts, tokens. Mean lengths of CoLA, MRPC and RTE, and two layers of BERT-large's shape.
STEPS = {"cola": ("minilm", 32, 11), "mrpc": ("minilm", 32, 53), "rte": ("minilm", 32, 70), "large": ("large", 8, 128)}
#: Tokens, inputs and outputs of a layer.
LAYERS = {"minilm": (1696, 384, 1536), "large": (1024, 1024, 4096)}
TASKS, SEEDS, LEARN, RATE = ("sst2", "stsb"), (0, 1, 2), 1000, 1e-2
#: Fields of a protocol, by what a table calls them.
LOW: dict[str, dict[str, Any]] = {
    "float32": {},
    "training in bfloat16": {"products": "bfloat16"},
    "training and inference in bfloat16": {"products": "bfloat16", "inference_products": "bfloat16"},
}


def main() -> None:
    """Measure the part that is asked for, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = RESULTS / "lowered.json"
    cases: dict[str, Any] = json.loads(path.read_text())["cases"] if path.is_file() else {}
    found = PARTS[options.part](options.rounds)
    cases[options.part] = {"threads": options.threads, "clock": os.environ.get("NORMTUNE_CLOCK", "wall"), **found}
    ratios = {name: value for part in cases.values() for name, value in part.get("ratios", {}).items()}
    print(write("lowered", cases, ratios))
    print(json.dumps(found, indent=1))


def products(rounds: int) -> dict[str, Any]:
    """A linear layer in float32, bfloat16 and 8 bit: seconds, and relative distance from float32."""
    found: dict[str, Any] = {"cases": {}, "ratios": {}, "distances": {}}
    for name, (tokens, inputs, outputs) in LAYERS.items():
        torch.manual_seed(0)
        # Weights are as large as a trained model's, inputs normalised.
        cases = layer(torch.randn(tokens, inputs), torch.randn(outputs, inputs) * inputs**-0.5, torch.zeros(outputs))
        seconds = alternate({way: repeated(case) for way, case in cases.items()}, rounds)
        exact = cases["float32"]()
        for way, case in cases.items():
            found["distances"][f"{name}_{way}"] = float((case() - exact).norm() / exact.norm())
            found["ratios"][f"product_{name}_float32_vs_{way}"] = ratio(seconds["float32"], seconds[way])
        found["cases"][name] = seconds
    return found


def layer(inputs: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Ways to compute one layer, by name."""
    lowered = Lowered()
    scales = weight.abs().amax(1) / 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves these functions to a package of their own
        eighth = torch.quantize_per_channel(weight, scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8)
        torch.backends.quantized.engine = "onednn"
        packed = torch.ops.quantized.linear_prepack(eighth, bias)
    return {
        "float32": lambda: infer(inputs[None], weight, bias)[0],
        "bfloat16": lambda: lowered.linear(inputs, weight, bias),
        "int8": lambda: torch.ops.quantized.linear_dynamic(inputs, packed, False),
    }


def repeated(case: Case, times: int = 10) -> Case:
    """`case` several times, since one alone is too short for the processor's clock."""
    return lambda: [case() for _ in range(times)]


def steps(rounds: int) -> dict[str, Any]:
    """Whole steps in float32 and bfloat16: products alone, all of the model, and torch's autocast."""
    found: dict[str, Any] = {"cases": {}, "ratios": {}}
    for name, (model, batch, tokens) in STEPS.items():
        ways = {
            "float32": step(made(model), batch, tokens, fast_linear),
            "products": step(made(model), batch, tokens, lambda: fast_linear("bfloat16")),
            "model": step(made(model, "bfloat16"), batch, tokens, fast_linear),
            "autocast": step(made(model), batch, tokens, lambda: torch.autocast("cpu", torch.bfloat16)),
        }
        seconds = alternate(ways, rounds)
        found["cases"][name] = seconds
        for way in list(ways)[1:]:
            found["ratios"][f"step_{name}_float32_vs_{way}"] = ratio(seconds["float32"], seconds[way])
    return found


def made(model: str, dtype: str = "float32") -> Base:
    """MiniLM, or two layers of BERT-large's shape with random weights."""
    if model == "minilm":
        return load_base("minilm", dtype=dtype)
    torch.manual_seed(0)
    config = BertConfig(hidden_size=1024, num_hidden_layers=2, num_attention_heads=16, intermediate_size=4096)
    return wrap(BertForSequenceClassification(config).to(getattr(torch, dtype)).eval())


def step(
    base: Base, batch: int, tokens: int, context: Callable[[], AbstractContextManager[Any]], model: Any = None
) -> Case:
    """Forward and backward pass of LayerNorm training."""
    Tuning(base, select(base.layout, "layernorm"))
    ids = torch.randint(1000, 20000, (batch, tokens), generator=torch.Generator().manual_seed(0))
    labels, entered = torch.arange(batch) % 2, Kept(context)
    runs = base.model if model is None else model

    def run() -> None:
        with entered:
            outputs = runs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
            torch.nn.functional.cross_entropy(outputs, labels).backward()

    return run


class Kept(AbstractContextManager[None]):
    """A context as a training enters it: ours once, with the copies that it keeps; torch's anew."""

    def __init__(self, context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make, self._open = context, context()

    def __enter__(self) -> None:
        if isinstance(self._open, torch.autocast):
            self._open = self._make()
        self._open.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


def compiled(rounds: int) -> dict[str, Any]:
    """A step through ``torch.compile``, which needs a C++ compiler, beside torch's own and our compiled layers."""
    found: dict[str, Any] = {"cases": {}, "ratios": {}, "compile_seconds": {}}
    config.force_disable_caches = True  # what an earlier run left would make compiling look cheap
    for name in ("cola", "mrpc"):
        model, batch, tokens = STEPS[name]
        base, own = made(model), made(model)
        ways = {
            "ours": step(own, batch, tokens, fast_linear),
            "torch": step(made(model), batch, tokens, nullcontext),
            "compiled": step(base, batch, tokens, nullcontext, torch.compile(base.model)),
        }
        started = time.perf_counter()
        ways["compiled"]()
        found["compile_seconds"][name] = round(time.perf_counter() - started, 1)
        with fused(own.model, compiled=True):
            seconds = alternate(ways, rounds)
        found["cases"][name] = seconds
        for way in ("ours", "torch"):
            found["ratios"][f"step_{name}_{way}_vs_compiled"] = ratio(seconds[way], seconds["compiled"])
    return found


def scores(_: int) -> dict[str, Any]:
    """Dev scores by task, products and seed; the seconds of a training, evaluation included."""
    session = Session("minilm")
    found: dict[str, Any] = {"cases": {}, "seconds": {}}
    for name in TASKS:
        data = glue(name)
        for low, fields in LOW.items():
            protocol = Protocol(name="b", epochs=3, max_train=LEARN, dropout=False, prefix=True, **fields)
            runs = [session.run(session.config(name, "layernorm", RATE, s, protocol), data)[0] for s in SEEDS]
            found["cases"].setdefault(name, {})[low] = [round(run.score or 0.0, 5) for run in runs]
            found["seconds"].setdefault(name, {})[low] = [run.seconds for run in runs]
            print(name, low, found["cases"][name][low], flush=True)
    return found


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "products": products,
    "steps": steps,
    "compiled": compiled,
    "scores": scores,
}

if __name__ == "__main__":
    main()
