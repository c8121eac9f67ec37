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
from tokengym.lab.rules.abc_d import abc_d, abc_d2, last_written_row, received_attention
from tokengym.rewards import CreditReward, Reward, Rule, check_reward, make_reward
from tokengym.rewards.attribution import last_row
from tokengym.rewards.attribution.policy_attention import mean_attention, policy_attention
from tokengym.rewards.attribution.policy_reader import PolicyReader
from tokengym.rewards.errors import CreditError, RewardError, ScorerError

# Above the diagonal and in the last row is what is ignored.
TABLE = torch.tensor([[[0.9, 9, 9], [0.2, 0.4, 9], [7, 7, 7]]], dtype=torch.float64)
ALL = torch.ones(1, 3, dtype=torch.bool)


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
@pytest.mark.parametrize("kind", [abc_d, abc_d2])
def test_the_attention_of_the_generation_in_one_pass(name, kind):
    model, episodes = language_model(name), random_episodes(8, vocab_size=40)
    credit = Rule(kind, beta=0.8, model=PolicyReader(language_model(name), batch_size=3))
    for episode in Reward(LengthScorer(), credit).evaluate(episodes):
        weights = expected_weights(model, episode, last_only=kind is abc_d2)
        expected = 0.8 * episode.score * np.asarray(weights) / np.sum(weights)
        expected[-1] += 0.2 * episode.score
        np.testing.assert_allclose(episode.token_rewards, expected, rtol=1e-3, atol=1e-4)


def test_one_pass_over_the_batch():
    model = language_model()
    passes = []
    model.transformer.register_forward_hook(lambda *args: passes.append(1))
    reader = PolicyReader(model)
    Reward(LengthScorer(), Rule(abc_d, model=reader)).evaluate(random_episodes(8, vocab_size=40))
    assert len(passes) == 1


def test_last_written_row_by_hand():
    assert last_written_row(TABLE, ALL).tolist() == [[0.2, 0.4, 0.0]]
    assert last_written_row(TABLE[:, :1, :1], ALL[:, :1]).tolist() == [[0.0]]


def test_by_hand_in_a_batch():
    attention = torch.tensor([[[0.9, 0.0, 0.0], [0.2, 0.4, 0.0], [0.1, 0.1, 0.1]]] * 2)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    scores = torch.tensor([12.0, 3.0])
    expected = [12 * np.array([0.55, 0.4, 0]) / 0.95, [3.0, 0.0, 0.0]]
    np.testing.assert_allclose(abc_d(scores, mask, attention), expected, rtol=1e-6)
    np.testing.assert_allclose(abc_d2(scores, mask, attention), [[4, 8, 0], [3, 0, 0]], rtol=1e-6)


def test_a_reply_is_looked_at_with_the_token_before_it_and_looks_at_nothing():
    model = language_model()
    ids, written = [5, 6, 8, 9, 7, 4], np.array([1, 1, 0, 0, 1, 1], np.int8)
    episode = make_episode([3, 4], response_ids=ids, written=written)
    with torch.no_grad():
        whole = model(torch.tensor([[3, 4, *ids]]), output_attentions=True).attentions[-1][0]
    table = whole.mean(dim=0)[2:, 2:].numpy()
    # The steps that wrote tokens 1, 4 and 5 stood at 0, at the reply's last token 3, and at 4.
    looked = [[table[0, 0], 0, 0], [table[3, 0], table[3, 1:4].sum(), 0]]
    looked += [[table[4, 0], table[4, 1:4].sum(), table[4, 4]]]
    weights = [np.mean([row[0] for row in looked]), np.mean([row[1] for row in looked[1:]])]
    weights += [looked[2][2], 0.0]
    (paid,) = Reward(LengthScorer(), Rule(abc_d, beta=1.0, model=PolicyReader(model))).evaluate(
        [episode]
    )
    expected = paid.score * np.array(weights) / np.sum(weights)
    np.testing.assert_allclose(paid.token_rewards[written > 0], expected, rtol=1e-4)
    assert not paid.token_rewards[written == 0].any()


def test_pieces_look_at_pieces():
    model, episodes = language_model(), random_episodes(4, vocab_size=40)
    reader = PolicyReader(model)
    for episode in Reward(LengthScorer(), Rule(abc_d, model=reader, segments=1)).evaluate(episodes):
        assert episode.token_rewards[-1] == pytest.approx(episode.score)
    longest = max(len(e.response_ids) for e in episodes)
    by_token = Reward(LengthScorer(), Rule(abc_d, model=reader)).evaluate(episodes)
    by_piece = Reward(LengthScorer(), Rule(abc_d, model=reader, segments=longest)).evaluate(
        episodes
    )
    for one, other in zip(by_token, by_piece, strict=True):
        np.testing.assert_allclose(one.token_rewards, other.token_rewards, rtol=1e-6)


def test_one_token_gets_everything():
    credit = Rule(abc_d, model=PolicyReader(language_model()))
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


def test_a_models_own_code_never_runs(with_code: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*evil"):
        Rule(abc_d, model=str(with_code)).bind(tokenizer)


def test_bad_attention():
    with pytest.raises(CreditError, match=r"'abc-d'.*abc-d:reference=PATH"):
        Reward(LengthScorer(), abc_d).evaluate([make_episode()])
    with pytest.raises(CreditError, match=r"beta.*\[0, 1\], got 2"):
        Rule(abc_d, beta=2)
    with pytest.raises(ScorerError, match=r"batch_size.*>= 1, got 0"):
        PolicyReader(language_model(), batch_size=0)
    reader = PolicyReader(language_model())
    with pytest.raises(ScorerError, match=r"episode 0.*65.*64"):
        policy_attention(reader, [make_episode([3] * 60, [4] * 5)])
    with pytest.raises(RewardError, match=r"'gamma'.*model, beta"):
        make_reward("abc-d:gamma=1", scorer=LengthScorer())


def test_received_attention_by_hand():
    np.testing.assert_allclose(received_attention(TABLE, ALL), [[(0.9 + 0.2) / 2, 0.4, 0.0]])
    assert received_attention(TABLE[:, :1, :1], ALL[:, :1]).tolist() == [[0.0]]


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
