"""The bundled judge and critic: one small language model, taught by the gold rules.

It chooses between two responses by a principle, says what is wrong with one, and rewrites it, in
the words in which `PrincipleJudge` and `ModelCritic` ask.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from tokengym.envs import bundled, encode
from tokengym.lab.constitution.judge import CHOICE
from tokengym.lab.makers.building.bundle_files import BuiltBundle
from tokengym.lab.makers.building.tokenizers import word_tokenizer
from tokengym.lab.makers.building.training import new_model, pad_batch, train
from tokengym.lab.makers.corpora.dialogues import Request, all_requests
from tokengym.lab.makers.corpora.feedback import (
    HELD_OUT_TOPICS,
    PHRASINGS,
    PRINCIPLES,
    Lesson,
    Lessons,
)
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.scorers.preference_model import answer_ids

POSITIONS = 512


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Part of the training."""

    steps: int
    """Optimiser steps."""
    choices: int
    """Pairs per step, each in both orders."""
    criticisms: int
    """Responses to criticise per step."""
    revisions: int
    """Responses to revise per step."""
    learning_rate: float
    """Peak rate."""


PHASES = (
    Phase(steps=1200, choices=7, criticisms=7, revisions=8, learning_rate=3e-3),
    Phase(steps=600, choices=12, criticisms=3, revisions=4, learning_rate=2e-3),
)
"""To rewrite takes longest to learn; most of the choices come after it."""
EARLIER = 0.3
"""Weight of the verdicts on responses that end earlier."""
_ANSWERS = ("A", "B")
_AFTER = CHOICE.rsplit("{{b}}", 1)[1]
"""Text after response B in a choice."""


def build_feedback(*, seed: int, phases: Sequence[Phase] = PHASES) -> BuiltBundle:
    """Return the judge and critic, trained from nothing; no test prompt and no held-out topic.

    Prompts and words are those of the bundled Detox and Dialogue, which are built before it. Takes
    about twelve minutes of one core.

    Args:
        seed: Seed of the lessons and of the weights.
        phases: Parts of the training, in order.
    """
    lessons = Lessons(*lesson_prompts(), Dice(np.random.default_rng(seed)))
    tokenizer = word_tokenizer(vocabulary_texts(lessons))
    model = new_judge(tokenizer, seed=seed)
    for phase in phases:
        teach(model, tokenizer, lessons, phase)
    return BuiltBundle(
        task="feedback",
        tokenizer=tokenizer,
        prompts=[],
        models={"judge": model},
        figures={"seed": seed, "vocabulary": len(tokenizer)},
    )


def new_judge(tokenizer: PreTrainedTokenizerBase, *, seed: int) -> LlamaForCausalLM:
    """Return an untrained Llama of 0.5 million weights.

    To judge and to rewrite is to look words up in the question. With rotary positions the heads
    that do so are found in some 200 steps; a GPT-2 of the same size finds none in 400.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        head_dim=48,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.08,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = new_model(LlamaForCausalLM, config, seed=seed)
    with torch.no_grad():
        for layer in model.model.layers:  # attention then begins by copying the words it looks at
            layer.self_attn.o_proj.weight.copy_(layer.self_attn.v_proj.weight.T)
    return model


def lesson_prompts() -> tuple[list[str], list[Request]]:
    """Return the openings and the requests that lessons are about: none of the test splits."""
    openings = [prompt.text for prompt in bundled("detox").prompts("train")]
    test = {prompt.text for prompt in bundled("dialogue").prompts("test")}
    requests = [
        request
        for request in all_requests()
        if request.text not in test and request.topic.name not in HELD_OUT_TOPICS
    ]
    return openings, requests


def vocabulary_texts(lessons: Lessons) -> list[str]:
    """Return texts that hold every word of the tasks, the questions and the principles."""
    said = [*PRINCIPLES.values(), *(text for texts in PHRASINGS.values() for text in texts)]
    for task in ("detox", "dialogue"):
        tokenizer = bundled(task).tokenizer
        special = set(tokenizer.all_special_tokens)
        said.append(" ".join(sorted(set(tokenizer.get_vocab()) - special)))
    for _ in range(200):
        for lesson in (*lessons.choice(), lessons.criticism(), lessons.revision()):
            said += [lesson.question, lesson.answer]
    return [" ".join(re.findall(r"\w+|[^\w\s]", text.lower())) for text in said]


def teach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Lessons,
    phase: Phase,
) -> float:
    """Train a model on lessons in place; return the late training loss.

    loss = mean over answers' tokens of -log p + EARLIER * mean over earlier verdicts of -log p

    A choice is one token of two hundred; the verdicts on B cut short, read off at its words, tell
    the model which words decided.

    Args:
        model: A causal language model.
        tokenizer: The model's.
        lessons: Writes the batches.
        phase: Steps, rate and the mixture of a batch.
    """

    def loss_of_step() -> Tensor:
        batch = [lesson for _ in range(phase.choices) for lesson in lessons.choice()]
        batch += [lessons.criticism() for _ in range(phase.criticisms)]
        batch += [lessons.revision() for _ in range(phase.revisions)]
        return lesson_loss(model, tokenizer, batch)

    return train(
        model,
        loss_of_step,
        steps=phase.steps,
        learning_rate=phase.learning_rate,
        label="judge and critic",
    )


def lesson_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, lessons: Sequence[Lesson]
) -> Tensor:
    """Return the loss of `teach` for a batch of lessons, a scalar."""
    questions = encode(tokenizer, [lesson.question for lesson in lessons])
    answers = encode(tokenizer, [lesson.answer for lesson in lessons])
    texts = [
        [*question, *answer, tokenizer.eos_token_id]
        for question, answer in zip(questions, answers, strict=True)
    ]
    ids, mask = pad_batch(texts, tokenizer.pad_token_id)
    backbone: Any = model.base_model
    states = backbone(ids, attention_mask=mask).last_hidden_state  # (batch, time, width)
    is_answer = torch.zeros_like(mask, dtype=torch.bool)
    for row, (question, text) in enumerate(zip(questions, texts, strict=True)):
        is_answer[row, len(question) - 1 : len(text) - 1] = True
    nats = functional.cross_entropy(
        model.lm_head(states[is_answer]), ids.roll(-1, dims=1)[is_answer], reduction="none"
    )
    is_choice = torch.tensor([bool(lesson.verdicts) for lesson in lessons])
    of_choice = is_choice[:, None].expand_as(is_answer)[is_answer]
    kinds = [nats[chosen].mean() for chosen in (of_choice, ~of_choice) if chosen.any()]
    loss = torch.stack(kinds).sum()

    both = answer_ids(tokenizer, _ANSWERS)
    (after,) = encode(tokenizer, [_AFTER])
    rows, places, wanted = [], [], []
    for row, lesson in enumerate(lessons):
        if lesson.verdicts:
            words = len(encode(tokenizer, [_response_b(lesson.question)])[0])
            before = len(questions[row]) - len(after) - words
            for end, is_first in lesson.verdicts.items():
                rows.append(row)
                places.append(before + end - 1)
                wanted.append(0 if is_first else 1)
    if rows:
        earlier = functional.linear(states[rows, places], model.lm_head.weight[both])
        loss = loss + EARLIER * functional.cross_entropy(earlier, torch.tensor(wanted))
    return loss


def _response_b(question: str) -> str:
    """Return the second response in a choice."""
    return question.rsplit("<response B>", 1)[1].rsplit("</response B>", 1)[0]
