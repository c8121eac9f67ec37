"""SFT: the likelihood of responses, counted by tokens however they are batched."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.agents.common import EOS, lora_config, make_model
from tests.support.agents.offline import logged, make_args, make_learner, plain_log_prob
from tokengym.agents import SFT, collect

TEXTS = [
    {"prompt_ids": [4, 5], "completion_ids": [3, 3, EOS]},
    {"prompt_ids": [7], "completion_ids": [5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6, EOS]},
    {"prompt_ids": [4, 4, 4, 6, 7], "completion_ids": [3]},
    {"prompt_ids": [5, 7, 6], "completion_ids": [3, 4, 3, 4, EOS]},
]


def make_sft(texts: Any = TEXTS, **settings: Any) -> SFT:
    sft: SFT = make_learner(SFT, texts, **settings)
    return sft


def test_the_loss_is_the_mean_over_response_tokens(tmp_path):
    sft = make_sft(args=make_args(tmp_path, per_device_train_batch_size=4, max_steps=1))
    sft.train()
    model = make_model()
    sums = [plain_log_prob(model, row["prompt_ids"], row["completion_ids"]) for row in TEXTS]
    tokens = sum(len(row["completion_ids"]) for row in TEXTS)
    assert logged(sft)[0] == pytest.approx(-sum(sums) / tokens, rel=1e-4)
    assert logged(sft, "mean_token_log_prob")[0] == pytest.approx(sum(sums) / tokens, rel=1e-4)
    with torch.no_grad():
        right = sum(
            int(token == model(torch.tensor([[*prompt, *ids[:place]]])).logits[0, -1].argmax())
            for prompt, ids in ((row["prompt_ids"], row["completion_ids"]) for row in TEXTS)
            for place, token in enumerate(ids)
        )
    assert 0 < right < tokens
    assert logged(sft, "mean_token_accuracy")[0] == pytest.approx(right / tokens)
    assert sft.num_response_tokens == tokens


def test_accumulated_batches_weigh_tokens_alike(tmp_path):
    found = []
    for size, steps in ((4, 1), (1, 4), (3, 2)):
        args = make_args(
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            num_train_epochs=3,
            optim="sgd",
            learning_rate=1e-2,
        )
        sft = make_sft(args=args)
        sft.train()
        found.append(logged(sft))
    assert found[0][-1] < found[0][0]
    for losses in found[1:]:
        np.testing.assert_allclose(losses, found[0], rtol=1e-5)


def test_evaluation_weighs_tokens_alike_too(tmp_path):
    one, four = (
        make_sft(
            eval_texts=TEXTS, args=make_args(tmp_path, per_device_eval_batch_size=size)
        ).evaluate()
        for size in (1, 4)
    )
    assert one["eval_loss"] == pytest.approx(four["eval_loss"], rel=1e-5)
    assert one["eval_mean_token_log_prob"] == pytest.approx(-one["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("lora", [None, lora_config()])
def test_it_learns_what_was_played_and_plays_it(lora, tmp_path, make_envs):
    envs, player = make_envs(), make_sft(None)
    episodes = collect(player, envs, 64, seed=0)
    best = sorted(episodes, key=lambda episode: episode.score or 0.0)[-16:]  # RAFT's one step
    rate = 1e-2 if lora is None else 5e-2
    sft = make_sft(best, learning_rate=rate, num_train_epochs=10, lora=lora)
    sft.train()
    played = [collect(agent, envs, 64, seed=1) for agent in (player, sft)]
    scores = [np.mean([episode.score for episode in some]) for some in played]
    assert scores[1] > scores[0] + 0.06
    sft.save(tmp_path / "sft")
    loaded = SFT.load(tmp_path / "sft", device="cpu")
    assert collect(sft, envs, 4, seed=2) == collect(loaded, envs, 4, seed=2)
