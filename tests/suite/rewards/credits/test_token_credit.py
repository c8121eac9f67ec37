# mypy: no-check-untyped-defs
"""What the decorator and a signature say, and the options that every rule has."""

import inspect
import pickle
from functools import partial
from typing import Any, cast

import pytest
import torch

from tokengym import rewards
from tokengym.base.objects import word_of
from tokengym.rewards import token_credit
from tokengym.rewards.credits.rule import Rule, as_rule
from tokengym.rewards.credits.token_credit import Signature, is_token_credit
from tokengym.rewards.errors import CreditError
from tokengym.rewards.registry import RewardChoice


@token_credit(beta=0.5, gae_lambda=lambda beta, power: beta * power)
def halved(scores, response_mask, level, power=2):
    return scores[:, None] * response_mask


def plain(scores, response_mask):
    return scores[:, None] * response_mask


@token_credit(parts=True, causal=True, name="steps")
def increments(prefix_scores):
    return prefix_scores.diff(dim=1)


@token_credit(conserves=False)
class Running:
    """Pays what is above a running mean."""

    def __init__(self, decay=0.5):
        self.decay, self.mean = decay, 0.0

    def __call__(self, scores, response_mask, scale=1.0):
        self.mean = self.decay * self.mean + (1 - self.decay) * float(scores.mean())
        return scale * (scores - self.mean)[:, None] * response_mask

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


def test_the_function_stays_what_it_was():
    assert halved.__name__ == "halved"
    assert pickle.loads(pickle.dumps(halved)) is halved
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert halved(torch.tensor([2.0]), mask, None).tolist() == [[2.0, 2.0]]
    assert is_token_credit(partial(halved, power=1))
    assert not is_token_credit(plain)


def test_no_default_is_read_and_a_default_is_an_option():
    signature = Signature.of(halved)
    assert signature.reads == ("scores", "response_mask", "level")
    assert signature.options == {"power": 2}
    assert signature.name == "halved"
    assert signature.place.startswith("test_token_credit.py:")
    rule = Rule(halved)
    assert rule.reads_of("data") == ["level"]
    assert rule.reads_of("scorer") == ["scores", "paid"]  # to which it is held


def test_facts_may_be_functions_of_the_options():
    assert Rule(halved).gae_lambda == 1.0
    assert Rule(halved, beta=0.25, power=3).gae_lambda == 0.75
    assert Rule(partial(halved, power=4), beta=1).gae_lambda == 4.0


def test_a_model_is_an_option():
    @token_credit(models={"policy": "language", "judge": "reward"})
    def ratio(response_mask, policy_log_probs, judge_attention, beta=0.1):
        return beta * policy_log_probs

    rule = Rule(ratio, policy="folder", judge="other")
    assert rule.signature.models == {"policy": "language", "judge": "reward"}
    assert rule.options["policy"] == "folder"
    assert rule.columns == []
    assert rule.options["beta"] == 0.1
    assert rule.reads[0] == "response_mask"
    with pytest.raises(CreditError, match="'ratio' needs policy; write 'ratio:policy=PATH'"):
        Rule(ratio, judge="other")


def test_a_causal_rule_is_paid_by_the_step_and_pieces_when_they_are_known():
    assert Rule(increments).name == "steps"
    assert Rule(increments).causal
    assert not Rule(increments, segments=2).causal
    assert not Rule(halved).causal
    assert Rule(increments).accounts == ["prefix"]


def test_a_cut_by_the_text_takes_the_place_of_the_rules_own_segments():
    @token_credit(segments=6)
    def cuts(scores, response_mask):
        return scores[:, None] * response_mask

    assert Rule(cuts).options["segments"] == 6
    for cut in ("turn", "line", "sentence"):
        rule = Rule(cuts, cut=cut)
        assert (rule.cut, rule.options["segments"]) == (cut, None)
        with pytest.raises(CreditError, match=f"segments=3 has no effect with cut='{cut}'"):
            Rule(cuts, cut=cut, segments=3)
    for cut in ("even", "entropy", None):
        assert Rule(cuts, cut=cut).options["segments"] == 6


def test_a_class_is_made_with_its_options_and_keeps_a_state():
    rule = Rule(Running, decay=0.75, scale=2.0)
    assert rule.reads == ("scores", "response_mask")
    assert not rule.conserves
    assert rule.state_dict() == {"mean": 0.0}
    rule.load_state_dict({"mean": 3.0})
    assert rule.function.mean == 3.0
    assert pickle.loads(pickle.dumps(rule)).state_dict() == {"mean": 3.0}
    with pytest.raises(CreditError, match="'halved' holds no state, got \\['mean'\\]"):
        Rule(halved).load_state_dict({"mean": 1.0})


def test_only_what_is_marked_becomes_a_rule():
    assert as_rule(plain) is plain
    assert isinstance(as_rule(halved, beta=1), Rule)


def several(*scores):
    return scores[0]


def read_with_default(scores=None):
    return scores


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: token_credit(**cast(Any, {"causl": True})),
            TypeError,
            "no fact 'causl'; did you mean 'causal'",
        ),
        (
            lambda: token_credit(cast(Any, "abc")),
            TypeError,
            "marks a function or a class, got 'abc'",
        ),
        (lambda: Rule(halved, powr=1), CreditError, "no option 'powr'; did you mean 'power'"),
        (lambda: Rule(halved, level=1), CreditError, "no option 'level'.*it reads level"),
        (lambda: Rule(several), CreditError, "several .test_token_credit.py:.*takes \\*scores"),
        (lambda: Rule(read_with_default), CreditError, "gives 'scores' a default"),
        (lambda: Rule(halved, beta=1.5), CreditError, "beta.*got 1.5.*0 is sparse"),
        (lambda: Rule(halved, segments=0), CreditError, "segments.*got 0.*every token"),
        (lambda: Rule(halved, cut="word"), CreditError, "cut.*got 'word'"),
        (lambda: Rule(halved, cut="entropy"), CreditError, "cuts nothing.*add segments=8"),
        (lambda: Rule(halved, cut="line", segments=2), CreditError, "no effect with cut='line'"),
        (lambda: Rule(halved, pay="evenly"), CreditError, "no option 'pay'; write the rule w"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


@token_credit(beta=0.5)
def raised(scores, response_mask, power=1.0):
    return scores[:, None] ** power * response_mask / response_mask.sum(1, keepdim=True)


HALF = partial(raised, power=2.0)


def test_a_partial_is_a_rule_wherever_a_function_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from functools import partial\nfrom tokengym import token_credit\n\n"
        "@token_credit\ndef mine(scores, response_mask, power=1.0):\n"
        "    return scores[:, None] * response_mask\n\n"
        "half = partial(mine, power=0.5)\n"
    )
    rewards.register("raised-twice", HALF)
    rewards.register("raised-twice", partial(raised, power=2.0))  # an equal one
    options = {
        "raised-twice": {"power": 2.0, "beta": 0.5},
        "raised-twice:power=3,beta=1": {"power": 3, "beta": 1},
        "own.py:half": {"power": 0.5, "beta": 1.0},
        "own.py:half:power=1": {"power": 1, "beta": 1.0},
        word_of(HALF): {"power": 2.0, "beta": 0.5},
    }
    for word, expected in options.items():
        made: Any = RewardChoice.of(word).made
        assert {name: made.options[name] for name in expected} == expected
    shown = inspect.signature(rewards.REWARDS["raised-twice"].factory).parameters
    assert shown["power"].default == 2.0
    with pytest.raises(ValueError, match=r"has no option 'pwer'.*it has power"):
        RewardChoice.of("own.py:half:pwer=1")


def test_a_partial_by_place_and_a_marked_one_are_refused():
    with pytest.raises(CreditError, match=r"raised .*is given 0\.5 by place .*options by name"):
        Rule(partial(raised, 0.5))
    with pytest.raises(TypeError, match="mark plain and pass the partial"):
        token_credit(partial(plain, power=2))
    with pytest.raises(TypeError, match="mark raised and pass the partial"):
        token_credit(beta=0.1)(HALF)
    assert token_credit(HALF) is HALF
