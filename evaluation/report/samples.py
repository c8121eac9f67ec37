"""Sampled responses of different rewards on the same prompts, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokengym.envs import printable
from tokengym.evaluation.report.verdict import number, signed

MOST_TOKENS = 400
"""Longer responses are cut in the report; episodes.jsonl has them whole."""


def side_by_side(
    episodes: Sequence[Mapping[str, Any]], colours: Mapping[str, int], *, most: int = 4
) -> list[dict[str, Any]]:
    """Return the responses of each reward's policy per prompt, for the report's template.

    Of each reward the last step of its lowest seed is shown, and before them the reference
    policy's response (step 0), which is the same for all.

    Args:
        episodes: Rows of episodes.jsonl; one without a prompt or response is left out.
        colours: Index into the palette per reward, in order.
        most: Number of prompts.
    """
    rows = [row for row in episodes if isinstance(row.get("prompt"), str) and "response" in row]
    last = _last_step_of_lowest_seed(rows)
    chosen = [row for row in rows if row["credit"] in colours]
    before: dict[str, Mapping[str, Any]] = {}
    after: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in chosen:
        if row["step"] == 0:
            before.setdefault(row["prompt"], row)
        if (row["seed"], row["step"]) == last[row["credit"]]:
            after.setdefault(row["prompt"], {}).setdefault(row["credit"], row)
    samples = []
    for prompt, responses in after.items():
        shown = []
        if prompt in before and not all(row["step"] == 0 for row in responses.values()):
            shown.append({**_response(before[prompt]), "name": "before training", "colour": None})
            shown[0]["tokens"] = [{**token, "tone": ""} for token in shown[0]["tokens"]]
        for credit in colours:
            if credit in responses:
                entry = _response(responses[credit])
                shown.append({**entry, "name": credit, "colour": colours[credit]})
        samples.append({"prompt": printable(prompt), "responses": shown})
    samples.sort(key=lambda sample: -len(sample["responses"]))  # stable: the fullest rows first
    return samples[:most]


def _last_step_of_lowest_seed(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    last: dict[str, tuple[int, int]] = {}
    for row in rows:
        seed, step = int(row["seed"]), int(row["step"])
        known = last.get(row["credit"])
        if known is None or seed < known[0] or (seed == known[0] and step > known[1]):
            last[row["credit"]] = (seed, step)
    return last


def coloured_tokens(pieces: Sequence[str], rewards: Sequence[float]) -> list[dict[str, str]]:
    """Return each token's text, and its reward as a colour, for the templates.

    The strongest reward of the response has the full colour.

    Args:
        pieces: (n,) the tokens' texts.
        rewards: (n,) the tokens' rewards.
    """
    largest = max((abs(float(reward)) for reward in rewards), default=0.0) or 1.0
    tokens = [
        {
            "space": piece[: len(piece) - len(piece.lstrip())],  # uncoloured: lines break there
            "text": printable(piece.lstrip()),
            "tone": "gain" if reward > 0 else "loss" if reward < 0 else "",
            "strength": f"{abs(float(reward)) / largest:.2f}",
            "value": signed(float(reward)),
        }
        for piece, reward in zip(pieces[:MOST_TOKENS], rewards[:MOST_TOKENS], strict=True)
    ]
    if tokens:
        tokens[0]["space"] = ""
    if len(pieces) > MOST_TOKENS:
        tokens.append({"space": " ", "text": "…", "tone": "", "strength": "0", "value": ""})
    return tokens


def _response(row: Mapping[str, Any]) -> dict[str, Any]:
    pieces, rewards = row.get("tokens"), row.get("token_rewards")
    if not pieces or not rewards or len(pieces) != len(rewards):
        pieces, rewards = [row["response"]], [0.0]
    tokens = coloured_tokens(pieces, rewards)
    figures = [f"score {number(row.get('score'))}"]
    if row.get("gold_score") is not None:
        figures.append(f"gold {number(row['gold_score'])}")
    return {"tokens": tokens, "figures": " · ".join(figures)}
