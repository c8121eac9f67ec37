"""The study of a critic that knows the chance of success: its runs, its rule and its table."""

from pathlib import Path

import numpy as np
import pytest

from studies import forks_critic
from studies.forks import CURVES
from studies.forks_critic import BESIDE, STUDY, Beside, cells
from tokengym.envs import Episode
from tokengym.lab.study import read_rows

DOCS = Path(__file__).parents[2] / "docs" / "results"
ROWS = read_rows(DOCS / "forks" / CURVES, text=("cell", "credit"))


def test_a_run_is_that_of_the_hard_setting_with_the_models_critic(tmp_path: Path) -> None:
    made = STUDY.config(cells()[1].but(rate=1e-3, seed=80), tmp_path)
    learner = made.training.learner
    assert (learner.value_network, learner.gae_lambda, learner.kl_coef) == (
        "reward_model",
        0.5,
        0.01,
    )
    assert (made.training.tokens, made.training.max_new_tokens) == (200_000, 28)
    assert made.task.task_options == "family=brackets,decisions=5,distractors=2"


def test_the_rule_pays_the_last_token_and_reads_no_attention() -> None:
    episode = Episode(prompt="a", response="b", prompt_ids=[1], response_ids=[2, 3, 4])
    for attention in (np.ones(3, np.float32), np.array([5, 0, 0], np.float32)):
        assert Beside().spread(0.5, episode, attention).tolist() == [0.0, 0.0, 0.5]


@pytest.mark.parametrize("name", BESIDE)
def test_the_runs_beside_it_are_published_on_the_same_seeds(name: str) -> None:
    published = forks_critic.by_seed(ROWS, BESIDE[name])
    assert {*forks_critic.SEEDS} <= published.keys()
    assert {row["step"] for row in published[80]} >= {*range(0, 112, forks_critic.EVERY)}
