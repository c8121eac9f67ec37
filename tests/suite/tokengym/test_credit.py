"""Token credit without an environment: equal to what an environment pays, or refused."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tokengym.agents import RandomAgent, collect
from tokengym.base.errors import TokenizerError
from tokengym.credit import TokenCredit, assign
from tokengym.envs import bundled
from tokengym.envs.episode import Episode
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.rewards import Rule, Scorer, shares, token_credit
from tokengym.rewards.errors import CreditError, RewardError
from tokengym.rewards.scorers.base import Scores

BUNDLE = bundled("movie_review")


@pytest.mark.parametrize("rule", ["sparse", "abc-signed", "red"])
def test_ids_earn_what_an_environment_pays(rule):
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=4, reward=rule, max_new_tokens=6)
    episodes = collect(RandomAgent(envs, seed=0), envs, 4, seed=0)
    found = assign(
        [episode.response_ids for episode in episodes],
        BUNDLE.reward_model,
        rule,
        tokenizer=BUNDLE.tokenizer,
        prompts=[episode.prompt_ids for episode in episodes],
    )
    assert found.token_rewards.shape == found.mask.shape
    for row, episode in enumerate(episodes):
        length = len(episode.response_ids)
        np.testing.assert_allclose(
            found.token_rewards[row, :length], episode.token_rewards, atol=1e-5
        )
        assert not found.token_rewards[row, length:].any()
        assert found.mask[row].sum() == length
        assert found.scores[row] == pytest.approx(episode.score, abs=1e-5)


def test_texts_are_credited_by_their_tokens():
    found = assign(["a dull film"], lambda p, r: 3.0, "uniform", tokenizer=BUNDLE.tokenizer)
    assert found.token_rewards.tolist() == [[1.0, 1.0, 1.0]]
    credit = TokenCredit(lambda p, r: 3.0, "uniform", tokenizer=BUNDLE.tokenizer)
    found = credit(["a dull film"], written=[[1, 0, 1]])  # the policy wrote two of them
    assert found.token_rewards.tolist() == [[1.5, 0.0, 1.5]]
    assert found.mask.tolist() == [[True, False, True]]


def test_a_text_is_credited_by_the_tokens_that_follow_its_prompt():
    """A tokenizer in the line of Llama 2 puts a space before a text that stands alone."""
    letters = {letter: i for i, letter in enumerate(["<eos>", "\u2581", "a", "n", "d"])}
    backend = Tokenizer(models.BPE(letters, []))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    credit = TokenCredit(lambda p, r: 6.0, "uniform", tokenizer=tokenizer)
    alone, follows = credit(["nd"]), credit(["nd"], prompts=["a"])
    assert follows.episodes[0].response_ids == (3, 4)
    assert tokenizer.decode([*follows.episodes[0].prompt_ids, 3, 4]) == "and"
    assert follows.token_rewards.tolist() == [[3.0, 3.0]]
    assert alone.token_rewards.tolist() == [[2.0, 2.0, 2.0]]


def test_references_reach_the_scorer():
    class Same(Scorer):
        """Scores a response 1 if it is the reference."""

        name = "same"

        def score(self, episodes: Sequence[Episode]) -> Scores:  # type: ignore[override]
            return Scores(np.array([float(e.response == e.reference) for e in episodes]))

    credit = TokenCredit(Same(), tokenizer=BUNDLE.tokenizer)
    assert credit(["film", "dull"], references=["film", "film"]).scores.tolist() == [1.0, 0.0]


def test_annotations_and_columns_reach_a_function_that_names_them():
    credit = TokenCredit(
        lambda response, weight, query_type: weight * (2.0 if query_type == "OPENENDED" else 1.0),
        tokenizer=BUNDLE.tokenizer,
    )
    told: Any = {"query_types": ["OPENENDED", None]}
    columns = [{"weight": 1.5}, {"weight": 4.0}]
    assert credit(["film", "dull"], metadata=columns, **told).scores.tolist() == [3.0, 4.0]


def test_bad_input_is_one_line():
    credit = TokenCredit(lambda p, r: 1.0, tokenizer=BUNDLE.tokenizer)
    with pytest.raises(ValueError, match="responses is empty"):
        credit([])
    with pytest.raises(ValueError, match="1 prompts for 2"):
        credit(["film", "film"], prompts=["a"])
    with pytest.raises(TokenizerError, match="token ids"):
        credit(["no-such-word"])


def test_a_rule_that_reads_a_language_model_is_given_one():
    @token_credit
    def surprise(paid: Any, ref_log_probs: Any, response_mask: Any) -> Any:
        return paid[:, None] * shares(-ref_log_probs, response_mask)

    rule, path, tokenizer = Rule(surprise), BUNDLE.policy, BUNDLE.tokenizer
    with pytest.raises(CreditError, match=r"'surprise'.*reference_policy=PATH"):
        TokenCredit(lambda p, r: 1.0, surprise, tokenizer=tokenizer)
    credit = TokenCredit(lambda p, r: 1.0, rule, tokenizer=tokenizer, reference_policy=path)
    assert credit(["a film"], prompts=["i saw"]).token_rewards.sum() == pytest.approx(1.0)
    assert rule.reference is None  # another environment may give it another model
    with pytest.raises(RewardError, match="credit 'uniform'"):
        TokenCredit(lambda p, r: 1.0, "uniform", tokenizer=tokenizer, reference_policy=path)


def test_what_ended_a_response_is_what_an_environment_says():
    """A scoring function of it pays the same here, in an environment and in trainers."""

    def cut_off_is_bad(response: str, finish_reason: str) -> float:
        return {"length": -1.0, "eos": 1.0}[finish_reason]

    settings: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 0, "scorer": cut_off_is_bad}
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=32, reward="sparse", **settings)
    episodes = collect(RandomAgent(envs, seed=0), envs, 32, seed=0)
    ends = Vocabulary.of(BUNDLE.tokenizer).end_ids
    ids = [list(episode.response_ids) for episode in episodes]
    ids.append([*ids[0][:3], ends[0]])  # whatever the untrained agent did, one that ended
    credit = TokenCredit(cut_off_is_bad, "sparse", tokenizer=BUNDLE.tokenizer)
    found = credit(ids)
    assert [one.finish_reason for one in found.episodes[:-1]] == [e.finish_reason for e in episodes]
    assert found.scores[:-1].tolist() == [episode.score for episode in episodes]
    assert (found.episodes[-1].finish_reason, found.scores[-1]) == ("eos", 1.0)
    # A text does not show its end, nor is that of a tool's reply the policy's.
    of_text = TokenCredit(lambda response: 1.0, "sparse", tokenizer=BUNDLE.tokenizer)
    assert of_text(["good film"]).episodes[0].finish_reason is None
    assert of_text([ids[0][:3]], written=[[1, 1, 0]]).episodes[0].finish_reason is None
