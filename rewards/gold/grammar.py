"""The grammaticality of a text: the share of its words in sentences that a grammar can write.

Words are lower-case; see `tokengym.rewards.gold.rules` for files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from tokengym.rewards.gold.base import Rules

_SLOT = re.compile(r"\{([^{}]+)\}")
_Rest = tuple[str, ...]
_State = frozenset[_Rest]
"""Ways to continue a sentence, each the words and ``{symbols}`` that are left; () ends it."""


@dataclass(frozen=True, kw_only=True)
class GrammarRules(Rules):
    """A context-free grammar of sentences, without recursion."""

    kind: ClassVar[str] = "grammar"
    rules: Mapping[str, Sequence[str]]
    """Symbol -> alternatives: words and ``{symbol}``s, separated by spaces."""
    start: str = "sentence"
    """Symbol of a whole sentence. Each ends in a full stop and has no other."""
    continues: bool = True
    """Whether a response continues its prompt's text, and may so begin within a sentence."""
    mends_articles: bool = True
    """Whether "a" in an alternative is written as "an" before a vowel."""

    def __post_init__(self) -> None:
        super().__post_init__()
        texts = [text for choices in self.rules.values() for text in choices]
        used = {name for text in texts for name in _SLOT.findall(text)}
        if unknown := sorted({self.start, *used} - set(self.rules)):
            raise ValueError(f"rules must have every symbol that is used, they lack {unknown}")

    @cached_property
    def _pieces(self) -> dict[str, list[_Rest]]:
        return {f"{{{s}}}": [tuple(t.split()) for t in texts] for s, texts in self.rules.items()}

    @cached_property
    def _known(self) -> dict[tuple[_State, str], _State]:
        return {}

    @property
    def beginning(self) -> _State:
        """The state before a sentence."""
        return frozenset({(f"{{{self.start}}}",)})

    def after(self, state: _State, word: str) -> _State:
        """Return the ways to continue once a word was read, none if it cannot stand there."""
        if (state, word) not in self._known:  # a finite automaton, built as far as texts lead
            ways = (left for rest in state for left in self._read(rest, word))
            self._known[state, word] = frozenset(ways)
        return self._known[state, word]

    def _read(self, rest: _Rest, word: str) -> set[_Rest]:
        if not rest:
            return set()
        first, others = rest[0], rest[1:]
        if first in self._pieces:
            return {
                left for more in self._pieces[first] for left in self._read(more + others, word)
            }
        if self.mends_articles and first == "a" and word in ("a", "an"):
            return {(f"{word} before", *others)}  # what follows decides between the two
        if first in ("a before", "an before"):
            fits = (first == "an before") == (word[:1] in set("aeiou"))
            return self._read(others, word) if fits else set()
        return {others} if first == word else set()

    def parts(self, prompt: Sequence[str], response: Sequence[str]) -> dict[str, float]:
        """Return the share of the response's words in grammatical sentences, in [0, 1].

        grammaticality = |words of the response in sentences that the grammar writes| / |words|

        Where the rules say that responses continue prompts, the two are one text, and the response
        may begin within a sentence; otherwise the prompt is not read. The last sentence may be cut
        off: it counts if the grammar can complete it. 0 for a response without words. Full stops
        and commas are words.

        Example:
            >>> rules = GrammarRules(rules={"sentence": ["it is {how} ."], "how": ["good", "bad"]})
            >>> rules.parts(["it"], "is good . good good . it is".split())
            {'grammaticality': 0.625}
        """
        state, length, written = self.beginning, 0, list[bool]()
        before = prompt if self.continues else ()
        for word in (*before, *response):
            state, length = self.after(state, word), length + 1
            if word == ".":
                written += [() in state] * length
                state, length = self.beginning, 0
        written += [bool(state)] * length
        return {"grammaticality": sum(written[len(before) :]) / max(1, len(response))}
