"""What the records say to each of the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from statistics import mean

from normtune.data.suites import Column
from normtune.importance.movement import movement
from normtune.importance.ranking import component_means
from normtune.records.run import Record
from normtune.report.cells import Cells, named
from normtune.report.figures import Sums, full_runs, has_bias, layer_sums, no_bias
from normtune.report.table import Entry, Group, Kind, Table
from normtune.statistics.claims import MARGIN, Judged, Measured, judge

_KINDS: dict[str, Kind] = {"confirmed": "good", "refuted": "bad", "undecided": "note"}


def evidence(cells: Cells) -> dict[str, Measured]:
    """What is measured for the claims, by the names in `normtune.statistics.claims`."""
    everything = {
        "change": _change(cells),
        **_ranks(cells),
        "full": compared(cells, "layernorm", "full", MARGIN),
        "bitfit": compared(cells, "layernorm", "bitfit", MARGIN),
        "random": compared(cells, "layernorm", "random", 0.0),
        **_fraction(cells),
        "layers": _layers(cells),
        "bias": _bias(cells),
        "global": _masks(cells, "global"),
        "left-out": _masks(cells, "leave-one-out"),
    }
    return {name: each for name, each in everything.items() if each.values or each.left_out}


def _change(cells: Cells) -> Measured:
    tasks = cells.order(cells.tasks)
    values = {task: _leads(map(_changes, full_runs(cells, task)), cells.norms.closing) for task in tasks}
    return _ratio(f"change of {cells.closing} over that of the component that comes next", values)


def _changes(run: Record) -> dict[str, float]:
    """Equation 1 for each component of the layers, over all of its entries."""
    moved = movement([run.changes])
    return {name: moved.whole[name].mean or 0.0 for name in moved.inside}


def _ranks(cells: Cells) -> dict[str, Measured]:
    closing, attention = cells.norms.closing, cells.norms.attention
    means = {
        each.config.task: [component_means(each.information, head) for head in range(len(each.config.head_seeds))]
        for each in cells.results.fisher
    }
    first = {task: _leads(own, closing) for task, own in means.items()}
    second = {task: _leads(own, attention, without=closing) for task, own in means.items()}
    return {
        "first": _ratio(f"mean information of {cells.closing} over that of the next component", first),
        "second": _ratio(f"mean information of {' and '.join(attention)} over that of the third component", second),
    }


def _leads(each: Iterable[Mapping[str, float]], norms: Collection[str], without: Collection[str] = ()) -> list[float]:
    """How far norms lead the largest other component, each time: the logarithm of the ratio; none where one is absent.

    Of several norms the least counts, since each of them should lead.
    """
    found = []
    for values in each:
        rest = [value for name, value in values.items() if name not in {*norms, *without}]
        if norms and rest and {*norms, *without} <= values.keys():
            found.append(_log(min(values[name] for name in norms), max(rest)))
    return found


def _layers(cells: Cells) -> Measured:
    def halves(sums: Sums) -> tuple[float, float]:
        layers = sorted({layer for layer, _ in sums})
        early, late = {*layers[: len(layers) // 2]}, {*layers[(len(layers) + 1) // 2 :]}
        first, second = (sum(v for (layer, _), v in sums.items() if layer in half) for half in (late, early))
        return first, second

    return _ratio("information in the later half of the layers over that in the earlier half", _by_head(cells, halves))


def _bias(cells: Cells) -> Measured:
    def subs(sums: Sums) -> tuple[float, float]:
        bias, weight = (sum(v for (_, own), v in sums.items() if own == sub) for sub in ("bias", "weight"))
        return bias, weight

    values = _by_head(cells, subs) if has_bias(cells) else {}
    return _ratio("information in LayerNorm’s biases over that in its weights", values)


def _by_head(cells: Cells, two: Callable[[Sums], tuple[float, float]]) -> dict[str, list[float]]:
    values = {}
    for each in cells.results.fisher:
        sums = [layer_sums(cells, each, head) for head in range(len(each.config.head_seeds))]
        if all(sums):
            values[each.config.task] = [_log(*two(own)) for own in sums]
    return values


def compared(cells: Cells, first: str, second: str, margin: float) -> Measured:
    """Differences of two methods' scores on every task that has all seeds of both; MNLI's two dev sets are averaged."""
    values: dict[str, list[float]] = {}
    left_out = []
    for task in cells.order(task for method, task in cells.chosen if method in {first, second}):
        rows = [_differences(cells, first, second, column) for column in cells.columns if column.task == task]
        known = [row for row in rows if row is not None]
        if known and rows[0] is not None:
            values[task] = [mean(each) for each in zip(*known, strict=True)]
        else:
            left_out.append(cells.title(task))
    return Measured(f"{named(first)} − {named(second)}", "difference", values, margin, tuple(left_out))


def _differences(cells: Cells, first: str, second: str, column: Column) -> list[float] | None:
    one, other = cells.cell(first, column), cells.cell(second, column)
    if not (one.complete and other.complete):
        return None
    return [one.values[seed] - other.values[seed] for seed in cells.seeds]


def _masks(cells: Cells, scope: str) -> Measured:
    """Masks of a scope against individual ones, each seed's mean over the fractions at which both were trained."""
    own, others = (cells.masks().get(f"fisher-{name}", {}) for name in ("individual", scope))
    both = [compared(cells, others[x], own[x], MARGIN) for x in own if x in others]
    tasks = cells.order(task for each in both for task in each.values)
    whole = [task for task in tasks if all(task in each.values for each in both)]
    values = {task: [mean(seed) for seed in zip(*(each.values[task] for each in both), strict=True)] for task in whole}
    lacking = dict.fromkeys(name for each in both for name in each.left_out)
    shown = ", ".join(f"{x:g}" for x in own if x in others)
    return Measured(f"{scope} − individual masks, f = {shown}", "difference", values, MARGIN, tuple(lacking))


def _fraction(cells: Cells) -> dict[str, Measured]:
    """A tenth of LayerNorm against the whole, where such masks were trained."""
    method = cells.masks().get("fisher-individual", {}).get(0.1)
    return {} if method is None else {"fraction": compared(cells, method, "layernorm", MARGIN)}


def _ratio(name: str, values: Mapping[str, Sequence[float]]) -> Measured:
    return Measured(name, "ratio", {task: each for task, each in values.items() if each})


def _log(one: float, other: float) -> float:
    """The logarithm of a ratio; zeros count as the smallest number there is."""
    return math.log(max(one, 1e-300) / max(other, 1e-300))


def claims_table(cells: Cells) -> Table:
    """The paper's claims, each confirmed, refuted or undecided here."""
    judged = enumerate(judge(evidence(cells)), 1)
    rows = [row for place, each in judged for row in _claim(cells, place, each)]
    return Table(
        "claims",
        "The paper’s claims, judged here.",
        ("", "claim", "in the paper", "here", "measured", "value", "95 % interval", "tasks × seeds"),
        (Group("", tuple(rows)),),
        "Confirmed where the whole 95 % interval is on the claim’s side (a ratio above 1; a difference of scores,"
        f" × 100, above −{100 * MARGIN:g}, or above 0 where the claim is that the other is worse), refuted where it is"
        " on the other, else undecided. Intervals are bootstrapped over tasks and seeds, seeds of the head for Fisher"
        " information; tasks that lack a run take no part.",
        texts=5,
    )


def _claim(cells: Cells, place: int, judged: Judged) -> Iterator[tuple[Entry, ...]]:
    """A row a part."""
    claim = judged.claim
    head = (
        Entry(str(place)),
        Entry(claim.text),
        Entry(claim.where),
        Entry(judged.verdict, kind=_KINDS[judged.verdict]),
    )
    if not judged.parts:
        why = no_bias(cells) if claim.parts == ("bias",) and not has_bias(cells) else "no runs yet"
        yield *head, Entry(why, kind="missing"), *[Entry("—", kind="missing")] * 3
    for number, part in enumerate(judged.parts):
        first = head if not number else (Entry(""),) * len(head)
        tip = f"tasks: {', '.join(map(cells.title, cells.order(part.values))) or 'none'}"
        size = Entry(f"{len(part.values)} × {part.seeds}", tip=tip)
        yield *first, Entry(_name(part)), Entry(_value(part)), Entry(_interval(part)), size


def _name(part: Measured) -> str:
    return f"{part.name} (without {', '.join(part.left_out)}: runs missing)" if part.left_out else part.name


def _value(part: Measured) -> str:
    if part.mean is None:
        return "—"
    return f"{part.mean:.2f} to 1" if part.kind == "ratio" else f"{signed(100 * part.mean)}"


def _interval(part: Measured) -> str:
    if part.interval is None:
        return "too few tasks"
    low, high = part.interval
    return f"{low:.2f} – {high:.2f}" if part.kind == "ratio" else f"{signed(100 * low)} to {signed(100 * high)}"


def signed(value: float) -> str:
    """A number with its sign, by the sign that print has for minus."""
    return f"{value:+.1f}".replace("-", "−")
