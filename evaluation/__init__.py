"""Metrics of text and of learning curves, the comparison, and the report.

- `statistics`: interquartile means, stratified-bootstrap intervals, paired seeds (pure functions).
- `evaluate`: a frozen policy on held-out prompts, by the scorer itself and the gold score.
- `compare`: every reward with every seed, each run in a process of its own.
- `results`, `summary`, `report`: what comes of it, in numbers, words and pictures.
"""

from tokengym.evaluation import statistics

__all__ = ["statistics"]
