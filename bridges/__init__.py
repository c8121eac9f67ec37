"""The credit rules in other trainers, a thin door each, behind the trainer's own installation."""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.bridges.conversations import Conversation as Conversation
    from tokengym.bridges.conversations import join_calls as join_calls
    from tokengym.bridges.conversations import join_messages as join_messages

__getattr__, __dir__, __all__ = lazily(__name__)
