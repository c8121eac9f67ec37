"""The runs of the study of Monte Carlo credit: their prices, their order, and one tiny page."""

import re
from pathlib import Path

import gymnasium as gym
import pytest

import tokengym  # noqa: F401  (registers the ids)
from studies import mc
from tokengym.agents import PPO
from tokengym.base.files import write_csv


@pytest.mark.parametrize("rule", ["sparse", "mc:k=3,segments=4"])
def test_an_episode_costs_the_tokens_that_the_learner_counts(rule: str):
    envs = gym.make_vec(
        "tokengym/MovieReview-v0", num_envs=2, reward=rule, min_new_tokens=mc.LENGTH
    )
    agent = PPO("CausalLMPolicy", envs, n_minibatches=1, seed=0)
    agent.collect()
    assert agent.num_timesteps == 2 * mc.tokens_per_episode(rule)


def test_the_sweep_comes_first_and_what_it_costs(tmp_path: Path):
    assert mc.tokens_per_episode("mc:k=9,segments=8") == 48 + 9 * sum(range(6, 48, 6))
    assert mc.batches("sparse") == [8, 16, 64]
    assert mc.batches("mc:k=9") == [8]
    name, config, reward, seed = next(mc.pending(tmp_path))
    assert (name, reward, seed) == ("sparse-batch-8", "sparse", 1200)
    assert config.training.tokens == mc.BUDGET
    with pytest.raises(ValueError, match="sparse-batch-8 has runs to do; run the sweep"):
        mc.tuned_batch("abc-signed", tmp_path)


def publish_by_hand(docs: Path, cell: mc.Cell, gain: float) -> None:
    """Write a cell's runs, whose score rises evenly to ``gain`` at the budget."""
    rows = [
        {"credit": cell.rule, "seed": seed, "step": update, "tokens": update * 60_000}
        | {"score": gain * update * 60_000 / mc.BUDGET + 0.01 * seed, "kl": 0.0}
        for seed in cell.seeds
        for update in range(10)
    ]
    write_csv(docs / mc.FOLDER / f"{cell.name}.csv", rows, list(rows[0]))


def test_the_page_compares_over_tokens_and_marks_the_best_batch(tmp_path: Path):
    for cell in mc.sweep():
        assert cell.batch_size is not None
        publish_by_hand(tmp_path, cell, 1.0 + (cell.batch_size == 16))
    for cell in mc.grid():
        publish_by_hand(tmp_path, cell, 3.0 if cell.rule == "mc:k=9" else 1.0)
    mc.page(tmp_path)
    text = (tmp_path / "mc.md").read_text(encoding="utf-8")
    assert re.search(r"\| sparse \| 48 \| [\d.]+ \| \*\*[\d.]+\*\* \| [\d.]+ \|", text)
    assert re.search(r"\| mc:k=9 \| 10,200 \| \*\*[\d.]+\*\* \| \u2013 \| \u2013 \|", text)
    # The mean over the run is half the gain at its end, 540,000 tokens: (3 - 1) * .54 / .5 / 2.
    assert re.search(r"\| mc:k=9 \| \*\*\+1\.08\*\* .*10/10", text)
    assert (tmp_path / "mc" / "mc.png").exists()
