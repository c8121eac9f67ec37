"""The report in a real browser: what it shows, what it says, who can read it."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.browser import browser_page, complaints, missing_browser
from tests.support.evaluation.report import hostile_page
from tokengym.evaluation.report.facts import LostRun
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize

__all__ = ["hostile_page"]
ROOT = Path(__file__).parents[3]
OWNED = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
needs_browser = pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())


@pytest.fixture
def report(make_curves, tmp_path: Path) -> Path:
    """A report with every part there is: alarms, failures, samples, settings."""
    curves = make_curves(("sparse", "abc"))
    for curve in curves:
        if curve.credit == "abc":
            curve.values["gold_score"][6:] -= 0.05 * (curve.steps[6:] - curve.steps[5])
    failed = [LostRun(credit="abc", seed=9, error=OWNED)]
    summary = summarize(
        curves, SummarySettings(kl_coef=0.05, anchors={"score": -0.5}, failed=failed)
    )
    about = {"settings": {"env": "tokengym/MovieReview-v0"}, "versions": {"torch": OWNED}}
    summary = replace(summary, about=about)
    samples = [
        {"credit": credit, "seed": 0, "step": step, "prompt": OWNED, "response": OWNED}
        | {"tokens": [OWNED, " fine"], "token_rewards": [0.5, -0.25], "score": 0.25}
        for credit in ("sparse", "abc")
        for step in (0, 30)
    ]
    path = tmp_path / "report.html"
    path.write_text(render_report(summary, curves, samples), encoding="utf-8")
    return path


def test_colours_can_be_told_from_what_they_lie_on():
    """WCAG 2.1: 4.5 to 1 for text, 3 to 1 for lines and signs; axe does not look into SVG."""
    css = (ROOT / "evaluation" / "report" / "templates" / "report.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    for block in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for page in ("page", "card"):
            for text in ("ink", "soft", "accent"):
                assert contrast(colours[text], colours[page]) >= 4.5, (text, page)
        assert contrast(colours["ink"], colours["warn-page"]) >= 4.5
        for index in range(8):
            assert contrast(colours[f"c{index}"], colours["card"]) >= 3.0, index


def test_every_chart_and_control_has_a_name(report: Path):
    page = report.read_text(encoding="utf-8")
    charts = re.findall(r"<svg [^>]*>", page)
    assert charts
    assert all('role="img"' in tag and re.search(r'aria-label="[^"]+"', tag) for tag in charts)
    for control in re.findall(r"<(?:select|input)\b", page):
        assert re.search(r"<label>[^<]*" + control, page), control
    levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels


@needs_browser
def test_it_can_be_read_by_hand(report: Path):
    with browser_page() as page:
        page.goto(report.as_uri())
        page.mouse.move(*page.evaluate(place("svg.plot", 0.5)))
        tip = page.evaluate("document.getElementById('tip').innerText")
        assert tip.startswith("15 updates\nsparse\n")
        assert " to " in tip
        page.evaluate("document.querySelector('button.key').click()")
        assert page.evaluate("document.querySelector('button.key').ariaPressed") == "false"
        hidden = "document.querySelector('svg.plot g.series[data-series=\"0\"]')"
        assert page.evaluate(f"getComputedStyle({hidden}).display") == "none"
        for axis, label in (("tokens", "tokens generated"), ("wall_s", "seconds")):
            page.evaluate(
                "(s => { s.value = '" + axis + "'; s.dispatchEvent(new Event('change')); })"
                "(document.querySelector('select.axis-choice'))"
            )
            shown = "[...document.querySelectorAll('[data-axis]')].filter(v => !v.hidden)"
            assert set(page.evaluate(f"{shown}.map(v => v.dataset.axis)")) == {axis}
            assert label in page.evaluate(f"{shown}[0].querySelector('svg').dataset.axisLabel")
        warning = page.evaluate("document.querySelector('.cautions li').innerText")
        assert warning.startswith(
            "The gold score fell while the score rose: abc (from update 15 on"
        )
        assert page.evaluate("document.title") == "tokengym: which reward learns faster"
        assert complaints(page) == []


@needs_browser
def test_charts_and_tables_can_be_taken_out(report: Path):
    with browser_page() as page:
        page.goto(report.as_uri())
        page.evaluate(
            "URL.createObjectURL = blob => { window.saved = blob; return '#'; };"
            "[...document.querySelectorAll('button.save')][0].click()"
        )
        svg = page.evaluate("window.saved.text()")
        assert svg.startswith("<svg ")
        assert page.evaluate("document.location.hash") in ("", "#")
        for part in (">sparse</text>", ">abc</text>", "stroke-dasharray", "<rect "):
            assert part in svg, part
        assert "var(--" not in svg
        assert "<parsererror" not in page.evaluate(
            "new XMLSerializer().serializeToString("
            f"new DOMParser().parseFromString({json.dumps(svg)}, 'image/svg+xml'))"
        )
        latex, markdown = "\\begin{tabular}", "| Reward |"
        for button, begins in ((0, markdown), (1, latex)):
            page.evaluate(
                "Object.defineProperty(navigator, 'clipboard', {configurable: true, value: "
                "{writeText: text => { window.copied = text; }}});"
                f"document.querySelectorAll('button.copy')[{button}].click()"
            )
            assert begins in page.evaluate("window.copied")
        assert complaints(page) == []


@needs_browser
def test_it_fits_a_phone_and_the_dark(report: Path):
    with browser_page(width=360, height=740, dark=True) as page:
        page.goto(report.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        red, green, blue = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"
        )
        assert max(int(red), int(green), int(blue)) < 60
        assert not page.locator("svg.wide").first.is_visible()
        note = page.locator(".swipe").first  # a table that goes on beyond the edge
        assert note.is_visible()
        page.evaluate(
            "document.querySelector('.swipe').nextElementSibling.style.width = '3000px';"
            "dispatchEvent(new Event('resize'))"
        )
        assert not note.is_visible()
        assert complaints(page) == []


def place(selector: str, across: float) -> str:
    return (
        f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
        f" return [b.left + b.width * {across}, b.top + b.height / 2]; }})"
        f"(document.querySelector('{selector}'))"
    )


def contrast(one: str, other: str) -> float:
    """WCAG 2.1's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@needs_browser
def test_no_hostile_script_runs(hostile_page: str, tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text(hostile_page, encoding="utf-8")
    with browser_page() as page:
        page.goto(path.as_uri())
        assert page.title() == "tokengym: which reward learns faster"
        assert complaints(page) == []
