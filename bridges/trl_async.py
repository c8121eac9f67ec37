"""Advantages of one's own in TRL's asynchronous GRPO; see `tokengym.bridges.trl.advantage_fn`.

TRL's worker scores each prompt's completions in a process of its own, and stamps one advantage on
every row. There the function is called, and its advantages travel in that number's place to the
collator, which lays them out as TRL does. Written from TRL 1.16 (``trl.experimental.async_grpo``),
whose scoring and collator were run on a CPU; its training, which needs vLLM and a GPU, was not.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.base.errors import SettingsError
from tokengym.bridges.functions import Advantage, DoorAdvantage
from tokengym.bridges.trl_rows import NO_SCORER, columns_of, read_prompt
from tokengym.credit import Responses

COLLATOR = "DataCollatorForRollout"
"""TRL's collator, by the name under which its trainer makes it."""


class TokenAdvantages(float):
    """A row's advantages where TRL has one number: their mean, with each token's beside it."""

    tokens: NDArray[np.float32]
    """(time,) of all of the row's tokens, prompt included; 0 where it is not trained."""

    def __new__(cls, mean: float, tokens: NDArray[np.float32]) -> TokenAdvantages:
        """Make it of the mean over trained tokens and (time,) advantages."""
        made = super().__new__(cls, mean)
        made.tokens = tokens
        return made

    def __reduce__(self) -> Any:
        return TokenAdvantages, (float(self), self.tokens)


def attach(trainer: Any, advantage: Advantage) -> Any:
    """Give each token of an `AsyncGRPOTrainer`'s completions the advantage of a function.

    Raises:
        SettingsError: if the function reads what the worker cannot supply or is whitened over the
            batch, the worker is another than TRL's, or the function cannot be sent to it.
    """
    worker = trainer.rollout_worker
    columns = columns_of(trainer.train_dataset)
    _door_advantage(advantage, columns)
    module = next((m for m in _modules(trainer) if hasattr(m, COLLATOR)), None)
    if module is None:
        raise SettingsError(
            f"{type(trainer).__name__} is not TRL's AsyncGRPOTrainer, or a version without "
            f"{COLLATOR}; install trl 1.16"
        )
    if worker is not None:  # it is the main process alone that has one
        if not hasattr(worker, "_loop_cls"):
            raise SettingsError(
                f"rollout_worker is {type(worker).__name__}, which computes advantages in a way of "
                "its own; leave rollout_worker out"
            )
        loop = partial(scoring_loop, worker._loop_cls, advantage, columns)
        try:
            pickle.dumps(loop)
        except Exception as error:
            raise SettingsError(
                f"advantage {advantage!r} cannot be sent to TRL's worker process ({error}); define "
                "it at the top of a module, or pass 'path/to/file.py:name'"
            ) from error
        worker._loop_cls = loop
    kind: Any = type(trainer)
    trainer.__class__ = type(
        kind.__name__, (_ByAdvantage, kind), {"__module__": kind.__module__, "_trl": module}
    )
    return trainer


def _modules(trainer: Any) -> list[Any]:
    return [sys.modules.get(kind.__module__) for kind in type(trainer).__mro__]


def _door_advantage(advantage: Advantage, columns: frozenset[str]) -> DoorAdvantage:
    """Return an advantage that is called with one prompt's completions at a time."""
    made = DoorAdvantage(advantage, "trl-async", columns=columns, lacks=NO_SCORER)
    if made.whitens:
        raise SettingsError(
            f"advantage {made.name!r} is whitened over the batch, and TRL's worker sees one "
            "prompt's completions at a time; take 'loo', or GRPOTrainer"
        )
    return made


class _ByAdvantage:
    """Mixin of ``AsyncGRPOTrainer``, whose collator reads `TokenAdvantages`."""

    _trl: Any
    """TRL's module of the trainer."""

    def get_train_dataloader(self) -> Any:
        """Return TRL's, with a collator that lays out an advantage per token."""
        parent: Any = super()
        with _collator(self._trl):
            return parent.get_train_dataloader()


@contextmanager
def _collator(module: Any) -> Iterator[None]:
    """Let TRL's trainer make our collator in the place of its own."""
    theirs = getattr(module, COLLATOR)
    setattr(module, COLLATOR, collator(theirs))
    try:
        yield
    finally:
        setattr(module, COLLATOR, theirs)


def collator(theirs: Any) -> Any:
    """Return a subclass of TRL's collator whose advantages are those of single tokens."""

    class TokenAdvantageCollator(theirs):
        """Packs rows as TRL does."""

        def torch_call(self, examples: list[Any]) -> dict[str, Any]:
            """Return TRL's batch, with an advantage for each trained token of each sample."""
            batch: dict[str, Any] = super().torch_call(examples)
            packed = [_trained(row.samples) for row in examples[0]]
            laid_out = torch.zeros_like(batch["advantages"])
            for number, advantages in enumerate(packed):
                laid_out[number, : len(advantages)] = torch.from_numpy(advantages)
            batch["advantages"] = laid_out
            return batch

    return TokenAdvantageCollator


def _trained(samples: list[dict[str, Any]]) -> NDArray[np.float32]:
    """Return the advantages of the trained tokens of a row's samples, one after another."""
    parts = []
    for sample in samples:
        trained = np.asarray(sample["completion_mask"]).astype(bool)
        trained[0] = False  # nothing predicts the first token
        given = sample["advantage"]
        tokens = getattr(given, "tokens", None)
        whole = np.full(len(trained), given, np.float32) if tokens is None else tokens
        parts.append(whole[trained])
    return np.concatenate(parts)


def scoring_loop(kind: Any, advantage: Advantage, columns: frozenset[str], **named: Any) -> Any:
    """Return TRL's loop of the worker process, which stamps an advantage on every token."""
    loop = kind(**named)
    loop.__class__ = type(kind.__name__, (_ScoresByAdvantage, kind), {})
    loop._advantage = _door_advantage(advantage, columns)
    return loop


class _ScoresByAdvantage:
    """Mixin of ``_AsyncRolloutLoop``."""

    _advantage: DoorAdvantage
    tokenizer: Any
    reward_func_names: list[str]

    async def _score_group(self, group: Any) -> list[Any]:
        """Score one prompt's completions as TRL does, and call the function with them."""
        parent: Any = super()
        samples: list[Any] = await parent._score_group(group)
        for sample, tokens in zip(samples, self.advantages(group, samples), strict=True):
            trained = sample.completion_mask.astype(bool)
            mean = float(tokens[trained].mean()) if trained.any() else 0.0
            sample.advantage = TokenAdvantages(mean, tokens)
        return samples

    def advantages(self, group: Any, samples: list[Any]) -> list[NDArray[np.float32]]:
        """Return the advantages of each sample's tokens, prompt included.

        Args:
            group: TRL's group of one prompt's conversations.
            samples: Its rows, several of a conversation that forked.
        """
        whole = [np.zeros(len(sample.input_ids), np.float32) for sample in samples]
        kept = [row for row, sample in enumerate(samples) if sample.completion_mask.any()]
        if not kept:
            return whole
        rows = [samples[row] for row in kept]
        begins = [int(np.argmax(sample.completion_mask)) for sample in rows]
        ids = [sample.input_ids[at:] for sample, at in zip(rows, begins, strict=True)]
        marks = [sample.completion_mask[at:] for sample, at in zip(rows, begins, strict=True)]
        scores = _numbers([sample.metrics["reward"] for sample in rows])
        parts = {
            name: _numbers([s.metrics[f"rewards/{name}"] for s in rows]).nan_to_num()
            for name in self.reward_func_names
        }
        mask = _padded(marks).bool() & ~scores.isnan()[:, None]
        scores = scores.nan_to_num()
        last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
        own = _numbers([sample.advantage for sample in rows])
        sampled = [sample.old_log_probs[at:] for sample, at in zip(rows, begins, strict=True)]
        conversations = [n for n, forks in enumerate(group.completions_sequences) for _ in forks]
        data = [
            {name: values[conversations[row]] for name, values in group.reward_kwargs.items()}
            for row in kept
        ]
        episodes = Responses(self.tokenizer).episodes(
            [one.tolist() for one in ids],
            prompts=[read_prompt(s.prompt, row) for s, row in zip(rows, data, strict=True)],
            references=[row.get("reference") for row in data],
            query_types=[row.get("query_type") for row in data],
            metadata=data,
            written=[one.tolist() for one in marks],
        )
        found, _ = self._advantage(
            last * scores[:, None],
            mask,
            [group.group_id] * len(rows),
            given={
                "log_probs": _padded(sampled) * mask,
                "advantages": own[:, None].expand(mask.shape),
                "scores": scores,
                "score_parts": parts,
            },
            episodes=episodes,
            tokenizer=self.tokenizer,
        )
        for row, at, size, values in zip(kept, begins, map(len, ids), found, strict=True):
            whole[row][at:] = values[:size].numpy()
        return whole


def _numbers(values: list[Any]) -> torch.Tensor:
    """Return a number of each row, (rows,) float32."""
    return torch.tensor([float(value) for value in values], dtype=torch.float32)


def _padded(rows: list[Any]) -> torch.Tensor:
    """Return rows of numbers as (rows, longest) float32, 0 past a row's end."""
    table = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float32)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.from_numpy(np.asarray(row, np.float32))
    return table
