# mypy: no-check-untyped-defs
"""What a text is worth does not depend on the texts that are scored with it, for any scorer."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
)

from tokengym.envs import bundled
from tokengym.rewards import (
    FunctionScorer,
    Judge,
    LengthPenalty,
    PreferenceModel,
    Relevance,
    RewardModel,
    RuleScorer,
    Toxicity,
    gold_scorer,
)
from tokengym.rewards.scorers.judge import GreedyAnswers
from tokengym.rewards.scorers.toxicity import ClassProbability

from .conftest import WORDS, make_episode, scale_weights

IDS = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
SHAPE = IDS | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 2}
BERT = {**IDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
CLASSIFIERS = {
    "gpt2": lambda: GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "llama": lambda: LlamaConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "opt": lambda: OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32),
}


def classifier(name, labels):
    config = CLASSIFIERS[name]()
    config.num_labels = labels
    torch.manual_seed(0)
    return scale_weights(AutoModelForSequenceClassification.from_config(config))


def language_model():
    torch.manual_seed(0)
    config = GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return scale_weights(GPT2LMHeadModel(config))


def bert(kind, **options):
    torch.manual_seed(0)
    return scale_weights(kind(BertConfig(**BERT, intermediate_size=32, **options)), 3.0)


def preference(tokenizer, batch_size):
    return PreferenceModel(
        language_model(),
        tokenizer,
        template="{context} q {a} r {b} s",
        answers=("a", "b"),
        batch_size=batch_size,
    )


def relevance(tokenizer, batch_size):
    return Relevance(bert(BertModel), tokenizer, batch_size=batch_size).bind(tokenizer)


def toxicity(tokenizer, batch_size):
    model = bert(BertForSequenceClassification, num_labels=2)
    return Toxicity(ClassProbability(model, tokenizer, label=1, batch_size=batch_size))


def judge(tokenizer, batch_size):
    """Return a judge whose rating tells every answer from every other."""
    answers = GreedyAnswers(language_model(), tokenizer, max_new_tokens=3, batch_size=batch_size)

    def rate(questions):
        short = [
            question.partition("<response>")[2].partition("</resp")[0] for question in questions
        ]
        return [str(hash_of(text)) for text in answers(short)]

    return Judge(rate, "Be kind.", low=0, high=10_000)


def hash_of(text):
    return sum((place + 1) * ord(character) for place, character in enumerate(text)) % 10_000


SCORERS = {
    **{
        f"{name}-{labels}": lambda tokenizer, size, name=name, labels=labels: RewardModel(
            classifier(name, labels), batch_size=size
        )
        for name in CLASSIFIERS
        for labels in (1, 2)
    },
    "left-padded": lambda tokenizer, size: RewardModel(
        classifier("gpt2", 1), batch_size=size, padding_side="left"
    ),
    "preference": preference,
    "relevance": relevance,
    "toxicity": toxicity,
    "judge": judge,
    "function": lambda tokenizer, size: FunctionScorer(lambda prompt, text: len(text)),
    "sentiment": lambda tokenizer, size: gold_scorer(bundled("movie_review")),
    "rules": lambda tokenizer, size: RuleScorer.from_file(bundled("detox").gold),
    "sum": lambda tokenizer, size: (
        RewardModel(classifier("gpt2", 1), batch_size=size) * 0.5
        + relevance(tokenizer, size)
        + LengthPenalty(0.01)
    ),
}


def texts(tokenizer, count=24):
    """Return episodes of many lengths, each with a reference."""
    rng = np.random.default_rng(0)
    draw = lambda most: " ".join(rng.choice(WORDS[3:], rng.integers(1, most)))  # noqa: E731
    episodes = []
    for _ in range(count):
        prompt, response = draw(6), draw(14)
        ids = tokenizer(prompt).input_ids, tokenizer(response).input_ids
        episodes.append(make_episode(*ids, prompt=prompt, response=response, reference=draw(9)))
    return episodes


@pytest.mark.parametrize("name", SCORERS)
def test_neighbours_and_padding_change_no_score(name, tokenizer):
    episodes = texts(tokenizer)
    scorer = SCORERS[name](tokenizer, 8)
    alone = [float(SCORERS[name](tokenizer, 1).score([e]).values[0]) for e in episodes[:6]]
    together = scorer.score(episodes)
    np.testing.assert_allclose(together.values[:6], alone, atol=1e-5, rtol=1e-5)
    order = np.random.default_rng(1).permutation(len(episodes))
    shuffled = scorer.score([episodes[index] for index in order])
    np.testing.assert_allclose(shuffled.values, together.values[order], atol=1e-5, rtol=1e-5)
    for part, values in together.parts.items():
        np.testing.assert_allclose(shuffled.parts[part], values[order], atol=1e-5, rtol=1e-5)
    # A scorer that gave every text the same score would pass for the wrong reason.
    assert name in ("sentiment", "rules") or np.ptp(together.values) > 1e-3
