# mypy: no-check-untyped-defs
"""Papers' estimators and weights by hand, and under PPO."""

import math
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from examples.credit_papers import arca, sa_ah, sdpo, spo, sweet_spot, top_entropy
from tokengym import PPO

FILE = Path(__file__).parents[3] / "examples" / "credit_papers.py"
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_sdpo_is_the_log_ratio_to_the_policy_that_read_another_solution():
    log_probs, after = torch.full((5, 1), -2.0), torch.tensor([[-1.0], [-3.0], [-2.5], [0.0], [0]])
    seen = []

    def log_probs_after(texts):
        seen.extend(texts)
        return after

    found = sdpo(
        log_probs,
        log_probs_after,
        responses=["a", "b", "c", "d", "e"],
        scores=torch.tensor([1.0, 0.5, 0.4, 1.0, 0.0]),
        group_ids=torch.tensor([0, 0, 0, 1, 1]),
        response_mask=torch.ones(5, 1, dtype=torch.bool),
    )
    told = [text.removeprefix("Correct solution:\n\n").strip() for text in seen]
    assert told == ["b", "a", "a", "", "d"]  # no row is shown its own
    assert found[:, 0].tolist() == [1.0, -1.0, -0.5, 0.0, 2.0]


def test_spo_pays_a_segments_change_to_its_unsure_tokens():
    # Row 0: unsure at 0, 2, 3 and 4, sure at 1; every second of them begins a segment: 0 and 3.
    # Row 1: sure at 0, unsure at 1: the segments are tokens 0, and 1 to its end at 2.
    probs = torch.tensor([[0.5, 0.95, 0.8, 0.1, 0.2], [0.99, 0.6, 0.9, 1.0, 1.0]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    asked = []
    values = torch.tensor([[0.0, 0.0, 0.7, 0.0, 1.0], [0.3, 0.0, 0.0, 0.0, 0.0]])

    def continue_from(k, ends):
        asked.append((k, ends.tolist()))
        return values.double()

    found = spo(
        torch.tensor([1.0, 0.0]),
        continue_from,
        probs.log(),
        torch.tensor([4, 4]),
        mask,
        k=3,
        every=2,
    )
    ends = [[False, False, True, False, True], [True, False, True, False, False]]
    assert asked == [(3, ends)]
    first, second = 0.7 - 0.5, 1.0 - 0.7  # the group's mean before the first segment
    expected = [[first, 0.0, first, second, second], [0.0, 0.0 - 0.3, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_sweet_spot_weighs_prompts_by_the_deviation_of_their_pass_rate():
    scores, groups = torch.tensor([1.0, 0.0, 0.5, 1.0]), torch.tensor([0, 0, 1, 1])
    mask = torch.ones(4, 1, dtype=torch.bool)
    assert sweet_spot(scores, groups, mask)[:, 0].tolist() == [2.0, 2.0, 0.0, 0.0]
    one_in_four = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    groups, mask = torch.arange(8) // 4, torch.ones(8, 1, dtype=torch.bool)
    found, mean = sweet_spot(one_in_four, groups, mask), (math.sqrt(3 / 16) + 0.5) / 2
    assert found[[0, 4], 0].tolist() == pytest.approx([math.sqrt(3 / 16) / mean, 0.5 / mean])
    assert not sweet_spot(torch.ones(8), groups, mask).any()


def test_sa_ah_discounts_bad_responses_by_the_entropy_before():
    entropy = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 0.0]])
    advantages = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 0.0]])
    found = sa_ah(entropy, advantages, MASK, alpha=0.5, vocabulary=8)
    by_hand = [8 ** (-0.5 * 0 / 3), math.exp(-0.5 / math.log(8)), math.exp(-1.5 / math.log(8))]
    assert found[0].tolist() == pytest.approx(by_hand)
    assert found[1].tolist() == [1.0, 1.0, 0.0]


def test_top_entropy_takes_its_share_of_the_batch():
    entropy = torch.tensor([[1.0, 5.0, 3.0], [4.0, 2.0, 9.0]])
    assert top_entropy(entropy, MASK, share=0.25).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_arca_is_the_size_of_what_the_adapter_does_to_a_state():
    base = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    moved = base.clone()
    moved[0, :, 0] += torch.tensor([1.0, -3.0, 2.0])
    found = arca(moved, base, MASK)
    torch.testing.assert_close(found[0], torch.tensor([0.5, 1.5, 1.0]))
    assert found[1].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sdpo", {"advantage": "sdpo:success=-9"}),
        ("sdpo as weights", {"advantage": "rloo", "weights": "sdpo:success=-9"}),
        ("SC-SDPO", {"advantage": "sdpo:success=-9", "weights": "sweet_spot:success=0"}),
        ("spo", {"advantage": "spo:k=2"}),
        ("sa_ah", {"advantage": "rloo", "weights": "sa_ah:vocabulary=512"}),
        ("80/20", {"advantage": "rloo", "weights": "top_entropy"}),
        ("arca", {"advantage": "rloo", "weights": "arca"}),
    ],
)
def test_each_trains(name, settings):
    own = {
        place: value if value == "rloo" else f"{FILE}:{value}" for place, value in settings.items()
    }
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=8, max_new_tokens=12)
    agent = PPO("CausalLMPolicy", envs, seed=0, group_size=4, **own)
    before = [value.clone() for value in agent.policy.parameters()]
    agent.learn(2 * 8 * 12, log_interval=None)
    after = agent.policy.parameters()
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
