"""The question that compares two responses: how it is written, asked and answered."""

import inspect
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokengym.envs.errors import TokenizerError
from tokengym.rewards.errors import ScorerError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Triple = tuple[str, str, str]
"""(context, response A, response B)."""

TEMPLATE = "[CONTEXT] {context} [RESPONSE A] {a} [RESPONSE B] {b} \n"
"""What the model reads (Dong et al. 2024); it answers with one token."""
ANSWERS = ("A", "B")
"""What it answers with."""

STORED_FORMAT = "preference_format"


def check_template(template: str) -> None:
    """Raise unless a template has the three fields.

    Raises:
        ScorerError: if it lacks one, or has another.
    """
    fields = {field for _, field, _, _ in string.Formatter().parse(template) if field}
    if fields != {"context", "a", "b"}:
        raise ScorerError(
            f"template must have the fields context, a and b, got {sorted(fields)}; "
            f"the default is {TEMPLATE!r}"
        )


def write_question(template: str, triple: Triple) -> str:
    r"""Return what the model reads.

    Space at the ends of the three texts is left out: data sets have it and played episodes do not.

    Args:
        template: With ``{context}``, ``{a}`` and ``{b}``.
        triple: (context, A, B).

    Example:
        >>> write_question(TEMPLATE, ("Why?", " So.", " No."))
        '[CONTEXT] Why? [RESPONSE A] So. [RESPONSE B] No. \n'
    """
    context, a, b = (text.strip() for text in triple)
    return template.format(context=context, a=a, b=b)


def answer_ids(tokenizer: "PreTrainedTokenizerBase", answers: Sequence[str]) -> list[int]:
    """Return the id of each answer.

    Raises:
        TokenizerError: if one is not a single known token, or both are the same.
    """
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
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
