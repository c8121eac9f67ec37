"""The models of the Oracle: a policy of its words, a reward model that learnt its exact score."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from tokengym.lab.envs.oracle.env import LONGEST_LEARNT, PROMPT, OracleEnv, oracle_tokenizer
from tokengym.lab.envs.oracle.gold import OracleRules
from tokengym.lab.envs.oracle.score import WORDS, oracle_score
from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.building.figures import (
    alignment,
    attention_rows,
    pair_accuracy,
    relative_entropy,
    rounded,
)
from tokengym.lab.makers.building.language_model import (
    ModelSize,
    held_out_nats,
    new_language_model,
    train_language_model,
)
from tokengym.lab.makers.building.reward_model import (
    DrawPrefixes,
    reward_model_from,
    train_on_prefixes,
)
from tokengym.lab.makers.building.training import choose
from tokengym.lab.makers.corpora.oracle_words import next_probabilities, write_texts

SIZE = ModelSize(layers=2, width=48, heads=4, positions=LONGEST_LEARNT + 1)
TEXTS = 20_000
HELD_OUT = 2_000
BATCH_SIZE = 128
MEASURED_LENGTHS = (6, 8)
"""Words of the texts that the reward model is measured on: the default horizon, the longest."""

_TOKENIZER = oracle_tokenizer()
_WORDS = list(_TOKENIZER.convert_ids_to_tokens(list(range(len(_TOKENIZER)))))
_IDS = {word: index for index, word in enumerate(_WORDS)}


def build_oracle(*, seed: int, language_steps: int = 400, reward_steps: int = 2500) -> BuiltBundle:
    """Return the bundle, trained from nothing.

    Args:
        seed: Seed of the texts, of the weights and of the batches.
        language_steps: Optimiser steps of the language model.
        reward_steps: Optimiser steps of the reward model.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    texts = [
        [_IDS[word] for word in text]
        for text in write_texts(TEXTS + HELD_OUT, PROMPT, LONGEST_LEARNT, rng)
    ]
    language_model = new_language_model(_TOKENIZER, SIZE, seed=seed)
    train_language_model(
        language_model, texts[:TEXTS], steps=language_steps, generator=generator, batch_size=64
    )
    reward_model = reward_model_from(language_model, seed=seed)
    train_on_prefixes(
        reward_model,
        _drawer(texts[:TEXTS], generator),
        steps=reward_steps,
        learning_rate=4e-3,
    )
    return BuiltBundle(
        task="oracle",
        tokenizer=_TOKENIZER,
        # The one prompt serves for training and for measuring.
        prompts=[PromptRow(prompt=PROMPT, split=split) for split in ("train", "test")],
        models={"policy": language_model, "reward_model": reward_model},
        rules=OracleRules(),
        figures={
            "seed": seed,
            "vocabulary": len(_TOKENIZER),
            "policy_nats": round(held_out_nats(language_model, texts[TEXTS:]), 3),
            "policy": {"exact": measure_policy(language_model)},
            "reward_model": measure_reward_model(reward_model, seed=seed),
        },
    )


def measure_policy(language_model: GPT2LMHeadModel) -> dict[str, float]:
    """Return what the policy is worth, exactly, in the default environment.

    Returns:
        Its expected ``score``, that of ``uniform`` play and of the ``best``; the mean ``entropy``
        of its next token over the states, relative to uniform; ``kl`` to the chain that wrote its
        texts, mean over the states, nats.
    """
    env = OracleEnv()
    prompt = _IDS[PROMPT]
    probs = np.zeros(env.legal_tokens.shape)
    grammar = np.zeros_like(probs)
    with torch.inference_mode():
        for length in range(env.max_new_tokens):
            rows = [row for row, state in enumerate(env.states) if len(state) == length]
            ids = torch.tensor([[prompt, *env.states[row]] for row in rows])
            logits = language_model(ids).logits[:, -1].double()
            logits[~torch.from_numpy(env.legal_tokens[rows])] = -torch.inf
            probs[rows] = logits.softmax(-1).numpy()
    for row, state in enumerate(env.states):
        for word, value in next_probabilities(_WORDS[state[-1] if state else prompt]).items():
            grammar[row, _IDS[word]] = value
    legal = env.legal_tokens
    logs = np.log(np.where(legal, probs, 1.0))
    divergence = (probs * (logs - np.log(np.where(legal, grammar, 1.0)))).sum(axis=1)
    return rounded(
        {
            "score": env.policy_values(probs).values[()],
            "uniform": env.policy_values().values[()],
            "best": env.optimal_values().values[()],
            "entropy": float(-(probs * logs).sum(axis=1).mean() / np.log(legal[0].sum())),
            "kl": float(divergence.mean()),
        }
    )


def measure_reward_model(
    model: GPT2ForSequenceClassification, *, seed: int, count: int = 2000
) -> dict[str, dict[str, float]]:
    """Return what the reward model is worth on random texts, by their number of words.

    Args:
        model: Is measured.
        seed: Seed of the texts.
        count: Texts per length.

    Returns:
        Length -> ``pair_accuracy``; ``correlation`` of the logit with the exact score and its root
        mean square ``error``; ``step_correlation`` of its increments with the exact ones, token by
        token (what RED pays); and of its attention (what ABC pays by) the
        ``attention_correlation`` with the absolute removal effects, its ``attention_mass`` on the
        tokens that matter, the ``uniform_mass`` that uniform weights have there, and the relative
        ``attention_entropy``.
    """
    rng = np.random.default_rng(seed)
    env = OracleEnv()
    figures = {}
    for length in MEASURED_LENGTHS:
        words = rng.integers(len(WORDS), size=(count, length))
        texts = [[_IDS[PROMPT], *(_IDS[WORDS[word]] for word in row)] for row in words]
        gold = np.array([exact_prefixes(text) for text in texts])
        logits = prefix_logits(model, texts)
        attention = attention_rows(model, texts, [1] * count)
        effects = [env.removal_effects(text[1:]) for text in texts]
        attention_alignment = alignment(attention, effects)
        figures[str(length)] = rounded(
            {
                "pair_accuracy": pair_accuracy(logits[:, -1], gold[:, -1]),
                "correlation": float(np.corrcoef(logits[:, -1], gold[:, -1])[0, 1]),
                "error": float(np.sqrt(np.square(logits[:, -1] - gold[:, -1]).mean())),
                "step_correlation": float(
                    np.corrcoef(np.diff(logits).ravel(), np.diff(gold).ravel())[0, 1]
                ),
                "attention_correlation": attention_alignment["correlation"],
                "attention_mass": attention_alignment["opinion_mass"],
                "uniform_mass": attention_alignment["opinion_share"],
                "attention_entropy": relative_entropy(attention),
            }
        )
    return figures


def exact_prefixes(text: Sequence[int]) -> list[float]:
    """Return the exact score of a text up to each token, the prompt's first; EOS changes nothing.

    Args:
        text: Ids of the prompt and the response.
    """
    words = [_WORDS[token] for token in text]
    return [oracle_score(words[1 : end + 1]) for end in range(len(words))]


@torch.inference_mode()
def prefix_logits(
    model: GPT2ForSequenceClassification, texts: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Return the reward of texts of one length up to each token, (texts, length)."""
    hidden = model.transformer(torch.tensor([list(text) for text in texts])).last_hidden_state
    return model.score(hidden)[..., 0].double().numpy()


def _drawer(texts: Sequence[Sequence[int]], generator: torch.Generator) -> DrawPrefixes:
    """Return a function that draws texts, half of them written by the grammar, half at random.

    A policy in training leaves the grammar, and every response of the six words may come up.
    """
    half = BATCH_SIZE // 2

    def draw() -> tuple[list[list[int]], list[list[float]]]:
        rows = [list(texts[index]) for index in choose(len(texts), half, generator)]
        for length in choose(LONGEST_LEARNT, half, generator):
            words = choose(len(WORDS), length + 1, generator)
            rows.append([_IDS[PROMPT], *(_IDS[WORDS[word]] for word in words)])
        return rows, [exact_prefixes(row) for row in rows]

    return draw
