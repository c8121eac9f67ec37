"""The batched environment, one set of arrays for all rows: `TokenGenerationVectorEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from tokengym.base.bundle import Bundle
from tokengym.base.chat import Messages
from tokengym.base.errors import ActionError, EpisodeOverError, SettingsError, StateError
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.base.settings import accepts_settings
from tokengym.envs.batch import EpisodeBatch
from tokengym.envs.episode import Episode, Info
from tokengym.envs.mdp import RENDER_FPS, MdpEnvironment
from tokengym.envs.prompts.sampler import (
    as_options,
    checked_group_size,
    chosen_prompts,
    per_row,
)
from tokengym.envs.prompts.vocabulary import EosToken
from tokengym.envs.render import render_ansi, render_html
from tokengym.envs.settings import GenerationSettings
from tokengym.envs.turns.partner import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from tokengym.envs.keywords import GenerationKeywords

Observations = dict[str, NDArray[Any]]

_RENDER_MODES = ["ansi", "html"]


class TokenGenerationVectorEnv(
    MdpEnvironment, VectorEnv[Observations, NDArray[np.int64], NDArray[Any]]
):
    """A batch of `TokenGenerationEnv`, step for step identical to ``SyncVectorEnv`` over copies.

    All rows share one set of arrays; Python loops only over rows that begin or end an episode.
    Observations, actions, rewards, ends and the keys of ``infos`` are those of
    `TokenGenerationEnv`, batched by Gymnasium's conventions (a ``_key`` mask for each key).
    Differences from ``SyncVectorEnv``:

    - ``infos["action_mask"]`` is one read-only row broadcast over the batch while every row has
      the same legal tokens. Copy it before writing.
    - In DISABLED mode, a row that ended and was not reset is frozen: its action is ignored, its
      reward is 0, its flags stay set, and it has no info. ``SyncVectorEnv`` would raise.
    - ``reset`` does not remove ``options["reset_mask"]`` from the caller's dictionary.

    Args:
        num_envs: Rows of the batch.
        tokenizer: See `TokenGenerationEnv`, as for the arguments below.
        prompts: What episodes start from.
        autoreset_mode: What happens to a row that ended, a member of ``gymnasium.vector``'s
            ``AutoresetMode`` or its text: "NextStep" (the next step resets it), "SameStep" (reset
            at once; ``infos["final_obs"]`` and ``infos["final_info"]`` keep the end), "Disabled"
            (the caller resets it with ``options={"reset_mask": ...}``).
        copy: As ``SyncVectorEnv``'s: False returns read-only views of the live arrays, which the
            next step changes; a step then copies nothing that grows with the lengths.
        eos_token: As of `TokenGenerationEnv`, as the next.
        pad_token: Token for padding.
        render_mode: "ansi" or "html"; `render` gives a tuple with one text per row.
        bundle: The models this environment belongs to.
        generation: Fields of `GenerationSettings`. With prompts in order ("sequential"), row i of n
            takes prompts i, i + n, ..., so that k rounds over the batch see each of k * n once.

    Raises:
        TypeError: for an argument that it does not have.
        TokenGymError: for a setting, prompt or tokenizer that cannot work.
    """

    metadata = {"render_modes": _RENDER_MODES, "render_fps": RENDER_FPS}  # noqa: RUF012

    @accepts_settings(GenerationSettings)
    def __init__(
        self,
        *,
        num_envs: int = 1,
        tokenizer: PreTrainedTokenizerBase | str,
        prompts: PromptSet | Sequence[str | Prompt | Messages],
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        eos_token: EosToken | None = None,
        pad_token: str | None = None,
        render_mode: str | None = None,
        bundle: Bundle | None = None,
        **generation: Unpack[GenerationKeywords],
    ) -> None:
        try:
            self.num_envs = index(num_envs)
        except TypeError:
            raise SettingsError(
                f"num_envs must be a whole number, got {num_envs!r}; pass such as 4"
            ) from None
        if self.num_envs < 1:
            raise SettingsError(f"num_envs must be at least 1, got {num_envs}; raise it")
        try:
            self._mode = AutoresetMode(autoreset_mode)
        except ValueError:
            raise SettingsError(
                f"autoreset_mode must be one of {', '.join(repr(m.value) for m in AutoresetMode)}, "
                f"got {autoreset_mode!r}"
            ) from None
        self.metadata = {**type(self).metadata, "autoreset_mode": self._mode}
        mdp = self._play_by(
            tokenizer,
            prompts,
            generation,
            bundle,
            eos_token=eos_token,
            pad_token=pad_token,
            render_mode=render_mode,
        )
        self._batch = EpisodeBatch(mdp, self.num_envs)  # refuses what memory cannot hold
        self.single_observation_space, self.single_action_space = mdp.spaces()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._copy = copy
        # The batch's own arrays, which every step changes in place: no dictionary is built anew.
        self._live: Observations = {
            "attention_mask": self._batch.attention,
            "input_ids": self._batch.ids,
        }
        self._over = np.zeros(self.num_envs, dtype=np.bool_)
        """(num_envs,): the row's episode ended in an earlier step and was not reset since."""
        self._shown_rewards: dict[int, NDArray[np.float32]] = {}

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The rows' generators, as ``SyncVectorEnv`` gives them."""
        return tuple(self._batch.rng(row) for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The rows' seeds."""
        _ = self.np_random
        return tuple(self._batch.seeds)

    def share_prompts(self, first: int, rows: int) -> None:
        """Take prompts in order, or in permutations, as rows of a larger batch that shares them.

        Args:
            first: Place of this batch's first row in the larger batch.
            rows: Rows of the larger batch.
        """
        self._batch.share_prompts(first, rows)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin an episode in every row, or in those of ``options["reset_mask"]``.

        Args:
            seed: Row i is seeded with ``seed + i``, or with the i-th of a sequence.
            options: "reset_mask", bool (num_envs,), and at most one of
                "prompt" or "prompt_id", for all rows that are reset;
                "prompts" or "prompt_ids", (num_envs,), row i's at position i (entries of rows that
                are not reset are ignored), each prompt a text, a `Prompt`, a conversation or what
                `find_prompt` returned;
                "responses", (num_envs,): the token ids that each row's response begins with, as if
                they had been sampled, or an unfinished `Episode`; they must not end it;
                "group_size", n: one prompt is drawn, by the first row, for each n consecutive rows.

        Raises:
            SettingsError: for an unknown option, a sequence that has not one entry per row, or a
                ``group_size`` that does not divide the rows.
            PromptError: for a prompt that cannot be used, or several of these options at once.
        """
        seeds: list[int | None] = []
        if isinstance(seed, int | np.integer):
            seeds = [int(seed) + row for row in range(self.num_envs)]
        elif seed is not None:
            is_list = isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str)
            count = len(seed) if is_list else repr(seed)
            if count != self.num_envs:
                raise SettingsError(
                    f"seed must be one integer or one per row, {self.num_envs}, got {count}"
                )
            seeds = [_checked_seed(row, one) for row, one in enumerate(seed)]
        rest = as_options(options)
        rows = self._batch.all_rows
        if "reset_mask" in rest:
            rows = np.flatnonzero(_checked_reset_mask(rest.pop("reset_mask"), self.num_envs))
        responses, turns = None, None
        if "responses" in rest:
            beginnings = per_row(rest.pop("responses"), "responses", self.num_envs)
            starts = [
                self._mdp.begun(beginnings[row], f"options['responses'][{row}]")
                for row in rows.tolist()
            ]
            responses, turns = [ids for ids, _ in starts], [talk for _, talk in starts]
        prompts, group_size = None, 1
        if rest:
            prompts = chosen_prompts(self._mdp.table, rest, rows.tolist(), self.num_envs)
            group_size = checked_group_size(rest.get("group_size", 1), rows.tolist(), self.num_envs)
        elif self._holds and not seeds and responses is None:
            # An autoreset: rows that are over wait, see `hold_after_end`.
            rows = rows[~self._over[rows]]
        for row in rows.tolist() if seeds else ():  # before prompts are drawn
            if (row_seed := seeds[row]) is not None:
                self._batch.seed(row, row_seed)
        self._batch.begin(rows, prompts, responses, turns, group_size=group_size)
        self._forget_ends(rows)
        infos: dict[str, Any] = Info()
        self._batch.add_prompts(infos, rows)
        self._put_waiting(infos, np.flatnonzero(self._over & self._holds))
        self._batch.add_action_masks(infos, rows, serve_all=self._holds)
        return self._observations(), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        Observations, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Append a token, (num_envs,), to every row that is in an episode.

        Raises:
            ActionError: if an action is no token id (rows whose action is ignored excepted).
            EpisodeOverError: if a row was never reset.
        """
        batch = self._batch
        if not batch.begun.all():
            row = int(np.argmin(batch.begun))
            raise EpisodeOverError(f"step called before row {row} was reset; call envs.reset()")
        tokens = np.asarray(actions)
        if tokens.shape != (self.num_envs,) or tokens.dtype.kind not in "iu":
            raise ActionError(
                f"actions must be integers of shape ({self.num_envs},), got {tokens.dtype} of "
                f"shape {tokens.shape}; pass one token id per row"
            )
        tokens, vocab_size = tokens.astype(np.int64, copy=False), self._mdp.vocab_size
        # Seen as unsigned, a negative id is huge: one comparison finds both kinds of bad id.
        if int(tokens.view(np.uint64).max()) >= vocab_size:
            _check_ids(tokens, ~self._over, vocab_size)
        idle = np.flatnonzero(self._over)
        # `all_rows` itself where every row plays: `append` knows it and gathers nothing.
        rows = np.flatnonzero(~self._over) if len(idle) else batch.all_rows
        ended, reasons = batch.append(rows, tokens)
        infos: dict[str, Any] = Info()
        same_step = self._mode is AutoresetMode.SAME_STEP
        if len(ended):
            # SAME_STEP begins these rows anew below, so their end is copied aside now.
            (batch.add_final if same_step else batch.add_terminal)(infos, ended, reasons)
            self._over[ended] = True
        # Copies: `begin` clears the batch's own flags, and callers keep what they are given.
        terminated, truncated = batch.terminated.copy(), batch.truncated.copy()
        if self._holds or self._mode is not AutoresetMode.DISABLED:
            terminated[idle] = truncated[idle] = False  # an end is reported once
            # NEXT_STEP resets what ended in an earlier step, SAME_STEP also what ended in this one.
            due = np.flatnonzero(self._over) if same_step else idle
            if len(due):
                rows = batch.all_rows  # rows that were idle have an action mask again
                if self._holds:
                    self._put_waiting(infos, due)
                else:
                    batch.begin(due)
                    self._forget_ends(due)
                    batch.add_prompts(infos, due)
        batch.add_action_masks(infos, rows, serve_all=True)
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        return self._observations(), rewards, terminated, truncated, infos

    def _forget_ends(self, rows: NDArray[np.int64]) -> None:
        """Clear what is kept of the last episodes of rows that begin another."""
        self._over[rows] = False
        for row in rows.tolist() if self._shown_rewards else ():
            self._shown_rewards.pop(row, None)

    def _put_waiting(self, infos: dict[str, Any], rows: NDArray[np.int64]) -> None:
        """Add an info to rows that are over and stay so, see `hold_after_end`."""
        if len(rows):
            self._batch.put(infos, rows, {"waiting": (True, np.zeros_like(self._over))})

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the legal next tokens, bool (num_envs, vocab)."""
        return self._batch.action_masks().astype(np.bool_)

    def response_masks(self, length: int, turns: Sequence[Turn] = ()) -> NDArray[np.int8] | None:
        """Return the legal tokens at each place of a response, int8 (length, vocab).

        Args:
            length: Tokens of the response.
            turns: Its turns, where there was a partner.

        Returns:
            None where every token is legal everywhere.
        """
        return self._mdp.response_masks(length, turns)

    def render(self) -> tuple[str, ...] | None:
        """Return each row's text so far, with tokens coloured by their rewards."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render mode: pass render_mode='ansi' or 'html'")
            return None
        renderer = render_ansi if self.render_mode == "ansi" else render_html
        texts = []
        for row in range(self.num_envs):
            ids, rewards = self._batch.response(row), None
            if self._over[row] and row in self._shown_rewards:
                rewards = self._shown_rewards[row][: len(ids)]
            talk = self._batch.conversations[row] if self._batch.conversations else None
            prompt = self._batch.prompts[row]
            texts.append(self._mdp.rendered(renderer, prompt, ids, rewards, talk))
        return tuple(texts)

    def show_token_rewards(
        self, token_rewards: NDArray[np.float32], rows: Sequence[int] | None = None
    ) -> None:
        """Colour the tokens of rows whose episode is over when they are rendered.

        Args:
            token_rewards: (num_envs, max_new_tokens), zero past a response's end.
            rows: The rows to colour; None for all.
        """
        for row in range(self.num_envs) if rows is None else map(int, rows):
            self._shown_rewards[row] = np.array(token_rewards[row], dtype=np.float32)

    def unfinished_episodes(self, rows: Sequence[int]) -> list[Episode]:
        """Return the rows' texts so far, see `TokenGenerationEnv.unfinished_episode`."""
        batch = self._batch
        talks: Sequence[Any] = batch.conversations or [None] * self.num_envs
        return [
            self._mdp.unfinished(batch.prompts[row], batch.response(row), talks[row])
            for row in rows
        ]

    def get_state(self) -> list[dict[str, Any]]:
        """Return every row's state as plain data, each as the single environment's."""
        if not self._batch.begun.all():
            raise EpisodeOverError("get_state called before the first reset; call envs.reset()")
        return [self._batch.get_state(row) for row in range(self.num_envs)]

    def set_state(
        self, state: Sequence[Mapping[str, Any]] | Mapping[str, Any]
    ) -> tuple[Observations, dict[str, Any]]:
        """Continue from saved states of this or of single environments.

        Args:
            state: One state per row, or one state for all rows (counterfactual continuations of
                one episode).

        Returns:
            The observations in those states, and the infos that a reset would return.

        Raises:
            StateError: if a state does not fit, or their number is not that of the rows.
        """
        if not isinstance(state, Mapping | Sequence):
            raise StateError(f"set_state takes one state, or one per row, got {state!r}")
        states = [state] * self.num_envs if isinstance(state, Mapping) else list(state)
        if len(states) != self.num_envs:
            raise StateError(
                f"set_state needs one state per row, {self.num_envs}, got {len(states)}; pass one "
                "state alone to copy it into every row"
            )
        self._batch.set_states(states)
        self._over = self._batch.terminated | self._batch.truncated
        self._shown_rewards.clear()
        infos: dict[str, Any] = Info()
        self._batch.add_prompts(infos, self._batch.all_rows)
        self._batch.add_action_masks(infos, self._batch.all_rows)
        return self._observations(), infos

    def _observations(self) -> Observations:
        """Return copies of the observations, or read-only views of the live arrays."""
        if self._copy:
            return {key: array.copy() for key, array in self._live.items()}
        views = {key: array.view() for key, array in self._live.items()}
        for view in views.values():
            view.flags.writeable = False
        return views


def _checked_seed(row: int, seed: Any) -> int | None:
    """Return a row's seed as Python's integer, which Gymnasium wants."""
    try:
        return None if seed is None else index(seed)
    except TypeError:
        raise SettingsError(f"seed[{row}] must be an integer or None, got {seed!r}") from None


def _checked_reset_mask(mask: Any, num_envs: int) -> NDArray[np.bool_]:
    """Return the reset mask, (num_envs,), after checking it."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_envs,):
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else repr(mask)
        raise SettingsError(
            f"options['reset_mask'] must be a bool array of shape ({num_envs},), got {got}"
        )
    if not mask.any():
        raise SettingsError("options['reset_mask'] selects no row; set at least one to True")
    return mask


def _check_ids(tokens: NDArray[np.int64], is_read: NDArray[np.bool_], vocab_size: int) -> None:
    """Refuse ids outside the vocabulary in the rows whose action is read, (num_envs,) both."""
    bad = (tokens < 0) | (tokens >= vocab_size)
    for row in np.flatnonzero(bad & is_read).tolist():
        raise ActionError(
            f"action of row {row} must be an integer from 0 to {vocab_size - 1}, got "
            f"{int(tokens[row])}; it is a token id of envs.unwrapped.tokenizer"
        )
