"""DPO: what a step computes, that it does not depend on how it is batched, and that it plays."""

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

import tokengym  # noqa: F401  (registers the environments)
from tests.suite.agents.conftest import EOS, lora_config, make_model, make_tokenizer
from tokengym.agents import DPO, CausalLMPolicy, CheckpointError, NonFiniteError, collect
from tokengym.agents.errors import ModelError
from tokengym.agents.losses import PREFERENCE_LOSSES
from tokengym.agents.offline.settings import PreferenceLoss, Tuning
from tokengym.agents.offline.trainer import AfterEpoch
from tokengym.agents.sb3 import as_vec_env
from tokengym.base.errors import DatasetError, StorageError, TokenizerError
from tokengym.rewards.pairs.encode import TextEncoding

# Of different lengths, so that padding and buckets matter: responses of 1 to 12 tokens.
PAIRS = [
    {"prompt_ids": [4, 5], "chosen_ids": [3, 3, EOS], "rejected_ids": [6]},
    {"prompt_ids": [7], "chosen_ids": [3], "rejected_ids": [5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6, EOS]},
    {"prompt_ids": [4, 4, 4, 6, 7], "chosen_ids": [3, 5, 3], "rejected_ids": [6, 6, 6]},
    {"prompt_ids": [5, 7, 6], "chosen_ids": [3, 4, 3, 4, EOS], "rejected_ids": [7, EOS]},
    {"prompt_ids": [6], "chosen_ids": [3, 3, 3, 3, 3, 3], "rejected_ids": [4, 7]},
    {"prompt_ids": [5], "chosen_ids": [3, 6], "rejected_ids": [5, 6]},
    {"prompt_ids": [4, 7], "chosen_ids": [6, 3, EOS], "rejected_ids": [6, 5, EOS]},
    {"prompt_ids": [3], "chosen_ids": [3, EOS], "rejected_ids": [EOS]},
]


def make_dpo(pairs: Any = PAIRS, model: Any = None, **settings: Any) -> DPO:
    defaults: Any = {"tokenizer": make_tokenizer(), "seed": 0, "device": "cpu"}
    if "args" in settings:
        defaults = {"tokenizer": make_tokenizer()}
    return DPO(make_model() if model is None else model, pairs, **defaults | settings)


def make_args(folder: Path, **settings: Any) -> TrainingArguments:
    defaults: Any = {
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(output_dir=str(folder), **defaults | settings)


def batch_of(dpo: DPO, rows: Any = None) -> dict[str, Any]:
    dataset: Any = dpo.train_dataset
    return dpo.collate([dataset[i] for i in (range(len(dataset)) if rows is None else rows)])


def logged(dpo: DPO, name: str = "loss") -> list[float]:
    return [row[name] for row in dpo.state.log_history if name in row]


def weights(dpo: DPO) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in dpo.policy.language_model.state_dict().items()}


def plain_log_prob(model: Any, prompt: list[int], response: list[int]) -> float:
    """Return a response's log-probability by the model's own forward, token by token."""
    with torch.no_grad():
        logits = model.eval()(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return float(sum(logits[i, token] for i, token in zip(at, response, strict=True)))


# --- one step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_log_probs_are_those_of_the_model_itself(shape):
    dpo = make_dpo(model=make_model(shape))
    found = dpo.log_probs(batch_of(dpo), dpo.model)
    plain = make_model(shape)
    for name, values in (("chosen", found.policy_chosen), ("rejected", found.policy_rejected)):
        expected = [plain_log_prob(plain, p["prompt_ids"], p[f"{name}_ids"]) for p in PAIRS]
        np.testing.assert_allclose(values.detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_training_prefers_the_chosen_and_logs_it(tmp_path):
    dpo = make_dpo(args=make_args(tmp_path, num_train_epochs=8), beta=0.5)
    before = dpo.log_probs(batch_of(dpo), dpo.model)
    dpo.train()
    after = dpo.log_probs(batch_of(dpo), dpo.model)
    margins = [pairs.policy_chosen - pairs.policy_rejected for pairs in (before, after)]
    assert (margins[1] > margins[0]).float().mean() >= 0.75
    for known in (before, after):  # the reference has not moved
        torch.testing.assert_close(known.ref_chosen, before.policy_chosen.detach())
    assert logged(dpo)[-1] < 0.5 * logged(dpo)[0]
    last = dpo.state.log_history[-2]
    assert last["rewards/margins"] == pytest.approx(
        last["rewards/chosen"] - last["rewards/rejected"], abs=1e-5
    )
    assert 0.0 <= last["rewards/accuracies"] <= 1.0
    assert last["logps/chosen"] < 0.0
    # Every epoch reads every pair once: tokens of both texts, and of the responses alone.
    responses = sum(len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in PAIRS)
    prompts = 2 * sum(len(p["prompt_ids"]) for p in PAIRS)
    assert dpo.num_response_tokens == 8 * responses
    assert dpo.num_tokens == last["num_tokens"] == 8 * (responses + prompts)


def test_logged_figures_are_means_over_the_pairs_of_all_steps_since_the_last_log(tmp_path):
    by_step = make_dpo(args=make_args(tmp_path, num_train_epochs=1))
    by_four = make_dpo(args=make_args(tmp_path, num_train_epochs=1, logging_steps=4))
    for dpo in (by_step, by_four):
        dpo.train()
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
    policy, reference = make_model(), make_model(seed=1)
    sums = np.array(
        [
            [
                [plain_log_prob(m, p["prompt_ids"], p[f"{n}_ids"]) for n in ("chosen", "rejected")]
                for p in PAIRS
            ]
            for m in (policy, reference)
        ]
    )
    ratio = (sums[0] - sums[1]) / lengths
    delta = ratio[:, 0] - ratio[:, 1]
    np.testing.assert_allclose(found["ipo"], (delta - 1.0) ** 2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["sigmoid_norm"], np.log1p(np.exp(-0.5 * delta)), rtol=1e-4)
    mean = sums[0] / lengths
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
    found = []
    for rows, steps in ((count, 1), (size, -(-count // size))):
        args = make_args(
            tmp_path,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=steps,
            train_sampling_strategy="sequential",
            num_train_epochs=3,
            optim="sgd",  # Adam would blow up the rounding of gradients that are 0 (keys' biases)
            learning_rate=1e-2,
        )
        dpo = make_dpo(PAIRS[:count], args=args, ref_model=make_model(seed=1))
        dpo.train()
        found.append((logged(dpo), weights(dpo)))
    assert found[0][0][-1] < found[0][0][0]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    for name, value in found[0][1].items():
        torch.testing.assert_close(value, found[1][1][name], rtol=1e-4, atol=1e-5)


def test_grouping_by_length_and_dropout_are_the_callers_choice(tmp_path):
    args = make_args(tmp_path, train_sampling_strategy="group_by_length", max_steps=2)
    dpo = make_dpo(args=args, disable_dropout=False)
    dpo.train()
    assert abs(logged(dpo)[0] - math.log(2)) > 1e-4  # GPT-2's dropout of .1 is on
    assert not dpo.policy.reference.model.training


# --- the reference --------------------------------------------------------------------------------


def test_adapters_off_are_a_frozen_copy(tmp_path):
    found = []
    for reference in (None, make_model()):
        dpo = make_dpo(args=make_args(tmp_path), lora=lora_config(), ref_model=reference)
        assert (dpo.policy.reference is None) == (reference is None)
        dpo.train()
        found.append((logged(dpo), logged(dpo, "rewards/margins")))
    assert found[0][0][-1] != found[0][0][0]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("lora", [None, lora_config()])
def test_precomputed_is_on_the_fly(lora, tmp_path):
    found = []
    for precompute in (False, True):
        dpo = make_dpo(args=make_args(tmp_path), precompute_ref_log_probs=precompute, lora=lora)
        assert ("ref_log_probs" in batch_of(dpo)) == precompute
        dpo.train()
        found.append((logged(dpo), logged(dpo, "rewards/margins")))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lora", [None, lora_config()])
def test_a_model_that_is_its_own_reference_stands_for_a_frozen_copy(lora):
    model = make_model()
    dpo = make_dpo(model=model, ref_model=model, lora=lora, learning_rate=1e-3)
    plain = make_dpo(lora=lora, learning_rate=1e-3)
    for agent in (dpo, plain):
        agent.train()
    assert logged(dpo) == logged(plain)
    assert all(torch.equal(weights(dpo)[name], value) for name, value in weights(plain).items())
    again = make_dpo(model=dpo.policy, ref_model=dpo.policy.language_model.model)
    assert (again.policy.reference is None) == (lora is not None)
    assert again.policy.trained_parameters()


# --- as a Trainer ---------------------------------------------------------------------------------


def test_evaluate_measures_held_out_pairs(tmp_path):
    dpo = make_dpo(PAIRS[:6], eval_pairs=PAIRS[6:], args=make_args(tmp_path))
    metrics = dpo.evaluate()
    assert metrics["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    dpo.train()
    assert dpo.evaluate()["eval_loss"] != pytest.approx(math.log(2), abs=1e-4)
    assert dpo.num_tokens == logged(dpo, "num_tokens")[-1]  # evaluation learns from nothing


def test_figures_are_trls_worked_out_from_the_models_own_log_probabilities(tmp_path):
    beta, learner, reference = 0.3, make_model(scale=1.0), make_model(seed=1, scale=1.0)
    sums = {  # (pairs,) nats
        (name, side): np.array(
            [plain_log_prob(model, pair["prompt_ids"], pair[f"{side}_ids"]) for pair in PAIRS]
        )
        for name, model in (("policy", learner), ("reference", reference))
        for side in ("chosen", "rejected")
    }
    rewards = {
        side: beta * (sums["policy", side] - sums["reference", side])
        for side in ("chosen", "rejected")
    }
    margins = rewards["chosen"] - rewards["rejected"]
    expected = {
        "loss": np.mean(np.log1p(np.exp(-margins))),
        "rewards/chosen": np.mean(rewards["chosen"]),
        "rewards/rejected": np.mean(rewards["rejected"]),
        "rewards/margins": np.mean(margins),
        "rewards/accuracies": np.mean(margins > 0),
        "logps/chosen": np.mean(sums["policy", "chosen"]),
        "logps/rejected": np.mean(sums["policy", "rejected"]),
    }
    assert 0.0 < expected["rewards/accuracies"] < 1.0
    args = make_args(tmp_path, per_device_eval_batch_size=3)
    dpo = make_dpo(model=learner, ref_model=reference, eval_pairs=PAIRS, beta=beta, args=args)
    metrics = dpo.evaluate()
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, rel=1e-4, abs=1e-5), name


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
    args = make_args(
        tmp_path,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    dpo = make_dpo(eval_pairs=opposite, args=args, beta=1.0)
    dpo.train()
    assert dpo.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    best = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    found = dpo.policy.language_model.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in best.items())


def test_a_checkpoint_is_no_saved_agent_and_is_resumed_under_other_sampling(tmp_path):
    """Responses alone are sampled by top_k; the training reads whole distributions."""
    args = make_args(tmp_path / "run", save_strategy="steps", save_steps=2, max_steps=2)
    make_dpo(args=args).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    other = make_dpo(args=make_args(tmp_path / "other", max_steps=3), top_k=3)
    other.train(resume_from_checkpoint=str(checkpoint))
    assert other.state.global_step == 3
    with pytest.raises(StorageError, match=r"checkpoint-2.*other files"):
        other.save(checkpoint)
    assert (checkpoint / "optimizer.pt").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    args = make_args(tmp_path / "run", save_strategy="steps", save_steps=2)
    make_dpo(args=args).train()
    other = make_dpo(model=make_model("llama"), args=make_args(tmp_path / "other"))
    checkpoint = tmp_path / "run" / "checkpoint-2"
    with pytest.raises(CheckpointError, match=r"model.safetensors is of another model"):
        other.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 1e-4}, "learning_rate 0.001 there, 0.0001 here"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type 'constant' there, 'cosine' here"),
        ({"beta": 0.5}, "loss .*'beta': 0.1.* there, .*'beta': 0.5.* here"),
        ({"pairs": [*PAIRS[:7], {**PAIRS[7], "chosen_ids": [4, EOS]}]}, "its data are others"),
    ],
)
def test_a_checkpoint_of_other_settings_or_data_is_refused(tmp_path, changes, said):
    kept: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    make_dpo(args=make_args(tmp_path / "run", **kept)).train()
    of_dpo = {name: changes.pop(name) for name in ("pairs", "beta") if name in changes}
    other = make_dpo(args=make_args(tmp_path / "other", **changes), **of_dpo)
    with pytest.raises(CheckpointError, match=rf"of a training of other settings: {said}; repeat"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


@pytest.mark.parametrize(
    ("counters", "said"),
    [
        ('{"num_tokens": 1, "num_response_tokens": 1, "model": 3}', "model is unknown"),
        ('{"num_tokens": "x", "num_response_tokens": 1}', "num_tokens of counters"),
        ('{"num_tokens": -1, "num_response_tokens": 1}', "must be a count"),
    ],
)
def test_counters_of_a_checkpoint_are_counts(tmp_path, counters, said):
    """Nothing else of the agent is set by the file."""
    args = make_args(tmp_path / "run", save_strategy="steps", save_steps=2)
    make_dpo(args=args).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    record = json.loads((checkpoint / "learned.json").read_text())
    record["counters"] = json.loads(counters)
    (checkpoint / "learned.json").write_text(json.dumps(record))
    other = make_dpo(args=make_args(tmp_path / "other"))
    with pytest.raises(CheckpointError, match=said):
        other.train(resume_from_checkpoint=str(checkpoint))
    assert isinstance(other.model, torch.nn.Module)


def test_the_seed_is_the_order_of_the_pairs(tmp_path):
    runs = []
    for seed in (0, 0, 1):
        dpo = make_dpo(args=make_args(tmp_path, seed=seed))
        dpo.train()
        runs.append(logged(dpo))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_recomputed_blocks_give_the_same_run(tmp_path):
    runs = []
    for recompute in (False, True):
        args = make_args(tmp_path, gradient_checkpointing=recompute)
        dpo = make_dpo(args=args)
        dpo.train()
        runs.append(logged(dpo))
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-5)


def followed(agent: DPO, follow: Callable[[Any], bool | None]) -> None:
    """Train an agent, and call a function after every epoch."""
    callback = AfterEpoch(agent, follow)
    agent.add_callback(callback)
    try:
        agent.train()
    finally:
        agent.remove_callback(callback)


def test_training_is_followed_after_every_epoch(make_envs):
    """The same weights as by `train` alone, whatever is drawn meanwhile; it may be ended."""
    epochs = 3
    model = make_model()  # whose dropout draws from the global generator in every step
    whole, looped, left = (
        make_dpo(model=copy.deepcopy(model), num_train_epochs=epochs, disable_dropout=False)
        for _ in range(3)
    )
    random.seed(7)
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    whole.train()
    tokens: list[Any] = []

    def measure(update: Any) -> None:
        assert update.step == len(tokens) + 1
        tokens.append(update.tokens)
        collect(update.agent, make_envs(), 2, seed=0)
        random.random(), np.random.rand(), torch.rand(())

    followed(looped, measure)
    responses = sum(len(row[f"{kind}_ids"]) for row in PAIRS for kind in ("chosen", "rejected"))
    assert tokens == [responses * epoch for epoch in (1, 2, 3)]
    for name, weight in whole.policy.state_dict().items():
        assert torch.equal(weight, looped.policy.state_dict()[name]), name
    followed(left, lambda update: update.step == 1)
    assert left.num_response_tokens == responses
    with pytest.raises(ZeroDivisionError):  # in the function itself
        followed(left, lambda update: bool(1 // (update.step - 1)))
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    assert after == before


def test_an_agent_that_learns_with_dropout_plays_without(make_envs):
    def plays_alike(agent: Any) -> bool:
        first, second = (agent.policy.log_probs([[4, 5]], [[3, 6, EOS]])[0] for _ in range(2))
        return bool(np.array_equal(first, second))

    looped, whole, plain = (
        make_dpo(num_train_epochs=2, learning_rate=1e-3, disable_dropout=is_off)
        for is_off in (False, False, True)
    )
    played: list[bool] = []
    followed(looped, lambda update: played.append(plays_alike(update.agent)))
    assert played == [True, True]
    for agent in (whole, plain):
        agent.train()
        assert plays_alike(agent)
    a, b, c = map(weights, (looped, whole, plain))  # the first two learned with it throughout
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_a_loss_that_is_no_number_stops_with_the_step(tmp_path):
    dpo = make_dpo(args=make_args(tmp_path))
    with torch.no_grad():
        dpo.policy.trained_parameters()[0].fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"0.*learning_rate"):
        dpo.train()


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
    dpo = make_dpo(
        pairs, model=make_model(scale=1.0), learning_rate=1e-2, num_train_epochs=10, beta=0.1,
        lr_scheduler_type="constant",
    )  # fmt: skip
    scores = []
    for _ in range(2):
        episodes = collect(dpo, envs, 64, seed=0)
        assert all(episode.log_probs is not None for episode in episodes)
        scores.append(sum(episode.score or 0.0 for episode in episodes) / len(episodes))
        if len(scores) == 1:
            dpo.train()
    assert scores[1] > scores[0] + 0.3


@pytest.mark.parametrize("lora", [None, lora_config()])
def test_saved_and_loaded_it_plays_and_measures_alike(lora, tmp_path, make_envs):
    dpo = make_dpo(args=make_args(tmp_path), lora=lora, loss_type="ipo", beta=0.3)
    dpo.train()
    dpo.save(tmp_path / "agent")
    loaded = DPO.load(tmp_path / "agent", env=make_envs(), pairs=PAIRS, device="cpu")
    assert loaded.loss == dpo.loss
    assert loaded.num_tokens == dpo.num_tokens > 0
    responses = [
        [episode.response_ids for episode in collect(agent, make_envs(), 8, seed=1)]
        for agent in (dpo, loaded)
    ]
    assert responses[0] == responses[1]
    found = [agent.log_probs(batch_of(agent), agent.model) for agent in (dpo, loaded)]
    torch.testing.assert_close(found[0].policy_chosen, found[1].policy_chosen)
    torch.testing.assert_close(found[0].ref_chosen, found[1].ref_chosen)
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


@pytest.mark.parametrize("given", [{"precision": "bf16-mixed"}, {"products": "onednn"}])
def test_its_arithmetic_is_saved_and_that_of_an_earlier_version_is_plain(given, tmp_path):
    dpo = make_dpo(None, **given)
    dpo.save(tmp_path / "agent")
    loaded = DPO.load(tmp_path / "agent", device="cpu")
    ((name, value),) = given.items()
    assert getattr(loaded.policy.settings, name) == value
    assert loaded.policy.language_model.products == loaded.policy.settings.products
    with pytest.raises(ModelError, match="products='torch', got 'onednn'"):
        make_dpo(None, make_dpo(None).policy, products="onednn")


@pytest.mark.parametrize(
    "given", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.9}, {"dtype": "bfloat16"}]
)
def test_a_given_policy_samples_as_it_did_and_is_saved_so(given, tmp_path):
    ((name, value),) = given.items()
    policy = make_dpo(None, **given).policy
    agent = make_dpo(None, policy, **given)
    agent.save(tmp_path / "agent")
    loaded = DPO.load(tmp_path / "agent", device="cpu")
    assert loaded.policy.language_model.model.dtype == policy.language_model.model.dtype
    for of in (policy, loaded.policy):
        assert of.temperature == of.settings.temperature == given.get("temperature", 1.0)
        if name != "dtype":
            assert getattr(of.settings, name) == value
    with pytest.raises(ModelError, match=rf"the policy has {name}=.*, got {value!r}; make it with"):
        make_dpo(None, make_dpo(None).policy, **given)


def test_load_names_what_does_not_fit(tmp_path):
    from tokengym.agents import SFT

    make_dpo(None).save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="was saved by DPO, not SFT"):
        SFT.load(tmp_path / "agent")
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=1)
    with pytest.raises(CheckpointError, match="another vocabulary than the environment"):
        DPO.load(tmp_path / "agent", env=envs)


def test_every_kind_of_environment_brings_its_model():
    single = gym.make("tokengym/MovieReview-v0", max_new_tokens=4)
    batch = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, max_new_tokens=4)
    found = [
        collect(DPO(envs, device="cpu"), envs, 2, seed=0)
        for envs in (single, batch, as_vec_env(batch))
    ]
    assert all(len(episodes) == 2 for episodes in found)
    assert found[1] == found[2]


def test_an_environment_brings_its_model_and_a_policy_is_trained_in_place():
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, max_new_tokens=8)
    pairs = [{"prompt": "the film was", "chosen": "good .", "rejected": "bad ."}]
    dpo = DPO(envs, pairs, learning_rate=1e-3, num_train_epochs=2, device="cpu")
    policy = dpo.policy
    reference = policy.reference
    before = [p.clone() for p in reference.parameters()]
    dpo.train()
    again = DPO(policy, pairs, tokenizer=dpo.tokenizer, learning_rate=1e-3, device="cpu")
    assert again.policy is policy
    assert again.policy.reference is reference
    start = [p.clone() for p in policy.trained_parameters()]
    again.train()
    assert any(not torch.equal(a, b) for a, b in zip(start, policy.trained_parameters()))  # noqa: B905
    for one, other in zip(before, reference.parameters(), strict=True):
        assert torch.equal(one, other)
    assert isinstance(policy, CausalLMPolicy)
    assert len(collect(again, envs, 2, seed=0)) == 2


# --- what is refused ------------------------------------------------------------------------------


def test_bad_constructions_are_named(tmp_path, make_envs):
    args = make_args(tmp_path)
    policy = copy.deepcopy(make_dpo(None).policy)
    idle = r"gamma=0\.5 means nothing to loss_type='sigmoid'; it goes with simpo"
    for error, make, said in (
        (TokenizerError, lambda: DPO(make_model(), PAIRS), "no tokenizer comes with a GPT2LMHead"),
        (ValueError, lambda: DPO(make_envs(), PAIRS), "brings no model; pass a path"),
        (ValueError, lambda: make_dpo(loss_type="ppo"), r"loss_type.*'ppo'"),
        (ValueError, lambda: make_dpo(loss_type="simpo", label_smoothing=0.1), "'simpo'"),
        (ValueError, lambda: PreferenceLoss(dpop_coef=-1), r"dpop_coef.*>= 0, got -1"),
        (ValueError, lambda: make_dpo(per_device_train_batch_size=0), r"batch_size.*>= 1"),
        (ValueError, lambda: make_dpo(gamma=0.5), idle),
        (ValueError, lambda: make_dpo(args=args, learning_rate=1e-3), r"learning_rate.*args="),
        (ValueError, lambda: make_dpo(device="cuda:99"), r"'cuda:99'.*'auto'.*'cpu'"),
        (ValueError, lambda: make_dpo(device="gpu"), r"device.*'auto', 'cpu'.*got 'gpu'"),
        (TypeError, lambda: make_dpo(learning_rat=1e-3), r"'learning_rat'.*learning_rate"),
        (DatasetError, lambda: make_dpo(None).train(), "DPO has nothing to learn from"),
        (DatasetError, lambda: make_dpo(encoding=TextEncoding(max_length=4)), r"row 0 .*5.*4"),
        (ValueError, lambda: make_dpo(model=policy, lora=lora_config()), "its own adapters"),
    ):
        with pytest.raises(error, match=said):
            make()
    for name in ("beta", "gamma", "nll_coef", "dpop_coef"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number, got inf"):
            PreferenceLoss(**{name: math.inf})  # type: ignore[arg-type]
    for name in ("learning_rate", "num_train_epochs"):
        for build in (make_dpo, Tuning):
            with pytest.raises(ValueError, match=f"{name} must be a finite number.*, got inf"):
                build(**{name: math.inf})  # type: ignore[arg-type]
