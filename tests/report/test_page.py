"""The page in a real browser, and what can be checked without one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from normtune.records.results import read
from normtune.report.page import Report, page
from tests.report import made


class Anchors(HTMLParser):
    """Collects ids and the links within the page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if str(found.get("href", "")).startswith("#"):
            self.links.add(str(found["href"])[1:])


@pytest.fixture
def tab(browser: Any, report: Path) -> Iterator[Any]:
    """The report in a browser tab, whose console must stay empty."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    opened.said = []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("requestfailed", lambda request: opened.said.append(request.url))
    opened.goto(report.as_uri())
    yield opened
    assert opened.said == []
    opened.close()


def test_links_lead_somewhere(report):
    found = Anchors()
    found.feed(report.read_text(encoding="utf-8"))
    assert len(found.ids) == len({*found.ids})
    assert found.links <= {*found.ids}


def test_files_beside_the_page_are_there(report):
    text = report.read_text(encoding="utf-8")
    named = re.findall(r'href="((?:figures|tables)/[^"]+)"', text)
    assert len(named) == 8 + 6 * 4  # without table 3, which has no submission
    assert all((report.parent / name).is_file() for name in named)


def test_a_name_is_text_and_no_markup(tmp_path):
    made.results(tmp_path, methods={"<script>alert(1)</script>": 0.0}, tasks=["rte"], seeds=[0], measured=())
    assert "<script>alert" not in page(Report(read(tmp_path)))


def test_every_figure_is_drawn(tab):
    for number in range(1, 6):
        boxes = tab.eval_on_selector_all(
            f"#figure{number} figure > svg",
            "all => all.map(e => [e.getBoundingClientRect().width, e.querySelectorAll('[data-tip]').length])",
        )
        assert len(boxes) == 1
        assert boxes[0][0] > 500
        assert boxes[0][1] > 15
    said = tab.eval_on_selector_all("#figure1 svg text", "all => all.map(e => e.textContent)")
    assert [text.split(" ")[0] for text in said if "seeds" in text] == ["CoLA", "MRPC", "STS-B", "RTE"]


def test_nothing_is_cut_off_or_overlaps(tab):
    cut = """all => all.filter(text => {
        const own = text.getBoundingClientRect(), box = text.closest("svg").getBoundingClientRect();
        return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1;
    }).map(text => text.textContent)"""
    assert tab.eval_on_selector_all("figure svg text", cut) == []
    overlap = """() => [...document.querySelectorAll("figure svg")].flatMap(svg => {
        const boxes = [...svg.querySelectorAll("text")].map(t => t.getBoundingClientRect());
        return boxes.filter((a, i) => boxes.some((b, j) => i < j &&
            a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)).length;
    }).reduce((a, b) => a + b, 0)"""
    assert tab.evaluate(overlap) == 0


def test_letters_of_figures_follow_the_theme(tab):
    shade = "getComputedStyle(document.querySelector('#figure1 svg text')).fill"
    light = tab.evaluate(shade)
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate(shade) != light
    tab.emulate_media(media="print")
    assert tab.evaluate(shade) == light


def test_a_pointer_over_a_mark_shows_its_value(tab):
    for place, wanted in (
        ("#figure1 path[data-tip]", r"layer \d+\n[\d.e-]+"),
        ("#figure4 path[data-tip]", r"weight: layer \d+, task"),
        ("#figure5 use[data-tip]", r"f = 0.1\nindividual: .*\nglobal: .*\nleave-one-out.*\n.*3 of 3 seeds\nseed 0"),
        ("#table2 td:nth-child(4)[data-tip]", "seed 1:"),
    ):
        tab.hover(f"{place} >> nth=0", force=True)
        assert tab.is_visible("#tip")
        assert re.search(wanted, tab.inner_text("#tip")), place
        box = tab.locator("#tip").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 1280
    tab.mouse.move(2, 2)
    assert not tab.is_visible("#tip")


def test_dark_follows_the_system_and_the_button(tab):
    def dark() -> bool:
        shade = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", shade)[:3])) < 200

    assert not dark()
    tab.emulate_media(color_scheme="dark")
    assert dark()
    tab.click("#theme")
    assert not dark()
    tab.reload()
    assert not dark()
    tab.click("#theme")
    assert dark()
    tab.emulate_media(media="print")
    assert not dark()
    tab.evaluate("localStorage.clear()")


def test_a_narrow_screen_does_not_scroll_sideways(tab):
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_it_prints(tab):
    assert len(tab.pdf(prefer_css_page_size=True)) > 10_000
