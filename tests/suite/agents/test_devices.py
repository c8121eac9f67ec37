"""Learners and scorers on a GPU that is not the current one, played on the CPU."""

from typing import Any

import pytest
import torch

from tests.suite.agents.played_devices import playing
from tests.suite.agents.shared_run import Uncertain
from tests.support.agents.common import lora_config, make_model
from tests.support.agents.offline import PAIRS
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import DPO, PPO, collect
from tokengym.base.device import preferred_device

GPU = torch.device("cuda", 1)


def test_the_played_gpu_refuses_what_a_gpu_refuses(monkeypatch):
    with playing(monkeypatch):
        there, here = torch.ones(2, device="cuda:1"), torch.ones(2)
        assert there.device == GPU
        assert (there + 1.0).device == GPU
        assert there[torch.tensor([0])].device == GPU
        with pytest.raises(RuntimeError, match="same device"):
            there.add(here)
        with pytest.raises(RuntimeError, match="same device"):
            there.add(torch.ones(2, device="cuda:0"))
        with pytest.raises(TypeError, match="tensor to numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="for generator"):
            torch.rand(2, device="cuda:1", generator=torch.Generator())
        assert (there.cpu() + here).tolist() == [2.0, 2.0]


CASES: dict[str, dict[str, Any]] = {
    "captured": {"top_k": 4, "kl_estimator": "k1", "target_kl": 1.0},
    "dynamic": {"policy": {"decoding": "dynamic"}, "value_network": "own", "kl_in": "loss"},
    "lora": {"policy": {"lora": lora_config()}, "old_log_probs": "recomputed", "ent_coef": 0.01},
    "groups": {"advantage": "loo", "group_size": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_ppo_keeps_to_its_device_and_moves_by_checkpoint(
    case, make_envs, monkeypatch, tmp_path, recwarn, caplog
):
    """Learning, playing and predicting there; what was saved there is loaded here, and back."""
    settings = dict(CASES[case])
    policy = {"model": make_model()} | settings.pop("policy", {})
    rules: Any = {"min_new_tokens": 2, "horizon": "truncated"}
    with playing(monkeypatch):
        envs = make_envs(**rules)
        learner = Uncertain if case == "groups" else PPO
        agent = learner(
            "CausalLMPolicy", envs, policy_kwargs=policy, seed=0, device="cuda:1", **settings
        )
        assert {parameter.device for parameter in agent.policy.parameters()} == {GPU}
        agent.learn(16)
        assert caplog.text.count("training needs about 0.4 GiB of 16 GiB: other 0.4") == 1
        collect(agent, make_envs(), 4, seed=1)
        agent.predict(envs.reset(seed=0)[0])
        agent.save(tmp_path / "there")
    here = learner.load(tmp_path / "there", env=make_envs(**rules), device="cpu")
    here.learn(1)
    here.save(tmp_path / "here")
    with playing(monkeypatch):
        learner.load(tmp_path / "here", env=make_envs(**rules), device="cuda:1").learn(1)
    # Without naming devices it sets up every GPU of the machine.
    assert not [warning for warning in recwarn if "fork_rng" in str(warning.message)]


@pytest.mark.parametrize("recomputes", [False, True])
def test_attention_on_a_gpu_is_not_cudnns_and_lengths_are_few(recomputes, make_envs, monkeypatch):
    lengths, has_cudnn = set(), set()

    def see(_module: Any, args: Any, given: dict[str, Any]) -> None:
        if given.get("cache", given.get("past_key_values")) is None:  # by transformers 5.24
            lengths.add((args or (given["hidden_states"],))[0].shape[1])
        has_cudnn.add(torch.backends.cuda.cudnn_sdp_enabled())

    model = make_model("llama")
    with playing(monkeypatch):
        kwargs = {"model": model, "gradient_checkpointing": recomputes}
        agent = PPO("CausalLMPolicy", make_envs(), policy_kwargs=kwargs, seed=0, device="cuda:1")
        agent.sampler()  # the model is checked on short texts before the first round
        trained: Any = agent.policy.language_model.model  # a copy
        trained.model.layers[0].self_attn.register_forward_pre_hook(see, with_kwargs=True)
        agent.learn(8)
        assert torch.backends.cuda.cudnn_sdp_enabled()
    assert has_cudnn == {False}
    assert lengths == {32}


def test_dpo_trains_on_the_preferred_device(monkeypatch):
    def device(name: str) -> torch.device:
        return DPO(make_model(), PAIRS, tokenizer=make_tokenizer(), device=name).args.device

    with playing(monkeypatch):
        assert device("auto") == torch.device("cuda", 0)  # the first of two
        with preferred_device("cpu"):
            assert device("auto").type == "cpu"


def test_dpo_plays_on_its_device(make_envs, monkeypatch, tmp_path):
    DPO(make_model(), PAIRS, tokenizer=make_tokenizer(), device="cpu").save(tmp_path / "agent")
    with playing(monkeypatch):
        agent = DPO.load(tmp_path / "agent", device="cpu")
        agent.policy.to("cuda:1")
        assert collect(agent, make_envs(), 4, seed=1)
        assert collect(agent, make_envs(), 4)
        assert len(agent.policy.log_probs([[3, 4]], [[5, 6]])[0]) == 2
