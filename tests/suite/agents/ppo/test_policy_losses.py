# mypy: no-check-untyped-defs
"""Policy losses by name: formulas and gradients by hand, and what a round's places read."""

import math
from functools import partial

import pytest
import torch

from tests.support.agents.common import make_model
from tests.support.rounds import round_of
from tokengym.agents import PPO, losses
from tokengym.agents.ppo import LOSSES, Loss
from tokengym.agents.ppo.policy_losses import cispo, clipped, gspo, sapo
from tokengym.envs import SettingsError
from tokengym.rewards import CreditError, token_credit

MASK = torch.tensor([[True, True], [True, False]])
OLD = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]])
NOW = torch.tensor([[-0.7, -2.1], [-1.1, 9.0]])
SIGNS = torch.tensor([[2.0, 2.0], [-1.0, 0.0]])


def loss_and_gradient(loss, **options):
    """Return the loss of each token, and the gradient of their sum over the mask."""
    log_probs = NOW.clone().requires_grad_(True)
    found = loss(log_probs, OLD, SIGNS, MASK, **options).masked_fill(~MASK, 0.0)
    found.sum().backward()
    return found.detach(), log_probs.grad


def test_clipped_is_ppos_loss_bit_for_bit():
    for low, high in ((0.2, 0.2), (0.1, 0.28)):
        how = {"clip_range": low, "clip_range_high": high}
        log_probs = NOW.clone().requires_grad_(True)
        table = clipped(log_probs, OLD, SIGNS, MASK, **how)
        mean = losses.masked_mean(table, MASK, count=3)
        assert torch.equal(mean, losses.policy_loss(log_probs, OLD, SIGNS, MASK, **how))
        ratio = math.exp(0.3)  # above 1 + high, at a positive advantage: no gradient
        assert table[0, 0].item() == pytest.approx(-2.0 * min(ratio, 1 + high))
        assert table[1, 0].item() == pytest.approx(max(math.exp(-0.6), 1 - low))


def test_gspo_has_one_ratio_for_a_response():
    wide, of_wide = loss_and_gradient(gspo, low=0.9, high=0.9)
    ratio = math.exp((0.3 - 0.1) / 2)  # the geometric mean of the two tokens' ratios
    torch.testing.assert_close(wide[0], torch.tensor([-2 * ratio, -2 * ratio]))
    torch.testing.assert_close(of_wide[0], torch.tensor([-2 * ratio, -2 * ratio]))
    assert wide[1, 0].item() == pytest.approx(math.exp(-0.6))
    narrow, of_narrow = loss_and_gradient(gspo)
    assert narrow[0, 0].item() == pytest.approx(-2 * (1 + 4e-4))
    assert narrow[1, 0].item() == pytest.approx(1 - 3e-4)
    assert not of_narrow.any()  # both rows are beyond their clip


def test_cispo_clips_a_weight_and_no_gradient():
    found, gradient = loss_and_gradient(cispo, high=1.1)
    expected = torch.tensor([[-1.1 * 2 * -0.7, -math.exp(-0.1) * 2 * -2.1]])
    torch.testing.assert_close(found[:1], expected)
    expected = torch.tensor([[-1.1 * 2, -math.exp(-0.1) * 2], [math.exp(-0.6), 0.0]])
    torch.testing.assert_close(gradient, expected)


def test_sapo_gates_softly_with_a_temperature_for_each_sign():
    found, gradient = loss_and_gradient(sapo, up=1.0, down=2.0)

    def gate(log_ratio, tau):
        return 1 / (1 + math.exp(-tau * math.expm1(log_ratio)))

    assert found[0, 0].item() == pytest.approx(-4 * gate(0.3, 1.0) * 2)
    assert found[1, 0].item() == pytest.approx(4 / 2 * gate(-0.6, 2.0))
    p = gate(0.3, 1.0)
    assert gradient[0, 0].item() == pytest.approx(-4 * p * (1 - p) * math.exp(0.3) * 2)


@pytest.mark.parametrize("name", ["gspo", "cispo", "sapo", "clipped"])
def test_on_the_policy_that_sampled_each_has_the_policy_gradient(name):
    options = {"clip_range": 0.2, "clip_range_high": 0.2} if name == "clipped" else {}
    log_probs = OLD.clone().requires_grad_(True)
    found = LOSSES.find(name)(log_probs, OLD, SIGNS, MASK, **options)
    found.masked_fill(~MASK, 0.0).sum().backward()
    torch.testing.assert_close(log_probs.grad, -SIGNS)


def train(make_ppo, **settings):
    agent = make_ppo(model=make_model(), **settings)
    agent.learn(2 * 4 * 6)
    return torch.cat([p.detach().flatten() for p in agent.policy.trained_parameters()]), agent


def as_clipped(log_probs, old_log_probs, advantages, response_mask, clip_range, clip_range_high):
    return clipped(log_probs, old_log_probs, advantages, response_mask, clip_range, clip_range_high)


def test_a_loss_of_ones_own_trains_as_the_named_one(make_ppo):
    plain, _ = train(make_ppo)
    assert torch.equal(plain, train(make_ppo, loss=as_clipped)[0])
    for name in ("gspo", "cispo", "sapo:up=2"):
        other, agent = train(make_ppo, loss=name)
        assert not torch.equal(plain, other)
        assert agent.policy_loss.name == name.partition(":")[0]


def test_the_names_of_a_round_are_cut_with_its_parts(make_ppo):
    """A loss reads of its rows what the whole round's weight reads, whatever parts it is passed."""
    seen: list[tuple[torch.Tensor, list[str]]] = []

    def spoken(log_probs, old_log_probs, advantages, response_mask, scores, responses, row_seeds):
        assert len(scores) == len(responses) == len(row_seeds) == len(log_probs)
        seen.append((scores, responses))
        ratio = losses.policy.masked_ratio(log_probs, old_log_probs, response_mask)
        return -ratio * advantages * (scores != 99.0)[:, None]

    whole, agent = train(make_ppo, loss=spoken, n_minibatches=1, n_epochs=1)
    assert sum(len(texts) for _, texts in seen) == agent._n_updates * agent.n_envs
    parts, _ = train(make_ppo, loss=spoken, n_minibatches=1, n_epochs=1, micro_batch_size=1)
    torch.testing.assert_close(whole, parts, atol=5e-5, rtol=1e-4)


def test_a_declared_mean_wins_over_the_estimators_and_figures_are_logged(make_ppo):
    @token_credit(loss_mean="sequence")
    def mine(log_probs, old_log_probs, advantages, response_mask):
        move = (log_probs - old_log_probs).masked_fill(~response_mask, 0.0)
        return -move.exp() * advantages, {"moved": move.detach().abs().amax(1)}

    _, agent = train(make_ppo, loss=mine)
    assert agent.objective().loss_mean == "sequence"
    assert "train/clip_fraction" not in agent.logger.name_to_value
    assert agent.logger.name_to_value["train/moved"] >= 0.0
    told = make_ppo(model=make_model(), loss=mine, loss_mean="token")
    assert told.objective().loss_mean == "token"


@token_credit(by_row=False)
def compares(log_probs, old_log_probs, advantages, response_mask):
    return -(log_probs - old_log_probs) * (advantages - advantages[response_mask].mean())


def no_gradient(advantages, response_mask):
    return advantages


def asks(log_probs, log_probs_after):
    return log_probs


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": compares, "micro_batch_size": 2}, "compares the rows .*leave micro_batch_size"),
        ({"loss": "gspo", "clip_range": 0.3}, "clip_range has no effect with a loss that reads no"),
        ({"loss": "gspo", "clip_range_high": 0.3}, "clip_range_high has no effect with a loss"),
        ({"loss": "gsop"}, "loss 'gsop'.*'gspo'"),
        ({"loss": asks}, "'log_probs_after', which is asked of whole rounds"),
        ({"weights": no_gradient, "advantage": lambda advantages: advantages}, "is to return"),
        ({"loss": 3}, "loss must be a name or function, got 3"),
    ],
)
def test_what_cannot_be_a_loss_is_refused(make_ppo, settings, words):
    with pytest.raises(SettingsError, match=words):
        make_ppo(model=make_model(), **settings)


def test_a_loss_without_a_gradient_is_refused(make_ppo):
    with pytest.raises(CreditError, match="without a gradient; read log_probs"):
        train(make_ppo, loss=no_gradient)


def test_a_loss_of_replies_and_lost_rows_is_laid_out_as_the_mask():
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, False]])
    log_probs = torch.tensor([[-1.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-3.0, -4.0, 0.0]])
    log_probs.requires_grad_(True)

    def mine(log_probs, advantages, scores, texts):
        assert scores.tolist() == [5.0, 7.0]
        assert texts == ["a", "c"]
        return log_probs * advantages

    step = round_of(torch.zeros(3, 3), mask, log_probs=log_probs, advantages=torch.ones(3, 3))
    named = {"scores": torch.tensor([5.0, 6.0, 7.0]), "texts": ["a", "b", "c"]}
    found, _ = Loss(mine).per_token(step, named)
    assert found.tolist() == [[-1.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-3.0, -4.0, 0.0]]
    found.sum().backward()
    assert torch.equal(log_probs.grad, mask.float())


def test_scores_are_what_the_scorer_said_and_paid_what_is_earned(make_envs):
    """One verifier, in each place, at a price of the KL and under a normalisation."""
    import gymnasium as gym

    seen: dict[str, list[float]] = {}

    def watch(place, shape=None):
        def read(scores, paid, response_mask):
            seen[place] = sorted({*scores.tolist()})
            seen[f"{place} paid"] = [round(one, 2) for one in sorted({*paid.tolist()})]
            return 1.0 * response_mask

        return read

    def loss(log_probs, advantages, scores, response_mask):
        seen["loss"] = sorted({*seen.get("loss", []), *scores.tolist()})
        return -log_probs * advantages

    def even(response):
        return float(len(response) % 2 == 0)

    for normalize in (None, "batch"):
        seen.clear()
        envs = gym.make_vec(
            "tokengym/MovieReview-v0",
            **{"num_envs": 8, "scorer": even, "normalize": normalize, "max_new_tokens": 6},
        )
        places = {"advantage": watch("advantage"), "weights": watch("weights"), "loss": loss}
        PPO("CausalLMPolicy", envs, **places, kl_coef=0.05, seed=0, device="cpu").learn(2 * 8 * 6)
        assert seen["advantage"] == seen["weights"] == seen["loss"] == [0.0, 1.0]
        assert seen["advantage paid"] == seen["weights paid"] != [0.0, 1.0]


def test_every_place_reads_the_same_names(make_ppo):
    seen = set()

    def function(
        response_mask,
        log_probs,
        old_log_probs,
        entropy,
        kl,
        hidden_states,
        top_log_probs,
        log_probs_of,
        log_probs_after,
        policy_attention,
        ref_log_probs,
        ref_entropy,
        ref_attention,
        ref_hidden_states,
        ref_log_prob_of,
        continue_from,
        generator,
        prefix_scores,
        place="",
    ):
        rows = len(response_mask)
        named = log_probs_of([3, 4])
        assert named.shape == (*response_mask.shape, 2)
        assert (named.exp().sum(-1)[response_mask] < 1.0).all()
        after = log_probs_after([""] * rows)
        torch.testing.assert_close(
            after[response_mask], log_probs[response_mask], atol=1e-4, rtol=1e-4
        )
        ends = response_mask.clone()
        assert continue_from(1, ends).isfinite().all()
        assert ref_log_prob_of(["b c"] * rows).shape == (rows, 1 + response_mask.shape[1])
        torch.testing.assert_close(
            ref_hidden_states.float(), hidden_states.float(), atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            ref_entropy[response_mask], entropy[response_mask], atol=1e-4, rtol=1e-4
        )
        assert policy_attention.shape == ref_attention.shape
        torch.testing.assert_close(
            policy_attention.float(), ref_attention.float(), atol=1e-4, rtol=1e-4
        )
        seen.add(place)
        return 1.0 * response_mask

    places = {one: partial(function, place=one) for one in ("advantage", "weights")}
    agent = make_ppo(model=make_model(), **places)
    agent.learn(4 * 6)
    assert seen == {"advantage", "weights"}
