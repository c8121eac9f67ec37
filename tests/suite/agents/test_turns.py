"""Learners in conversations: replies are read, and only what the policy wrote is learned."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3 import PPO as StockPPO
from stable_baselines3.common.callbacks import BaseCallback

from tests.support.agents.common import EOS, WithinPolicy, make_model, target_reward
from tests.support.agents.turns import TALK
from tests.support.partners import failing
from tests.support.rules import rule_of
from tests.support.tapes import record_tapes
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO, CausalLMPolicy, collect, losses
from tokengym.agents.fast.captured import CapturedSampler
from tokengym.agents.fast.gpt2 import GPT2Stream
from tokengym.agents.fast.static import StaticStream
from tokengym.agents.policy import sampler as decoding
from tokengym.agents.policy.streams import ModelStream
from tokengym.agents.rollouts.given import PolicyContinuations
from tokengym.agents.rollouts.playing import play_round
from tokengym.agents.rollouts.rounds import as_rounds
from tokengym.agents.sb3 import (
    HindsightReplayBuffer,
    HindsightRolloutBuffer,
    TokenFeatures,
    as_vec_env,
)
from tokengym.envs import Episode, Reply
from tokengym.rewards import FunctionScorer, Reward
from tokengym.rewards.credits.inputs import Inputs

LOSSY: dict[str, Any] = TALK | {"partner": failing, "on_partner_error": "skip", "num_envs": 12}
"""The partner fails in some of the rows, whose episodes are then lost."""


def written_of(episode: Episode) -> Any:
    return episode.written > 0


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize("stream", ["fast", "any model", "captured"])
def test_replies_are_read_before_the_next_token(make_envs, make_ppo, monkeypatch, shape, stream):
    """Log-probs as sampled are those of one forward over the whole conversation."""
    if stream == "any model":
        monkeypatch.setattr(decoding, "make_stream", lambda model, capacity: ModelStream(model))
    agent = make_ppo(envs=make_envs(**TALK, num_envs=6), model=make_model(shape))
    if stream == "captured":
        kind = CapturedSampler
        monkeypatch.setattr(
            type(agent.policy), "sampler", lambda self, g=None: kind(self, g or self.generator)
        )
    episodes = collect(agent, make_envs(**TALK, num_envs=6), 24, seed=3)
    assert max(len(episode.turns) for episode in episodes) >= 6
    for episode in episodes:
        masks = np.ones((len(episode.response_ids), 8))
        for turn in episode.turns:
            if turn.role == "assistant":
                masks[turn.span[0], 1] = 0  # no EOS at the first token of a turn
        (whole,) = agent.policy.log_probs(
            [episode.prompt_ids], [episode.response_ids], action_masks=[masks]
        )
        own = written_of(episode)
        np.testing.assert_allclose(episode.log_probs[own], whole[own], atol=1e-4)
        assert not episode.log_probs[~own].any()


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ("gpt2", {}),
        ("llama", {"temperature": 0.7, "top_k": 4}),
        ("gpt2", {"mask_top_p": 0.7}),
        ("llama", {"value_network": "trunk"}),
        ("llama", {"advantage": "loo", "group_size": 4, "top_p": 0.8}),
    ],
)
@pytest.mark.parametrize("is_static", [False, True])
def test_appended_replies_play_as_texts_read_again(
    make_envs, make_ppo, monkeypatch, shape, settings, is_static
):
    """The same tokens, with their log-probs, values and KL, on the same captured steps."""
    record_tapes(monkeypatch)
    settings = dict(settings)
    starts: list[int] = []
    own = StaticStream.start

    def start(stream: StaticStream, *prompts: torch.Tensor) -> torch.Tensor:
        starts.append(len(prompts[0]))
        return own(stream, *prompts)

    monkeypatch.setattr(StaticStream, "start", start)
    mask_top_p = settings.pop("mask_top_p", None)
    rounds = []
    for appends in (True, False):
        if not appends:
            monkeypatch.setattr(GPT2Stream, "appends", False)
        decoding = "static" if is_static and appends else "dynamic"
        envs = make_envs(**TALK, num_envs=12)
        model = {"model": make_model(shape, scale=3.0), "decoding": decoding}
        kind = CausalLMPolicy if mask_top_p is None else WithinPolicy
        agent = PPO(kind, envs, policy_kwargs=model, seed=0, device="cpu", **settings)
        if isinstance(agent.policy, WithinPolicy):
            agent.policy.sample_within_itself(mask_top_p)
        options = {"group_size": agent.settings.group_size} if "group_size" in settings else None
        starts.clear()
        played = [
            play_round(agent.sampler(), as_rounds(envs), seed=seed, options=options)
            for seed in range(3)
        ]
        if is_static and appends:  # prompts alone: replies are read into the same memory
            assert len(starts) == (3 if mask_top_p is None else 6)
            assert len(agent.policy.decoders) == 1
        rounds.append([(one, agent.assign(one)) for one in played if one is not None])
    for (mine, learned), (theirs, relearned) in zip(*rounds, strict=True):
        for one, other in zip(mine.episodes, theirs.episodes, strict=True):
            assert one.response_ids == other.response_ids
            assert one.turns == other.turns
        for name in ("log_probs", "values", "entropy"):
            close: Any = getattr(mine, name), getattr(theirs, name)
            torch.testing.assert_close(*close, atol=1e-4, rtol=1e-4)
        close = learned.advantages, relearned.advantages
        torch.testing.assert_close(*close, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("advantage", ["gae", "reinforce++", "loo", "grpo"])
def test_one_update(make_envs, make_ppo, advantage):
    envs = make_envs(**TALK, num_envs=8, reward=target_reward(rule_of("uniform")))
    groups = {} if advantage in ("gae", "reinforce++") else {"group_size": 4}
    agent = make_ppo(envs=envs, advantage=advantage, **groups)
    agent.learn(1)
    played = agent.last_round
    tokens = sum(int(written_of(episode).sum()) for episode in played.episodes)
    assert agent.num_timesteps == tokens
    assert agent.num_timesteps < sum(len(e.response_ids) for e in played.episodes)
    assert agent.logger.name_to_value["train/ratio_error"] < 1e-3
    experience = agent.assign(played)
    for row, episode in enumerate(played.episodes):
        own = np.zeros(experience.response_mask.shape[1], dtype=bool)
        own[: len(episode.response_ids)] = written_of(episode)
        np.testing.assert_array_equal(experience.response_mask[row].numpy(), own)
        for figure in (experience.advantages, experience.old_log_probs):
            assert not figure[row][torch.from_numpy(~own)].any()
        assert float(episode.token_rewards.sum()) == pytest.approx(episode.score, rel=1e-5)


def test_the_gradient_is_that_of_the_written_tokens(make_envs, make_ppo):
    envs = make_envs(**TALK, num_envs=4)
    agent = make_ppo(envs=envs, advantage="reinforce", learning_rate=1e-12)
    agent.learn(1)
    agent.policy.eval()
    experience = agent.assign(agent.last_round)
    agent.policy.optimizer.zero_grad()
    count = int(experience.response_mask.sum())
    for loss, _ in agent.loss_terms(experience, count, len(experience.sequences)):
        loss.backward()
    weight = agent.policy.language_model.model.base_model.wte.weight
    given = weight.grad.clone()
    agent.policy.optimizer.zero_grad()
    log_probs = agent.policy.token_stats(
        experience.sequences, experience.action_masks, name="log_probs"
    )
    assert not log_probs[~experience.response_mask].any()
    rows, times, columns = experience.sequences.response_positions
    ids = experience.sequences.input_ids
    logits = agent.policy.language_model.model(ids).logits[rows, columns - 1]
    logits = logits.masked_fill(~experience.action_masks.at(rows, times), -torch.inf)
    chosen = logits.log_softmax(-1).gather(-1, ids[rows, columns][:, None])[:, 0]
    (-(chosen * experience.advantages[rows, times]).sum() / count).backward()
    torch.testing.assert_close(given, weight.grad, atol=1e-5, rtol=1e-3)


def holes() -> tuple[Any, ...]:
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 0, 1, 1, 1, 1]], dtype=torch.bool)
    rewards = torch.randn(2, 6, dtype=torch.float64).masked_fill(~mask, 0.0)
    return rewards, torch.randn(2, 6, dtype=torch.float64), mask


def compressed(x: Any, mask: Any, row: int) -> Any:
    return x[row][mask[row]][None]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.8, 0.0])
def test_steps_lead_over_replies(gamma, gae_lambda):
    """Advantages and returns are those of the written tokens moved together."""
    rewards, values, mask = holes()
    final = torch.tensor([0.0, 0.7], dtype=torch.float64)
    how = {"gamma": gamma, "gae_lambda": gae_lambda}
    advantages, returns = losses.gae(rewards, values, mask, final_values=final, **how)
    to_go = losses.rewards_to_go(rewards, mask, gamma=gamma)
    ends = torch.arange(6).expand(2, 6)
    within = losses.rewards_within(rewards, mask, ends, gamma=gamma)
    for row in range(2):
        r, v = compressed(rewards, mask, row), compressed(values, mask, row)
        full = torch.ones_like(r, dtype=torch.bool)
        a, g = losses.gae(r, v, full, final_values=final[row : row + 1], **how)
        torch.testing.assert_close(compressed(advantages, mask, row), a)
        torch.testing.assert_close(compressed(returns, mask, row), g)
        torch.testing.assert_close(
            compressed(to_go, mask, row), losses.rewards_to_go(r, full, gamma=gamma)
        )
        torch.testing.assert_close(compressed(within, mask, row), r)


@pytest.mark.parametrize("as_one_turn", [False, True])
def test_loo_baselines_begin_in_the_same_state(make_envs, make_ppo, as_one_turn):
    """What the learner hands over is the round's tokens; with one turn nothing changes."""
    talk = TALK | ({"max_turns": 1} if as_one_turn else {})
    envs = make_envs(**talk, num_envs=8, reward=target_reward(rule_of("uniform")))
    agent = make_ppo(envs=envs, advantage="loo", group_size=4, kl_coef=0.0)
    agent.learn(1)
    episodes = agent.last_round.episodes
    experience = agent.assign(agent.last_round)
    inputs = Inputs(episodes, dtype=torch.float32)  # columns are the rows' own tokens
    mask, states = inputs["response_mask"], inputs["state_ids"]
    paid = [
        e.token_rewards if e.written is None else e.token_rewards[e.written > 0] for e in episodes
    ]
    rewards = inputs.padded(paid)
    plain = losses.leave_one_out(rewards, mask, 4)
    expected = losses.leave_one_out(rewards, mask, 4, state_ids=states)
    found = experience.advantages[experience.response_mask]
    torch.testing.assert_close(found, expected[mask])
    assert torch.allclose(expected, plain) == as_one_turn


def test_lost_episodes_are_not_learned(make_envs, make_ppo):
    agent = make_ppo(envs=make_envs(**LOSSY), advantage="rloo", group_size=2)
    agent.learn(1)
    lost = np.array([e.finish_reason == "error" for e in agent.last_round.episodes])
    assert 0 < lost.sum() < 10
    kept = 12 - 2 * lost.reshape(-1, 2).any(1).sum()
    assert len(agent.assign(agent.scored(agent.last_round)).sequences) == kept


@pytest.mark.parametrize("log_probs", ["sampled", "recomputed"])
def test_lost_episodes_are_not_counted(make_envs, make_ppo, log_probs):
    """Before the first update the policy is its reference: a lost episode has no KL either."""
    settings: Any = {"kl_target": 1.0, "kl_horizon": 100.0, "kl_coef": 0.2, "learning_rate": 1e-9}
    agent = make_ppo(envs=make_envs(**LOSSY), old_log_probs=log_probs, **settings)
    agent.learn(1, log_interval=None)
    finished = [e.finish_reason != "error" for e in agent.last_round.episodes]
    assert 0 < sum(finished) < 12
    figures = agent.logger.name_to_value
    assert figures["train/kl"] == pytest.approx(0.0, abs=1e-5)
    assert figures["train/log_prob_gap"] < 1e-5
    learned = agent.scored(agent.last_round)
    entropy = learned.entropy[learned.sequences("cpu").response_mask].mean().item()
    assert figures["train/entropy"] == pytest.approx(entropy, rel=1e-5)
    # KL 0 is below the target: 20 % down, by the share of the horizon that was finished.
    assert agent.kl_coef == pytest.approx(0.2 * (1 - 0.2 * sum(finished) / 100))


def test_groups_that_differ_only_where_they_were_lost_are_not_kept(make_envs, make_ppo):
    """Scores tell apart what the partner failed on: the groups left are all equal, and stay."""
    score = FunctionScorer(lambda prompt, response: float(response.startswith("b")))
    envs = make_envs(**LOSSY, reward=Reward(score, rule_of("sparse")))
    agent = make_ppo(envs=envs, advantage="loo", group_size=2, drop_equal_groups=True)
    agent.learn(1)
    lost = np.array([e.finish_reason == "error" for e in agent.last_round.episodes])
    whole = ~lost.reshape(-1, 2).any(1)
    assert 0 < whole.sum() < 6
    assert len(agent.assign(agent.scored(agent.last_round)).sequences) == 2 * whole.sum()


def test_a_round_without_a_whole_episode(make_envs, make_ppo):
    def broken(*asked: Any) -> Reply:
        raise RuntimeError("no")

    agent = make_ppo(envs=make_envs(**LOSSY | {"partner": broken}))
    with pytest.raises(ValueError, match="12 of 12 episodes have no score"):
        agent.learn(1)


@pytest.mark.parametrize("kind", [StockPPO, DQN])
def test_a_stock_buffer_pays_each_written_token(make_envs, kind):
    """Step for step, and no reply's place is taken for a step."""
    envs = as_vec_env(make_envs(**TALK, reward=target_reward(rule_of("uniform"))))
    paid: list[list[float]] = [[] for _ in range(4)]
    scores: list[float] = []

    class Reads(BaseCallback):
        def _on_step(self) -> bool:
            for row, info in enumerate(self.locals["infos"]):
                if self.locals["dones"][row]:
                    paid[row] += info["token_rewards"][info["written"] > 0].tolist()
                    scores.append(info["score"])
            return True

    how: dict[str, Any] = {
        "n_steps": 60,
        "batch_size": 60,
        "rollout_buffer_class": HindsightRolloutBuffer,
    }
    if kind is DQN:
        how = {"buffer_size": 400, "replay_buffer_class": HindsightReplayBuffer}
        how |= {"learning_starts": 10_000, "exploration_initial_eps": 1.0}
    features = {"features_extractor_class": TokenFeatures}
    agent = kind("MultiInputPolicy", envs, policy_kwargs=features, seed=0, **how)
    agent.learn(240, callback=Reads())
    buffer = agent.rollout_buffer if kind is StockPPO else agent.replay_buffer
    assert sum(sum(row) for row in paid) == pytest.approx(sum(scores), rel=1e-5)
    for row, expected in enumerate(paid):
        assert len(expected) > 20
        np.testing.assert_allclose(buffer.rewards[: len(expected), row], expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"chat_template": True}, {"prompts": [[{"role": "user", "content": "b c"}]] * 4}],
    ids=["option", "messages"],
)
def test_continuations_write_replies_in_the_chat_template(make_envs, make_ppo, settings):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'd' if m.role == 'user' else 'e' }} {{ m.content }} <eos> "
        "{% endfor %}{% if add_generation_prompt %}e {% endif %}"
    )
    talk = {**TALK, "partner": lambda said, metadata, rng: Reply("b"), "max_turns": 2}
    envs = make_envs(tokenizer=tokenizer, forbidden_token_ids=[EOS], **{**talk, **settings})
    agent = make_ppo(envs=envs)
    episodes = collect(agent, envs, 4, seed=0)
    begun = [
        Episode(prompt=episode.prompt, response="", prompt_ids=episode.prompt_ids, response_ids=())
        for episode in episodes
    ]
    finished = PolicyContinuations(envs, agent, seed=1).finish(
        begun, [[row] for row in range(len(begun))]
    )
    for played in (*episodes, *finished):
        replied = np.array(played.response_ids)[~written_of(played)]
        assert tokenizer.decode(replied) == "<eos> d b <eos> e"
