"""Many episodes at a time, as one batch of arrays: `TokenGenerationVectorEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from tokengym.envs.bundle import Bundle
from tokengym.envs.encoding import EncodedPrompt, as_objects
from tokengym.envs.errors import ActionError, EpisodeOverError, SettingsError, StateError
from tokengym.envs.mdp import RENDER_FPS, TokenMdp, check_render_mode
from tokengym.envs.prompts import Prompt, PromptSet
from tokengym.envs.render import render_ansi, render_html
from tokengym.envs.sampling import PromptSampler, generator_from, generator_state
from tokengym.envs.settings import GenerationSettings, Horizon, Overlong, PromptSampling
from tokengym.envs.text import token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Observations = dict[str, NDArray[Any]]
Rows = NDArray[np.intp]

_RENDER_MODES = ["ansi", "html"]


class TokenGenerationVectorEnv(VectorEnv[Observations, NDArray[np.int64], NDArray[Any]]):
    """A batch of `TokenGenerationEnv`, step for step identical to ``SyncVectorEnv`` over copies.

    All rows live in one set of arrays; Python works row by row only for rows that begin or end an
    episode. Observations, actions, rewards, ends and the keys of ``infos`` are those of
    `TokenGenerationEnv`, batched by Gymnasium's conventions (``_key`` masks beside each key).
    Differences from what ``SyncVectorEnv`` would give:

    - ``infos["token_rewards"]`` is padded with zeros to ``max_new_tokens`` (the single
      environment under `PadTokenRewards`).
    - ``infos["action_mask"]`` is one read-only row broadcast over the batch while every row has
      the same legal tokens. Copy it before writing.
    - In DISABLED mode, a row that ended and was not reset stays as it is: its action is ignored,
      its reward is 0, its flags stay set, and it has no info. ``SyncVectorEnv`` would raise.
    - ``reset`` leaves ``options["reset_mask"]`` in the caller's dictionary.

    Args:
        num_envs: Rows of the batch.
        autoreset_mode: What happens to a row that ended: NEXT_STEP (the next step resets it),
            SAME_STEP (reset at once; ``infos["final_obs"]`` and ``infos["final_info"]`` keep the
            end), DISABLED (the caller resets it with ``options={"reset_mask": ...}``).
        copy: As ``SyncVectorEnv``'s: False returns read-only views of the live arrays, which the
            next step changes; the cost of a step then does not depend on the lengths at all.
        tokenizer: See `TokenGenerationEnv`, as for the arguments below.
        prompts: What episodes start from.
        max_prompt_tokens: Width of the prompt's part.
        max_new_tokens: The horizon.
        min_new_tokens: Tokens before EOS is legal.
        forbidden_token_ids: Ids that are never legal.
        stop_strings: Texts that end a response.
        horizon: "terminated" or "truncated".
        overlong: "error", "left" or "drop".
        prompt_sampling: "uniform", "epoch" or "sequential"; in order, row i of n takes prompts i,
            i + n, ..., so that k rounds over the batch see each of k * n prompts once.
        render_mode: "ansi" or "html"; `render` gives a tuple with one text per row.
        bundle: The models this environment belongs to.

    Raises:
        TokenGymError: for a setting, prompt or tokenizer that cannot work.
    """

    metadata = {"render_modes": _RENDER_MODES, "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self,
        *,
        num_envs: int = 1,
        tokenizer: PreTrainedTokenizerBase | str,
        prompts: PromptSet | Sequence[str | Prompt],
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        max_prompt_tokens: int | None = None,
        max_new_tokens: int = GenerationSettings.max_new_tokens,
        min_new_tokens: int = GenerationSettings.min_new_tokens,
        forbidden_token_ids: Sequence[int] = (),
        stop_strings: Sequence[str] = (),
        horizon: Horizon = GenerationSettings.horizon,
        overlong: Overlong = GenerationSettings.overlong,
        prompt_sampling: PromptSampling = GenerationSettings.prompt_sampling,
        render_mode: str | None = None,
        bundle: Bundle | None = None,
    ) -> None:
        check_render_mode(render_mode, _RENDER_MODES)
        if index(num_envs) < 1:
            raise SettingsError(f"num_envs must be at least 1, got {num_envs}; raise it")
        self.render_mode = render_mode
        self.num_envs = index(num_envs)
        self._mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self._mode}
        settings = GenerationSettings(
            max_prompt_tokens=max_prompt_tokens,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            forbidden_token_ids=forbidden_token_ids,
            stop_strings=stop_strings,
            horizon=horizon,
            overlong=overlong,
            prompt_sampling=prompt_sampling,
        )
        self._mdp = mdp = TokenMdp(tokenizer, prompts, settings)
        self._bundle = bundle
        self._copy = copy
        self.single_observation_space = mdp.observation_space()
        self.single_action_space = mdp.action_space()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * self.num_envs
        self._seeds: list[int | None] = [None] * self.num_envs
        self._samplers = [
            PromptSampler(settings.prompt_sampling, len(mdp.table), (row, self.num_envs))
            for row in range(self.num_envs)
        ]
        self._allocate()

    def _allocate(self) -> None:
        """Make the batch's arrays; a row's entries mean something from its first reset on."""
        count, width = self.num_envs, self._mdp.width
        self._all_rows = np.arange(count)
        self._ids = np.full((count, width), self._mdp.pad_id, dtype=np.int64)
        self._attention = np.zeros((count, width), dtype=np.int8)
        self._flat_ids, self._flat_attention = self._ids.reshape(-1), self._attention.reshape(-1)
        self._views = {"attention_mask": self._attention.view(), "input_ids": self._ids.view()}
        for view in self._views.values():
            view.flags.writeable = False
        self._masks = np.stack([self._mdp.early_mask, self._mdp.late_mask])
        self._masks.flags.writeable = False
        self._starts = self._all_rows * width + self._mdp.prompt_width
        """(num_envs,): where each row's response begins in the flat arrays."""
        self._lengths = np.zeros(count, dtype=np.int64)
        self._prompt_ids = np.zeros(count, dtype=np.int64)
        self._custom: dict[int, EncodedPrompt] = {}
        """Prompts that the caller handed in, by row; their prompt id is -1."""
        self._terminated = np.zeros(count, dtype=np.bool_)
        self._truncated = np.zeros(count, dtype=np.bool_)
        self._over = np.zeros(count, dtype=np.bool_)
        """(num_envs,): the row's episode ended in an earlier step and it was not reset since."""
        self._begun = np.zeros(count, dtype=np.bool_)
        self._shown_rewards: dict[int, NDArray[np.float32]] = {}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer whose ids are the actions."""
        return self._mdp.tokenizer

    @property
    def bundle(self) -> Bundle | None:
        """The models this environment belongs to."""
        return self._bundle

    @property
    def prompts(self) -> PromptSet:
        """The prompts that episodes start from; a prompt id is a position in it."""
        return self._mdp.table.prompts

    @property
    def max_prompt_tokens(self) -> int:
        """Columns of the observation that belong to the prompt."""
        return self._mdp.prompt_width

    @property
    def max_new_tokens(self) -> int:
        """The horizon: columns of the observation that belong to the response."""
        return self._mdp.settings.max_new_tokens

    @property
    def settings(self) -> GenerationSettings:
        """The settings as validated."""
        return self._mdp.settings

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The rows' generators, as ``SyncVectorEnv`` gives them."""
        return tuple(self._rng(row) for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The rows' seeds."""
        _ = self.np_random
        return tuple(self._seeds)

    # --- Gymnasium's calls -------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin an episode in every row, or in those of ``options["reset_mask"]``.

        Args:
            seed: Row i is seeded with ``seed + i``, or with the i-th of a sequence.
            options: "prompt" or "prompt_id" for all rows reset, and "reset_mask", bool
                (num_envs,).
        """
        seeds = self._row_seeds(seed)
        rest = dict(options or {})
        rows = self._all_rows
        if "reset_mask" in rest:
            rows = np.flatnonzero(_checked_reset_mask(rest.pop("reset_mask"), self.num_envs))
        elif not self._begun.all():
            self._begun[:] = True
        prompt = self._mdp.chosen_prompt(rest)
        for row in rows if seeds is not None else ():
            if (row_seed := seeds[row]) is not None:  # type: ignore[index]
                self._rngs[row], self._seeds[row] = seeding.np_random(row_seed)
                self._samplers[row].restart()
        infos: dict[str, Any] = {}
        self._begin(rows, prompt, infos)
        self._begun[rows] = True
        self._add_action_mask(infos, rows)
        return self._observations(), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        Observations, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Append one token to every row.

        Raises:
            ActionError: if an action is no token id (rows whose action is ignored excepted).
            EpisodeOverError: if a row was never reset.
        """
        if not self._begun.all():
            raise EpisodeOverError(
                f"step called before row {int(np.argmin(self._begun))} was reset; "
                "call envs.reset() first"
            )
        tokens = self._checked_actions(actions)
        idle = np.flatnonzero(self._over)
        rows = self._all_rows if not len(idle) else np.flatnonzero(~self._over)
        ended, reasons = self._append(rows, tokens)
        infos: dict[str, Any] = {}
        if self._mode is AutoresetMode.NEXT_STEP:
            self._terminated[idle] = self._truncated[idle] = False
            if len(ended):
                self._add_terminal(infos, ended, reasons)
            if len(idle):
                self._begin(idle, None, infos)
            rows = self._all_rows
        elif self._mode is AutoresetMode.DISABLED:
            if len(ended):
                self._add_terminal(infos, ended, reasons)
        terminated, truncated = self._terminated.copy(), self._truncated.copy()
        if self._mode is AutoresetMode.SAME_STEP and len(ended):
            self._add_final(infos, ended, reasons)
            self._begin(ended, None, infos)
        elif len(ended):
            self._over[ended] = True
        self._add_action_mask(infos, rows)
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        return self._observations(), rewards, terminated, truncated, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the tokens that are legal next, bool (num_envs, vocab)."""
        return self._masks[self._phases()].astype(np.bool_)

    def render(self) -> tuple[str, ...] | None:
        """Return each row's text so far, tokens coloured by their rewards."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render mode: pass render_mode='ansi' or 'html'")
            return None
        renderer = render_ansi if self.render_mode == "ansi" else render_html
        texts = []
        for row in range(self.num_envs):
            pieces = token_texts(self.tokenizer, self._response(row))
            rewards = self._shown_rewards.get(row)
            if rewards is not None:
                rewards = rewards[: len(pieces)] if len(rewards) >= len(pieces) else None
            texts.append(renderer(self._prompt(row).text, pieces, rewards))
        return tuple(texts)

    # --- forks -------------------------------------------------------------------------------

    def get_state(self) -> list[dict[str, Any]]:
        """Return every row's state as plain data, each as the single environment's."""
        if not self._begun.all():
            raise EpisodeOverError("get_state called before the first reset; call envs.reset()")
        return [self._row_state(row) for row in range(self.num_envs)]

    def set_state(
        self, state: Sequence[Mapping[str, Any]] | Mapping[str, Any]
    ) -> tuple[Observations, dict[str, Any]]:
        """Continue from saved states, which may come from single environments too.

        Args:
            state: One state per row, or one state for all rows (counterfactual continuations of
                one episode).

        Returns:
            The observations there, and the infos that a reset would give.

        Raises:
            StateError: if a state does not fit, or there is not one per row.
        """
        states = [state] * self.num_envs if isinstance(state, Mapping) else list(state)
        if len(states) != self.num_envs:
            raise StateError(
                f"set_state needs one state per row, {self.num_envs}, got {len(states)}; pass one "
                "state alone to copy it into every row"
            )
        prompts = [self._mdp.prompt_from(each) for each in states]
        rngs = [generator_from(each["np_random"]) for each in states]
        for row, (each, prompt, rng) in enumerate(zip(states, prompts, rngs, strict=True)):
            self._samplers[row].set_state(each["sampler"])
            self._rngs[row], self._seeds[row] = rng, each["np_random_seed"]
            self._restore_row(row, prompt, each)
        self._begun[:] = True
        infos: dict[str, Any] = {}
        self._add_prompts(infos, self._all_rows)
        self._add_action_mask(infos, self._all_rows)
        return self._observations(), infos

    def show_token_rewards(
        self, token_rewards: NDArray[np.float32], rows: Sequence[int] | None = None
    ) -> None:
        """Colour the tokens of rows when they are rendered; reward wrappers call it.

        Args:
            token_rewards: (num_envs, max_new_tokens), zero past a response's end.
            rows: The rows to colour; None for all.
        """
        for row in range(self.num_envs) if rows is None else rows:
            self._shown_rewards[int(row)] = np.array(token_rewards[row], dtype=np.float32)

    # --- one step's parts --------------------------------------------------------------------

    def _checked_actions(self, actions: Any) -> NDArray[np.int64]:
        """Return the actions as an int64 array, refusing what is no token id."""
        tokens = np.asarray(actions)
        if tokens.shape != (self.num_envs,) or tokens.dtype.kind not in "iu":
            raise ActionError(
                f"actions must be integers of shape ({self.num_envs},), got {tokens.dtype} of "
                f"shape {tokens.shape}; pass one token id per row"
            )
        tokens = tokens.astype(np.int64, copy=False)
        # Seen as unsigned, a negative id is huge: one comparison finds both kinds of bad id.
        if int(tokens.view(np.uint64).max()) >= self._mdp.vocab_size:
            bad = (tokens < 0) | (tokens >= self._mdp.vocab_size)
            if (wrong := np.flatnonzero(bad & ~self._over)).size:
                row = int(wrong[0])
                raise ActionError(
                    f"action of row {row} must be an integer from 0 to "
                    f"{self._mdp.vocab_size - 1}, got {int(tokens[row])}; it is a token id of "
                    "envs.unwrapped.tokenizer"
                )
        return tokens

    def _append(self, rows: Rows, tokens: NDArray[np.int64]) -> tuple[Rows, NDArray[np.object_]]:
        """Append the tokens of the rows; return the rows whose episode ended, and why."""
        everyone = rows is self._all_rows
        lengths = self._lengths if everyone else self._lengths[rows]
        chosen = tokens if everyone else tokens[rows]
        places = (self._starts if everyone else self._starts[rows]) + lengths
        self._flat_ids[places] = chosen
        self._flat_attention[places] = 1
        lengths = lengths + 1
        if everyone:
            self._lengths = lengths
        else:
            self._lengths[rows] = lengths
        eos = (chosen == self._mdp.eos_id) & (lengths > self._mdp.eos_ends_after)
        full = lengths == self._mdp.settings.max_new_tokens
        stop = self._stopped(rows, eos) if self._mdp.settings.stop_strings else None
        over = eos | full if stop is None else eos | full | stop
        where = np.flatnonzero(over)
        reasons = np.full(len(where), "length", dtype=object)
        reasons[eos[where]] = "eos"
        if stop is not None:
            reasons[stop[where]] = "stop"
        ended = rows[where]
        if self._mdp.settings.horizon == "truncated":
            cut = reasons == "length"
            self._truncated[rows], self._terminated[rows] = False, False
            self._truncated[ended], self._terminated[ended] = cut, ~cut
        else:
            self._terminated[rows] = over
        return ended, reasons

    def _stopped(self, rows: Rows, eos: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the rows completed a stop string; those that ended by EOS did not."""
        stopped = np.zeros(len(rows), dtype=np.bool_)
        open_rows = np.flatnonzero(~eos)
        stopped[open_rows] = self._mdp.stops([self._response(rows[i]) for i in open_rows])
        return stopped

    def _begin(self, rows: Rows, prompt: EncodedPrompt | None, infos: dict[str, Any]) -> None:
        """Begin an episode in the rows, with the given prompt or one drawn for each."""
        table, width = self._mdp.table, self._mdp.prompt_width
        if prompt is None or prompt.prompt_id >= 0:
            drawn = (
                [self._samplers[row].draw(self._rng(row)) for row in rows.tolist()]
                if prompt is None
                else prompt.prompt_id
            )
            self._prompt_ids[rows] = drawn
            if self._custom:
                for row in rows.tolist():
                    self._custom.pop(row, None)
            self._ids[rows, :width] = table.input_ids[drawn]
            self._attention[rows, :width] = table.attention_mask[drawn]
        else:
            for row in rows.tolist():
                self._write_custom(row, prompt)
        self._ids[rows, width:] = self._mdp.pad_id
        self._attention[rows, width:] = 0
        self._lengths[rows] = 0
        for flags in (self._over, self._terminated, self._truncated):
            flags[rows] = False
        if self._shown_rewards:
            for row in rows.tolist():
                self._shown_rewards.pop(row, None)
        self._add_prompts(infos, rows)

    def _write_custom(self, row: int, prompt: EncodedPrompt) -> None:
        """Write a prompt that is not in the set into a row."""
        width = self._mdp.prompt_width
        self._custom[row] = prompt
        self._prompt_ids[row] = -1
        self._ids[row, :width], self._attention[row, :width] = self._mdp.pad_id, 0
        self._ids[row, width - len(prompt.ids) : width] = prompt.ids
        self._attention[row, width - len(prompt.ids) : width] = 1

    # --- infos -------------------------------------------------------------------------------

    def _put(self, infos: dict[str, Any], key: str, rows: Rows, values: Any, empty: Any) -> None:
        """Write the rows' values under a key and its mask, as ``VectorEnv._add_info`` would."""
        if key not in infos:
            infos[key] = empty
            infos[f"_{key}"] = np.zeros(self.num_envs, dtype=np.bool_)
        if values is not None:
            infos[key][rows] = values
        infos[f"_{key}"][rows] = True

    def _objects(self) -> NDArray[np.object_]:
        return np.full(self.num_envs, None, dtype=object)

    def _column(self, name: str, rows: Rows) -> NDArray[np.object_]:
        """Return what is known of the rows' prompts: "prompt", "prompt_ids", "reference", ..."""
        values = self._mdp.table.columns[name][self._prompt_ids[rows]]
        if self._custom:
            field = {"prompt": "text", "prompt_ids": "ids"}.get(name, name)
            for place, row in enumerate(rows.tolist()):
                if row in self._custom:
                    values[place] = getattr(self._custom[row], field)
        return values

    def _add_prompts(self, infos: dict[str, Any], rows: Rows) -> None:
        self._put(infos, "prompt", rows, self._column("prompt", rows), self._objects())
        ids = np.zeros(self.num_envs, dtype=np.int64)
        self._put(infos, "prompt_id", rows, self._prompt_ids[rows], ids)

    def _add_action_mask(self, infos: dict[str, Any], rows: Rows) -> None:
        """Add the rows' masks: one row broadcast where the whole batch agrees."""
        present = np.zeros(self.num_envs, dtype=np.bool_)
        present[rows] = True
        infos["action_mask"] = self._batch_masks(rows)
        infos["_action_mask"] = present

    def _batch_masks(self, rows: Rows) -> NDArray[np.int8]:
        """Return (num_envs, vocab) masks of the rows.

        Other rows are zero, as Gymnasium leaves them, except where one row serves the batch: a
        frozen row then still has a mask that can be sampled from.
        """
        phases = self._phases()
        frozen = self._mode is AutoresetMode.DISABLED and self._over.any()
        if len(rows) == self.num_envs or frozen:
            first = phases[0]
            if (phases == first).all():
                return np.broadcast_to(self._masks[first], (self.num_envs, self._mdp.vocab_size))
            return self._masks[phases]
        masks = np.zeros((self.num_envs, self._mdp.vocab_size), dtype=np.int8)
        masks[rows] = self._masks[phases[rows]]
        return masks

    def _phases(self) -> NDArray[np.intp]:
        """Return per row 0 before ``min_new_tokens`` and 1 from then on."""
        return (self._lengths >= self._mdp.settings.min_new_tokens).astype(np.intp)

    def _add_terminal(
        self, infos: dict[str, Any], rows: Rows, reasons: NDArray[np.object_]
    ) -> None:
        """Add what the last step of the rows' episodes tells, besides the action mask."""
        ids = [tuple(self._response(row)) for row in rows.tolist()]
        self._add_prompts(infos, rows)
        for key, values in (
            ("prompt_ids", self._column("prompt_ids", rows)),
            ("reference", self._column("reference", rows)),
            ("query_type", self._column("query_type", rows)),
            ("response", as_objects(self._mdp.decode(ids))),
            ("response_ids", as_objects(ids)),
            ("finish_reason", reasons),
        ):
            self._put(infos, key, rows, values, self._objects())
        shape = (self.num_envs, self._mdp.settings.max_new_tokens)
        self._put(infos, "score", rows, None, np.zeros(self.num_envs, dtype=np.float64))
        self._put(infos, "score_parts", rows, None, {})
        self._put(infos, "token_rewards", rows, None, np.zeros(shape, dtype=np.float32))

    def _add_final(self, infos: dict[str, Any], rows: Rows, reasons: NDArray[np.object_]) -> None:
        """Add ``final_obs`` and ``final_info`` of rows that are reset in the same step."""
        final: dict[str, Any] = {}
        self._add_terminal(final, rows, reasons)
        self._add_action_mask(final, rows)
        observations = [
            {"attention_mask": self._attention[row].copy(), "input_ids": self._ids[row].copy()}
            for row in rows.tolist()
        ]
        self._put(infos, "final_obs", rows, as_objects(observations), self._objects())
        self._put(infos, "final_info", rows, None, final)

    # --- rows --------------------------------------------------------------------------------

    def _observations(self) -> Observations:
        if not self._copy:
            return dict(self._views)
        return {"attention_mask": self._attention.copy(), "input_ids": self._ids.copy()}

    def _rng(self, row: int) -> np.random.Generator:
        """Return a row's generator, made from the system's entropy when it was never seeded."""
        rng = self._rngs[row]
        if rng is None:
            rng, self._seeds[row] = seeding.np_random()
            self._rngs[row] = rng
        return rng

    def _row_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None] | None:
        """Return one seed per row, or None where no row is seeded."""
        if seed is None:
            return None
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise SettingsError(
                f"seed must be one integer or one per row, {self.num_envs}, got {len(seed)}"
            )
        return list(seed)

    def _prompt(self, row: int) -> EncodedPrompt:
        prompt_id = int(self._prompt_ids[row])
        return self._custom[row] if prompt_id < 0 else self._mdp.table[prompt_id]

    def _response(self, row: int) -> list[int]:
        start = self._mdp.prompt_width
        return self._ids[row, start : start + self._lengths[row]].tolist()

    def _row_state(self, row: int) -> dict[str, Any]:
        prompt = self._prompt(row)
        return {
            "prompt": prompt.text,
            "prompt_id": prompt.prompt_id,
            "prompt_ids": list(prompt.ids),
            "response_ids": self._response(row),
            "terminated": bool(self._terminated[row]),
            "truncated": bool(self._truncated[row]),
            "sampler": self._samplers[row].get_state(),
            "np_random": generator_state(self._rng(row)),
            "np_random_seed": self._seeds[row],
        }

    def _restore_row(self, row: int, prompt: EncodedPrompt, state: Mapping[str, Any]) -> None:
        """Write a saved episode into a row."""
        width = self._mdp.prompt_width
        self._write_custom(row, prompt)
        if prompt.prompt_id >= 0:
            del self._custom[row]
        self._prompt_ids[row] = prompt.prompt_id
        response = state["response_ids"]
        self._ids[row, width:], self._attention[row, width:] = self._mdp.pad_id, 0
        self._ids[row, width : width + len(response)] = response
        self._attention[row, width : width + len(response)] = 1
        self._lengths[row] = len(response)
        self._terminated[row], self._truncated[row] = state["terminated"], state["truncated"]
        self._over[row] = state["terminated"] or state["truncated"]
        self._shown_rewards.pop(row, None)


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return the mode, refusing an unknown name."""
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise SettingsError(
            f"autoreset_mode must be one of {', '.join(repr(m.value) for m in AutoresetMode)}, "
            f"got {mode!r}"
        ) from None


def _checked_reset_mask(mask: Any, num_envs: int) -> NDArray[np.bool_]:
    """Return the reset mask, refusing what is none."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_envs,):
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else repr(mask)
        raise SettingsError(
            f"options['reset_mask'] must be a bool array of shape ({num_envs},), got {got}"
        )
    if not mask.any():
        raise SettingsError("options['reset_mask'] selects no row; set at least one to True")
    return mask
