"""Training a small bidirectional encoder whose raw dot products measure relevance."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from tokengym.lab.makers.models import new_model, pad_batch, train
from tokengym.lab.makers.options import BuildError

DrawTriples = Callable[[], tuple[list[list[int]], list[list[int]], list[list[int]]]]
"""Draws token ids of queries, of an answer to each, and of a wrong answer to each; queries of one
draw are about different things, so that each answer is irrelevant to every other query."""

BATCH = 32
"""Pairs of a training step."""
LONGEST_WORDS, FEWEST_WORDS = 64, 6
"""Words that a response is cut to, since a policy's may end anywhere; an opening has the fewest."""
RELEVANT = 2.5
"""Dot product that a relevant answer is drawn to; R3 divides a reference's relevance by 3.5."""


def new_encoder(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, width: int = 96, layers: int = 2
) -> RobertaModel:
    """Return an untrained encoder.

    RoBERTa and not BERT, because it counts positions from the first token that is no padding:
    the side of the padding cannot change what it says.
    """
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=258,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return new_model(RobertaModel, config, seed=seed)


def embed(model: RobertaModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return M(.): the mean of each text's last hidden states, (batch, width)."""
    ids, mask = pad_batch(sequences, model.config.pad_token_id)
    hidden = model(ids, attention_mask=mask).last_hidden_state  # (batch, time, width)
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def train_encoder(model: RobertaModel, draw: DrawTriples, *, steps: int) -> float:
    """Train in place by InfoNCE in both directions; return the late training loss.

    Args:
        model: The model to train.
        draw: Draws queries, answers and wrong answers.
        steps: Optimiser steps.
    """

    def loss_of_step() -> Tensor:
        queries, answers, wrong = (embed(model, batch) for batch in draw())
        return contrastive_loss(queries, answers, wrong, temperature=0.25)

    return train(model, loss_of_step, steps=steps, learning_rate=1e-3, label="encoder")


def encoder_of_pairs(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, seed: int, steps: int
) -> RobertaModel:
    """Return an encoder of the relevance of texts to their openings, trained from nothing.

    Args:
        tokenizer: The bundle's.
        texts: The corpus.
        seed: Seed of the weights and of the batches; whatever else was built does not change it.
        steps: Optimiser steps.

    Raises:
        BuildError: if too few texts have an opening and a rest.
    """
    words = [each for each in (text.split() for text in texts) if len(each) >= 2 * FEWEST_WORDS]
    if len(words) < 2 * BATCH:
        raise BuildError(
            f"an encoder needs {2 * BATCH} texts of at least {2 * FEWEST_WORDS} words, and "
            f"{len(words)} are that long; give more, or --encoder-steps 0"
        )
    encoder = new_encoder(tokenizer, seed=seed)
    rng = np.random.default_rng([seed, 1])
    train_encoder(encoder, _drawer(tokenizer, words, rng), steps=steps)
    return encoder


def _drawer(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[Sequence[str]], rng: np.random.Generator
) -> DrawTriples:
    """Return a function that draws openings, beginnings of their rests, and of others'.

    Half of the queries are other beginnings of the rest: its relevance to a reference.
    """

    def cut(words: Sequence[str]) -> str:
        rest = words[FEWEST_WORDS:][:LONGEST_WORDS]
        return " ".join(rest[: int(rng.integers(FEWEST_WORDS, len(rest), endpoint=True))])

    def draw() -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
        chosen = [texts[at] for at in rng.choice(len(texts), 2 * BATCH, replace=False)]
        mine, others = chosen[:BATCH], chosen[BATCH:]
        queries = [
            cut(words) if rng.random() < 0.5 else " ".join(words[:FEWEST_WORDS]) for words in mine
        ]
        answers, wrong = ([cut(words) for words in some] for some in (mine, others))
        queries_, answers_, wrong_ = (tokenizer(t).input_ids for t in (queries, answers, wrong))
        return queries_, answers_, wrong_

    return draw


def contrastive_loss(
    queries: Tensor, answers: Tensor, wrong: Tensor, *, temperature: float
) -> Tensor:
    """Return InfoNCE on raw dot products, with a pull that fixes their scale.

    s_ij = M(x_i) . M(y_j);  InfoNCE = CE(s / temperature, i -> i), queries to answers and back
    + 0.5 * mean_i (s_ii - RELEVANT)^2 + 0.5 * mean_{i != j} s_ij^2

    Without the pull any scale and offset would do, and R3 needs relevant answers near 1 to 3.5 and
    irrelevant ones near 0.

    Args:
        queries: (batch, width) embeddings.
        answers: (batch, width), row i answers query i only.
        wrong: (batch, width), row i answers no query; it resembles answer i.
        temperature: Divides the dot products.
    """
    products = queries @ answers.T  # (batch, batch)
    distractors = (queries * wrong).sum(-1, keepdim=True)  # (batch, 1)
    target = torch.arange(len(queries))
    forwards = functional.cross_entropy(
        torch.cat([products, distractors], dim=1) / temperature, target
    )
    backwards = functional.cross_entropy(products.T / temperature, target)
    relevant = products.diagonal()
    irrelevant = products[~torch.eye(len(queries), dtype=torch.bool)]
    scale = 0.5 * (relevant - RELEVANT).pow(2).mean() + 0.5 * irrelevant.pow(2).mean()
    return (forwards + backwards) / 2 + scale
