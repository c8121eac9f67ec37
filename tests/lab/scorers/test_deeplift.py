"""DeepLIFT by hand, against captum where captum can, and its sums through transformers."""

from typing import Any

import pytest
import torch
from captum.attr import DeepLift
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, Qwen3Config

from tests.support.rewards.common import random_episodes, scale_weights
from tests.support.rewards.last_row import CONFIGS
from tokengym.lab.scorers.deeplift import deeplift
from tokengym.rewards import RewardModel


def test_a_product_and_a_bend_by_hand():
    """relu(x - 1) y from (0, 1) to (3, 4).

    The bend's slope is (2 - 0) / (3 - 0), its mean 1; y's mean is 2.5: 3 2/3 2.5 + 3 1 = 8.
    """
    here, there, multipliers = deeplift(
        lambda v: torch.relu(v[:, 0] - 1) * v[:, 1],
        torch.tensor([[3.0, 4.0]]),
        torch.tensor([[0.0, 1.0]]),
    )
    assert (here.item(), there.item()) == (8.0, 0.0)
    torch.testing.assert_close(multipliers, torch.tensor([[2 / 3 * 2.5, 1.0]]))


def test_it_is_captums_where_modules_are_captums():
    torch.manual_seed(0)
    layers = (nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 1))
    net, given, blank = nn.Sequential(*layers).requires_grad_(False), *torch.randn(2, 3, 5)
    *_, found = deeplift(lambda v: net(v)[:, 0], given, blank)
    expected = DeepLift(net).attribute(given.clone().requires_grad_(), baselines=blank)
    torch.testing.assert_close(found * (given - blank), expected.detach())


def test_softmax_where_the_two_inputs_are_far_apart():
    given, blank = torch.tensor([[70.0, -30.0, 0.0]]), torch.tensor([[-20.0, 40.0, 0.0]])
    weights = torch.tensor([1.0, 2.0, 5.0])

    def function(v: Tensor) -> Tensor:
        return (v.softmax(-1) * weights).sum(-1)

    here, there, multipliers = deeplift(function, given, blank)
    torch.testing.assert_close(((given - blank) * multipliers).sum(-1), here - there)


def qwen3() -> Qwen3Config:
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_labels": 1}
    return Qwen3Config(**shape, vocab_size=40, pad_token_id=0, eos_token_id=1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [*CONFIGS, "qwen3"])
def test_the_attributions_sum_to_the_change_of_score(name, attention):
    """The weights have gradients, as those that are shared with a policy."""
    torch.manual_seed(0)
    config = {**CONFIGS, "qwen3": qwen3}[name]()
    model: Any = AutoModelForSequenceClassification.from_config(
        config, attn_implementation=attention
    )
    scale_weights(model, 3.0)
    scorer = RewardModel(model, batch_size=3)
    episodes = random_episodes(5, vocab_size=40)
    plain = scorer.score(episodes)
    found = scorer.score(episodes, attribution="deeplift")
    torch.testing.assert_close(
        torch.tensor(found.values), torch.tensor(plain.values), atol=1e-4, rtol=1e-4
    )
    assert found.attributions is not None
    sizes = [abs(row).sum() for row in found.attributions]
    gaps = found.parts["attribution_gap"]
    assert all(abs(gap) < 1e-4 * size for gap, size in zip(gaps, sizes, strict=True))
