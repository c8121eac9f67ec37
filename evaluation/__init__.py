"""Metrics of text and of learning curves, the comparison, and the report.

- `statistics`: means with t intervals, and those of paired differences.
- `measure`: measurements of a frozen policy on held-out prompts, declared in one table.
- `runs`: training of every reward with every seed, each run in its own process.
- `report`: results of a comparison in numbers, words and pictures.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.evaluation import statistics as statistics
    from tokengym.evaluation.runs.run import run as run

__getattr__, __dir__, __all__ = lazily(__name__)
