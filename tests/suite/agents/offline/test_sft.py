"""SFT: the likelihood of responses, counted by tokens however they are batched."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.suite.agents.conftest import EOS, lora_config, make_model, make_tokenizer
from tests.suite.agents.offline.test_dpo import make_args, plain_log_prob
from tokengym.agents import SFT, collect
from tokengym.base.errors import DatasetError

TEXTS = [
    {"prompt_ids": [4, 5], "completion_ids": [3, 3, EOS]},
    {"prompt_ids": [7], "completion_ids": [5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6, EOS]},
    {"prompt_ids": [4, 4, 4, 6, 7], "completion_ids": [3]},
    {"prompt_ids": [5, 7, 6], "completion_ids": [3, 4, 3, 4, EOS]},
]


def make_sft(texts: Any = TEXTS, **settings: Any) -> SFT:
    defaults: Any = {"tokenizer": make_tokenizer()}
    if "args" not in settings:
        defaults |= {"seed": 0, "device": "cpu"}
    return SFT(make_model(), texts, **defaults | settings)


def logged(sft: SFT, name: str = "loss") -> list[float]:
    return [row[name] for row in sft.state.log_history if name in row]


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
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5)


def test_evaluation_weighs_tokens_alike_too(tmp_path):
    losses = []
    for size in (1, 4):
        args = make_args(tmp_path, per_device_eval_batch_size=size)
        metrics = make_sft(eval_texts=TEXTS, args=args).evaluate()
        losses.append(metrics["eval_loss"])
        assert metrics["eval_mean_token_log_prob"] == pytest.approx(-losses[-1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("lora", [None, lora_config()])
def test_it_learns_what_was_played_and_plays_it(lora, tmp_path, make_envs):
    envs = make_envs()
    player = make_sft(None)
    episodes = collect(player, envs, 64, seed=0)
    best = sorted(episodes, key=lambda episode: episode.score or 0.0)[-16:]  # RAFT's one step
    rate = 1e-2 if lora is None else 5e-2
    sft = make_sft(best, learning_rate=rate, num_train_epochs=10, lora=lora)
    sft.train()
    played = [collect(agent, envs, 64, seed=1) for agent in (player, sft)]
    scores = [sum(episode.score or 0.0 for episode in some) / 64 for some in played]
    assert scores[1] > scores[0] + 0.06
    sft.save(tmp_path / "sft")
    loaded = SFT.load(tmp_path / "sft", device="cpu")
    again = [[e.response_ids for e in collect(a, envs, 4, seed=2)] for a in (sft, loaded)]
    assert again[0] == again[1]


def test_the_prompt_carries_no_loss():
    """Its last token's state predicts the response's first; no state before that has a gradient."""
    sft = make_sft()
    dataset: Any = sft.train_dataset
    seen = []
    model = sft.policy.language_model
    original = model.hidden

    def hidden(*arguments: Any, **named: Any) -> torch.Tensor:
        states = original(*arguments, **named)
        states.retain_grad()
        seen.append(states)
        return states

    model.hidden = hidden  # type: ignore[method-assign]
    sft.compute_loss(sft.model, sft.collate([dataset[3]])).backward()
    (states,) = seen
    touched = states.grad[0].abs().sum(-1) > 0
    assert touched.tolist() == [False] * 2 + [True] * 5


def test_without_texts_it_only_plays():
    with pytest.raises(DatasetError, match=r"SFT.*nothing.*data"):
        make_sft(None).train()
