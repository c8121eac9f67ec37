# mypy: no-check-untyped-defs
"""Tables of a policy on the Oracle, against the model asked state by state."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import tokengym  # noqa: F401  (registers the ids)
from tokengym.agents import PPO
from tokengym.lab.learners.oracle import policy_table, value_table


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=9,
            bos_token_id=1,
            eos_token_id=1,
            n_positions=9,
            n_embd=16,
            n_layer=1,
            n_head=2,
            initializer_range=0.3,
        )
        return GPT2LMHeadModel(config)


def make_agent(model, envs, **settings):
    kwargs = {"model": copy.deepcopy(model)}
    agent = PPO("CausalLMPolicy", envs, policy_kwargs=kwargs, seed=0, device="cpu", **settings)
    with torch.no_grad():
        agent.policy.critic.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return agent


def make_envs(**settings):
    return gym.make_vec("tokengym/Oracle-v0", num_envs=4, max_new_tokens=3, **settings)


def asked(model, envs, temperature=1.0):
    """Return the probabilities of a model that is asked one state at a time."""
    oracle = envs.unwrapped
    prompt = oracle.tokenizer("the").input_ids
    rows = []
    for state, legal in zip(oracle.states, oracle.legal_tokens, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *state]])).logits[0, -1].double() / temperature
        rows.append(np.where(legal, np.exp(logits.numpy()), 0.0))
    return np.array(rows) / np.sum(rows, axis=1, keepdims=True)


def test_a_table_has_what_the_policy_draws_from(model):
    envs = make_envs(min_new_tokens=1)
    agent = make_agent(model, envs, temperature=0.7)
    table = policy_table(agent.policy, envs)
    np.testing.assert_allclose(
        table, asked(agent.policy.language_model.model, envs, 0.7), atol=1e-6
    )
    assert table[0, 1] == 0.0  # EOS at once is illegal
    advantages = envs.unwrapped.exact_advantages(table).array
    np.testing.assert_allclose(np.nansum(table * advantages, axis=1), 0.0, atol=1e-9)


def test_the_reference_stays_where_learning_began(model):
    envs = make_envs()
    agent = make_agent(model, envs)
    before = policy_table(agent.policy, envs)
    with torch.no_grad():
        agent.policy.language_model.model.transformer.wte.weight.mul_(2.0)
    np.testing.assert_allclose(policy_table(agent.policy, envs, reference=True), before, atol=1e-6)
    assert np.abs(policy_table(agent.policy, envs) - before).max() > 0.01


def test_tokens_outside_the_top_k_have_no_probability(model):
    envs = make_envs()
    agent = make_agent(model, envs, top_k=2)
    full = policy_table(make_agent(model, envs).policy, envs)
    table = policy_table(agent.policy, envs)
    assert ((table > 0).sum(axis=1) == 2).all()
    kept = np.where(table > 0, full, 0.0)
    np.testing.assert_allclose(table, kept / kept.sum(axis=1, keepdims=True), atol=1e-6)
    reference = policy_table(agent.policy, envs, reference=True)
    np.testing.assert_allclose(reference, table, atol=1e-6)


def test_values_are_the_heads_on_the_text_so_far(model):
    envs = make_envs()
    agent = make_agent(model, envs)
    table = value_table(agent.policy, envs)
    trunk, head = agent.policy.language_model.model.transformer, agent.policy.critic.head
    for row in (0, 3, 20, len(table) - 1):
        ids = [*envs.unwrapped.tokenizer("the").input_ids, *envs.unwrapped.states[row]]
        with torch.no_grad():
            hidden = trunk(torch.tensor([ids])).last_hidden_state[0, -1]
            assert table[row] == pytest.approx(head(hidden).item(), abs=1e-5)


def test_single_and_synchronous_environments_will_do(model):
    envs = make_envs()
    agent = make_agent(model, envs)
    table = policy_table(agent.policy, envs)
    one = gym.make("tokengym/Oracle-v0", max_new_tokens=3, reward=None)
    sync = gym.make_vec("tokengym/Oracle-v0", 2, "sync", max_new_tokens=3)
    for other in (one, sync):
        np.testing.assert_array_equal(policy_table(agent.policy, other), table)


def test_other_environments_are_refused(model):
    agent = make_agent(model, make_envs())
    other = gym.make("tokengym/Detox-v0", reward=None)
    for table in (policy_table, value_table):
        with pytest.raises(TypeError, match="tokengym/Oracle-v0"):
            table(agent.policy, other)
