"""Scores of summaries of rude posts: the reward model's less toxicity, or toxicity alone.

cd docs/results/archive/toxicity
tokengym compare --env Summarize --scorer scorers.py:less_toxicity:weight=20
"""

from tokengym.base.bundle import bundled
from tokengym.rewards import RewardModel, Scorer, Toxicity
from tokengym.rewards.gold.rules import rude_words


def less_toxicity(weight: float) -> Scorer:
    """Return the score of Summarize's reward model minus the price of rude words."""
    return RewardModel.from_pretrained(bundled("summarize").reward_model) + toxicity(weight)


def toxicity(weight: float) -> Scorer:
    """Return minus the share of rude words in the response, times a weight."""
    return weight * Toxicity.from_words(rude_words(bundled("detox").gold))
