"""A causal sequence classifier taken apart: the backbone, the head, and the score of a position."""

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.rewards.errors import ScorerError
from tokengym.rewards.models.batching import PaddedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Labels = tuple[int | str, int | str]


class Inputs(NamedTuple):
    """A padded batch as the backbone takes it."""

    tokens: dict[str, Tensor]
    """``input_ids`` (batch, time)."""
    others: dict[str, Tensor]
    """Mask and, where the model takes them, positions, (batch, time)."""
    ends: Tensor
    """(batch,) int64: the column of each sequence's last token."""
    starts: Tensor
    """(batch,) int64: the column of each response's first token."""


class Classifier:
    """Base of every way of reading a classifier; it holds no state of its own.

    Args:
        model: A causal model with a ``score`` head.
        labels: (positive, negative) classes; see `resolve_labels`.

    Raises:
        ScorerError: if the head does not give one score, or ``labels`` does not fit it.
    """

    def __init__(self, model: "PreTrainedModel", labels: Labels | None) -> None:
        self.model = model
        self.backbone, self.head = split_head(model)
        self.labels = resolve_labels(model, labels)
        parameters = inspect.signature(self.backbone.forward).parameters
        self.takes_positions = "position_ids" in parameters

    @property
    def config(self) -> Any:
        """The configuration of the text model."""
        return self.model.config.get_text_config()

    @property
    def last_layer(self) -> int:
        """Index of the last layer."""
        return int(self.config.num_hidden_layers) - 1

    def inputs(
        self, batch: PaddedBatch, ends: NDArray[Any], starts: NDArray[Any] | None = None
    ) -> Inputs:
        """Return a padded batch on the model's device.

        Args:
            batch: The sequences.
            ends: (batch,) the column of each one's last token.
            starts: (batch,) the column of each response's first token; None takes ``ends``.
        """
        device = self.model.device
        others = {"attention_mask": torch.from_numpy(batch.attention_mask).to(device)}
        if self.takes_positions:
            others["position_ids"] = torch.from_numpy(batch.position_ids).to(device)
        return Inputs(
            tokens={"input_ids": torch.from_numpy(batch.input_ids).to(device)},
            others=others,
            ends=torch.from_numpy(ends).to(device),
            starts=torch.from_numpy(ends if starts is None else starts).to(device),
        )

    def hidden(self, tokens: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        """Return the last hidden states, (batch, time, width)."""
        return self.backbone(**tokens, **others, use_cache=False).last_hidden_state

    def scores(self, hidden: Tensor) -> Tensor:
        """Return the score of each hidden state, (...,) float32.

        Args:
            hidden: (..., width).
        """
        logits = self.head(hidden).float()
        if self.labels is None:
            return logits[..., 0]
        positive, negative = self.labels
        return logits[..., positive] - logits[..., negative]

    def end_scores(self, hidden: Tensor, ends: Tensor) -> Tensor:
        """Return the score of each sequence, (batch,), read at its last token.

        Args:
            hidden: (batch, time, width).
            ends: (batch,) columns.
        """
        rows = torch.arange(len(ends), device=hidden.device)
        return self.scores(hidden[rows, ends])


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


def split_head(model: "PreTrainedModel") -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return the backbone and the head that reads one position of it.

    Raises:
        ScorerError: if the model has no such head.
    """
    backbone = getattr(model, getattr(model, "base_model_prefix", ""), None)
    head = getattr(model, "score", None)
    if backbone is None or backbone is model or not isinstance(head, torch.nn.Module):
        raise ScorerError(
            f"{type(model).__name__} has no score head that reads one position of a causal model; "
            "load one with AutoModelForSequenceClassification (GPT-2, Llama, Qwen2, OPT, ...)"
        )
    return backbone, head
