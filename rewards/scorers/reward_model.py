"""A sequence classifier as scorer, with the attention row that ABC reads in the same pass."""

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.envs.episode import Episode
from tokengym.envs.errors import TokenizerError
from tokengym.rewards import last_row
from tokengym.rewards.batching import PaddedBatch, PaddingSide, padded_batches
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorer import Scorer, Scores
from tokengym.rewards.scorers.models import (
    check_vocabularies,
    evaluating,
    load_pretrained,
    load_tokenizer,
    vocabulary_size,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Labels = tuple[int | str, int | str]


class RewardModel(Scorer):
    """Scores prompt + response, exactly as sampled, by a sequence classifier.

    The score is read at the last response token (the EOS, where one was sampled): the model's one
    logit, or the difference of two classes' logits. Ids are never decoded and tokenised again, so
    the policy must use the model's tokenizer.

    Args:
        model: A causal model with a ``score`` head, as ``AutoModelForSequenceClassification``
            builds from GPT-2, Llama, Qwen2, OPT, ... It is put in eval mode while it scores.
        tokenizer: The model's tokenizer, compared to the policy's by `bind`; None compares sizes.
        labels: (positive, negative) classes, by index or by name in the model's config, for a head
            of several classes: score = logit[positive] - logit[negative]. None is (1, 0) for two
            classes.
        batch_size: Most sequences per forward pass; they are sorted by length.
        padding_side: Where shorter sequences of a batch are padded; changes no score.
        name: In messages and reports.

    Raises:
        ScorerError: if the head does not give one score, or ``labels`` does not fit it.
    """

    attribution_kinds = frozenset({"attention"})

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        labels: Labels | None = None,
        batch_size: int = 64,
        padding_side: PaddingSide = "right",
        name: str = "RewardModel",
    ) -> None:
        if batch_size < 1:
            raise ScorerError(f"batch_size must be at least 1, got {batch_size}")
        if padding_side not in ("left", "right"):
            raise ScorerError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.padding_side: PaddingSide = padding_side
        self._name = name
        self._backbone, self._head = _split(model)
        self._labels = resolve_labels(model, labels)
        parameters = inspect.signature(self._backbone.forward).parameters
        self._takes_positions = "position_ids" in parameters

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        labels: Labels | None = None,
        batch_size: int = 64,
        padding_side: PaddingSide = "right",
        device: str = "auto",
        dtype: str = "float32",
    ) -> "RewardModel":
        """Return the reward model stored in a folder or under a hub name.

        Args:
            path: Folder or hub name of a sequence classifier; a tokenizer beside it is read too.
            labels: As for the class.
            batch_size: As for the class.
            padding_side: As for the class.
            device: "auto" takes a GPU if there is one.
            dtype: Of the weights: "float32", "bfloat16", "float16" or "auto" (as stored).

        Raises:
            ScorerError: if the folder holds no classifier, or one without a trained head.
        """
        from transformers import AutoModelForSequenceClassification

        return cls(
            load_pretrained(AutoModelForSequenceClassification, path, dtype=dtype, device=device),
            tokenizer=load_tokenizer(path),
            labels=labels,
            batch_size=batch_size,
            padding_side=padding_side,
            name=f"RewardModel({Path(path).name})",
        )

    @property
    def name(self) -> str:
        """The class and the folder it was loaded from."""
        return self._name

    def __deepcopy__(self, memo: dict[int, Any]) -> "RewardModel":
        """Return itself: a model is shared; Gymnasium copies the arguments of every environment."""
        return self

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "RewardModel":
        """Return itself after comparing the policy's vocabulary with the model's.

        Raises:
            TokenizerError: if an id would be outside the model, or mean another word.
        """
        check_vocabularies(
            policy=tokenizer, own=self.tokenizer, size=self._vocab_size, name=self.name
        )
        return self

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the score of each episode, and its attention row if asked.

        Args:
            episodes: What to score.
            attribution: "attention" for the last layer's attention of the last response token,
                averaged over heads, restricted to the response and normalised; None for none.

        Raises:
            ScorerError: if an episode has no response, or is longer than the model reads.
            TokenizerError: if an id lies outside the model's vocabulary.
        """
        if attribution not in (None, "attention"):
            raise ScorerError(
                f"scorer {self.name!r} has no attribution {attribution!r}; it has 'attention'"
            )
        sequences = [[*episode.prompt_ids, *episode.response_ids] for episode in episodes]
        self._check(episodes, sequences)
        if attribution is not None:
            last_row.enable(self.model)
        values = np.zeros(len(episodes), dtype=np.float32)
        rows: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)] * len(episodes)
        batches = padded_batches(
            sequences, batch_size=self.batch_size, padding_side=self.padding_side
        )
        with evaluating(self.model), torch.no_grad():
            for batch in batches:
                lengths = np.array([len(sequences[index]) for index in batch.indices])
                ends = batch.starts + lengths - 1
                scores, row = self._forward(batch, ends, with_row=attribution is not None)
                values[batch.indices] = scores
                if row is None:
                    continue
                for place, index in enumerate(batch.indices):
                    size = len(episodes[index].response_ids)
                    rows[index] = response_weights(row[place], int(ends[place]), size)
        return Scores(values=values, attributions=None if attribution is None else rows)

    def _forward(
        self, batch: PaddedBatch, ends: NDArray[np.int64], *, with_row: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return (batch,) scores read at ``ends`` and, if asked, (batch, time) attention rows."""
        device = self.model.device
        positions = torch.from_numpy(ends).to(device)
        inputs = {
            "input_ids": torch.from_numpy(batch.input_ids).to(device),
            "attention_mask": torch.from_numpy(batch.attention_mask).to(device),
        }
        if self._takes_positions:
            inputs["position_ids"] = torch.from_numpy(batch.position_ids).to(device)
        recording = last_row.record_row(positions, self._last_layer) if with_row else nullcontext()
        with recording as recorder:
            hidden = self._backbone(**inputs, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(ends), device=device), positions]  # (batch, width)
        scores = self._difference(self._head(last).float()).cpu().numpy()
        if recorder is None:
            return scores, None
        if recorder.row is None:
            raise ScorerError(
                f"{type(self.model).__name__} did not call its attention function in layer "
                f"{self._last_layer}; take credit 'uniform' or another reward model"
            )
        return scores, recorder.row.cpu().numpy()

    def _difference(self, logits: Tensor) -> Tensor:
        if self._labels is None:
            return logits[:, 0]
        positive, negative = self._labels
        return logits[:, positive] - logits[:, negative]

    def _check(self, episodes: Sequence[Episode], sequences: Sequence[Sequence[int]]) -> None:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for index, (episode, ids) in enumerate(zip(episodes, sequences, strict=True)):
            if not episode.response_ids:
                raise ScorerError(
                    f"episode {index} has no response_ids, so there is no token to read the score "
                    "at; give the response at least one token (the EOS counts)"
                )
            if limit is not None and len(ids) > limit:
                raise ScorerError(
                    f"episode {index} has {len(ids)} tokens, scorer {self.name!r} reads at most "
                    f"{limit}; lower max_prompt_tokens or max_new_tokens"
                )
            if max(ids) >= self._vocab_size or min(ids) < 0:
                raise TokenizerError(
                    f"episode {index} has token ids from {min(ids)} to {max(ids)}, scorer "
                    f"{self.name!r} has a vocabulary of {self._vocab_size}; score with a model of "
                    "the policy's tokenizer"
                )

    @property
    def _vocab_size(self) -> int:
        return vocabulary_size(self.model)

    @property
    def _last_layer(self) -> int:
        return int(self.model.config.get_text_config().num_hidden_layers) - 1


def response_weights(row: NDArray[np.float32], end: int, size: int) -> NDArray[np.float32]:
    """Return the part of an attention row that falls on the response, normalised.

    alpha_t = a_{end - size + 1 + t} / sum_s a_{end - size + 1 + s}; uniform if all are 0

    Args:
        row: (time,) attention of the position ``end`` to every position.
        end: Position of the last response token.
        size: Number of response tokens.

    Example:
        >>> response_weights(np.array([0.6, 0.1, 0.3, 0.0], dtype=np.float32), end=2, size=2)
        array([0.25, 0.75], dtype=float32)
    """
    weights = row[end - size + 1 : end + 1].astype(np.float64)
    total = weights.sum()
    weights = weights / total if total > 0 else np.full(size, 1.0 / size)
    return weights.astype(np.float32)


def resolve_labels(model: "PreTrainedModel", labels: Labels | None) -> tuple[int, int] | None:
    """Return the indices of the two classes whose logits are subtracted; None for one logit.

    Args:
        model: The classifier.
        labels: (positive, negative), by index or name.

    Raises:
        ScorerError: if the head has several classes and ``labels`` does not choose two of them, or
            one logit and ``labels`` is given.
    """
    config: Any = model.config
    classes = int(config.num_labels)
    if classes == 1:
        if labels is None:
            return None
        raise ScorerError(
            f"labels = {labels} needs a head of several classes; this one has 1 logit"
        )
    names = dict(config.id2label)
    if labels is None and classes == 2:
        labels = (1, 0)
    if labels is None or len(labels) != 2:
        raise ScorerError(
            f"the head has {classes} classes {list(names.values())}, got labels = {labels}; "
            "pass labels=(positive, negative)"
        )
    by_name = {name: index for index, name in names.items()}
    chosen = [by_name.get(label, -1) if isinstance(label, str) else label for label in labels]
    if not all(0 <= index < classes for index in chosen) or chosen[0] == chosen[1]:
        raise ScorerError(
            f"labels must name two different classes of {names}, got {labels}; "
            "pass labels=(positive, negative)"
        )
    return chosen[0], chosen[1]


def _split(model: "PreTrainedModel") -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return the backbone and the head that reads one position of it."""
    backbone = getattr(model, getattr(model, "base_model_prefix", ""), None)
    head = getattr(model, "score", None)
    if backbone is None or backbone is model or not isinstance(head, torch.nn.Module):
        raise ScorerError(
            f"{type(model).__name__} has no score head that reads one position of a causal model; "
            "load one with AutoModelForSequenceClassification (GPT-2, Llama, Qwen2, OPT, ...)"
        )
    return backbone, head
