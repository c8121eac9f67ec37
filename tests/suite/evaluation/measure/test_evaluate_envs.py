"""`evaluate(agent, envs)`: on held-out prompts of the environment that an agent was trained on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from tests.support.rules import rule_of
from tests.support.words import make_word_tokenizer
from tokengym.agents import RandomAgent, collect
from tokengym.agents.sb3 import as_vec_env
from tokengym.envs import SettingsError
from tokengym.evaluation.measure.evaluate import Evaluator, evaluate
from tokengym.rewards import (
    FunctionScorer,
    Reward,
    Rule,
    Scorer,
    Scores,
    VectorRewardWrapper,
    token_credit,
)
from tokengym.rewards.errors import ScorerError

ID = "tokengym/MovieReview-v0"
KWARGS: dict[str, Any] = {"reward": "uniform", "max_new_tokens": 5}


def single() -> Any:
    return gym.make(ID, **KWARGS)


KINDS: dict[str, Any] = {
    "native": lambda: gym.make_vec(ID, num_envs=3, **KWARGS),
    "sync": lambda: gym.make_vec(ID, num_envs=3, vectorization_mode="sync", **KWARGS),
    "rows": lambda: SyncVectorEnv([single] * 2),
    "single": single,
    "wrapped": lambda: gym.wrappers.vector.RecordEpisodeStatistics(
        gym.make_vec(ID, num_envs=3, **KWARGS)
    ),
    "adapted": lambda: as_vec_env(gym.make_vec(ID, num_envs=3, **KWARGS)),
    "monitored": lambda: VecMonitor(as_vec_env(gym.make_vec(ID, num_envs=3, **KWARGS))),
    "dummy": lambda: DummyVecEnv([single] * 2),
    "shaped": lambda: gym.make_vec(
        ID, num_envs=3, **KWARGS | {"reward": "random", "normalize": "running"}
    ),
    "train": lambda: gym.make_vec(
        ID, num_envs=3, split="train", autoreset_mode="SameStep", **KWARGS
    ),
}


def measured(envs: Any, *others: Any) -> Any:
    agent = RandomAgent(gym.make_vec(ID, num_envs=1, **KWARGS), seed=0)
    found = evaluate(agent, envs, *others, num_episodes=6)
    return [(episode.prompt, episode.response, episode.score) for episode in found.episodes]


@pytest.mark.parametrize("kind", KINDS)
def test_an_environment_measures_as_its_name_does(kind):
    assert measured(KINDS[kind]()) == measured("MovieReview", {"max_new_tokens": 5})


def test_arguments_overrule_the_environments():
    found = measured(KINDS["native"](), {"max_new_tokens": 2})
    assert found == measured(ID, {"max_new_tokens": 2})


def test_measuring_draws_no_prompt_of_the_environment():
    plain, envs = KINDS["native"](), KINDS["native"]()
    measured(envs)
    (first, _), (second, _) = plain.reset(seed=3), envs.reset(seed=3)
    for _ in range(2):
        measured(envs)
        (first, _), (second, _) = plain.reset(), envs.reset()
        assert (first["input_ids"] == second["input_ids"]).all()


def test_the_scorer_of_a_wrapper_measures():
    envs = gym.make_vec(ID, num_envs=2, reward=None, max_new_tokens=5)
    wrapped = VectorRewardWrapper(
        envs, Reward(FunctionScorer(lambda prompt, response: 7.0 + len(prompt)), rule_of("sparse"))
    )
    assert all(score == 7.0 + len(prompt) for prompt, _, score in measured(wrapped))


class AboveMean(Scorer):
    """Scores how much longer a response is than those before it."""

    attribution_kinds = frozenset()

    def __init__(self, fails_at: float = np.inf) -> None:
        self.seen, self.fails_at = [0.0], fails_at

    def score(self, episodes: Sequence[Any], *, attribution: str | None = None) -> Scores:
        self.seen += [float(len(episode.response)) for episode in episodes]
        if len(self.seen) > self.fails_at:
            raise ScorerError("the judge is out of reach")
        return Scores(np.array([len(e.response) - np.mean(self.seen) for e in episodes]))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = list(state["seen"])


@token_credit
class Counts:
    """Pays at the end, and counts the responses that it has paid."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, paid: Any, response_mask: Any) -> Any:
        self.count += len(paid)
        ends = response_mask.cumsum(1) == response_mask.sum(1, keepdim=True)
        return paid[:, None] * (ends & response_mask)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


SCORERS: dict[str, Callable[[Scorer], Any]] = {
    "scorer": lambda scorer: {"reward": "uniform", "scorer": scorer},
    "a term": lambda scorer: {"reward": "uniform", "scorer": 0.5 * scorer + 1.0},
    "rule": lambda scorer: {"reward": Reward(scorer, Rule(Counts))},
}


@pytest.mark.parametrize("made", SCORERS)
def test_measuring_moves_no_scorer_that_learns(made):
    scorer = AboveMean()
    envs: Any = gym.make_vec(ID, num_envs=2, max_new_tokens=5, **SCORERS[made](scorer))
    agent = RandomAgent(envs, seed=0)
    collect(agent, envs, 2, seed=0)
    seen, credit = list(scorer.seen), envs.reward.credit
    paid = credit.state_dict()
    assert len(seen) == 3
    first = measured(envs)
    assert measured(envs) == first  # by the running mean as it is
    assert (scorer.seen, credit.state_dict()) == (seen, paid)
    scorer.fails_at = 4
    with pytest.raises(ScorerError, match="out of reach"):
        measured(envs)
    assert (scorer.seen, credit.state_dict()) == (seen, paid)


class PerPrompt(FunctionScorer):
    """Scores a response above the last one to its prompt, of which it knows none at first."""

    def __init__(self) -> None:
        super().__init__(self.above)
        self.last: dict[str, float] = {}

    def above(self, prompt: str, response: str) -> float:
        before, self.last[prompt] = self.last.get(prompt, 0.0), float(len(response))
        return self.last[prompt] - before

    def state_dict(self) -> dict[str, Any]:
        return dict(self.last)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.last = dict(state)


@token_credit
class OfPrompts(Counts):
    """Counts by response, of which it has none at first."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count} if self.count else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state.get("count", 0)


@pytest.mark.parametrize("made", ["a term", "rule"])
def test_measuring_teaches_nothing_to_what_has_learned_nothing(made):
    scorer = PerPrompt()
    kwargs = {"rule": {"reward": Reward(scorer, Rule(OfPrompts))}, "a term": SCORERS[made](scorer)}
    envs: Any = gym.make_vec(ID, num_envs=2, max_new_tokens=5, **kwargs[made])
    assert measured(envs) == measured(envs)
    assert scorer.last == envs.reward.credit.state_dict() == {}


def test_own_prompts_and_judge_are_the_environments():
    envs = gym.make_vec(
        "tokengym/TokenGeneration-v0",
        num_envs=2,
        tokenizer=gym.make(ID).get_wrapper_attr("tokenizer"),
        prompts=["the film", "a film"],
        reward=lambda prompt, response: float(len(prompt)),
        max_new_tokens=5,
    )
    assert {(prompt, score) for prompt, _, score in measured(envs)} == {
        ("the film", 8.0),
        ("a film", 6.0),
    }


def test_what_is_no_task_is_refused_in_one_line():
    with pytest.raises(SettingsError, match=r"gym\.make.*collect"):
        measured(gym.make("CartPole-v1"))
    with pytest.raises(TypeError, match=r"gym\.make_vec"):
        measured(3)


FILE = """
import gymnasium as gym
import tokengym


def make_env(num_envs, **options):
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=num_envs, **options)
    return gym.wrappers.vector.TransformReward(envs, lambda rewards: 10.0 * rewards - 1.0)
"""


def test_the_score_is_the_scorers_and_not_what_a_layer_pays(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    options = {"max_new_tokens": 3, "reward": "uniform"}
    alone = Evaluator("MovieReview", options, num_episodes=4)
    shaped = Evaluator(f"{tmp_path / 'mine.py'}:make_env", options, num_episodes=4)
    found = [one(RandomAgent(one.envs, seed=0)).metrics for one in (alone, shaped)]
    assert found[0] == pytest.approx(found[1])
    episodes = collect(RandomAgent(shaped.envs, seed=0), shaped.envs, 4, seed=0)
    for episode in episodes:  # which a learner hears
        expected = 10.0 * episode.score_parts["raw_score"] - len(episode.response_ids)
        assert episode.score == pytest.approx(expected, rel=1e-5)
    for one in (alone, shaped):
        one.close()


def test_prompts_of_a_list_are_not_called_held_out(caplog):
    """They are those that were trained on."""
    kwargs: Any = {"tokenizer": make_word_tokenizer(), "prompts": ["a b", "c d e", "e"]}
    kwargs |= {"reward": lambda prompt, response: float(len(response)), "max_new_tokens": 2}
    envs = gym.make_vec("tokengym/TokenGeneration-v0", num_envs=2, **kwargs)
    evaluate(RandomAgent(envs, seed=0), envs, num_episodes=7)
    (line,) = [r.getMessage() for r in caplog.records if "episodes of an eval" in r.getMessage()]
    assert line.startswith("there are 3 prompts (a list of which none is held out from training)")
    assert "held-out" not in line
