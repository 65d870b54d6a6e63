"""The docs' tables, from the JSON of the benchmarks.

Run ``python benchmarks/tables.py`` with the name of one: a key of `TABLES`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from harness import RESULTS

PEERS = {
    "peft_run_glue": "PEFT, padded to 128",
    "peft_tuned": "PEFT, tuned",
    "full_run_glue": "all entries, padded to 128",
}
#: Ours, in short; the pages say what each does, and so do the records.
OURS = {
    "ours_paper": "ours, paper",
    "ours_fused": "ours, no compiler",
    "ours_bfloat16": "ours, paper, bfloat16",
    "ours_prefix": "ours, prefix",
    "ours_upper": "ours, layers 1 to 5",
    "ours_best": "ours, both norms",
}
SCORED = {"full_tuned": "all entries", "peft_tuned": "PEFT"}
#: Columns of `ratios`.
OF_EPOCHS = {
    "PEFT, padded to 128": "{epoch}vs_peft_run_glue",
    "PEFT, tuned": "{epoch}vs_peft_tuned",
    "all entries, padded to 128": "{epoch}vs_full",
}
TO_SCORES = {
    "best score: PEFT, padded": "{best}vs_peft_run_glue",
    "best score: PEFT, tuned": "{best}vs_peft_tuned",
    "and in float32: PEFT, padded": "{best}vs_peft_run_glue_exact",
    "and in float32: PEFT, tuned": "{best}vs_peft_tuned_exact",
    "one score: PEFT, padded": "{best}vs_peft_run_glue_to_one_score",
    "one score: PEFT, tuned": "{best}vs_peft_tuned_to_one_score",
}
WHOLE = {
    f"{epochs} epochs: {said}": f"{epochs}_epochs_{{whole}}vs_{peer}"
    for epochs in (10, 20)
    for peer, said in (("peft_run_glue", "PEFT, padded"), ("peft_tuned", "PEFT, tuned"))
}
WAYS = {"ours": "ours", "loop": "loop", "opacus": "Opacus", "vmap": "vmap", "products": "bare products"}


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


def of_ours(record: Mapping[str, Any]) -> dict[str, str]:
    """What to call each case of ours that a record has."""
    return {case: short for case, short in OURS.items() if case in record["said"]}


def training(name: str) -> str:
    """Milliseconds an example of a later epoch, by case and task."""
    record = read(name)
    speeds = {task: found["speed"] for task, found in record["cases"].items() if "speed" in found}
    rows = [["tokens a text", *(f"{speed['mean_tokens']:.0f}" for speed in speeds.values())]]
    for case, said in {**PEERS, **of_ours(record), "products": "bare products"}.items():
        each = [1e3 * statistics.median(speed["cases"][case]["epoch"]) / speed["examples"] for speed in speeds.values()]
        rows.append([said, *(f"{milliseconds:.1f}" for milliseconds in each)])
    return markdown(["milliseconds an example", *speeds], rows)


def scores(name: str) -> str:
    """Best dev score x 100, mean and standard deviation over the seeds, by case that was scored and task."""
    record = read(name)
    tasks = {task: found for task, found in record["cases"].items() if "quality" in found}
    rows = []
    for case, said in {**SCORED, **of_ours(record)}.items():
        row = []
        for found in tasks.values():
            curves = found["quality"].get(case, {})
            known = curves.get("best", {})
            best = [100 * known.get(seed, max(curve)) for seed, curve in curves.items() if seed.isdecimal()]
            row.append(f"{statistics.mean(best):.1f} ± {statistics.stdev(best):.1f}" if best else "")
        if any(row):
            rows.append([said, *row])
    return markdown(["score x 100", *(f"{task} ({found['metric']})" for task, found in tasks.items())], rows)


def ratios(name: str, columns: Mapping[str, str]) -> str:
    """Their time over ours, geometric means over the tasks, by case of ours.

    Args:
        name: The record's.
        columns: What a column shows, by its head: a ratio's name, but for what comes before it in those of a case.
    """
    record, rows = read(name), []
    for case, said in of_ours(record).items():
        own = case.removeprefix("ours_")
        ways = {"epoch": f"{own}_epoch_", "best": f"{own}_", "whole": f"{own}_"}
        if own == "paper":
            ways = {"epoch": "", "best": "to_best_", "whole": ""}
        keys = [column.format(**ways) for column in columns.values()]
        found = [record["ratios"].get(f"{key}_geomean") for key in keys]
        if any(found):
            rows.append([said, *("" if value is None else f"{value:.2f}" for value in found)])
    shown = [number for number, cells in enumerate(zip(*rows, strict=True)) if any(cells)]
    head = ["their time over ours", *columns]
    return markdown([head[number] for number in shown], ([row[number] for number in shown] for row in rows))


def named(benchmark: str, head: str) -> str:
    """A benchmark's ratios, each by its name."""
    rows = [[name.replace("_", " "), f"{value:.2f}"] for name, value in read(benchmark)["ratios"].items()]
    return markdown(["", head], rows)


def memory() -> str:
    """Peak memory of a step by case, and as a part of training all entries."""
    peaks = read("memory")["cases"]["peak"]
    whole = peaks["full"]["peak_gib"]
    rows = [
        [name.replace("_", " "), f"{found['peak_gib']:.2f}", f"{found['peak_gib'] / whole:.3f}"]
        for name, found in sorted(peaks.items(), key=lambda item: -item[1]["peak_gib"])
    ]
    return markdown(["", "peak, GiB", "of full"], rows)


def fisher() -> str:
    """Milliseconds an example, by what is asked for and task."""
    rows = []
    for name, found in read("fisher")["cases"].items():
        wanted, _, task = name.partition(" ")
        if task:
            times = [f"{1e3 * found[way]['median']:.1f}" if way in found else "" for way in WAYS]
            rows.append([wanted.replace("_", " "), task, f"{found['mean_tokens']['ours']:.0f}", *times])
    order = ["layernorm", "component totals", "all entries"]
    rows.sort(key=lambda row: order.index(row[0]))
    return markdown(["", "task", "mean tokens", *WAYS.values()], rows)


def memory_times() -> str:
    """How long a step takes beside another one."""
    found = read("memory")["ratios"]
    return markdown(["", "time"], [[n.replace("_", " "), f"{v:.2f}"] for n, v in found.items() if "_time_of_" in n])


def packing() -> str:
    """A padded step's time over a packed one's, by batch."""
    found = read("packing")
    rows = [[name, f"{found['padding'][name]:.0%}", f"{value:.2f}"] for name, value in found["ratios"].items()]
    return markdown(["32 texts", "padding", "padded over packed"], rows)


def depth() -> str:
    """Time of a step, share of Fisher information and score, by task and lowest layer that trains."""
    rows = []
    for task, found in read("depth")["cases"].items():
        whole = found["layers"]["0"]["output"]["step"]
        for layer, row in found["layers"].items():
            shown = [f"{task}, {layer} on", f"{row['products']:.2f}", f"{row['fisher']:.2f}"]
            for way in ("output", "both"):
                if way not in row:
                    shown += ["", ""]
                    continue
                steps, score = row[way]["step"], [100 * value for value in row[way]["score"]]
                part = statistics.median(step / every for step, every in zip(steps, whole, strict=True))
                shown += [f"{part:.2f}", f"{statistics.mean(score):.1f} ± {statistics.stdev(score):.1f}"]
            rows.append(shown)
    head = ("by products", "Fisher information", "time", "score x 100", "time, both norms", "score x 100, both norms")
    return markdown(["task, layers", *head], rows)


def lowered() -> str:
    """A step's time in float32 over that in fewer bits, by shape."""
    ratios = read("lowered")["ratios"]
    ways = {"products": "products of frozen layers", "model": "the whole base", "autocast": "torch's autocast"}
    rows = [
        [said, *(f"{ratios[f'step_{shape}_float32_vs_{way}']:.2f}" for way in ways)] for shape, said in SHAPES.items()
    ]
    return markdown(["float32's time over that in bfloat16 of", *ways.values()], rows)


def lowered_products() -> str:
    """One layer's time and distance from float32 in fewer bits."""
    found = read("lowered")["cases"]["products"]
    rows = [
        [
            f"{said}, {bits}",
            f"{found['ratios'][f'product_{layer}_float32_vs_{bits}']:.2f}",
            f"{100 * found['distances'][f'{layer}_{bits}']:.2f} %",
        ]
        for layer, said in {"minilm": "384 to 1536", "large": "1024 to 4096"}.items()
        for bits in ("bfloat16", "int8")
    ]
    return markdown(["layer", "float32's time over its own", "off by"], rows)


def lowered_scores() -> str:
    """Dev scores x 100, mean and standard deviation over the seeds, by products."""
    found = read("lowered")["cases"]["scores"]["cases"]
    rows = [
        [task, *(f"{100 * statistics.mean(each):.1f} ± {100 * statistics.stdev(each):.1f}" for each in ways.values())]
        for task, ways in found.items()
    ]
    return markdown(["task", *next(iter(found.values()))], rows)


def compiled() -> str:
    """A step through ``torch.compile`` beside ours and torch's, and how long compiling takes."""
    found = read("lowered")["cases"]["compiled"]
    rows = [
        [
            SHAPES[shape],
            *(f"{found['ratios'][f'step_{shape}_{way}_vs_compiled']:.2f}" for way in ("ours", "torch")),
            f"{seconds:.0f}",
        ]
        for shape, seconds in found["compile_seconds"].items()
    ]
    return markdown(["", "compiled layers over it", "torch's layers over it", "seconds to compile"], rows)


def scaling() -> str:
    """How the time grows with what is varied."""
    found = read("scaling")["ratios"]
    return markdown(["", "value"], [[name.replace("_", " "), f"{value:.2f}"] for name, value in found.items()])


#: Shapes of a step in ``lowered.json``.
SHAPES = {
    "cola": "MiniLM, 32 texts of 11 tokens",
    "mrpc": "MiniLM, 32 texts of 53 tokens",
    "rte": "MiniLM, 32 texts of 70 tokens",
    "large": "two layers of BERT-large's shape, 8 texts of 128 tokens",
}
STEPS = {
    "dropout_torch": "dropout from torch's generator",
    "dropout_fast": "dropout from the fast generator",
    "dropout_fused": "the same, fused layers",
    "dropout_compiled": "the same, compiled layers",
    "no_dropout": "no dropout",
    "prefix": "no dropout, prefix, LayerNorm of all six layers",
    "prefix_fused": "the same, fused layers",
    "prefix_compiled": "the same, compiled layers",
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
    "training": partial(training, "training"),
    "scores": partial(scores, "training"),
    "epochs": partial(ratios, "training", OF_EPOCHS),
    "to-scores": partial(ratios, "training", TO_SCORES),
    "training-avx2": partial(training, "training_avx2"),
    "scores-avx2": partial(scores, "training_avx2"),
    "whole": partial(ratios, "training", WHOLE),
    "epochs-avx2": partial(ratios, "training_avx2", OF_EPOCHS),
    "to-scores-avx2": partial(ratios, "training_avx2", TO_SCORES),
    "linear": partial(named, "linear", "torch's time over ours"),
    "memory": memory,
    "packing": packing,
    "depth": depth,
    "fisher": fisher,
    "fisher-ratios": partial(named, "fisher", "ratio"),
    "memory-times": memory_times,
    "lowered": lowered,
    "lowered-products": lowered_products,
    "lowered-scores": lowered_scores,
    "compiled": compiled,
    "scaling": scaling,
    "fast": fast,
}

if __name__ == "__main__":
    main()
