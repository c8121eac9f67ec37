"""A second language model as the user, who writes the next request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tokengym.base import check_count, check_number, from_pretrained
from tokengym.envs import Partner, Reply, SettingsError, bundled, tokenize, write_chat


class UserModel(Partner):
    """A language model that writes the user's next message: ``partner="user"``.

    It is given the chat template's beginning of a user's message, after the last ``memory``
    messages, and its tokens are drawn until the template's beginning of an answer or EOS. The
    bundled model of Dialogue knows one request and its answer, so that without a memory it asks
    something new. It scores nothing: the score is that of the whole conversation, by whatever the
    environment's scorer is.

    Args:
        bundle: Bundle whose policy and tokenizer are the user's.
        max_tokens: Longest message, tokens.
        memory: Messages of the conversation that it reads.
        temperature: Of the drawing; 0 takes the likeliest token.
    """

    name = "user"

    def __init__(
        self,
        bundle: str = "dialogue",
        max_tokens: int = 16,
        memory: int = 0,
        temperature: float = 1.0,
    ) -> None:
        self.max_tokens, self.memory, self.temperature = max_tokens, memory, temperature
        check_count(self, "max_tokens")
        check_count(self, "memory", least=0)
        check_number(self, "temperature", least=0.0, finite=True)
        folder = bundled(bundle)
        self._tokenizer = folder.tokenizer
        if not self._tokenizer.chat_template:
            raise SettingsError(
                f"partner 'user' needs a chat template, and bundle {bundle!r} has none; take "
                "'dialogue'"
            )
        path = folder.path / "policy"
        self._model = from_pretrained(AutoModelForCausalLM, path, dtype="float32").eval()
        self._ask, self._answer = self._heads()

    def reply(
        self, conversation: Any, metadata: Mapping[str, Any], rng: np.random.Generator
    ) -> Reply:
        """Return the user's next message."""
        return self.replies([conversation], [metadata], [rng])[0]

    @torch.no_grad()
    def replies(
        self,
        conversations: Sequence[Any],
        metadatas: Sequence[Mapping[str, Any]],
        rngs: Sequence[np.random.Generator],
    ) -> list[Reply]:
        """Return the users' next messages, each drawn with its own generator."""
        del metadatas
        return [
            Reply(self._message(talk, rng) or "...")
            for talk, rng in zip(conversations, rngs, strict=True)
        ]

    def _message(self, conversation: Any, rng: np.random.Generator) -> str:
        """Return one message, token by token."""
        read = list(conversation[-self.memory :]) if self.memory else []
        ids = (self._encode(self._text(read)) if read else []) + self._ask
        said: list[int] = []
        for _ in range(self.max_tokens):
            logits = self._model(torch.tensor([ids + said])).logits[0, -1].double()
            if self.temperature:
                chances = (logits / self.temperature).softmax(-1).cumsum(-1)
                token = int((chances < rng.random() * float(chances[-1])).sum())
            else:
                token = int(logits.argmax())
            if token in (self._answer, self._tokenizer.eos_token_id):
                break
            said.append(token)
        return str(self._tokenizer.decode(said, skip_special_tokens=True)).strip()

    def _text(self, messages: Any, *, to_answer: bool = False) -> str:
        return write_chat(self._tokenizer, messages, to_answer=to_answer)

    def _encode(self, text: str) -> list[int]:
        return tokenize(self._tokenizer, [text])[0].ids

    def _heads(self) -> tuple[list[int], int]:
        """Return the tokens that begin a user's message, and the first that begins an answer."""
        mark = "\x00"
        asked = [{"role": "user", "content": mark}]
        plain = self._text(asked)
        answered = self._text(asked, to_answer=True)
        return self._encode(plain.partition(mark)[0]), self._encode(answered[len(plain) :])[0]
