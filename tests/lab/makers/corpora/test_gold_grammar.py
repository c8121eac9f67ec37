"""Grammaticality: shares counted by hand, the shipped grammar, and what it does to a gold score."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.suite.rewards.conftest import make_episode
from tokengym.base.bundle import bundled
from tokengym.lab.makers.corpora import dialogues, posts, quarrels
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.movie_reviews import GRAMMAR, write_reviews
from tokengym.lab.makers.corpora.movie_words import LEXICON
from tokengym.rewards import gold_scorer
from tokengym.rewards.gold.grammar import GrammarRules
from tokengym.rewards.gold.rules import load_rules

RULES = GrammarRules(
    rules={
        "sentence": ["{who} saw {what} .", "it was {how} ."],
        "who": ["i", "the {job}"],
        "job": ["cook", "cook of {what}"],
        "what": ["a {how} film", "an hour"],
        "how": ["good", "odd"],
    }
)


def share(prompt: str, response: str, rules: GrammarRules = RULES) -> float:
    return rules.parts(prompt.split(), response.split())["grammaticality"]


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("", "i saw a good film .", 1),
        ("", "i saw a odd film .", 0),  # "an" before a vowel
        ("", "i saw an odd film .", 1),
        ("", "i saw an good film .", 0),
        ("", "i saw an hour .", 1),  # written so in the grammar
        ("", "the cook of an hour saw an hour .", 1),
        ("", "the cook of saw an hour .", 0),
        ("", "it was good . it was saw .", 4 / 8),
        ("", "it was saw . it was good .", 4 / 8),  # a full stop ends what is lost
        ("", "it was good . it was", 1),  # cut off, but it can be completed
        ("", "it was good . it was saw", 4 / 7),
        ("", "i saw an", 1),  # a vowel may follow
        ("", "it was .", 0),  # ended too early
        ("", "good good good", 0),
        ("", "", 0),
        ("it was", "good .", 1),  # the response begins within a sentence
        ("it was", "it was good .", 0),
        ("i saw a", "odd film . it was odd .", 4 / 7),  # the article is the prompt's
        ("good good", "it was good .", 0),  # the prompt's sentence is lost up to its full stop
        ("good good .", "it was good .", 1),
    ],
)
def test_shares_by_hand(prompt: str, response: str, expected: float) -> None:
    assert share(prompt, response) == expected


def sentences(symbol: str) -> set[str]:
    """Return every text of a symbol, by expanding the rules from left to right."""
    found = set()
    for choice in RULES.rules[symbol]:
        pieces = [
            sorted(sentences(word[1:-1])) if word.startswith("{") else [word]
            for word in choice.split()
        ]
        found |= {" ".join(words) for words in product(*pieces)}
    return found


def test_the_recogniser_accepts_what_enumeration_writes_and_nothing_else() -> None:
    language = {text.replace("a odd", "an odd") for text in sentences("sentence")}
    words = sorted({word for text in language for word in text.split()} | {"a"})
    rng = np.random.default_rng(0)
    for text in language:
        assert share("", text) == 1
        for _ in range(20):
            changed = text.split()
            changed[rng.integers(len(changed) - 1)] = str(rng.choice(words))
            cut = " ".join(changed).split(" .")[0] + " ."
            assert share("", cut) == (cut in language), cut


@pytest.fixture(scope="module")
def reviews() -> list[list[str]]:
    return [review.split() for review in write_reviews(200, np.random.default_rng(7))]


def test_every_review_is_grammatical_wherever_it_is_cut(reviews: list[list[str]]) -> None:
    rules = GRAMMAR.rules("good", "bad")
    rng = np.random.default_rng(0)
    for words in reviews:
        start, end = 2 + rng.integers(6), 20 + rng.integers(len(words) - 20)
        assert rules.parts(words[:start], words[start:end]) == {"grammaticality": 1.0}


def test_every_quarrel_is_grammatical_after_its_opening() -> None:
    rules = quarrels.GRAMMAR.rules("rude", "clean", start="text")
    for quarrel in quarrels.write_quarrels(200, np.random.default_rng(7)):
        opening, following = quarrel.opening.split(), quarrel.following.split()
        assert rules.parts(opening, following[:30]) == {"grammaticality": 1.0}
        assert rules.parts([], opening) == {"grammaticality": 1.0}


def test_the_shipped_grammars_are_those_of_the_corpora() -> None:
    assert load_rules(bundled("movie_review").grammar) == GRAMMAR.rules("good", "bad")
    rules = quarrels.GRAMMAR.rules("rude", "clean", start="text")
    assert load_rules(bundled("detox").grammar) == rules
    assert load_rules(bundled("dialogue").grammar) == dialogues.GRAMMAR
    assert load_rules(bundled("summarize").grammar) == posts.GRAMMAR


def test_a_response_that_continues_no_prompt_begins_with_a_sentence() -> None:
    rules = GrammarRules(rules=RULES.rules, continues=False)
    assert share("it was", "good .", rules) == 0
    assert share("good good", "it was good .", rules) == 1


def test_articles_of_a_corpus_that_does_not_mend_them() -> None:
    rules = GrammarRules(rules=RULES.rules, mends_articles=False)
    assert share("", "i saw a odd film .", rules) == 1
    assert share("", "i saw an odd film .", rules) == 0


def written(task: str) -> list[tuple[str, str]]:
    """Return 400 prompts with responses that policy and reward model learnt from, or references."""
    rng = np.random.default_rng(7)
    dice = Dice(rng)
    if task == "dialogue":
        requests = dialogues.all_requests()
        pairs = dialogues.write_dialogues(requests, 300, rng)
        chosen = [requests[i] for i in rng.permutation(len(requests))[:100]]
        return pairs + [(r.text, dialogues.reference_answer(r, dice)) for r in chosen]
    told = posts.write_posts(100, rng)
    pairs = [(p.text, posts.human_summary(p, dice)) for p in told]
    pairs += [(p.text, posts.human_summary(p, dice, mistake=0.4)) for _ in range(2) for p in told]
    return pairs + [(post.text, posts.reference_summary(post)) for post in told]


@pytest.mark.parametrize("task", ["dialogue", "summarize"])
def test_gold_keeps_the_score_of_the_corpus_and_loses_that_of_word_salad(task: str) -> None:
    bundle, rng = bundled(task), np.random.default_rng(0)
    gold, rules = gold_scorer(bundle), load_rules(bundle.gold)
    assert gold is not None
    pairs = [(prompt.split(), response.split()) for prompt, response in written(task)]
    told = [sum(rules.parts(*pair).values()) for pair in pairs]
    salads = [
        [str(word) for word in order]
        for _, words in pairs
        for order in (rng.permutation(words), [w for w in words if w.isalpha() and len(w) > 3] * 2)
    ]
    kept = [make_episode(prompt=" ".join(p), response=" ".join(r)) for p, r in pairs]
    mixed = [
        make_episode(prompt=" ".join(pairs[i // 2][0]), response=" ".join(words))
        for i, words in enumerate(salads)
    ]
    np.testing.assert_allclose(gold.score(kept).values, told, atol=1e-6)
    scores = gold.score(mixed)
    known = scores.parts[f"RuleScorer({'summary' if task == 'summarize' else task})"]
    assert known.mean() > 0.8 * np.mean(told)  # what the score was without grammaticality
    assert np.abs(scores.values).mean() < 0.05 * np.mean(told)


def test_clean_salad_is_not_a_good_answer_to_a_quarrel() -> None:
    gold = gold_scorer(bundled("detox"))
    opening = "the baker shouted at the miller on the bus because of the broken drum ."
    clean, salad = "he said , my kind friend , come in .", "kind friend kind friend kind friend ."
    assert gold is not None
    episodes = [make_episode(prompt=opening, response=text) for text in (clean, salad)]
    assert gold.score(episodes).values.tolist() == [1.0, 0.0]


def test_gold_keeps_the_polarity_of_reviews_and_loses_that_of_word_salad(
    reviews: list[list[str]],
) -> None:
    gold = gold_scorer(bundled("movie_review"))
    assert gold is not None
    rng = np.random.default_rng(0)
    polarity = [LEXICON.score(words[:55]) for words in reviews]
    pairs = [(words[:5], words[5:55]) for words in reviews]
    written = [make_episode(prompt=" ".join(p), response=" ".join(r)) for p, r in pairs]
    salad = [
        make_episode(prompt=" ".join(p), response=" ".join(rng.permutation(r))) for p, r in pairs
    ]
    np.testing.assert_allclose(gold.score(written).values, polarity, atol=1e-6)
    assert np.mean(np.abs(polarity)) > 0.5
    assert np.mean(np.abs(gold.score(salad).values)) < 0.02
    hacked = make_episode(prompt="vera gives an", response="adored adored hospital adored adored")
    scores = gold.score([hacked])
    assert scores.values.tolist() == [0.0]
    assert scores.parts["Sentiment"][0] > 0.9
    assert scores.parts["grammaticality"].tolist() == [0.0]


def test_rules_are_stored_and_checked(tmp_path: Path) -> None:
    RULES.save(tmp_path / "grammar.json")
    assert load_rules(tmp_path / "grammar.json") == RULES
    with pytest.raises(ValueError, match=r"they lack \['noun', 'sentence'\]"):
        GrammarRules(rules={"text": ["a {noun}"]})
