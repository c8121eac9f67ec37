"""Values of the names that a function of token credit reads, for a batch of episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tokengym.base.settings import check_memory
from tokengym.envs.episode import RAW_SCORE, Episode
from tokengym.envs.prompts.contents import special_tokens
from tokengym.envs.prompts.tokenization import token_texts
from tokengym.envs.turns.partner import POLICY
from tokengym.rewards.credits.names import ACCOUNTS, CARRIED, NAMES, OF_LANGUAGE_MODEL, SUPPLIERS
from tokengym.rewards.credits.probe import Continuations, Probe
from tokengym.rewards.errors import CreditError, NoScoreError
from tokengym.rewards.maths.signed_parts import shift_reply_credit
from tokengym.rewards.maths.tokens import last
from tokengym.rewards.scorers.base import Scorer, Scores, checked_accounts
from tokengym.rewards.scores import remedy_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards.attribution.policy_reader import PolicyReader, Shape

MAX_TEXTS = 8_192
"""Most texts that `score_without` has scored at a time."""
CONTINUATION_BYTES = 1_024
"""Least memory that a continuation takes, bytes."""


class Inputs:
    """Names of one batch of episodes, each computed when it is first asked for.

    Columns are a row's own tokens, the ones that the policy wrote, from 0; past its end a tensor
    is 0. What belongs to a reply's tokens counts at the own token before them.

    Args:
        episodes: Finished episodes of one token or more, none of them lost.
        scorer: What scores them; None: nothing of the scorer's is supplied.
        tokenizer: The policy's.
        reads: Names that will be read, so that what one pass of a model gives comes from one.
        scores: The episodes' scores, where they are known.
        accounts: Scores with each kind of attribution, by kind, where they are known.
        reference: Reader of the frozen reference policy.
        continuations: The policy that continues texts.
        ended: Whether the episodes are whole; False of texts that are still being written.
        dtype: Type of the tensors.
        prefixes: Per episode the scores of its first prefixes where they are known already, that
            of the empty one first; of a scorer without scores per position alone.
        given: Further values by name, such as a trainer's, in this layout.
    """

    shape: Shape | None = None
    """How the learner's sampler shapes logits, which those of frozen language models then are too;
    None under ``reward=``, where they are read as they are."""

    def __init__(
        self,
        episodes: Sequence[Episode],
        *,
        scorer: Scorer | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        reads: Sequence[str] = (),
        scores: Scores | None = None,
        accounts: Mapping[str, Scores] | None = None,
        reference: PolicyReader | None = None,
        continuations: Continuations | None = None,
        ended: bool = True,
        dtype: torch.dtype = torch.float64,
        prefixes: list[NDArray[np.float64]] | None = None,
        given: dict[str, Any] | None = None,
    ) -> None:
        self.episodes = list(episodes)
        for row, episode in enumerate(self.episodes):
            if episode.written is not None and not episode.written[0]:
                raise CreditError(
                    f"the policy did not write the first response token of episode {row}, "
                    f"{episode.response[:40]!r}; put what it did not write before into prompt_ids"
                )
        self.scorer, self.tokenizer, self.reference = scorer, tokenizer, reference
        self.continuations, self.ended = continuations, ended
        self.dtype, self.reads = dtype, tuple(reads)
        if not ended and scorer is not None:
            self.episodes = [self.probe.with_open_turn(one) for one in self.episodes]
        self._scores, self._accounts = scores, dict(accounts or {})
        self.prefixes = prefixes
        self._known: dict[str, Any] = dict(given or {})
        self.asked: list[str] = []
        """Names that were computed, in order, with what was asked of the scorer."""

    def __getitem__(self, name: str) -> Any:
        """Return what stands for a name."""
        if name not in self._known:
            self.asked.append(name)
            self._known[name] = self._supply(name)
        return self._known[name]

    def under(self, model: Any, reads: Sequence[str]) -> Inputs:
        """Return the batch as a model of its own reads it, its reference's or scorer's names."""
        kind: dict[str, Any] = {"scorer" if isinstance(model, Scorer) else "reference": model}
        known = {"config": model.model.config.to_dict()} if "config" in reads else {}
        how: Any = {"tokenizer": self.tokenizer, "dtype": self.dtype, "reads": reads}
        inner = Inputs(self.episodes, given=known, **how, **kind)
        inner.shape = self.shape
        return inner

    def _supply(self, name: str) -> Any:
        if name in ACCOUNTS and name != "prefix_scores":
            return self.padded(self._attributions(ACCOUNTS[name]))
        if name in CARRIED:
            return self.padded([self._carried(name, row) for row in range(len(self.episodes))])
        if name.startswith("ref_") and name.removeprefix("ref_") in OF_LANGUAGE_MODEL:
            return self._of_reference(name)
        if name not in NAMES:  # a column of the data
            return [episode.metadata.get(name) for episode in self.episodes]
        supply: Callable[[], Any] | None = getattr(self, f"_supply_{name}", None)
        if supply is None:
            raise CreditError(f"{name!r} is not here; it comes from {lack_of(name)}")
        return supply()

    # --- layout: a row's own tokens ---------------------------------------------------------------

    @cached_property
    def written(self) -> list[NDArray[np.int8]]:
        """Per episode (response tokens,), 1 where the policy wrote the token."""
        return [
            np.ones(len(e.response_ids), np.int8) if e.written is None else e.written
            for e in self.episodes
        ]

    @cached_property
    def places(self) -> list[NDArray[np.intp]]:
        """Per episode (own tokens,), their places among the response's tokens."""
        return [np.flatnonzero(mask) for mask in self.written]

    def spans(self, row: int, ends: Sequence[int] | None = None) -> list[range]:
        """Return the tokens of each own token of a row: itself, with the reply behind it.

        Of a piece that ends at one of ``ends`` they are those of all its own tokens.
        """
        bounds = [*self.places[row].tolist(), len(self.written[row])]
        if ends is not None:
            bounds = [0, *(bounds[end + 1] for end in ends if end + 1 < len(bounds))]
        return [range(*span) for span in pairwise(bounds)]

    def padded(
        self,
        rows: Sequence[Sequence[float] | NDArray[Any]],
        dtype: torch.dtype | None = None,
        fill: float = 0,
    ) -> Tensor:
        """Return rows of one value per own token as a tensor, (batch, time)."""
        table = np.full((len(rows), self.time), fill, dtype=np.float64)
        sizes = np.array([len(values) for values in rows])
        table[np.arange(self.time) < sizes[:, None]] = np.concatenate(rows)
        return torch.from_numpy(table).to(dtype or self.dtype)

    @cached_property
    def time(self) -> int:
        """Own tokens of the longest row."""
        return max(len(places) for places in self.places)

    def placed(self, rewards: Tensor) -> list[NDArray[np.float64]]:
        """Return (batch, time) rewards per episode, (response tokens,); 0 at those of replies."""
        table, rows = rewards.double().cpu().numpy(), []
        for row, places in enumerate(self.places):
            values = np.zeros(len(self.written[row]))
            values[places] = table[row, : len(places)]
            rows.append(values)
        return rows

    def _own(self, values: NDArray[Any], row: int) -> NDArray[Any]:
        """Return a row's values per token, those of replies left out."""
        return np.asarray(values)[self.places[row]]

    def _read(self, rows: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return [self._own(values, row) for row, values in enumerate(rows)]

    # --- the texts --------------------------------------------------------------------------------

    def _supply_response_mask(self) -> Tensor:
        return self.padded([np.ones(len(places)) for places in self.places], torch.bool)

    def _supply_response_ids(self) -> Tensor:
        ids = [np.array(e.response_ids) for e in self.episodes]
        return self.padded(self._read(ids), torch.int64)

    def _supply_positions(self) -> Tensor:
        return self.padded([np.arange(len(p)) for p in self.places], torch.int64, fill=-1)

    def _supply_segment_ends(self) -> Tensor:
        mask = self["response_mask"]  # each token is paid by itself, unless it is given otherwise
        return torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)

    @cached_property
    def turn_starts(self) -> list[list[int]]:
        """Per episode the response token at which each of the policy's turns begins."""
        starts = []
        for episode, mask in zip(self.episodes, self.written, strict=True):
            told = [turn.span[0] for turn in episode.turns if turn.role == POLICY]
            starts.append(told or np.flatnonzero(np.diff(mask, prepend=0) > 0).tolist())
        return starts

    def _supply_turn_ids(self) -> Tensor:
        turns = [
            np.searchsorted(starts, places, side="right") - 1
            for starts, places in zip(self.turn_starts, self.places, strict=True)
        ]
        return self.padded(turns, torch.int64, fill=-1)

    def _supply_turn_scores(self) -> Tensor:
        rows = []
        for episode, places in zip(self.episodes, self.places, strict=True):
            scores = np.full(len(episode.response_ids), np.nan)
            for turn in episode.turns:
                if turn.role == POLICY and turn.score is not None:
                    scores[turn.span[1] - 1] = turn.score
            rows.append(scores[places])
        return self.padded(rows, fill=np.nan)

    def _supply_state_ids(self) -> Tensor:
        numbers = dict[tuple[Any, ...], int]()
        rows = []
        for row, (episode, starts) in enumerate(zip(self.episodes, self.turn_starts, strict=True)):
            before = [(episode.prompt_ids, episode.response_ids[:start]) for start in starts]
            ids = np.array([numbers.setdefault(state, len(numbers)) for state in before])
            rows.append(ids[np.searchsorted(starts, self.places[row], side="right") - 1])
        return self.padded(rows, torch.int64, fill=-1)

    def _supply_row_seeds(self) -> list[list[int]]:
        # The prompt's length keeps the two lists of ids apart.
        own = self._read([np.array(e.response_ids) for e in self.episodes])
        rows = zip(self.episodes, own, strict=True)
        return [[len(e.prompt_ids), *e.prompt_ids, *ids.tolist()] for e, ids in rows]

    def _supply_prompts(self) -> list[str]:
        return [episode.prompt for episode in self.episodes]

    def _supply_responses(self) -> list[str]:
        return [episode.response for episode in self.episodes]

    def _supply_references(self) -> list[str | None]:
        return [episode.reference for episode in self.episodes]

    def _supply_messages(self) -> list[Any]:
        return [episode.chat.messages for episode in self.episodes]

    def _supply_episodes(self) -> list[Episode]:
        return list(self.episodes)

    def token_texts(self) -> list[list[str]]:
        """Return, per episode, the text that each own token adds; special ones add none."""
        tokenizer = self._policy_tokenizer()
        special = {*special_tokens(tokenizer).values()}
        shown = []
        for episode, places in zip(self.episodes, self.places, strict=True):
            texts = token_texts(tokenizer, episode.response_ids)
            ids = episode.response_ids
            shown.append(["" if ids[at] in special else texts[at] for at in places.tolist()])
        return shown

    def _policy_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise CreditError("the texts of tokens need the policy's tokenizer; call bind() first")
        return self.tokenizer

    # --- the scorer -------------------------------------------------------------------------------

    @property
    def scored(self) -> Scores:
        """The episodes' scores."""
        if self._scores is None:
            self._ask([])
            assert self._scores is not None
        return self._scores

    def _ask(self, kinds: Sequence[str]) -> None:
        """Ask the scorer for kinds of attribution, and for all others that will be read."""
        scorer = self._scorer()
        of_reads = {ACCOUNTS[name]: None for name in self.reads if name in ACCOUNTS}
        if self.each_prefix:
            of_reads.pop("prefix", None)
        wanted = [kind for kind in dict.fromkeys([*kinds, *of_reads]) if kind not in self._accounts]
        self.asked.append(f"score({', '.join(wanted)})")
        scores, accounts = checked_accounts(scorer, self.episodes, wanted)
        self._accounts |= accounts
        self._scores = scores if self._scores is None else self._scores

    def _scorer(self) -> Scorer:
        if self.scorer is None:
            raise CreditError("there is no scorer here, which this reads; pass one")
        return self.scorer

    def _attributions(self, kind: str) -> list[NDArray[np.float64]]:
        """Return what the scorer says of each own token, (own tokens,) per episode."""
        if kind not in self._accounts:
            self._ask([kind])
        scores = self._accounts[kind]
        if scores.attributions is None:
            raise CreditError(
                f"the rule needs {kind} attributions, scorer {self._scorer().name!r} returned "
                f"none; {remedy_for(kind)}"
            )
        unknown = [
            row
            for row in np.flatnonzero(~scores.measured).tolist()
            if scores.attributions[row].shape != self.written[row].shape
            or not np.isfinite(scores.attributions[row]).all()
        ]
        self._check_known(len(unknown), f"no score and no {kind} attributions")
        return [self._owned(values, row) for row, values in enumerate(scores.attributions)]

    def _check_known(self, missing: int, what: str) -> None:
        """Refuse that the scorer gave so many of the texts nothing."""
        if missing:
            raise NoScoreError(
                f"scorer {self._scorer().name!r} gave {missing} of {len(self.episodes)} texts "
                f"{what}, and without them there is no credit; return a number, or take "
                "on_error='raise' of a judge to see why"
            )

    def _owned(self, values: NDArray[Any], row: int) -> NDArray[np.float64]:
        """Return a row's additive values, those of a reply at the own token before it."""
        if self.episodes[row].written is None:
            return np.asarray(values, np.float64)
        return self._own(shift_reply_credit(values, self.written[row]), row).astype(np.float64)

    def _number(self, values: ArrayLike) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float64)).to(self.dtype)

    def _supply_paid(self) -> Tensor:
        self._check_known(int((~self.scored.measured).sum()), "no score")
        return self._number(self.scored.values)

    def _supply_scores(self) -> Tensor:
        paid, raw = self["paid"], self.scored.parts.get(RAW_SCORE)
        return paid if raw is None else self._number(raw)

    def _supply_score_parts(self) -> dict[str, Tensor]:
        return {name: self._number(part) for name, part in self.scored.parts.items()}

    @cached_property
    def probe(self) -> Probe:
        """The scorer, asked of other texts than the episodes'."""
        return Probe(self._scorer(), self.tokenizer, self.continuations)

    @property
    def each_prefix(self) -> bool:
        """Whether each prefix is scored as a text of its own: the scorer has none per position."""
        asked = self._accounts.get("prefix")
        return not self._scorer().gives_prefixes and (asked is None or asked.attributions is None)

    def _supply_prefix_scores(self) -> Tensor:
        table = torch.zeros(len(self.episodes), 1 + self.time, dtype=torch.float64)
        if self.each_prefix:
            for number, scores in enumerate(self._scored_prefixes()):
                table[number, : len(scores)] = torch.from_numpy(scores)
                table[number, len(scores) :] = float(scores[-1])  # no token, no change
        else:
            moves = self.padded(self._attributions("prefix"), torch.float64)
            table[:, 1:] = moves.cumsum(1)
        if self.ended or not self.each_prefix:
            # To the level of the text's own score: moves have none, and a running normalisation
            # shifts that of prefixes which were scored as texts.
            whole = torch.from_numpy(self.scored.values.astype(np.float64))
            shift = whole - table[:, -1]
            if not self.ended:  # a text so far without a score has moves all the same
                shift = shift.nan_to_num(nan=0.0)
            table += shift[:, None]
        return table.to(self.dtype)

    def _scored_prefixes(self) -> list[NDArray[np.float64]]:
        """Return the scores of prefixes of each row, (1 + own tokens,), as texts of their own.

        Those that ``prefixes`` has are not scored again.
        """
        known = self.prefixes or [np.zeros(0)] * len(self.episodes)
        known = [one[: 1 + len(p)] for one, p in zip(known, self.places, strict=True)]
        texts = list[list[Episode]]()
        for row, episode in enumerate(self.episodes):
            stops = [0, *(span.stop for span in self.spans(row))][len(known[row]) :]
            texts.append([self.probe.restrict(episode, range(stop)) for stop in stops])
        values = self.probe.values([text for one in texts for text in one])
        parts = np.split(values, np.cumsum([len(one) for one in texts])[:-1])
        self.prefixes = [np.concatenate(both) for both in zip(known, parts, strict=True)]
        return self.prefixes

    def _supply_score_without(self) -> Callable[[Tensor], Tensor]:
        """Return what scores texts with tokens left out; equal ones of a row are scored once.

        Scores are remembered from call to call, and at most `MAX_TEXTS` texts are made at a time:
        asking in slices costs no more scorings than asking at once.
        """
        known: dict[tuple[int, bytes], float] = {}  # by row and the bits of what is left out

        def score_without(left_out: Tensor) -> Tensor:
            whole = self["paid"].double()
            table = whole[:, None].repeat(1, left_out.shape[1]).numpy()
            asked: dict[tuple[int, int], tuple[int, bytes]] = {}  # by row and question
            for row, places in enumerate(self.places):
                gone = left_out[row, :, : len(places)].cpu().numpy()
                for question in np.flatnonzero(gone.any(axis=1)).tolist():
                    asked[row, question] = row, np.packbits(gone[question]).tobytes()
            new = [key for key in dict.fromkeys(asked.values()) if key not in known]
            for first in range(0, len(new), MAX_TEXTS):
                keys = new[first : first + MAX_TEXTS]
                self.asked.append(f"{len(keys)} texts")
                values = self.probe.values([self._without(*key) for key in keys])
                known.update(zip(keys, values.tolist(), strict=True))
            for spot, key in asked.items():
                table[spot] = known[key]
            return torch.from_numpy(table).to(self.dtype)

        return score_without

    def _without(self, row: int, bits: bytes) -> Episode:
        """Return a row's episode without the own tokens of which the bits are set."""
        counts = [len(span) for span in self.spans(row)]  # a reply goes with its token
        missing = np.unpackbits(np.frombuffer(bits, np.uint8), count=len(counts)).repeat(counts)
        return self.probe.restrict(self.episodes[row], np.flatnonzero(missing == 0).tolist())

    # --- models -----------------------------------------------------------------------------------

    def _frozen(self) -> PolicyReader:
        if self.reference is None:
            raise CreditError(f"there is no {SUPPLIERS['reference']}")
        return self.reference

    def _of_reference(self, name: str) -> Tensor:
        """Return a name of the reference's tokens; those that will be read come with it."""
        every = [f"ref_{one}" for one in OF_LANGUAGE_MODEL]
        names = [one for one in every if one == name or one in self.reads]
        read = [one.removeprefix("ref_") for one in names]
        figures = self._frozen().figures(self.episodes, read, shape=self.shape)
        tensors = {f"ref_{one}": self.padded(self._read(rows)) for one, rows in figures.items()}
        self._known |= tensors
        return tensors[name]

    def _supply_ref_attention(self) -> Tensor:
        from tokengym.rewards.attribution.policy_attention import policy_attention

        table = torch.zeros(len(self.episodes), self.time, self.time, dtype=self.dtype)
        for row, matrix in enumerate(policy_attention(self._frozen(), self.episodes)):
            # The step that writes the next token stands at the end of the reply before it.
            steps = [span.stop - 1 for span in self.spans(row)]
            own = np.add.reduceat(matrix[steps], self.places[row], axis=1)
            table[row, : len(own), : len(own)] = torch.from_numpy(own).to(self.dtype)
        return table

    def _supply_ref_hidden_states(self) -> Tensor:
        rows = self._read(self._frozen().hidden_states(self.episodes))
        table = torch.zeros(len(rows), self.time, rows[0].shape[1], dtype=self.dtype)
        for row, states in enumerate(rows):
            table[row, : len(states)] = torch.from_numpy(states)
        return table

    def _supply_ref_log_prob_of(self) -> Callable[..., Tensor]:
        """Return what asks how likely a text is after the first tokens of each row."""
        from tokengym.rewards.attribution.following import log_prob_after

        reader, tokenizer = self._frozen(), self._policy_tokenizer()

        def log_prob_of(
            texts: Sequence[str], mean: bool = False, ends: Tensor | None = None
        ) -> Tensor:
            ends = self["response_mask"] if ends is None else ends
            stops = []
            for row, asked in enumerate(ends):
                spans, chosen = self.spans(row), torch.nonzero(asked).flatten().tolist()
                stops.append([0, *(spans[place].stop for place in chosen)])
            rows = log_prob_after(reader, tokenizer, self.episodes, stops, texts, mean=mean)
            table = [
                values[[0, *one]] for values, one in zip(rows, ends.cumsum(1).tolist(), strict=True)
            ]
            return torch.from_numpy(np.stack(table)).to(self.dtype)

        return log_prob_of

    def _carried(self, name: str, row: int) -> NDArray[Any]:
        values = getattr(self.episodes[row], name, None)
        if values is None:
            raise CreditError(
                f"episode {row} carries no {name}; {name} of a token comes from {lack_of(name)}"
            )
        return self._own(values, row)

    def _supply_continue_from(self) -> Callable[[int, Tensor], Tensor]:
        """Return what scores k continuations behind some of the own tokens."""

        def continue_from(k: int, ends: Tensor) -> Tensor:
            ends = ends.cpu()
            is_last = ends & last(self["response_mask"]).cpu()
            spots = torch.nonzero(ends & ~is_last).tolist()
            check_memory("continuations", k * len(spots), bytes_each=CONTINUATION_BYTES)
            prefixes, seeds = [], []
            for row, place in spots:
                stop = self.spans(row)[place].stop
                prefixes += [self.probe.restrict(self.episodes[row], range(stop))] * k
                seeds += [[place, copy, *self["row_seeds"][row]] for copy in range(k)]
            ended = self.probe.finish(prefixes, seeds)
            values = self.probe.values(ended).reshape(-1, k).mean(axis=1)
            table = torch.zeros(ends.shape, dtype=self.dtype)
            for (row, place), value in zip(spots, values.tolist(), strict=True):
                table[row, place] = value
            return self._whole_scores().cpu()[:, None].to(table).where(is_last, table)

        return continue_from

    def _whole_scores(self) -> Tensor:
        """Return the scores of the texts on the scale of the scores of others, (batch,)."""
        paid: Tensor = self["paid"]
        return paid


def lack_of(name: str) -> str:
    """Return who supplies a name, in words that say what to do where there is none."""
    return SUPPLIERS[NAMES[name].supplier if name in NAMES else "data"]
