"""Settings that cannot work stop a comparison before its first run."""

from contextlib import nullcontext

import pytest

from tests.support.comparisons import comparison
from tokengym.evaluation.runs.compare import preflight
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
from tokengym.rewards import Credit
class Short(Credit):
    def spread(self, score, episode):
        return [score]
class Batch(Credit):
    def assign(self, episodes):
        return []
class Idle(Credit):
    pass
class Broken(Credit):
    def __init__(self):
        raise ValueError("no lexicon")
    def spread(self, score, episode, attribution):
        return [score]
class Sound(Credit):
    def spread(self, score, episode, *rest):
        return [score]
"""


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("Short", r"spread of rule Short must take .*attribution.*got \(self, score, episode\)"),
        ("Batch", r"assign of rule Batch must take .*scores.*got \(self, episodes\)"),
        ("Idle", r"rule Idle pays nothing; define spread\("),
        ("Broken", "no lexicon"),
        ("Sound", ""),
    ],
)
def test_a_rule_whose_first_batch_would_fail_is_refused_before_the_first_run(
    tmp_path, rule, message
):
    (tmp_path / "rules.py").write_text(RULES)
    rewards = ("sparse", f"{tmp_path / 'rules.py'}:{rule}")
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        preflight(comparison("MovieReview", rewards=rewards, seeds=1))


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
