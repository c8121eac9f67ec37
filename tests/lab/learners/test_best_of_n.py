"""The best of n: its distribution is exact, its bound holds, it plays everywhere."""

import numpy as np
import pytest
import torch

from tests.support.agents.common import EOS, VOCABULARY, make_model, target_share
from tokengym.agents import RandomAgent, collect
from tokengym.agents.errors import ModelError
from tokengym.agents.losses.ranking import best_of_n_kl_bound
from tokengym.agents.offline.policies import make_policy
from tokengym.lab.learners.best_of_n import BestOfN
from tokengym.rewards import FunctionScorer


def mean_score(episodes):
    return float(np.mean([float(episode.score or 0.0) for episode in episodes]))


def test_it_plays_the_best_of_its_candidates(make_envs):
    envs = make_envs()
    agent = BestOfN(make_model(), envs, n=8, seed=0)
    best = collect(agent, envs, 200, seed=0)
    own = collect(agent.agent, envs, 200, seed=0)
    # P(no target in 8 responses) is far below that in one.
    assert mean_score(best) > mean_score(own) + 0.05
    assert agent.num_tokens > 8 * sum(len(e.response_ids) for e in best) / 2


def test_distribution_is_that_of_the_best_of_n(make_envs):
    # One token, scored by its id: the best of n has P(k) = F(k)^n - F(k - 1)^n exactly.
    envs = make_envs(num_envs=32, prompts=["b"], max_new_tokens=1)
    ids = FunctionScorer(lambda prompt, response: float("abcde".find(response or "!")))
    policy = make_policy(envs, make_model(scale=2.0), seed=1)
    n, samples = 3, 4000
    agent = BestOfN(policy, envs, n=n, scorer=ids)
    episodes = collect(agent, envs, samples, seed=0)
    found = np.bincount([e.response_ids[0] for e in episodes], minlength=VOCABULARY) / samples
    logits = policy.next_logits([envs.unwrapped.tokenizer("b")["input_ids"]], None)
    p = torch.softmax(logits[0], -1).detach().cpu().numpy().astype(np.float64)
    # <pad>, <eos>, <unk> have no text and the least score: the first of equals among them is drawn
    # by the policy's own odds.
    base = p[:3].sum()
    at_most = base + np.concatenate([[0.0], np.cumsum(p[3:])])
    expected = np.concatenate([p[:3] / base * base**n, np.diff(at_most**n)])
    assert expected.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / samples))
    kl = float((expected * np.log(expected / p)).sum())
    assert agent.kl_bound == best_of_n_kl_bound(3)
    assert 0.0 < kl <= best_of_n_kl_bound(3)


@pytest.mark.parametrize(
    ("temperature", "temperatures", "is_known"),
    [
        (1.0, (None,), True),
        (1.0, (1.0, None), True),
        (0.7, (0.7, None), True),
        (1.0, (0.3, None), False),
        (0.7, (1.0, 0.7), False),
    ],
)
def test_other_temperatures_have_no_bound(make_envs, temperature, temperatures, is_known):
    policy = make_policy(make_envs(), make_model(), temperature=temperature)
    agent = BestOfN(policy, make_envs(), n=4, temperatures=temperatures)
    # log 4 - 3 / 4 by hand.
    assert agent.kl_bound == (pytest.approx(0.6362944) if is_known else None)
    drawn = BestOfN(RandomAgent(make_envs(), seed=0), make_envs(), n=4)  # it has no temperature
    assert drawn.kl_bound == pytest.approx(0.6362944)


def test_one_response_at_a_low_temperature_is_far_from_the_agent(make_envs):
    # One token: the KL of p^(1 / .3) to p is exact, and above the 0 that bounds the best of one.
    envs = make_envs(prompts=["b"], max_new_tokens=1)
    policy = make_policy(envs, make_model(), seed=1)
    agent = BestOfN(policy, envs, n=1, temperatures=(0.3,))
    logits = policy.next_logits([envs.unwrapped.tokenizer("b")["input_ids"]], None)[0].double()
    cold, own = (torch.log_softmax(logits / t, -1).detach() for t in (0.3, 1.0))
    drawn = [episode.response_ids[0] for episode in collect(agent, envs, 2000, seed=0)]
    found = np.bincount(drawn, minlength=VOCABULARY) / 2000
    np.testing.assert_allclose(found, cold.exp().cpu(), atol=4 * np.sqrt(0.25 / 2000))
    assert float((cold.exp() * (cold - own)).sum()) > 0.1 > best_of_n_kl_bound(1)
    assert agent.kl_bound is None


def test_same_seed_same_episodes(make_envs):
    envs = make_envs()
    agent = BestOfN(make_model(), envs, n=4)
    assert collect(agent, envs, 8, seed=1) == collect(agent, envs, 8, seed=1)


def test_predict_replays_whole_responses(make_envs):
    envs = make_envs()
    agent = BestOfN(make_model(), envs, n=4, seed=0)
    for episode in collect(_PredictOnly(agent), envs, 12, seed=0):
        assert episode.score == pytest.approx(target_share("", episode.response))
    best = collect(_PredictOnly(agent), envs, 100, seed=0)
    assert mean_score(best) > mean_score(collect(agent.agent, envs, 100, seed=0))


class _PredictOnly:
    """Hides the fast player."""

    def __init__(self, agent):
        self.predict = agent.predict


def test_predict_in_the_plain_loop(make_envs):
    envs = make_envs(num_envs=1)
    agent = BestOfN(make_model(), envs, n=2, seed=0)
    observation, _ = envs.reset(seed=0)
    single = {name: value[0] for name, value in observation.items()}
    first, state = agent.predict(single)
    assert np.ndim(first) == 0
    assert 0 <= first < VOCABULARY
    while state[0]:
        _, state = agent.predict(single, state, np.array([False]))
    token, _ = agent.predict(single, state)
    assert token == EOS


def test_any_agent_can_write_the_candidates(make_envs):
    envs = make_envs(min_new_tokens=6)
    agent = BestOfN(RandomAgent(envs, seed=0), envs, n=32)
    assert (
        mean_score(collect(agent, envs, 16, seed=0)) > 1.5 / 6
    )  # the mean of one response is below 6 / 7 / 6


def test_length_penalty_prefers_the_short(make_envs):
    envs = make_envs()
    agent = BestOfN(make_model(), envs, n=16, length_penalty=10.0, seed=0)
    short = np.mean([len(e.response) for e in collect(agent, envs, 40, seed=0)])
    usual = np.mean([len(e.response) for e in collect(agent.agent, envs, 40, seed=0)])
    assert short < usual / 2


def test_environment_with_longer_responses_is_named(make_envs):
    agent = BestOfN(make_model(), make_envs(min_new_tokens=6), n=2, seed=0)
    with pytest.raises(ValueError, match="after 6 tokens"):
        collect(agent, make_envs(max_new_tokens=8, min_new_tokens=8), 4, seed=0)


def test_without_a_model_there_is_no_agent(make_envs):
    with pytest.raises(ModelError, match="brings no model"):
        BestOfN(None, make_envs())
