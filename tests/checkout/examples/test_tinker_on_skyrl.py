"""A credit rule on SkyRL's JAX engine, end to end and tiny, where the engine is installed."""

import csv
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="SKIPPED BY NAME: jax is not installed")
pytest.importorskip("skyrl.backends.jax", reason="SKIPPED BY NAME: skyrl is not installed")

import jax

from examples import tinker_on_skyrl as one
from tokengym.bridges.rows import Row

SIZES: dict[str, Any] = {
    **{"seeds": 1, "updates": 2, "prompts": 2, "group_size": 2, "max_new_tokens": 4, "rank": 4},
    **{"evaluate_every": 1, "held_out": 4, "hidden_size": 16, "texts": 64, "learning_rate": 0.3},
}


@pytest.fixture(scope="module")
def args(tmp_path_factory: pytest.TempPathFactory) -> one.Args:
    """Return the settings of a run that has been made."""
    args = one.Args(out=tmp_path_factory.mktemp("skyrl"), **SIZES)
    one.main(args)
    return args


@pytest.fixture(scope="module")
def engine(args: one.Args) -> one.Engine:
    return one.Engine(one.policy_folder(args), args)


def gradient(engine: one.Engine, data: list[Any]) -> list[np.ndarray]:
    """Return the gradient of some data, and forget it."""
    engine.gradient(data)
    backend = engine.backend
    found = [np.array(leaf) for leaf in jax.tree.leaves(backend.accumulated_grads.grad_sum)]
    index = jax.numpy.int32(backend.models[one.RUN].adapter_index)
    backend.accumulated_grads = backend.accumulated_grads.reset_adapter(index)
    return found


@pytest.mark.parametrize("size", ["hidden_size", "texts", "max_new_tokens"])
def test_a_policy_of_other_sizes_is_not_taken_for_it(args: one.Args, size: str) -> None:
    """A folder that is there is not taught again."""
    changes: dict[str, Any] = {size: 8}
    other = replace(args, **changes)
    assert one.policy_folder(args).is_dir()
    assert not one.policy_folder(other).exists()


def test_rules_are_trained_on_the_same_start(args: one.Args) -> None:
    with (args.out / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["credit"], row["step"]) for row in rows] == [
        (rule, str(step)) for rule in args.rewards for step in range(3)
    ]
    assert rows[0]["score"] == rows[3]["score"]
    assert rows[2]["score"] != rows[0]["score"] != rows[5]["score"]


def test_the_engine_learns_from_what_it_sampled(engine: one.Engine) -> None:
    """Its learner finds the log-probs of its sampler, and the loss is -advantage x tokens."""
    engine.begin(0)
    sampled = engine.sample([[5, 6], [7, 8, 9]], 2, seed=1)
    assert [row.group for row in sampled.rows] == [0, 0, 1, 1]
    assert len({tuple(row.response_ids) for row in sampled.rows}) == 4
    advantages = np.arange(1.0, 5.0)
    data = [
        one.datum(row, advantages, log_probs)
        for row, log_probs in zip(sampled.rows, sampled.log_probs, strict=True)
    ]
    output = engine.gradient(data)
    gradient(engine, data)  # forgets both
    for answer, row, log_probs in zip(
        output.loss_fn_outputs, sampled.rows, sampled.log_probs, strict=True
    ):
        np.testing.assert_allclose(answer["logprobs"]["data"][-4:], log_probs, atol=1e-4)
        size = len(row.prompt_ids) + 3
        losses = [0.0] * (size - 4) + [-size * one_token for one_token in advantages]
        np.testing.assert_allclose(answer["elementwise_loss"]["data"], losses, rtol=1e-3)


def test_tokens_without_credit_do_not_lower_the_weight_of_the_others(engine: one.Engine) -> None:
    """The engine divides a datum by its tokens; `mean_per_row` multiplies by them."""
    engine.begin(0)
    short = Row(prompt_ids=[5, 6], response_ids=[7, 8], group=0)
    longer = Row(prompt_ids=[5, 6], response_ids=[7, 8, 9, 10, 11], group=0)
    small, large = (
        gradient(engine, [one.datum(row, [1.0, -2.0] + [0.0] * rest, [-6.0] * (2 + rest))])
        for row, rest in ((short, 0), (longer, 3))
    )
    assert any(array.any() for array in small)
    for few, many in zip(small, large, strict=True):
        np.testing.assert_allclose(few, many, atol=1e-5 * max(1e-9, float(np.abs(few).max())))
