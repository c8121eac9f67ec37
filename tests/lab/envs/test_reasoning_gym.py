"""ReasoningGym: splits, verdicts, options and refusals, on several data sets."""

import copy
import inspect
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_sb3_env

import tokengym  # noqa: F401  (registers the ids)
from tokengym.base.errors import DatasetError, SettingsError
from tokengym.envs import Episode, bundled
from tokengym.lab.envs.reasoning import (
    ARITHMETIC,
    EVALUATES,
    ITS_OWN,
    LITERALS,
    generated,
    generated_prompts,
)
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.scorers import find_scorer

ID = "tokengym/ReasoningGym-v0"
DATASETS = {
    "spell_backward": 0.3,
    "letter_counting:max_words=6": 0.0,
    "chain_sum:max_terms=3,max_digits=2": 0.0,
    "gcd": 0.0,
    "number_sequence": 0.0,
    "prime_factorization": 0.0,
}
"""Data sets of the library, and the least score of an answer whose second half is wrong."""


def small(word: str, size: int = 12) -> str:
    return f"{word}{',' if ':' in word else ':'}size={size}"


def said(metadata: Any, response: str) -> float:
    episode = Episode(
        prompt="?", response=response, prompt_ids=[1], response_ids=[2], metadata=metadata
    )
    scorer: Any = find_scorer("reasoning-gym")
    return float(scorer.score([episode]).values[0])


@pytest.mark.parametrize("word", DATASETS)
def test_both_checkers_and_the_verdict(word: str) -> None:
    options: dict[str, Any] = {"dataset": small(word), "max_new_tokens": 6}
    gym.make(ID, **options)  # the library's own files warn when they are compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, render_mode="ansi", **options).unwrapped)
        check_sb3_env(gym.make(ID, **options))
    envs: Any = gym.make_vec(ID, num_envs=2, **options)
    task = envs.unwrapped
    answers = [str(prompt.reference) for prompt in task.prompts]
    for prompt, answer in zip(task.prompts, answers, strict=True):
        assert said(prompt.metadata, f" {answer}\n") == 1.0
        assert said(prompt.metadata, f"so <answer>{answer}</answer> it is") == 1.0
        assert 0.0 <= said(prompt.metadata, "") < 0.1
        half = answer[: len(answer) // 2].ljust(len(answer), "?")
        assert DATASETS[word] <= said(prompt.metadata, half) < 1.0


@pytest.mark.parametrize("word", [*DATASETS, "coin_flip", "spell_backward:level=0"])
def test_splits_share_no_item_and_no_question(word: str) -> None:
    train, test, both = (generated_prompts(small(word), s) for s in ("train", "test", "all"))
    for kind in (lambda p: p.text, lambda p: p.metadata["item"]["metadata"]["source_index"]):
        left, right, whole = ({kind(prompt) for prompt in split} for split in (train, test, both))
        assert not left & right
        assert left | right == whole
        assert len(whole) == len(both) == len(train) + len(test)
    assert abs(len(train) - len(test)) <= 1


def test_a_played_word_is_paid_letter_by_letter() -> None:
    env: Any = gym.make(ID, dataset=small("spell_backward"))
    before = random.getstate()
    _, info = env.reset(seed=0)
    answer = env.unwrapped.prompts[info["prompt_id"]].reference
    for letter in answer[:-1] + ("z" if answer[-1] != "z" else "y"):
        *_, info = env.step(env.unwrapped.tokenizer.convert_tokens_to_ids(letter))
    *_, terminated, _, info = env.step(env.unwrapped.tokenizer.eos_token_id)
    assert terminated
    assert info["score"] == pytest.approx((len(answer) - 1) / len(answer))
    assert info["metadata"]["item"]["answer"] == info["reference"] == answer
    assert random.getstate() == before


def test_options_reach_the_library_and_levels_its_curriculum() -> None:
    words = [
        {len(p.metadata["item"]["metadata"]["word"]) for p in generated_prompts(word, "all")}
        for word in ("spell_backward:max_word_len=4,size=40", "spell_backward:level=0,size=40")
    ]
    assert words == [{3, 4}, {3}]
    again = generated_prompts("spell_backward:seed=1,size=40", "all").texts
    assert again != generated_prompts("spell_backward:size=40", "all").texts
    assert generated("spell_backward:size=40") is generated("spell_backward:size=40")


def test_questions_are_messages_where_the_tokenizer_has_a_template() -> None:
    tokenizer: Any = copy.deepcopy(bundled("reasoning_gym").tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    options: dict[str, Any] = {"tokenizer": tokenizer, "dataset": small("spell_backward")}
    width = gym.make(ID, **options).unwrapped.max_prompt_tokens  # type: ignore[attr-defined]
    plain: Any = gym.make(ID, chat_template=False, **options).unwrapped
    assert width == plain.max_prompt_tokens + 2


def test_an_answer_that_a_verifier_fails_on_is_worth_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metadata = generated_prompts(small("prime_factorization"), "train")[0].metadata
    assert said(metadata, "two times three") == 0.0
    assert "prime_factorization:size=12 failed on 'two times three'" in caplog.text
    with pytest.raises(ScorerError, match="no item"):
        said({}, "two")


EVALUATING = {"countdown": 0.01, "puzzle24": 0.01, **dict.fromkeys(sorted(LITERALS), 0.0)}
"""Data sets whose verifiers evaluate an answer as code, and their score of no answer."""


@pytest.mark.parametrize("name", EVALUATING)
def test_a_verifier_runs_no_code_of_an_answer(name: str, tmp_path: Path) -> None:
    prompts = generated_prompts(small(name, 8), "all")
    touched = tmp_path / "touched"
    code = f"__import__('pathlib').Path({str(touched)!r}).touch()"
    for answer in (
        code,
        f"[{code}]",
        f"  <answer>\n{code}</answer>",
        f"1 + {code}",
        f"[(x := {code})]",
    ):
        assert said(prompts[0].metadata, answer) == pytest.approx(EVALUATING[name])
    for answer in (
        "9**9**9",
        "9" * 20 + "!",
        "[1 for _ in iter(int, 1)]",
        "1e999999999",
        "(" * 300,
    ):
        assert said(prompts[0].metadata, answer) == pytest.approx(EVALUATING[name])
    assert not touched.exists()
    assert {said(prompt.metadata, str(prompt.reference)) for prompt in prompts} == {1.0}


def test_lists_of_constants_keep_their_part_of_the_score() -> None:
    for name, score in (("n_queens", 0.5), ("string_insertion", 0.1), ("binary_matrix", 0.1)):
        prompt = generated_prompts(small(name, 4), "train")[0]
        lines = [
            line if name == "string_insertion" else line.split(" ")
            for line in str(prompt.reference).splitlines()
        ]
        written = repr([*lines[0]] if name == "string_insertion" else lines)
        assert said(prompt.metadata, written) == pytest.approx(score)


def test_what_a_stored_episode_says_of_its_item_is_not_evaluated(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    metadata = copy.deepcopy(dict(generated_prompts(small("number_sorting"), "all")[0].metadata))
    metadata["item"]["answer"] = f"__import__('pathlib').Path({str(touched)!r}).touch()"
    said(metadata, "[1, 2]")
    assert not touched.exists()
    metadata["item"]["question"] = "What is 1 + 1?"
    with pytest.raises(ScorerError, match="no question 'What"):
        said(metadata, "2")


def test_every_data_set_that_evaluates_was_looked_at() -> None:
    from reasoning_gym import factory

    evaluating = {
        name
        for name, (made, _) in factory.DATASETS.items()
        if EVALUATES.search(inspect.getsource(sys.modules[made.__module__]))
    }
    refused = {"intermediate_integration", "polynomial_multiplication", "simple_integration"}
    assert evaluating == LITERALS | ARITHMETIC | ITS_OWN | refused


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("simple_integration", "as code"),
        ("gcd:size=1000000000", "size.*1.*100000, got 1000000000"),
        ("spell_backwards", "'spell_backwards'.*'spell_backward'"),
        ("reviews.csv", "tokengym/TokenGeneration-v0"),
        (["a"], "reasoning-gym, got list"),
        ("gcd:sizes=3", "'sizes'.*'size'"),
        ("gcd:size=0", "size.*1.*100000, got 0"),
        ("gcd:min_numbers=9,max_numbers=2", "max_numbers"),
        ("gcd:level=99", r"levels 0.*got 99"),
        ("acre:level=1", "no curriculum"),
        ("list_functions:size=8", "other questions"),
        ("composite", "refuses the options"),
        ("spell_backward:min_word_len=40,max_word_len=50", r"no question.*40"),
    ],
)
def test_what_the_library_has_not_is_refused_in_one_line(dataset: Any, message: str) -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(DatasetError, match=message) as caught:
            make(ID, dataset=dataset)
        assert "\n" not in str(caught.value)


def test_without_the_library_the_line_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    generated.cache_clear()
    with pytest.raises(DatasetError, match=r"tokengym-lab\[reasoning\]"):
        gym.make(ID)
    with pytest.raises(SettingsError, match=r"prompt_tokens=3.*tokengym/Reason"):
        gym.make(ID, prompt_tokens=3)


def test_rewards_that_ask_a_model_redistribute_the_verdict() -> None:
    envs: Any = gym.make_vec(ID, num_envs=8, reward="red")
    envs.reset(seed=0)
    rng, scores = np.random.default_rng(0), []
    for _ in range(12):
        *_, infos = envs.step(rng.integers(97, 123, size=8) - 31)
    scores = infos["score"]
    np.testing.assert_allclose(infos["token_rewards"].sum(1), scores, atol=1e-5)
    assert 0.0 < scores.max() < 1.0
