"""replay.html: the same responses under every credit, token by token; one file, no script."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokengym.envs import Episode, printable
from tokengym.evaluation.report import NOTHING, coloured_tokens, listed, number, render, signed
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.lab.replay.agreement import (
    FEWEST_RESPONSES,
    Agreement,
    Array,
    charged_share,
    effective_tokens,
    rank_correlation,
    varies,
)
from tokengym.lab.replay.executed import ExecutedTruth
from tokengym.lab.replay.replay import Replay, written_rows
from tokengym.lab.replay.rescoring import scorings

TEMPLATES = Path(__file__).parent / "templates"
"""Folder of the page's templates."""


def render_replay(result: Replay, *, num_episodes: int = 12) -> str:
    """Return the page of a replay.

    Args:
        result: Result of the replay.
        num_episodes: Number of episodes shown; the figures are of all.

    Returns:
        The same text for the same input.
    """
    count = len(result.episodes)
    page = {
        "title": "tokengym: one set of responses under every credit",
        "subtitle": f"{result.env} · {len(result.credits)} rules · {count} responses",
        "source": result.source,
        "headline": headline(result),
        "alike": f"{share_of_all_alike(result):.0%}" if result.agreements else "",
        "scored_by": scored_by(result),
        "columns": figure_columns(result),
        "rows": figure_rows(result),
        "scorings": scoring_rows(result),
        "scored": scoring_words(result),
        "episodes": [episode_rows(result, index) for index in range(min(num_episodes, count))],
        "left": max(0, count - num_episodes),
        "notes": _notes(result),
    }
    return render(TEMPLATES / "replay.html.jinja", page)


def headline(result: Replay) -> str:
    """Return the finding in one sentence."""
    rules = len(result.credits)
    if result.truth is None or not result.agreements:
        return f"Token rewards of {rules} rules for the same {len(result.episodes)} responses."
    ranked = sorted(result.agreements.items(), key=lambda item: -item[1].correlation)
    if ranked[0][1].correlation <= 0:
        return f"None of {rules} rules orders the tokens as the {result.truth.name} does."
    (name, best), *others = [(printable(name), found) for name, found in ranked[:3]]
    first = f"{name} ({number(best.correlation)})"
    if not others:
        return f"Rank correlation with the {result.truth.name}: {first}."
    told = [(f"{name} ({number(one.correlation)})", _is_level(best, one)) for name, one in others]
    level = [text for text, is_level in told if is_level]
    behind = [text for text, is_level in told if not is_level]
    beside = f", level with {listed(level)}" if level else ""
    then = f", then {listed(behind)}" if behind else ""
    return f"Closest to the {result.truth.name}: {first}{beside}{then}."


def _is_level(best: Agreement, other: Agreement) -> bool:
    """Return whether the responses do not tell two rules apart, the first of which is not below."""
    alike = number(best.correlation) == number(other.correlation)
    return alike or not best.has_interval or best.low <= other.high


def executed_words(truth: ExecutedTruth) -> str:
    """Return how well a measured truth is known, in two sentences."""
    few = ", and of 2 continuations nearly none" if truth.forks.k == 2 else ""
    return (
        f"{truth.share:.0%} of the tokens have an interval that leaves out 0, where chance alone "
        f"gives at most 7%, less where most continuations score alike{few}. A rule that knows the "
        f"true advantages has a rank correlation of about {number(truth.ceiling)} with these "
        f"estimates (split-half), and 95 of 100 random orders have less than "
        f"{number(truth.chance)}; {truth.tokens:,} tokens were sampled."
    )


def same_scores(result: Replay) -> bool:
    """Return whether every rule spreads the same scores, so that only the credit differs."""
    first, *others = result.scores.values()
    return all(np.allclose(first, other, rtol=1e-4, atol=1e-5) for other in others)


def sums_to_score(result: Replay, name: str) -> bool:
    """Return whether the token rewards of a rule sum to the score of every response."""
    sums = [row.sum() for row in result.credits[name]]
    return np.allclose(sums, result.scores[name], rtol=1e-4, atol=1e-5)


def scored_by(result: Replay) -> str:
    """Return a sentence that names the scorer; empty where rules have different scores."""
    if not same_scores(result):
        return ""
    names = set(result.scorers.values())
    if len(names) == 1:
        return f"Scored by {names.pop()} throughout: only the credit differs."
    return "Every rule spreads the same scores: only the credit differs."


def share_of_all_alike(result: Replay) -> float:
    """Return the share of tokens that matter, which equal credit for all tokens would give them.

    The tokens are those that the policy wrote, as in `Replay.agreements`.
    """
    assert result.truth is not None
    masks = written_rows(result.truth.matters, result.episodes)
    return float(np.mean([mask.mean() for mask in masks if mask.any()]))


def figure_columns(result: Replay) -> list[str]:
    """Return the headings of `figure_rows`, the rule's name apart."""
    titles = ["Score"] if same_scores(result) else ["Score", "Scorer"]
    if result.agreements:
        titles += ["Rank corr.", f"{DEFAULT_LEVEL:.0%}", "Pooled", "On target", "Right sign"]
    return [*titles, "Spread", "Charged"]


def figure_rows(result: Replay) -> list[dict[str, Any]]:
    """Return per rule its name and figures as text, in the order of `figure_columns`."""
    return [{"name": printable(name), "cells": _figures(result, name)} for name in result.credits]


def scoring_rows(result: Replay) -> list[list[str]]:
    """Return the table of `scorings` as text, its headings first; [] where there is none."""
    scored = scorings(result)
    if not scored:
        return []
    first = printable(scored[0].name)
    rows = [
        ["scorer", "mean", f"minus {first}", f"{DEFAULT_LEVEL:.0%} interval", "higher", "lower"]
    ]
    for index, one in enumerate(scored):
        ends = "" if np.isnan(one.low) else f"{number(one.low)} to {number(one.high)}"
        cells = [signed(one.difference), ends, str(one.higher), str(one.lower)]
        rows.append([printable(one.name), number(one.mean), *(cells if index else [""] * 4)])
    return rows


def scoring_words(result: Replay) -> str:
    """Return what the table of `scorings` compares."""
    episodes = result.read.episodes
    prompts = len({episode.prompt_ids for episode in episodes})
    missing = [
        f"; {one.missing} have no score by {printable(one.name)}"
        for one in scorings(result)
        if one.missing
    ]
    over = "of one prompt, which leaves no interval"
    if prompts > 1:
        over = f"intervals over {prompts} prompts"
    words = f"Scores of the same {len(episodes)} responses; {over}"
    return words + "".join(missing)


def _figures(result: Replay, name: str) -> list[str]:
    cells = [number(float(result.scores[name].mean()))]
    if not same_scores(result):
        cells.append(printable(result.scorers[name]))
    if result.agreements:
        agreement = result.agreements[name]
        ends = f"{number(agreement.low)} to {number(agreement.high)}"
        cells += [number(agreement.correlation), ends if agreement.has_interval else NOTHING]
        cells.append(number(agreement.pooled))
        cells += [f"{agreement.share:.0%}", f"{agreement.signs:.0%}"]
    rows = result.credits[name]
    cells.append(number(float(np.mean([effective_tokens(row) for row in rows]))))
    cells.append(f"{np.mean([charged_share(row) for row in rows]):.0%}")
    return cells


def episode_rows(result: Replay, index: int) -> dict[str, Any]:
    """Return one response under every rule, for the templates."""
    episode, pieces = result.episodes[index], result.tokens[index]
    rows = []
    if result.truth is not None:
        shown = _shown_tokens(episode, pieces, result.truth.values[index])
        rows.append({"name": "truth", "note": result.truth.name, "tokens": shown, "truth": True})
    for name, rule in result.credits.items():
        shown, note = _shown_tokens(episode, pieces, rule[index]), _note(result, name, index)
        rows.append({"name": printable(name), "note": note, "tokens": shown, "truth": False})
    score = float(next(iter(result.scores.values()))[index])
    return {
        "prompt": printable(episode.prompt),
        "score": f"score {number(score)}" if same_scores(result) else "",
        "rows": rows,
        "table": _table(episode, pieces, result.columns(index)),
    }


def _shown_tokens(
    episode: Episode, pieces: Sequence[str], rewards: Array
) -> list[dict[str, str | bool]]:
    """Return coloured tokens with who wrote them.

    Returns:
        As of `coloured_tokens`, and per token "turn", the role of the turn that begins there, and
        "reply", whether the partner wrote it. An episode without partner has "" and False.
    """
    begins = {turn.span[0]: turn for turn in episode.turns if turn.span[1] > turn.span[0]}
    shown: list[dict[str, str | bool]] = []
    for place, token in enumerate(coloured_tokens(pieces, rewards.tolist())):
        known = bool(token["value"])  # the ellipsis of a long response has none
        reply = known and episode.written is not None and not episode.written[place]
        turn = printable(begins[place].role) if known and place in begins else ""
        value = "reply" if reply else token["value"]
        shown.append({**token, "value": value, "turn": turn, "reply": reply})
    return shown


def _note(result: Replay, name: str, index: int) -> str:
    """Return the note under a rule's name: its agreement with the truth on this response."""
    notes = []
    if result.truth is not None:
        rows = [result.credits[name][index], result.truth.values[index]]
        credit, worth = written_rows(rows, [result.episodes[index]] * 2)
        if varies(worth):
            rank = rank_correlation(credit, worth)
            notes.append(f"rank correlation with the truth {number(rank)}")
    if not same_scores(result):
        notes.append(f"score {number(float(result.scores[name][index]))}")
    return ", ".join(notes)


def _table(episode: Episode, pieces: Sequence[str], columns: Mapping[str, Array]) -> dict[str, Any]:
    """Return the numbers of an episode: one row per token, one column per rule."""
    coloured = [_shown_tokens(episode, pieces, values) for values in columns.values()]
    return {
        "columns": [printable(name) for name in columns],
        "rows": [
            {**cells[0], "cells": cells}
            for cells in zip(*coloured, strict=True)
            if cells[0]["value"]
        ],
    }


def _notes(result: Replay) -> list[tuple[str, str]]:
    """Return the meaning of each figure."""
    others = [printable(name) for name in result.credits if not sums_to_score(result, name)]
    apart = f" other than {', '.join(others)}" if others else ""
    meaning = f"Mean score of the responses; the token rewards of every rule{apart} sum to it."
    notes = [("Score", meaning)]
    if result.truth is not None and result.agreements:
        notes += [
            (
                "Rank corr.",
                f"Spearman's, of a response's token rewards with its {result.truth.name}, ties at "
                "their mean rank, averaged over responses; equal credit for all tokens has 0. Many "
                "tokens are worth the same: a rule that orders all others correctly, and these "
                f"arbitrarily, has {number(next(iter(result.agreements.values())).ceiling)}.",
            ),
            (
                f"{DEFAULT_LEVEL:.0%}",
                f"Its interval over responses, Student's, from {FEWEST_RESPONSES} responses on.",
            ),
            ("Pooled", "The same over all tokens of all responses together."),
            (
                "On target",
                f"Share of the credit's absolute sum on tokens that matter: "
                f"{result.truth.meaning}. Equal credit for all tokens gives "
                f"{share_of_all_alike(result):.0%}.",
            ),
            (
                "Right sign",
                "Share of tokens that matter whose credit has the truth's sign; 0 counts half.",
            ),
        ]
    if result.truth is not None and (executed := result.truth.executed) is not None:
        notes.append(("Executed truth", executed_words(executed)))
    notes += [
        (
            "Spread",
            "Number of tokens over which the credit is spread: 1 if one has it all, the length if "
            "all have the same (exponential of the entropy of the absolute shares).",
        ),
        ("Charged", "Share of the credit's absolute sum that is negative."),
    ]
    return notes
