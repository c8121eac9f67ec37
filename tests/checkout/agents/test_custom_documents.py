"""The examples of a task, a reward and a model of one's own run as they stand, only shorter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from transformers import AutoModelForCausalLM, Qwen2Config

from tests.checkout.pages import blocks, run, shorter
from tests.support.rewards.common import forget_rewards_afterwards
from tests.support.rules import rewards_of
from tokengym.agents import PPO, RandomAgent, collect
from tokengym.agents.policy.memory import memory_by_role
from tokengym.envs import Episode, bundled
from tokengym.rewards import Rule, Scores, check_reward


def test_the_custom_task_runs(capsys: Any):
    code = shorter(
        blocks("custom_task.md")[0], ("UPDATES = 120", "UPDATES = 3"), ("envs, 64,", "envs, 8,")
    )
    found = run(code)
    gym = found["gym"]
    try:
        check_env(gym.make("mine/Counting-v0").unwrapped, skip_render_check=True)
        check_reward(gym.make("mine/Counting-v0"))
        check_reward(found["envs"])
    finally:
        del gym.registry["mine/Counting-v0"]
    assert found["agent"]._n_updates == 3
    assert len(found["episodes"]) == 8
    answers = [("nine", 0.0), ("eight", 1.0), ("eight nine", 0.2)]
    episodes = [
        Episode(
            prompt="after seven comes",
            reference="eight",
            response=response,
            prompt_ids=(5,),
            response_ids=(6,),
        )
        for response, _ in answers
    ]
    scores = found["IsCorrect"]().score(episodes).values
    np.testing.assert_allclose(scores, [score for _, score in answers])
    capsys.readouterr()


def test_the_custom_rewards_run(monkeypatch: pytest.MonkeyPatch):
    forget_rewards_afterwards(monkeypatch)
    found: dict[str, Any] = {}
    function, scorer, credit = blocks("rewards/custom_reward.md")
    run(function, found)
    episode = collect(RandomAgent(found["envs"]), found["envs"], 1, seed=0)[0]
    expected = found["short_and_cheerful"](episode.prompt, episode.response)
    assert episode.score == pytest.approx(expected)
    episode = collect(RandomAgent(found["graded"]), found["graded"], 1, seed=0)[0]
    assert episode.metadata == {"weight": 2.0}
    assert episode.score == found["overlap"](episode.response, episode.reference, weight=2.0)
    run(scorer, found)
    check_reward(found["env"])
    check_reward(
        found["gym"].make("tokengym/MovieReview-v0", reward="r3-dense", scorer=found["liked"])
    )
    run(credit, found)
    ids = found["bundle"].tokenizer("the plot is the plot").input_ids
    episode = Episode(prompt="", response="", prompt_ids=(), response_ids=tuple(ids))
    (row,) = rewards_of(Rule(found["first_time"], beta=0.5), [episode], Scores([3.0]))
    np.testing.assert_allclose(row, [0.5, 0.5, 0.5, 0.0, 1.5])


def test_your_own_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    tokenizer = bundled("movie_review").tokenizer
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "own")
    tokenizer.save_pretrained(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    first, _, second = blocks("agents/own_model.md")
    short = (
        ('"Qwen/Qwen2.5-0.5B"', repr(str(tmp_path / "own"))),
        ("UPDATES, ROWS, TOKENS = 50, 32, 32", "UPDATES, ROWS, TOKENS = 2, 4, 5"),
    )
    found = run(shorter(first, *short))
    assert found["agent"]._n_updates >= 2
    assert len(found["episodes"]) == 3
    assert (tmp_path / "runs" / "ten_words" / "adapter").is_dir()
    assert (
        PPO.load("runs/ten_words", env=found["envs"]).num_timesteps == found["agent"].num_timesteps
    )
    run(second, found)
    sizes = memory_by_role(found["agent"].policy, found["scorer"].model)
    assert sizes["reference"] == 0
    assert 0 < sizes["reward_model"] < sizes["frozen"]
    assert "reward_model" in capsys.readouterr().out
