# mypy: no-check-untyped-defs
import numpy as np
import pytest

from tokengym.envs import Episode
from tokengym.lab.replay.token_worth import token_worth
from tokengym.rewards import RuleScorer, Sentiment
from tokengym.rewards.gold.grammar import GrammarRules
from tokengym.rewards.gold.rules import SummaryRules, ToxicityRules
from tokengym.rewards.gold.sentiment_lexicon import Lexicon

# The stub tokenizer's words are letters: a and b praise, c blames, d intensifies, e negates.
LEXICON = Lexicon(
    words={"a": 2.0, "b": 1.0, "c": -1.0}, intensifiers={"d": 1.5}, negations=("e",), smoothing=0.5
)
WORDS = ("<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrst")


def episode(tokenizer, prompt: str, response: str) -> Episode:
    ids = tokenizer(response).input_ids
    return Episode(
        prompt=prompt,
        response=tokenizer.decode(ids, skip_special_tokens=True),
        prompt_ids=tokenizer(prompt).input_ids,
        response_ids=ids,
    )


@pytest.mark.parametrize(
    ("prompt", "response", "worth"),
    [
        ("f", "g b f", [0, 1 / 1.5, 0]),
        ("f", "d c b <eos>", [0, -1.5 / 3, 1 / 3, 0]),  # the modifier itself is worth nothing
        ("f e", "b f", [-1 / 1.5, 0]),  # negated from within the prompt
        ("a", "c", [-1 / 3.5]),  # the prompt's opinion is in the ratio, but is no one's credit
        ("f", "f g <eos>", [0, 0, 0]),
        ("f", "<eos>", [0]),
    ],
)
def test_opinions_by_hand(tokenizer, prompt, response, worth):
    gold = Sentiment(LEXICON)
    (found,) = token_worth(gold, [episode(tokenizer, prompt, response)], tokenizer)
    np.testing.assert_allclose(found, worth)


def test_it_sums_to_the_gold_score_less_what_the_prompt_has(tokenizer):
    rng = np.random.default_rng(0)
    episodes = [
        episode(tokenizer, "f", " ".join(rng.choice(WORDS[3:], rng.integers(1, 20))))
        for _ in range(50)
    ]
    gold = Sentiment(LEXICON)
    for found, score in zip(
        token_worth(gold, episodes, tokenizer), gold.score(episodes).values, strict=True
    ):
        assert found.sum() == pytest.approx(score, abs=1e-6)
    alone = Sentiment(LEXICON, include_prompt=False)
    (found,) = token_worth(alone, [episode(tokenizer, "f e", "b f")], tokenizer)
    np.testing.assert_allclose(found, [1 / 1.5, 0])


def test_opinions_keep_their_worth_where_grammar_takes_it(tokenizer):
    gold = Sentiment(LEXICON) * RuleScorer(GrammarRules(rules={"sentence": ["f c ."]}))
    salad = episode(tokenizer, "f", "c c")
    assert gold.score([salad]).values.tolist() == [0.0]
    (found,) = token_worth(gold, [salad], tokenizer)
    np.testing.assert_allclose(found, [-1 / 2.5, -1 / 2.5])


def test_rude_words_are_charged(tokenizer):
    gold = RuleScorer(ToxicityRules(rude=["c"]))
    (found,) = token_worth(gold, [episode(tokenizer, "c", "a c c f <eos>")], tokenizer)
    np.testing.assert_allclose(found, [0, -1 / 4, -1 / 4, 0, 0])


def test_no_truth_where_the_gold_score_is_not_of_words(tokenizer):
    gold = RuleScorer(SummaryRules(facts=["a"]))
    assert token_worth(gold, [episode(tokenizer, "a", "b")], tokenizer) is None
