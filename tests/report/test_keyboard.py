"""The page by keyboard alone: every control is a stop, in the order of reading, with a visible focus, and nothing holds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import diffsmooth_trt as dst
from diffsmooth_trt.report.chart_page import Chart, ChartPage, Line, Table, chart_page
from diffsmooth_trt.report.gallery import look
from diffsmooth_trt.report.html import page
from diffsmooth_trt.report.tables import summarise

RUNS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "zoo"
MOST = 200  # stops; a page that holds the focus has no end

# What the focus is on: where it stands among all elements, what it is called, and the outline that shows it.
STOP = """(() => {
  const at = document.activeElement;
  if (!at || at === document.body || at === document.documentElement) return null;
  const seen = at.type === "radio" ? at.closest("label") : at;
  const style = getComputedStyle(seen), box = seen.getBoundingClientRect();
  return {
    place: [...document.querySelectorAll("*")].indexOf(at), tag: at.localName, group: at.name || "",
    name: at.getAttribute("aria-label") || at.labels?.[0]?.textContent || seen.textContent.trim().slice(0, 60),
    outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    inside: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  };
})()"""
# What should be a stop: of a group of radio buttons one, of regions those that scroll.
CONTROLS = """[...document.querySelectorAll("a[href], button, select, input, summary, .scroll")].filter((each) =>
  each.getClientRects().length && (each.type !== "radio" || each.checked)
  && (each.localName !== "div" || each.scrollWidth > each.clientWidth)
).map((each) => [...document.querySelectorAll("*")].indexOf(each))"""


LANDMARKS = """[...document.querySelectorAll("section, nav, [role=region]")].map((each) =>
  each.getAttribute("aria-label") || document.getElementById(each.getAttribute("aria-labelledby")).textContent)"""


@pytest.fixture(scope="module")
def browser(load_beside: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    support = load_beside("chromium.py")
    if support.found() is None:
        pytest.skip("no Chromium to open the page in")
    with support.Chromium(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of 500 images: everything that a page can have."""
    summaries, seen = [], []
    for name in ("dds-n1000", "dds-n10000"):
        with dst.open_run(RUNS / f"{name}.sqlite") as store:
            summaries.append(summarise(store))
            seen.append(look(store, summaries[-1], None, 0))
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(page(summaries, [0.0, 0.25, 0.5], seen), encoding="utf-8")
    return file


@pytest.fixture
def charts(tmp_path: Path) -> Path:
    line = Line(name="a", points=[(0.0, 50.0), (1.0, 20.0)])
    chart = Chart(title="Lines", said="", x="x", y="y", lines=[line], reach=(0.0, 1.0))
    table = Table(title="Numbers", said="", head=["a", "b"], rows=[[str(i), "1"] for i in range(30)])
    made = ChartPage(
        files=["f"], lede="A sentence.", set="", figures=[], charts=[chart], tables=[table], words=[],
        facts=[("one", [("a", "b")]), ("two", [("c", "d")])],
    )  # fmt: skip
    file = tmp_path / "charts.html"
    file.write_text(chart_page(made, ""), encoding="utf-8")
    return file


def stops(browser: Any, *, shift: bool = False) -> list[dict[str, Any]]:
    """Every stop of the Tab key until the focus leaves the page."""
    seen: list[dict[str, Any]] = []
    while len(seen) < MOST:
        browser.press("Tab", shift=shift)
        stop = browser.value(STOP)
        if stop is None or (seen and stop["place"] == seen[0]["place"]):
            break
        seen.append(stop)
    return seen


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("which", ["runs", "charts"])
def test_every_control_is_a_stop_in_order_and_seen(
    browser: Any, request: pytest.FixtureRequest, which: str, width: int
) -> None:
    browser.open(request.getfixturevalue(which), width=width)
    seen, controls = stops(browser), browser.value(CONTROLS)
    places = [stop["place"] for stop in seen]
    assert len(seen) < MOST, "the focus does not leave the page"
    named = browser.value(LANDMARKS)
    assert len(named) > 2 and len(set(named)) == len(named)
    assert places == sorted(places) == sorted(controls)
    assert [stop for stop in seen if not (stop["outline"] and stop["inside"] and stop["name"])] == []
    assert [stop["place"] for stop in stops(browser, shift=True)] == places[::-1]


def focus(browser: Any, selector: str) -> None:
    assert browser.value(f"document.querySelector({selector!r}).focus() === undefined")


def test_controls_do_what_keys_ask(browser: Any, runs: Path) -> None:
    browser.open(runs)
    browser.press("Tab")
    browser.press("Enter")  # the link past the head
    assert browser.value("document.activeElement.id") == "main"
    focus(browser, "#radius")
    before = browser.value("document.querySelector('.readout').textContent")
    browser.press("End")
    assert browser.value("document.querySelector('.readout').textContent") != before
    focus(browser, "#images .choice input")
    browser.press("ArrowRight")
    found = browser.value("document.querySelector('#images [role=status]').textContent")
    assert " of 500 images" in found
    focus(browser, "#images select")
    browser.press("ArrowDown")
    assert browser.value("document.querySelector('#images [role=status]').textContent") != found
    browser.press("Escape")
    assert browser.value("document.activeElement.localName") == "select"
    focus(browser, "#made summary")
    browser.press("Enter")
    assert browser.value("document.querySelector('#made details').open") is True
    browser.press(" ")
    assert browser.value("document.querySelector('#made details').open") is False


def test_more_images_take_the_focus_along(browser: Any, runs: Path) -> None:
    browser.open(runs)
    focus(browser, "#images button.more")
    browser.press(" ")
    shown = browser.value("document.querySelectorAll('#images .card, #images tbody tr').length")
    assert shown == 120
    assert (
        browser.value(
            "[...document.querySelectorAll('#images .card, #images tbody tr')].indexOf(document.activeElement)"
        )
        == 60
    )
