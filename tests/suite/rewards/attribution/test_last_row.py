# mypy: no-check-untyped-defs
"""ABC's attention row against the full attention tensors, architecture by architecture."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
)

from tests.support.rewards.common import make_classifier, random_episodes, scale_weights
from tests.support.rewards.last_row import CONFIGS
from tokengym.envs import bundled
from tokengym.rewards.attribution import last_row
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorers.reward_model import RewardModel


def eager_rows(model, episodes):
    """Return score and response row of each episode from one unpadded pass with full attention."""
    values, rows = [], []
    for episode in episodes:
        ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids]])
        with torch.no_grad():
            backbone = getattr(model, model.base_model_prefix)
            output = backbone(ids, attention_mask=torch.ones_like(ids), output_attentions=True)
            values.append(model.score(output.last_hidden_state[0, -1]).item())
        row = output.attentions[-1][0].mean(dim=0)[-1, len(episode.prompt_ids) :].numpy()
        rows.append(row / row.sum())
    return np.array(values), rows


@pytest.mark.parametrize("name", CONFIGS)
def test_row_and_score_equal_full_attention(name):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(
        CONFIGS[name](), attn_implementation="eager"
    )
    scale_weights(model, 12.0)
    episodes = random_episodes(24, vocab_size=40)
    values, rows = eager_rows(model, episodes)
    scorer = RewardModel(model, batch_size=10)
    scores = scorer.score(episodes, attribution="attention")
    np.testing.assert_allclose(scores.values, values, rtol=1e-5, atol=1e-5)
    for got, expected in zip(scores.attributions, rows, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    # The rows say something: at initialisation they would be uniform and the test empty.
    assert max(np.ptp(row) * len(row) for row in rows) > 1.0


def test_the_bundled_model_s_row_and_score_equal_full_attention():
    path = bundled("movie_review").reward_model
    model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager")
    episodes = random_episodes(16, vocab_size=model.config.vocab_size)
    values, rows = eager_rows(model.eval(), episodes)
    scores = RewardModel(model).score(episodes, attribution="attention")
    np.testing.assert_allclose(scores.values, values, rtol=1e-5, atol=1e-5)
    for got, expected in zip(scores.attributions, rows, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert max(row.max() for row in rows if len(row) > 5) > 0.5  # it looks at something


def test_attention_row_by_hand():
    # one head, width 1, keys 0, ln 2, ln 3: weights 1 : 2 : 3 over the keys up to the position
    query = torch.ones(2, 1, 3, 1)
    key = torch.log(torch.tensor([1.0, 2.0, 3.0])).view(1, 1, 3, 1).expand(2, 1, 3, 1)
    row = last_row.attention_row(query, key, None, torch.tensor([1, 2]), scaling=1.0)
    np.testing.assert_allclose(row[:, 0], [[1 / 3, 2 / 3, 0], [1 / 6, 2 / 6, 3 / 6]], rtol=1e-6)
    keep = torch.tensor([[True, False, True]]).expand(1, 1, 3, 3)
    row = last_row.attention_row(query, key, keep, torch.tensor([2, 2]), scaling=1.0)
    np.testing.assert_allclose(row[:, 0], [[1 / 4, 0, 3 / 4]] * 2, rtol=1e-6)
    row = last_row.attention_row(query, key, keep.log(), torch.tensor([2, 2]), scaling=1.0)
    np.testing.assert_allclose(row[:, 0], [[1 / 4, 0, 3 / 4]] * 2, rtol=1e-6)


def test_extras_that_the_row_does_not_read_are_refused():
    tensor = torch.zeros(1, 1, 2, 2)
    with (
        pytest.raises(ScorerError, match=r"position_bias.*attention.*'uniform'"),
        last_row.last_layer(make_classifier()),
    ):
        last_row._forward(torch.nn.Linear(1, 1), tensor, tensor, tensor, None, position_bias=tensor)


def test_a_model_without_the_interface_is_refused():
    model = make_classifier()
    model._supports_sdpa = False
    with pytest.raises(ScorerError, match=r"GPT2ForSequenceClassification.*attention"):
        RewardModel(model).score(random_episodes(1), attribution="attention")
