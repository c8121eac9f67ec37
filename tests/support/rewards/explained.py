"""A reward model whose account of each token is known."""

import pytest

from tokengym.rewards import FunctionScorer, RewardModel
from tokengym.rewards.scorers.wrappers import WithAttribution


def count_a(prompt, response):
    """Return a score that no model in these tests knows."""
    return 2.0 * response.split().count("a") + 0.5


@pytest.fixture
def model(classifier):
    return RewardModel(classifier)


@pytest.fixture
def explained(model):
    return WithAttribution(FunctionScorer(count_a), model)
