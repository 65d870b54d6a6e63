"""The mask study on MiniLM: every scope beside random and least-Fisher masks of one size, under the protocol small.

Masks are of the output LayerNorm's entries. Fisher information is averaged over the head seeds 0, 1 and 2, on the same
examples that training sees; each task trains at the rate that ``layernorm`` was given on it, as the paper's figures 2
and 5 do, and a random mask is drawn anew for each seed. What has a record in ``results`` is not done again.

Run ``python benchmarks/mask_study.py --tasks cola,rte``, with ``NORMTUNE_DATA`` naming a GLUE folder.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from harness import glue

from normtune.cli.app import app
from normtune.config import PROTOCOLS
from normtune.records.aggregate import tabulate
from normtune.studies.config import Setup
from normtune.studies.engine import Engine, Place
from normtune.studies.jobs import TrainJob
from normtune.studies.plan import mask_rows

#: Where masks, Fisher information and records are kept and found.
RESULTS = Path(os.environ.get("NORMTUNE_RESULTS", Path(__file__).parent.parent / "results"))
SEEDS = (0, 1, 2)
SCOPES = {
    "individual": ("fisher", "individual"),
    "global": ("fisher", "global"),
    "leave-one-out": ("fisher", "leave-one-out"),
    "least": ("least-fisher", "individual"),
}


def main() -> None:
    """Make the masks that are missing, then train those that have no record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", default="rte,mrpc,cola,stsb")
    parser.add_argument("--fractions", default="0.1,0.2")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--kinds", default=",".join([*SCOPES, "random"]))
    parser.add_argument("--only-masks", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fractions = [float(text) for text in options.fractions.split(",")]
    seeds = [int(text) for text in options.seeds.split(",")]
    kinds, tasks = options.kinds.split(","), options.tasks.split(",")
    for task in tasks:
        for fraction in fractions:
            for kind in kinds:
                for file, arguments in wanted(kind, task, fraction):
                    if not file.exists():
                        app([*arguments, "--out", str(file)], standalone_mode=False)
    if options.only_masks:
        return
    setup = Setup(protocol=PROTOCOLS["small"])
    engine = Engine(setup, Place(results=RESULTS, checkpoints=False), {task: glue(task) for task in tasks})
    rates = layernorm_rates(engine)
    for seed in seeds:
        for task in tasks:
            for fraction in fractions:
                for kind in kinds:
                    files = [file for file, _ in wanted(kind, task, fraction)]
                    file = files[seed if kind == "random" else 0]
                    ((like, _),) = mask_rows(engine.session, [TrainJob(task=task, method="", seed=seed)], [file])
                    job = like.model_copy(update={"rate": rates[task]})
                    result = engine.run(job, {})
                    known = " (known)" if result.known else ""
                    print(f"{task} {job.method} seed {seed}: {result.note or result.error}{known}", flush=True)


def wanted(kind: str, task: str, fraction: float) -> Iterator[tuple[Path, list[str]]]:
    """The files of one kind of mask, and the command that makes each."""
    folder = RESULTS / "masks"
    if kind == "random":
        for seed in SEEDS:
            own = ["--importance", "random", "--seed", str(seed), "--fraction", str(fraction)]
            yield folder / f"random-{fraction}-seed-{seed}.safetensors", ["mask", *own]
        return
    importance, scope = SCOPES[kind]
    name = f"{kind}-{fraction}" if scope == "global" else f"{task}-{kind}-{fraction}"
    tasks = {"individual": task, "global": "all", "leave-one-out": "all"}[scope]
    target = ["--target", task] if scope == "leave-one-out" else []
    yield (
        folder / f"{name}.safetensors",
        [
            *("mask", "--importance", importance, "--scope", scope, "--tasks", tasks, *target),
            *("--fraction", str(fraction), "--protocol", "small", "--head-seeds", ",".join(map(str, SEEDS))),
            *("--records", str(RESULTS / "fisher")),
        ],
    )


def layernorm_rates(engine: Engine) -> dict[str, float]:
    """The rate that LayerNorm was given on each task."""
    own = [
        record
        for record in engine.store
        if record.base_identity == engine.session.base.identity and record.config.protocol == PROTOCOLS["small"]
    ]
    return {task: score.rate for (method, task), score in tabulate(own).items() if method == "layernorm"}


if __name__ == "__main__":
    main()
