"""DPO: what a step computes, that it does not depend on how it is batched, and that it plays."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tokengym  # noqa: F401  (registers the environments)
from tests.support.agents.common import EOS, lora_config, make_model
from tests.support.agents.offline import PAIRS, logged, make_args, make_dpo, plain_log_prob
from tokengym.agents import DPO, SFT, CausalLMPolicy, CheckpointError, collect
from tokengym.agents.errors import ModelError
from tokengym.agents.losses import PREFERENCE_LOSSES
from tokengym.agents.offline.settings import PreferenceLoss, Tuning
from tokengym.agents.offline.trainer import AfterEpoch
from tokengym.agents.sb3 import as_vec_env
from tokengym.base.errors import DatasetError, TokenizerError

SIDES = ("chosen", "rejected")
RESPONSES = sum(len(pair[f"{side}_ids"]) for pair in PAIRS for side in SIDES)


def batch_of(dpo: DPO, rows: Any = None) -> dict[str, Any]:
    dataset: Any = dpo.train_dataset
    return dpo.collate([dataset[i] for i in (range(len(dataset)) if rows is None else rows)])


def trained(folder: Path, args: Any = None, /, pairs: Any = PAIRS, **settings: Any) -> DPO:
    """Return a DPO that has learned, with arguments of the Trainer."""
    dpo = make_dpo(pairs, args=make_args(folder, **args or {}), **settings)
    dpo.train()
    return dpo


def weights(dpo: DPO) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in dpo.policy.language_model.state_dict().items()}


def sums_of(model: Any) -> np.ndarray[Any, Any]:
    """Return each pair's log-probabilities by the model's own forward, (pairs, 2), nats."""
    return np.array(
        [
            [plain_log_prob(model, pair["prompt_ids"], pair[f"{side}_ids"]) for side in SIDES]
            for pair in PAIRS
        ]
    )


# --- one step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_log_probs_are_those_of_the_model_itself(shape):
    dpo = make_dpo(model=make_model(shape))
    found = dpo.log_probs(batch_of(dpo), dpo.model)
    both = torch.stack([found.policy_chosen, found.policy_rejected], dim=1).detach()
    np.testing.assert_allclose(both, sums_of(make_model(shape)), rtol=1e-4, atol=1e-4)


def test_training_prefers_the_chosen_and_logs_it(tmp_path):
    dpo = make_dpo(args=make_args(tmp_path, num_train_epochs=12), beta=0.5)
    before = dpo.log_probs(batch_of(dpo), dpo.model)
    dpo.train()
    after = dpo.log_probs(batch_of(dpo), dpo.model)
    margins = [pairs.policy_chosen - pairs.policy_rejected for pairs in (before, after)]
    assert (margins[1] > margins[0]).float().mean() >= 0.75
    for known in (before, after):  # the reference has not moved
        torch.testing.assert_close(known.ref_chosen, before.policy_chosen.detach())
    assert logged(dpo)[-1] < 0.5 * logged(dpo)[0]
    # Every epoch reads every pair once: tokens of both texts, and of the responses alone.
    prompts = 2 * sum(len(p["prompt_ids"]) for p in PAIRS)
    assert dpo.num_response_tokens == 12 * RESPONSES
    assert dpo.num_tokens == logged(dpo, "num_tokens")[-1] == 12 * (RESPONSES + prompts)


def test_logged_figures_are_means_over_the_pairs_of_all_steps_since_the_last_log(tmp_path):
    by_step, by_four = (trained(tmp_path, {"logging_steps": steps}) for steps in (1, 4))
    for name in (*DPO.metric_names, "loss"):
        steps = logged(by_step, name)[:4]
        assert logged(by_four, name)[0] == pytest.approx(np.mean(steps), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("loss_type", PREFERENCE_LOSSES)
def test_every_loss_has_a_gradient(loss_type):
    loss = PreferenceLoss(loss_type=loss_type, beta=0.5)
    dpo = make_dpo(loss=loss)
    losses = dpo.losses(batch_of(dpo), dpo.model)[0]
    losses.mean().backward()
    assert losses.isfinite().all()
    gradients = [p.grad for p in dpo.policy.trained_parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    assert (dpo.model.reference is not None) == loss.formula.has_reference


def test_per_token_losses_get_the_lengths():
    found = {}
    for loss_type in ("ipo", "sigmoid_norm", "simpo"):
        dpo = make_dpo(loss_type=loss_type, beta=0.5, ref_model=make_model(seed=1))
        losses, _ = dpo.losses(batch_of(dpo), dpo.model)
        found[loss_type] = losses.detach().numpy()
    lengths = np.array([[len(p["chosen_ids"]), len(p["rejected_ids"])] for p in PAIRS])
    policy, reference = sums_of(make_model()), sums_of(make_model(seed=1))
    ratio = (policy - reference) / lengths
    delta = ratio[:, 0] - ratio[:, 1]
    np.testing.assert_allclose(found["ipo"], (delta - 1.0) ** 2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["sigmoid_norm"], np.log1p(np.exp(-0.5 * delta)), rtol=1e-4)
    mean = policy / lengths
    margin = 0.5 * (mean[:, 0] - mean[:, 1]) - 1.0
    np.testing.assert_allclose(found["simpo"], np.log1p(np.exp(-margin)), rtol=1e-4)


# --- batching changes nothing ---------------------------------------------------------------------


def test_a_pair_has_one_loss_whatever_its_company():
    dpo = make_dpo(ref_model=make_model(seed=1))
    together = dpo.losses(batch_of(dpo), dpo.model)[0]
    for row in range(len(PAIRS)):
        alone = dpo.losses(batch_of(dpo, [row]), dpo.model)[0]
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_logits_in_parts_give_the_same_gradient(monkeypatch):
    found = []
    for most in (2**27, 40):  # the second makes parts of 5 tokens
        monkeypatch.setattr("tokengym.agents.policy.sampling.MAX_LOGITS", most)
        dpo = make_dpo(ref_model=make_model(seed=1))
        dpo.losses(batch_of(dpo), dpo.model)[0].mean().backward()
        found.append([p.grad for p in dpo.policy.trained_parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("count", "size"), [(8, 1), (5, 2)])
def test_accumulated_batches_are_one_whose_pairs_weigh_alike(tmp_path, count, size):
    """5 pairs as 2 + 2 + 1 too: their mean, not the mean of the batches' means."""
    args: dict[str, Any] = {
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 3,
        "optim": "sgd",  # Adam would blow up the rounding of gradients that are 0 (keys' biases)
        "learning_rate": 1e-2,
    }
    whole, parts = (
        trained(
            tmp_path,
            {**args, "per_device_train_batch_size": rows, "gradient_accumulation_steps": steps},
            PAIRS[:count],
            ref_model=make_model(seed=1),
        )
        for rows, steps in ((count, 1), (size, -(-count // size)))
    )
    assert logged(whole)[-1] < logged(whole)[0]
    np.testing.assert_allclose(logged(whole), logged(parts), rtol=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(parts)[name], rtol=1e-4, atol=1e-5)


# --- the reference --------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, lora_config()])
@pytest.mark.parametrize("how", ["precomputed", "a copy", "the model itself"])
def test_the_reference_is_the_first_model_however_it_is_read(tmp_path, lora, how):
    """Without any of these, a copy that is made at first, or the model with its adapters off."""
    model = make_model()
    settings: dict[str, dict[str, Any]] = {
        "precomputed": {"precompute_ref_log_probs": True},
        "a copy": {"ref_model": make_model()},
        "the model itself": {"model": model, "ref_model": model},
    }
    plain, dpo = trained(tmp_path, lora=lora), trained(tmp_path, lora=lora, **settings[how])
    assert (plain.policy.reference is None) == (lora is not None)
    assert ("ref_log_probs" in batch_of(dpo)) == (how == "precomputed")
    assert logged(plain)[-1] != logged(plain)[0]
    for name in ("loss", "rewards/margins"):
        np.testing.assert_allclose(logged(dpo, name), logged(plain, name), rtol=1e-4, atol=1e-6)


# --- as a Trainer ---------------------------------------------------------------------------------


def test_figures_are_trls_worked_out_from_the_models_own_log_probabilities(tmp_path):
    beta, learner, reference = 0.3, make_model(scale=1.0), make_model(seed=1, scale=1.0)
    sums = sums_of(learner)
    rewards = beta * (sums - sums_of(reference))  # (pairs, 2)
    margins = rewards[:, 0] - rewards[:, 1]
    expected = {
        "loss": np.mean(np.log1p(np.exp(-margins))),
        "rewards/chosen": np.mean(rewards[:, 0]),
        "rewards/rejected": np.mean(rewards[:, 1]),
        "rewards/margins": np.mean(margins),
        "rewards/accuracies": np.mean(margins > 0),
        "logps/chosen": np.mean(sums[:, 0]),
        "logps/rejected": np.mean(sums[:, 1]),
    }
    assert 0.0 < expected["rewards/accuracies"] < 1.0
    args = make_args(tmp_path, per_device_eval_batch_size=3)
    dpo = make_dpo(model=learner, ref_model=reference, eval_pairs=PAIRS, beta=beta, args=args)
    metrics = dpo.evaluate()
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert dpo.num_tokens == 0  # evaluation learns from nothing


@pytest.mark.parametrize("lora", [None, lora_config()])
def test_a_resumed_run_is_an_uninterrupted_one(lora, tmp_path):
    def run(folder: str) -> DPO:
        settings: Any = {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "cosine"}
        return make_dpo(args=make_args(tmp_path / folder, **settings), lora=lora)

    whole = run("whole")
    whole.train()
    resumed = run("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert logged(resumed)[3:] == logged(whole)[3:]
    assert resumed.num_tokens == whole.num_tokens
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    files = {file.name for file in (tmp_path / "whole" / "checkpoint-3").iterdir()}
    assert "training_args.bin" not in files  # it would be a pickle
    assert {"training_args.json", "learned.json"} <= files


def test_the_best_weights_come_back_at_the_end(tmp_path):
    """On pairs that say the opposite, the first checkpoint is the best."""
    opposite = [
        {**p, "chosen_ids": p["rejected_ids"], "rejected_ids": p["chosen_ids"]} for p in PAIRS
    ]
    args: dict[str, Any] = {
        **{"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2},
        **{"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"},
        "greater_is_better": False,
    }
    dpo = trained(tmp_path, args, eval_pairs=opposite, beta=1.0)
    assert dpo.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    best = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    found = dpo.policy.language_model.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in best.items())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return the Trainer's checkpoint of two steps."""
    trained(tmp_path / "run", {"save_strategy": "steps", "save_steps": 2, "max_steps": 2})
    return tmp_path / "run" / "checkpoint-2"


def test_a_checkpoint_is_no_saved_agent_and_is_resumed_under_other_sampling(tmp_path, checkpoint):
    """Responses alone are sampled by top_k; the training reads whole distributions."""
    other = make_dpo(args=make_args(tmp_path / "other", max_steps=3), top_k=3)
    other.train(resume_from_checkpoint=str(checkpoint))
    assert other.state.global_step == 3
    before = sorted(checkpoint.iterdir())
    other.save(checkpoint)  # beside it, as in SB3
    assert checkpoint.with_name("checkpoint-2.zip").is_file()
    assert sorted(checkpoint.iterdir()) == before


@pytest.mark.parametrize(
    ("args", "changes", "said"),
    [
        ({"learning_rate": 1e-4}, {}, "learning_rate 0.001 there, 0.0001 here"),
        ({"gradient_accumulation_steps": 2}, {}, "rows of a step 2 there, 4 here"),
        ({}, {"beta": 0.5}, "loss .*'beta': 0.1.* there, .*'beta': 0.5.* here"),
        ({}, {"pairs": [*PAIRS[:7], {**PAIRS[7], "chosen_ids": [4, EOS]}]}, "data .* there"),
        ({}, {"model": make_model("llama")}, "model.safetensors is of another model"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, checkpoint, args, changes, said):
    other = make_dpo(args=make_args(tmp_path / "other", **args), **changes)
    with pytest.raises(CheckpointError, match=said):
        other.train(resume_from_checkpoint=str(checkpoint))


def test_the_rows_of_a_step_may_come_in_other_parts(tmp_path, checkpoint):
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 3}
    other = make_dpo(args=make_args(tmp_path / "other", **parts))
    other.train(resume_from_checkpoint=str(checkpoint))
    assert other.state.global_step == 3


@pytest.mark.parametrize(
    ("rows", "batch", "micro", "steps"),  # the steps of one pass over the rows
    [(5, 8, 4, 1), (7, 8, 2, 1), (3, 8, 2, 1), (8, 6, 2, 2), (3, 8, 8, 1), (8, 4, 4, 2)],
)
def test_a_step_has_batch_size_rows_or_all_of_them(tmp_path, rows, batch, micro, steps):
    tuning = Tuning(batch_size=batch, micro_batch_size=micro, num_train_epochs=3.0)
    dpo = trained(tmp_path, tuning.trainer_arguments(rows), pairs=PAIRS[:rows])
    assert dpo.state.global_step == 3 * steps


def test_counters_of_a_checkpoint_are_counts(tmp_path, checkpoint):
    """Nothing else of the agent is set by the file."""
    record = json.loads((checkpoint / "learned.json").read_text())
    other = make_dpo(args=make_args(tmp_path / "other"))
    for counters, said in (({"model": 3}, "model is unknown"), ({"num_tokens": "x"}, "num_tokens")):
        changed = {**record, "counters": {**record["counters"], **counters}}
        (checkpoint / "learned.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=said):
            other.train(resume_from_checkpoint=str(checkpoint))
    assert isinstance(other.model, torch.nn.Module)


def test_the_seed_is_the_order_of_the_pairs_and_recomputed_blocks_change_nothing(tmp_path):
    recomputes, seed = {"gradient_checkpointing": True}, {"seed": 1}
    first, recomputed, other = (
        logged(trained(tmp_path, args)) for args in (None, recomputes, seed)
    )
    np.testing.assert_allclose(first, recomputed, rtol=1e-5)
    assert first != other


def followed(agent: DPO, follow: Callable[[Any], bool | None]) -> None:
    """Train an agent, and call a function after every epoch."""
    callback = AfterEpoch(agent, follow)
    agent.add_callback(callback)
    try:
        agent.train()
    finally:
        agent.remove_callback(callback)


def test_training_is_followed_after_every_epoch_and_may_be_ended():
    """Global random state is left as it was, whatever is drawn meanwhile."""

    def state() -> Any:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before, tokens = state(), list[Any]()

    def measure(update: Any) -> bool:
        random.random(), np.random.rand(), torch.rand(())
        tokens.append(update.tokens)
        assert update.step == len(tokens)
        return update.step == 2

    left = make_dpo(num_train_epochs=3)
    followed(left, measure)
    assert tokens == [RESPONSES, 2 * RESPONSES]
    with pytest.raises(ZeroDivisionError):  # in the function itself
        followed(left, lambda update: bool(1 // (update.step - 1)))
    assert state() == before


def test_an_agent_that_learns_with_dropout_plays_without(make_envs):
    def plays_alike(agent: Any) -> bool:
        first, second = (agent.policy.log_probs([[4, 5]], [[3, 6, EOS]])[0] for _ in range(2))
        return bool(np.array_equal(first, second))

    looped, whole, plain = (
        make_dpo(num_train_epochs=2, learning_rate=1e-3, disable_dropout=is_off)
        for is_off in (False, False, True)
    )
    played: list[bool] = []

    def measure(update: Any) -> None:
        torch.rand(())  # from the generator that dropout draws from
        played.append(plays_alike(update.agent))

    followed(looped, measure)
    assert played == [True, True]
    for agent in (whole, plain):
        agent.train()
        assert plays_alike(agent)
    learning: Any = whole.model
    learning.train()
    assert (learning.language_model.training, learning.reference.training) == (True, False)
    a, b, c = map(weights, (looped, whole, plain))  # the first two learned with it throughout
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_without_a_folder_nothing_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dpo = make_dpo(num_train_epochs=1, learning_rate=1e-3)
    dpo.train()
    scratch = Path(str(dpo.args.output_dir))
    del dpo
    assert not list(tmp_path.iterdir())
    assert not scratch.exists() or not list(scratch.iterdir())


# --- as an agent ----------------------------------------------------------------------------------


def test_it_plays_what_it_learned(make_envs):
    envs = make_envs()
    pairs = [
        {"prompt": prompt, "chosen": "a a a a a a", "rejected": f"{word} {word} c"}
        for prompt in ("b c", "d", "e d c b", "c c c")
        for word in "bcde"
    ]
    rate: Any = {"learning_rate": 1e-2, "num_train_epochs": 10, "lr_scheduler_type": "constant"}
    dpo = make_dpo(pairs, make_model(scale=1.0), **rate)
    before = collect(dpo, envs, 64, seed=0)
    dpo.train()
    scores = [[one.score for one in some] for some in (before, collect(dpo, envs, 64, seed=0))]
    assert np.mean(scores[1]) > np.mean(scores[0]) + 0.3


@pytest.mark.parametrize("lora", [None, lora_config()])
def test_saved_and_loaded_it_plays_and_measures_alike(lora, tmp_path, make_envs):
    dpo = trained(tmp_path, lora=lora, loss_type="ipo", beta=0.3)
    dpo.save(tmp_path / "agent")
    loaded = DPO.load(tmp_path / "agent", env=make_envs(), pairs=PAIRS, device="cpu")
    assert loaded.loss == dpo.loss
    assert loaded.num_tokens == dpo.num_tokens > 0
    first, again = (collect(agent, make_envs(), 8, seed=1) for agent in (dpo, loaded))
    assert first == again
    of_dpo, of_loaded = (one.log_probs(batch_of(one), one.model) for one in (dpo, loaded))
    torch.testing.assert_close(of_dpo.policy_chosen, of_loaded.policy_chosen)
    torch.testing.assert_close(of_dpo.ref_chosen, of_loaded.ref_chosen)
    suffixes = {file.suffix for file in (tmp_path / "agent").rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".md"}


def test_what_was_frozen_is_frozen_when_it_is_loaded(tmp_path):
    model = make_model()
    model.base_model.wte.requires_grad_(False)
    dpo = make_dpo(None, model=model)
    dpo.policy.language_model.blocks()[0].requires_grad_(False)
    dpo.save(tmp_path / "agent")
    loaded = DPO.load(tmp_path / "agent", device="cpu")
    learn = [
        {n: w.requires_grad for n, w in agent.policy.language_model.named_parameters()}
        for agent in (dpo, loaded)
    ]
    assert learn[0] == learn[1]
    assert 0 < sum(learn[0].values()) < len(learn[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", "bf16-mixed"),
        ("products", "onednn"),
        ("temperature", 0.5),
        ("top_k", 3),
        ("top_p", 0.9),
        ("dtype", "bfloat16"),
    ],
)
def test_settings_of_a_given_policy_stay_and_are_saved(name, value, tmp_path):
    def value_of(policy: CausalLMPolicy) -> Any:
        if name == "dtype":
            return str(policy.language_model.model.dtype).removeprefix("torch.")
        return getattr(policy if name == "temperature" else policy.settings, name)

    given = {name: value}
    policy = make_dpo(None, **given).policy
    agent = make_dpo(None, policy, **given)
    agent.save(tmp_path / "agent")
    loaded = DPO.load(tmp_path / "agent", device="cpu").policy
    assert value_of(policy) == value_of(loaded) == value
    assert loaded.language_model.products == loaded.settings.products
    with pytest.raises(ModelError, match=rf"the policy has {name}=.*, got {value!r}; make it with"):
        make_dpo(None, make_dpo(None).policy, **given)


def test_fields_of_the_loss_are_set_anew_by_load(tmp_path):
    dpo = make_dpo(PAIRS, beta=0.1, label_smoothing=0.2)
    dpo.save(tmp_path / "agent")
    other = DPO.load(tmp_path / "agent", beta=0.5, loss_type="ipo", label_smoothing=0.0)
    assert (other.loss.beta, other.loss.loss_type) == (0.5, "ipo")
    assert DPO.load(tmp_path / "agent", beta=0.3).loss == replace(dpo.loss, beta=0.3)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="max_steps must be an integer >= 1, or None, got 0"):
        make_dpo(PAIRS, args=None, max_steps=0)


@torch.no_grad()
def test_a_reference_that_is_the_model_without_adapters_is_read_without_dropout():
    dpo = make_dpo(PAIRS, lora=lora_config(), disable_dropout=False)  # GPT-2 has dropout
    scorer: Any = dpo.model
    scorer.train()
    batch = batch_of(dpo)
    one, two = (dpo.log_probs(batch, scorer) for _ in range(2))
    assert one.ref_chosen is not None
    assert two.ref_chosen is not None
    assert torch.equal(one.ref_chosen, two.ref_chosen)
    assert not torch.equal(one.policy_chosen, two.policy_chosen)
    assert scorer.language_model.training


def test_load_names_what_does_not_fit(tmp_path):
    make_dpo(None).save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="was saved by DPO, not SFT"):
        SFT.load(tmp_path / "agent")
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=1)
    with pytest.raises(CheckpointError, match="another vocabulary than the environment"):
        DPO.load(tmp_path / "agent", env=envs)


def test_every_kind_of_environment_brings_its_model():
    settings: Any = {"max_new_tokens": 4}
    batch = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, **settings)
    kinds = (gym.make("tokengym/MovieReview-v0", **settings), batch, as_vec_env(batch))
    found = [collect(DPO(envs, device="cpu"), envs, 2, seed=0) for envs in kinds]
    assert [len(episodes) for episodes in found] == [2, 2, 2]
    assert found[1] == found[2]


def test_a_policy_is_trained_in_place():
    policy = make_dpo(None).policy
    before = {name: value.clone() for name, value in policy.reference.state_dict().items()}
    start = [p.clone() for p in policy.trained_parameters()]
    dpo = make_dpo(model=policy, learning_rate=1e-3, ref_model=policy)
    assert dpo.policy is policy
    dpo.train()
    assert not all(map(torch.equal, start, policy.trained_parameters()))
    assert all(policy.reference.state_dict()[name].equal(value) for name, value in before.items())
    make_dpo(None, policy)  # a copy, as it is now
    assert any(not policy.reference.state_dict()[name].equal(before[name]) for name in before)


@pytest.mark.parametrize("lora", [None, lora_config()])
def test_a_trained_policy_begins_at_log_two(lora, tmp_path):
    """The reference of what learns after SFT, say, is the policy as SFT left it."""
    policy = make_dpo(learning_rate=1e-2, lora=lora).policy
    make_dpo(model=policy, learning_rate=1e-2, ref_model=policy).train()
    dpo = make_dpo(model=policy)
    assert dpo.evaluate(dpo.encoded.dataset())["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    dpo.save(tmp_path / "agent")
    loaded = DPO.load(tmp_path / "agent", pairs=PAIRS)
    assert loaded.evaluate(dpo.encoded.dataset())["eval_loss"] == pytest.approx(
        math.log(2), abs=1e-5
    )
    with pytest.raises(ModelError, match="a policy keeps its own reference"):
        make_dpo(model=policy, ref_model=make_dpo(None).policy)


# --- what is refused ------------------------------------------------------------------------------

IDLE = r"gamma=0\.5 means nothing to loss_type='sigmoid'; it goes with simpo"
BAD: list[tuple[type[Exception], Any, str]] = [
    (TokenizerError, lambda: DPO(make_model(), PAIRS), "no tokenizer comes with a GPT2LMHead"),
    (ValueError, lambda: make_dpo(per_device_train_batch_size=0), r"batch_size.*>= 1"),
    (ValueError, lambda: make_dpo(gamma=0.5), IDLE),
    (ValueError, lambda: make_dpo(args=make_args(Path(".")), seed=1), r"seed and args="),
    (ValueError, lambda: make_dpo(device="gpu"), r"device.*'auto', 'cpu'.*got 'gpu'"),
    (TypeError, lambda: make_dpo(learning_rat=1e-3), r"'learning_rat'.*learning_rate"),
    (DatasetError, lambda: make_dpo(None).train(), "DPO has nothing to learn from"),
    (ValueError, lambda: make_dpo(None, make_dpo(None).policy, lora=lora_config()), "its own adap"),
    (ValueError, lambda: PreferenceLoss(dpop_coef=-1), r"dpop_coef.*>= 0, got -1"),
    (ValueError, lambda: Tuning(learning_rate=math.inf), "learning_rate .* finite .*, got inf"),
    (ValueError, lambda: make_dpo(num_train_epochs=math.inf), "num_train_epochs .* finite .*inf"),
]


@pytest.mark.parametrize(("error", "make", "said"), BAD)
def test_bad_constructions_are_named(error, make, said):
    with pytest.raises(error, match=said):
        make()


def test_an_environment_without_a_model_is_named(make_envs):
    with pytest.raises(ModelError, match="brings no model; pass a path"):
        DPO(make_envs(), PAIRS)
