"""How many examples Fisher information needs: results from fewer of them, against those from all.

For each of GLUE's eight tasks every available training example is added in a random order. Whenever their number has
doubled, the ranking of components (table 1) and the 10 % mask of LayerNorm are compared: between halves, which decides
when ``--until-stable`` stops, and with the result from all examples.

Run ``python benchmarks/examples.py``, with ``NORMTUNE_DATA`` naming a GLUE folder: about half an hour on one core. It
writes ``results/benchmarks/examples.json`` after every task, and continues where it was stopped; ``--force`` measures
again what is there already, ``--markdown`` prints the table of ``results/README.md`` from it.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from harness import glue, markdown, read, write

from normtune.data.encode import encode
from normtune.importance.fisher import Estimation, Request, information, scores, totals
from normtune.importance.masks import top
from normtune.importance.ranking import component_means, concordance
from normtune.importance.stability import look, overlap, rounds
from normtune.importance.tally import merged
from normtune.methods.expression import select
from normtune.models.base import Base, load_base
from normtune.records.fisher import SplitHalf, Tolerance

TASKS = ("cola", "sst2", "mrpc", "stsb", "rte", "qnli", "mnli", "qqp")
FRACTION = 0.1
#: Shares in which halves may still differ.
TOLERANCES = (0.2, 0.1, 0.05)


def main() -> None:
    """Measure and write, or print the table of what was written."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args()
    cases = read("examples")
    if options.markdown:
        print(table(cases))
        return
    torch.set_num_threads(options.threads)
    base = load_base("minilm")
    for task in options.tasks.split(","):
        if options.force or task not in cases:
            cases[task] = case(base, task)
            cases = {name: cases[name] for name in TASKS if name in cases}
            print(write("examples", cases, {}, fraction=FRACTION))


def case(base: Base, name: str) -> dict[str, Any]:
    """Every look at one task."""
    data = glue(name)
    encoded = encode(data.labelled("train"), base.need_tokenizer(), 128)
    request = Request(select(base.layout, "full"), select(base.layout, "layernorm"))
    asked = {kind: Tolerance(of=kind, fraction=FRACTION) for kind in ("ranking", "mask")}
    looks: list[dict[str, Any]] = []
    states = []
    estimation = Estimation(base, data.task, encoded, request)
    with estimation.head(0):
        for order, groups in rounds(estimation, len(encoded), 0):
            whole = merged(groups)
            means = component_means(information(request.within, [totals(whole, request.within)]))
            states.append((means, top(scores([whole], request.single), fraction=FRACTION)))
            compared = {kind: look(groups, tolerance, request) for kind, tolerance in asked.items()}
            looks.append({"examples": len(order), **{k: v.model_dump() for k, v in compared.items()}})
            print(name, len(order), {k: round(v.agreement, 3) for k, v in compared.items()}, flush=True)
    ranking, mask = states[-1]
    for own, (means, chosen) in zip(looks, states, strict=True):
        own["ranking_as_all"], own["mask_as_all"] = concordance(means, ranking), overlap(chosen, mask)
    return {"available": len(encoded), "looks": looks, "stops": {kind: stops(looks, kind) for kind in asked}}


def stops(looks: list[dict[str, Any]], kind: str) -> dict[str, dict[str, float] | None]:
    """Where `normtune fisher --until-stable` would have stopped, and how far that is from all examples."""
    found: dict[str, dict[str, float] | None] = {}
    for tolerance in TOLERANCES:
        first = next((look for look in looks if _stable(SplitHalf(**look[kind]), tolerance)), None)
        found[f"{tolerance:g}"] = first and {"examples": first["examples"], "as_all": first[f"{kind}_as_all"]}
    return found


def _stable(look: SplitHalf, tolerance: float) -> bool:
    return look.agreement - look.error >= 1 - tolerance


def table(cases: dict[str, Any]) -> str:
    """Markdown: a row a task."""
    rows = []
    for task, found in cases.items():
        cells = [task, f"{found['available']:,}"]
        for kind in ("ranking", "mask"):
            stop = found["stops"][kind]["0.1"]
            cells += ["more", ""] if stop is None else [f"{stop['examples']:,}", f"{100 * stop['as_all']:.0f} %"]
        rows.append(cells)
    head = ("task", "examples", "table 1 needs", "pairs ordered as by all", "a 10 % mask needs", "of it as by all")
    return markdown(head, rows)


if __name__ == "__main__":
    main()
