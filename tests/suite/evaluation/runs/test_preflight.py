"""Settings that cannot work stop a comparison before its first run."""

from contextlib import nullcontext

import pytest

from tests.support.comparisons import comparison
from tokengym.evaluation.runs.compare import preflight
from tokengym.evaluation.runs.decide import decide
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.settings import TaskSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"advantage": "lo"}, "'lo'.*'loo'.*'rloo'"),
        (
            {"products": "onednn", "device": "meta"},
            "for computation in float32 on a CPU, got device='m",
        ),
        ({"advantage": "loo"}, "advantage='loo' needs group_size"),
        ({"advantage": "loo", "group_size": 6}, "group_size.*got 6"),
    ],
)
def test_a_comparison_is_refused_before_its_first_run(settings, message):
    config = comparison(
        env="MovieReview",
        rewards=("sparse",),
        training=training_settings("tokengym/MovieReview-v0", **settings),
    )
    with pytest.raises(ValueError, match=message):
        preflight(config)


RULES = """
from tokengym.rewards import on_last, token_credit
@token_credit
def misspelt(scores, responce_mask):
    return on_last(scores, responce_mask)
@token_credit
def many(*names):
    return names[0]
@token_credit
def trainers(values):
    return values
@token_credit
class Broken:
    def __init__(self):
        raise ValueError("no lexicon")
    def __call__(self, scores, response_mask):
        return on_last(scores, response_mask)
@token_credit
def of_rows(scores, response_mask):
    return scores
@token_credit
def of_columns(scores, entropy, response_mask):
    return scores * response_mask  # (batch,) * (batch, time)
@token_credit
def of_two(scores, response_mask):
    assert set(scores.tolist()) == {0.0, 1.0}
    return (scores[:, None] * response_mask / response_mask.sum(1, keepdim=True)).numpy()
@token_credit
def surprised(scores, response_mask, log_probs):
    return on_last(scores, response_mask)
@token_credit
def sound(scores, response_mask):
    return on_last(scores, response_mask)
"""


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("misspelt", r"rules.py:3\) reads 'responce_mask', which nobody.*mean 'response_mask'"),
        ("many", r"many \(rules.py:6\) takes \*names"),
        ("trainers", r"reads 'values', which comes from a trainer alone.*advantage= or weights="),
        ("Broken", "no lexicon"),
        ("of_rows", r"of-rows \(rules.py:18\) returned a tensor of shape \(2,\); return \(batch"),
        ("of_columns", r"of-columns .* raised RuntimeError \(.*size of tensor.*at line 23 of "),
        ("of_two", ""),
        ("sound", ""),
    ],
)
def test_a_rule_whose_first_batch_would_fail_is_refused_before_the_first_run(
    tmp_path, rule, message
):
    (tmp_path / "rules.py").write_text(RULES)
    rewards = ("sparse", f"{tmp_path / 'rules.py'}:{rule}")
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        preflight(comparison("MovieReview", rewards=rewards, seeds=1))


def test_an_agent_without_a_policy_is_refused_under_a_rule_that_reads_it(tmp_path):
    (tmp_path / "rules.py").write_text(RULES)
    word = f"{tmp_path / 'rules.py'}:surprised"
    preflight(decide(env="MovieReview", rewards=word, agents=["ppo", "grpo"]))
    preflight(decide(env="MovieReview", rewards="sparse", agents=["ppo", "sb3:A2C"]))
    said = r"surprised' reads 'log_probs' of the policy.*'sb3:A2C' does not give; take one.*'ppo'"
    with pytest.raises(ValueError, match=said):
        preflight(decide(env="MovieReview", rewards=word, agents=["ppo", "sb3:A2C"]))


def test_an_agent_of_ones_own_may_bind_itself(tmp_path):
    (tmp_path / "rules.py").write_text(
        "from tokengym import on_last, token_credit\n"
        "@token_credit\n"
        "def continued(scores, continue_from, response_mask):\n"
        "    return on_last(scores, response_mask)\n"
    )
    word = f"{tmp_path / 'rules.py'}:continued"
    own = tmp_path / "own.py"
    own.write_text(
        "class Mine:\n    def predict(self, *seen): ...\n    def learn(self, episodes): ...\n"
    )
    preflight(decide(env="MovieReview", rewards=word, agents=[f"{own}:Mine"]))
    with pytest.raises(ValueError, match=r"reads 'continue_from' of the policy.*'sb3:A2C'"):
        preflight(decide(env="MovieReview", rewards=word, agents=["sb3:A2C"]))


def test_prompts_of_both_splits_are_named(tmp_path, caplog):
    (tmp_path / "train.csv").write_text("text\nonce\ntwice\nthe end\n")
    (tmp_path / "test.csv").write_text("text\nonce\na cat\nthe end\n")
    config = comparison(
        env="MovieReview",
        rewards=("sparse",),
        training=training_settings("tokengym/MovieReview-v0"),
        task=TaskSettings(dataset=str(tmp_path), prompt_column="text", prompt_tokens=None),
    )
    preflight(config)
    said = [line for line in caplog.messages if "have a prompt that is learned from" in line]
    assert [line.partition(" held-out rows")[0] for line in said] == ["2 of 3"]
