"""Parts of the page of ``tokengym explore`` as HTML; every text in them is escaped."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokengym.envs import printable
from tokengym.evaluation.report import number, render, signed
from tokengym.lab.replay.explore import Alternative, Branch, Change, Fork, Response
from tokengym.lab.replay.page import TEMPLATES, episode_rows, executed_words

MAX_SHOWN_WORDS = 8
"""Unknown words of a prompt that are named."""
MAX_SHOWN_TEXTS = 3
"""Continuations of a branch that are shown; the figures are of all."""


def render_page(choices: Mapping[str, Any]) -> str:
    """Return the page with what can be chosen on it, and nothing sampled yet."""
    script = render(TEMPLATES / "explore.js", {})  # as included, to the byte
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = {"title": "tokengym explore", "subtitle": "explore", "script_hash": f"sha256-{digest}"}
    return render(TEMPLATES / "explore.html.jinja", {**page, **choices})


def render_response(response: Response) -> str:
    """Return a response under every rule, token by token."""
    figures = [f"score {number(response.score)}"]
    if response.stored_score is not None:
        figures.append(f"in the file {number(response.stored_score)}")
    if response.gold_score is not None:
        figures.append(f"gold {number(response.gold_score)}")
    figures.append(f"{len(response.tokens)} tokens")
    note = "Choose a token to see its alternatives. Colour is a token's reward as a share of the "
    note += "strongest in its line; point at a token for the number."
    if (truth := response.replay.truth) is not None and truth.executed is not None:
        note = f"{executed_words(truth.executed)} {note}"
    shown = episode_rows(response.replay, 0) | {"score": " \u00b7 ".join(figures)}
    return render(
        TEMPLATES / "explore_response.jinja",
        {"episode": shown, "note": note, "alert": _unknown(response.unknown)},
    )


def _unknown(words: Sequence[str]) -> str:
    """Return which words the policy cannot read, and what to do, in sentences; "" of none."""
    if not words:
        return ""
    named = ", ".join(_quoted(word) for word in words[:MAX_SHOWN_WORDS])
    more = f" and {len(words) - MAX_SHOWN_WORDS} more" if len(words) > MAX_SHOWN_WORDS else ""
    return (
        f"Not in the policy's vocabulary: {named}{more}. It read a placeholder in place of each, "
        "and cannot answer to them. Texts of another policy need its --model or --tokenizer."
    )


def render_fork(response: Response, fork: Fork) -> str:
    """Return the scores and some texts of a fork of a response."""
    taken, other = (_quoted(each.tokens[0][fork.time]) for each in (fork.taken, fork.other))
    changes = {"Score": fork.score}
    if fork.gold_score is not None:
        changes["Gold score"] = fork.gold_score
    rules = response.replay.columns(0)
    credit = ", ".join(f"{printable(k)} {signed(float(v[fork.time]))}" for k, v in rules.items())
    rows = [
        {"name": f"{taken} (taken)", "cells": [number(c.taken) for c in changes.values()]},
        {"name": other, "cells": [number(c.other) for c in changes.values()]},
        {"name": "Difference", "cells": [_difference(c) for c in changes.values()]},
    ]
    return render(
        TEMPLATES / "explore_fork.jinja",
        {
            "finding": _finding(taken, other, changes, len(fork.other.episodes)),
            "columns": [*changes],
            "rows": rows,
            "credit": f"{_worth(taken, fork)}Credit paid for {taken}: {credit}.",
            "branches": [
                _branch(fork.taken, fork.time, f"With {taken} (taken)"),
                _branch(fork.other, fork.time, f"With {other}"),
            ],
        },
    )


def alternative_label(alternative: Alternative) -> str:
    """Return an alternative's token and probability, for a list of choices."""
    taken = " \u00b7 taken" if alternative.is_taken else ""
    share = alternative.probability
    shown = "< 0.1 %" if share < 0.001 else f"{share:.1%}".replace("%", " %")
    return f"{_quoted(alternative.text)}  {shown}{taken}"


def _finding(taken: str, other: str, changes: Mapping[str, Change], count: int) -> str:
    """Return the fork's result in one sentence."""
    told = [_changed(name.lower(), change, count) for name, change in changes.items()]
    of = "one continuation of each"
    if count > 1:
        of = f"means of {count} continuations of each, \u00b1 one standard error"
    return f"{other} instead of {taken} changes {' and '.join(told)} ({of})."


def _changed(name: str, change: Change, count: int) -> str:
    """Return a score's change in words, with the number of pairs of which one lacks it."""
    shown = f"the {name} by {_difference(change)}"
    missing = count - change.pairs
    return f"{shown} ({missing} of {count} pairs lack one)" if missing else shown


def _worth(taken: str, fork: Fork) -> str:
    """Return the executed worth of the token taken in one sentence; "" of one continuation."""
    count, others = (int((~np.isnan(s)).sum()) for s in (fork.taken.scores, fork.without))
    if min(count, others) < 2:
        return ""
    worth, low, high = fork.worth
    return (
        f"Executed worth of {taken}: {signed(worth)} ({signed(low)} to {signed(high)}), the mean "
        f"score of {count} continuations with it minus that of {others} without it. "
    )


def _difference(change: Change) -> str:
    """Return a difference with its standard error, where there is one."""
    shown = signed(change.difference)
    return shown if change.error is None else f"{shown} \u00b1 {number(change.error)}"


def _branch(branch: Branch, time: int, name: str) -> dict[str, Any]:
    """Return some continuations of a branch, each different text once."""
    texts: dict[tuple[str, ...], dict[str, str]] = {}
    for index, (pieces, episode) in enumerate(zip(branch.tokens, branch.episodes, strict=True)):
        figures = [f"score {number(episode.score)}"]
        if branch.gold_scores is not None:
            figures.append(f"gold {number(float(branch.gold_scores[index]))}")
        token = pieces[time].lstrip()
        kept = "".join(pieces[: time + 1]).removesuffix(token)  # the space before it stays plain
        text = {"kept": kept, "token": token}
        text |= {"rest": "".join(pieces[time + 1 :]), "figures": " \u00b7 ".join(figures)}
        texts.setdefault(pieces, text)
    shown = list(texts.values())[:MAX_SHOWN_TEXTS]
    return {"name": name, "texts": shown, "left": len(texts) - len(shown)}


def _quoted(text: str) -> str:
    return f"\u201c{printable(text).strip()}\u201d"
