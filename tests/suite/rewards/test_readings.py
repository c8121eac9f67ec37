# mypy: no-check-untyped-defs
"""Signed attributions against finite differences and plain autograd."""

import numpy as np
import pytest
import torch

from tests.support.rewards.common import make_classifier, random_episodes
from tests.support.rewards.last_row import CONFIGS
from tests.support.rewards.readings import EPISODES, build
from tests.support.rules import rewards_of, rule_of
from tokengym.rewards import Reward, RewardModel, Scores, make_reward
from tokengym.rewards.maths.redistribution import close_sum


def output_projection(model, name):
    layers = getattr(model, model.base_model_prefix)
    if name.startswith("gpt2"):
        return layers.h[-1].attn.c_proj
    if name == "opt":
        return layers.decoder.layers[-1].self_attn.out_proj
    return layers.layers[-1].self_attn.o_proj


def finite_differences(model, name, episode):
    """Return, by scoring twice per token, what each token's share of the last mixture does.

    Each head's output at the last position is sum_t alpha_t v_t; the term of token t is made
    larger and smaller by a little before it enters the output projection.
    """
    ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids]])
    size = ids.shape[1]
    kept: dict[str, torch.Tensor] = {}
    projection = output_projection(model, name)

    def keep_values(module, args, output):
        kept["v"] = output

    value_module = {
        "gpt2": lambda: model.transformer.h[-1].attn.c_attn,
        "opt": lambda: model.model.decoder.layers[-1].self_attn.v_proj,
    }.get(name.split("-")[0], lambda: model.model.layers[-1].self_attn.v_proj)()
    handle = value_module.register_forward_hook(keep_values)
    with torch.no_grad():
        backbone = getattr(model, model.base_model_prefix)
        weights = backbone(ids, output_attentions=True).attentions[-1][0, :, -1]  # (heads, t)
    handle.remove()
    heads = weights.shape[0]
    values = kept["v"][0]
    if name.startswith("gpt2"):
        values = values[:, -32:]
    values = values.view(size, -1, 32 // heads)
    values = values.repeat_interleave(heads // values.shape[1], dim=1)  # (t, heads, width)
    result = []
    for token in range(len(episode.prompt_ids), size):
        term = (weights[:, token, None] * values[token]).reshape(-1)
        scores = []
        for sign in (1e-2, -1e-2):

            def shift(module, args, sign=sign, term=term):
                moved = args[0].clone()
                moved[:, -1] += sign * term
                return (moved,)

            handle = projection.register_forward_pre_hook(shift)
            with torch.no_grad():
                hidden = backbone(ids).last_hidden_state
                scores.append(model.score(hidden[0, -1]).item())
            handle.remove()
        result.append((scores[0] - scores[1]) / 2e-2)
    return np.array(result)


@pytest.mark.parametrize("name", CONFIGS)
def test_signed_attention_equals_finite_differences(name):
    model, episodes = build(name), random_episodes(5, vocab_size=40)
    scorer = RewardModel(build(name), batch_size=3)
    rows = scorer.score(episodes, attribution="signed-attention").attributions
    for row, episode in zip(rows, episodes, strict=True):
        expected = finite_differences(model, name, episode)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(row, expected, atol=0.01 * scale + 1e-4)
    assert min(row.min() for row in rows) < 0 < max(row.max() for row in rows)


def test_scores_and_batches_stay_as_they_are(classifier):
    episodes = random_episodes(15)
    plain = RewardModel(classifier).score(episodes).values
    alone = RewardModel(classifier, batch_size=1).score(episodes, attribution="signed-attention")
    batched = RewardModel(classifier, batch_size=6).score(episodes, attribution="signed-attention")
    assert batched.signed
    np.testing.assert_allclose(batched.values, plain, atol=1e-5)
    for one, two in zip(alone.attributions, batched.attributions, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4, rtol=1e-3)


def test_no_gradient_is_left_behind():
    model = make_classifier()
    RewardModel(model).score(random_episodes(3), attribution="signed-attention")
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
    with torch.no_grad():
        RewardModel(model).score(random_episodes(3), attribution="signed-attention")
        assert not torch.is_grad_enabled()


SCORES = Scores(values=[6.0, -2.0], attributions=[[2, -1, 2], [3]], signed=True)


@pytest.mark.parametrize(
    ("credit", "expected"),
    [
        (rule_of("abc-signed"), [[4, -2, 4], [-2]]),
        (rule_of("abc-signed", beta=0.0), [[0, 0, 6], [-2]]),
        (rule_of("abc-signed", rescale=False), [[2, -1, 5], [-2]]),
    ],
)
def test_hand_worked_credit(credit, expected):
    rewards = rewards_of(credit, EPISODES, SCORES)
    assert [row.tolist() for row in rewards] == expected


@pytest.mark.parametrize("name", ["abc-signed", "abc-signed:beta=0.8"])
@pytest.mark.parametrize("normalize", [None, "running"])
def test_by_name_and_normalised(classifier, tokenizer, name, normalize):
    reward = make_reward(name, scorer=RewardModel(classifier), normalize=normalize).bind(tokenizer)
    for _ in range(2):
        for episode in reward.evaluate(random_episodes(6)):
            assert close_sum(episode.score, episode.token_rewards)


def test_signed_abc_charges_what_abc_pays(classifier):
    episodes = random_episodes(20)
    scorer = RewardModel(classifier)
    plain = Reward(scorer, make_reward("abc:beta=1", scorer=scorer).credit).evaluate(episodes)
    signed = Reward(scorer, rule_of("abc-signed")).evaluate(episodes)
    assert all((e.token_rewards * np.sign(e.score) >= 0).all() for e in plain)
    assert any((e.token_rewards * np.sign(e.score) < 0).any() for e in signed)
