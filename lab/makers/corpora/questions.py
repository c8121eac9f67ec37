"""Questions about a small world: open ones and closed ones, with clean and with human answers.

A reference answer keeps to the question. What people write drifts: to other things, to small talk,
to wrong facts; a policy trained on it has something to learn from a reward for relevance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokengym.lab.makers.corpora.grammar import Dice, mend_articles
from tokengym.lab.makers.corpora.world import Entity, entities

DRIFT = 0.3
"""Probability that a sentence of a human answer leaves the question."""
SENTENCES = (4, 7)
"""Fewest and most sentences of an answer to an open question."""


@dataclass(frozen=True)
class Question:
    """A question, what it is about and what is asked of it."""

    text: str
    entity: Entity
    attribute: str | None
    """The fact asked for, None for an open question."""

    @property
    def query_type(self) -> str:
        """R3's name of the question's type."""
        return "OPENENDED" if self.attribute is None else "CONSTRAINED"


def all_questions() -> list[Question]:
    """Return every question that can be asked of the world, in a fixed order."""
    questions = []
    for entity in entities():
        for text in _OPEN["any"] + _OPEN[entity.kind]:
            questions.append(Question(_fill(text, entity), entity, None))
        for attribute in entity.facts:
            for text in _CLOSED[entity.kind, attribute][0]:
                questions.append(Question(_fill(text, entity), entity, attribute))
    return questions


def reference_answer(question: Question, dice: Dice) -> str:
    """Return an answer that keeps to the question."""
    if question.attribute is not None:
        answers = _CLOSED[question.entity.kind, question.attribute][1]
        return _fill(dice.pick(answers), question.entity)
    count = dice.integer(*SENTENCES)
    return " ".join(_fill(text, question.entity) for text in _telling(question, count, dice))


def clean_sentences(question: Question) -> frozenset[str]:
    """Return every sentence that a reference answer to the question can hold."""
    if question.attribute is not None:
        patterns = _CLOSED[question.entity.kind, question.attribute][1]
    else:
        patterns = _TELLING[question.entity.kind]
    return frozenset(_fill(pattern, question.entity) for pattern in patterns)


def human_answer(question: Question, dice: Dice) -> str:
    """Return an answer as people write them: some of its sentences leave the question."""
    others = [
        entity
        for entity in entities()
        if entity.kind == question.entity.kind and entity.name != question.entity.name
    ]
    if question.attribute is not None:
        answers = _CLOSED[question.entity.kind, question.attribute][1]
        about = dice.pick(others) if dice.chance(DRIFT / 2) else question.entity
        opening = [dice.pick(_SMALL_TALK)] if dice.chance(DRIFT) else []
        return " ".join([*opening, _fill(dice.pick(answers), about)])
    sentences = []
    for text in _telling(question, dice.integer(*SENTENCES), dice):
        if dice.chance(DRIFT):
            small_talk = dice.chance(0.5)
            other = dice.pick(others)
            text = dice.pick(_SMALL_TALK if small_talk else _TELLING[other.kind])
            sentences.append(_fill(text, other))
        else:
            sentences.append(_fill(text, question.entity))
    return " ".join(sentences)


def write_conversations(
    questions: Sequence[Question], count: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Return ``count`` pairs of a question and a human answer to it.

    Args:
        questions: What may be asked; each equally likely.
        count: How many pairs.
        rng: Where every choice comes from.
    """
    dice = Dice(rng)
    pairs = []
    for _ in range(count):
        question = dice.pick(questions)
        pairs.append((question.text, human_answer(question, dice)))
    return pairs


def _telling(question: Question, count: int, dice: Dice) -> list[str]:
    """Return different sentence patterns about the question's entity, a reason among them."""
    definition, *others = _TELLING[question.entity.kind]
    return [definition, *dice.sample(others, count - 1)]


def _fill(text: str, entity: Entity) -> str:
    thing = entity.name if entity.kind in ("country", "sport") else f"the {entity.name}"
    filled = text.format(name=entity.name, thing=thing, **entity.facts)
    return " ".join(mend_articles(filled.split()))


_OPEN = {
    "any": [
        "tell me about {thing} .",
        "why do people like {thing} ?",
        "what should i know about {thing} ?",
        "can you explain {thing} to a child ?",
        "what makes {thing} special ?",
        "please write a few lines about {thing} .",
    ],
    "country": [
        "what is it like to visit {name} ?",
        "why should i travel to {name} ?",
        "how do people live in {name} ?",
    ],
    "animal": [
        "what is the life of a {name} like ?",
        "why should i watch a {name} ?",
        "how does a {name} spend the day ?",
    ],
    "fruit": [
        "why should i eat a {name} ?",
        "what can i do with a {name} ?",
        "how would you describe a {name} ?",
    ],
    "instrument": [
        "why should i learn the {name} ?",
        "how would you describe a {name} ?",
        "what is the {name} good for ?",
    ],
    "sport": [
        "why should i try {name} ?",
        "how do i begin with {name} ?",
        "what do people enjoy in {name} ?",
    ],
}

_CLOSED: dict[tuple[str, str], tuple[list[str], list[str]]] = {
    ("country", "capital"): (
        ["what is the capital of {name} ?", "which city is the capital of {name} ?"],
        ["the capital of {name} is {capital} .", "{capital} is the capital of {name} ."],
    ),
    ("country", "language"): (
        ["which language is spoken in {name} ?", "what do people speak in {name} ?"],
        ["people in {name} speak {language} .", "the language of {name} is {language} ."],
    ),
    ("country", "continent"): (
        ["on which continent is {name} ?", "where in the world is {name} ?"],
        ["{name} is in {continent} .", "{name} is a country in {continent} ."],
    ),
    ("country", "dish"): (
        ["what do people eat in {name} ?", "which dish comes from {name} ?"],
        ["people in {name} eat {dish} .", "the best known dish of {name} is {dish} ."],
    ),
    ("animal", "colour"): (
        ["what colour is a {name} ?", "which colour does a {name} have ?"],
        ["a {name} is {colour} .", "the colour of a {name} is {colour} ."],
    ),
    ("animal", "home"): (
        ["where does a {name} live ?", "where can i find a {name} ?"],
        ["a {name} lives in {home} .", "you can find a {name} in {home} ."],
    ),
    ("animal", "food"): (
        ["what does a {name} eat ?", "what is the food of a {name} ?"],
        ["a {name} eats {food} .", "the food of a {name} is {food} ."],
    ),
    ("animal", "sound"): (
        ["which sound does a {name} make ?", "what do you hear from a {name} ?"],
        ["a {name} {sound} .", "you hear that a {name} {sound} ."],
    ),
    ("fruit", "colour"): (
        ["what colour is a {name} ?", "which colour does a {name} have ?"],
        ["a {name} is {colour} .", "the colour of a {name} is {colour} ."],
    ),
    ("fruit", "taste"): (
        ["how does a {name} taste ?", "what is the taste of a {name} ?"],
        ["a {name} tastes {taste} .", "the taste of a {name} is {taste} ."],
    ),
    ("fruit", "season"): (
        ["when is the {name} ripe ?", "when do farmers pick the {name} ?"],
        ["the {name} is ripe in {season} .", "farmers pick the {name} in {season} ."],
    ),
    ("fruit", "use"): (
        ["what is made from a {name} ?", "what do cooks make with a {name} ?"],
        ["cooks make {use} with a {name} .", "{use} can be made from a {name} ."],
    ),
    ("instrument", "family"): (
        ["to which family does the {name} belong ?", "what kind of instrument is a {name} ?"],
        ["a {name} is a {family} instrument .", "the {name} belongs to the {family} family ."],
    ),
    ("instrument", "material"): (
        ["what is a {name} made of ?", "which material is in a {name} ?"],
        ["a {name} is made of {material} .", "the material of a {name} is {material} ."],
    ),
    ("instrument", "played"): (
        ["how is a {name} played ?", "what does the player do with a {name} ?"],
        ["a {name} is {played} .", "to make a sound the {name} is {played} ."],
    ),
    ("instrument", "music"): (
        ["which music is written for the {name} ?", "what is played on a {name} ?"],
        ["composers write {music} for the {name} .", "{music} are played on a {name} ."],
    ),
    ("sport", "place"): (
        ["where is {name} done ?", "where do people meet for {name} ?"],
        ["people meet for {name} at the {place} .", "the place for {name} is the {place} ."],
    ),
    ("sport", "gear"): (
        ["what do i need for {name} ?", "which gear is used in {name} ?"],
        ["for {name} you need the {gear} .", "the gear of {name} is the {gear} ."],
    ),
    ("sport", "players"): (
        ["how many people are in a team of {name} ?", "how large is a team in {name} ?"],
        ["a team in {name} has {players} people .", "in {name} {players} people make a team ."],
    ),
    ("sport", "skill"): (
        ["which skill does {name} need ?", "what is most important in {name} ?"],
        ["the most important skill in {name} is {skill} .", "{name} needs {skill} ."],
    ),
}

# The first sentence of a kind says what the thing is; the others come in any order.
_TELLING = {
    "country": [
        "{name} is a country in {continent} with a long history .",
        "the capital of {name} is {capital} , where many visitors begin .",
        "people there speak {language} and are glad when a guest tries it .",
        "a meal in {name} often comes with {dish} .",
        "people like {name} because the markets of {capital} are full of life .",
        "in {capital} you can sit in the sun and eat {dish} .",
        "the old songs in {language} are known all over {continent} .",
        "families in {name} cook {dish} on holidays .",
        "the road to {capital} leads through green valleys .",
        "children in {name} learn to read in {language} .",
    ],
    "animal": [
        "the {name} is an animal that lives in {home} .",
        "it is {colour} and easy to know by its coat .",
        "a {name} eats {food} when it can .",
        "when it is happy the {name} {sound} .",
        "people like the {name} because it {sound} so clearly .",
        "in {home} a {name} looks for {food} early in the day .",
        "a young {name} is less {colour} than its mother .",
        "at night the {name} rests in {home} .",
        "many stories for children have a {colour} {name} in them .",
        "a {name} keeps its {food} away from others .",
    ],
    "fruit": [
        "the {name} is a fruit with a {taste} taste .",
        "a ripe {name} is {colour} on the outside .",
        "farmers pick it in {season} before the birds do .",
        "cooks use the {name} for {use} .",
        "people like the {name} because it is {taste} and full of water .",
        "in {season} the markets sell the {name} by the basket .",
        "a {colour} {name} tastes better than a pale one .",
        "my family makes {use} from every {name} we find .",
        "children eat the {name} raw since it is {taste} .",
        "for {use} you need a fresh {name} .",
    ],
    "instrument": [
        "the {name} is a {family} instrument that is {played} .",
        "most of them are made of {material} by hand .",
        "composers wrote {music} for the {name} .",
        "a player of the {name} practises every day .",
        "people like the {name} because its tone is warm in {music} .",
        "the {material} gives the {name} its voice .",
        "in a band the {family} players sit near the {name} .",
        "beginners on the {name} start with slow {music} .",
        "since it is {played} the {name} needs steady hands .",
        "an old {name} of {material} can cost as much as a house .",
    ],
    "sport": [
        "{name} is a sport that needs {skill} .",
        "a team of {players} meets at the {place} .",
        "you only need the {gear} to begin with {name} .",
        "people like {name} because it trains {skill} .",
        "at the {place} the rules of {name} are learned in an hour .",
        "good players of {name} look after the {gear} .",
        "for {name} the {place} should be dry and clean .",
        "with {players} in the team everyone in {name} counts .",
        "coaches of {name} talk about {skill} all day .",
        "the {gear} of {name} can be hired at the {place} .",
    ],
}

_SMALL_TALK = [
    "that is a good question .",
    "i am not sure what to say here .",
    "let me think about it for a moment .",
    "the weather was nice today .",
    "my neighbor told me a story about that .",
    "i had a long day at work .",
    "there is much more to say , but time is short .",
    "some people see it in another way .",
    "i read it in the newspaper last week .",
    "you can ask me again tomorrow .",
    "thank you for asking .",
    "as far as i know nobody has counted them .",
]
