"""Settings that cannot work stop a comparison before its first run."""

import pytest
import torch

from tokengym.evaluation.runs.compare import compare, preflight
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import training_settings


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
    config = ComparisonConfig(
        env="MovieReview",
        rewards=("sparse",),
        training=training_settings("tokengym/MovieReview-v0", **settings),
    )
    with pytest.raises(ValueError, match=message):
        preflight(config)


@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"precision": "bf16-mixed"}])
def test_products_of_float32_are_refused_beside_bfloat16(settings):
    with pytest.raises(ValueError, match=r"products='onednn'.*float32"):
        training_settings("tokengym/MovieReview-v0", products="onednn", **settings)


def test_a_gpu_that_is_missing_is_refused_before_the_first_run(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    training = training_settings("tokengym/MovieReview-v0", device="cuda")
    config = ComparisonConfig(env="MovieReview", rewards=("sparse",), training=training)
    with pytest.raises(ValueError, match="device 'cuda' is not available: torch sees 0 GPUs"):
        compare(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
