"""The forward pass of the models behind scorers: padded batches in, a classifier's logits out."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.base.stored.adapters import merged_layer
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scores import REWARD_MODEL_KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PaddingSide = Literal["left", "right"]
"""Side on which shorter texts are padded."""


class PaddedBatch(NamedTuple):
    """Some sequences of a longer list, padded to one length on their model's device."""

    indices: NDArray[np.int64]
    """(batch,) where in the list each row comes from."""
    ends: NDArray[np.int64]
    """(batch,) column of each sequence's last token."""
    tensors: dict[str, Tensor]
    """(batch, time) ``input_ids``, ``attention_mask`` from the lengths, never from the ids, and, if
    asked for, ``position_ids``: 0, 1, 2, ... from each sequence's first token; 0 on padding."""


@contextmanager
def reading(
    model: "PreTrainedModel",
    sequences: Sequence[Sequence[int]],
    *,
    batch_size: int,
    pad_id: int = 0,
    padding_side: PaddingSide = "right",
    positions: bool = False,
    gradients: bool = False,
) -> Iterator[Iterator[PaddedBatch]]:
    """Give sequences as padded batches to a model, which has no dropout and no gradients here.

    Sequences of like length are together, the longest first.

    Args:
        model: What reads them; one in training mode returns to it afterwards.
        sequences: Token ids, any lengths; each is in one batch, empty ones in none.
        batch_size: Most sequences in a batch.
        pad_id: What fills the rest; masked.
        padding_side: Where the rest is.
        positions: Whether the model is given positions.
        gradients: Whether gradients are left as they are.
    """
    lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)
    # Stable, so that equal lengths keep their order and scores do not depend on the sort.
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]

    # A batch lies on one side of the border: each text is read by the factors of its neighbours.
    border = rotary_border(model)
    beyond = 0 if border is None else int(np.count_nonzero(lengths[order] > border))
    chunks = [
        side[first : first + batch_size]
        for side in (order[:beyond], order[beyond:])
        for first in range(0, len(side), batch_size)
    ]

    def batches() -> Iterator[PaddedBatch]:  # one at a time is on the device
        for indices in chunks:
            sizes, time = lengths[indices], lengths[indices[0]]
            starts = time - sizes if padding_side == "left" else np.zeros_like(sizes)
            places = np.arange(time) - starts[:, None]  # (batch, time), from each first token
            mask = (places >= 0) & (places < sizes[:, None])
            ids = np.full(mask.shape, pad_id, dtype=np.int64)
            # The mask is read row by row, as the sequences follow one another.
            ids[mask] = np.concatenate([sequences[index] for index in indices])
            arrays = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
            if positions:
                arrays["position_ids"] = places * mask
            tensors = {
                name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()
            }
            yield PaddedBatch(indices, starts + sizes - 1, tensors)

    was_training = model.training
    model.eval()
    try:
        with nullcontext() if gradients else torch.no_grad():
            yield batches()
    finally:
        model.train(was_training)


def rotary_border(model: "PreTrainedModel") -> int | None:
    """Return the length beyond which a model reads a whole batch with other rotary factors.

    None if it has one kind of factors, as all but "longrope" have.
    """
    rotary = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    if rotary.get("rope_type") != "longrope":
        return None
    return int(rotary["original_max_position_embeddings"])


Labels = int | str | tuple[int | str, int | str]
"""One class, or (positive, negative): by index, by name, or as "positive+negative"."""


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
    """A causal classifier: its backbone, and its head, which can score every position.

    Args:
        model: A causal model with a ``score`` head.
        labels: The class or classes that make the score; see `resolve_labels`.

    Raises:
        ScorerError: if the head does not give one score, or ``labels`` does not fit it.
    """

    kinds = REWARD_MODEL_KINDS
    """Kinds of attribution that can be read."""
    reads_both_ways = False
    """Whether it is bidirectional: it pools the whole text and has no score per position."""
    padding_side: PaddingSide = "right"
    """Side on which it reads shorter texts padded."""
    pad_id = 0
    """Id that they are padded with."""

    def __init__(self, model: "PreTrainedModel", labels: Labels | None) -> None:
        self.model = model
        self.config: Any = model.config.get_text_config()
        self.backbone, self.head = split_head(model)
        self.labels = resolve_labels(model, labels)
        parameters = inspect.signature(self.backbone.forward).parameters
        self.takes_positions = "position_ids" in parameters

    @staticmethod
    def of(model: "PreTrainedModel", labels: Labels | None, *, pairs: bool = False) -> "Classifier":
        """Return a sequence classifier, causal or bidirectional; see `EncoderClassifier`."""
        name = type(model).__name__
        if (
            isinstance(getattr(model, "score", None), torch.nn.Module)
            or not name.endswith("ForSequenceClassification")
            or model.config.is_encoder_decoder
        ):
            return Classifier(model, labels)
        return EncoderClassifier(model, labels, pairs=pairs)

    def inputs(self, batch: PaddedBatch, starts: NDArray[np.integer]) -> Inputs:
        """Return a padded batch with each response's first column, (batch,)."""
        device = self.model.device
        *_, last = self.model.parameters()
        if last.device != device:  # a backbone has been moved with the policy that shares it
            torch.nn.Module.to(self.model, device)
        others = dict(batch.tensors)
        return Inputs(
            tokens={"input_ids": others.pop("input_ids")},
            others=others,
            ends=torch.from_numpy(batch.ends).to(device),
            starts=torch.from_numpy(starts).to(device),
        )

    def logits(
        self,
        tokens: dict[str, Tensor],
        others: dict[str, Tensor],
        columns: Tensor | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the logits at chosen places, (places, classes).

        Args:
            tokens: ``input_ids``, or ``inputs_embeds``.
            others: Mask and, where the model takes them, positions.
            columns: (places,), such as that of each sequence's last token; None takes all of every
                row, (batch, time, classes).
            rows: (places,); None takes one place in each row.
        """
        hidden = self.backbone(**tokens, **others, use_cache=False).last_hidden_state
        if columns is None:
            return self.head(hidden)
        rows = torch.arange(len(columns), device=hidden.device) if rows is None else rows
        return self.head(hidden[rows, columns])  # (places, width) before the head

    def of_logits(self, logits: Tensor) -> Tensor:
        """Return the score that logits (..., classes) make, (...,) float32; the heads' mean."""
        logits = logits.float()
        if self.labels is None:
            return logits.mean(dim=-1)
        positive, negative = self.labels
        if negative is None:
            return logits[..., positive]
        return logits[..., positive] - logits[..., negative]

    def linear_score(self) -> tuple[Tensor, Tensor]:
        """Return weight (width,) and bias () that make the score of a hidden state."""
        head = merged_layer(self.head)
        if not isinstance(head, torch.nn.Linear):
            raise ScorerError(
                f"the head of {type(self.model).__name__} is {type(head).__name__}, not one "
                "linear layer; take value_network='own'"
            )
        # `of_logits` is linear: applied to the weights, (width, classes), it gives the score's own.
        bias = head.bias
        no_bias = head.weight.new_zeros(head.out_features)
        return self.of_logits(head.weight.T), self.of_logits(no_bias if bias is None else bias)


class EncoderClassifier(Classifier):
    """A classifier without a ``score`` head: its logits of the whole text, by its own pooling.

    Args:
        model: A sequence classifier of BERT's line (BERT, RoBERTa, DistilBERT, DeBERTa, ...), or
            another without a head that scores every position (XLNet, CTRL, ModernBERT's decoder).
        labels: As for `Classifier`.
        pairs: Whether the response is the second text of a pair.
    """

    # No gradients: DeBERTa normalises each embedding alone, so that its length has no effect.
    kinds = frozenset({"attention"})
    reads_both_ways = True

    def __init__(
        self, model: "PreTrainedModel", labels: Labels | None, *, pairs: bool = False
    ) -> None:
        self.model = model
        self.config = model.config.get_text_config()
        self.labels = resolve_labels(model, labels)
        self.takes_positions = False  # these models count for themselves
        parameters = inspect.signature(model.forward).parameters
        self.has_types = pairs and "token_type_ids" in parameters
        self.summary: str | None = None
        if hasattr(model, "sequence_summary"):  # of XLNet, XLM and FlauBERT
            self.summary = model.config.summary_type
        if self.summary == "last":  # it reads the last column, whatever is there
            self.padding_side = "left"
        pad = self.config.pad_token_id  # a causal model finds its last token by it
        self.pad_id = 0 if pad is None else pad

    def inputs(self, batch: PaddedBatch, starts: NDArray[np.integer]) -> Inputs:
        """Return a padded batch; tokens from ``starts``, (batch,), on are a pair's second text."""
        inputs = super().inputs(batch, starts)
        if self.has_types:
            mask = inputs.others["attention_mask"]
            columns = torch.arange(mask.shape[1], device=mask.device)
            inputs.others["token_type_ids"] = (columns >= inputs.starts[:, None]).long()
        return inputs

    def logits(
        self,
        tokens: dict[str, Tensor],
        others: dict[str, Tensor],
        columns: Tensor | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of each text, (batch, classes), wherever it ends."""
        return self.model(**tokens, **others).logits

    def pooled_row(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes), and attention (batch, time) averaged over heads.

        It is that of the last layer at the token whose hidden state the head reads: the first one,
        as in BERT, or the last one, as in causal models and XLNet.

        Raises:
            ScorerError: if it is not known which token that is, or its attention is none of the
                text's tokens.
        """
        if self.model.config._attn_implementation != "eager":
            self.model.set_attn_implementation("eager")  # the others keep no weights
        with torch.no_grad():
            output = self.model(**inputs.tokens, **inputs.others, output_attentions=True)
        mask = inputs.others["attention_mask"]
        batch, time = mask.shape
        weights = output.attentions[-1] if output.attentions else None
        shape = tuple(getattr(weights, "shape", ()))
        if weights is None or (shape[:1], shape[2:]) != ((batch,), (time, time)):
            raise self._unreadable(f"has attention of shape {shape} for {time} tokens")
        weights = weights.float().mean(dim=1)  # (batch, time, time) without the heads
        rows = torch.arange(batch, device=mask.device)
        chosen = weights[rows, self._pooled_columns(inputs, weights)]
        # Windows of keys, and approximations, are no weights of tokens.
        if not torch.allclose((chosen * mask).sum(dim=1), chosen.new_ones(batch), atol=0.02):
            raise self._unreadable("has attention that does not sum to 1 over the text's tokens")
        return output.logits, chosen

    def _pooled_columns(self, inputs: Inputs, weights: Tensor) -> Tensor:
        """Return the column whose hidden state makes each score, (batch,).

        Args:
            inputs: A padded batch.
            weights: (batch, time, time) of the last layer, of a causal model none above the
                diagonal.
        """
        ids = inputs.tokens["input_ids"]
        first = torch.zeros_like(inputs.ends)
        if self.summary is not None:
            if self.summary not in ("first", "last"):
                raise self._unreadable(f"pools by summary_type={self.summary!r}")
            return first if self.summary == "first" else first + ids.shape[1] - 1
        pooling = getattr(self.config, "classifier_pooling", "cls")
        if pooling != "cls":
            raise self._unreadable(f"pools by {pooling!r}")
        if hasattr(self.config, "classifier_pooling") or weights.triu(1).any():
            return first
        if getattr(self.config, "is_decoder", False):
            raise self._unreadable("is causal, and the token that it pools at is not known")
        # As transformers finds the last token of a causal model.
        pad = self.config.pad_token_id
        columns = torch.arange(ids.shape[1], device=ids.device)
        return (columns * (ids != pad)).argmax(dim=1) if pad is not None else first + columns[-1]

    def _unreadable(self, why: str) -> ScorerError:
        return ScorerError(
            f"{type(self.model).__name__} {why}, so that no token's attention stands for its "
            "score; take credit 'uniform'"
        )


GOALS = (
    *(("positive", "negative"), ("pos", "neg"), ("good", "bad"), ("better", "worse")),
    *(("chosen", "rejected"), ("helpful", "unhelpful"), ("acceptable", "unacceptable")),
    *(("correct", "incorrect"), ("safe", "unsafe"), ("true", "false"), ("yes", "no")),
    *(("label_1", "label_0"), ("1", "0")),
)
"""Names of two classes of which it is known which one is wanted, (wanted, other), in any case."""


def named_goal(names: Mapping[int, str]) -> tuple[int, int] | None:
    """Return the classes (wanted, other) of a head of two, by their names; None if unknown.

    Args:
        names: Name of each class.
    """
    places = {str(name).strip().lower(): index for index, name in names.items()}
    for goal, other in GOALS:
        if places.keys() == {goal, other}:
            return places[goal], places[other]
    return None


def resolve_labels(
    model: "PreTrainedModel", labels: Labels | None
) -> tuple[int, int | None] | None:
    """Return the indices of the class whose logit is the score and of the one subtracted, if any.

    Args:
        model: The classifier.
        labels: One class, or (positive, negative), by index or name; None of a head of two is the
            difference of the two, in the order of `GOALS`, else of the second and the first.

    Returns:
        None for a head with one logit, or several that are each a score, see `has_heads`.

    Raises:
        ScorerError: if they are no classes of the head.
    """
    config: Any = model.config
    names = {int(index): str(name) for index, name in config.id2label.items()}
    classes = int(config.num_labels)
    if labels is None and (classes == 1 or has_heads(model)):
        return None
    if labels is None and classes == 2:
        labels = named_goal(names) or (1, 0)
    words: Any = labels.split("+") if isinstance(labels, str) else labels
    if not isinstance(words, list | tuple):
        words = [words]
    by_name = {name: index for index, name in names.items()}
    chosen = [by_name.get(label, -1) if isinstance(label, str) else label for label in words]
    are_classes = all(isinstance(index, int) and 0 <= index < classes for index in chosen)
    if not are_classes or len(chosen) not in (1, 2) or len({*chosen}) < len(chosen):
        raise ScorerError(
            f"labels must name one class or two different classes of {names}, by index or name, "
            f"got {labels!r}; pass labels=(positive, negative), or add scorers for other weights"
        )
    return chosen[0], chosen[1] if len(chosen) == 2 else None


def has_heads(model: "PreTrainedModel") -> bool:
    """Return whether a model's several logits are each a score, as its configuration notes.

    Its score is then their mean, and their standard deviation what is not known of it. Training
    several heads leaves their number in the configuration as ``reward_heads``.
    """
    config: Any = model.config
    return bool(getattr(config, "reward_heads", None) == config.num_labels > 1)


def split_head(model: "PreTrainedModel") -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return the backbone and the head that reads one position of it."""
    backbone = getattr(model, getattr(model, "base_model_prefix", ""), None)
    head = getattr(model, "score", None)
    if backbone is None or backbone is model or not isinstance(head, torch.nn.Module):
        raise ScorerError(
            f"{type(model).__name__} has no score head that reads one position of a causal model; "
            "load one with AutoModelForSequenceClassification (GPT-2, Llama, Qwen2, OPT, ...)"
        )
    return backbone, head
