"""Token generation as a finite-horizon MDP."""

from typing import Any

from tokengym.base.bundle import Bundle, bundled
from tokengym.base.errors import (
    ActionError,
    BundleError,
    DatasetError,
    EpisodeOverError,
    PartnerError,
    PolicyError,
    PromptError,
    SettingsError,
    StateError,
    TokenGymError,
    TokenizerError,
    UntrustedCodeError,
)
from tokengym.base.plugins import plugged
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.base.text import printable
from tokengym.envs.env import TokenGenerationEnv
from tokengym.envs.episode import Episode, episode_from_record, episode_to_record
from tokengym.envs.infos import PadTokenRewards, convert_texts, episodes_from_infos
from tokengym.envs.prompts.loading import load_prompts
from tokengym.envs.prompts.table import EncodedPrompt
from tokengym.envs.settings import GenerationSettings
from tokengym.envs.turns.partner import Partner, Reply
from tokengym.envs.turns.turn import Turn
from tokengym.envs.vector import TokenGenerationVectorEnv

__all__ = [
    "ActionError",
    "Bundle",
    "BundleError",
    "DatasetError",
    "EncodedPrompt",
    "Episode",
    "EpisodeOverError",
    "GenerationSettings",
    "PadTokenRewards",
    "Partner",
    "PartnerError",
    "PolicyError",
    "Prompt",
    "PromptError",
    "PromptSet",
    "Reply",
    "SettingsError",
    "StateError",
    "TokenGenerationEnv",
    "TokenGenerationVectorEnv",
    "TokenGymError",
    "TokenizerError",
    "Turn",
    "UntrustedCodeError",
    "bundled",
    "episode_from_record",
    "episode_to_record",
    "episodes_from_infos",
    "load_prompts",
    "printable",
]


def __getattr__(name: str) -> Any:
    """Import what an installed package adds, such as the laboratory's `OracleEnv`."""
    return plugged(__name__, name)


convert_texts()
