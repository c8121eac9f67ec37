"""A card as one file for the leaderboard: with the rule's code, its price and the checklist."""

from collections.abc import Mapping
from typing import Any

from tokengym.base import split_file_word
from tokengym.lab.cards.card import broken
from tokengym.lab.cards.elsewhere import PART
from tokengym.lab.cards.parts import bare

CHECKLIST_SOURCE = "arXiv:2604.09459, Appendix C, Table 11"


def submission(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card with what a reader of the leaderboard must know besides its figures.

    Args:
        card: As `make_card` returns it.

    Raises:
        ValueError: if the rule breaks the contract, or the card has no contract part.
    """
    if "contract" not in card["parts"] and card["kind"] == "rule":
        raise ValueError("the card has no contract; measure it: --parts contract")
    if faults := broken(card):
        task, message = next(iter(faults.items()))
        raise ValueError(f"{card['subject']} breaks the contract on {task}: {message}")
    file_word = split_file_word(card["subject"].removeprefix("weight:"))
    spent = card["made"].values()
    hours = {
        kind: round(sum(m["cpu_s"] for m in spent if m["device"].startswith(kind)) / 3600, 3)
        for kind in ("cpu", "cuda")
    }
    return {
        **card,
        "subject": bare(card["subject"]),
        "code": None if file_word is None else file_word[0].read_text(encoding="utf-8"),
        "hours": {"cpu": hours["cpu"], "with_gpu": hours["cuda"]},
        "checklist": {"source": CHECKLIST_SOURCE, **_checklist(card, hours)},
    }


def _checklist(card: Mapping[str, Any], hours: Mapping[str, float]) -> dict[str, str]:
    """Return the checklist's items, as far as a card answers them."""
    parts, cost = card["parts"], card["parts"].get("cost", {})
    tasks = [task for part in parts.values() for task in part if task not in ("rows", "refused")]
    tasks += ["Oracle"] * ("gradient" in parts)
    ends = parts.get("convergence", {})
    runs = {figures["runs"] for figures in ends.values() if "runs" in figures}
    passes = next((figures["passes"] for figures in cost.values() if "passes" in figures), None)
    lengths = "the task's own; " if not ends else "fixed, so that all runs spend the same; "
    models = [f"the bundled language models of tokengym {card['tokengym']}"]
    models += [f"that of {name}" for name in parts.get(PART, {})]
    return {
        "base model": "; ".join(models),
        "training data": f"the bundled prompts and models, hash {card['data']}, nothing filtered",
        "credit granularity": "token",
        "methodology family": "see the rule's docstring and source",
        "episode-level baseline": "sparse, the same model, seeds and tokens"
        if ends
        else "none: nothing was trained",
        "baseline's compute": "equal updates and tokens" if ends else "not applicable",
        "ablation": "random, recency and uniform are rows of the same table",
        "benchmarks and splits": f"{', '.join(dict.fromkeys(tasks))}; held-out prompts",
        "metric": "docs/results/earlier.md",
        "variance": f"{min(runs)} seeds, Student's t intervals"
        if runs and min(runs) > 1
        else "one seed, no interval"
        if runs
        else "none: nothing was trained",
        "hours": f"{hours['cpu']:.3f} CPU hours, {hours['cuda']:.3f} with a GPU",
        "overhead": "not measured" if passes is None else f"{passes:.3g} model passes a response",
        "trajectory length": f"{lengths}at most 48 tokens",
    }
