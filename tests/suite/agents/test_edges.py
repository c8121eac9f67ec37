"""What is given and cannot be honoured is one line, or is honoured."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from transformers import MixtralConfig, MixtralForCausalLM, TrainingArguments

from tests.support.agents.common import EOS, PAD, PROMPTS, VOCABULARY, make_model
from tests.support.rules import rule_of
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO, PPO, SFT
from tokengym.envs import SettingsError
from tokengym.rewards import FunctionScorer, Reward, shares, token_credit

PAIRS = [{"prompt": p, "chosen": " a a", "rejected": " b c"} for p in PROMPTS]
TEXTS = [{"prompt": p, "completion": " a a"} for p in PROMPTS]


@pytest.mark.parametrize(("kind", "rows"), [(DPO, PAIRS), (SFT, TEXTS)])
@pytest.mark.parametrize("name", ["label_smoothing_factor", "neftune_noise_alpha"])
def test_arguments_of_the_trainer_that_would_do_nothing_are_refused(tmp_path, kind, rows, name):
    arguments: Any = {name: 0.3, "report_to": [], "use_cpu": True}
    args = TrainingArguments(output_dir=str(tmp_path), **arguments)
    with pytest.raises(SettingsError, match=rf"^{name}=0\.3 of args"):
        kind(make_model(), rows, tokenizer=make_tokenizer(), args=args)


SAMPLING: list[dict[str, Any]] = [{"temperature": 0.9}, {"top_p": 0.5, "top_k": 3}]


@pytest.mark.parametrize("changes", SAMPLING)
@pytest.mark.parametrize("kind", ["ppo", "dpo"])
def test_a_model_with_generation_settings_of_its_own_is_saved(make_ppo, tmp_path, changes, kind):
    model = make_model()
    for name, value in changes.items():
        setattr(model.generation_config, name, value)
    if kind == "ppo":
        make_ppo(model=model).save(tmp_path / "agent")
    else:
        DPO(model, PAIRS, tokenizer=make_tokenizer(), device="cpu").save(tmp_path / "agent")
    stored = [path.read_text() for path in (tmp_path / "agent").rglob("generation_config.json")]
    assert stored
    assert all(f'"{name}": {value}' in stored[0] for name, value in changes.items())


def test_a_model_given_as_the_policy_is_named_by_its_class(make_envs):
    with pytest.raises(SettingsError, match="got GPT2LMHeadModel; pass a model by"):
        PPO(make_model(), make_envs())  # type: ignore[arg-type]


@pytest.mark.parametrize("advantage", ["gae", "grpo"])
def test_an_environment_without_a_reward_is_not_trained_on(make_ppo, advantage):
    settings: Any = {"tokenizer": make_tokenizer(), "prompts": PROMPTS, "max_new_tokens": 6}
    envs = gym.make_vec("tokengym/TokenGeneration-v0", num_envs=4, **settings)
    groups = {"group_size": 2} if advantage == "grpo" else {}
    agent = make_ppo(envs=envs, advantage=advantage, **groups)
    with pytest.raises(ValueError, match=r"reward=\.\.\."):
        agent.learn(24)
    assert agent._n_updates == 0


def test_a_reward_that_is_zero_for_all_is_trained_on(make_ppo, make_envs):
    zero = Reward(FunctionScorer(lambda prompt, response: 0.0), rule_of("sparse"))
    make_ppo(envs=make_envs(reward=zero)).learn(24)


@token_credit
def surprisal(paid: Any, log_probs: Any, response_mask: Any) -> Any:
    """Shares the score by how unlikely the tokens were to the policy that wrote them."""
    return paid[:, None] * shares(0.01 - log_probs, response_mask)


def test_a_rule_reads_the_log_probs_of_the_policy_that_wrote_the_tokens(make_ppo, make_envs):
    envs = make_envs(reward=Reward(FunctionScorer(lambda prompt, response: 1.0), surprisal))
    played = make_ppo(envs=envs).collect()
    for row, episode in enumerate(played.episodes):
        parts = 0.01 - played.log_probs[row, : len(episode.response_ids)].double().numpy()
        np.testing.assert_allclose(episode.token_rewards, parts / parts.sum(), rtol=1e-5)


@pytest.mark.parametrize(("has_loss", "says"), [(True, True), (False, False)])
def test_a_routers_own_loss_is_said_to_be_left_out(make_ppo, caplog, has_loss, says):
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=2,
            max_position_embeddings=32,
            output_router_logits=has_loss,
            bos_token_id=EOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )
    make_ppo(model=model)
    assert ("router's auxiliary loss" in caplog.text) is says
