"""State of many episodes as one set of arrays, and their infos by Gymnasium's conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from tokengym.base.settings import check_memory
from tokengym.envs.mdp import TokenMdp
from tokengym.envs.prompts.sampler import PromptSampler, draw_uniform
from tokengym.envs.prompts.table import EncodedPrompt
from tokengym.envs.settings import TOKEN_BYTES
from tokengym.envs.states import restored, state_of
from tokengym.envs.turns.conversation import RowConversation, TurnEnd
from tokengym.envs.turns.partner import Turn

Rows = NDArray[np.intp]


class EpisodeBatch:
    """Rows of one MDP, each playing its own episode; passing ``all_rows`` itself avoids gathers."""

    def __init__(self, mdp: TokenMdp, num_envs: int) -> None:
        self.mdp = mdp
        self.num_envs = num_envs
        check_memory(
            "max_new_tokens", mdp.settings.max_new_tokens, bytes_each=TOKEN_BYTES * num_envs
        )
        self.all_rows: Rows = np.arange(num_envs)
        self.ids = np.full((num_envs, mdp.width), mdp.pad_id, dtype=np.int64)
        self.attention = np.zeros((num_envs, mdp.width), dtype=np.int8)
        self._starts = self.all_rows * mdp.width + mdp.prompt_width
        """(num_envs,): start of each row's response in the flat arrays."""
        self._columns = np.arange(mdp.settings.max_new_tokens)
        self.lengths = np.zeros(num_envs, dtype=np.int64)
        """(num_envs,): response tokens so far."""
        self.prompt_ids = np.zeros(num_envs, dtype=np.int64)
        self.prompts = mdp.table.take(self.prompt_ids.tolist())
        """(num_envs,): each row's `EncodedPrompt`; the id of one passed to reset is -1."""
        self.terminated = np.zeros(num_envs, dtype=np.bool_)
        self.truncated = np.zeros(num_envs, dtype=np.bool_)
        self.begun = np.zeros(num_envs, dtype=np.bool_)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self.seeds: list[int | None] = [None] * num_envs
        self.conversations: list[RowConversation] = []
        """(num_envs,): the rows' turns; empty where there is no partner."""
        if mdp.turns is not None:
            self.conversations = [RowConversation(episode=-1) for _ in range(num_envs)]
        self._turn_starts = np.zeros(num_envs, dtype=np.int64)
        """(num_envs,): tokens after the prompt before the turn that is being written."""
        self._shard = (0, num_envs)
        self._samplers = self._new_samplers()

    def share_prompts(self, first: int, rows: int) -> None:
        """Take prompts in order as rows ``first``, ``first`` + 1, ... of a larger batch do."""
        self._shard = (first, rows)
        self._samplers = self._new_samplers()

    def _new_samplers(self) -> list[PromptSampler]:
        """Return one sampler per row, each at the beginning of its order."""
        sampling, count = self.mdp.settings.prompt_sampling, self.mdp.num_prompts
        first, rows = self._shard
        return [PromptSampler(sampling, count, (first + row, rows)) for row in range(self.num_envs)]

    # --- transitions -------------------------------------------------------------------------

    def seed(self, row: int, seed: int) -> None:
        """Give a row a new generator and restart its order of prompts."""
        self._rngs[row], self.seeds[row] = seeding.np_random(seed)
        self._samplers[row].restart()
        if self.conversations:
            self.conversations[row] = RowConversation(episode=-1)

    def rng(self, row: int) -> np.random.Generator:
        """Return a row's generator; one that was never seeded follows the first row's.

        That is then made from the system's entropy.
        """
        rng = self._rngs[row]
        if rng is None:
            if row:
                self.rng(0)
            seed = self.seeds[0]
            rng, self.seeds[row] = seeding.np_random(None if seed is None else seed + row)
            self._rngs[row] = rng
        return rng

    def _draw(self, row: int, group_size: int = 1) -> int:
        """Return the next prompt id of a row."""
        return self._samplers[row].draw(self.rng(row), self.seeds[row], group_size)

    def begin(
        self,
        rows: Rows,
        prompts: Sequence[EncodedPrompt] | None = None,
        responses: Sequence[Sequence[int]] | None = None,
        turns: Sequence[Sequence[Turn]] | None = None,
        *,
        group_size: int = 1,
    ) -> None:
        """Begin an episode in the rows, whole groups if ``group_size`` rows share a drawn prompt.

        Prompts, beginnings of responses and turns in these that are over are (len(rows),).
        """
        mdp, table, width = self.mdp, self.mdp.table, self.mdp.prompt_width
        if prompts is not None:
            # -1, the id of a prompt that is not of the set, takes the set's last one for now: the
            # gathers below need a place in the table, and such rows are written after them.
            prompt_ids = [prompt.prompt_id for prompt in prompts]
        elif group_size > 1:
            # The first row of a group draws, so that the others' generators stay where they were.
            firsts = rows.tolist()[::group_size]
            drawn = [self._draw(row, group_size) for row in firsts]
            prompt_ids = [prompt_id for prompt_id in drawn for _ in range(group_size)]
        else:
            rngs = [self._rngs[row] or self.rng(row) for row in rows.tolist()]
            if mdp.settings.prompt_sampling == "uniform":
                prompt_ids = draw_uniform(rngs, mdp.num_prompts)
            else:
                prompt_ids = [self._draw(row) for row in rows.tolist()]
        # (rows, prompt_width), left-padded
        self.ids[rows, :width], self.attention[rows, :width] = table.padded(prompt_ids)
        self.prompts[rows], self.prompt_ids[rows] = table.take(prompt_ids), prompt_ids
        if prompts is not None:
            self._put_prompts(rows, prompts)
        self.ids[rows, width:] = mdp.pad_id
        self.attention[rows, width:] = 0
        self.lengths[rows] = 0
        self.terminated[rows] = False
        self.truncated[rows] = False
        self.begun[rows] = True
        for row, response in zip(rows.tolist(), responses or (), strict=False):
            self.ids[row, width : width + len(response)] = response
            self.attention[row, width : width + len(response)] = 1
            self.lengths[row] = len(response)
        if self.conversations:
            self._begin_conversations(rows, turns)

    def _put_prompts(self, rows: Rows, prompts: Sequence[EncodedPrompt]) -> None:
        """Write prompts that are not of the set into their rows."""
        width = self.mdp.prompt_width
        for row, prompt in zip(rows.tolist(), prompts, strict=False):
            if prompt.prompt_id < 0:
                self.prompts[row] = prompt
                self.ids[row, :width], self.attention[row, :width] = self.mdp.pad_id, 0
                self.ids[row, width - len(prompt.ids) : width] = prompt.ids
                self.attention[row, width - len(prompt.ids) : width] = 1

    def _begin_conversations(self, rows: Rows, turns: Sequence[Sequence[Turn]] | None) -> None:
        """Begin the rows' conversations, with the turns in them that are over."""
        for place, row in enumerate(rows.tolist()):
            self.rng(row)  # has a seed from now on
            talk = () if turns is None else turns[place]
            self.conversations[row] = self.conversations[row].next(self.seeds[row], turns=talk)
            self._turn_starts[row] = self.conversations[row].start

    def append(self, rows: Rows, tokens: NDArray[np.int64]) -> tuple[Rows, NDArray[np.object_]]:
        """Append one of the tokens, (num_envs,), to each of the rows, and flag those that end.

        Returns the rows whose episode ended, and the reason: "eos", "stop", "length" or "error".
        """
        everyone = rows is self.all_rows
        chosen = tokens if everyone else tokens[rows]
        lengths = self.lengths if everyone else self.lengths[rows]
        # (rows,) places in the flat arrays: one index per token costs less than a row and a column.
        # The flat views are made here and not kept: a deep copy of the batch would tear them off.
        places = (self._starts if everyone else self._starts[rows]) + lengths
        self.ids.reshape(-1)[places] = chosen
        self.attention.reshape(-1)[places] = 1
        lengths = lengths + 1
        self.lengths[slice(None) if everyone else rows] = lengths
        turns = self.mdp.turns
        spoken = lengths if turns is None else lengths - self._turn_starts[rows]
        # An EOS that is not legal yet is appended like any token and ends nothing.
        eos = self.mdp.ends[chosen] & (spoken > self.mdp.settings.min_new_tokens)
        over = eos | (lengths == self.mdp.settings.max_new_tokens)
        if turns is not None:
            over |= spoken == turns.turn_budget
        stop = None
        if self.mdp.settings.stop_strings:
            stop = np.zeros(len(rows), dtype=np.bool_)
            still = np.flatnonzero(~eos)  # those that ended by EOS completed no stop string
            stop[still] = self._stops(rows[still])
            over |= stop
        where = np.flatnonzero(over)
        if not len(where):
            return where, np.empty(0, dtype=object)
        ended = rows[where]
        reasons = np.full(len(where), "length", dtype=object)
        reasons[eos[where]] = "eos"  # also in the last token that there was room for
        if stop is not None:
            reasons[stop[where]] = "stop"
        out_of_room = reasons == "length"
        if turns is not None:
            ended, reasons, out_of_room = self._answered(ended, reasons)
        cut = out_of_room & (self.mdp.settings.horizon == "truncated")
        if turns is not None:
            cut |= reasons == "error"
        self.truncated[ended] = cut
        self.terminated[ended] = np.logical_not(cut)
        return ended, reasons

    def _stops(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which of the rows' turns were completed to a stop string by their last token."""
        starts, ends = self._turn_starts[rows], self.lengths[rows]
        firsts = np.maximum(starts, ends - self.mdp.stop_reach) + self.mdp.prompt_width
        places = zip(rows.tolist(), firsts.tolist(), ends.tolist(), strict=True)
        width = self.mdp.prompt_width
        tails = [self.ids[row, first : width + end].tolist() for row, first, end in places]
        return self.mdp.stops((ends - starts).tolist(), tails)

    def _answered(
        self, rows: Rows, reasons: NDArray[np.object_]
    ) -> tuple[Rows, NDArray[np.object_], NDArray[np.bool_]]:
        """Ask the partner about turns that are over, (rows,), at once, and append its replies.

        Returns the rows whose episode is over too, the reason, and whether it is want of room.
        """
        assert self.mdp.turns is not None
        starts = self._turn_starts[rows].tolist()
        responses = [self.response(row) for row in rows.tolist()]
        texts = self.mdp.decode([ids[start:] for ids, start in zip(responses, starts, strict=True)])
        ends = [
            TurnEnd(row, self.conversations[row], self.prompts[row], ids, text, reason)
            for row, ids, text, reason in zip(rows.tolist(), responses, texts, reasons, strict=True)
        ]
        try:
            answers = self.mdp.turns.answer(ends)
        except BaseException:
            self.begun[rows] = False  # their turns are over and have no answer: a reset begins anew
            raise
        for row, answer in zip(rows.tolist(), answers, strict=True):
            first = self.mdp.prompt_width + int(self.lengths[row])
            self.ids[row, first : first + len(answer.appended)] = answer.appended
            self.attention[row, first : first + len(answer.appended)] = 1
            self.lengths[row] += len(answer.appended)
            self._turn_starts[row] = self.conversations[row].start
        why = np.array([answer.reason for answer in answers], dtype=object)
        over = why != None  # noqa: E711  (element by element)
        out_of_room = np.array([answer.out_of_room for answer in answers])
        return rows[over], why[over], out_of_room[over]

    # --- contents of the rows -----------------------------------------------------------------

    def response(self, row: int) -> list[int]:
        """Return a row's response ids."""
        start = self.mdp.prompt_width
        return self.ids[row, start : start + self.lengths[row]].tolist()

    def action_masks(self) -> NDArray[np.int8]:
        """Return the legal tokens, (num_envs, vocab): one row broadcast where all rows agree."""
        lengths = self.lengths - self._turn_starts if self.conversations else self.lengths
        phases = self.mdp.phases[lengths]
        if self.mdp.one_mask or (phases == phases[0]).all():
            row = self.mdp.masks[phases[0]]
            # (num_envs, vocab) with stride 0 over the rows: one row of memory, read-only as it is.
            shown = np.ndarray((self.num_envs, len(row)), np.int8, buffer=row.data, strides=(0, 1))
            shown.flags.writeable = False  # as it is already, but in a copy by pickle
            return shown
        return self.mdp.masks[phases]

    def get_state(self, row: int) -> dict[str, Any]:
        """Return a row's state as plain data; see `state_of`."""
        rng = self._rngs[row] or self.rng(row)
        return state_of(
            self.prompts[row],
            self.response(row),
            terminated=bool(self.terminated[row]),
            truncated=bool(self.truncated[row]),
            sampler=self._samplers[row],
            rng=rng,
            seed=self.seeds[row],
            conversation=self.conversations[row] if self.conversations else None,
        )

    def set_states(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Restore one state per row; all are checked before anything is written."""
        samplers = self._new_samplers()
        pairs = zip(states, samplers, strict=True)
        episodes = [restored(state, self.mdp, sampler) for state, sampler in pairs]
        self._samplers = samplers
        # What follows overwrites what `begin` has counted on: the conversations' episodes.
        responses = [episode.response_ids for episode in episodes]
        self.begin(self.all_rows, [episode.prompt for episode in episodes], responses)
        for row, episode in enumerate(episodes):
            self._rngs[row], self.seeds[row] = episode.rng, episode.seed
            self.terminated[row], self.truncated[row] = episode.terminated, episode.truncated
            if episode.conversation is not None:
                self.conversations[row] = episode.conversation
                self._turn_starts[row] = episode.conversation.start

    # --- infos --------------------------------------------------------------------------------

    def put(
        self, infos: dict[str, Any], rows: Rows, entries: Mapping[str, tuple[Any, Any]]
    ) -> None:
        """Write the rows' values under their keys and masks, as ``VectorEnv._add_info`` would.

        By key the (rows,) values, None where the array holds them already, and the array (or nested
        infos) to begin with when the key is new.
        """
        present = np.zeros(self.num_envs, dtype=np.bool_)
        present[rows] = True
        for key, (values, empty) in entries.items():
            if key in infos:
                infos[f"_{key}"] |= present
            else:
                infos[key], infos[f"_{key}"] = empty, present.copy()
            if values is not None:
                if infos[key].dtype == object:  # or tuples of ids would be spread over a matrix
                    values = np.fromiter(values, dtype=object, count=len(rows))
                infos[key][rows] = values

    def add_prompts(self, infos: dict[str, Any], rows: Rows) -> None:
        """Add the rows' prompts and prompt ids: all of a reset's info except the action mask."""
        texts = [prompt.text for prompt in self.prompts[rows].tolist()]
        entries = {
            "prompt": (texts, np.empty(self.num_envs, dtype=object)),
            "prompt_id": (self.prompt_ids[rows], np.zeros(self.num_envs, dtype=np.int64)),
        }
        self.put(infos, rows, entries)

    def add_action_masks(
        self, infos: dict[str, Any], rows: Rows, *, serve_all: bool = False
    ) -> None:
        """Add the rows' action masks: one row broadcast where the whole batch agrees.

        Other rows are zero, as in Gymnasium; with ``serve_all`` they have a mask too, so that a
        frozen row can be sampled from.
        """
        masks = self.action_masks()
        if not serve_all and len(rows) < self.num_envs:
            served = np.zeros(masks.shape, dtype=np.int8)
            served[rows] = masks[rows]
            masks = served
        present = np.zeros(self.num_envs, dtype=np.bool_)
        present[rows] = True
        infos["action_mask"], infos["_action_mask"] = masks, present

    def add_terminal(self, infos: dict[str, Any], rows: Rows, reasons: NDArray[np.object_]) -> None:
        """Add the rows' terminal infos, but for action masks; scores are 0, reasons (rows,)."""
        count, horizon = self.num_envs, self.mdp.settings.max_new_tokens
        lengths = self.lengths[rows]
        inside = self._columns < lengths[:, None]  # (rows, max_new_tokens)
        flat = self.ids[rows, self.mdp.prompt_width :][inside]  # one response after the other
        # One tuple of all responses, cut into one per row: slices of tuples are cheap.
        numbers, ends = tuple(self.mdp.numbers[flat].tolist()), np.cumsum(lengths).tolist()
        responses = [numbers[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        prompts = self.prompts[rows].tolist()
        texts, ids, _, references, query_types, metadata, messages = zip(*prompts, strict=True)
        objects = {
            "prompt_ids": ids,
            "reference": references,
            "query_type": query_types,
            "metadata": metadata,
            "messages": messages,
            "response": self.mdp.decoder.decode(flat, lengths),
            "response_ids": responses,
            "finish_reason": reasons,
        }
        entries: dict[str, tuple[Any, Any]] = {
            "prompt": (texts, np.empty(count, dtype=object)),
            "prompt_id": (self.prompt_ids[rows], np.zeros(count, dtype=np.int64)),
            **{key: (values, np.empty(count, dtype=object)) for key, values in objects.items()},
            "score": (None, np.zeros(count, dtype=np.float64)),
            "score_parts": (None, {}),
            "token_rewards": (None, np.zeros((count, horizon), dtype=np.float32)),
        }
        if self.conversations:
            talks = [self.conversations[row] for row in rows.tolist()]
            turns = [tuple(talk.turns) for talk in talks]
            written = np.zeros((count, horizon), dtype=np.int8)
            for row, talk, length in zip(rows.tolist(), talks, lengths.tolist(), strict=True):
                written[row, :length] = talk.written(length)
            entries["turns"] = turns, np.empty(count, dtype=object)
            entries["written"] = None, written
        self.put(infos, rows, entries)

    def add_final(self, infos: dict[str, Any], rows: Rows, reasons: NDArray[np.object_]) -> None:
        """Add ``final_obs`` and ``final_info``, (num_envs,) each, of rows reset at their end."""
        final: dict[str, Any] = {}
        self.add_terminal(final, rows, reasons)
        self.add_action_masks(final, rows)
        observations = [
            {"attention_mask": attention, "input_ids": ids}  # rows of fresh arrays: gathers copy
            for attention, ids in zip(self.attention[rows], self.ids[rows], strict=True)
        ]
        empty = np.empty(self.num_envs, dtype=object)
        entries = {"final_obs": (observations, empty), "final_info": (None, final)}
        self.put(infos, rows, entries)
