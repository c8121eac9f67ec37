"""Gold scores that are rules over words: dialogues, summaries, continuations without rude words.

Each kind has rules (what a bundle's ``gold.json`` stores) and a pure function of the words of
prompt and response; its parts sum to the gold score.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tokengym.rewards.gold.dialogue import DialogueRules, dialogue_parts
from tokengym.rewards.gold.oracle import OracleRules, oracle_parts
from tokengym.rewards.gold.summary import SummaryRules, summary_parts
from tokengym.rewards.gold.toxicity import ToxicityRules, toxicity_parts

Rules = DialogueRules | OracleRules | SummaryRules | ToxicityRules


@dataclass(frozen=True)
class _Kind:
    rules: type[Any]
    parts: Callable[[Sequence[str], Sequence[str], Any], dict[str, float]]


_KINDS = {
    "dialogue": _Kind(DialogueRules, dialogue_parts),
    "oracle": _Kind(OracleRules, oracle_parts),
    "summary": _Kind(SummaryRules, summary_parts),
    "toxicity": _Kind(ToxicityRules, toxicity_parts),
}


def gold_parts(rules: Rules, prompt: Sequence[str], response: Sequence[str]) -> dict[str, float]:
    """Return the parts of a response's gold score; they sum to it.

    Args:
        rules: Of any kind; it decides what the parts are.
        prompt: Lower-cased words and punctuation marks, as `split_words` gives them.
        response: Likewise.

    Raises:
        TypeError: if the rules are of no known kind.
    """
    return _KINDS[kind_of(rules)].parts(prompt, response, rules)


def kind_of(rules: Rules) -> str:
    """Return the name of a kind of rules: "dialogue", "oracle", "summary" or "toxicity"."""
    for name, kind in _KINDS.items():
        if isinstance(rules, kind.rules):
            return name
    known = ", ".join(kind.rules.__name__ for kind in _KINDS.values())
    raise TypeError(f"rules must be one of {known}, got {type(rules).__name__}")


def save_rules(rules: Rules, path: str | Path) -> None:
    """Write rules as JSON, their kind included."""
    text = json.dumps({"kind": kind_of(rules), **asdict(rules)}, indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def load_rules(path: str | Path) -> Rules:
    """Return the rules stored in a JSON file.

    Args:
        path: A file written by `save_rules`.

    Raises:
        ValueError: if the file holds no rules.
    """
    path = Path(path)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        kind = _KINDS[stored["kind"]].rules
        return kind(**{field.name: stored[field.name] for field in fields(kind)})
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no gold rules ({type(error).__name__}: {error}); expected the JSON that "
            "save_rules writes"
        ) from error
