"""The bank: a thousand tasks in shared batches, against the base on one task, PEFT's switching, and one process a task.

A short real training of each method gives one delta, and the others are seeded variations of its values: what a row
costs does not depend on what its values are. Requests are windows of 64 rows whose tasks are drawn at random. All ways
start from token numbers, take the fast linear layers, and take turns; a ratio is the median over rounds of the other's
time over ours. In the same run, rows of mixed batches are compared with their delta applied alone.

Run ``python benchmarks/bank.py``: a few minutes on two cores. It writes ``results/benchmarks/bank.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from bank_deltas import (
    SHORT,
    STEPS,
    TOKENS,
    WINDOW,
    encoded_of,
    filled,
    mixed_heads,
    short_training,
    variations,
    windows,
)
from bank_load import adding, memory
from bank_peers import Figures, against_peft, one_process_a_task
from harness import alternate, ratio, summary, write

from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.evaluation import logits
from normtune.models.base import Base, load_base
from normtune.prediction import Predictor
from normtune.tasks.suites import load_task

COUNTS = "10,100,1000"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peft-rounds", type=int, default=5)
    parser.add_argument("--tasks", default=COUNTS, help="numbers of tasks; the ratios are at the largest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="bank", help="name of the file that is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    counts = sorted(int(count) for count in options.tasks.split(","))
    base = load_base("minilm")
    trained = {method: short_training(base, method) for method in ("layernorm", "bitfit")}
    deltas = {method: variations(delta, counts[-1]) for method, delta in trained.items()}
    banks = {n: filled(base, dict(list(deltas["layernorm"].items())[:n])) for n in counts}
    bitfit = filled(base, deltas["bitfit"])
    cases: dict[str, Any] = {"memory": memory(base, trained)}
    ratios: dict[str, float] = {}
    for some, paces in (
        throughput(base, banks, bitfit, options.rounds),
        from_texts(base, banks[counts[-1]], trained["layernorm"], options.rounds),
        against_peft(banks, deltas["layernorm"], options.peft_rounds),
        one_process_a_task(base, banks[counts[-1]], trained["layernorm"], options.peft_rounds),
    ):
        cases.update(some)
        ratios.update(paces)
    cases["adding"] = adding(banks[counts[-1]], trained["layernorm"])
    cases["quality"] = quality(base, mixed_heads(trained))
    setting = {"window": WINDOW, "tokens": TOKENS, "short_tokens": SHORT, "training_steps": STEPS}
    path = write(options.name, cases, ratios, **setting, rounds=options.rounds, peft_rounds=options.peft_rounds)
    for name, value in ratios.items():
        print(f"{name}: {value:.3f}")
    print(cases["adding"], cases["memory"], cases["quality"], path, sep="\n")


def throughput(base: Base, banks: Mapping[int, Bank], bitfit: Bank, rounds: int) -> Figures:
    """Mixed windows against the base on one task, both from token numbers to logits."""
    cases: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    largest = banks[max(banks)]
    for tokens, turns in ((TOKENS, rounds), (SHORT, 4 * rounds)):
        suffix = "" if tokens == TOKENS else f"_{tokens}_tokens"
        some = {"mixed": largest, "bitfit_mixed": bitfit}
        if tokens == TOKENS:
            some |= {f"mixed_{n}": bank for n, bank in banks.items() if bank is not largest}
        runs = {"base": _base_run(base, largest, tokens)}
        runs |= {name: _mixed_run(bank, tokens) for name, bank in some.items()}
        seconds = alternate(runs, turns, warmup=2)
        cases |= {f"{name}{suffix}": summary(values) for name, values in seconds.items()}
        ratios |= {f"{name}_vs_base{suffix}": ratio(seconds["base"], seconds[name]) for name in some}
    return cases, ratios


def _base_run(base: Base, bank: Bank, tokens: int) -> Callable[[], object]:
    drawn = windows(bank, tokens)
    return lambda: logits(base, encoded_of(next(drawn)), WINDOW)


def _mixed_run(bank: Bank, tokens: int) -> Callable[[], object]:
    drawn = windows(bank, tokens)
    return lambda: bank.logits(next(drawn))


def from_texts(base: Base, bank: Bank, delta: Delta, rounds: int) -> Figures:
    """From texts to answers: the bank over random tasks, and one delta on the base."""
    texts = load_task("sst2", "templates").labelled("dev").texts[: 2 * WINDOW]
    random, names = np.random.default_rng(0), list(bank.tasks)

    def alone() -> object:
        with Predictor(base, delta) as predictor:
            return predictor.predict(texts)

    def mixed() -> object:
        return bank.predict(texts, [str(name) for name in random.choice(names, len(texts))])

    seconds = alternate({"alone": alone, "mixed": mixed}, rounds)
    case = {"from_texts": {name: summary(values) for name, values in seconds.items()}}
    return case, {"mixed_vs_base_from_texts": ratio(seconds["alone"], seconds["mixed"])}


def quality(base: Base, deltas: Mapping[str, Delta]) -> dict[str, float]:
    """How far rows of two mixed windows, with heads of two labels, three labels and a number, are from each alone."""
    bank = filled(base, deltas)
    drawn = windows(bank, seed=9)
    rows = [*next(drawn), *next(drawn)]
    largest = 0.0
    for one, got in zip(rows, bank.logits(rows), strict=True):
        with deltas[one.entry.name].apply(base):
            alone = logits(base, encoded_of([one]))[0]
        largest = max(largest, float(np.abs(got - alone).max()))
    return {"rows_compared": len(rows), "largest_difference_from_alone": largest}


if __name__ == "__main__":
    main()
