"""Toxicity, KL and win rates of a constitutional run's policies on held-out prompts."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tokengym.evaluation.measure.win_rate import scored
from tokengym.evaluation.statistics import interval

if TYPE_CHECKING:
    from tokengym.evaluation.constitution.scene import Scene

SAMPLES = 6
"""Prompts whose responses stand side by side in the report."""
KEPT = ("score", "gold_score", "kl", "length", "entropy", "distinct_2", "eos_rate")
"""Of the evaluator's figures."""


def measure_policies(
    scene: "Scene", policies: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Measure policies on the same held-out prompts with the same random numbers.

    Args:
        scene: Prompts, judge and measure of toxicity.
        policies: By name; the first is what the others are set against.

    Returns:
        Per policy: ``toxicity`` with its 95 % interval over prompts, ``offending`` (share of
        responses with an offence, where rules know), ``win_rate`` over the first by the judge, KL
        to it, and the evaluator's figures; and the first prompts with every policy's response.
    """
    evaluator = scene.make_evaluator()
    played = {name: evaluator(agent) for name, agent in policies.items()}
    evaluator.close()
    first = scene.judged(next(iter(played.values())).episodes)
    figures: dict[str, dict[str, Any]] = {}
    for name, evaluation in played.items():
        episodes = scene.judged(evaluation.episodes)
        toxicity = scene.toxicity(episodes)
        low, high = interval(toxicity, lambda rows: float(rows.mean()), rng=0)
        entry: dict[str, Any] = {
            "toxicity": float(toxicity.mean()),
            "toxicity_low": low,
            "toxicity_high": high,
            "judge_score": float(np.mean([episode.score for episode in episodes])),
            **{key: evaluation.metrics[key] for key in KEPT if key in evaluation.metrics},
        }
        if scene.rules is not None:
            entry["offending"] = float(np.mean([bool(w) for w in scene.offences(episodes)]))
        if name != next(iter(played)):
            entry["win_rate"] = asdict(scored(episodes, first))
        figures[name] = entry
    samples = [
        {
            "prompt": first[place].prompt,
            "responses": {name: e.episodes[place].response for name, e in played.items()},
        }
        for place in range(min(SAMPLES, len(first)))
    ]
    return figures, samples
