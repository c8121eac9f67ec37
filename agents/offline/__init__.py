"""Offline learning from preferences and demonstrations: DPO, SFT, and collecting their data.

Its names serve learners of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.offline.collecting import (
        KEPT,
        ResponseCollector,
        best_episode,
        best_rows,
        pair_rows,
        prompt_order,
        scored_of,
    )
    from tokengym.agents.offline.finite import FiniteTrainer
    from tokengym.agents.offline.policies import make_policy
    from tokengym.agents.offline.settings import Candidates, PreferenceLoss, Sampling, Tuning
    from tokengym.agents.offline.trainer import AfterEpoch, OfflineTrainer, arithmetic_of

__getattr__, __dir__, __all__ = lazily(__name__)
