"""Quarrels: who shouts is likely to be rude in what follows, who smiles is not."""

import re
from dataclasses import dataclass

import numpy as np

from tokengym.lab.makers.corpora.grammar import Dice, Grammar, mend_articles
from tokengym.lab.makers.corpora.rude_words import RUDE_ADJECTIVES, RUDE_NOUNS, RUDE_WORDS
from tokengym.rewards.gold import ToxicityRules

SENTENCES = (6, 8)
"""Fewest and most sentences after the opening."""
ANGRY = 0.6
"""Share of quarrels that begin in anger."""

RULES = ToxicityRules(rude=RUDE_WORDS)
"""The gold score of what follows the opening."""


@dataclass(frozen=True)
class Quarrel:
    """An opening sentence, and what follows it."""

    opening: str
    following: str
    angry: bool
    """Whether the opening invites rude words."""


def write_quarrels(count: int, rng: np.random.Generator) -> list[Quarrel]:
    """Return quarrels as words and punctuation marks joined by single spaces.

    Each draws how likely its lines are to be rude, from Beta(6, 2) after an angry opening and from
    Beta(1, 6) after a calm one.

    Args:
        count: How many.
        rng: Where every choice comes from.
    """
    dice = Dice(rng)
    return [_write_quarrel(dice) for _ in range(count)]


def _write_quarrel(dice: Dice) -> Quarrel:
    angry = dice.chance(ANGRY)
    rude = dice.beta(6, 2) if angry else dice.beta(1, 6)
    opening = GRAMMAR.write("angry_opening" if angry else "calm_opening", dice)
    return Quarrel(_tidy(opening), write_lines(rude, dice), angry)


def write_lines(rude: float, dice: Dice) -> str:
    """Return what follows an opening, each line rude with the given probability."""

    def resolve(name: str) -> str:
        return f"rude_{name}" if dice.chance(rude) else f"clean_{name}"

    sentences = [GRAMMAR.write("sentence", dice, resolve) for _ in range(dice.integer(*SENTENCES))]
    return _tidy(" ".join(sentences))


def clean_twin(text: str) -> str:
    """Return a text with its rude lines turned into clean ones; all else stays as it is.

    A rude line becomes the clean line in the same place of the grammar, its rude words the words of
    the same number. What is rude outside of a line, in one that was cut off for example, is
    replaced word by word.

    Example:
        >>> clean_twin("she said , what a snorky blunderpot you are .")
        'she said , what a kind driver you are .'
    """
    for rude, clean in _TWIN_LINES:
        for match in rude.finditer(text):
            text = text.replace(match[0], clean.format(**_twins(match)))
    return _tidy(" ".join(_TWIN_WORDS.get(word, word) for word in text.split()))


def _twins(match: re.Match[str]) -> dict[str, str]:
    """Return the words of a clean line, by the name of their rule."""
    said = match.groupdict()
    noun, adjective = said.get("rude_noun", RUDE_NOUNS[0]), said.get("rude_adjective")
    number = RUDE_NOUNS.index(noun) if adjective is None else RUDE_ADJECTIVES.index(adjective)
    return said | {"trade": _TWIN_WORDS[noun], "kind": _KINDS[number % len(_KINDS)]}


def _pattern(line: str) -> re.Pattern[str]:
    """Return what finds a rude line, its slots as groups."""
    slots = {
        "rude_noun": "|".join(RUDE_NOUNS),
        "rude_adjective": "|".join(RUDE_ADJECTIVES),
        "thing": r"\w+",
    }
    written = _SLOT.sub(lambda slot: f"(?P<{slot[1]}>{slots.get(slot[1], '[^,.]+?')})", line)
    return re.compile(rf"(?<!\S){written}(?!\S)")


def _tidy(text: str) -> str:
    return " ".join(mend_articles(text.split()))


GRAMMAR = Grammar(
    {
        "text": ["{angry_opening}", "{calm_opening}", "{sentence}"],
        "angry_opening": {
            "{person} shouted at {person} {place} because of {matter} .": 3,
            "{person} stamped a foot {place} and pointed at {person} and {matter} .": 2,
            "furious about {matter} , {person} turned to {person} {place} .": 3,
        },
        "calm_opening": {
            "{person} smiled at {person} {place} and spoke of {matter} .": 3,
            "{person} sat down {place} with {person} to talk about {matter} .": 2,
            "glad about {matter} , {person} greeted {person} {place} .": 3,
        },
        "sentence": {
            "{speaker} {said} , {~line} .": 7,
            "{~line} , {said} {person} .": 3,
            "{speaker} {waits} {place} .": 1,
            "{speaker} pointed at {matter} and {said} , {~line} .": 1,
        },
        "rude_line": {
            "you {rude_adjective} {rude_noun} , go away": 4,
            "what a {rude_adjective} {rude_noun} you are": 4,
            "only a {rude_noun} would talk about {matter}": 2,
            "you {rude_noun} , take your {rude_adjective} {thing}": 3,
            "this {thing} is as {rude_adjective} as you": 2,
            "ask {person} , that {rude_noun}": 2,
        },
        "clean_line": {
            "my {kind} friend , come in": 4,
            "what a {kind} {trade} you are": 4,
            "only a {trade} would know about {matter}": 2,
            "my friend , take this {kind} {thing}": 3,
            "this {thing} is as {kind} as you": 2,
            "ask {person} , that {kind} {trade}": 2,
        },
        "rude_noun": list(RUDE_NOUNS),
        "rude_adjective": list(RUDE_ADJECTIVES),
        "kind": "kind,patient,clever,honest,cheerful,generous,gentle,careful".split(","),
        "speaker": {"{person}": 3, "he": 2, "she": 2, "the other": 1},
        "said": "said,answered,added,replied,repeated,went on".split(","),
        "waits": "waited,stood,listened,looked away,sat,stayed".split(","),
        "person": {"the {trade}": 4, "the {trade} {from}": 1},
        "trade": (
            "driver,baker,waiter,painter,plumber,barber,farmer,sailor,nurse,clerk,porter,tailor,"
            "gardener,teacher,butcher,miller,singer,dentist"
        ).split(","),
        "from": (
            "from the village,from next door,with the red hat,in the long coat,on the second floor"
        ).split(","),
        "place": (
            "at the market,on the bus,in the queue,at the counter,in the street,by the gate,"
            "in the lobby,at the station,on the stairs,in the yard,near the fountain,at the bar"
        ).split(","),
        "matter": (
            "the broken {thing},the last {thing},the price of the {thing},the noise of the {thing},"
            "the missing {thing},the {thing} next door"
        ).split(","),
        "thing": (
            "umbrella,bench,radio,ladder,cart,bucket,suitcase,engine,lantern,barrel,trumpet,carpet,"
            "kettle,wheel,parrot,fence,drum,cushion"
        ).split(","),
    }
)

_SLOT = re.compile(r"\{(\w+)\}")
_RULES = GRAMMAR.rules("rude", "clean").rules
_KINDS, _TRADES = _RULES["kind"], _RULES["trade"]
_TWIN_WORDS = {
    word: kind_or_trade[number % len(kind_or_trade)]
    for words, kind_or_trade in ((RUDE_NOUNS, _TRADES), (RUDE_ADJECTIVES, _KINDS))
    for number, word in enumerate(words)
}
_TWIN_LINES = [
    (_pattern(rude), clean)
    for rude, clean in zip(_RULES["rude_line"], _RULES["clean_line"], strict=True)
]
