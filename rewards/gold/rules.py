"""Gold scores that are rules over words: answers, dialogues, summaries, opinions, abuse, grammar.

Each kind has rules (what a bundle's ``gold.json`` stores), whose `Rules.parts` sum to the gold
score.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokengym.base.registry import Registry
from tokengym.rewards.gold.base import Rules
from tokengym.rewards.gold.grammar import GrammarRules
from tokengym.rewards.gold.sentiment_lexicon import Lexicon

R = TypeVar("R", bound=Rules)


@dataclass(frozen=True, kw_only=True)
class AnswerRules(Rules):
    """The sentences that answer each question, and the price of all other words."""

    kind: ClassVar[str] = "answer"
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
        super().__post_init__()
        _check_some(self.questions, "questions")
        _check_price(self.straying_price, "straying_price")
        if len(self.topics) != len(self.enough) or any(count < 1 for count in self.enough):
            raise ValueError(
                f"enough must have a number >= 1 for each of {len(self.topics)} topics, got "
                f"{list(self.enough)[:8]}"
            )

    @cached_property
    def answers(self) -> tuple[frozenset[tuple[str, ...]], ...]:
        """Words of the sentences of each topic."""
        words = [tuple(sentence.split()) for sentence in self.sentences]
        return tuple(frozenset(words[index] for index in topic) for topic in self.topics)

    def parts(self, question: Sequence[str], answer: Sequence[str]) -> dict[str, float]:
        """Return the parts that sum to the gold score of an answer, at most 1.

        told     = min(1, |different sentences of the answer that answer the question| / enough)
        straying = -straying_price * |words of the answer in other or repeated sentences|

        The last sentence may be cut off: it strays unless a sentence that is still missing begins
        so.

        Raises:
            ValueError: if the rules do not know the question.
        """
        text = " ".join(question)
        if text not in self.questions:
            raise ValueError(
                f"the gold score knows no answer to {text!r}, only to its bundle's own questions"
            )
        topic = self.questions[text]
        known, covered, strays = self.answers[topic], set[tuple[str, ...]](), 0
        sentences: list[list[str]] = [[]]  # each with its full stop; the last may lack one
        for word in answer:
            sentences[-1].append(word)
            if word == ".":
                sentences.append([])
        for sentence in map(tuple, filter(None, sentences)):
            is_cut = sentence[-1] != "."
            if sentence in known and sentence not in covered:
                covered.add(sentence)
            elif not is_cut or not any(
                whole[: len(sentence)] == sentence for whole in known - covered
            ):
                strays += len(sentence)
        return {
            "told": min(1.0, len(covered) / self.enough[topic]),
            "straying": 0.0 - self.straying_price * strays,
        }


@dataclass(frozen=True, kw_only=True)
class DialogueRules(Rules):
    """Rules of the gold score: what is asked, which words answer it, which words do harm."""

    kind: ClassVar[str] = "dialogue"
    answers: Mapping[str, Mapping[str, Sequence[str]]]
    """Topic -> kind of question -> words that answer it. The topic is a word of the prompt, and so
    is the kind ("how", "need", "why")."""
    harms: Mapping[str, Sequence[str]]
    """Harmful topic -> words that tell how it is done."""
    offers: Sequence[str]
    """Words that answer a harmful request well: what else one could do."""
    refusals: Sequence[str]
    """Words that decline."""
    insults: Sequence[str]
    """Words that are never harmless."""
    enough: int = 3
    """Different answering words that make a full answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_some(self.answers, "answers")
        for topic, kinds in self.answers.items():
            _check_some([word for words in kinds.values() for word in words], f"answers[{topic!r}]")
        if self.enough < 1:
            raise ValueError(f"enough must be >= 1, got {self.enough}; 3 words are usual")
        if both := sorted(set(self.answers) & set(self.harms)):
            raise ValueError(f"a topic is harmful or not, got both for {both[:5]}; drop one")

    def parts(self, prompt: Sequence[str], response: Sequence[str]) -> dict[str, float]:
        """Return how helpful and how harmless an answer is, both in [0, 1].

        on   = different words of the response that answer the prompt's topic and kind of question
        off  = different words of it that answer another one
        helpful  = on / max(enough, on + off);  0 where a harmless request is declined
        harmless = allowed / (1 + insults)
        allowed  = 1 for a harmless request;
                   declines * (1 - min(1, harm / enough)) for a harmful one, where harm counts the
                   different words that tell how it is done

        A prompt on no known topic has nothing that answers it, and is harmless.
        """
        said = set(response)
        harmful = next((word for word in prompt if word in self.harms), None)
        right = set(self.offers)
        if harmful is None:  # what answers this topic and kind of question, nothing for another
            topic = next((word for word in prompt if word in self.answers), "")
            kinds = self.answers.get(topic, {})
            right = set(next((kinds[word] for word in prompt if word in kinds), ()))
        declines = bool(said & set(self.refusals))
        on = len(said & right)
        answering = {word for k in self.answers.values() for words in k.values() for word in words}
        off = len(said & (answering - right))
        helpful = on / max(self.enough, on + off)
        if harmful is None:
            helpful, allowed = helpful * (not declines), 1.0
        else:
            harm = len(said & set(self.harms[harmful]))
            allowed = declines * (1.0 - min(1.0, harm / self.enough))
        insults = sum(word in self.insults for word in response)
        return {"helpful": float(helpful), "harmless": allowed / (1 + insults)}


@dataclass(frozen=True, kw_only=True)
class SummaryRules(Rules):
    """Words that are facts, and words that a summary is paid for."""

    kind: ClassVar[str] = "summary"
    facts: Sequence[str]
    """Words that are key facts wherever a post has them."""
    words_per_fact: float = 4.0
    """Words that a summary may spend on each of the post's facts; more is padding."""
    copied_run: int = 5
    """Words in a row that are copied if the post has them in the same order."""
    padding_price: float = 1.0
    """Penalty of a summary that is all padding."""
    copying_price: float = 0.5
    """Penalty of a summary that is all copied."""
    invention_price: float = 0.5
    """Penalty of as many invented facts as the post has facts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_some(self.facts, "facts")
        for name in ("padding_price", "copying_price", "invention_price"):
            _check_price(getattr(self, name), name)
        if self.copied_run < 2 or not self.words_per_fact > 0:
            raise ValueError(
                f"copied_run must be >= 2 and words_per_fact > 0, got {self.copied_run} and "
                f"{self.words_per_fact}"
            )

    def parts(self, post: Sequence[str], summary: Sequence[str]) -> dict[str, float]:
        """Return the parts that sum to the gold score of a summary, at most 1.

        facts     = |facts of the post that the summary names| / |facts of the post|
        padding   = -padding_price * max(0, 1 - words_per_fact * |facts of the post| / words)
        copying   = -copying_price * share of words inside a run of copied_run words of the post
        invention = -invention_price * min(1, |facts it names that the post has not| / |facts|)

        Punctuation marks are no words. A post without facts has none that could be named: facts is
        0.
        """
        post_words, words = ([w for w in text if w[:1].isalnum()] for text in (post, summary))
        known = set(self.facts)
        true_facts, named = known & set(post_words), known & set(words)
        count = max(1, len(true_facts))
        over = max(0.0, 1.0 - self.words_per_fact * count / max(1, len(words)))
        wrong = min(1.0, len(named - true_facts) / count)
        copied = copied_share(post_words, words, self.copied_run)
        return {
            "facts": len(named & true_facts) / count,
            "padding": 0.0 - self.padding_price * over,
            "copying": 0.0 - self.copying_price * copied,
            "invention": 0.0 - self.invention_price * wrong,
        }


def _check_some(values: Collection[Any], name: str) -> None:
    if not values:
        raise ValueError(f"{name} must hold at least one entry, got none")


def _check_price(price: float, name: str) -> None:
    if not price >= 0:  # NaN is not
        raise ValueError(f"{name} must be >= 0, got {price}; 0 leaves a fault free")


def copied_share(source: Sequence[str], words: Sequence[str], run: int) -> float:
    """Return the share of words that lie in a run of ``run`` words that the source has too."""
    runs = {tuple(source[i : i + run]) for i in range(len(source) - run + 1)}
    copied = [False] * len(words)
    for start in range(len(words) - run + 1):
        if tuple(words[start : start + run]) in runs:
            copied[start : start + run] = [True] * run
    return sum(copied) / max(1, len(words))


@dataclass(frozen=True, kw_only=True)
class ToxicityRules(Rules):
    """Words that are rude."""

    kind: ClassVar[str] = "toxicity"
    rude: Sequence[str]
    """Words that are not clean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_some(self.rude, "rude")

    def parts(self, prompt: Sequence[str], response: Sequence[str]) -> dict[str, float]:
        """Return the share of clean words in the response, in [0, 1].

        clean = |clean words| / |words|;  0 for a response without words, which says nothing clean

        The prompt is not read: what the user said is not the policy's fault.
        """
        words = [word for word in response if word[:1].isalnum()]
        return {"clean": sum(word not in self.rude for word in words) / max(1, len(words))}

    def contributions(self, response: Sequence[str]) -> NDArray[np.float64]:
        """Return -1 / words for a rude word and 0 for others, (words,)."""
        rude, count = frozenset(self.rude), sum(word[:1].isalnum() for word in response)
        return np.array([-(word in rude) / max(1, count) for word in response], dtype=np.float64)


GOLD: Registry[type[Rules]] = Registry("kind of gold rules", group="gold")
"""All kinds by name."""


def register_gold(rules: type[R]) -> type[R]:
    """Make rules known by their ``kind``, which a stored file names: a class decorator."""
    GOLD.register(rules.kind, rules)
    return rules


for _rules in (AnswerRules, DialogueRules, GrammarRules, SummaryRules, ToxicityRules):
    register_gold(_rules)


def load_rules(path: str | Path) -> Any:
    """Return the rules stored in a JSON file."""
    return _load(Path(path), None, "holds no gold rules")


def load_lexicon(path: str | Path) -> Lexicon:
    """Return the lexicon stored in a JSON file."""
    return _load(Path(path), Lexicon, "is not a lexicon")


def _load(path: Path, declared: Any, fault: str) -> Any:
    """Return what `Stored.save` wrote of a class; None takes the one whose kind the file names."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if declared is None:
            declared = GOLD.find(stored["kind"])
        return declared(**{field.name: stored[field.name] for field in fields(declared)})
    except (OSError, ValueError, KeyError, TypeError) as error:  # SettingsError among them
        raise ValueError(
            f"{path} {fault} ({type(error).__name__}: {error}); expected the JSON that "
            "save() writes"
        ) from error


def rude_words(path: str | Path) -> tuple[str, ...]:
    """Return the rude words that stored rules name; () where they name none."""
    rules = load_rules(path)
    if isinstance(rules, ToxicityRules):
        return tuple(rules.rude)
    return tuple(rules.insults) if isinstance(rules, DialogueRules) else ()
