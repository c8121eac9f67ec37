"""The single environment, one episode at a time: `TokenGenerationEnv`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tokengym.base.bundle import Bundle
from tokengym.base.chat import Messages
from tokengym.base.errors import ActionError, EpisodeOverError
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.base.settings import accepts_settings
from tokengym.envs.episode import Episode, Info
from tokengym.envs.mdp import RENDER_FPS, RENDER_MODES, MdpEnvironment
from tokengym.envs.prompts.sampler import PromptSampler, as_options, chosen_prompt
from tokengym.envs.prompts.table import EncodedPrompt
from tokengym.envs.prompts.tokenization import response_texts
from tokengym.envs.prompts.vocabulary import EosToken
from tokengym.envs.render import render_ansi, render_html, without_styles
from tokengym.envs.settings import GenerationSettings
from tokengym.envs.states import restored, state_of
from tokengym.envs.turns.conversation import Answer, RowConversation, TurnEnd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from tokengym.envs.keywords import GenerationKeywords

Observation = dict[str, NDArray[Any]]


class TokenGenerationEnv(MdpEnvironment, gymnasium.Env[Observation, np.int64]):
    """Writing a response to a prompt, one token per step.

    ## Description
    An episode begins with a prompt and appends the chosen token to it at every step. The
    transition is deterministic; the only randomness is which prompt comes next.

    ## Observation Space
    `Dict`, both entries of length `max_prompt_tokens + max_new_tokens`:

    | key | space | meaning |
    |---|---|---|
    | `input_ids` | `Box(0, vocab - 1, int64)` | the prompt, left-padded to end at column `max_prompt_tokens - 1`; response token t in column `max_prompt_tokens + t`; padding elsewhere |
    | `attention_mask` | `Box(0, 1, int8)` | 1 at the tokens of prompt and response, 0 at padding |

    ## Action Space
    `Discrete(len(tokenizer))`: the id of the next token. `info["action_mask"]` (int8) and
    `action_masks()` (bool) say which tokens are legal; an illegal token is appended like any other
    and never ends the episode.

    ## Rewards
    0 at every step; the wrappers of `tokengym.rewards` add the score of the response.

    ## Episode End
    - Termination: a legal EOS (`finish_reason` "eos"); the token that completes a stop string
      ("stop"); `max_new_tokens` tokens ("length") under `horizon="terminated"`.
    - Truncation: `max_new_tokens` tokens under `horizon="truncated"`.
    - With a `partner`, these end a turn, as do `max_turn_tokens` tokens. The same step appends the
      reply, until the partner ends the episode, `max_turns` are over, or `max_new_tokens` has no
      room for a reply and one token more ("length"). Truncation is want of room only, under
      `horizon="truncated"`, and "error", a partner that failed under `on_partner_error="skip"`.

    ## Information
    | key | when | meaning |
    |---|---|---|
    | `action_mask` | always | int8 (vocab,): the tokens that are legal next |
    | `prompt` | reset, end | the prompt's text |
    | `prompt_id` | reset, end | its position in `prompts`; -1 for a prompt passed to `reset` |
    | `prompt_ids` | end | its token ids |
    | `reference`, `query_type` | end | the data set's annotations of the prompt, or None |
    | `metadata` | end | further columns of the prompt's row, a mapping |
    | `messages` | end | the conversation that the policy read, a `Chat`; empty for a plain text |
    | `response` | end | the response's text, special tokens left out, stop string included |
    | `response_ids` | end | the sampled ids, EOS included |
    | `finish_reason` | end | "eos", "stop", "length", or "error", a partner that failed |
    | `turns`, `written` | end, with a `partner` | a tuple of `Turn`, and int8 (n,): 1 at the tokens of `response_ids` that the policy wrote; `response` then includes the replies |
    | `waiting` | after the end | True, under `hold_after_end` |
    | `score`, `score_parts`, `token_rewards` | end | 0.0, {} and zeros (n,) float32 until a reward wrapper fills them; NaN and zeros where a partner or a judge failed |

    `Episode.from_info` reads a terminal info.

    ## Starting State
    A prompt and an empty response. Prompts are drawn by `prompt_sampling` from the seeded generator,
    whose order a seeded reset restarts. `reset(options=...)` chooses: `{"prompt_id": 3}` one of the
    set, `{"prompt": "a text"}` any text, `Prompt` or conversation, and `"response"` the token ids
    that the response begins with. A batch also takes one per row, `{"prompt_ids": [...]}`,
    `{"prompts": [...]}`, `{"responses": [...]}`, and `{"group_size": n}` draws one prompt for each n
    consecutive rows.

    ## Arguments
    All by keyword.

    Args:
        tokenizer: Hugging Face tokenizer with an EOS token, or its folder or hub name.
        prompts: Prompts that episodes start from.
        prompt_shard: (row, rows): a sequential env takes prompts row, row + rows, ...; for one of
            several copies that share the work.
        eos_token: Tokens of the vocabulary that end a text, in place of the tokenizer's EOS: one
            or several, as texts or ids.
        pad_token: Token of the vocabulary for padding, in place of the tokenizer's own; EOS pads
            where there is none.
        render_mode: "ansi" returns coloured text, "human" prints it as it grows (plain where
            standard output is no terminal), "html" returns escaped HTML.
        bundle: The models this environment belongs to, kept for agents and rewards.
        generation: Fields of `GenerationSettings`: lengths, legal tokens, ends, order of prompts.

    Raises:
        TypeError: for an unknown argument, with the near matches.
        TokenGymError: for a setting, prompt or tokenizer that cannot work.

    Example:
        >>> env = TokenGenerationEnv(tokenizer=tok, prompts=["Once"])  # doctest: +SKIP
        >>> observation, info = env.reset(seed=0)  # doctest: +SKIP
        >>> env.step(env.action_space.sample(info["action_mask"]))  # doctest: +SKIP
    """  # noqa: E501  (Gymnasium's tables need one line per row)

    metadata = {"render_modes": RENDER_MODES, "render_fps": RENDER_FPS}  # noqa: RUF012

    @accepts_settings(GenerationSettings)
    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase | str,
        prompts: PromptSet | Sequence[str | Prompt | Messages],
        prompt_shard: tuple[int, int] = (0, 1),
        eos_token: EosToken | None = None,
        pad_token: str | None = None,
        render_mode: str | None = None,
        bundle: Bundle | None = None,
        **generation: Unpack[GenerationKeywords],
    ) -> None:
        mdp = self._play_by(
            tokenizer,
            prompts,
            generation,
            bundle,
            eos_token=eos_token,
            pad_token=pad_token,
            render_mode=render_mode,
        )
        self.observation_space, self.action_space = mdp.spaces()
        sampling = mdp.settings.prompt_sampling
        self._sampler = PromptSampler(sampling, mdp.num_prompts, prompt_shard)
        self._ids = np.full(mdp.width, mdp.pad_id, dtype=np.int64)
        self._attention = np.zeros(mdp.width, dtype=np.int8)
        # Single writes through memoryviews take half the time.
        self._id_cells, self._attention_cells = self._ids.data, self._attention.data
        self._prompt: EncodedPrompt | None = None
        self._conversation: RowConversation | None = None
        """The episode's turns, where there is a partner."""
        self._column = mdp.prompt_width
        """Column of the next token."""
        self._terminated = self._truncated = False
        self._playing = False
        self._cuts = (0, 0)
        """Length at which the last episodes were left, and how many had it in a row."""
        self._shown_rewards: NDArray[np.float32] | None = None
        # Values that every step reads: attribute chains would cost as much as the copies.
        self._vocab_size, self._ends = mdp.vocab_size, mdp.end_set
        self._mask = mdp.masks[mdp.phases[0]]
        """The legal tokens (shared by all steps: copied into each info)."""
        self._event_column = 0
        """The first column whose token is watched: it may end the episode or change the mask."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; see "Starting State" of the class for ``options``."""
        if self._waits and seed is None and not options:
            return self._observation(), Info(action_mask=self._mask.copy(), waiting=True)
        rest = as_options(options)
        response, turns = self._mdp.begun(rest.pop("response", ()), "options['response']")
        prompt = chosen_prompt(self._mdp.table, rest, also=("response",))
        self._warn_of_cuts()
        super().reset(seed=seed)
        if seed is not None:
            self._sampler.restart()
        if prompt is None:
            prompt = self._mdp.table[self._sampler.draw(self.np_random, self.np_random_seed)]
        if self._mdp.turns is not None:
            talk = self._conversation or RowConversation(episode=-1)
            restart = seed is not None
            self._conversation = talk.next(self.np_random_seed, restart=restart, turns=turns)
        self._begin(prompt, response)
        if self.render_mode == "human":
            self._print(f"\n{render_ansi(prompt.text, [])}")
        return self._observation(), self._reset_info()

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token.

        Raises:
            ActionError: if the action is no token id of the vocabulary.
            EpisodeOverError: if the episode is over or reset was never called.
        """
        try:
            token = index(action)
        except TypeError:
            raise ActionError(_bad_action(action, self._vocab_size)) from None
        column = self._column
        # The short way is that of tokens which can end nothing and change no mask: nearly all.
        if column >= self._event_column or token in self._ends or not 0 <= token < self._vocab_size:
            return self._watched_step(token)
        self._id_cells[column] = token
        self._attention_cells[column] = 1
        self._column = column + 1
        # Fresh arrays at every step: callers keep what they are given.
        observation: Observation = {
            "attention_mask": self._attention.copy(),
            "input_ids": self._ids.copy(),
        }
        return observation, 0.0, False, False, {"action_mask": self._mask.copy()}

    def _watched_step(self, token: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append a token that may end the episode, change the action mask, or be refused."""
        if self._waits:
            waiting = Info(action_mask=self._mask.copy(), waiting=True)
            return self._observation(), 0.0, False, False, waiting
        if not self._playing:
            raise EpisodeOverError(
                "step called after the episode's end or before the first reset; call env.reset()"
            )
        if not 0 <= token < self._vocab_size:
            raise ActionError(_bad_action(token, self._vocab_size))
        self._ids[self._column] = token
        self._attention[self._column] = 1
        self._column += 1
        before = self._column
        length = before - self._turn_column
        reason = "length" if before > self._last_column else None
        if token in self._ends and length > self.settings.min_new_tokens:
            reason = "eos"
        elif self.settings.stop_strings and self._stops(length):
            reason = "stop"
        out_of_room = reason == "length"
        if reason and self._conversation is not None:
            reason, _, out_of_room = self._answered(reason)
        self._mark_event()
        observation, info = self._observation(), Info(action_mask=self._mask.copy())
        if reason:
            self._playing, self._event_column = False, 0
            cut = out_of_room and self.settings.horizon == "truncated"
            self._truncated = cut or reason == "error"
            self._terminated = not self._truncated
            info.width = self.settings.max_new_tokens
            info.update(self._terminal_info(reason))
        if self.render_mode == "human":
            # The token, the tokens of a reply, and a line's end after the last of the episode.
            assert self._prompt is not None
            new = self._column - before + 1
            text = (*self._prompt.ids, *self._response_ids())
            pieces = response_texts(self.tokenizer, text[:-new], text[-new:])
            piece = render_ansi("", pieces, written=[1] + [0] * (new - 1))
            self._print(piece if self._playing else f"{piece}\n")
            sys.stdout.flush()
        return observation, 0.0, self._terminated, self._truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the legal next tokens, bool (vocab,)."""
        return self._mask.astype(np.bool_)

    def unfinished_episode(self) -> Episode:
        """Return the text so far, without a score; for rewards paid while it is written."""
        if self._prompt is None:
            raise EpisodeOverError("there is no text before the first reset; call env.reset()")
        return self._mdp.unfinished(self._prompt, self._response_ids(), self._conversation)

    def get_state(self) -> dict[str, Any]:
        """Return the episode and the generator as plain data, for `set_state`."""
        if self._prompt is None:
            raise EpisodeOverError("get_state called before the first reset; call env.reset()")
        return state_of(
            self._prompt,
            self._response_ids(),
            terminated=self._terminated,
            truncated=self._truncated,
            sampler=self._sampler,
            rng=self.np_random,
            seed=self.np_random_seed,
            conversation=self._conversation,
        )

    def set_state(self, state: dict[str, Any]) -> tuple[Observation, dict[str, Any]]:
        """Continue from a saved state of this or an equal environment.

        Args:
            state: The value of ``get_state``; it may be restored any number of times.

        Returns:
            The observation in that state, and the info that a reset would return.

        Raises:
            StateError: if the state does not fit.
        """
        episode = restored(state, self._mdp, self._sampler)
        self._np_random, self._np_random_seed = episode.rng, episode.seed
        self._conversation = episode.conversation
        self._begin(episode.prompt, episode.response_ids)
        self._terminated, self._truncated = episode.terminated, episode.truncated
        self._playing = not (self._terminated or self._truncated)
        self._mark_event()
        return self._observation(), self._reset_info()

    def show_token_rewards(self, token_rewards: NDArray[np.float32]) -> None:
        """Colour the current episode's tokens when it is rendered; reward wrappers call it.

        Args:
            token_rewards: (n,), one per response token so far; "human" prints the coloured text.
        """
        self._shown_rewards = np.array(token_rewards, dtype=np.float32)
        if self.render_mode == "human":
            self._print(f"{self._rendered(render_ansi)}\n")

    def render(self) -> str | None:
        """Return the text so far, each token coloured by its reward (None when it is printed)."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() needs a render mode: pass render_mode='ansi', 'human' or 'html'"
            )
            return None
        if self._prompt is None:
            raise EpisodeOverError("render called before the first reset; call env.reset()")
        if self.render_mode == "human":
            sys.stdout.flush()
            return None
        return self._rendered(render_ansi if self.render_mode == "ansi" else render_html)

    @staticmethod
    def _print(text: str) -> None:
        """Print styled text, plain where standard output is no terminal."""
        sys.stdout.write(text if sys.stdout.isatty() else without_styles(text))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if not isinstance(v, memoryview)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._id_cells, self._attention_cells = self._ids.data, self._attention.data  # the copies'

    def _begin(self, prompt: EncodedPrompt, response: Sequence[int]) -> None:
        """Write the prompt and the beginning of a response, and clear the last episode."""
        text = (*prompt.ids, *response)
        start = self._mdp.prompt_width - len(prompt.ids)
        self._column = start + len(text)
        self._ids.fill(self._mdp.pad_id)
        self._attention.fill(0)
        self._ids[start : self._column] = text
        self._attention[start : self._column] = 1
        self._prompt, self._playing = prompt, True
        self._terminated = self._truncated = False
        self._shown_rewards = None
        self._mark_event()

    def _mark_event(self) -> None:
        """Update the action mask and the next column to watch."""
        start, settings = self._turn_column, self.settings
        length = self._column - start
        self._mask = self._mdp.action_mask(length)
        always = settings.stop_strings or settings.allowed_token_ids
        if not self._playing or always or self.render_mode == "human":
            self._event_column = 0
        elif length < settings.min_new_tokens:
            # A turn may end before EOS is legal in it: where the room for all turns is used up.
            self._event_column = min(start + settings.min_new_tokens - 1, self._last_column)
        else:
            self._event_column = self._last_column

    def _observation(self) -> Observation:
        return {"attention_mask": self._attention.copy(), "input_ids": self._ids.copy()}

    def _reset_info(self) -> dict[str, Any]:
        assert self._prompt is not None
        return Info(
            prompt=self._prompt.text,
            prompt_id=self._prompt.prompt_id,
            action_mask=self._mask.copy(),
        )

    def _warn_of_cuts(self) -> None:
        """Warn of episodes that are left at one length in a row: their score is never paid.

        An environment does not know its wrappers, such as ``TimeLimit``.
        """
        length = self._column - self._mdp.prompt_width
        if self._playing and length > 1:
            self._cuts = (length, self._cuts[1] + 1 if self._cuts[0] == length else 1)
            if self._cuts[1] == 3:
                gymnasium.logger.warn(
                    f"the last 3 episodes were left after {length} tokens, before their end, so no "
                    "score was paid; if max_episode_steps or TimeLimit does it, pass "
                    f"max_new_tokens={length} instead (horizon='truncated' for a budget)"
                )

    @property
    def _waits(self) -> bool:
        return self._holds and not self._playing and self._prompt is not None

    def _stops(self, length: int) -> bool:
        """Return whether the last token of a turn of a length completed a stop string."""
        first = self._column - min(length, self._mdp.stop_reach)
        return bool(self._mdp.stops([length], [self._ids[first : self._column].tolist()])[0])

    def _response_ids(self) -> list[int]:
        return self._ids[self._mdp.prompt_width : self._column].tolist()

    @property
    def _turn_column(self) -> int:
        """Column of the first token of the turn that is being written."""
        start = 0 if self._conversation is None else self._conversation.start
        return self._mdp.prompt_width + start

    @property
    def _last_column(self) -> int:
        """Column of the last token that the turn may have."""
        end = self._mdp.width
        if self._mdp.turns is not None:
            end = min(end, self._turn_column + self._mdp.turns.turn_budget)
        return end - 1

    def _answered(self, reason: str) -> Answer:
        """Return the partner's reply to the turn that is over, and append it."""
        rules, talk = self._mdp.turns, self._conversation
        assert rules is not None
        assert talk is not None
        assert self._prompt is not None
        ids = self._response_ids()
        text = self._mdp.decode([ids[talk.start :]])[0]
        try:
            (answer,) = rules.answer([TurnEnd(0, talk, self._prompt, ids, text, reason)])
        except BaseException:
            self._playing, self._event_column = False, 0  # the turn is over and has no answer
            raise
        end = self._column + len(answer.appended)
        self._ids[self._column : end] = answer.appended
        self._attention[self._column : end] = 1
        self._column = end
        return answer

    def _terminal_info(self, finish_reason: str) -> dict[str, Any]:
        """Return the terminal info except the action mask; the score is 0."""
        prompt, talk, ids = self._prompt, self._conversation, self._response_ids()
        assert prompt is not None
        turns: dict[str, Any] = {}
        if talk is not None:
            turns = {"turns": tuple(talk.turns), "written": talk.written(len(ids))}
        return {
            "prompt": prompt.text,
            "prompt_id": prompt.prompt_id,
            "prompt_ids": prompt.ids,
            "reference": prompt.reference,
            "query_type": prompt.query_type,
            "metadata": prompt.metadata,
            "messages": prompt.messages,
            "response": self._mdp.decode([ids])[0],
            "response_ids": tuple(ids),
            "finish_reason": finish_reason,
            "score": 0.0,
            "score_parts": {},
            "token_rewards": np.zeros(len(ids), dtype=np.float32),
            **turns,
        }

    def _rendered(self, renderer: Any) -> str:
        """Return the episode so far through ``render_ansi`` or ``render_html``."""
        assert self._prompt is not None
        rewards, ids = self._shown_rewards, self._response_ids()
        if rewards is not None and len(rewards) != len(ids):
            rewards = None  # computed at another step of the episode
        return self._mdp.rendered(renderer, self._prompt, ids, rewards, self._conversation)


def _bad_action(action: Any, vocab_size: int) -> str:
    return (
        f"action must be an integer from 0 to {vocab_size - 1}, got {action!r}; "
        "it is a token id of env.unwrapped.tokenizer"
    )
