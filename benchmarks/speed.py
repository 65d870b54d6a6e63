"""The time of an epoch of each case, from a sample of the case's own batches, and of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import ours
import peers
import torch
from apart import Apart
from harness import CLOCK, glue, now
from products import Products, Shape

from normtune.data.encode import Encoded, buckets, by_length, encode
from normtune.data.task import Task, TaskData
from normtune.models.base import Base, load_base
from normtune.models.head import HeadSpec

#: Tokens that ``run_glue.py`` pads to, and examples a step.
LENGTH, BATCH = 128, 32
#: Examples of an epoch from which batches are drawn; the least batches drawn of each case, and where all are padded to
#: one length; for short texts more, `TOKENS` over their mean length, since what an epoch costs beside its batches would
#: weigh more on a few short ones than on a real epoch.
DRAWN_FROM, BATCHES, ALIKE, TOKENS = 2048, 4, 2, 200
#: Examples of dev.
DEV = 500
#: Examples a batch in the Trainer's evaluation, and batches that represent all of dev.
EVAL_BATCH, EVAL_BATCHES = 64, 2
RATE = 1e-2


@dataclass(frozen=True)
class Setting:
    """A task's data as the cases take them.

    Attributes:
        task: The task.
        train: Training examples.
        dev: Dev examples.
        tokenizer: The model's.
    """

    task: Task
    train: Encoded
    dev: Encoded
    tokenizer: Any

    @classmethod
    def of(cls, data: TaskData, examples: int, dev: int) -> Setting:
        """At most `examples` and `dev` examples of the task, a seeded sample."""
        tokenizer = load_base("minilm").need_tokenizer()
        wanted = (("train", examples), ("dev", dev))
        train, score = (encode(data.labelled(part).sample(size, 0), tokenizer, LENGTH) for part, size in wanted)
        return cls(data.task, train, score, tokenizer)

    @property
    def regression(self) -> bool:
        """Whether the labels are numbers."""
        return self.task.kind == "regression"

    @property
    def batches(self) -> int:
        """How many batches represent an epoch, where they are not padded to one length."""
        return max(BATCHES, int(TOKENS / self.train.lengths.mean()))

    def base(self, seed: int = 0) -> Base:
        """A fresh base model with the task's head."""
        return load_base("minilm", HeadSpec(self.task.kind, self.task.labels), head_seed=seed)


#: One measurement: seconds to set up, and seconds an example of a first epoch, a later one, a first evaluation, a later
#: one and the last one.
Times = tuple[float, float, float, float, float, float]
Run = Callable[[], Times]


#: The process that a case runs in: ours lets the C library keep freed memory, which would make the peers faster too.
PROCESSES = {
    "peers": ("peft_run_glue", "peft_tuned"),
    "ours": (*ours.HERE, "limit"),
}


def measure(task: str, rounds: int, processes: Mapping[str, Apart]) -> dict[str, Any]:
    """Seconds of each case in every round, of one task; the cases take turns.

    Args:
        task: The task.
        rounds: How often each is measured.
        processes: The processes that `PROCESSES` names.

    Returns:
        The size, and by case the seconds of setting up, a first epoch, a later one, a first evaluation of dev, a later
        one, and the best epoch's in float32 where those before were not.
    """
    found: dict[str, list[Times]] = {}
    for turn in range(rounds):
        for process, cases in PROCESSES.items():
            for case in cases:
                found.setdefault(case, []).append(processes[process].run(run_case, task, case))
        print(f"{task}: round {turn + 1} of {rounds}", flush=True)
    return {**_described(Setting.of(glue(task), DRAWN_FROM, DEV), found), "measured": circumstances(rounds)}


def run_case(task: str, case: str) -> Times:
    """One measurement in this process, which caches what the task's cases need."""
    return _ready(task, case)()


@lru_cache(maxsize=len(ours.CASES) + 2)
def _ready(task: str, case: str) -> Run:
    setting = _setting(task)
    if case in ours.CASES:
        return own(setting, case)
    if case == "limit":
        return limit(setting)
    return peer(setting, padded=case == "peft_run_glue")


@lru_cache(maxsize=1)
def _setting(task: str) -> Setting:
    return Setting.of(glue(task), DRAWN_FROM, DEV)


def circumstances(rounds: int) -> dict[str, Any]:
    """What must be equal for two measurements to be comparable."""
    clock = os.environ.get(CLOCK, "wall")
    return {
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "clock": clock,
        "processes": len(PROCESSES),
        "tokens": TOKENS,
        "evaluated": EVAL_BATCH * EVAL_BATCHES,
        "last": "float32",
    }


def _described(setting: Setting, found: Mapping[str, list[Times]]) -> dict[str, Any]:
    examples, dev = len(setting.train), len(setting.dev)
    return {
        "mean_tokens": round(float(setting.train.lengths.mean()), 1),
        "examples": examples,
        "dev": dev,
        "cases": {
            case: {
                "setup": [round(setup, 4) for setup, *_ in times],
                "first_epoch": [round(first * examples, 4) for _, first, *_ in times],
                "epoch": [round(later * examples, 4) for _, _, later, *_ in times],
                "first_evaluation": [round(first * dev, 4) for *_, first, _, _ in times],
                "evaluation": [round(later * dev, 4) for *_, later, _ in times],
                "last_evaluation": [round(last * dev, 4) for *_, last in times],
            }
            for case, times in found.items()
        },
    }


def evenly(batches: list[np.ndarray], lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` of an epoch's batches: the middle ones of as many equal parts, by their longest text."""
    whole = [batch for batch in batches if len(batch) == len(batches[0])]
    order = np.argsort([lengths[batch].max() * 1000 + lengths[batch].mean() for batch in whole], kind="stable")
    places = ((np.arange(count) + 0.5) * len(order) / count).astype(int)
    return [whole[order[place]] for place in places]


def dev_batches(lengths: np.ndarray) -> list[np.ndarray]:
    """Batches that represent all of dev, by length: a Trainer that groups by length also evaluates by length."""
    return evenly(by_length(lengths, EVAL_BATCH), lengths, EVAL_BATCHES)


def peer(setting: Setting, *, padded: bool) -> Run:
    """A ``transformers.Trainer``."""
    lengths, count = setting.train.lengths, ALIKE if padded else setting.batches
    batches = peers.grouped_batches(lengths, BATCH, seed=0)
    if padded:
        batches = [*np.array_split(np.random.default_rng(0).permutation(len(lengths))[: BATCH * 8], 8)]
    chosen = evenly(batches, lengths, count)
    numbers = np.concatenate(chosen)
    train = peers.items(setting.train, numbers, regression=setting.regression, padded=LENGTH if padded else None)
    scored = np.concatenate(dev_batches(setting.dev.lengths))
    dev = peers.items(setting.dev, scored, regression=setting.regression, padded=LENGTH if padded else None)
    model = peers.peer_model(setting.base(), "layernorm")

    def run() -> Times:
        clock = peers.Clock()
        trainer = peers.trainer(
            model,
            train,
            setting.tokenizer,
            rate=RATE,
            padded=padded,
            strategy="sequential",
            callbacks=[clock],
        )
        started = now()
        trainer.train()
        setup = clock.times[0] - started
        epoch = (clock.times[-1] - clock.times[0]) / len(train)
        peers.predictions(trainer, dev[:1])
        scored = _seconds(lambda: peers.predictions(trainer, dev)) / len(dev)
        return setup, epoch, epoch, scored, scored, 0.0

    return run


def own(setting: Setting, case: str) -> Run:
    """One of ours."""
    base, lengths, count = setting.base(), setting.train.lengths, setting.batches
    chosen = evenly(buckets(lengths, BATCH, seed=0, epoch=0), lengths, count)
    train = take(setting.train, np.concatenate(chosen))
    dev = take(setting.dev, np.concatenate(dev_batches(setting.dev.lengths)))
    one = take(setting.train, np.array([int(lengths.argmin())]))

    def run() -> Times:
        # Each epoch is followed by the evaluation of a single example. The second epoch uses what the first one kept;
        # the extra time of the first, without the prefix, is setting up.
        clock, started = ours.Clock(), now()
        ours.train(base, setting.task, case, train, one, epochs=2, rate=RATE, seed=0, clock=clock)
        later = clock.steps[-1] - clock.steps[count - 1]
        setup = clock.steps[count - 1] - started - clock.keeping - later
        scored, again, last = (seconds / len(dev) for seconds in ours.evaluation(base, case, dev))
        return max(setup, 0.0), (later + clock.keeping) / len(train), later / len(train), scored, again, last

    return run


def limit(setting: Setting) -> Run:
    """Only the products that an epoch without dropout needs (`products`), over our batches without padding."""
    products = Products(Shape.of(setting.base().model.config).inner_layers)
    lengths = setting.train.lengths
    chosen = evenly(buckets(lengths, BATCH, seed=0, epoch=0), lengths, setting.batches)
    tokens = [round(float(lengths[batch].mean())) for batch in chosen]

    def run() -> Times:
        started = now()
        for count in tokens:
            products.step(BATCH, count)
        epoch = (now() - started) / (BATCH * len(tokens))
        return 0.0, epoch, epoch, 0.0, 0.0, 0.0

    return run


def _seconds(run: Callable[[], object]) -> float:
    started = now()
    run()
    return now() - started


def take(encoded: Encoded, numbers: np.ndarray) -> Encoded:
    """The examples at `numbers`."""
    fields = {name: tuple(values[int(i)] for i in numbers) for name, values in encoded.fields.items()}
    labels = None if encoded.labels is None else encoded.labels[torch.from_numpy(numbers)]
    return Encoded(fields, labels, encoded.pad, encoded.side)
