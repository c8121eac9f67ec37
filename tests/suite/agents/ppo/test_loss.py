"""PPO's loss against the formulas written out on the whole model; whose tokens count."""

import math
from typing import Any

import pytest
import torch
from tokenizers import normalizers
from transformers import GPT2Config, GPT2LMHeadModel

from tests.support.agents.common import EOS, critic_of, per_token, target_reward
from tests.support.agents.policy import shake
from tests.support.agents.ppo import gradient
from tests.support.words import WORDS, make_word_tokenizer
from tokengym.agents import PPO


def loss_by_hand(agent: PPO, experience: Any) -> torch.Tensor:
    """L_pi + c_v * L_V - c_e * H, episode by episode and token by token."""
    count, total = 0, torch.zeros(())
    sequences = experience.sequences
    for row in range(len(sequences)):
        n, start = int(sequences.response_lengths[row]), int(sequences.prompt_lengths[row])
        ids = sequences.input_ids[row, : start + n]
        trunk: Any = agent.policy.language_model.model.base_model
        states = trunk(ids.unsqueeze(0))[0][0, start - 1 : -1]
        log_p = agent.policy.language_model.model.lm_head(states).log_softmax(-1)
        values = critic_of(agent).head(states)[:, 0]
        for t in range(n):
            advantage, old = experience.advantages[row, t], experience.values[row, t]
            ratio = (log_p[t, ids[start + t]] - experience.old_log_probs[row, t]).exp()
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            target = experience.returns[row, t]
            clipped = values[t].clamp(old - 0.2, old + 0.2)
            squared = torch.maximum((values[t] - target) ** 2, (clipped - target) ** 2)
            entropy = -(log_p[t].exp() * log_p[t]).sum()
            total = total - surrogate + 0.3 * 0.5 * squared - 0.05 * entropy
            count += 1
    return total / count


def test_the_gradient_is_that_of_the_whole_objective(make_envs, make_ppo):
    """After some steps, so that ratios and values are clipped here and there."""
    agent = make_ppo(
        envs=make_envs(num_envs=8, reward=target_reward(per_token)),
        vf_coef=0.3,
        clip_range_vf=0.2,
        value_network="trunk",
        ent_coef=0.05,
        kl_estimator="k1",  # in the reward alone
    )
    shake(agent)
    experience = agent.assign(agent.collect())
    shake(agent, 0.1)  # the policy moves on from the one that sampled
    found = gradient(agent, experience)
    now: Any = agent.policy.evaluate(experience.sequences)
    mask = experience.response_mask
    ratios = (now.log_probs - experience.old_log_probs)[mask].exp()
    assert 0.1 < ((ratios - 1).abs() > 0.2).float().mean() < 0.9
    assert ((now.values - experience.values)[mask].abs() > 0.2).any()
    agent.policy.optimizer.zero_grad()
    loss_by_hand(agent, experience).backward()
    expected = torch.cat([p.grad.flatten() for p in agent.policy.trained_parameters()])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_the_figures_of_an_update_by_hand(make_envs, make_ppo):
    """KL(old || new) as the mean of r - 1 - log r of the old policy's tokens, r = new / old."""
    agent = make_ppo(envs=make_envs(num_envs=8), clip_range=0.1, clip_range_high=0.3)
    experience = agent.assign(agent.collect())
    shake(agent, 0.1)  # the policy moves on from the one that sampled
    parts = agent.backward(experience)
    log_ratios = []
    for row in range(8):
        start = int(experience.sequences.prompt_lengths[row])
        end = start + int(experience.sequences.response_lengths[row])
        ids = experience.sequences.input_ids[row, :end]
        model: Any = agent.policy.language_model.model
        log_p = model(ids.unsqueeze(0)).logits[0, start - 1 : -1].log_softmax(-1)
        now = log_p.gather(1, ids[start:].unsqueeze(1))[:, 0]
        log_ratios += (now - experience.old_log_probs[row, : end - start]).tolist()
    ratios = [math.exp(one) for one in log_ratios]
    shares = [r > 1.3 for r in ratios], [r < 0.9 for r in ratios]
    assert all(any(share) for share in shares)
    moved = [r - 1.0 - one for r, one in zip(ratios, log_ratios, strict=True)]
    expected = {
        "approx_kl": sum(moved) / len(moved),
        "clip_fraction": sum(map(sum, shares)) / len(ratios),
        "ratio_error": max(abs(r - 1.0) for r in ratios),
        "log_prob_gap": max(map(abs, log_ratios)),
    }
    found = {
        name: total(part[name] for part in parts)
        for total, names in ((sum, ("approx_kl", "clip_fraction")), (max, [*expected][2:]))
        for name in names
    }
    assert found == pytest.approx(expected, rel=1e-3)


def test_schedules_of_the_clip_ranges_are_read_where_training_is(make_ppo):
    """Half of it is left: the ratio is clipped from a millionth on, the values not at all."""
    agent = make_ppo(
        clip_range=lambda left: 1e3 if left > 0.75 else 1e-6,
        clip_range_vf=lambda left: 1e-6 if left > 0.75 else 1e3,
    )
    experience = agent.assign(agent.collect())
    shake(agent, 0.1)
    values = agent.policy.token_stats(experience.sequences, name="values")
    squared = ((values - experience.returns)[experience.response_mask] ** 2).mean()
    found = []
    for left in (1.0, 0.5):
        agent._current_progress_remaining = left
        parts = agent.backward(experience)
        found.append([sum(p[name] for p in parts) for name in ("clip_fraction", "value_loss")])
    (unclipped, clipped_loss), (clipped, loss) = found
    assert (unclipped, clipped) == pytest.approx((0.0, 1.0))
    assert clipped_loss > loss == pytest.approx(0.5 * float(squared), rel=1e-4)


def test_padding_with_eos_changes_nothing(make_envs, make_ppo):
    """GPT-2's habit: padding is told by position, so that the EOS that was sampled still counts."""
    learned = []
    for pad in ("<pad>", "<eos>"):
        tokenizer = make_word_tokenizer()
        tokenizer.pad_token = pad
        envs = make_envs(tokenizer=tokenizer, num_envs=8)
        agent = make_ppo(envs=envs, learning_rate=1e-2)
        played = agent.collect()
        assert any(e.response_ids[-1] == EOS for e in played.episodes)
        assert len({len(e.response_ids) for e in played.episodes}) > 1  # so that there is padding
        stats = agent.update(agent.assign(played))
        assert stats.log_prob_gap < 1e-4
        learned.append(([e.response_ids for e in played.episodes], agent.policy.state_dict()))
    (texts, weights), (same_texts, same_weights) = learned
    assert texts == same_texts
    for name, value in weights.items():
        torch.testing.assert_close(same_weights[name], value, atol=1e-6, rtol=1e-5)


def test_sampled_ids_are_learnt_from_not_their_text(make_envs, make_ppo):
    """A word whose text encodes to another: what was sampled is what is scored and trained."""
    words = (*WORDS, "A")
    tokenizer = make_word_tokenizer(words)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert tokenizer("A").input_ids == [WORDS.index("a")]
    config = GPT2Config(vocab_size=9, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    agent = make_ppo(envs=make_envs(tokenizer=tokenizer, num_envs=16), model=model)
    played = agent.collect()
    assert any(8 in episode.response_ids for episode in played.episodes)
    experience = agent.assign(played)
    for row, episode in enumerate(played.episodes):
        start, n = len(episode.prompt_ids), len(episode.response_ids)
        ids = experience.sequences.input_ids[row, start : start + n]
        assert ids.tolist() == list(episode.response_ids)
    assert agent.update(experience).log_prob_gap < 1e-4
