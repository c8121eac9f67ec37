"""Sampling, learning and reference see one distribution, whatever the padding, mask or shape."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.agents.common import EOS, TARGET, VOCABULARY, critic_of, lora_config, make_model
from tests.support.agents.policy import shake
from tokengym.agents import PPO, ModelError, collect, fast
from tokengym.agents.policy import models
from tokengym.agents.policy.sequences import Sequences
from tokengym.agents.rollouts.playing import as_sampler, play_round
from tokengym.agents.rollouts.rounds import as_rounds

SETTINGS = pytest.mark.parametrize(
    ("shape", "lora", "temperature", "masks"),
    [
        ("gpt2", False, 1.0, {}),
        ("gpt2", False, 0.7, {"min_new_tokens": 3, "forbidden_token_ids": (0, 2)}),
        ("gpt2", True, 1.3, {"min_new_tokens": 2}),
        ("llama", False, 1.0, {"forbidden_token_ids": (0, 2)}),
        ("llama", False, 1.3, {"min_new_tokens": 6}),
        ("llama", True, 0.7, {}),
    ],
)


@SETTINGS
def test_the_first_ratio_is_one_and_values_agree(
    make_envs, make_ppo, shape, lora, temperature, masks
):
    # prompts of 1 to 4 tokens: left padding in the rollout, none in the update
    agent = make_ppo(
        envs=make_envs(num_envs=16, **masks),
        model=make_model(shape),
        lora=lora_config(shape) if lora else None,
        temperature=temperature,
    )
    shake(agent)
    played = agent.collect()
    lengths = {len(episode.response_ids) for episode in played.episodes}
    assert masks.get("min_new_tokens", 0) == 6 or len(lengths) > 1  # rows did leave the batch
    experience = agent.assign(played)
    now: Any = agent.policy.evaluate(experience.sequences, experience.action_masks)
    mask = experience.response_mask
    ratio = (now.log_probs - experience.old_log_probs).exp()
    assert (ratio - 1.0)[mask].abs().max() < 1e-4
    torch.testing.assert_close(now.values, experience.values, atol=1e-4, rtol=1e-4)
    assert now.values[mask].abs().max() > 1e-3  # the head was moved, so this is no zero to zero
    assert agent.update(experience).ratio_error < 1e-4


@SETTINGS
def test_the_policy_agrees_with_the_model_s_own_forward(
    make_envs, make_ppo, shape, lora, temperature, masks
):
    """Independent numbers: the whole model, one text at a time, unpadded, masked by hand."""
    agent = make_ppo(
        envs=make_envs(**masks),
        model=make_model(shape),
        lora=lora_config(shape) if lora else None,
        temperature=temperature,
    )
    shake(agent)
    base = make_model(shape).eval()  # the reference is the model as it was given
    for episode in collect(agent, make_envs(**masks), 8, seed=5):
        n, ids = len(episode.response_ids), [*episode.prompt_ids, *episode.response_ids]
        allowed = np.ones((n, VOCABULARY), dtype=np.int8)
        allowed[:, list(masks.get("forbidden_token_ids", ()))] = 0
        allowed[: masks.get("min_new_tokens", 0), EOS] = 0
        for model, reference in ((agent.policy.language_model.model, False), (base, True)):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -n - 1 : -1] / temperature
            logits[torch.from_numpy(allowed == 0)] = -torch.inf
            expected = logits.log_softmax(-1)[torch.arange(n), torch.tensor(episode.response_ids)]
            (found,) = agent.policy.log_probs(
                [episode.prompt_ids],
                [episode.response_ids],
                reference=reference,
                action_masks=[allowed],
            )
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
            if not reference:
                np.testing.assert_allclose(episode.log_probs, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "masks"),
    [
        ({"top_k": 3}, {}),
        ({"top_p": 0.7, "temperature": 1.5}, {"forbidden_token_ids": (0, 2)}),
        ({"top_k": 4, "top_p": 0.8}, {"min_new_tokens": 3}),
    ],
)
def test_top_k_and_top_p_are_the_same_in_sampling_learning_and_reference(
    make_envs, make_ppo, settings, masks
):
    """Everything is renormalised over what the sampling policy kept: here, by transformers."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    agent = make_ppo(envs=make_envs(num_envs=8, **masks), learning_rate=1e-2, **settings)
    shake(agent)
    played = agent.collect()
    experience = agent.assign(played)
    now: Any = agent.policy.evaluate(experience.sequences, experience.action_masks)
    ref = agent.policy.token_stats(
        experience.sequences, experience.action_masks, name="ref_log_probs"
    )
    base = make_model().eval()
    for row, episode in enumerate(played.episodes):
        n, ids = len(episode.response_ids), [*episode.prompt_ids, *episode.response_ids]
        both: list[Any] = []
        for model in (agent.policy.language_model.model, base):
            with torch.no_grad():
                scores = model(torch.tensor([ids])).logits[0, -n - 1 : -1]
                both.append(scores / agent.settings.temperature)
        logits = both[0].clone()
        logits[:, list(masks.get("forbidden_token_ids", ()))] = -torch.inf
        logits[: masks.get("min_new_tokens", 0), EOS] = -torch.inf
        if "top_k" in settings:
            logits = TopKLogitsWarper(settings["top_k"])(None, logits)
        if "top_p" in settings:
            logits = TopPLogitsWarper(settings["top_p"])(None, logits)
        chosen = torch.arange(n), torch.tensor(episode.response_ids)
        expected = logits.log_softmax(-1)[chosen]
        expected_ref = both[1].masked_fill(logits.isneginf(), -torch.inf).log_softmax(-1)[chosen]
        torch.testing.assert_close(now.log_probs[row, :n], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ref[row, :n], expected_ref, atol=1e-4, rtol=1e-4)
        sampled = experience.old_log_probs[row, :n]
        torch.testing.assert_close(sampled, expected, atol=1e-4, rtol=1e-4)
    stats = agent.update(experience)  # the weights move, the tokens that count stay
    assert stats.log_prob_gap < 1e-4
    assert np.isfinite(stats.approx_kl)


def test_log_probs_do_not_depend_on_the_batch(make_ppo):
    policy = make_ppo().policy
    prompts = [[3, 4, 5], [6], [3, 3, 3, 3, 3, 3]]
    responses = [[4], [5, 6, 7, 3, 4, 1], [4, 4]]
    together = policy.log_probs(prompts, responses)
    for i in range(3):
        (alone,) = policy.log_probs(prompts[i : i + 1], responses[i : i + 1])
        np.testing.assert_allclose(together[i], alone, atol=1e-5)
        assert alone.shape == (len(responses[i]),)
        assert alone.dtype == np.float32


@pytest.mark.parametrize("shared", ["all", "embeddings"])
@pytest.mark.parametrize(
    "settings",
    [{"value_network": "trunk"}, {"value_network": "own"}, {"advantage": "reinforce"}],
)
def test_a_reference_that_shares_weights_with_the_model_freezes_a_copy(
    make_envs, make_ppo, settings, shared
):
    model: Any = make_model()
    reference: Any = model
    if shared == "embeddings":
        reference = make_model()
        reference.base_model.wte.weight = reference.lm_head.weight = model.base_model.wte.weight
    agents = [
        PPO("CausalLMPolicy", make_envs(), seed=0, device="cpu", policy_kwargs=kwargs, **settings)
        for kwargs in ({"model": model, "reference": reference}, {"model": make_model()})
    ]
    states = [agent.learn(20).policy.state_dict() for agent in agents]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_reference_stays_while_the_policy_moves(make_ppo):
    for lora in (None, lora_config("gpt2")):
        agent = make_ppo(lora=lora)
        texts = [[3, 4]], [[5, 6]]
        before = agent.policy.log_probs(*texts)[0]
        np.testing.assert_array_equal(agent.policy.log_probs(*texts, reference=True)[0], before)
        shake(agent)
        np.testing.assert_array_equal(agent.policy.log_probs(*texts, reference=True)[0], before)
        assert np.abs(agent.policy.log_probs(*texts)[0] - before).max() > 1e-3


def test_dropout_stays_off_even_when_asked_for(make_ppo):
    policy = make_ppo().policy
    policy.set_training_mode(True)
    policy.train()
    assert not any(module.training for module in policy.modules())


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_greedy_decoding_with_the_cache_equals_the_argmax_of_whole_texts(
    make_envs, make_ppo, shape
):
    agent = make_ppo(model=make_model(shape, scale=8.0))
    for episode in collect(agent, make_envs(min_new_tokens=2), 4, seed=0, deterministic=True):
        ids = list(episode.prompt_ids)
        for step, token in enumerate(episode.response_ids):
            with torch.no_grad():
                logits = agent.policy.language_model.model(torch.tensor([ids])).logits[0, -1]
            if step < 2:
                logits[EOS] = -torch.inf
            assert token == int(logits.argmax())
            ids.append(token)


def test_what_a_row_samples_does_not_depend_on_who_else_still_writes(make_envs, make_ppo):
    agent = make_ppo()
    observation, _ = make_envs().reset(seed=0)

    def play(*steps: list[int]) -> list[dict[int, int]]:
        player = agent.sampler(torch.Generator().manual_seed(0))
        player.begin(observation)
        chosen = []
        for rows in steps:
            choice = player.act(np.array(rows), observation, None, deterministic=False)
            chosen.append(dict(zip(rows, choice.actions.tolist(), strict=True)))
        return chosen

    whole = play(*[[0, 1, 2, 3]] * 5)
    fewer = play([0, 1, 2, 3], [1, 2, 3], [1, 3], [3], [3])
    for all_rows, some_rows in zip(whole, fewer, strict=True):
        assert some_rows.items() <= all_rows.items()


def test_predict_reads_single_and_batched_observations(make_envs, make_ppo):
    agent = make_ppo()
    observation, _ = make_envs().reset(seed=0)
    actions, state = agent.predict(observation, deterministic=True)
    assert actions.shape == (4,)
    assert state is None
    for row in range(4):
        single = {name: values[row] for name, values in observation.items()}
        action, _ = agent.predict(single, deterministic=True)
        assert action.shape == ()
        assert action == actions[row]
    likeliest = make_ppo(top_k=1)
    assert all((likeliest.predict(observation)[0] == actions).all() for _ in range(20))


def test_predict_goes_on_in_the_middle_of_texts(make_envs, make_ppo):
    """Step by step through predict, rows of different lengths: the same text as with the cache."""
    agent = make_ppo()
    envs = make_envs(autoreset_mode="Disabled")
    fast = collect(agent, envs, 4, seed=1, deterministic=True)

    class Plain:
        def predict(self, *arguments: Any) -> Any:
            return agent.predict(*arguments)

    slow = collect(Plain(), envs, 4, seed=1, deterministic=True)
    assert [e.response_ids for e in fast] == [e.response_ids for e in slow]


def test_predict_obeys_action_masks(make_envs, make_ppo):
    agent = make_ppo()
    observation, _ = make_envs().reset(seed=0)
    masks = np.zeros((4, VOCABULARY), dtype=np.int8)
    masks[:, TARGET] = 1
    assert agent.predict(observation, action_masks=masks)[0].tolist() == [TARGET] * 4


def test_final_values_are_those_of_the_whole_text(make_ppo):
    agent = make_ppo(value_network="trunk")
    shake(agent)
    texts = Sequences.from_ids([[3, 4], [5]], [[6], [7, 3, 4]])
    found = critic_of(agent).after_responses(texts, max_size=1)
    for row, ids in enumerate([[3, 4, 6], [5, 7, 3, 4]]):
        with torch.no_grad():
            trunk: Any = agent.policy.language_model.model.base_model
            hidden = trunk(torch.tensor([ids]))[0][0, -1]
            expected = critic_of(agent).head(hidden)[0]
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


def test_a_diverged_policy_stops_where_it_samples(make_ppo, make_envs):
    agent = make_ppo()
    next(agent.policy.language_model.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"logits of row 0.*token 0"):
        play_round(as_sampler(agent), as_rounds(make_envs()))


def test_without_triton_figures_are_computed_plainly(make_ppo, monkeypatch, caplog):
    monkeypatch.delitem(vars(fast), "check_kernels", raising=False)
    monkeypatch.setitem(fast.HOMES, "check_kernels", "tokengym.no_such_module:check")
    models._fault_of_kernels.cache_clear()
    policy = make_ppo().policy
    assert not policy.kernels  # nor does a CPU try
    assert not caplog.records
    monkeypatch.setattr(models.PolicyModels, "device", torch.device("cuda", 0))
    assert not any(policy.kernels for _ in range(2))
    assert [record.message[:20] for record in caplog.records] == ["kernels are not used"]
    policy.settings = dataclasses.replace(policy.settings, kernels="triton")
    with pytest.raises(ModelError, match=r"kernels='triton'.*no_such_module"):
        policy.kernels  # noqa: B018
    models._fault_of_kernels.cache_clear()
