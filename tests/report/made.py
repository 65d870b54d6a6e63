"""A made-up results folder, written by the classes that write real records."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from normtune.config import RunConfig, fingerprint, protocol
from normtune.records.fisher import FisherConfig, FisherRecord, Information
from normtune.records.run import Change, Counts, DataFacts, EpochScore, Norms, Record
from normtune.statistics.published import RANKING

METRICS = {"stsb": "spearman", "cola": "matthews", "mrpc": "f1", "rte": "accuracy"}
DEV = {"stsb": 1500, "cola": 1043, "mrpc": 408, "rte": 277}
MACHINE: dict[str, str | int] = {"system": "Linux", "cores": 2}
VERSIONS = {"python": "3.11", "normtune": "0.1.0"}
BASE = {"stsb": 0.9, "cola": 0.6, "mrpc": 0.88, "rte": 0.7}
METHODS = {"full": 0.0, "bitfit": -0.01, "layernorm": -0.012, "random": -0.08, "head": -0.3}
LAYERS = 3
NORMS = Norms(closing=RANKING[:1], attention=RANKING[1:2])


def masks(fractions: Iterable[float] = (0.1, 0.2, 0.4)) -> dict[str, float]:
    """Mask methods, with the distance of each to full fine-tuning."""
    kinds = {"fisher-individual": 0.02, "fisher-global": 0.025, "fisher-leave-one-out": 0.03}
    others = {"random": 0.1, "least-fisher-individual": 0.2}
    return {f"{kind}@{f:g}": -low * (1.2 - f) for f in fractions for kind, low in {**kinds, **others}.items()}


def record(task: str, method: str, seed: int, below: float = 0.0, *, bias: bool = True, **changes: Any) -> Record:
    """One run, its score moved a little by the seed."""
    config = RunConfig(
        model="tiny", task=task, method=method, rate=0.01, seed=seed, protocol=protocol("small"), mask=None
    ).model_copy(update=changes.pop("config", {}))
    score = BASE.get(task, 0.5) + below + 0.004 * math.sin(7.0 * seed + len(method) + len(task))
    metric = METRICS.get(task, "accuracy")
    dev = DEV.get(task, 100)
    selected = {"full": 20_000, "head": 0}.get(method, 90)
    fields: dict[str, Any] = {
        "id": fingerprint(config),
        "status": "done",
        "config": config,
        "base_identity": "b" * 64,
        "norms": NORMS,
        "trains": "s" * 64,
        "counts": Counts(selected=selected, head=66, trained=selected + 66, total=20_066, share=selected / 20_000),
        "data": DataFacts(
            source=task, suite="glue", train=2000, train_of=5000, dev=dev, dev_of=dev, held_out=0,
            identity={"train": f"{task}-train", "dev": f"{task}-dev"}, truncated={"train": 3, "dev": 0}, dropped={},
        ),
        "primary": metric,
        "score": score,
        "scores": {"dev": {metric: score}},
        "best_epoch": 3,
        "curve": (EpochScore(epoch=3, loss=0.4, scores={metric: score}, seconds=1.0),),
        "steps": 189,
        "seconds": 12.5,
        "peak_memory": 2**30,
        "changes": changed(seed, names(changes.get("norms", NORMS)), bias) if method == "full" else (),
        "machine": MACHINE,
        "versions": VERSIONS,
    }  # fmt: skip
    return Record.model_validate({**fields, **changes})


def names(norms: Norms) -> tuple[str, ...]:
    """The components of a layer, the closing norm first."""
    return (*norms.closing, *norms.attention, *RANKING[2:])


def subs(norm: bool, bias: bool) -> list[tuple[str, int, float]]:
    """Sub-components, their entries, and an entry's relative information; without `bias` a norm has no bias."""
    return [("weight", 40, 1.0), ("bias", 10, 12.0)][: 1 + (bias or not norm)]


def changed(seed: int, components: tuple[str, ...] = RANKING, bias: bool = True) -> tuple[Change, ...]:
    """Changes in which the first component moves most, and later layers more than earlier ones."""
    result = []
    for layer, (place, name) in itertools.product(range(LAYERS), enumerate(components)):
        for sub, entries, _ in subs(place < 2, bias):
            mean = 1e-3 * (2.0 if not place else 1.0 / place) * (1 + 0.1 * layer) + 1e-6 * seed
            result.append(
                Change(component=name, layer=layer, sub=sub, entries=entries, mean=mean, relative=0.1, l0=entries,
                       l1=mean * entries)
            )  # fmt: skip
    return tuple(result)


def fisher(
    task: str, scale: float = 1.0, heads: tuple[int, ...] = (0, 1, 2), *, bias: bool = True, **changes: Any
) -> FisherRecord:
    """Fisher information in the paper's order, more of it in later layers and in biases."""
    rows = [Information(component="embeddings.word_embeddings", layer=None, sub="weight", entries=900, total=9.0,
                        by_seed=(9.0,) * len(heads))]  # fmt: skip
    for layer, (place, name) in itertools.product(range(LAYERS), enumerate(names(changes.get("norms", NORMS)))):
        for sub, entries, more in subs(place < 2, bias):
            own = tuple(scale * more * entries / 4**place * (1 + layer) * (1 + 0.1 * head) for head in heads)
            mean = sum(own) / len(own)
            rows.append(
                Information(component=name, layer=layer, sub=sub, entries=entries, total=mean, by_seed=own)
            )  # fmt: skip
    config = FisherConfig(model="tiny", task=task, head_seeds=heads)
    fields: dict[str, Any] = {
        "id": fingerprint(config), "config": config, "base_identity": "b" * 64, "norms": NORMS, "suite": "glue",
        "selection": "s" * 64, "source": task,
        "examples": 2000, "available": 2000, "identity": f"{task}-train", "truncated": 0, "information": tuple(rows),
        "seconds": 3.0, "machine": MACHINE, "versions": VERSIONS,
    }  # fmt: skip
    return FisherRecord.model_validate({**fields, **changes})


#: The tasks for which `results` writes Fisher information.
MEASURED = ("qnli", "sst2", "mnli", "cola", "mrpc", "stsb", "rte", "qqp")


def results(
    folder: Path,
    *,
    methods: Mapping[str, float] = METHODS,
    tasks: Iterable[str] = METRICS,
    seeds: Iterable[int] = (0, 1, 2),
    measured: Iterable[str] = MEASURED,
    suite: str = "glue",
    bias: bool = True,
    **changes: Any,
) -> Path:
    """Write a results folder."""
    for task, (method, below), seed in itertools.product(tasks, methods.items(), seeds):
        own = record(task, method, seed, below, bias=bias, **changes)
        own = own.model_copy(update={"data": own.data.model_copy(update={"suite": suite})})
        own.save(folder / "runs" / f"{own.id}.json")
    for number, task in enumerate(measured):
        one = fisher(task, 1.0 + 300 * (task == "stsb") + 0.1 * number, bias=bias, suite=suite, **changes)
        one.save(folder / "fisher" / f"{task}-{one.id}.json")
    return folder
