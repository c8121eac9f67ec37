"""Pairs as each kind of model reads and learns them: two sequences, with a number for each.

A reward model reads prompt and chosen, and prompt and rejected; its numbers are their scores. A
preference model reads one question in both orders; its numbers are how much it prefers A to B.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from tokengym.envs import Chat, content, encode, encode_chats, joined, missing_end, tokenize
from tokengym.lab.scorers.preference_model import (
    answer_ids,
    answer_logits,
    log_odds,
    write_question,
)
from tokengym.lab.training.fitting import padded
from tokengym.lab.training.pairwise import bradley_terry_loss
from tokengym.rewards import FORM_KEY, PreferencePair, RewardError, ScorerError
from tokengym.rewards.models import Classifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Sequences = tuple[list[int], list[int]]
"""The ids of a pair's two sequences."""


class PairReader(ABC):
    """Reading of pairs by a kind of model."""

    padding_side: Literal["left", "right"]
    """Side of the padding."""
    model: "PreTrainedModel"
    """The model that reads."""

    @abstractmethod
    def encode(
        self, pairs: Sequence[PreferencePair], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[Sequences]:
        """Return each pair's two sequences, however long."""

    def describe(self, config: Any, pairs: Sequence[PreferencePair]) -> None:
        """Note in a model's configuration, which is stored with it, how it read the pairs."""
        del config, pairs

    @abstractmethod
    def values(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Return the number of each sequence, (batch,), of arguments (batch, time)."""

    def judgements(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Return the numbers that learn, (heads, batch): `values`, unless those are their mean."""
        return self.values(input_ids, attention_mask, position_ids)[None]

    @abstractmethod
    def differences(self, first: Tensor, second: Tensor) -> Tensor:
        """Return what is positive where the model is right, (judgements, batch), reward units.

        Args:
            first: (heads, batch) numbers of the pairs' first sequences.
            second: (heads, batch) of their second ones.
        """

    @abstractmethod
    def log_odds(
        self, first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the log-odds that the model gives to the chosen response, (pairs,).

        Args:
            first: (pairs,) numbers of the first sequences.
            second: (pairs,) of the second ones.
        """


class RewardReader(PairReader):
    """Bradley-Terry: P(chosen is better) = sigmoid(R(x, y_w) - R(x, y_l)).

    Args:
        model: A classifier with one logit, causal or of BERT's line.
        append_eos: Whether texts of a causal model end with EOS; others end as their tokenizer
            writes it.
        chat_template: Whether prompts are conversations in the tokenizer's chat template, which
            ends them too; pairs of messages always are.
    """

    padding_side = "right"

    def __init__(
        self, model: "PreTrainedModel", *, append_eos: bool, chat_template: bool = False
    ) -> None:
        self.model = model
        self.append_eos = append_eos
        self.chat_template = chat_template
        self.classifier = Classifier.of(model, None)
        self.is_encoder = self.classifier.reads_both_ways

    def encode(
        self, pairs: Sequence[PreferencePair], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[Sequences]:
        """Return prompt and chosen, and prompt and rejected, joined as written or as a chat.

        A response that is "" has no ids, not those of its prompt: it stands for none.
        """
        end = [tokenizer.eos_token_id] if self.append_eos and not self.is_encoder else []
        rows = [(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
        if self.form_of(pairs) == "chat":
            if not self.append_eos:
                raise RewardError(
                    "append_eos=False has no effect in a chat template, which ends answers; leave "
                    "it out"
                )
            end = [] if self.is_encoder else missing_end(tokenizer)
            texts = encode_chats(tokenizer, _conversations(pairs), to_answer=False)
        else:
            wholes = [joined(prompt, content(text)) for prompt, two in rows for text in two]
            if self.is_encoder:
                texts = [
                    whole.ids for whole in tokenize(tokenizer, wholes, add_special_tokens=True)
                ]
            else:
                texts = encode(tokenizer, wholes)
        said = [text for _, two in rows for text in two]
        ids = [[*tokens, *end] if text else [] for text, tokens in zip(said, texts, strict=True)]
        return list(zip(ids[::2], ids[1::2], strict=True))

    def form_of(self, pairs: Sequence[PreferencePair]) -> Literal["text", "chat"]:
        """Return the form in which pairs are read, which is stored with the model."""
        is_chat = self.chat_template or any(pair.messages for pair in pairs)
        return "chat" if is_chat else "text"

    def describe(self, config: Any, pairs: Sequence[PreferencePair]) -> None:
        """Note the form, in which `RewardModel` then reads."""
        setattr(config, FORM_KEY, self.form_of(pairs))

    def values(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Return each text's score, read at its last token."""
        return self.judgements(input_ids, attention_mask, position_ids).mean(dim=0)

    def judgements(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Return each head's score of each text."""
        others = {"attention_mask": attention_mask}
        if self.classifier.takes_positions:
            others["position_ids"] = position_ids
        ends = attention_mask.sum(dim=1) - 1
        return self.classifier.logits({"input_ids": input_ids}, others, ends).float().T

    def differences(self, first: Tensor, second: Tensor) -> Tensor:
        """Return R(x, y_w) - R(x, y_l), one judgement a pair and head."""
        return first - second

    def log_odds(
        self, first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return R(x, y_w) - R(x, y_l)."""
        return first - second


def _conversations(pairs: Sequence[PreferencePair]) -> list[Chat]:
    """Return both conversations of each pair, in turn; a text is the assistant's message."""
    return [
        pair.chat.then(reply)
        for pair in pairs
        for reply in pair.replies or map(_answer, (pair.chosen, pair.rejected))
    ]


def _answer(said: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": said.strip()}]


class PreferenceReader(PairReader):
    """P(A is better) = sigmoid(logit_A - logit_B), the chosen response once as A and once as B.

    Args:
        model: A causal language model.
        tokenizer: Knows the answers.
        template: The question.
        answers: What stands for the first and the second response.
    """

    padding_side = "left"

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        template: str,
        answers: tuple[str, str],
    ) -> None:
        self.model = model
        self.template = template
        self.answer_ids = answer_ids(tokenizer, answers)

    def encode(
        self, pairs: Sequence[PreferencePair], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[Sequences]:
        """Return the question with the chosen response as A, and with it as B."""
        if not all(pair.chosen and pair.rejected for pair in pairs):
            raise ScorerError(
                "a preference model compares two responses, got labelled texts; train a reward "
                "model on them"
            )
        questions = [
            write_question(self.template, (pair.prompt, *responses))
            for pair in pairs
            for responses in ((pair.chosen, pair.rejected), (pair.rejected, pair.chosen))
        ]
        ids = encode(tokenizer, questions)
        return list(zip(ids[::2], ids[1::2], strict=True))

    def values(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Return logit_A - logit_B after each question."""
        logits = answer_logits(
            self.model,
            self.answer_ids,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
        return logits[:, 0] - logits[:, 1]

    def differences(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the preference for the chosen response in both orders, two judgements a pair."""
        return torch.cat([first, -second])

    def log_odds(
        self, first: NDArray[np.float64], second: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return log(p / (1 - p)), p the mean of both orders, as `PreferenceModel` scores."""
        return log_odds((expit(first) + expit(-second)) / 2)


# --- learning from them --------------------------------------------------------------------------


class LearnedPair(NamedTuple):
    """One pair of the training data."""

    sequences: Sequences
    """Two texts or questions; an empty one is no text, and scores 0."""
    margin: float
    """Amount by which the difference should exceed 0, reward units."""
    weights: tuple[float, ...] = (1.0,)
    """Weight of the pair, for each head."""


def bootstrap(num_rows: int, heads: int, seed: int) -> NDArray[np.float64]:
    """Return how often each head draws each row with replacement, (rows, heads).

    One head takes each row once. Of several each learns from as many draws as there are rows.

    Source: Osband et al. 2016, "Bootstrapped DQN", arXiv:1602.04621.
    """
    if heads == 1:
        return np.ones((num_rows, 1))
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=heads).T.astype(float)


class PairModule(torch.nn.Module):
    """Module that the trainer trains: a batch of pairs in, the loss out."""

    accepts_loss_kwargs = True
    """The trainer passes the number of pairs in all parts of a batch, which weigh the same."""

    def __init__(
        self, trained: torch.nn.Module, reader: PairReader, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.trained = trained
        self.label_smoothing = label_smoothing
        self._read = reader  # no module: it is not a second owner of the parameters

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        margin: Tensor,
        weights: Tensor,
        places: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of rows first, first, ..., second, second, ... of each pair.

        loss = sum over judgements j and pairs i of weights_ij loss_ij / (judgements * n)

        Args:
            input_ids: (texts, time), as the next two; texts of no tokens are left out.
            attention_mask: True where a token is.
            position_ids: From 0.
            margin: (pairs,).
            weights: (pairs, heads).
            places: (texts,) where of the 2 * pairs each stands.
            labels: (pairs,) none, but one entry for each pair, by which the trainer counts n.
            num_items_in_batch: Pairs n of all parts of the batch; None: these are all.
        """
        del labels
        judged = self._read.judgements(input_ids, attention_mask, position_ids)
        values = judged.new_zeros(len(judged), 2 * len(margin))
        values[:, places] = judged
        first, second = values.chunk(2, dim=1)
        differences = self._read.differences(first, second)
        zeros = torch.zeros_like(differences)
        losses = bradley_terry_loss(
            differences,
            zeros,
            margin.expand_as(differences),
            label_smoothing=self.label_smoothing,
        )
        # A mean of the parts' means would weigh the pairs of a short last part more.
        items = len(margin) if num_items_in_batch is None else num_items_in_batch
        loss = (weights.T * losses).sum() / (len(losses) * items)
        if not torch.isfinite(loss):
            raise RewardError(
                f"the loss of the pairs is {loss.item()}; lower learning_rate, or train in float32"
            )
        return {"loss": loss, "values": values.detach()}


class Collator:
    """Pads rows into one batch, all first sequences before all second ones.

    Args:
        padding_side: Where sequences are padded.
    """

    def __init__(self, padding_side: Literal["left", "right"]) -> None:
        self.padding_side = padding_side

    def __call__(self, rows: Sequence[LearnedPair]) -> dict[str, Tensor]:
        """Return the arguments of `PairModule.forward`."""
        everything = [row.sequences[index] for index in (0, 1) for row in rows]
        places = [index for index, ids in enumerate(everything) if ids]
        sequences = [everything[index] for index in places]
        return {
            "labels": torch.zeros(len(rows), dtype=torch.int64),
            **padded(sequences, self.padding_side),
            "margin": torch.tensor([row.margin for row in rows], dtype=torch.float32),
            "places": torch.tensor(places),
            "weights": torch.tensor([row.weights for row in rows], dtype=torch.float32),
        }
