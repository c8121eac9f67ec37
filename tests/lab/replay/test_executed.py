"""Executed truth against the exact advantages of the same policy, and on the command line."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tokengym.agents import PPO, collect, policy_table
from tokengym.envs import Reply
from tokengym.lab.replay.executed import TRUTHS, Forks
from tokengym.lab.replay.page import episode_rows, render_replay
from tokengym.lab.replay.replay import replay, token_truth
from tokengym.scripts.cli import main

SETTINGS: dict[str, dict[str, Any]] = {
    "Oracle": {"max_new_tokens": 4},
    "Forks": {"decisions": 2, "fillers": 1, "filler_words": 1},
}


@pytest.mark.parametrize("task", SETTINGS)
def test_executed_intervals_hold_the_exact_advantage_in_95_percent_of_tokens(task: str) -> None:
    envs: Any = gym.make_vec(f"tokengym/{task}-v0", num_envs=24, **SETTINGS[task])
    agent = PPO("CausalLMPolicy", envs, n_minibatches=1, seed=0)
    episodes = collect(agent, envs, 24, seed=0)
    found = replay(
        episodes,
        ["sparse", "uniform"],
        env=task,
        env_kwargs=SETTINGS[task],
        policy=agent.policy,
        forks=Forks(k=16),
    )
    assert found.truth is not None
    executed: Any = found.truth.executed
    exact: Any = token_truth(envs.unwrapped, episodes, agent.policy)
    held = np.concatenate(
        [
            (worth.low <= truth + 1e-9) & (truth <= worth.high + 1e-9)
            for worth, truth in zip(executed.worths, exact.values, strict=True)
        ]
    )
    assert held.mean() >= 0.95
    estimated, true = (np.concatenate(rows) for rows in (found.truth.values, exact.values))
    assert np.corrcoef(estimated, true)[0, 1] > 0.7
    assert 0.0 < executed.share < 0.6
    assert 0.0 < executed.chance < executed.ceiling <= 1.0
    assert executed.tokens > 0
    assert np.concatenate(found.truth.matters).mean() == executed.share
    agreement = found.agreements["sparse"]
    assert agreement.low <= agreement.correlation <= agreement.high
    assert {"truth", "truth low", "truth high", "sparse"} <= set(found.columns(0))


def test_the_command_prints_what_was_executed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["replay", "--env", "Oracle", "--truth", "forks:k=32"]
    command += ["--rewards", "sparse", "uniform", "--num-episodes", "4", "--max-new-tokens", "3"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "executed truth (k = 32)" in said
    assert "where chance alone gives at most 7%" in said
    assert "truth low" in (tmp_path / "credit.csv").read_text().splitlines()[0]
    assert "Executed truth" in (tmp_path / "replay.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forks:k=3", r"even.*continuations"),
        ("forks:n=4", "'forks'.*'n'"),
        ("fork", "'fork'.*'forks'"),
    ],
)
def test_another_truth_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TRUTHS.make(text)


def test_a_truth_by_forks_needs_a_policy() -> None:
    envs: Any = gym.make_vec("tokengym/Oracle-v0", num_envs=2, max_new_tokens=2)
    agent = PPO("CausalLMPolicy", envs, n_minibatches=1, seed=0)
    episodes = collect(agent, envs, 2, seed=0)
    with pytest.raises(ValueError, match="pass --agent"):
        replay(episodes, ["sparse"], env="Oracle", forks=Forks(k=2))
    assert policy_table(agent.policy, envs).shape[1] == len(envs.unwrapped.tokenizer)


def test_forks_go_on_after_replies() -> None:
    """The last turn alone decides: a token of the first changes nothing, by any continuation."""

    def asks(conversation: Any, metadata: Any, rng: np.random.Generator) -> Reply:
        return Reply("and why", score=float(len(conversation) > 2 and "good" in said(conversation)))

    def said(conversation: Any) -> list[str]:
        words: list[str] = conversation[-1]["content"].split()
        return words

    talk = {"partner": asks, "max_turns": 2, "max_turn_tokens": 3, "max_new_tokens": 16}
    kwargs: dict[str, Any] = {**talk, "scorer": "partner", "min_new_tokens": 3}
    envs: Any = gym.make_vec("tokengym/MovieReview-v0", num_envs=4, reward="uniform", **kwargs)
    agent = PPO("CausalLMPolicy", envs, seed=0)
    episodes = collect(agent, envs, 4, seed=0)
    found = replay(
        episodes,
        ["sparse", "uniform"],
        env="MovieReview",
        env_kwargs=kwargs,
        policy=agent.policy,
        forks=Forks(k=4),
    )
    assert found.truth is not None
    assert found.truth.executed is not None
    for index, episode in enumerate(episodes):
        assert episode.written is not None
        assert (episode.written == 0).any()
        assert len(found.truth.executed.worths[index].worth) == episode.num_written
        for name, column in found.columns(index).items():
            assert len(column) == len(episode.response_ids), name
            assert not np.asarray(column)[episode.written == 0].any()
    episode = episodes[0]
    assert episode.written is not None
    for row in episode_rows(found, 0)["rows"]:
        assert [token["reply"] for token in row["tokens"]] == (episode.written == 0).tolist()
        begins = {place: token["turn"] for place, token in enumerate(row["tokens"])}
        assert {place: role for place, role in begins.items() if role} == {
            turn.span[0]: turn.role for turn in episode.turns if turn.span[1] > turn.span[0]
        }
    shown = render_replay(found)
    assert '<b class="turn">assistant</b>' in shown
    assert 'reply" style="--v:0.00" title="reply"><b class="turn">user</b>and</span>' in shown
    axes = found.heat_map(0).axes[0]
    assert [text.get_text() for text in axes.texts] == ["assistant", "user", "assistant"]
