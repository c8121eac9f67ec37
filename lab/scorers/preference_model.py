"""A language model that compares two responses, as scorer against the reference."""

import inspect
import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.base import check_choice, check_count, unwrapped
from tokengym.envs import (
    Episode,
    MarkedText,
    TokenizerError,
    encode,
    filled,
    tokenize,
    unknown_share,
)
from tokengym.lab.scorers.judge import load_answering_model
from tokengym.rewards import Scorer, ScorerError, Scores, Shared
from tokengym.rewards.models import longest_input, reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Triple = tuple[str, str, str]
"""(context, response A, response B)."""

TEMPLATE = "[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n"
"""Prompt of the model (Dong et al. 2024); it answers with one token."""
ANSWERS = ("A", "B")
"""Tokens that it answers with."""

STORED_FORMAT = "preference_format"
"""Key of the configuration by which the suite knows a stored preference model too."""

_SURE = 1e-6
"""Probabilities closer to 0 or 1 give no larger log-odds."""


class PreferenceModel(Shared, Scorer):
    """P(the response is better than the reference answer), asked in both orders.

    The model reads the context and two responses, and its next-token logits of the two answers
    say which one it prefers: P(A) = softmax(logit_A, logit_B)_A. The response is A in one question
    and B in the other, and the two probabilities are averaged, so that a bias to one place cancels.
    ``parts`` holds both, as ``preferred_as_a`` and ``preferred_as_b``.

    Args:
        model: A causal language model.
        tokenizer: The model's own.
        template: The question, with ``{context}``, ``{a}`` and ``{b}``.
        answers: What stands for the first and the second response; one token each.
        output: "probability", or "log-odds" for a score without bounds.
        batch_size: Most questions per forward pass.
        name: In messages and reports.

    Source: Dong et al. 2024, "RLHF Workflow", arXiv:2405.07863, section 2.3.
    """

    attribution_kinds = frozenset()

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        template: str = TEMPLATE,
        answers: tuple[str, str] = ANSWERS,
        output: Literal["probability", "log-odds"] = "probability",
        batch_size: int = 16,
        name: str = "PreferenceModel",
    ) -> None:
        check_template(template)
        self.model = model = unwrapped(model)
        self.tokenizer = tokenizer
        self.template = template
        self.output = output
        self.batch_size = batch_size
        check_choice(self, "output", ("probability", "log-odds"), error=ScorerError)
        check_count(self, "batch_size", error=ScorerError)
        self._name = name
        self._answer_ids = answer_ids(tokenizer, answers)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        template: str | None = None,
        answers: tuple[str, str] | None = None,
        output: Literal["probability", "log-odds"] = "probability",
        batch_size: int = 16,
        device: str = "auto",
        dtype: str = "float32",
    ) -> "PreferenceModel":
        """Return the scorer over the language model stored in a folder or under a hub name.

        Args:
            path: Folder or hub name of a causal language model with its tokenizer.
            template: As for the class; None takes what the model was trained with by
                `train_preference_model`, else the default.
            answers: What the model answers with; None likewise.
            output: "probability" or "log-odds".
            batch_size: Most questions per forward pass.
            device: "auto" takes a GPU if there is one.
            dtype: Type of the weights: "float32", "bfloat16", "float16" or "auto" (as stored).
        """
        model, tokenizer = load_answering_model(path, dtype=dtype, device=device)
        trained = stored_format(model.config) or (TEMPLATE, ANSWERS)
        return cls(
            model,
            tokenizer,
            template=template or trained[0],
            answers=answers or trained[1],
            output=output,
            batch_size=batch_size,
            name=f"PreferenceModel({Path(path).name})",
        )

    def oov_fraction(self, episodes: Sequence[Episode]) -> NDArray[np.float64]:
        """Return the share of each text that its tokenizer has no tokens for, (batch,)."""
        return unknown_share(self.tokenizer, [f"{e.prompt} {e.response}" for e in episodes])

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return how sure the model is that each response beats its reference."""
        self.check_attribution(attribution)
        for episode in episodes:
            if not episode.reference:
                raise ScorerError(
                    f"the prompt {episode.prompt!r} has no reference to compare with; pass "
                    "reference_column=, or score with a RewardModel"
                )
        triples = [(e.prompt, e.response, e.reference or "") for e in episodes]
        as_a = self.preferences([(context, one, two) for context, one, two in triples])
        as_b = 1.0 - self.preferences([(context, two, one) for context, one, two in triples])
        mean = (as_a + as_b) / 2
        values = log_odds(mean) if self.output == "log-odds" else mean
        return Scores(values, {"preferred_as_a": as_a, "preferred_as_b": as_b})

    def preferences(self, triples: Sequence[Triple]) -> NDArray[np.float64]:
        """Return P(A is better than B) as the model answers in this order alone, (batch,).

        Args:
            triples: (context, A, B).
        """
        questions = [write_question(self.template, triple) for triple in triples]
        sequences = encode(self.tokenizer, questions)
        limit = longest_input(self.model)
        for question, ids in zip(questions, sequences, strict=True):
            if not ids or (limit is not None and len(ids) > limit):
                raise ScorerError(
                    f"the question {question[:60]!r} has {len(ids)} tokens, scorer {self.name!r} "
                    f"reads 1 to {limit}; lower max_prompt_tokens or max_new_tokens, "
                    "or shorten the prompt"
                )
        result = np.zeros(len(triples))
        # Padded on the left: the answer follows the last column in every row.
        with reading(
            self.model,
            sequences,
            batch_size=self.batch_size,
            padding_side="left",
            positions=True,
        ) as batches:
            for batch in batches:
                logits = answer_logits(self.model, self._answer_ids, **batch.tensors).double()
                result[batch.indices] = logits.softmax(dim=-1)[:, 0].cpu().numpy()
        return result


class PairJudge(Protocol):
    """Anything that compares two responses in one order, such as a `PreferenceModel`."""

    @property
    def name(self) -> str:
        """Name of the judge."""

    def preferences(self, triples: Sequence[Triple]) -> NDArray[np.float64]:
        """Return P(A is better than B) of each (context, A, B), (batch,)."""


class WinRateScorer(Scorer):
    """Mean win rate of each response among the others to its prompt; no reference is needed.

    w_ij = (P(i better | i is A) + 1 - P(j better | j is A)) / 2
    score_i = mean over j != i of w_ij

    so that w_ij + w_ji = 1 and the scores of a prompt's responses have the mean 1/2. A group of n
    takes n (n - 1) questions. Scores of different prompts cannot be compared.

    Args:
        model: Compares two responses in one order, as `PreferenceModel.preferences` does.

    Source: Dong et al. 2024, "RLHF Workflow", arXiv:2405.07863, section 3.2: the preference model
        ranks n responses, where a reward model would score them.
    """

    attribution_kinds = frozenset()

    def __init__(self, model: PairJudge) -> None:
        self.model = model

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> "WinRateScorer":
        """Return the ranking by a stored model; see `PreferenceModel.from_pretrained`."""
        return cls(PreferenceModel.from_pretrained(path, **options))

    @property
    def name(self) -> str:
        """The class and the model."""
        return f"WinRateScorer({self.model.name})"

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        """Return the win rate of each episode among those of the same prompt.

        Raises:
            ScorerError: if a prompt has one response alone, or a question is too long.
        """
        self.check_attribution(attribution)
        places: dict[str, list[int]] = {}
        for index, episode in enumerate(episodes):
            places.setdefault(episode.prompt, []).append(index)
        groups = list(places.values())
        values = np.zeros(len(episodes))
        ranked = self.score_groups([[episodes[index] for index in group] for group in groups])
        values[np.concatenate(groups)] = ranked.values
        return Scores(values)

    def score_groups(self, groups: Sequence[Sequence[Episode]]) -> Scores:
        """Return the win rate of each response within its group; see `Scorer.score_groups`."""
        triples: list[Triple] = []
        for group in groups:
            if len(group) < 2:
                raise ScorerError(
                    f"scorer {self.name!r} ranks responses among each other, got {len(group)} for "
                    f"a prompt ({group[0].prompt[:40]!r}); draw n >= 2, or compare with a "
                    "reference by PreferenceModel"
                )
            triples += [
                (one.prompt, one.response, other.response)
                for i, one in enumerate(group)
                for j, other in enumerate(group)
                if i != j
            ]
        sizes = [len(group) for group in groups]
        pairs = [size * (size - 1) for size in sizes]
        parts = np.split(self.model.preferences(triples), np.cumsum(pairs)[:-1])
        rates = []
        for preferred, size in zip(parts, sizes, strict=True):
            table = np.zeros((size, size))  # P(row is better | row is A), off the diagonal
            table[~np.eye(size, dtype=bool)] = preferred
            wins = (table + 1.0 - table.T) / 2
            rates.append((wins.sum(axis=1) - 0.5) / (size - 1))
        return Scores(np.concatenate(rates))


def log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of each p, within what a model can be sure of."""
    sure = probabilities.clip(_SURE, 1 - _SURE)
    return np.log(sure) - np.log1p(-sure)


# --- the question: how it is written, asked and answered ------------------------------------------


def check_template(template: str) -> None:
    """Raise unless a template has the three fields."""
    fields = {field for _, field, _, _ in string.Formatter().parse(template) if field}
    if fields != {"context", "a", "b"}:
        raise ScorerError(
            f"template must have the fields context, a and b, got {sorted(fields)}; "
            f"the default is {TEMPLATE!r}"
        )


def write_question(template: str, triple: Triple) -> MarkedText:
    r"""Return what the model reads.

    Space at the ends of the three texts is left out: data sets have it and played episodes do not.
    They are contents, of which no character becomes a control token.

    Args:
        template: With ``{context}``, ``{a}`` and ``{b}``.
        triple: (context, A, B).

    Example:
        >>> write_question(TEMPLATE, ("Why?", " So.", " No."))
        '[CONTEXT] Why? [RESPONSE A] So. [RESPONSE B] No. \n'
    """
    context, a, b = (text.strip() for text in triple)
    return filled(template, {"context": context, "a": a, "b": b})


def answer_ids(tokenizer: "PreTrainedTokenizerBase", answers: Sequence[str]) -> list[int]:
    """Return the id of each answer."""
    ids = [_known_ids(tokenizer, answer) for answer in answers]
    for answer, tokens in zip(answers, ids, strict=True):
        if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
            raise TokenizerError(
                f"the answer {answer!r} must be one token of the preference model, got {tokens}; "
                "pass answers=(one token, another)"
            )
    if ids[0] == ids[1]:
        raise TokenizerError(f"the answers {answers} are the same token; pass two different ones")
    return [tokens[0] for tokens in ids]


def missing_tokens(
    tokenizer: "PreTrainedTokenizerBase", template: str, answers: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return what a tokenizer lacks to read the question: pieces of the template, and answers.

    Args:
        tokenizer: One with whole words may know neither "[CONTEXT]" nor "A"; one with bytes does.
        template: The question.
        answers: One token each.
    """
    pieces = [piece.strip() for piece, _, _, _ in string.Formatter().parse(template)]
    unknown = tokenizer.unk_token_id
    return (
        [
            piece
            for piece in dict.fromkeys(pieces)
            if piece and unknown is not None and unknown in _known_ids(tokenizer, piece)
        ],
        [
            answer
            for answer in answers
            if len(ids := _known_ids(tokenizer, answer)) != 1 or ids[0] == unknown
        ],
    )


def answer_logits(
    model: "PreTrainedModel",
    ids: Sequence[int],
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
) -> Tensor:
    """Return the logits of the answers after each question, (batch, answers) float32.

    Args:
        model: A causal language model.
        ids: The answers'.
        input_ids: (batch, time) questions, padded on the left: the answer follows the last column.
        attention_mask: (batch, time).
        position_ids: (batch, time); left out for models that do not take them.
    """
    parameters = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
    if "position_ids" in parameters:
        inputs["position_ids"] = position_ids
    if "logits_to_keep" in parameters:
        inputs["logits_to_keep"] = 1
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits[:, -1, torch.as_tensor(ids, device=logits.device)].float()


def store_format(model: "PreTrainedModel", template: str, answers: Sequence[str]) -> None:
    """Note in a model's configuration, which is stored with it, how it is to be asked."""
    setattr(model.config, STORED_FORMAT, {"template": template, "answers": list(answers)})


def stored_format(config: Any) -> tuple[str, tuple[str, str]] | None:
    """Return the template and the answers that a model was trained with; None if it does not say.

    Args:
        config: The model's configuration.
    """
    stored = getattr(config, STORED_FORMAT, None)
    if stored is None:
        return None
    first, second = stored["answers"]
    return stored["template"], (first, second)


def _known_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return tokenize(tokenizer, [text])[0].ids
