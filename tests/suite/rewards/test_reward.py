# mypy: no-check-untyped-defs
import os
from types import MappingProxyType

import numpy as np
import pytest
import torch

from tests.support.rewards.common import (
    FixedScorer,
    LengthScorer,
    forget_rewards_afterwards,
    make_classifier,
    make_episode,
    random_episodes,
)
from tests.support.rewards.reward import folder as folder
from tests.support.rules import rule_of
from tokengym.base.bundle import bundled
from tokengym.base.device import preferred_device
from tokengym.envs import Episode
from tokengym.rewards import (
    FunctionScorer,
    LengthPenalty,
    Normalize,
    Reward,
    RewardModel,
    Rule,
    gold_scorer,
    make_reward,
    register,
    token_credit,
)
from tokengym.rewards.errors import CreditError, RewardError, ScorerError
from tokengym.rewards.registry import load_scorer
from tokengym.rewards.scorers import find_scorer
from tokengym.rewards.scorers.sentiment import Sentiment

EPISODES = [make_episode(response_ids=[5, 6, 1]), make_episode(response_ids=[7])]


def count(prompt, response):
    return float(len(response))


def fixed(rewards):
    """Return a rule that pays what it is given."""

    @token_credit(name="mine")
    def mine(response_mask):
        return torch.tensor(rewards, dtype=torch.float64)

    return mine


def test_evaluate_fills_the_episodes():
    first, second = Reward(LengthScorer(), rule_of("uniform")).evaluate(EPISODES)
    assert (first.score, second.score) == (12.0, 7.0)
    assert first.score_parts == {"length": 3.0}
    assert first.token_rewards.tolist() == [4.0, 4.0, 4.0]
    assert first.response_ids == EPISODES[0].response_ids
    assert Reward(LengthScorer(), rule_of("uniform")).evaluate([]) == []


def test_a_scorer_that_knows_no_attributions_may_return_them():
    reward = Reward(FixedScorer([1.0, 2.0], [[1, 0, 0], [1]]), rule_of("abc", beta=1.0))
    assert reward.evaluate(EPISODES)[0].token_rewards.tolist() == [1.0, 0.0, 0.0]
    assert reward.name == "abc(fixed)"


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        (FixedScorer([1.0]), r"'fixed' returned.*\(1,\) for 2"),
        (FixedScorer([1.0, np.nan]), r"values\[1\] = nan.*'the resp"),
        (FixedScorer([1.0, 2.0], a=[1.0]), r"a of shape \(1,\)"),
        (FixedScorer([1.0, 2.0], a=[1.0, -np.inf]), r"a\[1\] = -inf"),
        (FixedScorer([1.0, 2.0], [[1]]), "1 attributions for 2 episodes"),
        (FixedScorer([1.0, 2.0], [[1, 2], [1]]), r"attributions\[0\].*\(2,\)"),
        (FixedScorer([1.0, 2.0], [[1, np.nan, 0], [1]]), r"attributions\[0\].*nan"),
    ],
)
def test_bad_scores_stop(scorer, words):
    with pytest.raises(ScorerError, match=words):
        Reward(scorer, rule_of("sparse")).evaluate(EPISODES)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([[0, 0, 0]], r"mine \(test_reward.py:\d+\) returned.*\(1, 3\).*here \(2, 3\)"),
        ([[np.nan, 0, 0], [7, 0, 0]], r"token 0 of row 0 the value nan"),
        ([[4, 4, 4], [7.1, 0, 0]], r"episode 1.*7\.1.*7"),
    ],
)
def test_bad_credit_stops(rewards, message):
    with pytest.raises(CreditError, match=message):
        Reward(LengthScorer(), fixed(rewards)).evaluate(EPISODES)


@pytest.mark.parametrize("written", [None, [1, 1, 0]])
def test_a_fault_of_a_rule_is_not_the_scorers_and_keeps_the_episodes(written):
    @token_credit(name="mine")
    def faulty(scores, response_mask):
        return [][1]

    episode = make_episode(response_ids=[5, 6, 1], written=written)
    said = r"^credit mine \(test_reward.py:\d+\) raised IndexError \(.*\) over 1 episodes at line"
    with pytest.raises(CreditError, match=said) as caught:
        Reward(LengthScorer(), faulty).evaluate([episode])
    assert list(caught.value.episodes) == [episode]


def test_a_fault_of_a_scorer_that_a_credit_asks_is_the_scorers():
    scorer = LengthScorer()
    scorer.score_prefix = lambda episodes: [][1]
    scorer.reads_text = False
    with pytest.raises(ScorerError, match=r"^scorer .* IndexError.*correct"):
        Reward(scorer, rule_of("red")).evaluate(EPISODES)


def test_an_episode_without_tokens_stops():
    with pytest.raises(CreditError, match=r"0.*response_ids"):
        Reward(LengthScorer(), rule_of("sparse")).evaluate([make_episode(response_ids=[])])


@pytest.mark.parametrize(
    ("scorer", "credit", "error", "words"),
    [
        (FunctionScorer(count), rule_of("abc"), RewardError, "'abc'.*attention.*'count'"),
        (Normalize(FunctionScorer(count)), rule_of("abc"), RewardError, "'abc' needs attention"),
        (count, rule_of("sparse"), TypeError, "got <function.*subclass"),
        (LengthScorer(), "uniform", TypeError, "a rule, got 'uniform'.*token_credit"),
    ],
)
def test_scorer_and_credit_must_fit(scorer, credit, error, words):
    with pytest.raises(error, match=words):
        Reward(scorer, credit)


def test_a_scorer_without_the_attributions_that_a_credit_needs_is_named(classifier):
    with pytest.raises(RewardError, match=r"'r3-dense' needs relevance.*attention.*Rel"):
        Reward(RewardModel(classifier), rule_of("r3-dense"))
    with pytest.raises(CreditError, match=r"'abc' needs attention.*fixed"):
        Reward(FixedScorer([1.0, 2.0]), rule_of("abc")).evaluate(EPISODES)


def test_names_and_options():
    for name in ("sparse", "uniform", "random", "recency"):
        reward = make_reward(name, scorer=LengthScorer())
        assert (reward.credit.function.__name__, reward.credit_name) == (name, name)
    options = make_reward("random:seed=3,beta=0.5", scorer=LengthScorer()).credit.options
    assert (options["seed"], options["beta"]) == (3, 0.5)


def test_objects_and_functions():
    assert make_reward(None) is None
    reward = Reward(LengthScorer(), rule_of("uniform"))
    assert make_reward(reward) is reward
    assert make_reward(rule_of("uniform"), scorer=LengthScorer()).credit_name == "uniform"
    assert make_reward(fixed([[3.0]]), scorer=LengthScorer()).credit_name == "mine"
    assert make_reward(LengthScorer()).credit_name == "sparse"
    by_function = make_reward(lambda prompt, response: len(response))
    assert by_function.evaluate(EPISODES)[0].score == len("the response")
    spread = make_reward("uniform", scorer=lambda prompt, response: 3.0)
    assert spread.evaluate(EPISODES)[0].token_rewards.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "window", "scale", "clip", "by"),
    [
        ("running", None, True, 10.0, None),
        ("batch", 8, False, None, None),
        ("running:window=9,clip=none", 9, True, None, None),
        ("batch:by=query_type,scale=true", 8, True, None, "query_type"),
    ],
)
def test_normalize_by_name(name, window, scale, clip, by):
    made = make_reward("sparse", scorer=LengthScorer(), normalize=name, batch_size=8).scorer
    assert (made.window, made.scale, made.clip, made.by) == (window, scale, clip, by)


def unmarked(paid, response_mask):
    return paid[:, None] * response_mask


SPARSE = Reward(LengthScorer(), rule_of("sparse"))
SCORED = {"spec": "sparse", "scorer": LengthScorer()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(spec="unifrom"), "'unifrom'.*'uniform'.*known"),
        (dict(spec="abc:gamma=1"), "'abc'.*'gamma'"),
        (dict(spec="abc-signed:beta=2"), r"beta.*\[0, 1\], got 2"),
        (dict(spec="abc"), "'abc'.*got None.*reward_model="),
        (dict(spec="r3"), "'r3'.*encoder="),
        (dict(spec=LengthScorer(), scorer=LengthScorer()), "leave scorer out"),
        (dict(spec=LengthScorer(), encoder="x"), "leave encoder out"),
        (dict(spec=unmarked, scorer=LengthScorer()), r"not marked.*@tokengym\.token_credit"),
        (dict(spec=None, reward_model="x"), "reward_model.*reward=None"),
        (dict(spec=None, scorer_timeout=1.0), "scorer_timeout.*reward=None"),
        (dict(spec="abc", scorer="x", encoder="y"), "scorer='x'"),
        (dict(spec="r3", reward_model="x"), "'r3'.*encoder="),
        (dict(spec="sparse", reward_model=3), "reward_model.*got 3"),
        (dict(spec=SPARSE, scorer=LengthScorer()), r"Reward\(sparse\(LengthScorer\)\).*own"),
        (SCORED | dict(normalize="batch"), "normalize='batch'.*1"),
        (SCORED | dict(normalize="no"), "'running'.*'batch'"),
        (SCORED | dict(normalize="batch:window=3"), "'batch'.*'window'"),
        (SCORED | dict(normalize="running:by=length"), r"by.*got 'length'"),
    ],
)
def test_rewards_that_cannot_be_made(arguments, message):
    with pytest.raises(RewardError, match=message):
        make_reward(**arguments)


@pytest.mark.parametrize(
    ("spec", "scorer", "words"),
    [
        (LengthScorer, None, "LengthScorer"),
        ("sparse", LengthPenalty, "LengthPenalty"),
        (3, None, "got 3"),
    ],
)
def test_what_is_no_reward_at_all(spec, scorer, words):
    with pytest.raises(TypeError, match=words):
        make_reward(spec, scorer=scorer)


def test_registered_credits_scorers_and_rewards(monkeypatch):
    forget_rewards_afterwards(monkeypatch)
    register("half", lambda share=0.5: Rule(fixed([[0, share * 12, (1 - share) * 12]])))
    paid = make_reward("half:share=0.25", scorer=LengthScorer()).evaluate(EPISODES[:1])
    assert paid[0].token_rewards.tolist() == [0.0, 3.0, 9.0]
    register("mine", fixed([[0, 2.0, 10.0]]))
    paid = make_reward("mine:beta=0.5", scorer=LengthScorer()).evaluate(EPISODES[:1])
    assert paid[0].token_rewards.tolist() == [0.0, 1.0, 11.0]
    register("lengthy", LengthScorer)
    assert make_reward("lengthy").evaluate(EPISODES[:1])[0].score == 12.0
    register("both", lambda: Reward(LengthScorer(), rule_of("uniform")))
    assert make_reward("both").evaluate(EPISODES[:1])[0].token_rewards[0] == 4.0
    with pytest.raises(TypeError, match=r"factory.*got 3"):
        register("three", 3)


class StubBundle:
    """A bundle with chosen parts."""

    manifest = MappingProxyType({"format": 1})

    def __init__(self, path, *parts):
        self.path, self.parts, self.hidden = path, parts, frozenset()

    def has(self, part):
        return part in self.parts

    def __getattr__(self, name):
        return self.path / ("lexicon.json" if name == "lexicon" else name)


@pytest.mark.parametrize(
    ("name", "parts", "scorer"),
    [
        ("sparse", ("reward_model", "encoder", "lexicon"), "RewardModel(reward_model)"),
        ("sparse", ("encoder", "lexicon"), "Relevance(encoder)"),
        ("uniform", ("lexicon",), "Sentiment"),
        ("abc", ("reward_model", "encoder"), "RewardModel(reward_model)"),
        ("r3", ("reward_model", "encoder"), "Relevance(encoder)"),
        ("r3-dense", ("encoder",), "Relevance(encoder)"),
        (rule_of("r3-dense"), ("reward_model", "encoder"), "Relevance(encoder)"),
        (rule_of("abc"), ("reward_model", "encoder"), "RewardModel(reward_model)"),
        ("red", ("encoder", "reward_model"), "RewardModel(reward_model)"),
        ("red", ("encoder",), "Relevance(encoder)"),
    ],
)
def test_the_bundle_gives_the_scorer_that_the_reward_needs(folder, name, parts, scorer):
    reward = make_reward(name, bundle=StubBundle(folder, *parts))
    assert reward.scorer.name == scorer


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("abc", ("encoder",), "'abc'.*reward_model"),
        ("r3", ("reward_model",), r"'r3' needs a scorer.*no encoder"),
        ("sparse", (), "reward_model"),
    ],
)
def test_a_bundle_that_lacks_the_scorer(folder, name, parts, message):
    with pytest.raises(RewardError, match=message):
        make_reward(name, bundle=StubBundle(folder, *parts))


def test_a_bundle_that_lends_nothing_is_not_named():
    bundle = bundled("movie_review").without("encoder", "policy")
    with pytest.raises(RewardError, match=r"'r3' needs a scorer.*one's"):
        make_reward("r3", bundle=bundle)


@pytest.mark.parametrize("kind", ["reward_model", "encoder", "lexicon"])
@pytest.mark.parametrize("unknown", [0, 1])
def test_a_bundled_scorer_that_cannot_read_what_it_scores_is_named_once(kind, unknown, caplog):
    """In every use: training, measuring and scoring from Python go through a reward."""
    bundle = bundled("movie_review")
    scorer = Sentiment.from_file(bundle.lexicon) if kind == "lexicon" else None
    scorer = scorer or load_scorer(getattr(bundle, kind), kind)
    word = ("film", "gazpacho")[unknown]
    texts = {"prompt": "the film", "response": f"is {word} {word} {word}"}
    ids = {f"{name}_ids": bundle.tokenizer.encode(text) for name, text in texts.items()}
    reward = Reward(scorer, rule_of("sparse")).bind(bundle.tokenizer)
    for _ in range(40):  # more than `READ_EPISODES`, one at a time as a single environment scores
        reward.evaluate([Episode(**texts, **ids)])
    assert reward.unread_share == pytest.approx(0.5 * unknown)  # 3 of 6 words
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == unknown
    assert all("50 % of the words" in text for text in said)


def test_a_model_is_loaded_once_and_again_when_it_was_written_anew(folder):
    bundle = StubBundle(folder, "reward_model")
    one = make_reward("abc", bundle=bundle).scorer
    assert make_reward("sparse", scorer=folder / "reward_model").scorer is one
    assert make_reward("sparse", scorer=str(folder / "reward_model")).scorer is one
    assert find_scorer(f"reward-model:path={folder / 'reward_model'}") is one
    encoder = make_reward("r3", encoder=folder / "encoder").scorer
    assert make_reward("r3", scorer=f"relevance:path={folder / 'encoder'}").scorer is encoder
    make_classifier(seed=5).save_pretrained(folder / "reward_model")
    stamp = os.stat(folder / "reward_model" / "model.safetensors").st_mtime_ns + 10**9
    os.utime(folder / "reward_model" / "model.safetensors", ns=(stamp, stamp))
    again = make_reward("abc", bundle=bundle).scorer
    assert again is not one
    episodes = random_episodes(2)
    assert not np.allclose(one.score(episodes).values, again.score(episodes).values)


def test_a_model_is_loaded_anew_on_another_preferred_device(folder):
    path = folder / "reward_model"
    here = make_reward("sparse", scorer=path).scorer
    with preferred_device("meta"):
        there = make_reward("sparse", scorer=path).scorer
        assert there.model.device.type == "meta"
        assert make_reward("sparse", scorer=path).scorer is there
    assert make_reward("sparse", scorer=path).scorer is here
    assert here.model.device.type != "meta"


def test_gold_scorer(folder):
    assert gold_scorer(None) is None
    assert gold_scorer(StubBundle(folder)) is None
    assert gold_scorer(StubBundle(folder, "lexicon", "gold_model")).name == "Sentiment"
    assert gold_scorer(StubBundle(folder, "gold_model")).name == "RewardModel(gold_model)"
