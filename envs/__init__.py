"""Token generation as a finite-horizon MDP."""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.base.bundle import Bundle as Bundle
    from tokengym.base.bundle import bundled as bundled
    from tokengym.base.chat import Chat as Chat
    from tokengym.base.errors import ActionError as ActionError
    from tokengym.base.errors import BundleError as BundleError
    from tokengym.base.errors import DatasetError as DatasetError
    from tokengym.base.errors import EpisodeOverError as EpisodeOverError
    from tokengym.base.errors import PartnerError as PartnerError
    from tokengym.base.errors import PromptError as PromptError
    from tokengym.base.errors import SettingsError as SettingsError
    from tokengym.base.errors import StateError as StateError
    from tokengym.base.errors import TokenGymError as TokenGymError
    from tokengym.base.errors import TokenizerError as TokenizerError
    from tokengym.base.errors import UntrustedCodeError as UntrustedCodeError
    from tokengym.base.prompt import Prompt as Prompt
    from tokengym.base.prompt import PromptSet as PromptSet
    from tokengym.base.text import printable as printable
    from tokengym.envs.env import TokenGenerationEnv as TokenGenerationEnv
    from tokengym.envs.episode import UNPLAYED as UNPLAYED
    from tokengym.envs.episode import Episode as Episode
    from tokengym.envs.episode import PadTokenRewards as PadTokenRewards
    from tokengym.envs.episode import episodes_from_infos as episodes_from_infos
    from tokengym.envs.mdp import TokenMdp as TokenMdp
    from tokengym.envs.prompts.contents import MarkedText as MarkedText
    from tokengym.envs.prompts.contents import content as content
    from tokengym.envs.prompts.contents import filled as filled
    from tokengym.envs.prompts.contents import joined as joined
    from tokengym.envs.prompts.contents import special_tokens as special_tokens
    from tokengym.envs.prompts.conversation import encode_chats as encode_chats
    from tokengym.envs.prompts.conversation import missing_end as missing_end
    from tokengym.envs.prompts.conversation import write_chat as write_chat
    from tokengym.envs.prompts.cutting import without_beginning as without_beginning
    from tokengym.envs.prompts.loading import load_prompts as load_prompts
    from tokengym.envs.prompts.query_types import BUCKETS as BUCKETS
    from tokengym.envs.prompts.query_types import features as features
    from tokengym.envs.prompts.table import EncodedPrompt as EncodedPrompt
    from tokengym.envs.prompts.tokenization import decode as decode
    from tokengym.envs.prompts.tokenization import encode as encode
    from tokengym.envs.prompts.tokenization import encode_contents as encode_contents
    from tokengym.envs.prompts.tokenization import encode_next as encode_next
    from tokengym.envs.prompts.tokenization import token_texts as token_texts
    from tokengym.envs.prompts.tokenization import tokenize as tokenize
    from tokengym.envs.prompts.tokenization import unknown_share as unknown_share
    from tokengym.envs.prompts.vocabulary import Vocabulary as Vocabulary
    from tokengym.envs.render import reward_colours as reward_colours
    from tokengym.envs.settings import GenerationSettings as GenerationSettings
    from tokengym.envs.settings import ResponseSettings as ResponseSettings
    from tokengym.envs.settings import TextSettings as TextSettings
    from tokengym.envs.tasks.task import Task as Task
    from tokengym.envs.tasks.task import register_task as register_task
    from tokengym.envs.tasks.task import registered_tasks as registered_tasks
    from tokengym.envs.turns.partner import PARTNERS as PARTNERS
    from tokengym.envs.turns.partner import Partner as Partner
    from tokengym.envs.turns.partner import Reply as Reply
    from tokengym.envs.turns.partner import Turn as Turn
    from tokengym.envs.vector import TokenGenerationVectorEnv as TokenGenerationVectorEnv

__getattr__, __dir__, __all__ = lazily(__name__)
