"""What dropping clearly lost rates early would have saved, and cost, on searches that were run to their end.

Run ``python benchmarks/pruning.py`` (a second; it reads ``results/runs``), and the same with ``table`` for the table of
``results/README.md``.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from harness import RESULTS, markdown, read, write

from normtune.config import Pruning
from normtune.records.results import Store
from normtune.records.run import Record
from normtune.studies.pruning import trial_order, verdict

RUNS = RESULTS.parent / "runs"
MARGINS = (0.0, 0.01, 0.02, 0.05, 0.1)


def searches(folder: Path) -> list[dict[float, Record]]:
    """The runs of each search by rate: those of one method, task, seed and protocol where there are several."""
    found: dict[tuple[object, ...], dict[float, Record]] = defaultdict(dict)
    for record in Store(folder):
        if record.status == "done":
            same = record.config.model_dump_json(exclude={"rate"}), record.base_identity, record.machine["threads"]
            found[same][record.config.rate] = record
    return [runs for runs in found.values() if len(runs) > 1]


def replay(rule: Pruning, runs: dict[float, Record]) -> tuple[int, int, float]:
    """One search under the rule: rates dropped, epochs saved, and how much worse the best one left is."""
    whole: list[Record] = []
    saved = 0
    for rate in trial_order(tuple(runs)):
        run = runs[rate]
        lost = verdict(rule, run.primary, run.curve, run.config.protocol.epochs, whole)
        if lost is None:
            whole.append(run)
        else:
            saved += lost.of - lost.epoch
    return len(runs) - len(whole), saved, max(run.picked for run in runs.values()) - max(run.picked for run in whole)


def table() -> str:
    """The table of ``results/README.md``."""
    rows = [
        [
            f"{case['margin']:g}",
            f"{case['dropped']} of {case['rates']}",
            f"{case['saved']} of {case['epochs']}",
            f"{case['lost']} of {case['searches']}",
            f"{case['worst']:.3f}",
        ]
        for case in read("pruning").values()
    ]
    return markdown(["margin", "rates dropped", "epochs saved", "searches that lost their best", "by at most"], rows)


def main() -> None:
    """Measure, or print the table."""
    if sys.argv[1:] == ["table"]:
        print(table())
        return
    known = searches(RUNS)
    cases = {}
    for margin in MARGINS:
        each = [replay(Pruning(margin=margin), runs) for runs in known]
        cases[f"{margin:g}"] = {
            "margin": margin,
            "rates": sum(map(len, known)),
            "dropped": sum(dropped for dropped, _, _ in each),
            "epochs": sum(len(run.curve) for runs in known for run in runs.values()),
            "saved": sum(saved for _, saved, _ in each),
            "searches": len(known),
            "lost": sum(worse > 0 for _, _, worse in each),
            "worst": max(worse for _, _, worse in each),
        }
    print(write("pruning", cases, {name: case["saved"] / case["epochs"] for name, case in cases.items()}))


if __name__ == "__main__":
    main()
