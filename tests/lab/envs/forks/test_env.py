"""Forks: exact values against brute force and episodes, splits, knobs."""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from tokengym.envs import (
    ActionError,
    ForksEnv,
    ForksVectorEnv,
    PolicyError,
    PromptError,
    SettingsError,
)
from tokengym.lab.envs.forks.env import forks_tokenizer
from tokengym.lab.envs.forks.families import FAMILIES, symbols, verify

FORCED: dict[str, Any] = {"decisions": 2, "recoverable": 1, "fillers": 1, "filler_words": 1}


def random_policy(env: Any, prompt: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tree = env.prefixes(prompt)
    probs = rng.dirichlet(np.full(len(env.tokenizer), 0.5), len(tree.states)) * tree.legal_tokens
    return probs / probs.sum(axis=1, keepdims=True)


def env_id(word: str) -> int:
    return forks_tokenizer().get_vocab()[word]


def verified(env: Any, prompt: str, ids: tuple[int, ...]) -> float:
    return verify(prompt, env.tokenizer.decode(list(ids)))


@pytest.mark.parametrize("filler_words", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_policys_values_are_those_of_brute_force(family: Any, filler_words: int) -> None:
    env = ForksEnv(family=family, decisions=2, distractors=1, fillers=1, filler_words=filler_words)
    prompt = env.prompts[0].text
    table = random_policy(env, prompt)
    place = {state: row for row, state in enumerate(env.states(prompt))}
    legal = [np.flatnonzero(env.prefixes(prompt).legal[t]).tolist() for t in range(6)]
    everything = {ids: verified(env, prompt, ids) for ids in itertools.product(*legal)}
    assert 0 < sum(everything.values()) < len(everything)

    def expected(beginning: tuple[int, ...]) -> float:
        total = 0.0
        for ids, score in everything.items():
            if score and ids[: len(beginning)] == beginning:
                tokens = range(len(beginning), len(ids))
                total += float(np.prod([table[place[ids[:t]], ids[t]] for t in tokens]))
        return total

    values, q_values = env.policy_values(table, prompt)
    best_values, best_q = env.optimal_values(prompt)
    for state in itertools.chain([()], itertools.product(legal[0]), itertools.product(*legal[:4])):
        assert values[state] == pytest.approx(expected(state), abs=1e-12)
        assert best_values[state] == any(
            ids[: len(state)] == state for ids, s in everything.items() if s
        )
        for token in legal[len(state)]:
            after = (*state, token)
            assert q_values[state][token] == pytest.approx(expected(after), abs=1e-12)
            assert best_q[state][token] == best_values[after]
        assert np.isnan(q_values[state]).sum() == len(env.tokenizer) - len(legal[len(state)])
    ids = next(ids for ids, score in everything.items() if score)
    advantages = env.exact_advantages(table, prompt).along(ids)
    assert advantages.sum() == pytest.approx(1.0 - values[()], abs=1e-12)
    wrong = next(ids for ids, score in everything.items() if not score)
    assert env.exact_advantages(table, prompt).along(wrong).sum() == pytest.approx(-values[()])
    lost = env.optimal_values(prompt).advantages.along(wrong)
    assert sorted(lost) == [-1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("brackets : go go [ ] go go", ")"),
        ("brackets : go again go", ")"),
        ("countdown from 7 : go go go", "1"),
        ("maze from a to d : a d , d a , a c , c b , b d : go go go", "b"),
    ],
)
def test_the_best_play_is_by_legal_tokens(prompt: str, word: str) -> None:
    family, *_ = prompt.split()
    asked = prompt.split(" : ")[-1].split()
    env = ForksEnv(
        family=family,
        decisions=asked.count("go"),
        recoverable=asked.count("again"),
        distractors=0,
        fillers=0,
        prompts=[prompt],
        forbidden_token_ids=(env_id(word),),
    )
    legal = [np.flatnonzero(row).tolist() for row in env.prefixes().legal]
    assert env_id(word) not in legal[0]
    right = [ids for ids in itertools.product(*legal) if verified(env, prompt, ids)]
    solvable = {ids[:length] for ids in right for length in range(len(legal))}
    values, q_values = env.optimal_values()
    for length in range(len(legal)):
        for prefix in itertools.product(*legal[:length]):
            assert values[prefix] == (prefix in solvable)
            for token in legal[length]:
                after = (*prefix, token)
                assert q_values[prefix][token] == (after in solvable or after in right)
    assert {*env.states()} == solvable
    for ids in itertools.product(*legal):
        worths = env.optimal_values().advantages.along(ids).tolist()
        first = next((t for t in range(len(ids)) if ids[: t + 1] not in {*solvable, *right}), None)
        assert worths == [-float(t == first) for t in range(len(ids))]


@pytest.mark.parametrize("family", FAMILIES)
def test_enumerated_values_agree_with_a_hundred_thousand_continuations(family: Any) -> None:
    env = ForksEnv(family=family, **FORCED)
    prompt = env.prompts[1].text
    table = random_policy(env, prompt, seed=3)
    place = {state: row for row, state in enumerate(env.states(prompt))}
    rng = np.random.default_rng(0)
    counts: dict[tuple[int, ...], int] = {(): 100_000}
    right = 0.0
    while counts:  # all continuations that are at one prefix are drawn on at once
        prefix, count = counts.popitem()
        if len(prefix) == env.max_new_tokens:
            right += count * verified(env, prompt, prefix)
        elif prefix in place:
            drawn = rng.multinomial(count, table[place[prefix]])
            counts |= {(*prefix, int(t)): int(drawn[t]) for t in np.flatnonzero(drawn)}
    value = env.policy_values(table, prompt).values[()]
    assert 0.001 < value < 0.999
    assert right / 100_000 == pytest.approx(value, abs=4 * np.sqrt(value * (1 - value) / 100_000))


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_are_disjoint_and_prompts_are_solvable(family: Any) -> None:
    train, test, both = (
        {prompt.text for prompt in ForksEnv(family=family, decisions=4, split=split).prompts}
        for split in ("train", "test", "all")
    )
    assert train
    assert test
    assert not train & test
    assert train | test == both
    for prompt in ForksEnv(family=family, decisions=4).prompts:
        assert verify(prompt.text, str(prompt.reference)) == 1.0


def test_decisions_are_legal_where_they_stand_and_nowhere_else() -> None:
    envs: Any = gym.make_vec("tokengym/Forks-v0", num_envs=2, fillers=1, family="brackets")
    _, infos = envs.reset(seed=0)
    names = envs.unwrapped.tokenizer.convert_ids_to_tokens(
        list(range(len(envs.unwrapped.tokenizer)))
    )
    for step in range(8):
        legal = {names[i] for i in np.flatnonzero(infos["action_mask"][0])}
        assert legal == (set(symbols("brackets")) if step % 2 else {"well", "so", "then", "now"})
        *_, infos = envs.step(infos["action_mask"].argmax(axis=1))
    assert infos["finish_reason"].tolist() == ["length", "length"]


@pytest.mark.parametrize("reward", ["sparse", "red", "abc-signed"])
def test_the_verdict_is_the_score_of_every_reward(reward: str) -> None:
    env: Any = gym.make("tokengym/Forks-v0", reward=reward)
    for word, score in (("solution", 1.0), ("wrong", 0.0)):
        _, info = env.reset(seed=0)
        reference = env.unwrapped.prompts[info["prompt_id"]].reference.split()
        answer = iter(reference if word == "solution" else ["keep"] * len(reference))
        for decides in env.unwrapped.knobs.decides:
            token = next(answer) if decides else "so"
            *_, info = env.step(env.unwrapped.tokenizer.convert_tokens_to_ids(token))
        assert info["score"] == score
        assert info["token_rewards"].sum() == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"decisions": 0}, "got 0"),
        ({"recoverable": 4}, r"got 4.*decisions"),
        ({"max_new_tokens": 3}, "max_new_tokens=3.*decisions=3"),
        ({"family": "mase"}, "family"),
        (
            {"family": "maze", "forbidden_token_ids": [18, 19, 20, 21]},
            r"unsolvable.*maze",
        ),
        ({"prompts": ["countdown from 10 : go go go any"]}, "has no solution"),
        ({"prompts": ["countdown from 9 : go go"]}, "2 decisions"),
    ],
)
def test_knobs_that_make_no_task_are_refused_in_one_line(knobs: Any, message: str) -> None:
    for make in (ForksEnv, ForksVectorEnv):
        with pytest.raises((SettingsError, PromptError, ActionError), match=message) as caught:
            make(**knobs)
        assert "\n" not in str(caught.value)


def test_too_many_prefixes_are_refused_and_the_best_values_need_none() -> None:
    env = ForksEnv(decisions=6, fillers=4)
    with pytest.raises(SettingsError, match="pass filler_words=1"):
        env.exact_advantages()
    assert env.optimal_values().values[()] == 1.0


def test_probabilities_are_checked() -> None:
    env = ForksEnv(**FORCED)
    table = random_policy(env, env.prompts[0].text)
    with pytest.raises(PolicyError, match="must have shape"):
        env.exact_advantages(table[:-1])
    with pytest.raises(PolicyError, match="action mask"):
        env.exact_advantages(np.full_like(table, 1 / table.shape[1]))
    with pytest.raises(PolicyError, match="got sum nan"):
        env.exact_advantages(np.full_like(table, np.nan))


@pytest.mark.parametrize("place", [2, -1])
def test_an_illegal_token_has_no_worth(place: int):
    env: Any = gym.make("tokengym/Forks-v0", reward=None, filler_words=1).unwrapped
    ids = [int(np.flatnonzero(row)[0]) for row in env.prefixes(0).legal]
    assert np.isfinite(env.exact_advantages().along(ids)).all()
    ids[place] = env.tokenizer.eos_token_id
    with pytest.raises(KeyError, match="illegal"):
        env.exact_advantages().along(ids)
