"""Measurements of a frozen policy on held-out prompts.

Its names serve tools and studies; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.base.words import words as words
    from tokengym.evaluation.measure.environments import is_own_task as is_own_task
    from tokengym.evaluation.measure.environments import resolve_env as resolve_env
    from tokengym.evaluation.measure.evaluate import Evaluation as Evaluation
    from tokengym.evaluation.measure.evaluate import Evaluator as Evaluator
    from tokengym.evaluation.measure.evaluate import check_reads as check_reads
    from tokengym.evaluation.measure.evaluate import reading as reading
    from tokengym.evaluation.measure.evaluate import task_reward as task_reward
    from tokengym.evaluation.measure.measures import copy_rate as copy_rate
    from tokengym.evaluation.measure.measures import distinct as distinct
    from tokengym.evaluation.measure.metrics import rouge as rouge
    from tokengym.evaluation.measure.references import BEST_OF as BEST_OF
    from tokengym.evaluation.measure.references import BEST_OF_SIZES as BEST_OF_SIZES
    from tokengym.evaluation.measure.references import MIN_ERRORS as MIN_ERRORS
    from tokengym.evaluation.measure.references import span_error as span_error
    from tokengym.evaluation.measure.win_rate import WinRate as WinRate
    from tokengym.evaluation.measure.win_rate import judged as judged
    from tokengym.evaluation.measure.win_rate import scored as scored

__getattr__, __dir__, __all__ = lazily(__name__)
