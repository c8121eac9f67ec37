"""NLPO samples among the top-p of an earlier self, which really is refreshed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TopPLogitsWarper

from tests.support.agents.checkpoint import untimed
from tests.support.agents.common import EOS, lora_config, make_model, per_token, target_reward
from tests.support.agents.ppo import log_of
from tokengym.agents import NLPO, collect
from tokengym.evaluation.runs import load_agent


@pytest.fixture
def make_nlpo(make_envs: Callable[..., Any]) -> Callable[..., NLPO]:
    def build(*, envs: Any = None, model: Any = None, lora: Any = None, **settings: Any) -> NLPO:
        return NLPO(
            "CausalLMPolicy",
            make_envs(min_new_tokens=2) if envs is None else envs,
            policy_kwargs={"model": model or make_model(scale=3.0), "lora": lora},
            seed=0,
            device="cpu",
            **settings,
        )

    return build


def expected_masks(model: Any, episode: Any, top_p: float) -> torch.Tensor:
    """The top-p of a whole model's distributions, by transformers, EOS forbidden for 2 tokens."""
    n, ids = len(episode.response_ids), [*episode.prompt_ids, *episode.response_ids]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -n - 1 : -1].clone()
    logits[:2, EOS] = -torch.inf
    return TopPLogitsWarper(top_p)(None, logits).isfinite()


@pytest.mark.parametrize("lora", [False, True])
def test_the_mask_is_of_the_policy_as_it_was_at_the_last_refresh(
    make_nlpo: Callable[..., NLPO], lora: bool
):
    agent = make_nlpo(
        lora=lora_config() if lora else None, mask_top_p=0.6, mask_refresh=2, learning_rate=3e-2
    )
    import copy

    earlier = copy.deepcopy(agent.policy.language_model.model)
    differed = 0
    for update in range(5):
        played = agent.collect()
        assert played is not None
        masks = played.action_masks
        assert masks is not None
        for row, episode in enumerate(played.episodes):
            n = len(episode.response_ids)
            found = masks.at(torch.full((n,), row), torch.arange(n))
            assert found.tolist() == expected_masks(earlier, episode, 0.6).tolist(), update
            present = expected_masks(agent.policy.language_model.model, episode, 0.6)
            if update % 2 == 0:
                assert found.tolist() == present.tolist()
            differed += int(found.tolist() != present.tolist())
            share = found.float().mean(1)
            torch.testing.assert_close(masks.shares()[row, :n], share)
        stats = agent.update(agent.assign(played))
        assert stats.log_prob_gap < 1e-4
        if update % 2 == 1:
            earlier = copy.deepcopy(agent.policy.language_model.model)
    assert differed > 0  # between refreshes the policy moved on and the mask did not


def test_predict_obeys_the_mask(make_nlpo: Callable[..., NLPO], make_envs: Callable[..., Any]):
    agent = make_nlpo(mask_top_p=1e-6)  # the likeliest token of the masking model alone
    with torch.no_grad():
        for parameter in agent.policy.language_model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    observation, _ = make_envs().reset(seed=0)
    masking = agent.policy.auxiliary_models["masking_model"].model
    for row in range(4):
        ids = observation["input_ids"][row][observation["attention_mask"][row] == 1]
        with torch.no_grad():
            expected = int(masking(torch.from_numpy(ids)[None]).logits[0, -1].argmax())
        assert {agent.predict(observation)[0][row].item() for _ in range(5)} == {expected}


def test_it_learns_and_logs_the_mask(make_nlpo: Callable[..., NLPO], make_envs: Callable[..., Any]):
    envs = make_envs(num_envs=32, reward=target_reward(per_token))
    agent = make_nlpo(
        envs=envs,
        model=make_model(scale=2.0),
        learning_rate=1e-2,
        kl_coef=0.01,
        mask_refresh=3,
        mask_top_p=0.95,
    )
    rows = log_of(agent, 32 * 6 * 14)
    assert all(0.1 < row["train/mask_share"] <= 1.0 for row in rows)
    assert all(row["train/log_prob_gap"] < 1e-4 for row in rows)
    final = [episode.score for episode in collect(agent, envs, 32, seed=5)]
    assert np.mean(final) > 0.85  # type: ignore[arg-type]


def test_resuming_keeps_the_mask(
    make_nlpo: Callable[..., NLPO], make_envs: Callable[..., Any], tmp_path: Path
):
    agent = make_nlpo(mask_refresh=3, mask_top_p=0.7, learning_rate=1e-2, n_epochs=2)
    agent.learn(24)
    assert agent._n_updates % 3 != 0  # the masking model is not the policy
    agent.save(tmp_path / "run")
    assert type(load_agent(tmp_path / "run")) is NLPO  # as `tokengym evaluate` does
    rows = untimed(log_of(agent, 40, reset_num_timesteps=False))
    resumed = NLPO.load(tmp_path / "run", env=make_envs(min_new_tokens=2), device="cpu")
    assert (resumed.settings.mask_refresh, resumed.settings.n_epochs) == (3, 2)
    assert resumed.policy.mask_top_p == resumed.settings.mask_top_p == 0.7
    assert str(untimed(log_of(resumed, 40, reset_num_timesteps=False))) == str(rows)


def test_bad_settings_are_refused(make_nlpo: Callable[..., NLPO], make_envs: Callable[..., Any]):
    with pytest.raises(ValueError, match=r"mask_refresh.*>= 1, got 0"):
        make_nlpo(mask_refresh=0)
    with pytest.raises(ValueError, match=r"mask_top_p.*\(0, 1\], got 1.5"):
        make_nlpo(mask_top_p=1.5)
    with pytest.raises(ValueError, match=r"^mask_top_p .*NLPO"):
        NLPO("CausalLMPolicy", make_envs(), policy_kwargs={"mask_top_p": 0.5})
    with pytest.raises(TypeError, match="n_epoch"):
        make_nlpo(n_epoch=1)
