"""The bundle of questions: a policy that answers and drifts, an encoder, and a reward model."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaModel,
)

from tokengym.lab.makers.building.bundle_files import BuiltBundle, PromptRow
from tokengym.lab.makers.building.figures import rounded
from tokengym.lab.makers.building.language_model import (
    ModelSize,
    held_out_nats,
    new_language_model,
    train_language_model,
)
from tokengym.lab.makers.building.reward_model import reward_model_from, train_on_prefixes
from tokengym.lab.makers.building.tokenizers import word_tokenizer
from tokengym.lab.makers.bundles.encoder import (
    LONGEST_WORDS,
    embed,
    new_encoder,
    train_encoder,
)
from tokengym.lab.makers.bundles.rated import (
    PREFIX_LEARNING_RATE,
    TEMPERATURES,
    Rated,
    draw_responses,
    measure_rated,
    prefix_drawer,
)
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.questions import (
    Question,
    all_questions,
    clean_sentences,
    reference_answer,
    write_conversations,
)
from tokengym.rewards.gold import AnswerRules, split_words

CONVERSATIONS = 30_000
TEST_QUESTIONS = 260
HELD_OUT = 1000
ENCODER_BATCH = 32
JUDGED = 12_000
"""Conversations of people that the reward model learns the gold score of."""
JUDGE_TEXTS, JUDGE_TEXT_STEPS = 20_000, 600
"""Conversations that its backbone learns to write first, and the steps of that."""
JUDGE_SIZE = ModelSize(initializer_range=0.08, matching_heads=3)
"""Size of its backbone: its heads compare the words of question and answer."""
REWARD_SCALE = 3.0
"""Logits of the reward model per unit of gold score."""
WHOLE_ANSWER = 4
"""Sentences that answer an open question in full: the fewest of a reference answer."""


def build_question_answer(
    *, seed: int, language_steps: int = 900, encoder_steps: int = 600, reward_steps: int = 6000
) -> BuiltBundle:
    """Return the bundle, trained from nothing; no test question is in the training corpora.

    Args:
        seed: Seed of the corpus, of the weights and of the batches.
        language_steps: Optimiser steps of the language model.
        encoder_steps: Optimiser steps of the encoder.
        reward_steps: Optimiser steps of the reward model.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    questions = all_questions()
    order = rng.permutation(len(questions))
    test = [questions[i] for i in order[:TEST_QUESTIONS]]
    train = [questions[i] for i in order[TEST_QUESTIONS:]]
    conversations = write_conversations(train, CONVERSATIONS, rng)
    held_out = write_conversations(test, HELD_OUT, rng)
    dice = Dice(rng)
    prompts = [
        PromptRow(
            prompt=question.text,
            reference=reference_answer(question, dice),
            query_type=question.query_type,
            split=split,
        )
        for split, group in (("train", train), ("test", test))
        for question in group
    ]
    asked = [f"{row.prompt} {row.reference}" for row in prompts]
    tokenizer = word_tokenizer([*map(" ".join, conversations + held_out), *asked])
    language_model = new_language_model(tokenizer, ModelSize(), seed=seed)
    texts = _texts(tokenizer, conversations)
    train_language_model(language_model, texts, steps=language_steps, generator=generator)
    encoder = new_encoder(tokenizer, seed=seed)
    train_encoder(encoder, _Triples(train, tokenizer, dice), steps=encoder_steps)
    rated = Rated(tokenizer, answer_rules(questions), chat=False)
    reward_model = judge_of_answers(rated, language_model, train, seed=seed, steps=reward_steps)
    return BuiltBundle(
        task="question_answer",
        tokenizer=tokenizer,
        prompts=prompts,
        models={"policy": language_model, "encoder": encoder, "reward_model": reward_model},
        rules=rated.rules,
        figures={
            "gold_knows": "own prompts",
            "seed": seed,
            "vocabulary": len(tokenizer),
            "corpus_tokens": sum(map(len, texts)),
            "policy_nats": round(held_out_nats(language_model, _texts(tokenizer, held_out)), 3),
            "encoder": measure_encoder(tokenizer, encoder, prompts),
            **measure_rated(rated, language_model, reward_model, prompts, seed=seed),
        },
    )


def answer_rules(questions: Sequence[Question]) -> AnswerRules:
    """Return the gold score of answers to the questions: what a reference answer can hold."""
    sentences: dict[str, int] = {}
    topics: dict[tuple[str, str | None], tuple[int, list[int]]] = {}
    known = {}
    for question in questions:
        topic = (question.entity.name, question.attribute)
        if topic not in topics:
            said = sorted(clean_sentences(question))
            indices = [sentences.setdefault(text, len(sentences)) for text in said]
            topics[topic] = (len(topics), indices)
        known[" ".join(split_words(question.text)[0])] = topics[topic][0]
    return AnswerRules(
        sentences=list(sentences),
        topics=[indices for _, indices in topics.values()],
        enough=[WHOLE_ANSWER if attribute is None else 1 for _, attribute in topics],
        questions=known,
    )


def judge_of_answers(
    rated: Rated,
    language_model: GPT2LMHeadModel,
    questions: Sequence[Question],
    *,
    seed: int,
    steps: int,
) -> GPT2ForSequenceClassification:
    """Return a reward model that learnt the gold score of every beginning of an answer.

    It sees human answers, answers to another question about the same kind of thing, and the
    language model's own.

    Args:
        rated: Encodes texts and scores them.
        language_model: Writes the samples.
        questions: Those of the training split.
        seed: Seed of the texts, the samples and the batches.
        steps: Optimiser steps.
    """
    rng, generator = np.random.default_rng([seed, 1]), torch.Generator().manual_seed(seed + 1)
    backbone = new_language_model(rated.tokenizer, JUDGE_SIZE, seed=seed)
    texts = _texts(rated.tokenizer, write_conversations(questions, JUDGE_TEXTS, rng))
    train_language_model(backbone, texts, steps=JUDGE_TEXT_STEPS, generator=generator)
    dice = Dice(rng)
    pairs = write_conversations(questions, JUDGED, rng)
    for question in questions:
        alike = [q for q in questions if q.entity.kind == question.entity.kind]
        pairs.append((question.text, reference_answer(dice.pick(alike), dice)))
        pairs.append((question.text, reference_answer(question, dice)))
    asked = rated.encode([question.text for question in questions])
    samples = draw_responses(language_model, asked, TEMPERATURES, generator)
    model = reward_model_from(backbone, seed=seed)
    train_on_prefixes(
        model,
        prefix_drawer(rated.responses(pairs), samples, rated, generator),
        steps=steps,
        temperature=REWARD_SCALE,
        learning_rate=PREFIX_LEARNING_RATE,
    )
    return model


@torch.inference_mode()
def measure_encoder(
    tokenizer: PreTrainedTokenizerFast, encoder: RobertaModel, prompts: Sequence[PromptRow]
) -> dict[str, dict[str, float]]:
    """Return, per query type, what the encoder is worth on the test questions.

    Args:
        tokenizer: The bundle's.
        encoder: Is measured.
        prompts: Those of the test split are used, with their references as the answers.

    Returns:
        Per query type: mean dot product of a question with its ``relevant`` answer and with
        ``irrelevant`` ones (the other questions'), the ``accuracy`` with which the relevant one
        beats an irrelevant one, and the mean product of an ``answer_with_itself``.
    """
    figures = {}
    for query_type in ("OPENENDED", "CONSTRAINED"):
        rows = [row for row in prompts if row.split == "test" and row.query_type == query_type]
        queries = embed(encoder, tokenizer([row.prompt for row in rows]).input_ids)
        answers = embed(encoder, tokenizer([row.reference or "" for row in rows]).input_ids)
        products = queries @ answers.T
        other = ~torch.eye(len(rows), dtype=torch.bool)
        relevant = products.diagonal()
        values = {
            "relevant": relevant.mean(),
            "irrelevant": products[other].mean(),
            "irrelevant_deviation": products[other].std(),
            "accuracy": (relevant[:, None] > products)[other].float().mean(),
            "answer_with_itself": (answers * answers).sum(-1).mean(),
        }
        figures[query_type] = rounded(values)
    return figures


class _Triples:
    """Draws training batches of the encoder: questions, answers, wrong answers."""

    def __init__(
        self, questions: Sequence[Question], tokenizer: PreTrainedTokenizerFast, dice: Dice
    ) -> None:
        self._tokenizer = tokenizer
        self._dice = dice
        self._by_entity: dict[str, list[Question]] = {}
        for question in questions:
            self._by_entity.setdefault(question.entity.name, []).append(question)

    def __call__(self) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
        names = sorted(self._by_entity, key=lambda _: self._dice.random())[:ENCODER_BATCH]
        queries, answers, wrong = [], [], []
        for name in names:
            questions = self._by_entity[name]
            question = self._dice.pick(questions)
            # Half of the queries are answers themselves: M(y*) . M(y) measures relevance as well.
            asked = question.text
            if self._dice.chance(0.5):
                asked = self._cut(reference_answer(question, self._dice))
            queries.append(asked)
            answers.append(self._cut(reference_answer(question, self._dice)))
            wrong.append(self._wrong(question, names))
        return tuple(self._tokenizer(texts).input_ids for texts in (queries, answers, wrong))

    def _cut(self, answer: str) -> str:
        """Return the answer's first words: a response may end anywhere."""
        words = answer.split()[:LONGEST_WORDS]
        return " ".join(words[: self._dice.integer(min(12, len(words)), len(words))])

    def _wrong(self, question: Question, names: Sequence[str]) -> str:
        """Return another fact of the same thing, for a closed question; else another thing's."""
        questions = self._by_entity[question.entity.name]
        others = [q for q in questions if q.attribute not in (None, question.attribute)]
        if question.attribute is None or not others:
            other = self._dice.pick([name for name in names if name != question.entity.name])
            others = self._by_entity[other]
        return self._cut(reference_answer(self._dice.pick(others), self._dice))


def _texts(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[tuple[str, str]]
) -> list[list[int]]:
    ids = tokenizer([" ".join(pair) for pair in conversations]).input_ids
    return [[*row, tokenizer.eos_token_id] for row in ids]
