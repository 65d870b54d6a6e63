"""The deltas, banks and requests that the bank's benchmark measures with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np
import torch

from normtune.data.encode import Encoded, encode
from normtune.data.suites import load_task
from normtune.deltas.bank import Bank, Prepared
from normtune.deltas.delta import Delta
from normtune.fast.linear import fast_linear
from normtune.methods.expression import select
from normtune.methods.trainable import Trainable
from normtune.models.base import Base
from normtune.models.head import HeadSpec

WINDOW, TOKENS, SHORT = 64, 53, 8
STEPS = 12
HEADS: dict[int, tuple[str, ...]] = {2: ("no", "yes"), 3: ("no", "maybe", "yes"), 1: ()}


def short_training(base: Base, method: str) -> Delta:
    """A delta of a few real steps on the toy sentiment task."""
    encoded = encode(load_task("sst2", "toy").labelled("train"), base.need_tokenizer(), 64)
    swap = base.put_head(HeadSpec("classification", HEADS[2]))
    tuning = Trainable(base, select(base.layout, method))
    optimizer = torch.optim.AdamW(tuning.param_groups(0.01), lr=3e-3)
    assert encoded.labels is not None
    for step in range(STEPS):
        rows = np.arange(step * 32, step * 32 + 32)
        with fast_linear():
            outputs = base.model(**encoded.batch(rows)).logits
            torch.nn.functional.cross_entropy(outputs, encoded.labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    delta = Delta.capture(tuning, task="sentiment", method=method)
    tuning.undo()
    swap.undo()
    return delta


def untrained(base: Base) -> Delta:
    """A delta of LayerNorm's values as they are."""
    tuning = Trainable(base, select(base.layout, "layernorm"))
    delta = Delta.capture(tuning, task="made", method="layernorm")
    tuning.undo()
    return delta


def variations(delta: Delta, count: int, *, seed: int = 0) -> dict[str, Delta]:
    """Deltas whose values are those of `delta`, each times 1 plus 5 % of noise."""
    generator = torch.Generator().manual_seed(seed)

    def varied(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {n: v * (1 + 0.05 * torch.randn(v.shape, generator=generator)) for n, v in values.items()}

    return {
        f"task-{number}": replace(delta, values=varied(delta.values), head=varied(delta.head))
        for number in range(count)
    }


def mixed_heads(trained: Mapping[str, Delta]) -> dict[str, Delta]:
    """Deltas of both methods with two labels, three labels, and a number."""
    result = {}
    for method, delta in trained.items():
        for name, one in variations(delta, 30).items():
            outputs = (2, 3, 1)[int(name.removeprefix("task-")) % 3]
            head = {key: value.repeat(2, *(1,) * (value.ndim - 1))[:outputs] for key, value in one.head.items()}
            kind = "regression" if outputs == 1 else "classification"
            info = one.info.model_copy(update={"labels": HEADS[outputs], "kind": kind})
            result[f"{method}-{name}"] = replace(one, info=info, head=head)
    return result


def filled(base: Base, deltas: Mapping[str, Delta]) -> Bank:
    """A bank with these deltas."""
    bank = Bank(base, max_batch=WINDOW)
    for name, delta in deltas.items():
        bank.add(name, delta)
    return bank


def windows(bank: Bank, tokens: int = TOKENS, *, seed: int = 0, count: int = 16) -> Iterator[list[Prepared]]:
    """Windows of random token ids for random tasks of the bank, drawn before anything is timed."""
    random, tasks = np.random.default_rng(seed), bank.tasks
    names = list(tasks)
    drawn = []
    for _ in range(count):
        ids = torch.from_numpy(random.integers(1000, 20000, (WINDOW, tokens)))
        fields = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        chosen = [str(name) for name in random.choice(names, WINDOW)]
        drawn.append([
            Prepared(tasks[name], {field: value[row] for field, value in fields.items()}, False)
            for row, name in enumerate(chosen)
        ])
    return cycle(drawn)


def encoded_of(window: Sequence[Prepared]) -> Encoded:
    """A window's token ids as one set of examples."""
    fields = window[0].fields
    return Encoded({n: tuple(one.fields[n] for one in window) for n in fields}, None, dict.fromkeys(fields, 0))


def groups_of(window: Sequence[Prepared]) -> dict[str, list[int]]:
    """The rows of each task of a window."""
    groups: dict[str, list[int]] = {}
    for row, one in enumerate(window):
        groups.setdefault(one.entry.name, []).append(row)
    return groups
