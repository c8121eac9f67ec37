"""The beginning of a report: what was compared, for those who were not there."""

from collections.abc import Sequence
from typing import Any

from tokengym.base.text import printable
from tokengym.evaluation.measure.measures import MEASURES, Measure, measure_of
from tokengym.evaluation.report.facts import Group, Summary
from tokengym.evaluation.report.sentences import best_of_n, plural
from tokengym.evaluation.report.tables import Sample
from tokengym.version import REPOSITORY

EXAMPLE = 140
"""Letters of the example's response that are shown."""
LONG_LIST = 4
"""Rewards or learners above which their sentences stand with the definitions."""


def introduction(
    summary: Summary, group: Group, score: Measure, samples: Sequence[Sample]
) -> list[dict[str, Any]]:
    """Return what was compared as rows of a term and its entries, see `_entry`."""
    known, rows = summary.about.get("compared") or {}, []
    for name, entry in known.get("task", {}).items():
        rows.append(("Task", [_entry(entry["summary"], name, example=_example(samples))]))
    for title, kind in (("Reward", "rewards"), ("Learner", "agents")):
        entries = known.get(kind, {})
        is_long = len(entries) > LONG_LIST
        named = [
            _entry("" if is_long else entry["summary"], name, mark=_mark(group, name))
            for name, entry in entries.items()
        ]
        rows.append((plural(max(len(named), 1), title), named))
    rows.append((MEASURES["score"].title, [_entry(score.meaning)]))
    if not group.by_gold and "gold_score" in group.measures:
        gold = measure_of("gold_score")
        rows.append((gold.title, [_entry(gold.meaning)]))
    if group.reference:
        term, text = best_of_n([group])
        rows.append((term, [_entry(text)]))
    return [{"term": term, "entries": entries} for term, entries in rows if entries]


def _entry(
    text: str, name: str = "", *, mark: str = "", example: tuple[str, str] | None = None
) -> dict[str, Any]:
    return {"name": name, "text": text, "mark": mark, "example": example}


def _mark(group: Group, name: str) -> str:
    """Return what an arm is besides: the baseline of others, or a control."""
    if name == group.baseline:
        return "baseline" if len(group.rewards) > 1 else ""
    return "control" if name in group.controls else ""


def _example(samples: Sequence[Sample]) -> tuple[str, str] | None:
    """Return a prompt and the untrained policy's response to it, cut to a line or two."""
    first = next((one for one in samples if one.step == 0 and one.response), None)
    if first is None:
        return None
    prompt, response = (" ".join(printable(t).split()) for t in (first.prompt, first.response))
    return prompt[-EXAMPLE:], response[:EXAMPLE] + ("\u2026" if len(response) > EXAMPLE else "")


def address(page: str) -> str:
    """Return the address of a page of the documentation; "" where the repository has none."""
    return f"{REPOSITORY}/blob/main/docs/{page}" if REPOSITORY and page else ""
