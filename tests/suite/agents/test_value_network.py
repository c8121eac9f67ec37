"""A value network of its own: apart from the policy, on its backbone with adapters."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification

from tests.support.agents.checkpoint import assert_equal_weights, untimed
from tests.support.agents.common import (
    critic_of,
    lora_config,
    make_model,
    target_share,
    transformers_reads_adapters,
)
from tests.support.agents.policy import shake
from tests.support.agents.ppo import log_of
from tests.support.rules import rule_of
from tokengym.agents import PPO
from tokengym.agents.errors import ModelError
from tokengym.agents.policy.memory import memory_by_role
from tokengym.agents.policy.sequences import Sequences
from tokengym.rewards import FunctionScorer, Reward, RewardModel, WithAttribution

SHAPES = pytest.mark.parametrize(
    ("shape", "lora"), [("gpt2", False), ("gpt2", True), ("llama", False), ("llama", True)]
)


@pytest.fixture
def build(make_envs: Callable[..., Any]) -> Callable[..., PPO]:
    def make(shape: str = "gpt2", *, lora: bool = False, envs: Any = None, **settings: Any) -> PPO:
        kwargs = {
            "model": make_model(shape),
            "lora": lora_config(shape) if lora else None,
            "frozen_layers": settings.pop("frozen_layers", 0),
        }
        defaults: Any = {"seed": 0, "device": "cpu", "value_network": "own"}
        return PPO(
            "CausalLMPolicy",
            make_envs() if envs is None else envs,
            policy_kwargs=kwargs,
            **defaults | settings,
        )

    return make


def gradients(agent: PPO, experience: Any) -> dict[str, torch.Tensor]:
    agent.backward(experience)
    named = agent.policy.named_parameters()
    return {n: p.grad.clone() for n, p in named if p.grad is not None and p.grad.abs().sum() > 0}


@SHAPES
def test_values_are_the_network_s_own(build, shape, lora):
    """Read by its own trunk, one text at a time; the policy's logits do not see it."""
    agent = build(shape, lora=lora)
    texts = [[3, 4], [5]], [[6, 1], [7, 3, 4, 4]]
    sequences = Sequences.from_ids(*texts)
    assert agent.policy.token_stats(sequences, name="values").abs().max() == 0.0
    before = agent.policy.log_probs(*texts)
    assert critic_of(agent).network is not None
    learning = [*critic_of(agent).network.trunk_parameters().values()]
    generator = torch.Generator().manual_seed(3)
    for parameter in [*learning, *critic_of(agent).head.parameters()]:
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    found = agent.policy.token_stats(sequences, name="values")
    final = critic_of(agent).after_responses(sequences)
    trunk: Any = critic_of(agent).network.model.base_model
    for row, (prompt, response) in enumerate(zip(*texts, strict=True)):
        with torch.no_grad():
            hidden = trunk(torch.tensor([[*prompt, *response]]))[0][0, len(prompt) - 1 :]
            expected = critic_of(agent).head(hidden)[:, 0]
        torch.testing.assert_close(found[row, : len(response)], expected[:-1])
        torch.testing.assert_close(final[row], expected[-1])
    assert expected.abs().max() > 1e-2
    for old, new in zip(before, agent.policy.log_probs(*texts), strict=True):
        assert old.tolist() == new.tolist()


@SHAPES
def test_neither_loss_reaches_the_other_network(build, shape, lora):
    """The value loss moves its network as it would alone, and the policy not at all."""
    agent = build(shape, lora=lora)
    shake(agent)
    played = agent.collect()
    assert played.values is None
    experience = agent.assign(played)
    agent.vf_coef = 0.0
    policy_only = gradients(agent, experience)
    agent.vf_coef = 0.7
    both = gradients(agent, experience)
    valued = both.keys() - policy_only.keys()
    assert {".".join(name.split(".")[:2]) for name in valued} == {"critic.network", "critic.head"}
    assert any("critic.network" in name for name in valued)
    for name, gradient in policy_only.items():
        assert name.startswith("language_model")
        torch.testing.assert_close(both[name], gradient)
    # by hand: 0.7 * 0.5 * mean of squares (the clipped error is the same at the old values)
    rows, times, columns = experience.sequences.response_positions
    assert critic_of(agent).network is not None
    agent.policy.optimizer.zero_grad()
    hidden = critic_of(agent).network.model.base_model(experience.sequences.input_ids)[0]
    values = critic_of(agent).head(hidden[rows, columns - 1])[:, 0]
    (0.35 * (values - experience.returns[rows, times]).square().mean()).backward()
    named = dict(agent.policy.named_parameters())
    for name in valued:
        torch.testing.assert_close(both[name], named[name].grad, atol=1e-6, rtol=1e-4)


@SHAPES
def test_the_policy_s_gradient_is_taken_before_the_value_is_read(build, shape, lora):
    """The networks' states are not in memory together, and no bit of a gradient changes."""
    agent = build(shape, lora=lora, ent_coef=0.05)
    shake(agent)
    experience = agent.assign(agent.collect())
    policy, critic = agent.policy, critic_of(agent)
    count = int(experience.response_mask.sum())
    policy.optimizer.zero_grad(set_to_none=True)
    parts = [experience.select(rows) for rows in experience.sequences.buckets()]
    for part in parts:
        terms = agent.loss_terms(part, count, len(experience.sequences))
        torch.stack([loss for loss, _ in terms]).sum().backward()  # as one loss
    learning = policy.trained_parameters()
    together = [None if p.grad is None else p.grad.clone() for p in learning]
    done = []

    def look(*_: Any) -> None:
        own = policy.language_model.trunk_parameters().values()
        done.append(all(p.grad is not None for p in own))

    critic.network.model.base_model.register_forward_pre_hook(look)
    agent.backward(experience)
    assert all(done)
    assert len(done) == len(parts)
    for parameter, expected in zip(learning, together, strict=True):
        assert (parameter.grad is None) is (expected is None)
        assert expected is None or parameter.grad is None or torch.equal(parameter.grad, expected)


@pytest.mark.parametrize("forbidden", [(1,), ()])
def test_old_values_are_the_network_s_and_bootstrap(build, make_envs, forbidden):
    """Where the EOS is allowed some responses end by it: nothing comes after those."""
    envs = make_envs(num_envs=16, horizon="truncated", forbidden_token_ids=forbidden)
    agent = build(envs=envs, gae_lambda=1.0, kl_coef=0.0)
    shake(agent)
    played = agent.collect()
    cut = [episode.finish_reason == "length" for episode in played.episodes]
    assert 0 < sum(cut) <= 16
    assert all(cut) == bool(forbidden)
    experience = agent.assign(played)
    torch.testing.assert_close(
        experience.values, agent.policy.token_stats(experience.sequences, name="values")
    )
    final = critic_of(agent).after_responses(experience.sequences)
    assert final.abs().min() > 1e-3
    for row, episode in enumerate(played.episodes):
        expected = torch.tensor(episode.score) + (final[row] if cut[row] else 0.0)
        torch.testing.assert_close(experience.returns[row, 0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"lora": True}, {"frozen_layers": 1}])
def test_resuming_equals_going_on(build, make_envs, tmp_path, settings):
    agent = build(learning_rate=1e-2, **settings).learn(30)
    agent.save(tmp_path / "run")
    uninterrupted = untimed(log_of(agent, 40, reset_num_timesteps=False))
    resumed = PPO.load(tmp_path / "run", env=make_envs(), device="cpu")
    assert resumed.settings == agent.settings
    assert str(untimed(log_of(resumed, 40, reset_num_timesteps=False))) == str(uninterrupted)
    assert_equal_weights(agent, resumed)


def test_with_adapters_the_backbone_is_there_once(build):
    weights = sum(p.numel() for p in make_model().parameters()) * 4
    full = memory_by_role(build().policy)
    assert full["policy"] == full["reference"] == weights
    assert full["value"] == weights + 17 * 4  # the tied head is the embedding: nothing left out
    lora = memory_by_role(build(lora=True).policy)
    assert lora["frozen"] == weights
    assert lora["reference"] == 0
    assert lora["value"] == lora["policy"] + 17 * 4 < weights
    untied = build("llama").policy
    head = untied.language_model.model.get_output_embeddings().weight.numel() * 4
    sizes = memory_by_role(untied)
    assert sizes["value"] == sizes["policy"] - head + 17 * 4


# --- a value network that starts from the reward model -------------------------------------------


def make_scorer(shape: str = "gpt2", *, num_labels: int = 1, width: int = 16) -> RewardModel:
    """Return a random reward model of the policy's architecture."""
    config = copy.deepcopy(make_model(shape).config)
    config.num_labels = num_labels
    config.hidden_size = width
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return RewardModel(AutoModelForSequenceClassification.from_config(config).eval())


@pytest.fixture
def build_started(make_envs: Callable[..., Any]) -> Callable[..., PPO]:
    def make(scorer: Any, shape: str = "gpt2", **settings: Any) -> PPO:
        envs = make_envs(reward=Reward(scorer, rule_of("sparse")))
        kwargs = {"model": make_model(shape), **settings.pop("policy_kwargs", {})}
        defaults: Any = {"seed": 0, "device": "cpu", "value_network": "reward_model"}
        return PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, **defaults | settings)

    return make


@pytest.mark.parametrize(("shape", "num_labels"), [("gpt2", 1), ("llama", 1), ("gpt2", 2)])
def test_first_values_are_the_reward_models_scores_of_the_text_so_far(
    build_started, shape, num_labels
):
    """Each prefix scored by transformers' own classifier, without our reading of its head."""
    scorer = make_scorer(shape, num_labels=num_labels)
    agent = build_started(scorer, shape)
    (prompt, response) = [6, 5, 4], [7, 3, 4, 4]
    expected = []
    for size in range(len(response) + 1):
        text = torch.tensor([[*prompt, *response[:size]]])
        with torch.no_grad():
            logits = scorer.model(text, attention_mask=torch.ones_like(text)).logits[0]
        expected.append(logits[0] if num_labels == 1 else logits[1] - logits[0])
    sequences = Sequences.from_ids([prompt], [response])
    critic = critic_of(agent)
    torch.testing.assert_close(
        agent.policy.token_stats(sequences, name="values")[0], torch.stack(expected[:-1])
    )
    torch.testing.assert_close(critic.after_responses(sequences)[0], expected[-1])
    body = scorer.backbone.state_dict()
    assert body.keys() == critic.network.model.base_model.state_dict().keys()
    for name, weight in critic.network.model.base_model.state_dict().items():
        assert torch.equal(weight, body[name]), name


@transformers_reads_adapters
def test_it_starts_from_a_reward_model_that_is_adapters_on_a_shared_base(build_started):
    """Low-rank ones, and a head that was trained whole; values are those of the model with them."""
    scorer = make_scorer()
    plain, ids = copy.deepcopy(scorer.model), torch.tensor([[6, 5, 4]])
    adapters = LoraConfig(target_modules=["c_attn"], modules_to_save=["score"], fan_in_fan_out=True)
    scorer.model.add_adapter(adapters)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for weight in scorer.model.parameters():
            if weight.requires_grad:
                weight.data.normal_(std=0.5)
    adapted = RewardModel(scorer.model.eval())
    with torch.no_grad():
        expected, of_base = adapted.model(ids).logits[0, 0], plain(ids).logits[0, 0]
    before = copy.deepcopy(adapted.model.state_dict())
    agent = build_started(adapted)
    after = critic_of(agent).after_responses(Sequences.from_ids([[6, 5]], [[4]]))[0]
    torch.testing.assert_close(after, expected)
    assert abs(expected - of_base) > 0.01
    agent.learn(1)
    assert all(torch.equal(w, before[name]) for name, w in adapted.model.state_dict().items())


def test_beside_a_verifier_it_starts_from_the_model_that_explains_it(build_started):
    text = Sequences.from_ids([[6, 5]], [[7, 3, 4]])
    alone, beside = (
        build_started(scorer).policy.token_stats(text, name="values")
        for scorer in (make_scorer(), WithAttribution(FunctionScorer(target_share), make_scorer()))
    )
    assert torch.equal(alone, beside)
    assert beside.abs().sum() > 0


def test_starting_from_it_leaves_policy_and_scorer_alone(build_started):
    scorer, text = make_scorer(), Sequences.from_ids([[6]], [[7, 3]])
    before = copy.deepcopy(scorer.model.state_dict())
    agent = build_started(scorer, learning_rate=1e-2)
    values = agent.policy.token_stats(text, name="values")
    agent.learn(1)
    assert not torch.equal(values, agent.policy.token_stats(text, name="values"))  # it learns
    for name, weight in scorer.model.state_dict().items():
        assert torch.equal(weight, before[name])  # on weights of its own


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (FunctionScorer(target_share), "causal reward model"),
        (make_scorer("llama"), "GPT2Model.*'RewardModel'"),
        (make_scorer(width=8), "GPT2Model.*value_network='own'"),
    ],
)
def test_what_no_value_network_can_start_from_is_refused(build_started, scorer, message):
    with pytest.raises(ModelError, match=message):
        build_started(scorer)


def test_a_reward_model_of_another_tokenizer_is_refused(build_started, monkeypatch):
    scorer = make_scorer()
    monkeypatch.setattr(scorer, "reads_text", True)  # as `bind` leaves one that retokenises
    message = r"reward model.*tokenizer, .* EOS"
    with pytest.raises(ModelError, match=message):
        build_started(scorer)


@pytest.mark.parametrize(
    ("shape", "shared"),
    [
        ("gpt2", {}),
        ("gpt2", {"lora": lora_config()}),
        ("llama", {"lora": lora_config("llama")}),
        ("llama", {"frozen_layers": 1}),
    ],
)
def test_beside_weights_that_the_policy_shares_it_has_its_own(
    build_started, make_envs, tmp_path, shape, shared
):
    """Adapters of the values stand on the reward model's weights, which no step changes."""
    scorer, text = make_scorer(shape), Sequences.from_ids([[6, 5]], [[7, 3, 4]])
    agent = build_started(scorer, shape, policy_kwargs=shared, learning_rate=1e-2)
    ids = torch.tensor([[6, 5, 7, 3, 4]])
    with torch.no_grad():
        score = scorer.model(ids, attention_mask=torch.ones_like(ids)).logits[0]
    torch.testing.assert_close(critic_of(agent).after_responses(text), score)
    base = copy.deepcopy(agent.policy.reference or agent.policy.language_model).state_dict()
    network = critic_of(agent).network
    frozen = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    before = agent.policy.token_stats(text, name="values")
    agent.learn(30)
    assert not torch.equal(agent.policy.token_stats(text, name="values"), before)
    assert all(torch.equal(network.get_parameter(n), value) for n, value in frozen.items())
    if "lora" in shared:
        after = agent.policy.language_model.state_dict()
        assert all(torch.equal(after[n], w) for n, w in base.items() if "lora_" not in n)
    agent.save(tmp_path / "run")
    uninterrupted = untimed(log_of(agent, 40, reset_num_timesteps=False))
    values = agent.policy.token_stats(text, name="values")
    envs = make_envs(reward=Reward(make_scorer(shape), rule_of("sparse")))
    resumed = PPO.load(tmp_path / "run", env=envs, device="cpu")
    assert str(untimed(log_of(resumed, 40, reset_num_timesteps=False))) == str(uninterrupted)
    assert torch.equal(resumed.policy.token_stats(text, name="values"), values)
    resumed.save(tmp_path / "again")
    played = PPO.load(tmp_path / "again", device="cpu")  # without a reward model to start from
    assert torch.equal(played.policy.token_stats(text, name="values"), values)
