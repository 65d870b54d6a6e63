"""The evidence in the records for each of the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import mean

from normtune.importance.movement import movement
from normtune.importance.ranking import component_means
from normtune.records.run import Record
from normtune.report.cells import Cells, named
from normtune.report.table import GAP, Entry, EntryKind, Table, group, remark, signed
from normtune.statistics.claims import CLAIMS, MARGIN, Evidence, Verdict

#: Whether a sum of Fisher information counts, given its layer, its sub-component, and the number of layers.
SumFilter = Callable[[int, str, int], bool]
_KINDS: dict[str, EntryKind] = {"confirmed": "good", "refuted": "bad", "undecided": "note"}


def evidence(cells: Cells) -> dict[str, Evidence]:
    """The evidence for the claims, by the names in `normtune.statistics.claims`."""
    everything = {
        "change": _change(cells),
        **_ranks(cells),
        "full": compared(cells, "layernorm", "full", MARGIN),
        "bitfit": compared(cells, "layernorm", "bitfit", MARGIN),
        "random": compared(cells, "layernorm", "random", 0.0),
        "layers": _by_head(
            cells,
            "information in the later half of the layers over that in the earlier half",
            lambda layer, _, of: 2 * layer >= of,
            lambda layer, _, of: 2 * layer + 1 < of,
        ),
        "global": _masks(cells, "global"),
        "left-out": _masks(cells, "leave-one-out"),
    }
    if not cells.no_bias:
        name = "information in LayerNorm’s biases over that in its weights"
        everything["bias"] = _by_head(cells, name, lambda _, sub, __: sub == "bias", lambda _, sub, __: sub == "weight")
    if tenth := cells.masks().get("fisher-individual", {}).get(0.1):
        everything["fraction"] = compared(cells, tenth, "layernorm", MARGIN)
    return {name: each for name, each in everything.items() if each.values or each.left_out}


def _change(cells: Cells) -> Evidence:
    """How far the closing norm moved against the others, on every task that has all seeds of full fine-tuning."""
    runs = {task: own for task in cells.order(cells.tasks) if (own := cells.full_runs(task))}
    whole = {task: own for task, own in runs.items() if cells.complete("full", task)}
    lacking = tuple(cells.title(task) for task in cells.order(cells.tasks) if task not in whole) if runs else ()
    values = {task: _leads(map(_changes, own), cells.norms.closing) for task, own in whole.items()}
    return _ratio(f"change of {cells.closing} over that of the component that comes next", values, lacking)


def _changes(run: Record) -> dict[str, float]:
    """Equation 1 for each component of the layers, over all of its entries."""
    moved = movement([run.changes])
    return {name: moved.whole[name].mean or 0.0 for name in moved.inside}


def _ranks(cells: Cells) -> dict[str, Evidence]:
    closing, attention = cells.norms.closing, cells.norms.attention
    means = {
        each.config.task: [component_means(each.information, head) for head in range(len(each.config.head_seeds))]
        for each in cells.results.fisher
        if each.config.within == "full"  # a part of the model may lack the next component
    }
    first = {task: _leads(own, closing) for task, own in means.items()}
    second = {task: _leads(own, attention, without=closing) for task, own in means.items()}
    return {
        "first": _ratio(f"mean information of {cells.closing} over that of the next component", first),
        "second": _ratio(f"mean information of {' and '.join(attention)} over that of the third component", second),
    }


def _leads(each: Iterable[Mapping[str, float]], norms: Collection[str], without: Collection[str] = ()) -> list[float]:
    """Log ratios of norms to the largest other component, one for each mapping; mappings that lack a norm have none.

    Of several norms the smallest counts, since each of them should lead.
    """
    found = []
    for values in each:
        rest = [value for name, value in values.items() if name not in {*norms, *without}]
        if norms and rest and {*norms, *without} <= values.keys():
            found.append(_log(min(values[name] for name in norms), max(rest)))
    return found


def _by_head(cells: Cells, name: str, above: SumFilter, below: SumFilter) -> Evidence:
    """Log ratios of one part of the information to another, for each task and head seed."""
    values: dict[str, list[float]] = {}
    for each in cells.results.fisher:
        for head in range(len(each.config.head_seeds)):
            sums = cells.layer_sums(each, head)
            layers = 1 + max((layer for layer, _ in sums), default=0)
            if "@" in each.config.within or len(sums) != layers * len({sub for _, sub in sums}):
                continue  # a part was measured, so the sides are not alike
            one, other = ([v for spot, v in sums.items() if part(*spot, layers)] for part in (above, below))
            if one and other:  # both were measured
                values.setdefault(each.config.task, []).append(_log(sum(one), sum(other)))
    return _ratio(name, values)


def compared(cells: Cells, first: str, second: str, margin: float) -> Evidence:
    """Differences of two methods' scores on every task that has all seeds of both."""
    values: dict[str, list[float]] = {}
    left_out = []
    for task in cells.order(task for method, task in cells.chosen if method in {first, second}):
        if cells.complete(first, task) and cells.complete(second, task):
            values[task] = cells.scores([first, second], [task]).differences(first, second)[0].tolist()
        else:
            left_out.append(cells.title(task))
    floored = tuple(task for task in values if not any(cells.clear(method, task) for method in (first, second)))
    return Evidence(f"{named(first)} − {named(second)}", "difference", values, margin, tuple(left_out), floored)


def _masks(cells: Cells, scope: str) -> Evidence:
    """Masks of a scope against individual ones, each seed's mean over the fractions at which both were trained."""
    own, others = (cells.masks().get(f"fisher-{name}", {}) for name in ("individual", scope))
    both = [compared(cells, others[x], own[x], MARGIN) for x in own if x in others]
    tasks = cells.order(task for each in both for task in each.values)
    whole = [task for task in tasks if all(task in each.values for each in both)]
    values = {task: [mean(seed) for seed in zip(*(each.values[task] for each in both), strict=True)] for task in whole}
    lacking = dict.fromkeys(name for each in both for name in each.left_out)
    shown = ", ".join(f"{x:g}" for x in own if x in others)
    floored = tuple(task for task in values if all(task in each.floored for each in both))
    return Evidence(f"{scope} − individual masks, f = {shown}", "difference", values, MARGIN, tuple(lacking), floored)


def _ratio(name: str, values: Mapping[str, Sequence[float]], left_out: tuple[str, ...] = ()) -> Evidence:
    return Evidence(name, "ratio", {task: each for task, each in values.items() if each}, left_out=left_out)


def _log(one: float, other: float) -> float:
    """The logarithm of a ratio; zero counts as 1e-300."""
    return math.log(max(one, 1e-300) / max(other, 1e-300))


def claims_table(cells: Cells) -> Table:
    """The paper's claims, each confirmed, refuted or undecided here."""
    measured = evidence(cells)
    rows, silent = [], []
    for place, claim in enumerate(CLAIMS, 1):
        parts = [measured[name] for name in claim.parts if name in measured]
        first = (str(place), claim.text, claim.where, _entry(claim.judged(parts)))
        if not parts and claim.parts == ("bias",) and cells.no_bias:
            rows.append((*first, Entry(cells.no_bias, kind="missing"), GAP, GAP, GAP, GAP))
        elif not parts:
            silent.append(str(place))
        rows += [(*(first if part is parts[0] else ("",) * 4), *_part(cells, part)) for part in parts]
        if any(part.floored for part in parts):
            clear = [part.clear for part in parts]
            first = ("", "the same, on tasks clear of their floor", "", _entry(claim.judged(clear)))
            rows += [(*(first if part is clear[0] else ("",) * 4), *_part(cells, part)) for part in clear]
    return Table(
        "claims",
        "The paper’s claims, judged here.",
        (
            *("", "claim", "in the paper", "here", "measured"),
            *("value", "95 % interval", "agree × seeds", "would take"),
        ),
        (group(rows),) if rows else (),
        "A claim is confirmed if the whole 95 % interval is on its side (a ratio above 1; a difference of scores,"
        f" × 100, above −{100 * MARGIN:g}, or above 0 for the claim that random entries are worse), refuted if all of"
        " it is on the other side, else undecided; each by itself, not corrected for the number of claims."
        " Intervals are Student’s t, over tasks and seeds. Fisher information is that of the layers’ components; its"
        " seeds are those of the head. Tasks that lack a run are left out. Agree: the tasks whose mean over seeds is on"
        " the claim’s side. A task is at its floor if neither method scores five points above one answer for all"
        " examples. Would take: the number of tasks like these that would decide an undecided claim four times in five,"
        " if means and spreads are as measured.",
        remark("Nothing was measured here for the paper’s claims", silent),
        texts=5,
    )


def _entry(verdict: Verdict) -> Entry:
    return Entry(verdict, kind=_KINDS[verdict])


def _part(cells: Cells, part: Evidence) -> tuple[str | Entry, ...]:
    """A row of evidence: its name, value and interval, its tasks and seeds, and the tasks that it would take."""
    lacking = f" (without {', '.join(part.left_out)}: runs missing)" if part.left_out else ""
    named = part.name + lacking
    tip = f"tasks: {', '.join(map(cells.title, cells.order(part.values))) or 'none'}"
    size = Entry(f"{part.agreeing} of {len(part.values)} × {part.seeds}", tip=tip)
    if part.mean is None:
        return named, "—", "too few tasks", size, GAP
    if part.kind == "ratio":
        value, ends = f"{part.mean:.2f} to 1", " – ".join(f"{end:.2f}" for end in part.interval or ())
    else:
        value, ends = signed(100 * part.mean), " to ".join(signed(100 * end) for end in part.interval or ())
    return named, value, ends or "too few tasks", size, _takes(part)


def _takes(part: Evidence) -> str | Entry:
    tasks = part.takes()
    return GAP if part.verdict != "undecided" or tasks is None else f"{tasks:,} tasks"
