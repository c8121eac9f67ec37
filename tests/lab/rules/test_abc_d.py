# mypy: no-check-untyped-defs
"""ABC-D and ABC-D2 against the attention of a generation, step by step."""

import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.rewards.common import LengthScorer, make_episode, random_episodes, scale_weights
from tests.support.rewards.last_row import CONFIGS
from tokengym.envs import TokenizerError
from tokengym.lab.rules.abc_d import last_written_row, received_attention
from tokengym.lab.rules.policy_attention import mean_attention, policy_attention
from tokengym.rewards import ABCD, ABCD2, CreditReward, Reward, check_reward, make_reward
from tokengym.rewards.attribution import last_row
from tokengym.rewards.attribution.policy_reader import PolicyReader
from tokengym.rewards.errors import CreditError, RewardError, ScorerError
from tokengym.rewards.maths.redistribution import blend


def language_model(name="gpt2", factor=6.0, **changes):
    torch.manual_seed(0)
    config = CONFIGS[name]()
    for key, value in changes.items():
        setattr(config, key, value)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return scale_weights(model, factor)


def steps_of(model, episode):
    """Return what each step attended to while it wrote a token: rows of 0 .. n - 1 weights."""
    prompt, response = list(episode.prompt_ids), list(episode.response_ids)
    rows = []
    for written in range(len(response)):
        ids = torch.tensor([prompt + response[:written]])
        if not ids.shape[1]:
            rows.append(np.zeros(0))
            continue
        with torch.no_grad():
            attention = model(ids, output_attentions=True).attentions[-1][0].mean(dim=0)
        rows.append(attention[-1, len(prompt) :].numpy())
    return rows


def expected_weights(model, episode, last_only):
    size = len(episode.response_ids)
    steps, weights = steps_of(model, episode), np.zeros(size)
    if last_only:
        weights[: size - 1] = steps[-1]
        return weights
    for token in range(size - 1):
        weights[token] = np.mean([steps[later][token] for later in range(token + 1, size)])
    return weights


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "opt"])
@pytest.mark.parametrize("kind", [ABCD, ABCD2])
def test_the_attention_of_the_generation_in_one_pass(name, kind):
    model, episodes = language_model(name), random_episodes(8, vocab_size=40)
    credit = kind(beta=0.8, model=PolicyReader(language_model(name), batch_size=3))
    for episode in Reward(LengthScorer(), credit).evaluate(episodes):
        weights = expected_weights(model, episode, last_only=kind is ABCD2)
        expected = blend(episode.score, weights, beta=0.8)
        np.testing.assert_allclose(episode.token_rewards, expected, rtol=1e-3, atol=1e-4)


def test_one_pass_over_the_batch():
    model = language_model()
    passes = []
    model.transformer.register_forward_hook(lambda *args: passes.append(1))
    reader = PolicyReader(model)
    Reward(LengthScorer(), ABCD(model=reader)).evaluate(random_episodes(8, vocab_size=40))
    assert len(passes) == 1


def test_last_written_row_by_hand():
    attention = [[0.9, 9, 9], [0.2, 0.4, 9], [7, 7, 7]]
    assert last_written_row(attention).tolist() == [0.2, 0.4, 0.0]
    assert last_written_row([[1.0]]).tolist() == [0.0]
    with pytest.raises(ValueError, match=r">= 1, got \(3,\)"):
        last_written_row([1.0, 2.0, 3.0])


def test_an_agents_own_attention_comes_first():
    attention = np.array([[0.9, 0.0, 0.0], [0.2, 0.4, 0.0], [0.1, 0.1, 0.1]])
    episode = make_episode(response_ids=[5, 6, 1], metadata={"policy_attention": attention})
    (paid,) = Reward(LengthScorer(), ABCD(beta=1.0)).evaluate([episode])
    np.testing.assert_allclose(paid.token_rewards, 12 * np.array([0.55, 0.4, 0]) / 0.95, rtol=1e-6)
    (paid,) = Reward(LengthScorer(), ABCD2(beta=1.0)).evaluate([episode])
    np.testing.assert_allclose(paid.token_rewards, [4.0, 8.0, 0.0], rtol=1e-6)
    other = make_episode(response_ids=[5, 6])
    reader = PolicyReader(language_model())
    both = Reward(LengthScorer(), ABCD(model=reader)).evaluate([other, episode])
    (alone,) = Reward(LengthScorer(), ABCD(model=reader)).evaluate([other])
    np.testing.assert_allclose(both[0].token_rewards, alone.token_rewards, rtol=1e-5)


def test_one_token_gets_everything():
    credit = ABCD(model=PolicyReader(language_model()))
    (paid,) = Reward(LengthScorer(), credit).evaluate([make_episode(response_ids=[7])])
    assert paid.token_rewards.tolist() == [7.0]


def test_from_a_path(tmp_path, tokenizer, make_env):
    model = language_model(vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    credit = make_reward(f"abc-d:model={tmp_path / 'lm'}", scorer=LengthScorer()).credit
    check_reward(CreditReward(make_env(), LengthScorer(), credit))
    check_reward(CreditReward(make_env(), LengthScorer(), f"abc-d2:model={tmp_path / 'lm'}"))
    reader = PolicyReader.from_pretrained(tmp_path / "lm", device="cpu")
    assert reader.name == "PolicyReader(lm)"
    assert copy.deepcopy(reader) is reader
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["new"])
    with pytest.raises(TokenizerError, match=r"24 ids.*'PolicyReader.* 23"):
        reader.bind(other)


def test_the_bundles_policy_is_the_stand_in():
    env = gymnasium.make("tokengym/MovieReview-v0", reward="abc-d", max_new_tokens=4)
    env.reset(seed=0)
    info: dict[str, Any] = {}
    while "score" not in info:
        *_, info = env.step(int(np.flatnonzero(env.get_wrapper_attr("action_masks")())[5]))
    assert info["token_rewards"].sum() == pytest.approx(info["score"], rel=1e-4)


def test_a_models_own_code_never_runs(with_code: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*evil"):
        ABCD(model=str(with_code)).bind(None)


def test_bad_attention():
    with pytest.raises(CreditError, match=r"'abc-d'.*abc-d:model=PAT"):
        Reward(LengthScorer(), ABCD()).evaluate([make_episode()])
    for attention, message in (
        (np.zeros((2, 2)), r"float64 and shape \(2, 2\).*\(3, 3\)"),
        (np.full((3, 3), -1.0), r"-1\.0 .. -1\.0.*>= 0"),
        (np.full((3, 3), np.nan), "must be finite"),
    ):
        episode = make_episode(metadata={"policy_attention": attention})
        with pytest.raises(CreditError, match=message):
            Reward(LengthScorer(), ABCD()).evaluate([episode])
    with pytest.raises(CreditError, match=r"beta.*\[0, 1\], got 2"):
        ABCD(beta=2)
    with pytest.raises(ScorerError, match=r"batch_size.*>= 1, got 0"):
        PolicyReader(language_model(), batch_size=0)
    reader = PolicyReader(language_model())
    with pytest.raises(ScorerError, match=r"episode 0.*65.*64"):
        policy_attention(reader, [make_episode([3] * 60, [4] * 5)])
    with pytest.raises(RewardError, match=r"'gamma'.*beta, model"):
        make_reward("abc-d:gamma=1", scorer=LengthScorer())


def test_received_attention_by_hand():
    attention = [[0.9, 9, 9], [0.2, 0.4, 9], [7, 7, 7]]  # above the diagonal and last row: ignored
    np.testing.assert_allclose(received_attention(attention), [(0.9 + 0.2) / 2, 0.4, 0.0])
    assert received_attention([[1.0]]).tolist() == [0.0]
    with pytest.raises(ValueError, match=r">= 1, got \(2, 3\)"):
        received_attention(np.zeros((2, 3)))


def test_mean_attention_by_rows():
    query, key = torch.randn(2, 4, 5, 3), torch.randn(2, 2, 5, 3)
    keep = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 1, 5, 5).clone()
    keep[1, :, :, 1] = False
    keep[1, :, 1, 0] = True
    additive = torch.zeros(keep.shape).masked_fill(~keep, -1e9)
    per_head = keep.expand(2, 4, 5, 5)
    for mask in (None, keep, additive, per_head):
        matrix = mean_attention(query, key, mask, scaling=0.7)
        for position in range(5):
            row = last_row.attention_row(
                query, key, mask, torch.tensor([position] * 2), scaling=0.7
            )
            np.testing.assert_allclose(matrix[:, position], row.mean(dim=1), atol=1e-6)
