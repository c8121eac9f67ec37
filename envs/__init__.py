"""Token generation as a finite-horizon MDP."""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.base.bundle import Bundle, bundled
    from tokengym.base.chat import Chat
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
    from tokengym.envs.episode import (
        UNPLAYED,
        Episode,
        PadTokenRewards,
        episodes_from_infos,
    )
    from tokengym.envs.mdp import TokenMdp
    from tokengym.envs.prompts.contents import (
        MarkedText,
        content,
        filled,
        joined,
        special_tokens,
    )
    from tokengym.envs.prompts.conversation import encode_chats, missing_end, write_chat
    from tokengym.envs.prompts.loading import load_prompts
    from tokengym.envs.prompts.query_types import BUCKETS, features
    from tokengym.envs.prompts.table import EncodedPrompt
    from tokengym.envs.prompts.tokenization import (
        decode,
        encode,
        encode_contents,
        encode_next,
        token_texts,
        tokenize,
        unknown_share,
    )
    from tokengym.envs.prompts.vocabulary import Vocabulary
    from tokengym.envs.render import reward_colours
    from tokengym.envs.settings import GenerationSettings, ResponseSettings, TextSettings
    from tokengym.envs.tasks.task import Task, register_task, registered_tasks
    from tokengym.envs.turns.partner import PARTNERS, Partner, Reply, Turn
    from tokengym.envs.vector import TokenGenerationVectorEnv

__getattr__, __dir__, __all__ = lazily(__name__)
