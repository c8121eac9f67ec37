"""Measurements of a frozen policy on held-out prompts.

Its names serve tools and studies; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.base.words import words
    from tokengym.evaluation.measure.environments import is_own_task, resolve_env
    from tokengym.evaluation.measure.evaluate import Evaluation, Evaluator, check_reads, task_reward
    from tokengym.evaluation.measure.measures import copy_rate, distinct
    from tokengym.evaluation.measure.metrics import rouge
    from tokengym.evaluation.measure.references import BEST_OF, MIN_ERRORS, span_error
    from tokengym.evaluation.measure.win_rate import WinRate, judged, scored

__getattr__, __dir__, __all__ = lazily(__name__)
