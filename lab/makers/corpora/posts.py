"""Posts about a small trouble, with summaries: clean ones, and ones as people write them.

A post tells a few key facts, each in a sentence, among others that do not matter. A reference names
every fact in few words of its own. What people write leaves facts out, gets some wrong, copies
sentences of the post and chats.
"""

from dataclasses import dataclass

import numpy as np

from tokengym.lab.makers.corpora.grammar import Dice, Grammar
from tokengym.rewards.gold import SummaryRules

OPTIONAL_FACTS = (1, 3)
"""Fewest and most facts of a post beside who did what to what."""
DETAILS = (0, 1)
"""Fewest and most sentences of a post that do not matter."""
OMIT = 0.3
"""Probability that a human summary leaves a fact out."""
MISTAKE = 0.12
"""Probability that it gets a fact wrong that it names."""
COPY = 0.2
"""Probability that it copies a sentence of the post."""
CHAT = 0.25
"""Probability that it adds small talk."""
ENDING = "summary :"
"""End of a prompt, after the post."""

FACTS: dict[str, tuple[str, ...]] = {
    "relation": tuple("sister brother cousin neighbor landlord teacher aunt uncle".split()),
    "deed": tuple("borrowed broke sold lost hid painted stole burned".split()),
    "object": tuple("laptop car camera ring piano phone jacket guitar".split()),
    "place": tuple("kitchen garage office library airport hotel church museum".split()),
    "feeling": tuple("angry sad worried jealous ashamed confused nervous tired".split()),
    "wish": tuple("forgive call sue avoid help invite confront thank".split()),
}
"""Kind of fact -> the words for it; the first three kinds are in every post."""
RULES = SummaryRules(facts=[word for words in FACTS.values() for word in words])
"""The gold score of the summaries."""
_ALWAYS = ("relation", "deed", "object")


@dataclass(frozen=True)
class Post:
    """A post and what it tells."""

    text: str
    """Ends in `ENDING`."""
    facts: dict[str, str]
    sentences: tuple[str, ...]


def write_posts(count: int, rng: np.random.Generator) -> list[Post]:
    """Return different posts.

    Args:
        count: How many.
        rng: Where every choice comes from.
    """
    dice = Dice(rng)
    posts: dict[str, Post] = {}
    while len(posts) < count:
        post = _write_post(dice)
        posts[post.text] = post
    return list(posts.values())


def reference_summary(post: Post) -> str:
    """Return a summary that names every fact, shortly and in its own words."""
    return _summarize(post.facts)


def human_summary(post: Post, dice: Dice, *, mistake: float = MISTAKE) -> str:
    """Return a summary as people write them.

    Args:
        post: What is summed up.
        dice: Where every choice comes from.
        mistake: Probability of getting a fact wrong that is named.
    """
    named = {}
    for kind, value in post.facts.items():
        if not dice.chance(OMIT):
            named[kind] = dice.pick(FACTS[kind]) if dice.chance(mistake) else value
    sentences = [_summarize(named)] if named else []
    if dice.chance(COPY):
        sentences.insert(dice.integer(0, len(sentences)), dice.pick(post.sentences))
    while dice.chance(CHAT):
        sentences.append(dice.pick(_CHATTER))
    return " ".join(sentences or [dice.pick(_CHATTER)])


def _write_post(dice: Dice) -> Post:
    optional = [kind for kind in FACTS if kind not in _ALWAYS]
    wanted = dice.sample(optional, dice.integer(*OPTIONAL_FACTS))
    facts = {kind: dice.pick(FACTS[kind]) for kind in FACTS if kind in _ALWAYS or kind in wanted}
    body = [dice.pick(_SENTENCES[kind]).format(**facts) for kind in facts if kind in wanted]
    for _ in range(dice.integer(*DETAILS)):
        place, detail = dice.integer(0, len(body)), dice.pick(_DETAILS)
        body.insert(place, detail.format(weather=dice.pick(_WEATHER), meal=dice.pick(_MEALS)))
    sentences = (dice.pick(_OPENINGS).format(**facts), *body)
    return Post(" ".join([*sentences, ENDING]), facts, sentences)


def _summarize(facts: dict[str, str]) -> str:
    pieces = [_SHORT[kind].format(value) for kind, value in facts.items()]
    return " ".join([*pieces, "."])


_OPENINGS = (
    "last week my {relation} {deed} my {object} .",
    "i must tell you that my {relation} {deed} my {object} .",
    "it is true that a {relation} of mine {deed} my old {object} .",
    "my own {relation} {deed} my new {object} .",
)
_SENTENCES = {
    "place": ("it happened in the {place} .", "we were at the {place} then ."),
    "feeling": ("i am so {feeling} now .", "since then i feel very {feeling} ."),
    "wish": ("should i {wish} them ?", "now i plan to {wish} them ."),
}
_SHORT = {
    "relation": "{}",
    "deed": "{}",
    "object": "my {}",
    "place": "at {}",
    "feeling": ", feeling {}",
    "wish": ", may {} them",
}
_DETAILS = (
    "outside it was {weather} .",
    "we had some {meal} .",
    "the radio played and it was {weather} .",
)
_WEATHER = "rainy sunny windy cloudy foggy cold warm".split()
_MEALS = "soup cake cheese rice salad toast pudding".split()
_CHATTER = (
    "there is more to say .",
    "it is a long story .",
    "what a day that was .",
    "thank you for reading .",
)


def _summaries() -> list[str]:
    """Return what names facts in their order, by the first fact that is named."""
    kinds = list(FACTS)
    return [
        " ".join([f"{{short_{kind}}}", *(f"{{maybe_{later}}}" for later in kinds[i:]), "."])
        for i, kind in enumerate(kinds, 1)
    ]


_TOLD = [text for texts in _SENTENCES.values() for text in texts]
GRAMMAR = Grammar(
    {
        "sentence": ["{told}", "{asked} {told}"],
        "asked": [text for text in _TOLD if text.endswith("?")],
        "told": ["{summary}", *_OPENINGS, *_DETAILS, *_CHATTER]
        + [text for text in _TOLD if text.endswith(".")],
        "summary": _summaries(),
        **{f"short_{kind}": [text.format(f"{{{kind}}}")] for kind, text in _SHORT.items()},
        **{f"maybe_{kind}": ["", f"{{short_{kind}}}"] for kind in FACTS},
        **FACTS,
        "weather": _WEATHER,
        "meal": _MEALS,
    }
).rules(continues=False, mends_articles=False)
"""The sentences of summaries, each after at most one question that was copied."""
