# mypy: no-check-untyped-defs
"""The registered ids, end to end on the bundled models."""

import copy
import dataclasses
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_sb3_env

import tokengym  # noqa: F401  (registers the ids)
from tests.support.tokengym.registration import check_contract, check_copies, play
from tokengym.envs import BundleError, Episode, TokenGymError, bundled
from tokengym.envs.tasks import LABORATORY, register_task, registered_tasks
from tokengym.rewards import check_reward, gold_scorer
from tokengym.rewards.errors import RewardError

CASES = (
    *(("MovieReview", "abc"), ("Dialogue", "sparse"), ("Detox", "uniform")),
    *(("Summarize", "red"), ("QuestionAnswer", "r3-dense")),
)


IDS = [task.id for task in registered_tasks() if task.name not in LABORATORY]


@pytest.mark.parametrize("name", IDS)
def test_official_checkers_are_silent(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(name, render_mode="ansi").unwrapped)
        check_sb3_env(gymnasium.make(name))
        for env in (gymnasium.make(name), gymnasium.make(name, horizon="truncated")):
            play(env)  # under Gymnasium's passive checker


@pytest.mark.parametrize(("name", "reward"), CASES)
def test_rewards_keep_their_contract(name, reward):
    check_contract(f"tokengym/{name}-v0", reward, max_new_tokens=12)


SCORED_IN_PARTS = "tokengym/QuestionAnswer-v0"


@pytest.mark.parametrize(
    ("name", "mode", "way"),
    [
        *((name, AutoresetMode.NEXT_STEP, "make_vec") for name in IDS),
        *((SCORED_IN_PARTS, mode, "make_vec") for mode in list(AutoresetMode)[1:]),
        *((SCORED_IN_PARTS, mode, "SyncVectorEnv") for mode in AutoresetMode),
    ],
)
def test_copies_of_an_id_return_what_its_native_batch_returns(name, mode, way):
    assert len(check_copies(name, mode, way)) > 2


def test_an_info_is_padded_only_where_a_batch_reads_it():
    env = gymnasium.make("tokengym/MovieReview-v0", reward="uniform", max_new_tokens=6)
    env.reset(seed=0)
    env.step(5)
    *_, info = env.step(env.unwrapped.tokenizer.eos_token_id)
    for same in (info, copy.deepcopy(info), pickle.loads(pickle.dumps(info))):
        assert same["token_rewards"].shape == dict(same)["token_rewards"].shape == (2,)
        padded = dict(same.items())["token_rewards"]
        assert padded.tolist() == [*info["token_rewards"].tolist(), 0, 0, 0, 0]
        assert dict(same.items()).keys() == dict(info).keys()


SPECS = [*((name, {}) for name in IDS), ("tokengym/MovieReview-v0", {"reward": "abc:beta=0.5"})]


@pytest.mark.parametrize(("name", "arguments"), SPECS)
def test_a_spec_survives_json_and_makes_the_same_environment(name, arguments):
    env = gymnasium.make(name, max_new_tokens=8, **arguments)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec == env.spec
    assert spec.additional_wrappers == ()
    again = gymnasium.make(spec)
    assert again.spec == env.spec
    assert str(again) == str(env)
    (actions, rewards, info), (other_actions, other_rewards, other_info) = play(env), play(again)
    assert actions == other_actions
    assert rewards == pytest.approx(other_rewards)
    np.testing.assert_allclose(info["token_rewards"], other_info["token_rewards"], atol=1e-6)
    envs = gymnasium.make_vec(name, num_envs=2, max_new_tokens=8, **arguments)
    assert EnvSpec.from_json(envs.spec.to_json()).kwargs == envs.spec.kwargs


def test_dialogues_take_the_chat_template_and_gold_reads_what_was_said():
    env = gymnasium.make("tokengym/Dialogue-v0", prompt_sampling="sequential", max_new_tokens=6)
    _, _, info = play(env)
    tokenizer = env.unwrapped.tokenizer
    shown = tokenizer.decode(info["prompt_ids"])
    assert shown == f"<user> {info['prompt']} <assistant>"
    plain = gymnasium.make("tokengym/Dialogue-v0", chat_template=False, max_new_tokens=2)
    assert plain.unwrapped.max_prompt_tokens == env.unwrapped.max_prompt_tokens - 2
    episode = Episode.from_info(info)
    right = dataclasses.replace(episode, response=str(episode.reference))
    scores = gold_scorer(env.unwrapped.bundle).score([right])
    assert scores.values.tolist() == [2.0]
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "RuleScorer(dialogue)": [2.0],
        "helpful": [1.0],
        "harmless": [1.0],
        "RuleScorer(grammar)": [1.0],
        "grammaticality": [1.0],
    }


@pytest.mark.parametrize(
    ("name", "part", "told"),
    [
        ("Detox", "clean", "he said , my kind friend , come in ."),
        ("Dialogue", "RuleScorer(dialogue)", "you need salt and oven ."),
        ("MovieReview", "Sentiment", "the plot was superb ."),
        ("Summarize", "RuleScorer(summary)", "sister sold my car ."),
    ],
)
def test_gold_scores_that_grammaticality_multiplies(name, part, told):
    env = gymnasium.make(f"tokengym/{name}-v0", max_new_tokens=12)
    episodes = [Episode.from_info(play(env, seed)[2]) for seed in range(3)]
    prompt = "" if name == "MovieReview" else episodes[0].prompt
    episodes.append(dataclasses.replace(episodes[0], prompt=prompt, response=told))
    parts = (scores := gold_scorer(env.unwrapped.bundle).score(episodes)).parts
    assert parts["grammaticality"][-1] == 1
    np.testing.assert_allclose(parts[part] * parts["grammaticality"], scores.values, atol=1e-6)


def test_own_functions_models_and_prompts():
    env = gymnasium.make(
        "tokengym/TokenGeneration-v0",
        prompts=["the film"],
        reward=lambda prompt, response: len(response),
        max_new_tokens=4,
    )
    _, rewards, info = play(env)
    assert rewards[-1] == len(info["response"])
    path = bundled("movie_review").reward_model
    env = gymnasium.make(
        "tokengym/TokenGeneration-v0", reward="abc", scorer=str(path), max_new_tokens=4
    )
    check_reward(env)
    absent = bundled("movie_review").with_policy("absent.gguf")  # this rule reads no language model
    gymnasium.make("tokengym/MovieReview-v0", reward="abc", bundle=absent)
    env = gymnasium.make("tokengym/QuestionAnswer-v0", prompts=["what is a bear ?"])
    assert env.get_wrapper_attr("reward").scorer.max_len == env.unwrapped.max_new_tokens
    assert env.reset(seed=0)[1]["prompt"] == "what is a bear ?"


def test_arguments_that_mend_a_tokenizer():
    tokenizer = copy.deepcopy(bundled("movie_review").tokenizer)
    eos, pad = tokenizer.eos_token, tokenizer.pad_token
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} the {% endfor %}"
    arguments = {"tokenizer": tokenizer, "prompts": ["a film"], "chat_template": True}
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(TokenGymError, match="eos_token="):
            make("tokengym/TokenGeneration-v0", **arguments)
        env = make("tokengym/TokenGeneration-v0", eos_token=eos, pad_token=pad, **arguments)
        assert env.unwrapped.tokenizer.eos_token == eos
        assert env.unwrapped.max_prompt_tokens == 3
    review = gymnasium.make("tokengym/MovieReview-v0", eos_token="the", reward=None)
    the = tokenizer.convert_tokens_to_ids("the")
    assert review.unwrapped.vocabulary.end_ids == (the,)
    assert bundled("movie_review").tokenizer.eos_token == eos


def test_environments_share_one_model_and_a_spec_copies_none():
    envs = [gymnasium.make("tokengym/MovieReview-v0", reward="abc") for _ in range(2)]
    (model,) = {env.get_wrapper_attr("reward").scorer.model for env in envs}
    scorer = envs[0].get_wrapper_attr("reward").scorer
    env = gymnasium.make("tokengym/MovieReview-v0", reward="abc", scorer=scorer)
    assert env.spec.kwargs["scorer"].model is model


def test_normalize():
    envs = gymnasium.make_vec(
        "tokengym/MovieReview-v0",
        num_envs=8,
        reward="uniform",
        normalize="batch",
        max_new_tokens=3,
        min_new_tokens=3,
    )
    envs.reset(seed=0)
    for _ in range(2):
        envs.step(np.full(8, 20))
    _, rewards, _, _, infos = envs.step(np.full(8, 21))
    assert rewards.mean() == pytest.approx(0.0, abs=1e-5)
    assert rewards.std() == pytest.approx(infos["score_parts"]["raw_score"].std(), rel=1e-4)
    with pytest.raises(RewardError, match="normalize='batch'"):
        gymnasium.make("tokengym/MovieReview-v0", normalize="batch")


@pytest.mark.parametrize("name", ["batch", "running:window=64", "running:scale=false"])
def test_questions_are_normalised_by_their_type_unless_told_otherwise(name):
    def made(normalize):
        envs = gymnasium.make_vec("tokengym/QuestionAnswer-v0", num_envs=4, normalize=normalize)
        return envs.reward.scorer

    assert made(name).by == "query_type"
    assert made(f"{name}{',' if ':' in name else ':'}by=none").by is None
    review = gymnasium.make_vec("tokengym/MovieReview-v0", num_envs=4, normalize=name)
    assert review.reward.scorer.by is None


def test_a_missing_query_type_is_named_before_the_first_episode(tmp_path):
    data = tmp_path / "questions.csv"
    data.write_text("query,kind\nwhat is a gong?,OPENENDED\n", encoding="utf-8")
    arguments = {"dataset": str(data), "prompt_column": "query", "num_envs": 4}
    arguments |= {"split": "all", "normalize": "running"}
    message = r"query_type, which prompt 0.*query_type_column.*predict"
    with pytest.raises(TokenGymError, match=message):
        gymnasium.make_vec("tokengym/QuestionAnswer-v0", **arguments)
    gymnasium.make_vec("tokengym/QuestionAnswer-v0", **arguments, query_type_column="kind")
    gymnasium.make_vec("tokengym/QuestionAnswer-v0", **arguments, predict_query_types=True)
    arguments["normalize"] = "running:by=none"
    gymnasium.make_vec("tokengym/QuestionAnswer-v0", **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("MovieReview", {"rewrad": "abc"}, TypeError, "'rewrad'.*'reward'"),
        ("MovieReview", {"reward": "acb"}, RewardError, "'acb'.*'abc'"),
        ("MovieReview", {"normalize": "yes"}, RewardError, "'batch', got 'yes'"),
        ("TokenGeneration", {"prompts": []}, TokenGymError, "set is empty"),
        ("MovieReview", {"bundle": "nowhere"}, BundleError, r"'nowhere'.*bundle\.json"),
    ],
)
def test_bad_arguments_stop_before_any_work(name, arguments, error, message):
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(error, match=message):
            make(f"tokengym/{name}-v0", **arguments)


def test_global_random_state_is_left_alone():
    import torch

    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for reward in ("random", "abc"):
        play(gymnasium.make("tokengym/MovieReview-v0", reward=reward, max_new_tokens=5))
    assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_a_task_of_ones_own_is_one_declaration(monkeypatch):
    from tokengym.envs.tasks import TASKS, Task
    from tokengym.evaluation.runs.defaults import default_rewards, training_settings

    monkeypatch.setattr(TASKS, "_entries", dict(TASKS))
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    mine = register_task(
        Task(
            name="MyReview",
            summary="Continue a review.",
            rewards="The bundled reward model's.",
            reward="uniform",
            bundle=bundled("movie_review").path,
            options={"max_new_tokens": 5},
            training={"learning_rate": 1e-4},
            compare=("uniform", "abc"),
        )
    )
    env = gymnasium.make("tokengym/MyReview-v0")
    _, _, info = play(env)
    assert len(info["response_ids"]) <= 5
    assert len(set(info["token_rewards"].tolist())) == 1
    assert EnvSpec.from_json(env.spec.to_json()) == env.spec
    envs = gymnasium.make_vec(mine.id, num_envs=2, max_new_tokens=3)
    assert envs.action_space.shape == (2,)
    assert Task.of("tokengym/MyReview-v0") is mine
    assert default_rewards(mine.id) == ("uniform", "abc")
    assert training_settings(mine.id).learner.learning_rate == 1e-4
