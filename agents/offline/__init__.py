"""Offline learning from preferences and demonstrations: DPO, SFT, and collecting their data.

Its names serve learners of other packages; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.agents.offline.collecting import KEPT as KEPT
    from tokengym.agents.offline.collecting import ResponseCollector as ResponseCollector
    from tokengym.agents.offline.collecting import best_episode as best_episode
    from tokengym.agents.offline.collecting import best_rows as best_rows
    from tokengym.agents.offline.collecting import pair_rows as pair_rows
    from tokengym.agents.offline.collecting import prompt_order as prompt_order
    from tokengym.agents.offline.finite import FiniteTrainer as FiniteTrainer
    from tokengym.agents.offline.policies import make_policy as make_policy
    from tokengym.agents.offline.settings import Candidates as Candidates
    from tokengym.agents.offline.settings import PreferenceLoss as PreferenceLoss
    from tokengym.agents.offline.settings import Sampling as Sampling
    from tokengym.agents.offline.settings import Tuning as Tuning
    from tokengym.agents.offline.trainer import AfterEpoch as AfterEpoch
    from tokengym.agents.offline.trainer import OfflineTrainer as OfflineTrainer
    from tokengym.agents.offline.trainer import arithmetic_of as arithmetic_of

__getattr__, __dir__, __all__ = lazily(__name__)
