"""Answer gain by hand: a model of two words whose log-probabilities are known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from tests.support.agents.common import make_model
from tests.support.lab.rto import by_hand
from tests.support.rewards.common import FixedScorer
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.envs import Episode
from tokengym.lab.rules.answer_gain import answer_gain
from tokengym.rewards import Reward, Rule
from tokengym.rewards.errors import CreditError

EPISODE = Episode(
    prompt="p", response="a b c", prompt_ids=[4, 5], response_ids=[3, 6, 7, 1], reference="b a"
)


def paid(credit: Rule, episode: Episode = EPISODE, score: float = 2.0) -> Any:
    reward = Reward(FixedScorer([score]), credit).bind(make_tokenizer())
    return reward.evaluate([episode])[0].token_rewards


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    make_model(seed=1).save_pretrained(folder)
    return folder


def values(said: Sequence[Sequence[int]], answer: str) -> list[float]:
    """Return log p(answer | prompt, said), each token from a forward over the text before it."""
    ids = make_tokenizer()(answer, add_special_tokens=False)["input_ids"]
    return [sum(by_hand(make_model(seed=1), [4, 5, *one], ids)) for one in said]


def test_gains_are_differences_of_log_probabilities_and_the_rest_is_paid_last(policy: Path):
    known = values([[], [3], [3, 6], [3, 6, 7]], "b a")
    gains = [*np.diff(known), 0.0]  # the EOS is left out: it gains nothing
    expected = [*gains[:3], 2.0 - sum(gains[:3])]
    np.testing.assert_allclose(paid(Rule(answer_gain, reference=policy)), expected, atol=1e-5)
    assert np.abs(gains).max() > 0.01


def test_pieces_beta_and_cue(policy: Path):
    first, middle, last = values([[], [3, 6], [3, 6, 7]], "c b a")
    gain = 0.5 * (middle - first)
    expected = [0.0, gain, 0.0, 2.0 - gain]
    found = paid(Rule(answer_gain, beta=0.5, cue="c ", reference=policy, segments=2))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert last != pytest.approx(middle)
    np.testing.assert_array_equal(
        paid(Rule(answer_gain, beta=0.0, reference=policy)), [0, 0, 0, 2.0]
    )


def test_refusals_are_one_line(policy: Path):
    with pytest.raises(CreditError, match=r"'p'.*reference_c"):
        paid(Rule(answer_gain, reference=policy), replace(EPISODE, reference=None))
    with pytest.raises(CreditError, match="'answer-gain:reference=PATH'"):
        paid(Rule(answer_gain))
    with pytest.raises(CreditError, match=r"beta.*>= 0, got -1"):
        Rule(answer_gain, beta=-1)


def test_the_bundles_policy_serves_by_name():
    envs: Any = gym.make_vec(
        "tokengym/Forks-v0", num_envs=2, reward="answer-gain:segments=4", max_new_tokens=8
    )
    _, infos = envs.reset(seed=0)
    for _ in range(8):
        *_, infos = envs.step(infos["action_mask"].argmax(axis=1))
    np.testing.assert_allclose(infos["token_rewards"].sum(1), infos["score"], atol=1e-5)
    assert (infos["token_rewards"][:, [1, 3, 5]] != 0).all()
    assert not infos["token_rewards"][:, [0, 2, 4, 6]].any()
