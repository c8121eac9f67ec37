"""A resumed run equals an uninterrupted one; damage is named; nothing is half-written."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support.agents.checkpoint import (
    OWN_ADVANTAGE,
    assert_equal_weights,
    normalised_reward,
    rehash,
    rewrite,
    untimed,
)
from tests.support.agents.common import lora_config, make_model, target_reward
from tests.support.agents.ppo import log_of
from tests.support.rules import rule_of
from tokengym.agents import PPO, CheckpointError
from tokengym.agents.loading import load_agent
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import UntrustedCodeError

MODEL, ADAPTER = "model/model.safetensors", "adapter/adapter_model.safetensors"
LAYER = "transformer.h.0.ln_1.weight"


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_resuming_equals_going_on(make_envs, make_ppo, tmp_path, lora, sampling):
    def envs() -> Any:
        return make_envs(reward=normalised_reward(), prompt_sampling=sampling)

    agent = make_ppo(
        envs=envs(),
        lora=lora_config() if lora else None,
        learning_rate=1e-2,
        kl_target=1.0,
        kl_horizon=20.0,
    )
    agent.learn(40)
    agent.save(tmp_path / "run")
    suffixes = {file.suffix for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".md"}  # none is a pickle
    uninterrupted = untimed(log_of(agent, 60, reset_num_timesteps=False))

    resumed = PPO.load(tmp_path / "run", env=envs(), device="cpu")
    again = untimed(log_of(resumed, 60, reset_num_timesteps=False))
    assert len(again) > 2
    assert str(again) == str(uninterrupted)  # as text: an undefined variance is nan in both
    assert_equal_weights(agent, resumed)
    assert agent.kl_coef == resumed.kl_coef != 0.05


def frozen_in_part(whole: str) -> Any:
    """A model of which embeddings and first block, or last block and norm, are frozen by hand."""
    model = make_model()
    trunk: Any = model.base_model
    parts = [trunk.wte, trunk.wpe, trunk.h[0]] if whole == "below" else [trunk.h[-1], trunk.ln_f]
    for part in parts:
        part.requires_grad_(False)
    return model


def trained_names(agent: PPO) -> list[str]:
    return [name for name, weight in agent.policy.named_parameters() if weight.requires_grad]


@pytest.mark.parametrize("when", ["given", "later"])
@pytest.mark.parametrize("which", ["below", "above"])
@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "reinforce"},
        {"value_network": "own"},
        {"value_network": "trunk"},
        {"value_network": "own", "lora": lora_config()},
    ],
)
def test_weights_frozen_by_hand_stay_frozen(make_envs, make_ppo, tmp_path, settings, which, when):
    agent = make_ppo(model=frozen_in_part(which), learning_rate=1e-2, **settings)
    if when == "later":
        agent.learn(10)
        agent.policy.language_model.model.base_model.h[1].attn.requires_grad_(False)
        if (critic := agent.policy.critic) is not None:
            for block in [] if critic.network is None else critic.network.blocks():
                block.ln_1.requires_grad_(False)
            critic.head.requires_grad_(False)
    agent.learn(30, reset_num_timesteps=False).save(tmp_path / "run")
    resumed = PPO.load(tmp_path / "run", env=make_envs(), device="cpu")
    assert trained_names(resumed) == trained_names(agent)
    for each in (agent, resumed):
        each.learn(30, reset_num_timesteps=False)
    assert_equal_weights(agent, resumed)


def test_weights_that_are_unfrozen_too_late_are_named(make_ppo, caplog):
    agent = make_ppo(model=frozen_in_part("below"), learning_rate=1e-2)
    block: Any = agent.policy.language_model.model.base_model
    before = block.h[0].ln_1.weight.clone()
    for part in (block.h[1].attn, block.h[0].ln_1):
        part.requires_grad_(False)
        part.requires_grad_(True)  # of which only the latter was frozen when it was given
    agent.learn(10)
    assert torch.equal(block.h[0].ln_1.weight, before)
    assert "h.0.ln_1.weight (and 1 more) was unfrozen after the policy was built" in caplog.text


def test_the_policy_is_a_hugging_face_model_and_predicts_without_an_environment(
    make_envs, make_ppo, tmp_path
):
    agent = make_ppo().learn(20)
    agent.save(tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, agent.policy.language_model.model(ids).logits)
    loaded = PPO.load(tmp_path / "run", device="cpu")
    observation, _ = make_envs().reset(seed=0)
    expected, _ = agent.predict(observation, deterministic=True)
    assert loaded.predict(observation, deterministic=True)[0].tolist() == expected.tolist()
    with pytest.raises(ValueError, match=r"set_env\(envs\)"):
        loaded.learn(10, reset_num_timesteps=False)
    loaded.set_env(make_envs())
    assert loaded.learn(10, reset_num_timesteps=False).num_timesteps > agent.num_timesteps


def flip(folder: Path) -> None:
    content = bytearray((folder / MODEL).read_bytes())
    content[-3] ^= 1
    (folder / MODEL).write_bytes(content)


def count_up(folder: Path) -> None:
    record = json.loads((folder / "checkpoint.json").read_text())
    record["counters"]["num_timesteps"] += 1
    (folder / "checkpoint.json").write_text(json.dumps(record))


def link(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        elsewhere = folder.parent / "elsewhere"
        if (folder / name).exists():
            (folder / name).rename(elsewhere)
        (folder / name).symlink_to(elsewhere)

    return make


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, f"run/{MODEL} is damaged"),
        (lambda f: (f / MODEL).unlink(), f"run/{MODEL} is missing"),
        (lambda f: (f / "checkpoint.json").write_text('{"a'), r"run/checkpoint\.json is"),
        (count_up, r"checkpoint\.json.*hash differs"),
        (lambda f: rewrite(f, {"format": 99}), r"format 99.*reads 2"),
        (lambda f: (f / "model/code.py").write_bytes(b"x"), "run/model/code.py was.*remove"),
        (link("adapter"), "run/adapter .*link.*elsewhere"),
        (link(MODEL), f"run/{MODEL} .*link.*elsewhere"),
        (link("checkpoint.json"), "run/checkpoint.json .*link.*elsewhere"),
    ],
)
def test_damage_and_strange_files_are_named(make_ppo, tmp_path, damage, message):
    make_ppo().learn(10).save(tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(CheckpointError, match=message):
        PPO.load(tmp_path / "run")


def test_code_that_a_checkpoint_names_is_run_for_who_names_it_again(make_envs, make_ppo, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(OWN_ADVANTAGE)
    agent = make_ppo(advantage=f"{own}:mine")
    agent.save(tmp_path / "run")
    ran, digest = tmp_path / "ran", hashlib.sha256(own.read_bytes()).hexdigest()
    own.write_text(f"open({str(ran)!r}, 'w')\n" + OWN_ADVANTAGE)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    for load in (PPO.load, load_agent):
        with pytest.raises(UntrustedCodeError, match=rf"checkpoint\.json.*own\.py:mine .*{digest}"):
            load(tmp_path / "run")
    assert PPO.load(tmp_path / "run", advantage="reinforce").estimator.name == "reinforce"
    assert not ran.exists()
    named = PPO.load(tmp_path / "run", env=make_envs(), advantage=f"{own}:mine")
    assert (named.estimator.name, ran.exists()) == ("mine", True)
    assert load_agent(tmp_path / "run", trust_code=True).estimator.name == "mine"


def entries(file: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        present = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**present, **changes}))

    return change


def weights(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file, {"format": "pt"})

    return write


CONFIG, ADAPTERS = "model/config.json", "adapter/adapter_config.json"
TRAINING = "training.safetensors"


@pytest.mark.parametrize(
    ("lora", "change", "message"),
    [
        (False, entries(CONFIG, n_layer=-1), "num_hidden_layers -1.*1.*1000"),
        (False, entries(CONFIG, n_layer=10**6), "says num_hidden_layers 1000000"),
        (False, entries(CONFIG, n_layer=3), r"no trained transformer\.h\.2"),
        (False, entries(CONFIG, model_type="x"), r"cannot load.*AutoModelForCausalLM"),
        (False, entries(CONFIG, transformers_weights="adapter_model.bin"), "no safetensors"),
        (False, weights(MODEL, lambda t: t.pop(LAYER)), rf"holds no trained {LAYER}"),
        (False, weights(MODEL, lambda t: t.update(x=torch.ones(1))), "holds x"),
        (False, lambda f: (f / "model/a.bin").write_bytes(b""), r"a\.bin is no"),
        (False, lambda f: (f / "model/adapter_config.json").write_text("{}"), "adapter_config"),
        (False, lambda f: (f / "frozen.json").write_text('{"given": ["x.weight"]}'), "frozen.*`x`"),
        (False, lambda f: (f / "decided.json").write_text('["kl_coef"]'), "names 'kl_coef', which"),
        (False, lambda f: (f / "decided.json").write_text("[[1]]"), r"names \[1\], which"),
        (False, lambda f: (f / "decided.json").write_text("{}"), "decided.json must hold a list"),
        (False, lambda f: (f / "reward.json").write_text("3"), "reward.json must hold a str"),
        (
            False,
            weights(TRAINING, lambda t: t.pop("critic.head.weight")),
            r"training\.safetensors.*'critic\.head\.weight'",
        ),
        (False, lambda f: (f / TRAINING).write_bytes(b"{"), "damaged .SafetensorErr"),
        (True, entries(ADAPTERS, peft_type="IA3"), "adapter.*LoRA"),
        (True, entries(ADAPTERS, megatron_config={"a": 1}), r"LoraConfig\(megatron_config="),
        (True, weights(ADAPTER, lambda t: t.popitem()), r"adapter.*\(.*lora_B"),
    ],
)
def test_files_that_somebody_changed_are_one_line(make_ppo, tmp_path, lora, change, message):
    """With their hashes computed again: these are no signature."""
    folder = tmp_path / "run"
    make_ppo(lora=lora_config() if lora else None).save(folder)
    change(folder)
    rehash(folder)
    with pytest.raises(ValueError, match=message) as caught:
        PPO.load(folder)
    assert len(str(caught.value).splitlines()) == 1


SIZES = {"num_envs": 4, "num_tokens": 24, "length": 12}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": {"num_envs": 4}}, "num_envs, num_tokens"),
        ({"environment": SIZES | {"num_envs": 10**9}}, "num_envs.*1000000, got 10000000"),
        ({"counters": {"num_timesteps": 4}}, "num_timesteps, _n_updates"),
        ({"policy_kwargs": {"model": "/etc"}}, "policy_kwargs"),
        ({"settings": {"beta": 0.1}}, r"hold 'beta'.*PPO"),
        ({"settings": {"advantage": None}}, "advantage.*got None"),
        ({"environment_state": {"states": []}}, "environment_state"),
        ({"code": "import os"}, "code is unknown"),
        ({"files": {"../../x": "0"}}, r"\.\./\.\./x is missing"),
    ],
)
def test_a_record_of_anything_else_is_one_line(make_ppo, tmp_path, changes, message):
    make_ppo().save(tmp_path / "run")
    rewrite(tmp_path / "run", changes)
    with pytest.raises(ValueError, match=message):
        PPO.load(tmp_path / "run")


def test_a_number_of_tokens_may_be_a_float(make_envs, make_ppo, tmp_path):
    agent = make_ppo().learn(1e1)
    agent.save(tmp_path / "run")
    loaded = PPO.load(tmp_path / "run", env=make_envs())
    assert loaded.num_timesteps == agent.num_timesteps
    assert isinstance(loaded._total_timesteps, int)


def test_the_previous_checkpoint_takes_a_damaged_one_s_place(make_envs, make_ppo, tmp_path, caplog):
    agent = make_ppo()
    counts = []
    for _ in range(2):
        agent.learn(10, reset_num_timesteps=False)
        agent.save(tmp_path / "run")
        counts.append(agent.num_timesteps)
    assert PPO.load(tmp_path / "run", env=make_envs()).num_timesteps == counts[1]
    (tmp_path / "run" / "training.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert PPO.load(tmp_path / "run", env=make_envs()).num_timesteps == counts[0]
    assert "run/training.safetensors is damaged" in caplog.text
    assert "falling back to" in caplog.text
    shutil.rmtree(tmp_path / "run")  # killed between the two renames
    assert PPO.load(tmp_path / "run", env=make_envs()).num_timesteps == counts[0]


def test_schedules_must_be_given_again(make_ppo, tmp_path):
    make_ppo(learning_rate=lambda progress: 0.01 * progress).save(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"learning_rate .*learning_rate=\.\.\."):
        PPO.load(tmp_path / "run")
    make_ppo(learning_rate=lambda _: 0.01, clip_range=lambda _: 0.2).save(tmp_path / "two")
    both = r"^clip_range and learning_rate of .* env=envs, clip_range=\.\.\., learning_rate=\.\.\."
    with pytest.raises(CheckpointError, match=both):
        PPO.load(tmp_path / "two")
    again = PPO.load(tmp_path / "run", learning_rate=lambda left: 0.5 * left)
    assert again.lr_schedule(0.5) == 0.25


def test_settings_are_restored_and_can_be_changed(make_ppo, tmp_path):
    saved = make_ppo(temperature=0.7, seed=9, top_k=5, kl_in="loss", kl_estimator="k3")
    saved.save(tmp_path / "run")
    loaded = PPO.load(tmp_path / "run", n_epochs=1, top_k=3)
    assert loaded.settings == replace(saved.settings, n_epochs=1, top_k=3)
    assert (loaded.policy.temperature, loaded.policy.settings.top_k, loaded.seed) == (0.7, 3, 9)
    with pytest.raises(TypeError, match=r"got 'n_epoch'.*n_epochs"):
        PPO.load(tmp_path / "run", n_epoch=1)


@pytest.mark.parametrize(
    ("saved", "changed"),
    [
        ({"value_network": "own"}, {"value_network": "trunk"}),
        ({"value_network": "trunk"}, {"value_network": "own"}),
        ({"advantage": "reinforce++"}, {"advantage": "gae"}),
    ],
)
def test_another_critic_than_the_saved_one_is_refused(
    make_ppo, make_envs, tmp_path, saved, changed
):
    """Its parameters would get the optimiser's state of others."""
    make_ppo(**saved).learn(10).save(tmp_path / "run")
    message = rf"critic.*change of {min(changed)}"
    with pytest.raises(CheckpointError, match=message):
        PPO.load(tmp_path / "run", env=make_envs(), device="cpu", **changed)


def test_a_critic_may_be_left_out(make_ppo, make_envs, tmp_path):
    """The optimiser has the state of the policy's own weights alone."""
    make_ppo().learn(10).save(tmp_path / "run")
    loaded = PPO.load(tmp_path / "run", env=make_envs(), device="cpu", advantage="reinforce")
    count = len(loaded.policy.trained_parameters())
    assert sorted(loaded.policy.optimizer.state_dict()["state"]) == list(range(count))


def test_an_agent_without_an_environment_is_saved_and_trained_on(
    make_ppo, make_envs, tmp_path, caplog
):
    make_ppo().learn(10).save(tmp_path / "run")
    PPO.load(tmp_path / "run", device="cpu").save(tmp_path / "copy")
    assert "begins its prompts anew" in caplog.text
    first, copied = (
        PPO.load(tmp_path / name, env=make_envs(), device="cpu") for name in ("run", "copy")
    )
    assert copied.num_timesteps == first.num_timesteps > 0
    copied.learn(10, reset_num_timesteps=False)


def test_a_reward_that_a_folder_names_does_not_control_a_terminal(
    make_ppo, make_envs, tmp_path, caplog
):
    make_ppo().save(tmp_path / "run")
    (tmp_path / "run" / "reward.json").write_text(json.dumps("\x1b[2Jred"))
    rehash(tmp_path / "run")
    PPO.load(tmp_path / "run", env=make_envs(reward=target_reward()), device="cpu")
    assert "red" in caplog.text
    assert "\x1b" not in caplog.text


def test_what_does_not_fit_the_checkpoint_is_refused(make_envs, make_ppo, tmp_path):
    make_ppo().learn(5).save(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"'num_envs': 4.*'num_envs': 5"):
        PPO.load(tmp_path / "run", env=make_envs(num_envs=5))
    with pytest.raises(CheckpointError, match="'length': 12"):
        PPO.load(tmp_path / "run", env=make_envs(max_new_tokens=8))

    class Other(PPO):
        pass

    with pytest.raises(CheckpointError, match="PPO, not Other"):
        Other.load(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"no checkpoint.*nowhere"):
        PPO.load(tmp_path / "nowhere")


def test_another_reward_than_the_one_learned_from_is_said(make_ppo, make_envs, tmp_path, caplog):
    def envs(rule: str) -> Any:
        return make_envs(reward=target_reward(rule_of(rule)))

    make_ppo(envs=envs("sparse")).save(tmp_path / "run")
    PPO.load(tmp_path / "run", device="cpu").save(tmp_path / "copy")
    said = r"learned from sparse\(.*; this environment pays uniform\("
    for name in ("run", "copy"):
        caplog.clear()
        agent = PPO.load(tmp_path / name, env=envs("sparse"), device="cpu")
        assert not caplog.messages
        PPO.load(tmp_path / name, env=envs("uniform"), device="cpu")
        agent.set_env(as_vec_env(envs("uniform")))
        assert [bool(re.search(said, message)) for message in caplog.messages] == [True, True]


# --- loaded with changes --------------------------------------------------------------------------


def sampled(agent: PPO) -> list[tuple[int, ...]]:
    return [(*episode.prompt_ids, *episode.response_ids) for episode in agent.collect().episodes]


def test_a_seed_given_to_load_begins_another_continuation(make_envs, make_ppo, tmp_path):
    make_ppo().learn(20).save(tmp_path / "run")
    plain, *others = (
        sampled(PPO.load(tmp_path / "run", env=make_envs(), device="cpu", seed=seed))
        for seed in (None, 7, 7)
    )
    assert others[0] == others[1] != plain


def test_a_seed_that_was_set_is_kept(make_envs, make_ppo, tmp_path):
    agent = make_ppo(seed=0)
    agent.set_random_seed(5)
    agent.save(tmp_path / "run")
    resumed = PPO.load(tmp_path / "run", env=make_envs(), device="cpu")
    assert resumed.seed == agent.seed == 5
    assert sampled(resumed) == sampled(agent)


def test_another_optimizer_begins_anew(make_envs, make_ppo, tmp_path, caplog):
    make_ppo().learn(20).save(tmp_path / "run")
    other = torch.optim.RMSprop
    agent = PPO.load(tmp_path / "run", env=make_envs(), device="cpu", optimizer_class=other)
    assert "another optimizer_class begins anew" in caplog.text
    agent.learn(20)
    assert type(agent.policy.optimizer) is other


def test_another_environment_takes_the_round_that_began_in_the_first(make_envs, make_ppo):
    agent = make_ppo()
    agent._round_start = object()  # as after a callback stopped `learn` within a round
    agent.set_env(make_envs())
    assert agent._round_start is None


def test_adapters_that_were_frozen_stay_frozen_when_the_reference_is_read(make_ppo):
    agent = make_ppo(lora=lora_config(), kl_coef=0.1)
    named = agent.policy.language_model.adapters.named_parameters()
    name, frozen = next((n, one) for n, one in named if "lora_B" in n)
    frozen.requires_grad_(False)
    before = frozen.clone()
    agent.learn(40)
    assert not frozen.requires_grad, name
    assert torch.equal(frozen, before)


def test_a_lambda_that_is_left_open_again_is_the_rules(make_ppo, make_envs):
    agent = make_ppo()
    decided = agent.gae_lambda
    agent.gae_lambda = 0.5
    agent.gae_lambda = None
    assert agent.gae_lambda == decided
