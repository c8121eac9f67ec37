"""Measurements of a frozen policy on held-out prompts.

Its names serve tools and studies; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.exports import lazily, listed

if TYPE_CHECKING:
    from tokengym.evaluation.measure.environments import resolve_env
    from tokengym.evaluation.measure.evaluate import (
        Evaluation,
        Evaluator,
        check_reads,
        make_eval_envs,
        task_reward,
    )
    from tokengym.evaluation.measure.metrics import copy_rate, distinct, rouge, words
    from tokengym.evaluation.measure.references import BEST_OF, reference_lines
    from tokengym.evaluation.measure.win_rate import WinRate, judged, scored

_NAMES = {
    "environments": "resolve_env",
    "evaluate": "Evaluation Evaluator check_reads make_eval_envs task_reward",
    "metrics": "copy_rate distinct rouge words",
    "references": "BEST_OF reference_lines",
    "win_rate": "WinRate judged scored",
}

__all__ = listed(_NAMES)
__getattr__ = lazily(__name__, _NAMES)
