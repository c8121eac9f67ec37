"""PPO with weights on the advantage, and the weights by name.

A weight multiplies the advantages that the loss takes, after whitening, so that it moves gradient
between the tokens of a response and leaves each response its own size. It is known only after the
response, so the weighted gradient is no longer that of the expected score;
docs/results/gradients.md has by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokengym.agents import LEARNERS, PPO
from tokengym.agents.ppo import Experience, RoundFunction, RoundInputs
from tokengym.base import Registry, found, own
from tokengym.envs import Chat, Episode, SettingsError, encode_chats, encode_contents
from tokengym.lab.learners.settings import WeightedPPOSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Weights(RoundFunction):
    """A function of named inputs whose result multiplies the advantages, bound to its options.

    Raises:
        CreditError: if it has no such option.
        SettingsError: if one of its parameters has a name that no learner supplies.
    """

    kind = "weights"

    def weigh(self, inputs: RoundInputs) -> Tensor:
        """Return (batch, time) weights >= 0 with mean 1 over each response; 0 elsewhere.

        Raises:
            SettingsError: if they are others.
        """
        weights, _ = self.call(inputs)
        mask = inputs["response_mask"]
        means = weights.sum(1) / mask.sum(1).clamp(min=1)
        wrong = ~((means - 1.0).abs() < 1e-3) | (weights < 0).any(1)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise SettingsError(
                f"{self.who} gives the response of row {row} weights from "
                f"{float(weights[row].min()):.3g} to {float(weights[row].max()):.3g} with mean "
                f"{float(means[row]):.3g}; weights must be >= 0 with mean 1 over each response: "
                "return losses.mean_one(weights, response_mask)"
            )
        return inputs.spread(weights)


def _adopted(name: str, made: Any) -> Callable[..., Any]:
    """Return the function that a file or an installed package defines."""
    if not callable(made):
        raise SettingsError(
            f"weights {name} must be a function of named inputs, got {made!r}; write "
            "def mine(response_mask, entropy): ..."
        )
    Weights.check_names(made)
    return made


WEIGHTS: Registry[Callable[..., Any]] = Registry(
    "weights", group="weights", from_files=True, adopt=_adopted
)
"""The functions of all weights by name."""


def find_weights(weights: str | Callable[..., Any]) -> Weights:
    """Return weights by their function or word: "entropy:top=0.1", "file.py:mine".

    Raises:
        SettingsError: if there are none, with the near matches, or it is no such function.
    """
    weights = found(weights)
    if not isinstance(weights, str):
        return Weights(own(_adopted(getattr(weights, "__name__", repr(weights)), weights)))
    word = WEIGHTS.parse(weights)
    return Weights(own(WEIGHTS.find(word)), **word.options)


def check_settings(settings: WeightedPPOSettings, batch_size: int) -> None:
    """Refuse unknown weights, and settings that PPO refuses."""
    reads = find_weights(settings.weights).reads
    # PPO asks its estimator alone whether anything reads these.
    known = {name: getattr(type(settings)(), name) for name in ("gamma", "std_floor")}
    read_here = {name: value for name, value in known.items() if name in reads}
    LEARNERS.find("ppo").check_settings(replace(settings, **read_here), batch_size)


def told_before(tokenizer: PreTrainedTokenizerBase, episode: Episode, text: str) -> tuple[int, ...]:
    """Return the ids of a prompt that says a text before its own, as the policy would be asked it.

    The text stands behind BOS, and in a conversation at the beginning of the last message of the
    user, or of the last one where no user speaks, before which the template writes its tokens. Of a
    conversation that was cut at the left, it stands before what is left. Nothing parts it from the
    prompt: end it with a line break.

    Args:
        tokenizer: The policy's.
        episode: Has the prompt.
        text: The text; "" leaves the prompt as it is.
    """
    ids, chat = tuple(episode.prompt_ids), episode.chat
    if not text:
        return ids
    if episode.messages and tuple(encode_chats(tokenizer, [chat])[0]) == ids:
        talk = chat.messages
        asked = [message for message in talk if message["role"] == "user"]
        message = (asked or talk)[-1]
        message["content"] = text + message["content"]
        return tuple(encode_chats(tokenizer, [Chat(talk, **chat.beside)])[0])
    starts = int(bool(ids) and ids[0] == tokenizer.bos_token_id)
    return (*ids[:starts], *encode_contents(tokenizer, [text])[0], *ids[starts:])


class WeightedPPO(PPO):
    """PPO whose loss multiplies the advantages by weights, after whitening.

    Arguments are those of `PPO`, with the field of `WeightedPPOSettings`.
    """

    settings_class = WeightedPPOSettings
    settings: WeightedPPOSettings
    built_in = PPO.built_in | {"weights"}

    if TYPE_CHECKING:  # PPO's keywords, of any type, and its own by name

        def __init__(
            self, *args: Any, weights: str | Callable[..., Any] = ..., **settings: Any
        ) -> None: ...

    @classmethod
    def data_columns(cls, settings: Any) -> list[str]:
        """Return the columns of the data that estimator and weights read."""
        return [*super().data_columns(settings), *find_weights(settings.weights).columns]

    def check_settings(self) -> None:
        """Refuse unknown weights, and settings that PPO refuses."""
        super().check_settings()
        self.weight = find_weights(self.settings.weights).bind(self._tokenizer)

    @property
    def functions(self) -> tuple[RoundFunction, ...]:
        """Functions that read a round by names: the estimator, and the weights."""
        return (*super().functions, self.weight)

    def weigh(self, experience: Experience, inputs: RoundInputs) -> Experience:
        """Return the experience with weighted advantages."""
        self.give(inputs, experience.advantages)
        weights = self.weight.weigh(inputs)
        return replace(experience, advantages=experience.advantages * weights)

    def give(self, inputs: RoundInputs, advantages: Tensor) -> None:
        """Supply what weights read beside what an estimator does; advantages are (batch, time)."""
        seed = (self.seed or 0) * 1_000_003 + self._n_updates
        inputs.give("advantages", advantages)
        inputs.give("generator", torch.Generator().manual_seed(seed))
        inputs.give("policy_attention", partial(self._attention, inputs), is_own=True)
        inputs.give("log_probs_after", lambda: partial(self._log_probs_after, inputs))

    def _attention(self, inputs: RoundInputs) -> Tensor:
        """Return what each own token attends to, (rows, own tokens, own tokens)."""
        from tokengym.rewards import PolicyReader, policy_attention

        matrices = policy_attention(PolicyReader(self.policy.language_model.model), inputs.episodes)
        size = inputs.time
        whole = torch.zeros(len(matrices), size, size, dtype=torch.float32)
        for row, (matrix, places) in enumerate(zip(matrices, inputs.places, strict=True)):
            whole[row, : len(places), : len(places)] = torch.as_tensor(matrix)[places][:, places]
        return whole.to(self.device)

    def _log_probs_after(self, inputs: RoundInputs, texts: Sequence[str]) -> Tensor:
        """Return log-probs of the own tokens where a text stands before the prompt, (rows, own).

        `told_before` says where it stands. They are of the policy's sampling, as those of the round
        are.
        """
        from tokengym.rewards import PolicyReader

        assert inputs.tokenizer is not None
        told = [
            replace(one, prompt_ids=told_before(inputs.tokenizer, one, text))
            for one, text in zip(inputs.episodes, texts, strict=True)
        ]
        reader = PolicyReader(self.policy.language_model.model).bind(inputs.tokenizer)
        rows = reader.figures(told, ["log_probs"], shape=inputs.shape)["log_probs"]
        own = [row[places] for row, places in zip(rows, inputs.places, strict=True)]
        return inputs.padded(own).to(self.device)
