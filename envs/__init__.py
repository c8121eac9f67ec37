"""Token generation as a finite-horizon MDP."""

from typing import TYPE_CHECKING

from tokengym.base.exports import lazily, listed
from tokengym.envs.infos import convert_texts

if TYPE_CHECKING:
    from tokengym.base.bundle import Bundle, bundled
    from tokengym.base.errors import (
        ActionError,
        BundleError,
        DatasetError,
        EpisodeOverError,
        PartnerError,
        PromptError,
        SettingsError,
        StateError,
        TokenGymError,
        TokenizerError,
        UntrustedCodeError,
    )
    from tokengym.base.prompt import Prompt, PromptSet
    from tokengym.base.text import printable
    from tokengym.envs.env import TokenGenerationEnv
    from tokengym.envs.episode import Episode, episode_from_record, episode_to_record
    from tokengym.envs.infos import PadTokenRewards, episodes_from_infos
    from tokengym.envs.mdp import TokenMdp
    from tokengym.envs.prompts.loading import load_prompts
    from tokengym.envs.prompts.query_types import BUCKETS, WEIGHTS, features
    from tokengym.envs.prompts.table import EncodedPrompt
    from tokengym.envs.prompts.tokenization import (
        decode,
        encode,
        encode_chats,
        token_texts,
        unknown_share,
    )
    from tokengym.envs.render import reward_colours
    from tokengym.envs.settings import GenerationSettings, ResponseSettings, TextSettings
    from tokengym.envs.tasks.task import Task, register_task, registered_tasks, task_of
    from tokengym.envs.turns.partner import PARTNERS, Partner, Reply
    from tokengym.envs.turns.turn import Turn
    from tokengym.envs.vector import TokenGenerationVectorEnv

_NAMES = {
    ".base.bundle": "Bundle bundled",
    ".base.errors": "ActionError BundleError DatasetError EpisodeOverError PartnerError "
    "PromptError SettingsError StateError TokenGymError TokenizerError "
    "UntrustedCodeError",
    ".base.prompt": "Prompt PromptSet",
    ".base.text": "printable",
    "env": "TokenGenerationEnv",
    "episode": "Episode episode_from_record episode_to_record",
    "infos": "PadTokenRewards episodes_from_infos",
    "mdp": "TokenMdp",
    "prompts.loading": "load_prompts",
    "prompts.query_types": "BUCKETS WEIGHTS features",
    "prompts.table": "EncodedPrompt",
    "prompts.tokenization": "decode encode encode_chats token_texts unknown_share",
    "render": "reward_colours",
    "settings": "GenerationSettings ResponseSettings TextSettings",
    "tasks.task": "Task register_task registered_tasks task_of",
    "turns.partner": "PARTNERS Partner Reply",
    "turns.turn": "Turn",
    "vector": "TokenGenerationVectorEnv",
}

__all__ = listed(_NAMES)
__getattr__ = lazily(__name__, _NAMES)

convert_texts()
