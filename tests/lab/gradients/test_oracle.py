"""The gradient check on the small Oracle, rule by rule and estimator by estimator."""

import copy
import dataclasses
from typing import Any

import pytest
import torch

from tokengym.agents.losses import gae, rewards_to_go
from tokengym.envs import SettingsError
from tokengym.lab.gradients.exact import response_probs, values_to_come
from tokengym.lab.gradients.oracle import (
    SmallOracle,
    estimator_names,
    find_estimator,
    gradient_of,
    policies_along,
    rule_of,
)
from tokengym.rewards import Reward, Rule, shares, token_credit


@pytest.fixture(scope="module")
def small():
    return SmallOracle.make()


@pytest.fixture(scope="module")
def fixed():
    return SmallOracle.make(ends=False)


def policy(small, seed=0):
    logits = torch.randn(small.legal.shape, generator=torch.Generator().manual_seed(seed))
    return small.probs(logits.double())


def under(oracle, rule, name, **options):
    """Return the gradient check of a rule by name, under a policy that is drawn at random."""
    rewards, scores = oracle.rewarded(rule_of(rule))
    return gradient_of(oracle, policy(oracle), rewards, scores, name, **options)


def test_every_response_of_three_words(small, fixed):
    # 27 of three words, 9 + 3 + 1 ended by EOS; without EOS the 27 alone
    assert (len(small.responses), len(fixed.responses)) == (40, 27)
    assert float(small.true_scores().max()) == 2.0  # film good good
    assert {len(ids) for ids in fixed.responses.ids} == {3}


@pytest.mark.parametrize("name", ["reinforce", "reinforce++", "rloo", "dr-grpo", "loo", "gae"])
def test_sparse_has_the_right_direction_under_every_unbiased_estimator(small, name):
    probs = policy(small)
    rewards, scores = small.rewarded(
        rule_of("sparse"), centre=response_probs(probs, small.responses)
    )
    size = 2 if find_estimator(name).needs_groups else 1
    check = gradient_of(small, probs, rewards, scores, name, group_size=size)
    assert check.cosine == pytest.approx(1.0)
    assert check.scale == pytest.approx({"dr-grpo": 0.5}.get(name, check.scale))
    assert 0 < check.noise < float("inf")


def test_estimators_blind_to_token_rewards_have_one_gradient_for_all_rules(small):
    one, other = (under(small, rule, "grpo", group_size=2) for rule in ("sparse", "uniform"))
    assert torch.equal(one.expected, other.expected)


def test_red_is_unbiased_and_uniform_is_not(small):
    red = under(small, "red", "loo", group_size=2)
    assert red.cosine == pytest.approx(1.0, abs=1e-6)
    assert under(small, "uniform", "loo", group_size=2).cosine < 0.999


def test_per_index_mean_is_biased_where_lengths_differ_and_not_where_they_do_not(small, fixed):
    for oracle, biased in ((small, True), (fixed, False)):
        check = under(oracle, "red", "per-index-mean", group_size=2)
        assert (check.cosine < 0.99) == biased
        if not biased:  # the row itself is one of the two in its baseline
            assert check.scale == pytest.approx(0.5)
            assert check.cosine == pytest.approx(1.0)


def test_an_untrained_critic_leaves_the_discount_of_lambda(small):
    check = under(small, "sparse", "gae", critic=False)
    rewards, _ = small.rewarded(rule_of("sparse"))
    mask = small.responses.mask
    by_hand = gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, gae_lambda=0.95)[0]
    last = rewards_to_go(rewards, mask, gamma=0.95)
    torch.testing.assert_close(by_hand, last)
    assert 0.9 < check.cosine < 1.0


def test_the_rewards_of_exact_values_are_the_least_noisy_advantages():
    """VinePPO's A_t = r_t needs no lambda; through GAE(.95) with a critic the noise is sparse's."""
    five = SmallOracle.make(ends=False, horizon=5)
    probs = five.probs(torch.zeros(five.legal.shape, dtype=torch.float64))
    sparse, scores = five.rewarded(rule_of("sparse"), centre=response_probs(probs, five.responses))
    values = values_to_come(probs, five.responses, rewards_to_go(sparse, five.responses.mask))
    exact = torch.cat([values[:, 1:], scores[:, None]], 1) - values  # V(s_{t+1}) - V(s_t)
    noises = {}
    for name, rewards, estimator in (
        ("reward to go", sparse, "reinforce"),
        ("sparse", sparse, "gae"),
        ("mc through gae", exact, "gae"),
        ("mc", exact, "vineppo"),
    ):
        plain = copy.copy(find_estimator(estimator))
        plain.declared = dataclasses.replace(plain.declared, whitens=False)
        check = gradient_of(five, probs, rewards, scores, plain)
        assert (check.cosine, check.scale) == (pytest.approx(1.0), pytest.approx(1.0))
        noises[name] = round(check.noise, 1)
    expected = {"reward to go": 66.8, "sparse": 40.0, "mc through gae": 40.0, "mc": 12.6}
    assert noises == expected


def test_policies_along_a_run_climb(small):
    scores = small.true_scores()
    reached = [
        float((response_probs(probs, small.responses) * scores).sum())
        for probs in policies_along(small, scores, shares=(0.0, 0.5, 0.9))
    ]
    assert reached[0] < reached[1] < reached[2]
    assert reached[2] >= 0.9 * 2.0


def test_a_file_of_ones_own(small, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def twice(paid, response_mask):\n    return 2 * paid[:, None] * response_mask\nOther = 3\n"
    )
    assert under(small, "sparse", f"{file}:twice").scale == pytest.approx(2.0)
    with pytest.raises(SettingsError, match="function of named inputs, got 3"):
        find_estimator(f"{file}:Other")
    assert {"loo", "grpo", "prime"} <= set(estimator_names())


def test_what_reads_a_batch_gets_the_policys_own_means(small, tmp_path):
    """Not those of responses that are all alike likely."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from tokengym import token_credit\n"
        "@token_credit(by_row=False)\n"
        "def in_units_of_the_mean(token_rewards, response_mask):\n"
        "    return token_rewards * response_mask.sum() / token_rewards.sum()\n"
        "def as_paid(token_rewards, response_mask):\n"
        "    return 1.0 * token_rewards\n"
    )
    probs, mask = policy(small), small.responses.mask
    rewards, scores = small.rewarded(rule_of("sparse"))
    rewards, scores = rewards + mask, scores + mask.sum(1)  # so that no mean is near 0
    chances = response_probs(probs, small.responses)[:, None] * mask
    found = gradient_of(small, probs, rewards, scores, f"{file}:in_units_of_the_mean")
    paid = gradient_of(small, probs, rewards, scores, f"{file}:as_paid")
    mean, alike = (float((rewards * of).sum() / of.sum()) for of in (chances, 1.0 * mask))
    assert found.scale == pytest.approx(paid.scale / mean, rel=1e-3)
    assert abs(mean / alike - 1.0) > 0.02


def test_weights_that_are_drawn_are_not_enumerated(small):
    rewards, scores = small.rewarded(rule_of("sparse"))
    with pytest.raises(SettingsError, match="'random' reads generator"):
        gradient_of(small, policy(small), rewards, scores, "rloo", weights="random")


def test_a_weight_is_asked_with_the_advantages_of_its_group(small, tmp_path):
    """To cut off what is below the mean is no multiple of the gradient."""
    file = tmp_path / "ideas.py"
    file.write_text(
        "import torch\n"
        "def one(advantages, response_mask):\n"
        "    return 1.0 * response_mask\n"
        "def good_alone(advantages, response_mask):\n"
        "    return (advantages > 0) * response_mask * 1.0\n"
        "def sa_ah(entropy, advantages, response_mask, rate=0.5):\n"
        "    before = entropy.cumsum(1) - entropy\n"
        "    return torch.where(advantages < 0, (-rate * before).exp(), 1.0) * response_mask\n"
    )
    rewards, scores = small.rewarded(rule_of("sparse"))

    def check(name):
        how: Any = {"weights": f"{file}:{name}"}
        return gradient_of(small, policy(small), rewards, scores, "rloo", **how)

    assert check("one").relative_error < 1e-6
    for name in ("good_alone", "sa_ah"):
        found = check(name)
        assert found.relative_error > 0.02
        assert found.cosine < 0.9999


def test_a_rule_reads_what_the_enumerated_policy_knows(small, fixed):
    @token_credit
    def by_entropy(paid, entropy, response_mask):
        return paid[:, None] * shares(entropy, response_mask)

    @token_credit(conserves=False)
    def chances(log_probs, response_mask):
        return log_probs * response_mask

    def paid(oracle, rule, probs):
        reward = rule_of("uniform")
        of_rule = Reward(reward.scorer, Rule(rule), tokenizer=reward.tokenizer)
        return oracle.rewarded(of_rule, probs=probs)[0]

    even = fixed.probs(torch.zeros(fixed.legal.shape, dtype=torch.float64))  # one entropy at all
    uniform, _ = fixed.rewarded(rule_of("uniform"))
    torch.testing.assert_close(paid(fixed, by_entropy, even), uniform, rtol=0, atol=1e-6)
    probs = policy(small)
    sums = paid(small, chances, probs).sum(1)
    expected = response_probs(probs, small.responses).log()
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-5)
