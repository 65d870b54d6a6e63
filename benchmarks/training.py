"""Training LayerNorm on the eight tasks of GLUE: ours against the peers, time and score side by side.

The parts are run separately and gathered in ``results/benchmarks/training.json``::

    python benchmarks/training.py --part speed      # about 20 minutes on two cores, 3 rounds
    python benchmarks/training.py --part quality    # hours: by --tasks and --cases, a thread each (--threads 1)
    python benchmarks/training.py --part ratios     # reads, prints
    python benchmarks/training.py --part table      # prints Markdown

``--out`` names another record, such as for another processor. Each is written task by task and case by case;
what is there already, measured in the same way, is not measured again (``--again`` does). ``NORMTUNE_DATA`` names a
GLUE folder. **speed**: an epoch's seconds, from a sample of each case's own batches of an epoch, evenly over their
lengths, and an evaluation's; the cases take turns, and a ratio is the median over rounds of two cases' times in the
same round: ``default_vs_peft_tuned_geomean`` is PEFT's time of an epoch over ours, as the geometric mean over tasks.
**quality**: dev scores after every epoch, three seeds, and in float32 the best one's. The time to the best score is
that of setting up and of the epochs up to it, each with an evaluation of dev; a second figure adds the evaluation of
the best epoch in float32, where the evaluations before were not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ours
import torch
from apart import Apart, close
from harness import glue, markdown, ratio, read, write
from quality import EPOCHS, SEEDS, train_and_score
from speed import BATCH, DEV, LENGTH, PROCESSES, RATE, Setting, circumstances, measure

TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
#: Examples of dev, for the scores, and examples to learn from: twice as many where texts are short.
SCORE, LEARN, SHORT = DEV, 500, ("cola", "sst2", "stsb", "qqp")
#: Peers, and what the table calls them. Both train alike, since padding changes no score: one set of runs serves both.
PEERS = {"peft_run_glue": "PEFT LN tuning, padded to 128 as run_glue does", "peft_tuned": "the same, tuned well"}
SCORED_BY = {**dict.fromkeys(PEERS, "peft_tuned"), **{name: name for name in ours.CASES}}
#: The limit of a float32 training without dropout.
LIMIT = {"limit": "the bare matrix products of dropout=false"}
#: Ratios: theirs, ours.
PAIRS = tuple((peer, own) for own in (*ours.CASES, *LIMIT) for peer in PEERS)
#: Where the time to a score ends: at the best score, once that is known in float32 too, at PEFT's score.
TO_SCORE = (("to_best", "seconds"), ("to_best_exact", "seconds_exact"), ("to_one_score", "level_seconds"))
#: Whole trainings are timed at the length of those that are scored, and at the paper's.
PAPERS_EPOCHS = 20


def main() -> None:
    """Measure what is asked for, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=("speed", "quality", "ratios", "table"), required=True)
    parser.add_argument("--tasks", default="", help="[default: all eight]")
    parser.add_argument("--cases", default="", help="only these, of quality")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure what is there too")
    parser.add_argument("--scores-from", default="", help="a record of another machine, whose float32 scores serve")
    parser.add_argument("--out", default="training", help="name of the record")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    names = options.tasks.split(",") if options.tasks else TASKS
    if options.part == "quality":
        for name in names:
            score_task(name, options)
    elif options.part == "speed":
        processes = {name: Apart(options.threads) for name in PROCESSES}
        for name in names:
            time_task(name, options, processes)
        close(processes.values())
    if options.part == "table":
        print(table(read(options.out)))
    else:
        keep(options.out)


def time_task(name: str, options: argparse.Namespace, processes: Mapping[str, Apart]) -> None:
    """The speed of all cases on a task."""
    known = read(options.out).get(name, {}).get("speed", {})
    complete = {*ours.HERE, *LIMIT} <= known.get("cases", {}).keys()
    if options.again or not complete or known.get("measured") != circumstances(options.rounds):
        keep(options.out, name, {"speed": measure(name, options.rounds, processes)})


def score_task(name: str, options: argparse.Namespace) -> None:
    """The scores of the cases on a task."""
    learn = LEARN * 2 if name in SHORT else LEARN
    setting = Setting.of(glue(name), learn, SCORE)
    size = {"metric": setting.task.primary, "learn": len(setting.train), "score": len(setting.dev)}
    found = read(options.out).get(name, {}).get("quality", {})
    quality = {case: curves for case, curves in found.items() if curves.get("said") == said(case, learn)}
    elsewhere = read(options.scores_from).get(name, {}).get("quality", {}) if options.scores_from else {}
    for case in options.cases.split(",") if options.cases else ("peft_tuned", *ours.HERE):
        if elsewhere.get(case, {}).get("said") == said(case, learn):
            quality[case] = {**elsewhere[case], "from": options.scores_from}
            keep(options.out, name, {**size, "quality": quality})
        elif options.again or case not in quality:
            quality[case] = {"said": said(case, learn), **train_and_score(setting, case)}
            keep(options.out, name, {**size, "quality": quality})


def said(case: str, learn: int) -> str:
    """What was scored, so that scores of another training under the same name are not taken for its own."""
    what = ours.CASES[case].said if case in ours.CASES else case
    schedule = "; no warm-up, no decay" if case in ours.CASES else ""
    return f"{what}; {learn} examples at most, {EPOCHS} epochs, {SCORE} of dev{schedule}"


def keep(out: str, task: str = "", new: Mapping[str, Any] | None = None) -> None:
    """Write what there is, with the `new` results of a task, and the ratios of all tasks."""
    stored = read(out)
    for key, value in (new or {}).items():
        known = stored.setdefault(task, {})
        known[key] = value
    ordered = {name: stored[name] for name in TASKS if name in stored}
    for found in ordered.values():
        found["to_best"] = to_best(found)
    path = write(
        out,
        ordered,
        ratios(ordered),
        protocol={
            "batch": BATCH,
            "length": LENGTH,
            "epochs": EPOCHS,
            "seeds": SEEDS,
            "rate": RATE,
            "clock": os.environ.get("NORMTUNE_CLOCK", "wall"),
        },
        said={name: case.said for name, case in ours.CASES.items()},
    )
    print(path, {name: round(value, 2) for name, value in ratios(ordered).items()}, flush=True)


def to_best(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds to the best score, that score and its spread over the seeds, and seconds to PEFT's, by case."""
    if not ("measured" in found.get("speed", {}) and "quality" in found):
        return {}
    result = {}
    for case, scored in SCORED_BY.items():
        curves = found["quality"].get(scored)
        if curves is None or case not in found["speed"]["cases"]:
            continue
        by_seed = by_seeds(curves)
        best = best_of(curves)
        epochs = [curve.index(max(curve)) + 1 for curve in by_seed]
        result[case] = {
            "seconds": statistics.mean(seconds_to(found, case, count) for count in epochs),
            "seconds_exact": statistics.mean(seconds_to(found, case, count, last=True) for count in epochs),
            **level(found, case, by_seed),
            "epochs": statistics.mean(epochs),
            "score": statistics.mean(best),
            "spread": statistics.stdev(best),
        }
    return result


def by_seeds(scored: Mapping[str, Any]) -> list[list[float]]:
    """A case's scores after each epoch, of every seed."""
    return [curve for seed, curve in scored.items() if seed.isdecimal()]


def best_of(scored: Mapping[str, Any]) -> list[float]:
    """A case's best score, of every seed."""
    return [*scored["best"].values()] if "best" in scored else [max(curve) for curve in by_seeds(scored)]


def level(found: Mapping[str, Any], case: str, by_seed: Sequence[Sequence[float]]) -> dict[str, float]:
    """Seconds, and epochs, until the seeds' mean score comes within PEFT's spread of PEFT's best mean; or nothing.

    PEFT's own time is found in the same way, so it may come before its best.
    """
    peers = by_seeds(found["quality"].get("peft_tuned", {}))
    if not peers:
        return {}
    after = [statistics.mean(scores) for scores in zip(*peers, strict=True)]
    best = after.index(max(after))
    least = after[best] - statistics.stdev(curve[best] for curve in peers)
    reached = [
        number for number, scores in enumerate(zip(*by_seed, strict=True), 1) if statistics.mean(scores) >= least
    ]
    if not reached:
        return {}
    return {"level_epochs": reached[0], "level_seconds": seconds_to(found, case, reached[0])}


def seconds_to(found: Mapping[str, Any], case: str, epochs: int, *, last: bool = False) -> float:
    """Seconds of `epochs` epochs of the training that was scored, with an evaluation after each.

    Args:
        found: What was measured.
        case: Which case's.
        epochs: How many epochs.
        last: With the evaluation of the best epoch in float32, where those before were not.
    """
    speed = found["speed"]
    times = {name: statistics.median(values) for name, values in speed["cases"][case].items()}
    epoch = (times["first_epoch"] + (epochs - 1) * times["epoch"]) * found["learn"] / speed["examples"]
    evaluations = times["first_evaluation"] + (epochs - 1) * times["evaluation"]
    if last:
        evaluations += times.get("last_evaluation", 0.0)
    scored = evaluations * found["score"] / speed["dev"]
    total: float = times["setup"] + epoch + scored
    return total


def ratios(stored: Mapping[str, Any]) -> dict[str, float]:
    """Their time over ours, as the geometric mean over the tasks there are: first of an epoch, then to a score."""
    result: dict[str, float] = {}

    def add(name: str, each: list[float]) -> None:
        # Where a task lacks a ratio, a mean over the others would not be comparable with the other means.
        if each and len(each) == len(stored):
            result[f"{name}_geomean"] = statistics.geometric_mean(each)

    for theirs, own in PAIRS:
        speeds = [found["speed"]["cases"] for found in stored.values() if "speed" in found]
        both = [cases for cases in speeds if {theirs, own} <= cases.keys()]
        add(f"{own}_vs_{theirs}", [ratio(cases[theirs]["epoch"], cases[own]["epoch"]) for cases in both])
    for theirs, own in PAIRS:
        scored = [found for found in stored.values() if {theirs, own} <= found["to_best"].keys()]
        times = [(found["to_best"][theirs], found["to_best"][own]) for found in scored]
        for name, until in TO_SCORE:
            add(f"{own}_{name}_vs_{theirs}", [a[until] / b[until] for a, b in times if until in a and until in b])
        for epochs in (EPOCHS, PAPERS_EPOCHS):
            whole = [[seconds_to(found, case, epochs, last=True) for case in (theirs, own)] for found in scored]
            add(f"{own}_{epochs}_epochs_vs_{theirs}", [a / b for a, b in whole])
    return result


def table(stored: Mapping[str, Any]) -> str:
    """Milliseconds an example of an epoch after the first, by case and task."""
    speeds = {task: found["speed"] for task, found in stored.items() if "speed" in found}
    rows = []
    for case, said in {**PEERS, **{name: case.said for name, case in ours.CASES.items()}, **LIMIT}.items():
        times = [(speed["cases"].get(case, {}).get("epoch", []), speed["examples"] / 1e3) for speed in speeds.values()]
        rows.append([said, *(f"{statistics.median(each) / count:.1f}" if each else "" for each, count in times)])
    return markdown(["milliseconds an example", *speeds], rows)


if __name__ == "__main__":
    main()
