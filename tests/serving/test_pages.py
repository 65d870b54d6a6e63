"""The page of results says what the benchmarks of serving measured."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def page() -> str:
    return (ROOT / "results" / "README.md").read_text(encoding="utf-8")


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "results" / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def rows(text: str, first: str) -> list[str]:
    """The rows of the table whose head begins with `first`."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return lines[2:]


def test_the_load_table():
    found, text = result("serving"), page()
    wanted = []
    for case in found["cases"].values():
        other = sum(count for status, count in case["statuses"].items() if status not in {"200", "503"})
        wanted.append(
            f"| {case['part']:.0%} | {case['sent_per_second']:,.0f} | {case['p50_ms']:,.0f} ms |"
            f" {case['p99_ms']:,.0f} ms | {case['statuses']['200']:,} | {case['statuses'].get('503', 0):,} | {other} |"
        )
    assert rows(text, "sent") == wanted
    assert f"at {found['saturated_per_second']:,.0f} requests a second" in text
    assert f"holds {found['queue_rows']} rows" in text
    assert f"rows of {result('cache')['cases']['costs']['tokens_a_row']:.0f} tokens on average" in text


def test_what_is_said_of_the_load_table_holds():
    for case in result("serving")["cases"].values():
        assert {*case["statuses"]} <= ({"200"} if case["part"] < 1 else {"200", "503"})
        if case["part"] > 1:
            assert case["statuses"]["503"] > 0


def test_the_cache_table():
    found = result("cache")
    wanted = [
        f"| s = {case['exponent']:g} | {case['room']:,} | {case['megabytes']:,.0f} MB | {case['hit_rate']:.1%} |"
        f" {case['che']:.1%} | {case['request_ms']:.2f} ms |"
        for name, case in found["cases"].items()
        if name != "costs"
    ]
    assert rows(page(), "traffic") == wanted
    assert found["tasks"] == 1_000_000
    assert all(case["full"] for name, case in found["cases"].items() if name != "costs")
    assert all(abs(value - 1) < 0.02 for value in found["ratios"].values())


def test_the_costs_of_a_million_tasks():
    costs, text = result("cache")["cases"]["costs"], " ".join(page().split())
    times: dict[float, list[float]] = defaultdict(list)
    for name, case in result("cache")["cases"].items():
        if name != "costs":
            times[case["exponent"]].append(case["request_ms"])
    most = max(max(own) / min(own) - 1 for own in times.values())
    for said in (
        f"takes {costs['bytes_a_task']:,} bytes in memory and {costs['bytes_a_file']:,} bytes on disk",
        f"{costs['bytes_a_task'] / 1000:.1f} GB in memory",
        f"{costs['bytes_a_file'] / 1000:.1f} GB on disk",
        f"takes {costs['look_up_ms']['median'] * 1000:.1f} us and loading one {costs['load_ms']['median']:.2f} ms",
        f"next to {costs['row_ms']:.2f} ms for a row of {costs['tokens_a_row']:.0f} tokens",
        f"under one traffic a request's cost differs by at most {100 * most:.0f} %",
        f"load {1000 / costs['load_ms']['median']:,.0f} tasks a second",
    ):
        assert said in text, said
