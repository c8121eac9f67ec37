"""Format of a reply after the policy's turn: as plain text, or in the chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokengym.base.errors import TokenizerError
from tokengym.envs.prompts.tokenization import write_chat
from tokengym.envs.turns.turn import POLICY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED, _SAID = "u", "a"
_REASONED = "<think>\nb\n</think>\n\na"


class ReplyFormat:
    """Encodes replies so that they follow what was sampled, which is never encoded again.

    In a chat template, the tokens of a reply are what the template writes after the policy's text:
    the end of its turn (unless the policy wrote it), the reply, and the beginning of the next turn.

    Args:
        tokenizer: The policy's.
        role: Role of the replies.
        chat: Whether the conversation is in the tokenizer's chat template.

    Raises:
        TokenizerError: if the template refuses the role, or rewrites earlier turns.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, role: str, *, chat: bool) -> None:
        self._tokenizer = tokenizer
        self._role = role
        self._chat = chat
        if chat:
            self._head = self._written([("user", _ASKED)])
            # The blanks that the template writes before an answer, as a policy does itself.
            whole = self._written([("user", _ASKED), (POLICY, _SAID), (role, "r")])
            rest = whole.removeprefix(self._head)
            self._gap = rest[: len(rest) - len(rest.lstrip(" "))]
            for said in (_SAID, _REASONED):  # a turn must stay as it is once others follow it
                tail = self._after(said, "r")
                whole = self._written([("user", _ASKED), *((POLICY, said), (role, "r")) * 2])
                if whole != self._head + (self._gap + said + tail) * 2:
                    raise self._rewrites(said, whole)

    def encode(self, text: str, *, ended: bool) -> tuple[int, ...]:
        """Return the tokens of a reply.

        Args:
            text: The reply.
            ended: Whether the policy's turn has its EOS.
        """
        if self._chat:
            text = self._after(_SAID, text)
            space, eos, rest = text.partition(str(self._tokenizer.eos_token))
            if ended and eos and not space.strip():
                text = rest
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return tuple(map(int, ids))

    def _written(self, messages: list[tuple[str, str]]) -> str:
        """Return messages in the template, up to the beginning of the next turn."""
        plain = [{"role": role, "content": content} for role, content in messages]
        return write_chat(self._tokenizer, plain, to_answer=True)

    def _after(self, said: str, text: str) -> str:
        """Return what the template writes after the policy's text when a reply follows."""
        whole = self._written([("user", _ASKED), (POLICY, said), (self._role, text)])
        if not whole.startswith(self._head + self._gap + said):
            raise self._rewrites(said, whole)
        return whole[len(self._head + self._gap + said) :]

    def _rewrites(self, said: str, whole: str) -> TokenizerError:
        return TokenizerError(
            f"the tokenizer's chat template rewrites earlier turns: the answer {said!r} and a "
            f"reply become {whole!r:.200}, not what was sampled with what follows; set "
            "tokenizer.chat_template to one that keeps it"
        )
