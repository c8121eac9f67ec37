"""A report whose every word is hostile."""

from dataclasses import replace
from typing import Any

import pytest

from tokengym.evaluation.report.curves import Curve
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"><svg onload=document.title='owned'>",
    "{{ 7 * 7 }} {% raw %} $\\frac",
    "'\"` onmouseover=alert(1) \u202e\x00\x1b[31m \ud800",
    "</style></title><base href=//evil>",
]


def hostile_samples(credits: list[str]) -> list[dict[str, Any]]:
    of_all = {"seed": 0, "token_rewards": [0.5, -0.25], "score": 0.25, "gold_score": None}
    return [
        {"credit": credit, "step": step, "prompt": text, "response": text, **of_all}
        | {"tokens": [text, " " + text]}
        for text in reversed(HOSTILE)
        for credit in credits
        for step in (0, 30)
    ]


def render(curves: list[Curve], episodes: list[dict[str, Any]] | None = None, **about: Any) -> str:
    summary = summarize(curves, SummarySettings(kl_coef=0.05, anchors={"score": -0.5}))
    return render_report(replace(summary, about=about), curves, episodes or [])


@pytest.fixture
def hostile_page(make_curves) -> str:
    names = ["sparse", HOSTILE[0], HOSTILE[2], HOSTILE[3], "\x1b]0;owned\x07\u202e"]
    group = (("column" + HOSTILE[1], HOSTILE[3]),)
    curves = [
        replace(curve, credit=name, group=group)
        for name in names
        for curve in make_curves(("sparse",) if name == "sparse" else ("abc",))
    ]
    return render(
        curves,
        hostile_samples(names),
        settings={HOSTILE[0]: HOSTILE[1]},
        versions={"torch": HOSTILE[2]},
        command=HOSTILE[1],
    )
