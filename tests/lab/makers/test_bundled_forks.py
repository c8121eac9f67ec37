"""The bundled models of Forks: what the policy solves, and what the reward model knows."""

from typing import Any

import numpy as np
import pytest

from tokengym.envs import bundled
from tokengym.evaluation.measure.evaluate import Evaluator
from tokengym.lab.envs.forks.env import VOCABULARY, forks_tokenizer

BUNDLE = bundled("forks")


def test_the_tokenizer_is_the_environments() -> None:
    assert BUNDLE.tokenizer.get_vocab() == forks_tokenizer().get_vocab()
    assert 20 <= len(VOCABULARY) <= 60


@pytest.mark.parametrize(
    ("family", "least"), [("brackets", 0.15), ("countdown", 0.12), ("maze", 0.06)]
)
def test_the_policy_solves_some_of_it_and_far_from_all(family: str, least: float) -> None:
    """Uniform play solves 0.05, 0.09 and 0.04 of two decisions and a distractor."""
    knobs: dict[str, Any] = {"family": family, "decisions": 2, "fillers": 3}
    evaluator = Evaluator("tokengym/Forks-v0", knobs, num_episodes=128, seed=0)
    scores = [float(e.score or 0.0) for e in evaluator(evaluator.untrained(None)).episodes]
    evaluator.close()
    assert set(scores) <= {0.0, 1.0}
    assert least < np.mean(scores) < 0.6
