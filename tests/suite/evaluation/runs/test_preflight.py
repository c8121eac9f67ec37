"""Settings that cannot work stop a comparison before its first run."""

from contextlib import nullcontext

import gymnasium as gym
import pytest

from tests.support.comparisons import comparison
from tokengym import on_last, token_credit
from tokengym.base.own_code import load_from_file
from tokengym.evaluation.runs.compare import preflight
from tokengym.evaluation.runs.decide import decide
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.settings import TaskSettings
from tokengym.rewards.check import try_rule


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
def misspelt(paid, responce_mask):
    return on_last(paid, responce_mask)
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
    def __call__(self, paid, response_mask):
        return on_last(paid, response_mask)
@token_credit
def of_rows(scores, response_mask):
    return scores
@token_credit
def of_columns(scores, entropy, response_mask):
    return scores * response_mask  # (batch,) * (batch, time)
@token_credit
def of_two(paid, response_mask):
    assert set(paid.tolist()) == {0.0, 1.0}
    return (paid[:, None] * response_mask / response_mask.sum(1, keepdim=True)).numpy()
@token_credit
def surprised(paid, response_mask, log_probs):
    return on_last(paid, response_mask)
@token_credit
def sound(paid, response_mask):
    return on_last(paid, response_mask)
@token_credit
def of_a_name(scores, response_mask):
    return on_last(scoers, response_mask)
@token_credit
def of_a_method(paid, response_mask):
    return on_last(paid.logg(), response_mask)
@token_credit
def of_a_module(scores, response_mask):
    import no_such_module
@token_credit
def of_a_call(paid, response_mask):
    return on_last(paid, response_mask, 1, 2, 3)
@token_credit
def half_spread(paid, response_mask):
    return on_last(paid / 2, response_mask)
@token_credit
def of_large_parts(paid, response_mask):
    parts = on_last(paid, response_mask)
    parts[:, 0] += 1 / 3
    parts[:, 1] -= 1 / 3
    return parts
@token_credit
def of_logs(paid, response_mask):
    return on_last(paid.log() + 1 / paid, response_mask)
@token_credit
def of_raters(paid, response_mask):
    assert (paid >= 1).all()
    return on_last(paid, response_mask)
@token_credit
def of_answers(paid, response_mask, responses):
    import re
    found = [re.search("#### (.*)", response).group(1) for response in responses]
    return on_last(paid, response_mask)
@token_credit
def of_answers_read(paid, response_mask, responses):
    found = [dict().get(response)[0] for response in responses]
    return on_last(paid, response_mask)
@token_credit
def of_one_branch(scores, response_mask):
    if scores.min() > 0:
        best = scores
    return on_last(best, response_mask)
@token_credit
def refuses_itself(paid, response_mask):
    from tokengym.rewards import CreditError
    if paid.min() < 1:
        raise CreditError("scores are from 1 to 5")
    return on_last(paid, response_mask)
SEEN = []
@token_credit
def remembers(paid, response_mask):
    SEEN.append(paid.mean())
    return on_last(paid - sum(SEEN) / len(SEEN), response_mask)
"""


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("misspelt", r"rules.py:3\) reads 'responce_mask', which nobody.*mean 'response_mask'"),
        ("many", r"many \(rules.py:6\) takes \*names"),
        (
            "trainers",
            r"reads 'values', which comes from a trainer alone.*advantage=, weights= or loss=",
        ),
        ("Broken", "no lexicon"),
        ("of_rows", r"of-rows \(rules.py:18\) returned a tensor of shape \(2,\); return \(batch"),
        ("of_columns", r"of-columns .* raised RuntimeError \(.*size of tensor.*at line 23 of "),
        ("of_two", ""),
        ("sound", ""),
        ("of_a_name", "raised NameError"),
        ("of_a_method", "raised AttributeError"),
        ("of_a_module", "raised ModuleNotFoundError"),
        ("of_a_call", "raised TypeError"),
    ],
)
def test_a_rule_whose_first_batch_would_fail_is_refused_before_the_first_run(
    tmp_path, rule, message
):
    (tmp_path / "rules.py").write_text(RULES)
    rewards = ("sparse", f"{tmp_path / 'rules.py'}:{rule}")
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        preflight(comparison("MovieReview", rewards=rewards, seeds=1))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            "half_spread",
            "gives rewards that sum to -0.125, -0.25 is paid; rescale them, or declare",
        ),
        ("of_large_parts", ""),
        ("of_logs", ""),
        ("of_raters", "raised AssertionError"),
        ("of_answers", "'NoneType' object has no attribute 'group'"),
        ("of_answers_read", "'NoneType' object is not subscriptable"),
        ("of_one_branch", "raised UnboundLocalError"),
        ("refuses_itself", "scores are from 1 to 5"),
    ],
)
def test_a_rule_that_fails_by_the_values_it_is_tried_on_is_not_refused(
    tmp_path, caplog, rule, said
):
    """Its scorer may never give scores such as 0, nor its policy such texts."""
    (tmp_path / "rules.py").write_text(RULES)
    preflight(comparison("MovieReview", rewards=(f"{tmp_path / 'rules.py'}:{rule}",), seeds=1))
    lines = [line for line in caplog.messages if "the runs begin all the same" in line]
    assert len(lines) == bool(said)
    assert all(said in line for line in lines), lines


def test_what_a_rule_remembers_is_not_of_its_trial(tmp_path):
    file = tmp_path / "rules.py"
    file.write_text(RULES)
    preflight(comparison("MovieReview", rewards=(f"{file}:remembers",), seeds=1))
    assert load_from_file(file, "SEEN") == []


def test_in_a_process_of_its_own_a_trial_runs_the_file_once_and_refuses_alike(tmp_path):
    file, loads = tmp_path / "rules.py", tmp_path / "loads.txt"
    loaded = f"with open({str(loads)!r}, 'a') as file: file.write('model ')\n"
    for is_forgotten, expected in ((False, 2), (True, 1)):
        loads.write_text("")
        file.write_text(f"{RULES}{loaded}# {is_forgotten}\n")
        words = (f"{file}:sound",)
        preflight(comparison("MovieReview", rewards=words, seeds=1), is_forgotten=is_forgotten)
        assert loads.read_text().split() == ["model"] * expected
    broken = comparison("MovieReview", rewards=(f"{file}:of_a_name",), seeds=1)
    with pytest.raises(ValueError, match="raised NameError"):
        preflight(broken, is_forgotten=True)


def test_a_function_of_no_file_is_not_called_on_trial():
    seen: list[float] = []

    @token_credit
    def remembers(paid, response_mask):
        seen.append(float(paid.mean()))
        return on_last(paid, response_mask)

    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, reward=remembers)
    try_rule(envs)
    envs.close()
    assert not seen


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
        "def continued(paid, continue_from, response_mask):\n"
        "    return on_last(paid, response_mask)\n"
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
