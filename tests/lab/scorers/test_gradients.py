# mypy: no-check-untyped-defs
"""Attributions by gradients, against captum and plain autograd."""

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients
from transformers import AutoModelForSequenceClassification, GemmaConfig, MistralConfig, Qwen3Config

from tests.support.rewards.common import make_classifier, random_episodes
from tests.support.rewards.last_row import CONFIGS
from tests.support.rewards.readings import build, embed, embedded_score
from tokengym.rewards import RewardModel

KINDS = ["gradient", "integrated-gradients", "deeplift"]


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_times_input_equals_captum(name):
    model, episodes = build(name), random_episodes(7, vocab_size=40)
    scorer = RewardModel(build(name), batch_size=3)
    rows = scorer.score(episodes, attribution="gradient").attributions
    explain = InputXGradient(embedded_score(model))
    for row, episode in zip(rows, episodes, strict=True):
        expected = explain.attribute(embed(model, episode).requires_grad_()).sum(-1)[0]
        expected = expected[len(episode.prompt_ids) :].detach().numpy()
        np.testing.assert_allclose(row, expected, atol=1e-4, rtol=1e-4)
    assert min(row.min() for row in rows) < -0.01 < 0.01 < max(row.max() for row in rows)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_integrated_gradients_equal_captum(name):
    model, episodes = build(name, 2.0), random_episodes(4, vocab_size=40)
    scorer = RewardModel(build(name, 2.0), batch_size=3)
    rows = scorer.score(episodes, attribution="integrated-gradients").attributions
    explain = IntegratedGradients(embedded_score(model))
    for row, episode in zip(rows, episodes, strict=True):
        embeddings = embed(model, episode)
        baseline = embeddings.clone()
        blank = torch.zeros_like(embeddings[0, 0])
        if name == "llama":  # RMSNorm: the score jumps at zero embeddings
            blank = model.get_input_embeddings().weight.detach()[model.config.eos_token_id]
        baseline[:, len(episode.prompt_ids) :] = blank
        expected = explain.attribute(
            embeddings, baselines=baseline, n_steps=16, method="gausslegendre"
        )
        expected = expected.sum(-1)[0, len(episode.prompt_ids) :].detach().numpy()
        np.testing.assert_allclose(row, expected, atol=1e-4, rtol=1e-4)


def test_integrated_gradients_sum_to_what_the_response_changed():
    # A smooth model: at random weights the path is nearly straight, and 16 points are plenty.
    model, episodes = build("gpt2", 1.5), random_episodes(6, vocab_size=40)
    scores = RewardModel(model).score(episodes, attribution="integrated-gradients")
    for value, row, episode in zip(scores.values, scores.attributions, episodes, strict=True):
        blank = embed(model, episode)
        blank[:, len(episode.prompt_ids) :] = 0
        with torch.no_grad():
            base = embedded_score(model)(blank).item()
        assert row.sum() == pytest.approx(value - base, abs=1e-3)


@pytest.mark.parametrize("kind", [Qwen3Config, MistralConfig, GemmaConfig])
@pytest.mark.parametrize("has_eos", [True, False])
def test_integrated_gradients_of_models_with_rms_norm_miss_little(kind, has_eos):
    """From zero embeddings, 16 points miss a fifth to nine tenths of it here."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40}
    eos = 1 if has_eos else None
    config = kind(**shape, **heads, pad_token_id=0, eos_token_id=eos, num_labels=1)
    model: Any = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
    episodes = random_episodes(6, vocab_size=40)
    scores = RewardModel(model).score(episodes, attribution="integrated-gradients")
    gaps = scores.parts["attribution_gap"]
    weight = model.get_input_embeddings().weight.detach()
    blank_token = weight[1] if has_eos else weight.mean(0)
    changes = []
    for row, (value, episode) in enumerate(zip(scores.values, episodes, strict=True)):
        blank = embed(model, episode)
        blank[:, len(episode.prompt_ids) :] = blank_token
        with torch.no_grad():
            changes.append(value - embedded_score(model)(blank).item())
        assert gaps[row] == pytest.approx(changes[-1] - scores.attributions[row].sum(), abs=1e-4)
    assert np.abs(gaps).max() < 0.03 * np.abs(changes).max()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_batches_stay_as_they_are(classifier, kind):
    episodes = random_episodes(15)
    plain = RewardModel(classifier).score(episodes).values
    alone = RewardModel(classifier, batch_size=1).score(episodes, attribution=kind)
    batched = RewardModel(classifier, batch_size=6).score(episodes, attribution=kind)
    assert batched.signed
    np.testing.assert_allclose(batched.values, plain, atol=1e-5)
    for one, two in zip(alone.attributions, batched.attributions, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_is_left_behind(kind):
    model = make_classifier()
    RewardModel(model).score(random_episodes(3), attribution=kind)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
    with torch.no_grad():
        RewardModel(model).score(random_episodes(3), attribution=kind)
        assert not torch.is_grad_enabled()


def test_a_frozen_model_can_be_differentiated():
    model = make_classifier().requires_grad_(False)
    free = RewardModel(make_classifier())
    for kind in KINDS:
        episodes = random_episodes(3)
        expected = free.score(episodes, attribution=kind).attributions
        got = RewardModel(model).score(episodes, attribution=kind).attributions
        for one, two in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)
