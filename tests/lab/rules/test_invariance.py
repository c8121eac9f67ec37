# mypy: no-check-untyped-defs
"""No scorer's answer depends on what else is in the batch, nor on the padding that brings."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
)

from tests.support.lab.judges import SIZE, TEMPLATE, language_model
from tests.support.rewards.alignment import byte_tokenizer
from tests.support.rewards.common import WORDS, make_classifier, make_episode, scale_weights
from tokengym.envs import Episode
from tokengym.lab.scorers.judge import GreedyAnswers
from tokengym.lab.scorers.preference_model import WinRateScorer
from tokengym.lab.scorers.reasoning_gym import ReasoningGym
from tokengym.lab.scorers.vader import Vader
from tokengym.rewards import (
    Cached,
    FunctionScorer,
    Judge,
    LengthPenalty,
    MissingEosPenalty,
    Normalize,
    PreferenceModel,
    Relevance,
    RewardModel,
    RuleScorer,
    Scorer,
    Sentiment,
    TimeLimit,
    Toxicity,
)
from tokengym.rewards.gold.rules import ToxicityRules
from tokengym.rewards.gold.sentiment_lexicon import Lexicon
from tokengym.rewards.scorers.base import ScorerWrapper
from tokengym.rewards.scorers.partner import PartnerScore
from tokengym.rewards.scorers.toxicity import ClassProbability

SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {**SIZE, "max_position_embeddings": 512}
TINY: dict[str, Any] = {**SHAPE, "intermediate_size": 64}
CONFIGS = {
    "gpt2": GPT2Config(**SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=512),
    "llama": LlamaConfig(**TINY, num_key_value_heads=2),
    "qwen2": Qwen2Config(**TINY, num_key_value_heads=2),
    "opt": OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32),
}


def classifier(kind, num_labels):
    config = type(CONFIGS[kind]).from_dict(CONFIGS[kind].to_dict())
    config.num_labels = num_labels
    torch.manual_seed(0)
    return scale_weights(AutoModelForSequenceClassification.from_config(config), 3.0)


def bert(kind, **options):
    torch.manual_seed(0)
    config = BertConfig(**TINY, **options)
    return scale_weights(kind(config), 2.0)


def toxic(tokenizer, **options):
    model = bert(BertForSequenceClassification, num_labels=2)
    return Toxicity(ClassProbability(model, tokenizer, label=1, **options))


def rating(tokenizer, **options):
    """Return a judge whose random model's first token is its rating."""
    answers = GreedyAnswers(language_model(), tokenizer, max_new_tokens=2, **options)

    def numbers(questions):
        return [str(sum(map(ord, answer)) % 11) for answer in answers(questions)]

    return Judge(numbers, "a", question="{principle} {prompt} {response} {low:g} {high:g}")


# Each builder takes the policy's tokenizer, and the batch size of the scorer's own model if any.
BUILDERS = {
    **{
        f"RewardModel {kind} {labels}": lambda tokenizer, kind=kind, labels=labels, **options: (
            RewardModel(classifier(kind, labels), tokenizer=tokenizer, **options)
        )
        for kind, labels in (*((kind, 1) for kind in CONFIGS), ("gpt2", 2))
    },
    "RewardModel of another tokenizer": lambda tokenizer, **options: RewardModel(
        make_classifier(vocab_size=len(byte_tokenizer())), tokenizer=byte_tokenizer(), **options
    ),
    "PreferenceModel gpt2": lambda tokenizer, **options: PreferenceModel(
        language_model(), tokenizer, template=TEMPLATE, answers=("a", "b"), **options
    ),
    "PreferenceModel llama log-odds": lambda tokenizer, **options: PreferenceModel(
        language_model("llama"),
        tokenizer,
        template=TEMPLATE,
        answers=("a", "b"),
        output="log-odds",
        **options,
    ),
    "Relevance": lambda tokenizer, **options: Relevance(bert(BertModel), tokenizer, **options),
    "Toxicity of a classifier": toxic,
    "Toxicity of a list": lambda tokenizer: Toxicity.from_words(["a", "b"]),
    "Judge": rating,
    "Sentiment": lambda tokenizer: Sentiment(
        Lexicon(words={"a": 1.0, "b": -2.0}, intensifiers={"c": 2.0}, negations=("d",))
    ),
    "RuleScorer": lambda tokenizer: RuleScorer(ToxicityRules(rude=["a", "b"])),
    "FunctionScorer": lambda tokenizer: FunctionScorer(lambda prompt, text: text.count("a") / 3),
    "LengthPenalty": lambda tokenizer: LengthPenalty(0.01),
    "MissingEosPenalty": lambda tokenizer: MissingEosPenalty(0.5),
    "Cached": lambda tokenizer, **options: Cached(
        RewardModel(classifier("gpt2", 1), tokenizer=tokenizer, **options)
    ),
    "TimeLimit": lambda tokenizer, **options: TimeLimit(
        RewardModel(classifier("gpt2", 1), tokenizer=tokenizer, **options), seconds=600.0
    ),
    "Sum": lambda tokenizer: toxic(tokenizer) * 2.0 + LengthPenalty(0.01) - 1.0,
    "Product": lambda tokenizer: toxic(tokenizer) * LengthPenalty(0.01),
    "WithAttribution": lambda tokenizer: explained(tokenizer),
}
LEARNS = {Normalize}
"""Scorers whose answers depend on what they scored before: that is what they are for."""
COMPARES = {WinRateScorer}
"""Scorers that set the episodes of a batch against each other; tests of their own cover them."""
READS_ENGLISH = {Vader}
"""Scorers to which the texts here say nothing; `test_vader` has others."""
READS_ITEMS = {ReasoningGym}
"""Scorers that need an item of theirs; `tests/lab/envs/test_reasoning_gym.py` covers them."""
READS_TURNS = {PartnerScore}
"""Scorers of conversations; `tests/lab/rules/test_turn_rules.py` covers them."""


def explained(tokenizer):
    from tokengym.rewards import WithAttribution

    by_model = RewardModel(classifier("gpt2", 1), tokenizer=tokenizer)
    return WithAttribution(LengthPenalty(0.01), by_model)


def spoken(tokenizer, count=5, seed=0):
    """Return episodes of very different lengths, texts and ids in agreement."""
    rng = np.random.default_rng(seed)
    letters = [word for word in WORDS if len(word) == 1]
    episodes = []
    for row in range(count):
        prompt, response, reference = (
            " ".join(rng.choice(letters, size=size))
            for size in (rng.integers(1, 9, size=3) if row else (14, 14, 14))
        )
        ids = tokenizer(response)["input_ids"]
        episodes.append(
            make_episode(
                tokenizer(prompt)["input_ids"],
                [*ids, 1] if row % 2 else ids,
                prompt=prompt,
                response=response,
                reference=reference,
                query_type=("OPENENDED", "CONSTRAINED")[row % 2],
                finish_reason="eos" if row % 2 else "length",
            )
        )
    return episodes


@pytest.mark.parametrize("name", BUILDERS)
def test_alone_or_in_any_batch_the_score_is_the_same(name, tokenizer):
    scorer = BUILDERS[name](tokenizer).bind(tokenizer)
    episodes = spoken(tokenizer)
    # The shapes of model differ in how they read a batch, not in what is made of their states.
    shown = not any(shape in name for shape in ("llama", "qwen2", "opt"))
    kinds = [None, *(sorted(scorer.attribution_kinds or ()) if shown else ())]
    for kind in kinds:
        options = {} if kind is None else {"attribution": kind}
        together = scorer.score(episodes, **options)
        backwards = scorer.score(episodes[::-1], **options)
        alone = [scorer.score([episode], **options) for episode in episodes]
        values = np.array([one.values[0] for one in alone])
        assert np.ptp(values) > 1e-3, "a scorer that says the same of all would prove nothing"
        np.testing.assert_allclose(together.values, values, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(backwards.values[::-1], values, atol=1e-5, rtol=1e-5)
        for part, found in together.parts.items():
            single = [one.parts[part][0] for one in alone]
            np.testing.assert_allclose(found, single, atol=1e-5, rtol=1e-5, err_msg=part)
        if together.attributions is not None:
            for row, one in zip(together.attributions, alone, strict=True):
                np.testing.assert_allclose(row, one.attributions[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_model_s_own_batches_change_nothing(name, tokenizer):
    build = BUILDERS[name]
    episodes = spoken(tokenizer)
    expected = build(tokenizer).bind(tokenizer).score(episodes).values
    for batch_size in (1, 3):
        try:
            scorer = build(tokenizer, batch_size=batch_size).bind(tokenizer)
        except TypeError:
            return  # it has no model of its own
        np.testing.assert_allclose(scorer.score(episodes).values, expected, atol=1e-5, rtol=1e-5)


def test_a_reward_model_reads_the_ids_wherever_the_prompt_is_padded(tokenizer):
    """Environments pad prompts on the left; what a scorer gets are the ids alone."""
    scorer = RewardModel(classifier("gpt2", 1), tokenizer=tokenizer).bind(tokenizer)
    (episode, *_) = spoken(tokenizer)
    longer = replace(episode, prompt_ids=(0, 0, 0, *episode.prompt_ids))
    plain, padded = (float(scorer.score([e]).values[0]) for e in (episode, longer))
    assert plain != pytest.approx(padded, abs=1e-3)  # padding ids inside a text are ids like others


def test_vader():
    texts = ("a wonderful film", "dull and dreadful", "two hours long")
    episodes = [
        Episode(prompt="", response=text, prompt_ids=[1], response_ids=[2]) for text in texts
    ]
    alone = [float(Vader().score([episode]).values[0]) for episode in episodes]
    assert alone[0] > 0.3 > 0.0 == alone[2] > -0.3 > alone[1]
    assert Vader().score(episodes[::-1]).values.tolist() == alone[::-1]


def test_every_scorer_is_tested_here(tokenizer):
    def below(kind):
        return {kind}.union(*map(below, kind.__subclasses__()))

    tested = {type(build(tokenizer)) for build in BUILDERS.values()}
    public = {
        kind
        for kind in below(Scorer) - {Scorer, ScorerWrapper}
        if kind.__module__.startswith(("tokengym.rewards.", "tokengym.lab.scorers."))
        and not kind.__name__.startswith("_")
    }
    assert public - tested == LEARNS | COMPARES | READS_ENGLISH | READS_ITEMS | READS_TURNS
