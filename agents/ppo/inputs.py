"""Values of the names that an estimator of advantages, or a weight on them, reads of one round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.agents.policy.sequences import sent
from tokengym.agents.ppo.settings import lambda_of
from tokengym.envs import Episode, encode_contents
from tokengym.rewards import CreditError
from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.credits.names import NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.agents.policy.models import PolicyModels
    from tokengym.agents.ppo.settings import PPOSettings
    from tokengym.rewards import Scorer
    from tokengym.rewards.attribution.policy_reader import PolicyReader, Shape
    from tokengym.rewards.credits.probe import Continuations


OF_MASK = frozenset(
    {"response_mask", "positions", "turn_ids", "state_ids", "group_ids", "segment_ends"}
)
"""Names that are there without episodes."""
OF_STEP = frozenset(
    "log_probs old_log_probs advantages entropy ref_log_probs response_mask positions".split()
)
"""Names that a gradient step has of its own."""


class RoundInputs(Inputs):
    """Names of one round, each computed when it is first asked for.

    Columns are a row's own tokens, from 0, and rows that were lost to a partner's failure are not
    shown; `spread` puts a result back. Tensors have the type of the token rewards and their device.

    Args:
        response_mask: (batch, time) bool, True at the tokens that the policy wrote; a lost row has
            none.
        given: What the trainer has, by name: numbers, tensors in the layout of the mask,
            (batch, time, ...) or (batch,), or functions that return one, called when it is read.
        settings: The trainer's, whose fields are names too.
        episodes: (batch,); without them what the texts, the scorer and the data say is not there.
        scorer: What scored them, without normalisation.
        tokenizer: The policy's.
        host_mask: The mask on the host, so that a device is not waited for; None reads it.
        reads: Names that will be read, so that what one pass of a model gives comes from one.
        shape: How the sampler shapes a model's logits before the tokens of a row of the mask,
            (time, vocab), given with the row's number; None leaves them as they are.
        models: The policy's, for what reads texts once more.
        read: Reads a figure of the round's tokens by name, `PPO.read` of this round.
        continuations: The policy, which continues texts.
    """

    def __init__(
        self,
        response_mask: Tensor,
        given: Mapping[str, Any],
        *,
        settings: PPOSettings,
        episodes: Sequence[Episode] = (),
        scorer: Scorer | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        host_mask: NDArray[np.bool_] | None = None,
        reads: Sequence[str] = (),
        shape: Shape | None = None,
        models: PolicyModels | None = None,
        read: Callable[..., Tensor] | None = None,
        continuations: Continuations | None = None,
    ) -> None:
        self._mask, self._given, self._settings = response_mask, dict(given), settings
        if "scores" in given:  # unless somebody pays another sum
            self._given.setdefault("paid", given["scores"])
        self._laid_out = set[str]()
        self._host_mask = response_mask.cpu().numpy() if host_mask is None else host_mask
        shown_rows = np.flatnonzero(self._host_mask.any(1))
        self._rows = self._sent(shown_rows)  # that are shown, (rows,)
        shown = [episodes[row] for row in shown_rows.tolist() if episodes]
        if shape is not None:
            self.shape = lambda logits, row: shape(logits, int(shown_rows[row]))
        dtype = given["token_rewards"].dtype if "token_rewards" in given else torch.float32
        more: Any = {"reads": reads, "dtype": dtype, "continuations": continuations}
        super().__init__(shown, scorer=scorer, tokenizer=tokenizer, **more)
        self._models, self._read_figure = models, read

    def whole(self, value: Any) -> Any:
        """Return a value of the shown rows as one of all; 0 or None of a lost one."""
        if self._is_plain or not isinstance(value, Tensor | list):
            return value
        if isinstance(value, Tensor):
            whole = value.new_zeros(len(self._mask), *value.shape[1:])
            return whole.index_copy(0, self._rows, value)
        rows = dict(zip(self._rows.tolist(), value, strict=True))
        return [rows.get(row) for row in range(len(self._mask))]

    def of_rows(self, name: str, value: Any) -> Any:
        """Return what `whole` returned of a name, of the rows and columns that are here."""
        if isinstance(value, list):
            return [value[row] for row in self._rows.tolist()]
        if not isinstance(value, Tensor):
            return value
        value = value if self._is_plain else value[self._rows]
        axes = NAMES[name].shape.strip("()").split(", ") if name in NAMES else ["batch", "time"]
        for axis, said in enumerate(axes[: value.dim()]):
            if said.startswith(("time", "1 + time")):
                value = value.narrow(axis, 0, self.time + said.startswith("1"))
        return value

    def give(self, name: str, value: Any, *, is_own: bool = False) -> None:
        """Supply a further name, such as the advantages that a weight reads.

        Args:
            name: The name.
            value: As in ``given``.
            is_own: Whether its columns are a row's own tokens already.
        """
        self._given[name] = value
        self._known.pop(name, None)
        if is_own:
            self._laid_out.add(name)

    def _supply(self, name: str) -> Any:
        if name in self._given:
            value = self._given[name]
            value = value() if callable(value) and not isinstance(value, Tensor) else value
            if name == "segment_ends":  # from places in the mask's layout
                value = self._place.gather(1, value)
            if name in self._laid_out or not isinstance(value, Tensor):
                return value
            return self._shown(value)
        if name == "gae_lambda":
            return lambda_of(self._settings.gae_lambda)
        if hasattr(self._settings, name):
            return getattr(self._settings, name)
        if not self.episodes and name not in OF_MASK:
            raise CreditError(
                f"{name!r} is read off the round's episodes, and there are none; leave out what "
                "reads it where responses are enumerated"
            )
        value = super()._supply(name)
        return value.to(self._mask.device) if isinstance(value, Tensor) else value

    # --- layout -----------------------------------------------------------------------------------

    @cached_property
    def _place(self) -> Tensor:
        """(batch, time) int64, each token's place among its row's own; a reply's is that before."""
        return (self._mask.cumsum(1) - 1).clamp(min=0)

    def _sent(self, numbers: NDArray[np.intp]) -> Tensor:
        """Return numbers of the host on the device of the mask."""
        return sent(torch.from_numpy(numbers), self._mask.device)

    @cached_property
    def _is_plain(self) -> bool:
        """Whether the mask's layout is that of the own tokens: no reply, and no row was lost."""
        mask = self._host_mask
        lengths = mask.sum(1, keepdims=True)
        return bool((mask == (np.arange(mask.shape[1]) < lengths)).all() and lengths.all())

    @cached_property
    def written(self) -> list[NDArray[np.int8]]:
        """Per episode (response tokens,), 1 where the mask says that the policy wrote the token."""
        rows = self._host_mask[self._host_mask.any(1)].astype(np.int8)
        return [row[: len(e.response_ids)] for row, e in zip(rows, self.episodes, strict=True)]

    @cached_property
    def time(self) -> int:
        """Own tokens of the longest row."""
        return self._mask.shape[1] if self._is_plain else int(self._host_mask.sum(1).max())

    def _shown(self, value: Tensor) -> Tensor:
        """Return a tensor of the mask's layout in that of the own tokens."""
        if self._is_plain:
            return value
        if value.dim() == 1:
            return value[self._rows]
        rows, columns = map(self._sent, np.nonzero(self._host_mask))
        own = value.new_zeros(len(value), self.time, *value.shape[2:])
        own[rows, self._place[rows, columns]] = value[rows, columns]
        return own[self._rows]

    def spread(self, result: Tensor) -> Tensor:
        """Return a (rows, own tokens) result in the layout of the mask; 0 where that is False."""
        if self._is_plain:
            return result
        whole = result.new_zeros(len(self._mask), result.shape[1])
        whole[self._rows] = result
        return whole.gather(1, self._place).where(self._mask, 0.0)

    # --- names that the mask and the groups say ---------------------------------------------------

    def _supply_response_mask(self) -> Tensor:
        return self._shown(self._mask)

    def _supply_positions(self) -> Tensor:
        mask = self["response_mask"]
        return (mask.cumsum(1) - 1).where(mask, -1)

    def _supply_turn_ids(self) -> Tensor:
        if self.episodes:
            return super()._supply_turn_ids()
        begins = self._mask.clone()
        begins[:, 1:] &= ~self._mask[:, :-1]
        turns = self._shown(begins.cumsum(1) - 1)
        return turns.where(self["response_mask"], -1)

    def _supply_state_ids(self) -> Tensor:
        if self.episodes:
            return super()._supply_state_ids()
        mask = self["response_mask"]  # without texts, the state of a prompt is all there is
        return self["group_ids"][:, None].expand(mask.shape).where(mask, -1)

    @contextmanager
    def _reader(self, *, frozen: bool = False) -> Iterator[PolicyReader]:
        """Yield what reads texts by the policy's model, or by its frozen reference."""
        from tokengym.rewards import PolicyReader

        assert self._models is not None
        assert self.tokenizer is not None
        with self._models.weights(frozen) as model:
            yield PolicyReader(model.model).bind(self.tokenizer)

    def _supply_policy_attention(self) -> Tensor:
        from tokengym.rewards import policy_attention

        with self._reader() as reader:
            matrices = policy_attention(reader, self.episodes)
        whole = torch.zeros(len(matrices), self.time, self.time, dtype=torch.float32)
        for row, (matrix, places) in enumerate(zip(matrices, self.places, strict=True)):
            whole[row, : len(places), : len(places)] = torch.as_tensor(matrix)[places][:, places]
        return whole

    def _supply_log_probs_after(self) -> Callable[[Sequence[str]], Tensor]:
        """Return what reads own tokens where a text stands before the prompt, behind BOS."""

        def log_probs_after(texts: Sequence[str]) -> Tensor:
            assert self.tokenizer is not None
            bos, told = self.tokenizer.bos_token_id, []
            for one, ids in zip(self.episodes, encode_contents(self.tokenizer, texts), strict=True):
                first = int(bool(one.prompt_ids) and one.prompt_ids[0] == bos)
                shown = (*one.prompt_ids[:first], *ids, *one.prompt_ids[first:])
                told.append(replace(one, prompt_ids=shown))
            with self._reader() as reader:
                rows = reader.figures(told, ["log_probs"], shape=self.shape)["log_probs"]
            own = [row[places] for row, places in zip(rows, self.places, strict=True)]
            return self.padded(own).to(self._mask.device)

        return log_probs_after

    def _supply_log_probs_of(self) -> Callable[[Sequence[int]], Tensor]:
        """Return what reads log-probs of named tokens before each own token."""

        def log_probs_of(ids: Sequence[int]) -> Tensor:
            assert self._read_figure is not None
            return self._shown(self._read_figure(name="log_probs_of", tokens=tuple(ids)))

        return log_probs_of

    def _whole_scores(self) -> Tensor:
        scores: Tensor = self["scores"]  # of the scorer as it is, which scores continuations here
        return scores

    def _supply_ref_attention(self) -> Tensor:
        with self._reader(frozen=True) as self.reference:
            return super()._supply_ref_attention()

    def _supply_ref_log_prob_of(self) -> Callable[..., Tensor]:
        def log_prob_of(*texts: Any, **how: Any) -> Tensor:
            with self._reader(frozen=True) as self.reference:
                found: Tensor = Inputs._supply_ref_log_prob_of(self)(*texts, **how)
                return found.to(self._mask.device)

        return log_prob_of

    def _supply_group_ids(self) -> Tensor:
        size = self._settings.group_size or 1
        rows = torch.arange(len(self._mask), device=self._mask.device)
        return self._shown(rows // size)
