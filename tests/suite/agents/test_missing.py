"""What was not measured is left out, from the episode to every figure that is made of episodes."""

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import A2C

from tests.support.agents.common import make_model
from tests.support.partners import failing, teacher
from tests.support.rules import rule_of
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents import PPO, collect
from tokengym.agents.offline import KEPT, ResponseCollector, Sampling, best_episode
from tokengym.agents.sb3 import as_vec_env
from tokengym.agents.training import train_own_agent
from tokengym.envs import Episode
from tokengym.evaluation.measure.evaluate import Evaluation, evaluate
from tokengym.evaluation.measure.win_rate import answered
from tokengym.evaluation.measure.win_rate import scored as win_rate_of
from tokengym.rewards import FunctionScorer, Normalize, Reward, RewardError, Scores
from tokengym.rewards.scorers.base import Scorer, score_finished
from tokengym.rewards.scorers.wrappers import Cached

LOSSY: dict[str, Any] = {
    "partner": failing,
    "on_partner_error": "skip",
    "max_turns": 3,
    "max_turn_tokens": 3,
    "max_new_tokens": 14,
    "min_new_tokens": 1,
}
PROMPTS = ("b c", "d", "e d c b", "c c c")


def near_minus_5(response: str) -> float:
    """Return a score that 0 would be by far the best of."""
    return -5.0 - 0.1 * response.count("a") - 0.01 * len(response)


def unsure(response: str) -> float | None:
    """Return `near_minus_5`, and nothing of responses that begin with "b"."""
    return None if response.startswith("b") else near_minus_5(response)


def make_envs(num_envs: int = 12, reward: Any = near_minus_5, **settings: Any) -> Any:
    return gym.make_vec(
        "tokengym/TokenGeneration-v0",
        num_envs=num_envs,
        tokenizer=make_tokenizer(),
        prompts=PROMPTS,
        reward=reward,
        **{"max_new_tokens": 8} | settings,
    )


def make_agent(envs: Any, **settings: Any) -> PPO:
    defaults: Any = {"n_minibatches": 1, "n_epochs": 1, "seed": 0, "device": "cpu"}
    return PPO("CausalLMPolicy", envs, policy_kwargs={"model": make_model()}, **defaults | settings)


SOURCES = pytest.mark.parametrize(
    "missing",
    [LOSSY, {"reward": unsure}, {"reward": unsure} | LOSSY],
    ids=["partner", "judge", "both"],
)
"""Ways in which some of the episodes have no score."""


def check_episodes(episodes: Any) -> list[Episode]:
    """Return those that have a score, and check that some do, and some do not."""
    known = [episode for episode in episodes if episode.score is not None]
    assert 0 < len(known) < len(episodes)
    for episode in episodes:
        is_missing = episode.is_lost or (episode.score is None)
        assert is_missing == (episode.score is None) == (episode.token_rewards is None)
        assert episode.to_record()["score"] == episode.score
        assert Episode.from_record(episode.to_record()).score == episode.score
    assert max(episode.score for episode in known) < -4.9
    return known


@SOURCES
def test_an_episode_without_a_score_says_so_however_it_is_played(missing):
    agent = make_agent(make_envs(**missing))
    check_episodes(collect(agent, make_envs(**missing), 24, seed=1))
    for mode in ("sync", "native"):
        settings: dict[str, Any] = {"vectorization_mode": mode} if mode == "sync" else {}
        envs = as_vec_env(make_envs(**missing, **settings))
        check_episodes(collect(agent, envs, 24, seed=1))


@SOURCES
@pytest.mark.parametrize("mode", [None, "sync"])
def test_infos_have_nan_and_steps_pay_nothing(missing, mode):
    envs = make_envs(**missing, **({} if mode is None else {"vectorization_mode": mode}))
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    scores, parts = [], []
    for _ in range(60):
        _, rewards, terminated, truncated, infos = envs.step(rng.integers(3, 8, 12))
        assert np.isfinite(rewards).all()
        for row in np.flatnonzero(terminated | truncated):
            scores.append(infos["score"][row])
            assert rewards[row] == (0.0 if np.isnan(scores[-1]) else pytest.approx(scores[-1]))
            assert np.isfinite(infos["token_rewards"][row]).all()
            parts.append(infos["score_parts"])
    known = np.array(scores)[np.isfinite(scores)]
    assert 0 < len(known) < len(scores)
    assert known.max() < -4.9


@SOURCES
@pytest.mark.parametrize("normalize", [None, "batch", "running"])
def test_a_round_is_logged_and_normalised_without_them(missing, normalize):
    agent = make_agent(make_envs(**missing, normalize=normalize))
    agent.learn(1, log_interval=None)
    episodes = agent.last_round.episodes
    raw = [e.raw_score for e in episodes if e.raw_score is not None]
    assert 0 < len(raw) < 12
    figures = agent.logger.name_to_value
    assert figures["rollout/score"] == pytest.approx(np.mean(raw))
    assert figures["rollout/unscored"] == 12 - len(raw)
    assert np.isfinite([info["r"] for info in agent.ep_info_buffer]).all()
    if normalize == "batch":  # centred by the mean of those that were measured
        paid = [e.score for e in episodes if e.score is not None]
        np.testing.assert_allclose(paid, np.array(raw) - np.mean(raw), atol=1e-4)


@SOURCES
def test_an_evaluation_is_of_what_was_measured(missing, caplog):
    agent = make_agent(make_envs(**missing))
    found = evaluate(agent, make_envs(**missing), num_episodes=24, seed=2)
    known = found.episodes
    assert 0 < len(known) < 24
    assert found.unscored == 24 - len(known)
    assert found.metrics["score"] == pytest.approx(np.mean([e.score for e in known]))
    assert found.metrics["length"] == np.mean([e.num_written for e in known])
    assert found.metrics["kl"] == pytest.approx(0.0, abs=1e-4)
    for name, values in found.responses.items():  # the table that pairs arms keeps their places
        known_at = set(np.flatnonzero(np.isfinite(values)).tolist())
        assert known_at <= set(found.places)
        assert known_at == set(found.places) or name not in ("score", "kl", "length")
    said = [r.getMessage() for r in caplog.records if "have no score" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"{found.unscored} of 24 ")


@SOURCES
@pytest.mark.parametrize("kept", ["pairs", "best", "all"])
def test_what_has_no_score_is_never_learned_from(missing, kept, caplog):
    missing = {key: value for key, value in missing.items() if key != "reward"}
    scorer = FunctionScorer(unsure if not missing else near_minus_5)
    missing = missing and missing | {"max_turns": 2}
    agent, envs = make_agent(make_envs()), make_envs(num_envs=1, **missing)
    collector = ResponseCollector(envs, scorer=scorer, sampling=Sampling(n=6))
    groups = collector.collect(agent, [0, 1, 2, 3], seed=5)
    flat = [episode for group in groups for episode in group]
    known = flat
    assert all(episode.score is not None for episode in known)
    assert 0 < len(known) < 24
    assert collector.unscored == 24 - len(known)
    assert sum("have no score" in r.getMessage() for r in caplog.records) == 1
    bare = [  # conversations have no rows of pairs: their texts are
        tuple(e if e.written is None else _without_replies(e) for e in group) for group in groups
    ]
    rows = KEPT[kept].rows(bare, Sampling(n=6), [0, 1, 2, 3])
    column = KEPT[kept].score
    values = [row[column] for row in rows] + [row.get("rejected_score", -6.0) for row in rows]
    assert values
    assert max(values) < -4.9
    for group in groups:
        if group:
            assert best_episode(group, 0.0).score == max(e.score for e in group)
    if kept == "all":
        assert len(rows) == len(known)


def _without_replies(episode: Episode) -> Episode:
    return Episode(
        prompt=episode.prompt,
        response=episode.response,
        prompt_ids=episode.prompt_ids,
        response_ids=episode.response_ids,
        score=episode.score,
    )


def test_a_win_rate_is_of_the_prompts_of_which_both_have_a_score():
    def of(**scores: float) -> Evaluation:
        parts: Any = {"response": "a", "prompt_ids": (1,), "response_ids": (2,)}
        places = tuple(int(name[1:]) for name in scores)
        episodes = [Episode(prompt=name, score=score, **parts) for name, score in scores.items()]
        bare: Any = {"metrics": {}, "gold_scores": None, "asked": 4}
        return Evaluation(episodes=tuple(episodes), places=places, **bare)

    first, second = of(p0=-5.0, p2=-4.0, p3=-6.0), of(p0=-6.0, p1=-5.0, p3=-5.0)
    found = win_rate_of(*answered(first, second))
    assert (found.wins, found.ties, found.losses, found.rate) == (1, 0, 1, 0.5)


# --- scorers --------------------------------------------------------------------------------------


class Listed(Scorer):
    """Returns what it was given."""

    def __init__(self, *values: Any, **parts: Any) -> None:
        self.values, self.parts = values, parts
        self.calls = 0

    def score(self, episodes: Any, *, attribution: str | None = None) -> Scores:
        self.calls += 1
        return Scores(list(self.values), self.parts)


def episodes_of(*texts: str, **fields: Any) -> list[Episode]:
    of: Any = {"prompt": "p", "prompt_ids": (1,)} | fields
    return [Episode(response=text, response_ids=(2, 3), **of) for text in texts]


def test_none_is_missing_and_nan_is_a_fault():
    texts = episodes_of("a", "b")
    scores = Scores([1.0, None], {"x": [None, 2.0]})
    scores.check(texts, "mine")
    assert scores.measured.tolist() == [True, False]
    assert scores.parts_of(0) == {}
    assert scores.parts_of(1) == {"x": 2.0}
    for faulty in (Scores([1.0, np.nan]), Scores([1.0, 1.0], {"x": [np.nan, 2.0]})):
        with pytest.raises(ValueError, match="must be finite, or None"):
            faulty.check(texts, "mine")


def test_scores_that_are_joined_lack_the_parts_that_some_lack():
    joined = Scores.joined([Scores([1.0], {"x": [2.0]}), Scores([3.0]), Scores([None])])
    joined.check(episodes_of("a", "b", "c"), "mine")
    assert [joined.parts_of(row) for row in range(3)] == [{"x": 2.0}, {}, {}]
    assert joined.measured.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("combined", "expected"),
    [
        (Listed(1.0, None, 3.0) + Listed(1.0, 1.0, None), [2.0, None, None]),
        (2.0 * Listed(1.0, None, 3.0), [2.0, None, 6.0]),
        (Listed(0.0, None, 3.0) * Listed(1.0, 1.0, 2.0), [0.0, None, 6.0]),
        (Cached(Listed(1.0, None, 3.0)), [1.0, None, 3.0]),
    ],
)
def test_of_scorers_joined_one_that_is_missing_leaves_nothing(combined, expected):
    episodes = episodes_of("a", "b", "c")
    paid = Reward(combined, rule_of("sparse")).evaluate(episodes)
    assert [episode.score for episode in paid] == expected
    for episode in paid:
        assert not any(np.isnan(part) for part in episode.score_parts.values())


def test_normalising_leaves_out_what_was_not_measured():
    scorer = Normalize(Listed(-5.0, None, -7.0), clip=None)
    paid = Reward(scorer, rule_of("uniform")).evaluate(episodes_of("a", "b", "c"))
    assert scorer.moments == (2, -6.0, 1.0)
    assert [paid[0].score, paid[1].score, paid[2].score] == [pytest.approx(1.0), None, -1.0]
    assert [episode.raw_score for episode in paid] == [-5.0, None, -7.0]


def test_what_did_not_answer_is_asked_again():
    inner = Listed(None)
    scorer = Cached(inner)
    for _ in range(2):
        assert not scorer.score(episodes_of("a")).measured.any()
    inner.values = (1.0,)
    for _ in range(2):
        assert scorer.score(episodes_of("a")).values.tolist() == [1.0]
    assert inner.calls == 3


def test_lost_episodes_are_not_shown_to_a_scorer():
    lost = episodes_of("x", finish_reason="error")
    episodes = [*episodes_of("a"), *lost, *episodes_of("b")]
    for groups in (None, [0, 0, 1]):
        scores = score_finished(Listed(1.0, 2.0), episodes, groups=groups)
        assert scores.measured.tolist() == [True, False, True]
        assert scores.values[[0, 2]].tolist() == [1.0, 2.0]
    untouched = Listed()
    assert not score_finished(untouched, lost).measured.any()
    assert untouched.calls == 0


def test_a_conversation_without_any_failure_has_every_score():
    envs = make_envs(**LOSSY | {"partner": teacher})
    episodes = collect(make_agent(envs), envs, 12, seed=0)
    assert all(episode.score is not None for episode in episodes)


@pytest.mark.parametrize(
    "missing",
    [LOSSY, {"reward": unsure}, {"reward": FunctionScorer(near_minus_5, on_error="skip")}],
    ids=["partner", "judge", "skips"],
)
def test_stock_learners_refuse_what_they_cannot_leave_out(missing):
    """The last has scored all so far: it is refused before anything is learned."""
    agent = A2C("MultiInputPolicy", as_vec_env(make_envs(**missing)), n_steps=16, seed=0)
    before = agent.policy.state_dict()["action_net.bias"].clone()
    with pytest.raises(RewardError, match=r"A2C cannot leave out.*on_error='raise'.*tokengym.PPO"):
        agent.learn(12 * 16)
    assert (agent.policy.state_dict()["action_net.bias"] == before).all()


class Learner:
    """Keeps the batches that it learns from."""

    def __init__(self, envs: Any) -> None:
        self.batches: list[list[Episode]] = []

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        rows = len(observation["input_ids"])
        return np.random.default_rng(len(self.batches)).integers(3, 8, rows), None

    def learn(self, episodes: list[Episode]) -> None:
        self.batches.append(episodes)


def silent(response: str) -> None:
    """Return no score."""


@SOURCES
def test_an_agent_of_ones_own_learns_from_scored_episodes_alone(missing):
    def run(**settings: Any) -> Any:
        training = SimpleNamespace(batch_size=12)
        envs = lambda rows, normalize: make_envs(rows, **settings)  # noqa: E731
        return SimpleNamespace(training=training, seed=0, make_envs=envs)

    updates: Any = train_own_agent(run(**missing), "mine", Learner)
    _, *learned = [next(updates) for _ in range(3)]
    for update, batch in zip(learned, learned[-1].agent.batches, strict=True):
        assert batch
        assert all(episode.score is not None for episode in batch)
        assert update.figures["rollout/unscored"] == 12 - len(batch) > 0
    updates.close()
    none = train_own_agent(run(reward=silent), "mine", Learner)
    next(none)
    with pytest.raises(ValueError, match=r"none of 12 episodes has a score, .*on_error='raise'"):
        next(none)
