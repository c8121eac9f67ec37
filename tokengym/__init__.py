"""tokengym: Gymnasium environments for text generation.

Importing it registers the bundled tasks with Gymnasium: ``tokengym/MovieReview-v0``,
``tokengym/QuestionAnswer-v0``, ``tokengym/Dialogue-v0``, ``tokengym/Detox-v0``,
``tokengym/Summarize-v0``, ``tokengym/TokenGeneration-v0``, ``tokengym/Oracle-v0``,
``tokengym/Forks-v0`` and ``tokengym/ReasoningGym-v0``.

What most scripts need is importable from here, and loaded when it is first used:
``from tokengym import PPO, collect, evaluate``.
"""

import os
import sys
import warnings
from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily
from tokengym.envs.tasks import register_ids
from tokengym.version import __version__

if TYPE_CHECKING:
    from tokengym.agents import DPO as DPO
    from tokengym.agents import GRPO as GRPO
    from tokengym.agents import PPO as PPO
    from tokengym.agents import REINFORCE as REINFORCE
    from tokengym.agents import RLOO as RLOO
    from tokengym.agents import SFT as SFT
    from tokengym.agents import CausalLMPolicy as CausalLMPolicy
    from tokengym.agents import EpisodicAlgorithm as EpisodicAlgorithm
    from tokengym.agents import RandomAgent as RandomAgent
    from tokengym.agents import collect as collect
    from tokengym.base.identity import named as named
    from tokengym.credit import TokenCredit as TokenCredit
    from tokengym.envs import Episode as Episode
    from tokengym.envs import Prompt as Prompt
    from tokengym.envs import TokenGenerationEnv as TokenGenerationEnv
    from tokengym.envs import TokenGenerationVectorEnv as TokenGenerationVectorEnv
    from tokengym.envs import bundled as bundled
    from tokengym.envs import load_prompts as load_prompts
    from tokengym.evaluation.measure.evaluate import evaluate as evaluate
    from tokengym.evaluation.result import Result as Result
    from tokengym.evaluation.result import read_curves as read_curves
    from tokengym.evaluation.result import read_result as read_result
    from tokengym.evaluation.runs.compare import compare as compare
    from tokengym.evaluation.runs.comparison import Comparison as Comparison
    from tokengym.evaluation.runs.decide import decide as decide
    from tokengym.rewards import FunctionScorer as FunctionScorer
    from tokengym.rewards import RewardModel as RewardModel
    from tokengym.rewards import Scorer as Scorer
    from tokengym.rewards import Scores as Scores
    from tokengym.rewards import check_reward as check_reward
    from tokengym.rewards import make_reward as make_reward
    from tokengym.rewards import on_last as on_last
    from tokengym.rewards import read_pairs as read_pairs
    from tokengym.rewards import registered_rewards as registered_rewards
    from tokengym.rewards import rescaled as rescaled
    from tokengym.rewards import rest_on_last as rest_on_last
    from tokengym.rewards import shares as shares
    from tokengym.rewards import token_credit as token_credit

register_ids(
    entry_point="tokengym.registration:make_env",
    vector_entry_point="tokengym.registration:make_vector_env",
)
__getattr__, __dir__, __all__ = lazily(__name__)
__all__ += ["__version__"]


def _use_one_thread() -> None:
    """Have a forked child compute with one thread, where its parent has imported torch.

    The threads of the parent's OpenMP pool do not exist in the child, which would wait for them for
    ever: in the workers of an ``AsyncVectorEnv``, once the parent has scored a text.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _import_bars() -> None:
    """Import tqdm's bars, which libraries do later, without the warning that ipywidgets is missing.

    It would be the first output of a notebook.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto


if "ipykernel" in sys.modules:
    _import_bars()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)
