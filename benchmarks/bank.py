"""The bank: a thousand tasks in shared batches, against the base on one task, PEFT's switching, and one process a task.

A short real training of each method gives one delta, and the others are seeded variations of its values, since what a
row costs does not depend on the values. Requests are windows of 64 rows whose tasks are drawn at random. All ways start
from token ids and take turns; the base uses the fast linear layers too, and PEFT is timed without them, as its users
run it, and with them. A ratio is the median over rounds of the other's time over ours. In the same run, rows of mixed
batches are compared with their delta applied alone.

Run ``python benchmarks/bank.py``: about ten minutes on two cores. It writes ``results/benchmarks/bank.json``, part by
part, and continues where it was stopped; ``--parts`` measures some parts anew. On a shared machine,
``--threads 1 --clock cpu`` counts processor time instead of wall time.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
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
from bank_peers import Figures, Switching, against_peft, one_process_a_task
from harness import CLOCK, RESULTS, alternate, ratio, summary, write

from normtune.data.suites import load_task
from normtune.deltas.answers import Predictor
from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.evaluation import logits
from normtune.models.base import Base, load_base

COUNTS = "10,100,1000"


@dataclass(frozen=True)
class Setting:
    """What the parts measure with, each made on first use."""

    counts: tuple[int, ...]
    rounds: int
    peft_rounds: int
    keep: Path | None

    @cached_property
    def base(self) -> Base:
        """The base model."""
        return load_base("minilm")

    @cached_property
    def layernorm(self) -> Delta:
        """A delta of LayerNorm."""
        return self._trained("layernorm")

    @cached_property
    def both(self) -> dict[str, Delta]:
        """A delta of LayerNorm and one of BitFit, by method."""
        return {"layernorm": self.layernorm, "bitfit": self._trained("bitfit")}

    def _trained(self, method: str) -> Delta:
        kept = None if self.keep is None else self.keep / method
        if kept is not None and kept.is_dir():
            return Delta.load(kept)
        delta = short_training(self.base, method)
        if kept is not None:
            delta.save(kept)
        return delta

    @cached_property
    def deltas(self) -> dict[str, Delta]:
        """Deltas of LayerNorm, as many as the largest bank has."""
        return variations(self.layernorm, max(self.counts))

    @cached_property
    def banks(self) -> dict[int, Bank]:
        """A bank of each size."""
        return {count: filled(self.base, dict(list(self.deltas.items())[:count])) for count in self.counts}

    @cached_property
    def largest(self) -> Bank:
        """The largest bank of LayerNorm deltas."""
        return self.banks[max(self.counts)]

    @cached_property
    def bitfit(self) -> Bank:
        """A bank of as many BitFit deltas."""
        return filled(self.base, variations(self.both["bitfit"], max(self.counts)))


PARTS: dict[str, Callable[[Setting], Figures]] = {
    "long": lambda setting: throughput(setting, TOKENS, setting.rounds),
    "short": lambda setting: throughput(setting, SHORT, 4 * setting.rounds),
    "texts": lambda setting: from_texts(setting),
    "peft": lambda setting: peft(setting, setting.counts[-1:]),
    "peft_fewer": lambda setting: peft(setting, setting.counts[:-1]),
    "processes": lambda own: one_process_a_task(own.base, own.largest, own.layernorm, own.peft_rounds),
    "adding": lambda setting: ({"adding": adding(setting.largest, setting.layernorm)}, {}),
    "memory": lambda setting: ({"memory": memory(setting.base, setting.both)}, {}),
    "quality": lambda setting: ({"quality": quality(setting.base, mixed_heads(setting.both))}, {}),
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", help=f"some of {', '.join(PARTS)}; by default those not measured yet")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peft-rounds", type=int, default=3)
    parser.add_argument("--tasks", default=COUNTS, help="numbers of tasks; the ratios are at the largest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--keep", type=Path, help="folder that keeps the trained deltas between calls")
    parser.add_argument("--name", default="bank", help="name of the file that is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ[CLOCK] = options.clock
    counts = tuple(sorted(int(count) for count in options.tasks.split(",")))
    setting = Setting(counts, options.rounds, options.peft_rounds, options.keep)
    fixed = {"window": WINDOW, "tokens": TOKENS, "short_tokens": SHORT, "training_steps": STEPS, "tasks": counts}
    done = _done(options.name)
    for part in options.parts.split(",") if options.parts else [part for part in PARTS if part not in done["parts"]]:
        cases, ratios = PARTS[part](setting)
        taken = {"rounds": setting.rounds, "peft_rounds": setting.peft_rounds, "clock": options.clock}
        done["parts"][part] = {**taken, "threads": options.threads}
        done["cases"] |= cases
        done["ratios"] |= ratios
        path = write(options.name, done["cases"], done["ratios"], parts=done["parts"], **fixed)
        print(part, path, *(f"{name}: {value:.3f}" for name, value in ratios.items()), sep="\n  ", flush=True)


def _done(name: str) -> dict[str, dict[str, Any]]:
    """What is measured already."""
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    return {key: before.get(key, {}) for key in ("parts", "cases", "ratios")}


def throughput(setting: Setting, tokens: int, rounds: int) -> Figures:
    """Mixed windows against the base on one task, and against the bank itself on one: from token ids to logits."""
    suffix = "" if tokens == TOKENS else f"_{tokens}_tokens"
    some = {"mixed": setting.largest, "bitfit_mixed": setting.bitfit}
    if tokens == TOKENS:
        some |= {f"mixed_{n}": bank for n, bank in setting.banks.items() if bank is not setting.largest}
    runs = {"base": _base_run(setting.base, setting.largest, tokens)}
    runs |= {name: _mixed_run(bank, tokens) for name, bank in some.items()}
    runs["one_task"] = _mixed_run(filled(setting.base, {"one": setting.layernorm}), tokens)
    seconds = alternate(runs, rounds)
    cases = {f"{name}{suffix}": summary(values) for name, values in seconds.items()}
    ratios = {f"{name}_vs_base{suffix}": ratio(seconds["base"], seconds[name]) for name in some}
    for name in ("mixed", "bitfit_mixed"):
        ratios[f"{name}_vs_one_task_in_the_bank{suffix}"] = ratio(seconds["one_task"], seconds[name])
    return cases, ratios


def peft(setting: Setting, counts: tuple[int, ...]) -> Figures:
    """Mixed windows against PEFT's, at some numbers of tasks; the ratios' names leave out the largest number."""
    cases: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    for count in counts:
        bank = setting.banks[count]
        switching = Switching({name: setting.deltas[name] for name in bank})
        for tokens in (TOKENS, SHORT):
            suffix = "" if tokens == TOKENS else f"_{tokens}_tokens"
            name = f"peft_{count}{suffix}"
            cases[name], paces = against_peft(switching, bank, tokens, setting.peft_rounds)
            size = "" if bank is setting.largest else f"_{count}"
            ratios |= {f"mixed_vs_peft_switching{kind}{size}{suffix}": pace for kind, pace in paces.items()}
    return cases, ratios


def _base_run(base: Base, bank: Bank, tokens: int) -> Callable[[], object]:
    drawn = windows(bank, tokens)
    return lambda: logits(base, encoded_of(next(drawn)), WINDOW)


def _mixed_run(bank: Bank, tokens: int) -> Callable[[], object]:
    drawn = windows(bank, tokens)
    return lambda: bank.logits(next(drawn))


def from_texts(setting: Setting) -> Figures:
    """From texts to answers: the bank over random tasks, and one delta on the base."""
    texts = load_task("sst2", "toy").labelled("dev").texts[: 2 * WINDOW]
    random, names = np.random.default_rng(0), list(setting.largest)

    def alone() -> object:
        with Predictor(setting.base, setting.layernorm) as predictor:
            return predictor.predict(texts)

    def mixed() -> object:
        return setting.largest.predict(texts, [str(name) for name in random.choice(names, len(texts))])

    seconds = alternate({"alone": alone, "mixed": mixed}, setting.rounds)
    case = {"from_texts": {name: summary(values) for name, values in seconds.items()}}
    return case, {"mixed_vs_base_from_texts": ratio(seconds["alone"], seconds["mixed"])}


def quality(base: Base, deltas: Mapping[str, Delta]) -> dict[str, float]:
    """How far the rows of a window, whose heads have two labels, three, or a number, are from each delta alone."""
    bank = filled(base, deltas)
    rows = next(windows(bank, seed=9, count=1))
    largest = 0.0
    for one, got in zip(rows, bank.logits(rows), strict=True):
        with deltas[one.entry.name].apply(base):
            alone = logits(base, encoded_of([one]))[0]
        largest = max(largest, float(np.abs(got - alone).max()))
    return {"rows_compared": len(rows), "largest_difference_from_alone": largest}


if __name__ == "__main__":
    main()
