"""Each loss against numbers worked by hand; TRL's own are in preferences/test_trl.py."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.losses import PREFERENCE_LOSSES
from tokengym.agents.offline.settings import PreferenceLoss

# c = -10 - -12 = 2 and r = -9 - -8 = -1, so c - r = 3; second pair: c = -1, r = 1, c - r = -2
POLICY_CHOSEN, REF_CHOSEN = torch.tensor([-10.0, -6.0]), torch.tensor([-12.0, -5.0])
POLICY_REJECTED, REF_REJECTED = torch.tensor([-9.0, -3.0]), torch.tensor([-8.0, -4.0])
FOUR = (POLICY_CHOSEN, POLICY_REJECTED, REF_CHOSEN, REF_REJECTED)
C, R = (2.0, -1.0), (-1.0, 1.0)
LENGTHS: dict[str, Any] = {
    "chosen_lengths": torch.tensor([4, 1]),
    "rejected_lengths": torch.tensor([2, 4]),
}


def softplus(x: float) -> float:
    """-log sigmoid(-x) = log(1 + e^x), by the definition."""
    return math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def dpo(loss_type: str, beta: float, **settings: Any) -> Tensor:
    return losses.dpo_loss(*FOUR, beta=beta, loss_type=loss_type, **settings)


def assert_equal(found: Tensor, *expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected))


BY_HAND = [
    # beta .5: h = 1.5 and -1; -log sigmoid(1.5) = .2014, -log sigmoid(-1) = 1.3133
    ("sigmoid", 0.5, {}, (0.2014133, 1.3132617)),
    # .9 * .2014133 + .1 * 1.7014133 = .3514133
    ("sigmoid", 0.5, {"label_smoothing": 0.1}, (0.3514133, 0.9 * 1.3132617 + 0.1 * 0.3132617)),
    # (.9 * .2014133 - .1 * 1.7014133) / .8 = .0139133
    (
        "robust",
        0.5,
        {"label_smoothing": 0.1},
        (0.0139133, (0.9 * 1.3132617 - 0.1 * 0.3132617) / 0.8),
    ),
    ("robust", 0.5, {}, (0.2014133, 1.3132617)),
    ("hinge", 0.2, {}, (0.4, 1.4)),  # h = .6 and -.4
    ("hinge", 0.5, {}, (0.0, 2.0)),  # h = 1.5, past the margin, and -1
    # beta .25 wants 1 / .5 = 2; the given log-probs as they are: (3 - 2)^2, (-2 - 2)^2
    ("ipo", 0.25, {}, (1.0, 16.0)),
    # lengths 4 and 2: 2/4 - -1/2 = 1, (1 - 2)^2; lengths 1 and 4: -1/1 - 1/4 = -1.25, (-3.25)^2
    ("ipo", 0.25, LENGTHS, (1.0, 10.5625)),
    ("sigmoid_norm", 2.0, LENGTHS, (math.log1p(math.exp(-2.0)), math.log1p(math.exp(2.5)))),
    # sppo_hard (2 - 1)^2 + (-1 + 1)^2, and (-1 - 1)^2 + (1 + 1)^2
    ("sppo_hard", 0.5, {}, (1.0, 8.0)),
    # first pair: chosen has risen, plain DPO. second: h = -1, penalty .5 * 4 * (-5 - -6) = 2
    ("dpop", 0.5, {"dpop_coef": 4.0}, (0.2014133, math.log1p(math.exp(3.0)))),
    ("dpop", 0.5, {"dpop_coef": 0.0}, (0.2014133, 1.3132617)),
    # sigmoid's, and the likelihood: 10 / 5 and 6 / 2 nats per token
    (
        "rpo",
        0.5,
        {"nll_coef": 0.1, "chosen_lengths": torch.tensor([5, 2])},
        (0.2014133 + 0.1 * 2.0, 1.3132617 + 0.1 * 3.0),
    ),
]


@pytest.mark.parametrize(("name", "beta", "settings", "expected"), BY_HAND)
def test_losses_by_hand(name, beta, settings, expected):
    assert_equal(dpo(name, beta, **settings), *expected)


def test_robust_is_unbiased_under_flipped_labels():
    e = 0.2
    right = losses.dpo_loss(*FOUR, beta=0.5, loss_type="robust", label_smoothing=e)
    flipped = losses.dpo_loss(
        POLICY_REJECTED,
        POLICY_CHOSEN,
        REF_REJECTED,
        REF_CHOSEN,
        beta=0.5,
        loss_type="robust",
        label_smoothing=e,
    )
    torch.testing.assert_close((1 - e) * right + e * flipped, dpo("sigmoid", 0.5))


def test_the_losses_of_each_log_ratio():
    b = 0.5
    expected = {
        "nca_pair": lambda c, r: softplus(-b * c) + 0.5 * softplus(b * c) + 0.5 * softplus(b * r),
        "sppo_hard": lambda c, r: (c - 1.0) ** 2 + (r + 1.0) ** 2,
        "apo_zero": lambda c, r: 1 - sigmoid(b * c) + sigmoid(b * r),
        "apo_down": lambda c, r: sigmoid(b * c) + 1 - sigmoid(b * (c - r)),
    }
    for name, formula in expected.items():
        assert_equal(dpo(name, b), *map(formula, C, R))


def loss_of(
    loss_type: str, log_probs: tuple[Tensor, ...] = FOUR, *, beta: float = 0.5, **changes: Any
) -> Tensor:
    """A loss with lengths and with the coefficients that it reads, as the settings have them."""
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    settings = PreferenceLoss(loss_type=loss_type, beta=beta).arguments()
    tensors: dict[str, Any] = dict(zip(names, log_probs, strict=True))
    return losses.dpo_loss(**{**tensors, **LENGTHS, **settings, **changes})


def test_a_loss_reads_the_lengths_and_the_reference_that_it_declares():
    for name, loss in PREFERENCE_LOSSES.items():
        found = loss_of(name)
        moved = loss_of(name, (*FOUR[:2], REF_CHOSEN + 0.5, REF_REJECTED))
        assert torch.equal(found, moved) != loss.has_reference, name
        longer = loss_of(name, rejected_lengths=LENGTHS["rejected_lengths"] + 1)
        assert torch.equal(found, longer) != loss.per_token, name


def test_a_loss_reads_the_coefficients_that_it_declares():
    """A formula that reads another gives NaN; one that does not read its own gives the same."""
    for name, loss in PREFERENCE_LOSSES.items():
        found = loss_of(name)
        assert found.isfinite().all(), name
        for coefficient in loss.reads:
            value = vars(PreferenceLoss())[coefficient] + 0.1
            assert not torch.equal(found, loss_of(name, **{coefficient: value})), coefficient


def test_a_policy_that_is_its_reference_loses_log_two():
    same = torch.tensor([-3.0, -40.0])
    found = losses.dpo_loss(same, same - 1, same, same - 1, beta=0.1, loss_type="sigmoid")
    assert_equal(found, math.log(2), math.log(2))


@pytest.mark.parametrize("loss_type", [n for n in PREFERENCE_LOSSES if n != "orpo"])
def test_the_gradient_raises_chosen_against_rejected(loss_type):
    chosen = torch.zeros(1, requires_grad=True)
    rejected = torch.zeros(1, requires_grad=True)
    zero = torch.zeros(1)
    lengths = {name: torch.ones(1) for name in LENGTHS}
    loss_of(loss_type, (chosen, rejected, zero, zero), beta=0.1, **lengths).sum().backward()
    assert float(rejected.grad) > 0
    # apo_down is for chosen responses worse than the reference's: both go down, rejected faster
    assert (float(chosen.grad) < 0) == (loss_type != "apo_down") or float(chosen.grad) == 0
    assert float(rejected.grad) - float(chosen.grad) > 0


def test_far_off_pairs_stay_finite():
    far = torch.tensor([1e4, -1e4])
    zero = torch.zeros(2)
    found = losses.dpo_loss(far, -far, zero, zero, beta=1.0, loss_type="sigmoid")
    assert_equal(found, 0.0, 2e4)


def test_simpo():
    # beta 2, gamma .5: 2 * (-1 - -1.5) - .5 = .5
    averages = (torch.tensor([-1.0]), torch.tensor([-1.5]))
    found = losses.dpo_loss(*averages, beta=2.0, loss_type="simpo", gamma=0.5)
    assert_equal(found, softplus(-0.5))


def test_cpo():
    # beta .5: .5 * (-10 - -9) = -.5; likelihood 10 / 5 tokens
    found = losses.dpo_loss(
        POLICY_CHOSEN[:1],
        POLICY_REJECTED[:1],
        chosen_lengths=torch.tensor([5]),
        beta=0.5,
        loss_type="cpo",
        nll_coef=1.0,
    )
    assert_equal(found, softplus(0.5) + 2.0)


def test_orpo_by_probabilities():
    # p = .5 and .2 per token: odds 1 and .25, log of their ratio log 4; -log sigmoid = log 1.25
    chosen, rejected = torch.tensor([0.5]).log(), torch.tensor([0.2]).log()
    found = losses.dpo_loss(chosen, rejected, beta=0.1, loss_type="orpo")
    assert_equal(found, math.log(2) + 0.1 * math.log(1.25))


def test_orpo_near_certainty_has_a_finite_gradient():
    chosen = torch.tensor([-1e-6], requires_grad=True)
    losses.dpo_loss(chosen, torch.tensor([-20.0]), beta=0.1, loss_type="orpo").backward()
    assert chosen.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "dpo"}, "loss_type.*got 'dpo'"),
        ({"beta": 0.0}, r"beta.*got 0\.0"),
        ({"label_smoothing": 0.5}, r"label_smoothing.*\[0, 0\.5\), got 0\.5"),
        (
            {"loss_type": "hinge", "label_smoothing": 0.1},
            r"label_smoothing=0\.1.*loss_type='hinge'",
        ),
        ({"loss_type": "ipo", "chosen_lengths": torch.ones(2)}, "chosen_lengths.*rejected_lengths"),
        ({"chosen_lengths": torch.ones(3)}, r"chosen_lengths.*\(2,\), got \(3,\)"),
        ({"gamma": 1.0}, r"gamma=1\.0.*loss_type='sigmoid'"),
        ({"loss_type": "dpop"}, "loss_type='dpop'.*dpop_coef.*dpop_coef="),
        ({"loss_type": "cpo", "nll_coef": 1.0}, "chosen_lengths"),
        ({"ref_rejected": None}, r"loss_type='sigmoid'.*ref_chosen.*ref_rejected"),
    ],
)
def test_bad_settings_are_named(settings, message):
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    named: dict[str, Any] = dict(zip(names, FOUR, strict=True))
    with pytest.raises(ValueError, match=message):
        losses.dpo_loss(**{**named, "beta": 0.1, "loss_type": "sigmoid", **settings})


def test_tokens_instead_of_sums_are_refused():
    tokens = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"must.*got \(2, 3\)"):
        losses.dpo_loss(tokens, tokens, tokens, tokens, beta=0.1, loss_type="sigmoid")
    with pytest.raises(ValueError, match=r"ref_chosen.*\(2,\), got \(1,\)"):
        losses.dpo_loss(
            POLICY_CHOSEN,
            POLICY_REJECTED,
            REF_CHOSEN[:1],
            REF_REJECTED,
            beta=0.1,
            loss_type="sigmoid",
        )
