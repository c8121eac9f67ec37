"""Gold scores that are rules over words: answers, dialogues, grammar, summaries, opinions, abuse.

Each kind has rules (what a bundle's ``gold.json`` stores) and a pure function of the words of
prompt and response; its parts sum to the gold score.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tokengym.envs.forks.families import verify
from tokengym.envs.oracle.score import RULES, Rule, oracle_score
from tokengym.rewards.gold.answers import AnswerRules, answer_parts
from tokengym.rewards.gold.dialogue import DialogueRules, dialogue_parts
from tokengym.rewards.gold.grammar import GrammarRules, grammar_parts
from tokengym.rewards.gold.summary import SummaryRules, summary_parts


@dataclass(frozen=True, kw_only=True)
class OracleRules:
    """Which rules of the score hold, see `tokengym.envs.oracle.score`."""

    rules: Sequence[Rule] = RULES
    """Rules that hold, among "negation", "selection" and "order"."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if unknown := [rule for rule in self.rules if rule not in RULES]:
            raise ValueError(f"rules must be among {', '.join(RULES)}, got {unknown[0]!r}")


def oracle_parts(
    prompt: Sequence[str], response: Sequence[str], rules: OracleRules
) -> dict[str, float]:
    """Return the exact score under the one name that its parts have.

    Args:
        prompt: Does not matter.
        response: Words of the response.
        rules: Those that hold.

    Example:
        >>> oracle_parts(["the"], "film not bad".split(), OracleRules())
        {'opinions': 0.5}
    """
    del prompt
    return {"opinions": oracle_score(response, rules.rules)}


@dataclass(frozen=True, kw_only=True)
class ForkRules:
    """The verifier of forks, which has no options: the prompt says all there is to know."""


def fork_parts(
    prompt: Sequence[str], response: Sequence[str], rules: ForkRules
) -> dict[str, float]:
    """Return whether the response solves the prompt's task, 1 or 0."""
    del rules
    return {"solved": verify(" ".join(prompt), " ".join(response))}


@dataclass(frozen=True, kw_only=True)
class ToxicityRules:
    """Which words are rude."""

    rude: Sequence[str]
    """Words that are not clean."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rude", tuple(self.rude))
        if not self.rude:
            raise ValueError("rude must name at least one word, got none")


def toxicity_parts(
    prompt: Sequence[str], response: Sequence[str], rules: ToxicityRules
) -> dict[str, float]:
    """Return the share of clean words in the response, in [0, 1].

    clean = |clean words| / |words|;  0 for a response without words, which says nothing clean

    Args:
        prompt: Not read: what the user said is not the policy's fault.
        response: Lower-cased words and punctuation marks of the continuation.
        rules: The rude words.

    Example:
        >>> toxicity_parts([], "you dolt , go away !".split(), ToxicityRules(rude=["dolt"]))
        {'clean': 0.75}
    """
    words = [word for word in response if word[:1].isalnum()]
    return {"clean": sum(word not in rules.rude for word in words) / max(1, len(words))}


Rules = (
    AnswerRules
    | DialogueRules
    | ForkRules
    | GrammarRules
    | OracleRules
    | SummaryRules
    | ToxicityRules
)


@dataclass(frozen=True)
class _Kind:
    rules: type[Any]
    parts: Callable[[Sequence[str], Sequence[str], Any], dict[str, float]]


_KINDS = {
    "answer": _Kind(AnswerRules, answer_parts),
    "dialogue": _Kind(DialogueRules, dialogue_parts),
    "forks": _Kind(ForkRules, fork_parts),
    "grammar": _Kind(GrammarRules, grammar_parts),
    "oracle": _Kind(OracleRules, oracle_parts),
    "summary": _Kind(SummaryRules, summary_parts),
    "toxicity": _Kind(ToxicityRules, toxicity_parts),
}


def gold_parts(rules: Rules, prompt: Sequence[str], response: Sequence[str]) -> dict[str, float]:
    """Return the parts of a response's gold score; they sum to it.

    Args:
        rules: Rules of any kind; it decides what the parts are.
        prompt: Lower-cased words and punctuation marks, as `split_words` gives them.
        response: Likewise.

    Raises:
        TypeError: if the rules are of no known kind.
    """
    return _KINDS[kind_of(rules)].parts(prompt, response, rules)


def kind_of(rules: Rules) -> str:
    """Return the name of a kind of rules: one of the keys of `_KINDS`."""
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


def rude_words(path: str | Path) -> tuple[str, ...]:
    """Return the rude words that stored rules name; () where they name none.

    Args:
        path: A file written by `save_rules`.

    Raises:
        ValueError: if the file holds no rules.
    """
    rules = load_rules(path)
    if isinstance(rules, ToxicityRules):
        return tuple(rules.rude)
    return tuple(rules.insults) if isinstance(rules, DialogueRules) else ()
