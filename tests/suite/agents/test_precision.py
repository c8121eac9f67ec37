"""bf16-mixed computes in bfloat16 and learns in float32."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.agents.common import lora_config, make_model, per_token, target_reward
from tests.support.agents.offline import PAIRS
from tests.support.agents.ppo import gradient
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO, PPO, SFT, ModelError, collect
from tokengym.agents.fast.captured import CapturedSampler
from tokengym.agents.policy.language_model import CausalLM
from tokengym.agents.policy.sequences import Sequences
from tokengym.envs import SettingsError


@pytest.fixture
def make_agent(make_envs: Callable[..., Any]) -> Callable[..., PPO]:
    """Return a builder of agents, given what the policy and the learner take."""

    def build(policy: dict[str, Any] | None = None, **settings: Any) -> PPO:
        kwargs = {"model": make_model(scale=2.0)} | (policy or {})
        envs = make_envs(num_envs=16, reward=target_reward(per_token))
        defaults: Any = {"seed": 0, "device": "cpu"} | settings
        return PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, **defaults)

    return build


MIXED = {"precision": "bf16-mixed"}


@pytest.mark.parametrize("decoding", ["auto", "static"])
@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_only_the_trunk_s_products_are_in_bfloat16(make_agent, shape, decoding):
    model = make_model(shape, scale=2.0).bfloat16()  # as its files may have it
    mixed = make_agent(MIXED | {"model": model, "decoding": decoding})
    policy = mixed.policy
    mixed.learn(1)
    trained = policy.trained_parameters()
    assert all(parameter.dtype == torch.float32 for parameter in policy.parameters())
    for state in policy.optimizer.state.values():
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
    exact = CausalLM(policy.language_model.model).eval()
    sequences = Sequences.from_ids([[3, 4], [5]], [[6, 7, 3], [2, 2]])
    states = policy.states(sequences)
    logits = policy.shaped_logits(states, None)
    assert logits.dtype == torch.float32
    gap = (logits - exact.logits(exact.response_states(sequences))).abs().max()
    assert 1e-5 < gap < 0.1 * logits.abs().max()
    logits.sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in trained)
    if decoding == "static":
        assert isinstance(mixed.sampler(), CapturedSampler)
        (decoder,) = policy.decoders
        assert decoder.dtypes == {torch.bfloat16}


def test_small_steps_count(make_agent, caplog):
    """A step of 1e-6 is less than half of what tells two neighbours in bfloat16 apart."""
    moved = {}
    for name, kwargs in (("bfloat16", {"dtype": "bfloat16"}), ("mixed", MIXED)):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            agent = make_agent(kwargs, learning_rate=1e-6)
            collect(agent, agent.env, 2)
            assert not caplog.text  # nothing learns yet
            trunk: Any = agent.policy.language_model.model.base_model
            weight = trunk.h[0].mlp.c_fc.weight
            before = weight.detach().clone()
            agent.learn(1)
            agent.learn(1, reset_num_timesteps=False)
        warned = caplog.text.count("small steps are rounded away; use precision")
        assert warned == (name == "bfloat16")
        moved[name] = (weight != before).float().mean().item()
    assert moved["bfloat16"] < 0.05
    assert moved["mixed"] > 0.95


def test_a_high_rate_for_many_weights_is_named_once(make_agent, caplog, monkeypatch):
    said = "weights learn at a learning rate of 0.001, which suits tiny models"
    make_agent({}, learning_rate=1e-3).learn(1)
    assert said not in caplog.text  # the weights are few
    monkeypatch.setattr("tokengym.agents.policy.models.MANY_WEIGHTS", 1000)
    for adapters in ({"lora": lora_config()}, {}):
        caplog.clear()
        agent = make_agent(adapters, learning_rate=1e-3, value_network="trunk")
        count = sum(weight.numel() for weight in agent.policy.trained_parameters())
        agent.learn(1).learn(1, reset_num_timesteps=False)
        assert caplog.text.count(said) == (count > 1000)
    made: Any = {"tokenizer": make_tokenizer(), "device": "cpu", "max_steps": 1}
    for rate in (1e-5, 1e-3):
        caplog.clear()
        DPO(make_model(), PAIRS, learning_rate=rate, **made).train()
        assert caplog.text.count(said) == (rate == 1e-3)


def test_recomputed_log_probs_are_the_update_s_own(make_agent):
    gaps, errors = {}, {}
    for old in ("sampled", "recomputed"):
        agent = make_agent(MIXED | {"decoding": "static"}, old_log_probs=old, n_minibatches=1)
        played = agent.collect()
        errors[old] = agent.update(agent.assign(played)).ratio_error
        gaps[old] = agent.logger.name_to_value["train/log_prob_gap"]
    assert gaps["sampled"] > 1e-4  # rollout and update round differently, and both runs say so
    assert gaps["recomputed"] == pytest.approx(gaps["sampled"], rel=0.5)
    assert errors["recomputed"] < 0.1 * errors["sampled"]


def test_settings_without_effect_are_refused(make_agent):
    with pytest.raises(SettingsError, match="got dtype='bfloat16'"):
        make_agent(MIXED | {"dtype": "bfloat16"})
    with pytest.raises(SettingsError, match="precision"):
        make_agent({"precision": "fp8"})


def test_a_mixed_gradient_is_near_that_of_float32(make_agent):
    full, mixed = make_agent(), make_agent(MIXED)
    experience = full.assign(full.collect())
    expected, found = (gradient(agent, experience) for agent in (full, mixed))
    assert 0.0 < (found - expected).norm() < 0.05 * expected.norm()


TEXTS = [{"prompt_ids": pair["prompt_ids"], "response_ids": pair["chosen_ids"]} for pair in PAIRS]


@pytest.mark.parametrize("learner", [DPO, SFT])
def test_learners_from_data_compute_in_bfloat16_and_learn_in_float32(learner):
    """Their losses are those of float32 but for bfloat16's rounding, and small steps count."""
    losses, moved = {}, {}
    for precision in ("full", "bf16-mixed"):
        model = make_model(scale=2.0)
        before = model.base_model.h[0].mlp.c_fc.weight.detach().clone()  # type: ignore[union-attr,index]
        data = PAIRS if learner is DPO else TEXTS
        settings: dict[str, Any] = {"learning_rate": 1e-6, "max_steps": 3, "device": "cpu"}
        agent = learner(
            model, data, tokenizer=make_tokenizer(), precision=precision, seed=0, **settings
        )
        agent.train()
        losses[precision] = agent.state.log_history[-1]["train_loss"]
        assert all(parameter.dtype == torch.float32 for parameter in agent.policy.parameters())
        models = [agent.policy.language_model, agent.policy.reference]
        assert all(each.autocasts == (precision != "full") for each in models)
        weight = agent.policy.language_model.model.base_model.h[0].mlp.c_fc.weight
        moved[precision] = (weight != before).float().mean().item()
    assert losses["full"] != losses["bf16-mixed"]
    assert losses["full"] == pytest.approx(losses["bf16-mixed"], rel=0.02)
    assert moved["bf16-mixed"] > 0.95


def test_a_policy_brings_its_own_precision(make_agent):
    mixed, full = make_agent(MIXED).policy, make_agent().policy
    shared: Any = {"tokenizer": make_tokenizer(), "device": "cpu"}
    agent = DPO(mixed, PAIRS, ref_model=make_model(seed=1), **shared)
    assert agent.policy.language_model.autocasts
    assert agent.policy.reference.autocasts
    with pytest.raises(ModelError, match="got 'bf16-mixed'"):
        DPO(full, PAIRS, precision="bf16-mixed", **shared)
