"""The gold score of an answer: what it tells that answers the question, less what strays from it.

A pure function on lists of lower-case words; see `tokengym.rewards.gold.rules` for files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, kw_only=True)
class AnswerRules:
    """The sentences that answer each question, and the price of all other words."""

    sentences: Sequence[str]
    """Sentences, their words separated by spaces; the last word of each is a full stop."""
    topics: Sequence[Sequence[int]]
    """Indices of the sentences that answer the questions of a topic."""
    enough: Sequence[int]
    """Different sentences that make a whole answer, per topic: 1 for a question with one right
    answer."""
    questions: Mapping[str, int]
    """Question, its words separated by spaces -> index of its topic."""
    straying_price: float = 0.02
    """Penalty of each word that does not belong there."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError("questions must hold at least one question, got none")
        if len(self.topics) != len(self.enough) or any(count < 1 for count in self.enough):
            raise ValueError(
                f"enough must have a number >= 1 for each of {len(self.topics)} topics, got "
                f"{list(self.enough)[:8]}"
            )
        if not self.straying_price >= 0:
            raise ValueError(f"straying_price must be >= 0, got {self.straying_price}; 0 is none")

    @cached_property
    def answers(self) -> tuple[frozenset[tuple[str, ...]], ...]:
        """Words of the sentences of each topic."""
        words = [tuple(sentence.split()) for sentence in self.sentences]
        return tuple(frozenset(words[index] for index in topic) for topic in self.topics)


def answer_parts(
    question: Sequence[str], answer: Sequence[str], rules: AnswerRules
) -> dict[str, float]:
    """Return the parts that sum to the gold score of an answer, at most 1.

    told     = min(1, |different sentences of the answer that answer the question| / enough)
    straying = -straying_price * |words of the answer in other or repeated sentences|

    The last sentence may be cut off: it strays unless a sentence that is still missing begins so.

    Args:
        question: Lower-cased words of the question.
        answer: Lower-cased words of the answer.
        rules: The questions that are known, and their answers.

    Raises:
        ValueError: if the rules do not know the question.

    Example:
        >>> rules = AnswerRules(
        ...     sentences=["paris is it ."], topics=[[0]], enough=[1], questions={"capital ?": 0}
        ... )
        >>> answer_parts(["capital", "?"], "paris is it . i like bread .".split(), rules)
        {'told': 1.0, 'straying': -0.08}
    """
    text = " ".join(question)
    if text not in rules.questions:
        raise ValueError(
            f"the gold score knows no answer to {text!r}, only to its bundle's own questions"
        )
    topic = rules.questions[text]
    known, told, strays = rules.answers[topic], set[tuple[str, ...]](), 0
    for sentence in _sentences(answer):
        is_cut = sentence[-1] != "."
        if sentence in known and sentence not in told:
            told.add(sentence)
        elif not (is_cut and any(whole[: len(sentence)] == sentence for whole in known - told)):
            strays += len(sentence)
    return {
        "told": min(1.0, len(told) / rules.enough[topic]),
        "straying": -rules.straying_price * strays or 0.0,
    }


def _sentences(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the sentences of a text, each with its full stop; the last may lack one."""
    found: list[list[str]] = [[]]
    for word in words:
        found[-1].append(word)
        if word == ".":
            found.append([])
    return [tuple(sentence) for sentence in found if sentence]
