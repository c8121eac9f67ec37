"""Training a preference model from pairs: a language model answers which response is better."""

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokengym.rewards.models.questions import (
    ANSWERS,
    TEMPLATE,
    check_template,
    missing_tokens,
    store_format,
)
from tokengym.rewards.training.fitting import Report
from tokengym.rewards.training.pipeline import Start, load_start, tokenizer_of, train_on_pairs
from tokengym.rewards.training.readers import PreferenceReader
from tokengym.rewards.training.results import TrainedReward
from tokengym.rewards.training.settings import RewardTraining

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOG = logging.getLogger(__name__)


def train_preference_model(
    model: "str | Path | PreTrainedModel",
    pairs: Any,
    *,
    output_dir: str | Path,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    held_out: Any = 0.1,
    lora: "LoraConfig | None" = None,
    device: str = "auto",
    dtype: str = "auto",
    training: RewardTraining | None = None,
    template: str = TEMPLATE,
    answers: tuple[str, str] = ANSWERS,
    report: Report | None = None,
) -> TrainedReward:
    """Train a pairwise preference model, measure it on held-out pairs, and store it.

    The model reads the prompt and two responses and answers with one token. Each pair is asked in
    both orders, and each answer has the loss

    -log sigmoid(logit of the right answer - logit of the other - margin)

    which is the cross-entropy over the two answers, the only logits that `PreferenceModel` reads.
    The template and the answers are stored in the model's configuration, where that scorer finds
    them. What the tokenizer does not know of them is added to it, with a new row in the
    embeddings; a tokenizer of bytes or pieces knows them all.

    Args:
        model: Where it starts from: the folder or hub name of a causal language model, or the
            model itself, which is trained in place.
        pairs: From `read_pairs`, or what that reads with its defaults.
        output_dir: As for `train_reward_model`.
        tokenizer: The model's; None loads the one beside it.
        held_out: Share of the prompts whose pairs are held out, or other pairs.
        lora: Trains adapters of this configuration, and merges them before storing.
        device: Device that trains; "auto" takes a GPU if there is one.
        dtype: Precision of the weights; "auto" is float32. Small steps vanish in bfloat16.
        training: How; see `RewardTraining`. ``append_eos`` and ``chat_template`` are of
            reward models.
        template: The question, with ``{context}``, ``{a}`` and ``{b}``.
        answers: What stands for the first and the second response; one token each.
        report: Called after each step with the steps done, all of them, and the loss.

    Raises:
        RewardError: as for `train_reward_model`.
        ScorerError: if the template lacks a field.
        TokenizerError: if the answers are one token.
        DatasetError: if the pairs cannot be read, or a question is too long.

    Source: Dong et al. 2024, "RLHF Workflow", arXiv:2405.07863, section 2.3.
    """
    from transformers import AutoModelForCausalLM

    check_template(template)
    training = training or RewardTraining()
    network = load_start(model, AutoModelForCausalLM, training.seed, device=device, dtype=dtype)
    tokenizer = tokenizer_of(model, tokenizer)
    tokenizer, added = _with_tokens(tokenizer, template, answers)
    if added:
        _add_rows(network, len(tokenizer), training.seed)
        _LOG.info("the tokenizer now knows %s", ", ".join(map(repr, added)))
    store_format(network, template, answers)
    if lora is not None:
        vocabulary = tokenizer.get_vocab()
        new = [vocabulary[token] for token in added]
        lora = replace(lora, task_type="CAUSAL_LM", trainable_token_indices=new or None)
    start = Start(
        kind="preference",
        source=str(model) if isinstance(model, (str, Path)) else type(model).__name__,
        model=network,
        tokenizer=tokenizer,
        make_reader=lambda base: PreferenceReader(
            base, tokenizer, template=template, answers=answers
        ),
        lora=lora,
        format={"template": template, "answers": list(answers)}
        | ({} if dtype == "auto" else {"dtype": dtype}),
    )
    return train_on_pairs(
        start, pairs, output_dir=output_dir, held_out=held_out, training=training, report=report
    )


def _with_tokens(
    tokenizer: "PreTrainedTokenizerBase", template: str, answers: tuple[str, str]
) -> "tuple[PreTrainedTokenizerBase, list[str]]":
    """Return a tokenizer that can read the question, and the tokens that were added to it."""
    from transformers import AddedToken

    pieces, unknown = missing_tokens(tokenizer, template, answers)
    if not pieces and not unknown:
        return tokenizer, []
    tokenizer = copy.deepcopy(tokenizer)
    # Not normalised: a tokenizer that lowers case would make them words of the text.
    tokens = [AddedToken(piece, normalized=False) for piece in pieces]
    tokens += [AddedToken(answer, normalized=False, single_word=True) for answer in unknown]
    tokenizer.add_tokens(tokens)
    return tokenizer, [*pieces, *unknown]


def _add_rows(network: "PreTrainedModel", size: int, seed: int) -> None:
    """Give the embeddings rows for new tokens, drawn about the mean of the others."""
    embeddings: Any = network.get_input_embeddings()
    if size > embeddings.num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network.resize_token_embeddings(size)
