# mypy: no-check-untyped-defs
"""The Oracle by its id: its exact score, models beside it, and learners."""

import gymnasium
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from tests.support.evaluation.compare import QUIET, tiny
from tests.support.rules import rule_of
from tests.support.tokengym.registration import play
from tokengym.envs import Episode, TokenGymError, bundled
from tokengym.evaluation.runs.compare import compare
from tokengym.rewards import RewardModel
from tokengym.rewards.errors import RewardError


def test_the_exact_score_leaves_a_reward_model_the_account_of_tokens():
    folder = bundled("oracle").reward_model
    env = gymnasium.make("tokengym/Oracle-v0", reward="abc", reward_model=str(folder))
    assert "WithAttribution(oracle by RewardModel(reward_model)" in repr(
        env.get_wrapper_attr("reward")
    )
    with pytest.raises(RewardError, match=r"reward_model.*reward=None"):
        gymnasium.make("tokengym/Oracle-v0", reward=None, reward_model=str(folder))


def test_the_oracle_pays_its_own_score_unless_told_otherwise():
    env = gymnasium.make("tokengym/Oracle-v0", rules=["negation"], max_new_tokens=2)
    ids = env.unwrapped.tokenizer.convert_tokens_to_ids(["not", "bad"])
    env.reset()
    assert [env.step(token)[1] for token in ids] == [0.0, 0.5]
    for arguments in (
        {"scorer": lambda prompt, response: 7},
        {"reward": lambda prompt, response: 7},
        {"reward": rule_of("uniform"), "scorer": lambda prompt, response: 7},
    ):
        assert play(gymnasium.make("tokengym/Oracle-v0", **arguments))[1][-1] == 7.0
    assert play(gymnasium.make("tokengym/Oracle-v0", reward=rule_of("uniform")))[2]["score"] != 7.0
    with pytest.raises(TokenGymError, match=r"split.*got 'dev'"):
        gymnasium.make_vec("tokengym/Oracle-v0", split="dev")
    for settings in ({"rules": ["order"]}, {"max_new_tokens": 9}):
        with pytest.raises(RewardError, match=r"'abc'.*up to 8"):
            gymnasium.make("tokengym/Oracle-v0", reward="abc", **settings)
    with pytest.raises(TypeError, match=r"'rule'.*'rules'"):
        gymnasium.make("tokengym/Oracle-v0", rule=["order"])


def test_the_oracle_spreads_its_exact_score_by_a_learnt_account():
    """ABC by the bundled model's attention, RED by its prefixes."""
    words = ["good", "film", "not", "bad", "good", "the"]
    model = RewardModel.from_pretrained(bundled("oracle").reward_model)

    def written(**arguments):
        env = gymnasium.make("tokengym/Oracle-v0", **arguments)
        env.reset()
        for token in env.unwrapped.tokenizer.convert_tokens_to_ids(words):
            *_, info = env.step(token)
        return Episode.from_info(info)

    abc = written(reward="abc:beta=1")
    (attention,) = model.score([abc], attribution="attention").attributions
    assert abc.score == 1.5
    np.testing.assert_allclose(abc.token_rewards, 1.5 * attention, atol=1e-5)
    red = written(reward="red")
    account = model.score([red], attribution="prefix")
    np.testing.assert_allclose(red.token_rewards[:-1], account.attributions[0][:-1], atol=1e-5)
    assert red.token_rewards.sum() == pytest.approx(1.5, abs=1e-5)
    assert red.score_parts == {"RewardModel(reward_model)": pytest.approx(account.values[0])}
    np.testing.assert_allclose(red.token_rewards, [0.0, 0.0, 0.0, 0.5, 1.0, 0.0], atol=0.3)
    learnt = written(reward="abc", scorer=str(bundled("oracle").reward_model))
    assert learnt.score == pytest.approx(account.values[0], abs=1e-5)


def test_ppo_learns_the_oracle_by_its_exact_value():
    """From the policy's own table: the expected score of its responses, no sample among it."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from tokengym.agents import PPO

    envs = gymnasium.make_vec("tokengym/Oracle-v0", num_envs=64, max_new_tokens=3)
    base = envs.unwrapped
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=9, n_positions=8, n_embd=32, n_layer=1, n_head=2)
        )
    agent = PPO(
        "CausalLMPolicy",
        envs,
        policy_kwargs={"model": model},
        learning_rate=3e-3,
        kl_coef=0.0,
        seed=0,
    )

    model = agent.policy.language_model.model  # a copy
    prompt = base.tokenizer(base.prompts[0].text)["input_ids"]
    illegal = torch.tensor(np.isnan(base.optimal_values().q_values.array))

    @torch.no_grad()
    def expected_score():
        logits = [model(torch.tensor([[*prompt, *state]])).logits[0, -1] for state in base.states]
        probs = torch.stack(logits).masked_fill(illegal, -torch.inf).softmax(-1)
        return base.policy_values(probs).values[()]

    before = expected_score()
    agent.learn(64 * 3 * 12)
    assert before < 0.2
    assert expected_score() > 1.0


def test_a_comparison_that_cannot_work_is_not_begun(tmp_path):
    with pytest.raises(ValueError, match="has no encoder"):
        compare(tiny(env="Oracle", rewards=("sparse", "r3")), tmp_path / "a", console=QUIET)
    assert not (tmp_path / "a").exists()
