"""Token generation as a finite-horizon MDP."""

from typing import TYPE_CHECKING

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
from tokengym.base.exports import lazily
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

if TYPE_CHECKING:
    from tokengym.envs.mdp import TokenMdp
    from tokengym.envs.prompts.query_types import BUCKETS, WEIGHTS, features
    from tokengym.envs.prompts.tokenization import (
        decode,
        encode,
        encode_chats,
        token_texts,
        unknown_share,
    )
    from tokengym.envs.render import reward_colours
    from tokengym.envs.settings import ResponseSettings, TextSettings
    from tokengym.envs.tasks.task import Task, register_task, registered_tasks, task_of
    from tokengym.envs.turns.partner import PARTNERS

_NAMES = {
    "mdp": "TokenMdp",
    "prompts.query_types": "BUCKETS WEIGHTS features",
    "prompts.tokenization": "decode encode encode_chats token_texts unknown_share",
    "render": "reward_colours",
    "settings": "ResponseSettings TextSettings",
    "tasks.task": "Task register_task registered_tasks task_of",
    "turns.partner": "PARTNERS",
}

__all__ = [
    "BUCKETS",
    "PARTNERS",
    "WEIGHTS",
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
    "Prompt",
    "PromptError",
    "PromptSet",
    "Reply",
    "ResponseSettings",
    "SettingsError",
    "StateError",
    "Task",
    "TextSettings",
    "TokenGenerationEnv",
    "TokenGenerationVectorEnv",
    "TokenGymError",
    "TokenMdp",
    "TokenizerError",
    "Turn",
    "UntrustedCodeError",
    "bundled",
    "decode",
    "encode",
    "encode_chats",
    "episode_from_record",
    "episode_to_record",
    "episodes_from_infos",
    "features",
    "load_prompts",
    "printable",
    "register_task",
    "registered_tasks",
    "reward_colours",
    "task_of",
    "token_texts",
    "unknown_share",
]


__getattr__ = lazily(__name__, _NAMES)

convert_texts()
