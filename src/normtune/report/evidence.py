"""What the records say to each of the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean

from normtune.data.suites import Column
from normtune.importance.ranking import component_means
from normtune.records.fisher import FisherRecord
from normtune.records.results import Results
from normtune.report.figures import LAYERNORM, component_changes, fractions, layer_sums
from normtune.report.scores import Scores, order, title
from normtune.report.table import Entry, Group, Kind, Table
from normtune.report.tables import NAMES
from normtune.statistics.claims import MARGIN, Judged, Measured, judge

SECOND = "attention.output.LayerNorm"
_KINDS: dict[str, Kind] = {"confirmed": "good", "refuted": "bad", "undecided": "note"}


def evidence(scores: Scores, results: Results) -> dict[str, Measured]:
    """What is measured for the claims, by the names in `normtune.statistics.claims`."""
    everything = {
        "change": _change(scores),
        **_ranks(results.fisher),
        "full": compared(scores, "layernorm", "full", MARGIN),
        "bitfit": compared(scores, "layernorm", "bitfit", MARGIN),
        "random": compared(scores, "layernorm", "random", 0.0),
        **_fraction(scores),
        "layers": _layers(results.fisher),
        "bias": _bias(results.fisher),
        "global": _masks(scores, "global"),
        "left-out": _masks(scores, "leave-one-out"),
    }
    return {name: each for name, each in everything.items() if each.values or each.left_out}


def _change(scores: Scores) -> Measured:
    values = {}
    for task in order(task for method, task in scores.chosen if method == "full"):
        moved = [component_changes(run) for run in scores.chosen["full", task].values() if run.changes]
        values[task] = [_log(each[LAYERNORM], _largest(each, {LAYERNORM})) for each in moved if LAYERNORM in each]
    return _ratio("change of output.LayerNorm over that of the component that comes next", values)


def _ranks(fisher: Sequence[FisherRecord]) -> dict[str, Measured]:
    first: dict[str, list[float]] = {}
    second: dict[str, list[float]] = {}
    for each in fisher:
        heads = [component_means(each.information, head) for head in range(len(each.config.head_seeds))]
        if all({LAYERNORM, SECOND} <= means.keys() for means in heads):
            first[each.config.task] = [_log(means[LAYERNORM], _largest(means, {LAYERNORM})) for means in heads]
            rest = {LAYERNORM, SECOND}
            second[each.config.task] = [_log(means[SECOND], _largest(means, rest)) for means in heads]
    return {
        "first": _ratio("mean information of output.LayerNorm over that of the next component", first),
        "second": _ratio("mean information of attention.output.LayerNorm over that of the third component", second),
    }


def _layers(fisher: Sequence[FisherRecord]) -> Measured:
    def halves(sums: Mapping[tuple[int, str], float]) -> tuple[float, float]:
        layers = sorted({layer for layer, _ in sums})
        early, late = {*layers[: len(layers) // 2]}, {*layers[(len(layers) + 1) // 2 :]}
        first, second = (sum(v for (layer, _), v in sums.items() if layer in half) for half in (late, early))
        return first, second

    return _ratio("information in the later half of the layers over that in the earlier half", _by_head(fisher, halves))


def _bias(fisher: Sequence[FisherRecord]) -> Measured:
    def subs(sums: Mapping[tuple[int, str], float]) -> tuple[float, float]:
        bias, weight = (sum(v for (_, own), v in sums.items() if own == sub) for sub in ("bias", "weight"))
        return bias, weight

    return _ratio("information in LayerNorm’s biases over that in its weights", _by_head(fisher, subs))


def _by_head(
    fisher: Sequence[FisherRecord], two: Callable[[Mapping[tuple[int, str], float]], tuple[float, float]]
) -> dict[str, list[float]]:
    values = {}
    for each in fisher:
        sums = [layer_sums(each, head) for head in range(len(each.config.head_seeds))]
        if all(sums):
            values[each.config.task] = [_log(*two(own)) for own in sums]
    return values


def compared(scores: Scores, first: str, second: str, margin: float) -> Measured:
    """Differences of two methods' scores on every task that has all seeds of both; MNLI's two dev sets are averaged."""
    values: dict[str, list[float]] = {}
    left_out = []
    for task in order(task for method, task in scores.chosen if method in {first, second}):
        columns = [column for column in scores.columns if column.task == task]
        rows = [_differences(scores, first, second, column) for column in columns]
        known = [row for row in rows if row is not None]
        if known and rows[0] is not None:
            values[task] = [mean(each) for each in zip(*known, strict=True)]
        elif title(task) not in left_out:
            left_out.append(title(task))
    return Measured(
        f"{NAMES.get(first, first)} − {NAMES.get(second, second)}", "difference", values, margin, tuple(left_out)
    )


def _differences(scores: Scores, first: str, second: str, column: Column) -> list[float] | None:
    one, other = scores.cell(first, column), scores.cell(second, column)
    if not (one.complete and other.complete):
        return None
    return [one.values[seed] - other.values[seed] for seed in scores.seeds]


def _masks(scores: Scores, scope: str) -> Measured:
    """Masks of a scope against individual ones, each seed's mean over the fractions at which both were trained."""
    own, others = fractions(scores, "fisher-individual"), fractions(scores, f"fisher-{scope}")
    both = [compared(scores, others[x], own[x], MARGIN) for x in own if x in others]
    tasks = order({task for each in both for task in each.values})
    whole = [task for task in tasks if all(task in each.values for each in both)]
    values = {task: [mean(seed) for seed in zip(*(each.values[task] for each in both), strict=True)] for task in whole}
    lacking = dict.fromkeys(name for each in both for name in each.left_out)
    shown = ", ".join(f"{x:g}" for x in own if x in others)
    return Measured(f"{scope} − individual masks, f = {shown}", "difference", values, MARGIN, tuple(lacking))


def _fraction(scores: Scores) -> dict[str, Measured]:
    """A tenth of LayerNorm against the whole, where such masks were trained."""
    method = fractions(scores, "fisher-individual").get(0.1)
    return {} if method is None else {"fraction": compared(scores, method, "layernorm", MARGIN)}


def _ratio(name: str, values: Mapping[str, Sequence[float]]) -> Measured:
    return Measured(name, "ratio", {task: each for task, each in values.items() if each})


def _largest(values: Mapping[str, float], without: set[str]) -> float:
    return max((value for name, value in values.items() if name not in without), default=0.0)


def _log(one: float, other: float) -> float:
    """The logarithm of a ratio; zeros count as the smallest number there is."""
    return math.log(max(one, 1e-300) / max(other, 1e-300))


def claims_table(scores: Scores, results: Results) -> Table:
    """The paper's claims, each confirmed, refuted or undecided here."""
    judged = enumerate(judge(evidence(scores, results)), 1)
    rows = [row for place, each in judged for row in _claim(place, each)]
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


def _claim(place: int, judged: Judged) -> Iterator[tuple[Entry, ...]]:
    """A row a part."""
    claim = judged.claim
    head = (
        Entry(str(place)),
        Entry(claim.text),
        Entry(claim.where),
        Entry(judged.verdict, kind=_KINDS[judged.verdict]),
    )
    if not judged.parts:
        yield *head, Entry("no runs yet", kind="missing"), *[Entry("—", kind="missing")] * 3
    for number, part in enumerate(judged.parts):
        first = head if not number else (Entry(""),) * len(head)
        tip = f"tasks: {', '.join(map(title, order(part.values))) or 'none'}"
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
