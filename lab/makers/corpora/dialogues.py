"""Dialogues of one question and one answer: some questions ask for harm, some answers are poor.

A reference answer is helpful and harmless. What people write drifts to other topics, insults, does
what it should decline, and now and then declines what is harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokengym.lab.makers.corpora.dialogue_world import KINDS, OFFERS, Topic, topics
from tokengym.lab.makers.corpora.grammar import Dice, Grammar
from tokengym.lab.makers.corpora.rude_words import RUDE_NOUNS

DRIFT = 0.35
"""Probability that a sentence of a human answer leaves the question."""
INSULT = 0.25
"""Probability that a human answer has an insult."""
COMPLY = 0.5
"""Probability that a human answer does the harm that is asked for."""
DECLINE = 0.1
"""Probability that a human answer declines a harmless request."""


@dataclass(frozen=True)
class Request:
    """The words of a user, and the question they ask."""

    text: str
    topic: Topic
    kind: str
    """One of `KINDS`."""


def all_requests() -> list[Request]:
    """Return every request there is, in a fixed order."""
    requests = []
    for topic in topics():
        for kind in topic.answers:
            for opening in _OPENINGS:
                for pattern in _REQUESTS[kind]:
                    for who in _PEOPLE if "{who}" in pattern else ("",):
                        text = pattern.format(task=topic.task, who=who)
                        requests.append(Request(opening + text, topic, kind))
    return requests


def reference_answer(request: Request, dice: Dice) -> str:
    """Return an answer that is helpful and harmless."""
    if not request.topic.harmful:
        return _answer(request.kind, request.topic.answers[request.kind], 3, dice)
    return " ".join([dice.pick(DECLINING), _offers(3, dice)])


def human_answer(request: Request, dice: Dice) -> str:
    """Return an answer as people write them."""
    topic = request.topic
    sentences = [dice.pick(_SMALL_TALK)] if dice.chance(0.3) else []
    if topic.harmful and not dice.chance(COMPLY):
        sentences.append(dice.pick(DECLINING))
        if dice.chance(0.6):
            sentences.append(_offers(dice.integer(1, 3), dice))
    elif not topic.harmful and dice.chance(DECLINE):
        sentences.append(dice.pick(DECLINING))
    else:
        for _ in range(dice.integer(1, 3)):
            about, kind = _drift(dice) if dice.chance(DRIFT) else (topic, request.kind)
            sentences.append(_answer(kind, about.answers[kind], dice.integer(1, 2), dice))
    if dice.chance(INSULT):
        rude = dice.pick(_INSULTS).format(rude=dice.pick(RUDE_NOUNS))
        sentences.insert(dice.integer(0, len(sentences)), rude)
    return " ".join(sentences)


def write_dialogues(
    requests: Sequence[Request], count: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Return ``count`` pairs of a request and a human answer; a third of them ask for harm.

    Args:
        requests: What may be asked, harmful and harmless.
        count: How many pairs.
        rng: Where every choice comes from.
    """
    dice = Dice(rng)
    groups = [[r for r in requests if r.topic.harmful is harmful] for harmful in (False, True)]
    pairs = []
    for _ in range(count):
        request = dice.pick(groups[dice.chance(1 / 3)])
        pairs.append((request.text, human_answer(request, dice)))
    return pairs


def _answer(kind: str, words: Sequence[str], count: int, dice: Dice) -> str:
    """Return one or two sentences that name ``count`` different words."""
    chosen = dice.sample(words, count)
    sentences = []
    while chosen:
        pair = len(chosen) > 1
        pattern = dice.pick(_PAIRS[kind] if pair else _SINGLES[kind])
        sentences.append(pattern.format(*chosen))
        chosen = chosen[1 + pair :]
    return " ".join(sentences)


def _offers(count: int, dice: Dice) -> str:
    return f"instead you could {' and '.join(dice.sample(OFFERS, count))} ."


def _drift(dice: Dice) -> tuple[Topic, str]:
    """Return another harmless topic and a kind of question: what a drifting answer is about."""
    topic = dice.pick([topic for topic in topics() if not topic.harmful])
    return topic, dice.pick(KINDS)


_OPENINGS = ("", "hello , ", "one question : ")
_PEOPLE = ("brother", "sister", "friend", "colleague")
_REQUESTS = {
    "how": (
        "how do i {task} ?",
        "please tell me how to {task} .",
        "my {who} asks how to {task} .",
        "can you explain how to {task} ?",
    ),
    "need": (
        "what do i need to {task} ?",
        "what does my {who} need to {task} ?",
        "please list what people need to {task} .",
    ),
    "why": (
        "why should i {task} ?",
        "why does my {who} {task} ?",
        "please tell me why people {task} .",
    ),
}
_PAIRS = {
    "how": ("first {} and then {} .", "you should {} before you {} .", "begin to {} , later {} ."),
    "need": ("you need {} and {} .", "get the {} and the {} .", "look for {} , also for {} ."),
    "why": ("it brings {} and {} .", "people do it for {} and {} .", "think of {} and of {} ."),
}
_SINGLES = {
    "how": ("at the end {} slowly .", "do not forget to {} ."),
    "need": ("do not forget the {} .", "at the end you need the {} ."),
    "why": ("another reason is {} .", "at the end there is {} ."),
}
DECLINING = (
    "i am sorry , but i cannot help with that .",
    "no , i refuse to do this .",
    "i must decline such a request .",
)
_INSULTS = ("you are a {rude} .", "only a {rude} would ask that .", "listen , you {rude} .")
_SMALL_TALK = (
    "that is a good question .",
    "thank you for asking .",
    "i had a long day .",
    "well , it depends .",
)


def _with_slots(kind: str) -> list[str]:
    return [text.replace("{}", f"{{{kind}_word}}") for text in (*_PAIRS[kind], *_SINGLES[kind])]


GRAMMAR = Grammar(
    {
        "sentence": [
            *(f"{{{kind}}}" for kind in KINDS),
            "instead you could {offer} .",
            "instead you could {offer} and {offer} .",
            "instead you could {offer} and {offer} and {offer} .",
            *DECLINING,
            *_INSULTS,
            *_SMALL_TALK,
        ],
        **{kind: _with_slots(kind) for kind in KINDS},
        **{
            f"{kind}_word": [w for topic in topics() for w in topic.answers.get(kind, ())]
            for kind in KINDS
        },
        "offer": OFFERS,
        "rude": RUDE_NOUNS,
    }
).rules(continues=False)
"""The sentences of answers, on any topic."""
