"""The tables of ``docs/speed.md`` and ``docs/fast.md``, from the JSON of the benchmarks.

Run ``python benchmarks/tables.py training``, ``scores``, ``ratios``, ``memory`` or ``fast``.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from typing import Any

from harness import RESULTS

CASES = {
    "peft_run_glue": "PEFT, padded to 128",
    "peft_tuned": "PEFT, tuned",
    "full_run_glue": "all entries, padded to 128",
    "ours_paper": "ours",
    "ours_prefix": "ours, no dropout, prefix",
    "ours_best": "ours, also layers 2 to 5 only",
    "products": "bare products",
}
SCORED = ("full_tuned", "peft_tuned", "ours_paper", "ours_prefix", "ours_best")


def main() -> None:
    """Print the table that is asked for."""
    print(TABLES[sys.argv[1]]())


def read(name: str) -> dict[str, Any]:
    """What a benchmark found."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, of which all columns but the first are numbers."""
    columns = list(head)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def training() -> str:
    """Milliseconds an example of a later epoch, by task and case."""
    rows = []
    for task, found in read("training")["cases"].items():
        if "speed" in found:
            speed = found["speed"]
            each = {c: statistics.median(v["epoch"]) / speed["examples"] * 1e3 for c, v in speed["cases"].items()}
            rows.append([task, f"{speed['mean_tokens']:.0f}", *(f"{each[case]:.1f}" for case in CASES)])
    return markdown(["task", "mean tokens", *CASES.values()], rows)


def scores() -> str:
    """Best dev score x 100, mean and standard deviation over the seeds, by task and case."""
    rows = []
    for task, found in read("training")["cases"].items():
        row = [f"{task} ({found.get('metric', '')})"]
        for case in SCORED:
            curves = found.get("quality", {}).get(case, {})
            best = [100 * max(curve) for seed, curve in curves.items() if seed != "said"]
            row.append(f"{statistics.mean(best):.1f} ± {statistics.stdev(best):.1f}" if len(best) > 1 else "")
        if any(row[1:]):
            rows.append(row)
    return markdown(["task", "all entries", "PEFT", *(CASES[case] for case in SCORED[2:])], rows)


def ratios() -> str:
    """Their time over ours, over the tasks measured."""
    rows = [[name.replace("_", " "), f"{value:.2f}"] for name, value in read("training")["ratios"].items()]
    return markdown(["", "their time over ours"], rows)


def memory() -> str:
    """Peak memory of a step by case, and as a part of training all entries."""
    peaks = read("memory")["cases"]["peak"]
    whole = peaks["full"]["peak_gib"]
    rows = [
        [name.replace("_", " "), f"{found['peak_gib']:.2f}", f"{found['peak_gib'] / whole:.3f}"]
        for name, found in sorted(peaks.items(), key=lambda item: -item[1]["peak_gib"])
    ]
    return markdown(["", "peak, GiB", "of full"], rows)


STEPS = {
    "dropout_torch": "dropout from torch's generator",
    "dropout_fast": "dropout from the fast generator",
    "dropout_fused": "the same, fused layers",
    "no_dropout": "no dropout",
    "prefix": "no dropout, prefix, LayerNorm of all six layers",
    "prefix_fused": "the same, fused layers",
    "prefix_top_half_fused": "no dropout, prefix, fused layers, LayerNorm of layers 3 to 5",
}


def fast() -> str:
    """Time of a step by what makes it cheaper, as a part of one without dropout, and of candidates in one pass."""
    found = read("fast")["ratios"]
    rows = [[said, f"{found[f'{name}_over_no_dropout']:.2f}"] for name, said in STEPS.items()]
    each = found["each_of_candidates_in_one_pass_over_alone"]
    rows.append(["each of three candidates in one pass, over a step of its own", f"{each:.2f}"])
    return markdown(["step", "time"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "training": training,
    "scores": scores,
    "ratios": ratios,
    "memory": memory,
    "fast": fast,
}

if __name__ == "__main__":
    main()
