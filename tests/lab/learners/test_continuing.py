"""Credit by Monte Carlo, against the exact advantages of the Oracle and by its own bookkeeping."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import tokengym  # noqa: F401  (registers the ids)
from tests.support.agents.checkpoint import untimed
from tests.support.agents.common import target_reward
from tests.support.agents.ppo import log_of
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO, RandomAgent, bind_policy, collect, policy_table
from tokengym.agents.rollouts.given import PolicyContinuations
from tokengym.envs import Episode, Reply
from tokengym.lab.rules.mc import mc
from tokengym.rewards import Reward, RewardCheckError, Rule, check_reward, token_credit
from tokengym.rewards.errors import CreditError

LONGEST = 6


def oracle(reward: str, num_envs: int = 24, **settings: Any) -> Any:
    return gym.make_vec("tokengym/Oracle-v0", num_envs=num_envs, reward=reward, **settings)


@lru_cache(maxsize=1)
def played() -> tuple[PPO, tuple[Episode, ...], NDArray[np.float64]]:
    """Return an agent on the Oracle, its episodes, and the exact rewards of all their tokens."""
    envs = oracle("sparse")
    agent = PPO("CausalLMPolicy", envs, seed=0, device="cpu")
    round_ = agent.collect()
    assert round_ is not None
    exact = envs.unwrapped.policy_values(policy_table(agent.policy, envs))
    rows = [exact.advantages.along(episode.response_ids) for episode in round_.episodes]
    for row in rows:
        row[0] += exact.values[()]
    return agent, round_.episodes, np.concatenate(rows)


def estimates(k: int, seed: int) -> NDArray[np.float64]:
    """Return the token rewards of the agent's episodes by Monte Carlo, end to end."""
    agent, episodes, _ = played()
    envs = oracle(f"mc:k={k}", 1)
    bind_policy(envs, agent, seed=seed)
    paid = envs.reward.evaluate(episodes)
    for before, after in zip(episodes, paid, strict=True):
        assert after.token_rewards.sum() == pytest.approx(before.score, abs=1e-5)
    return np.concatenate([episode.token_rewards.astype(np.float64) for episode in paid])


def test_the_error_falls_with_the_root_of_the_number_of_continuations():
    _, _, exact = played()
    errors = []
    for k in (4, 16, 64):
        rewards = estimates(k, seed=k)
        errors.append(np.sqrt(np.mean((rewards - exact) ** 2)))
    slope = np.polyfit(np.log([4, 16, 64]), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.05)


def test_the_mean_is_the_exact_advantage():
    _, _, exact = played()
    draws = np.array([estimates(4, seed) for seed in range(12)])
    error = draws.mean(axis=0) - exact
    deviation = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    sure = deviation < 1e-6  # the last token of a response of full length has no continuation
    assert np.abs(error[sure]).max(initial=0.0) < 1e-6
    assert np.abs(error[~sure] / deviation[~sure]).mean() < 1.0  # .88 for Student's t of 11
    assert abs(error.mean()) < 0.02


def test_continuations_count_as_sampled_tokens():
    envs = oracle("mc:k=2", 5, min_new_tokens=LONGEST)
    agent = PPO("CausalLMPolicy", envs, seed=0, n_minibatches=1, device="cpu")
    agent.collect()
    own = 5 * LONGEST
    continued = 5 * 2 * sum(LONGEST - end for end in range(1, LONGEST))
    assert agent.num_timesteps == own + continued
    agent.learn(2 * (own + continued))
    assert agent._n_updates == 2


def test_the_policys_own_samples_are_those_of_sparse():
    rounds = []
    for reward in ("sparse", "mc:k=2"):
        agent = PPO("CausalLMPolicy", oracle(reward), seed=3, device="cpu")
        rounds.append([agent.collect(), agent.collect()])
    for sparse, continued in zip(*rounds, strict=True):
        assert [e.response_ids for e in sparse.episodes] == [
            e.response_ids for e in continued.episodes
        ]
        assert torch.equal(sparse.log_probs, continued.log_probs)


def test_continuations_begin_with_their_prefixes_and_keep_the_rules(make_envs: Callable[..., Any]):
    envs = make_envs(
        reward=target_reward(Rule(mc, k=2)),
        min_new_tokens=2,
        forbidden_token_ids=[0],
        stop_strings=["a b"],
    )
    agent = RandomAgent(envs, seed=0)
    bound = bind_policy(envs, agent, seed=1)
    assert bound is not None
    prefixes = [
        Episode(prompt="d", response="", prompt_ids=[6], response_ids=ids, reference=str(row))
        for row, ids in enumerate([[3], [4, 5], [6, 6, 6, 6, 6], [7]] * 30)
    ]
    envs.reset(seed=1)
    before = envs.unwrapped.get_state()
    ended = bound.finish(prefixes, [[row] for row in range(len(prefixes))])
    assert envs.unwrapped.get_state() == before
    tokenizer = make_tokenizer()
    for prefix, episode in zip(prefixes, ended, strict=True):
        ids, size = list(episode.response_ids), len(prefix.response_ids)
        assert ids[:size] == list(prefix.response_ids)
        assert (episode.prompt_ids, episode.reference) == ((6,), prefix.reference)
        assert episode.response == tokenizer.decode(ids, skip_special_tokens=True)
        reason = str(episode.finish_reason)
        stopped = episode.response.endswith("a b")
        assert {"eos": ids[-1] == 1, "length": len(ids) == 6, "stop": stopped}[reason]
        assert ids[-1] != 1 or len(ids) > 2
    assert {episode.finish_reason for episode in ended} == {"eos", "length", "stop"}
    assert bound.count_tokens() == sum(
        len(a.response_ids) - len(b.response_ids) for a, b in zip(ended, prefixes, strict=True)
    )
    assert bound.count_tokens() == 0


@pytest.mark.parametrize("kind", ["random", "ppo"])
def test_a_response_is_continued_alike_alone_and_in_any_batch(kind: str):
    envs = oracle("sparse", 4)
    agent: Any = RandomAgent(envs, seed=0)
    if kind == "ppo":
        agent = PPO("CausalLMPolicy", envs, seed=0, n_minibatches=1, device="cpu")
    (played, *_) = collect(agent, envs, 4, seed=0)
    start, long = (
        Episode(prompt=played.prompt, prompt_ids=played.prompt_ids, response="", response_ids=ids)
        for ids in ((), (5, 6))
    )

    def ids(seed: int, *rows: int) -> list[Sequence[int]]:
        bound = PolicyContinuations(envs, agent, seed=seed)
        begun = [(start, long, start, start)[row] for row in rows]
        return [e.response_ids for e in bound.finish(begun, [[row] for row in rows])]

    whole = ids(1, 0, 1, 2, 3)
    assert [ids(1, row)[0] for row in range(4)] == whole == ids(1, 3, 2, 1, 0)[::-1]
    assert len({whole[0], whole[2], whole[3]}) > 1
    assert ids(2, 0, 1, 2, 3) != whole


def test_a_rule_that_samples_is_checked_like_any_other():
    @token_credit
    def at_random(
        scores: Tensor, continue_from: Callable[[int, Tensor], Tensor], response_mask: Tensor
    ) -> Tensor:
        drawn = torch.from_numpy(np.random.default_rng().random(response_mask.shape))
        shares = drawn * response_mask
        return scores[:, None] * shares / shares.sum(1, keepdim=True)

    for rule in (Rule(mc, k=2), Rule(at_random)):
        envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, reward=rule, max_new_tokens=4)
        bind_policy(envs, RandomAgent(envs, seed=0))
        if rule.name == "mc":
            check_reward(envs)
            continue
        with pytest.raises(RewardCheckError, match="the same tokens earned another"):
            check_reward(envs)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path):
    def agent_of() -> PPO:
        settings: Any = {"n_minibatches": 1, "learning_rate_schedule": "constant"}
        return PPO("CausalLMPolicy", oracle("mc:k=2", 4), seed=5, device="cpu", **settings)

    whole = agent_of()
    log = untimed(log_of(whole, 700))
    first = agent_of()
    first.learn(300)
    first.save(tmp_path / "agent")
    resumed = PPO.load(tmp_path / "agent", env=oracle("mc:k=2", 4), device="cpu")
    rest = untimed(log_of(resumed, 700 - resumed.num_timesteps, reset_num_timesteps=False))
    assert 0 < len(rest) < len(log)
    assert str(rest) == str(log[-len(rest) :])
    a, b = whole.policy.state_dict(), resumed.policy.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_without_a_policy_the_error_names_the_remedy():
    env = gym.make("tokengym/Oracle-v0", reward="mc:k=3", max_new_tokens=2, min_new_tokens=2)
    env.reset(seed=0)
    with pytest.raises(CreditError, match=r"'continue_from'.*bind_policy\(env, agent\)"):
        env.step(3)
    bind_policy(env, RandomAgent(env, seed=0))
    env.reset(seed=0)
    env.step(3)
    _, score, *_, info = env.step(4)
    assert info["token_rewards"].sum() == pytest.approx(score)


def test_a_bad_k_is_refused():
    with pytest.raises(CreditError, match=r"k must.*1024"):
        Reward(target_reward().scorer, Rule(mc, k=0))


@pytest.mark.parametrize("rule", ["mc:k=2", "mc:k=2,segments=3"])
def test_conversations_are_continued_after_the_reply(rule: str):
    """What ends a turn is continued with the recorded reply, not before it."""

    def partner(said: Any, metadata: Any, rng: Any) -> Reply:
        return Reply("good film", score=float(len(said[-1]["content"])))

    talk: dict[str, Any] = {"max_turns": 2, "max_turn_tokens": 4, "max_new_tokens": 20}
    envs = gym.make_vec(
        "tokengym/MovieReview-v0",
        num_envs=4,
        reward=rule,
        scorer="partner",
        partner=partner,
        **talk,
    )
    agent = PPO("CausalLMPolicy", envs, advantage="vineppo", seed=0, device="cpu")
    agent.learn(1)
    assert agent.last_round is not None
    credit: Any = agent.rounds.reward.reward
    for episode in agent.last_round.episodes:
        assert episode.token_rewards is not None
        assert episode.written is not None
        assert episode.token_rewards.sum() == pytest.approx(episode.score, abs=1e-4)
        (pieces,) = credit.credit.pieces([episode])
        last = [
            piece[episode.written[piece.start : piece.stop].nonzero()[0][-1]] for piece in pieces
        ]
        assert set(episode.token_rewards.nonzero()[0]) <= set(last)
