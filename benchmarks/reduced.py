"""Table 2 on MiniLM under the protocol reduced: every method on every task, with the rate searched alike for each.

On the first seed a method tries the first three rates of its grid. As long as the best lies at the end of those tried,
the next half decade beyond it is tried too, at most twice. The other seeds take the best rate. What has a record is not
trained again, so that the command can be stopped anywhere and run again.

Run ``python benchmarks/reduced.py --tasks cola,stsb``, with ``NORMTUNE_DATA`` naming a GLUE folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from harness import glue

from normtune.config import PROTOCOLS
from normtune.records.store import Store
from normtune.studies.runs import Cell, Runner
from normtune.training.session import Session

METHODS = "head,layernorm,random,bitfit,full"
#: Half a decade each, so that no two methods' rates differ by a hair.
LADDER = tuple(rate for decade in range(-6, 1) for rate in (float(f"1e{decade}"), float(f"3e{decade}")))
MORE = 2


def main() -> None:
    """Train what has no record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", default="cola,sst2,stsb,rte,mrpc")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--records", type=Path, default=Path(__file__).parent.parent / "results" / "runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    protocol, session = PROTOCOLS["reduced"], Session("minilm")
    runner = Runner(session, protocol, store=Store(options.records))
    seeds = tuple(int(text) for text in options.seeds.split(","))
    for task in options.tasks.split(","):
        data = glue(task)
        for method in options.methods.split(","):
            rates = session.grid(method).first(protocol.rates)
            for _ in range(MORE):
                (best,) = runner.cell(Cell(data, method, seeds[:1], rates))
                rates = beyond(rates, best.record.config.rate)
            for done in runner.cell(Cell(data, method, seeds, rates)):
                config = done.record.config
                print(f"{task} {method} {config.rate:g} seed {config.seed}: {done.record.score:.4f}", flush=True)


def beyond(rates: tuple[float, ...], best: float) -> tuple[float, ...]:
    """`rates`, with the next one of the ladder where the best is the lowest or the highest of them."""
    place = LADDER.index(best)
    if best == rates[0]:
        return (LADDER[place - 1], *rates)
    return (*rates, LADDER[place + 1]) if best == rates[-1] else rates


if __name__ == "__main__":
    main()
