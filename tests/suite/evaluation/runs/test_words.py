"""The words of ``tokengym compare`` as keywords, and the objects among them."""

import importlib
import inspect
from functools import partial
from typing import Any

import datasets
import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import stable_baselines3
from rich.console import Console

import tokengym
from tokengym.agents.learner import LEARNERS
from tokengym.base.objects import HERE, NAME, short, word_of
from tokengym.evaluation.result import Result
from tokengym.evaluation.runs import compare as module
from tokengym.evaluation.runs.compare import compare, preflight
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.decide import decide
from tokengym.rewards import Rule, on_last, token_credit
from tokengym.rewards.scorers import SCORERS
from tokengym.scripts.commands import compare as command
from tokengym.scripts.commands.options import call

QUIET = Console(quiet=True)
TINY: dict[str, Any] = {
    **{"seeds": 1, "updates": 1, "batch_size": 4, "max_new_tokens": 6, "n_epochs": 1},
    **{"eval_every": 1, "eval_episodes": 4, "samples": 2, "reference_samples": 0},
}


@token_credit
def tail(paid: Any, response_mask: Any) -> Any:
    """Pays the score at the last token."""
    return on_last(paid, response_mask)


class Frozen:
    """Writes the word with id 5."""

    def __init__(self, envs: Any) -> None:
        del envs

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full(len(observation["input_ids"]), 5), state


def brief(response: str) -> float:
    return -len(response) / 10.0


class Stopped(Exception):
    """Raised in place of the runs."""


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ("--env MovieReview", {"env": "MovieReview"}),
        (
            "--env Detox --rewards sparse abc:beta=0.8 --seeds 3 --first-seed 7 --updates 12 "
            "--kl-coef 0.1 --eval-every 2 --lora-rank 4 --fixed-length True",
            {"env": "Detox", "rewards": ["sparse", "abc:beta=0.8"], "seeds": 3, "first_seed": 7}
            | {"updates": 12, "kl_coef": 0.1, "eval_every": 2, "lora_rank": 4}
            | {"fixed_length": True},
        ),
        ("--agent loo --group-size 4", {"agent": "loo", "group_size": 4}),
        (
            "--agent dpo --rewards sparse --pairs p --dataset d --prompt-column a",
            {"agent": "dpo", "rewards": "sparse", "pairs": "p", "dataset": "d"}
            | {"prompt_column": "a"},
        ),
        (
            "--agents ppo:kl_coef=0.1 dpo --tokens 100000",
            {"agents": ["ppo:kl_coef=0.1", "dpo"], "tokens": 100_000},
        ),
    ],
)
def test_the_keywords_of_a_call_are_the_options_of_the_command(arguments, keywords, monkeypatch):
    """Both make one configuration, defaults of the task and the learner included."""
    found: list[Comparison] = []

    def stop(config: Comparison, *args: Any, **options: Any) -> None:
        found.append(config)
        raise Stopped

    monkeypatch.setattr(module, "compare", stop)
    with pytest.raises(Stopped):
        call(command.compare, "tokengym compare", arguments.split())
    assert decide(**keywords) == found[0]


def test_the_call_has_the_parameters_of_the_command():
    typed = dict(inspect.signature(command.compare).parameters)
    called = dict(inspect.signature(compare).parameters)
    del typed["given"]  # which the call names settings
    assert {*typed} == {*called} - {"console", "settings"}
    assert {n: p.default for n, p in typed.items()} == {n: called[n].default for n in typed}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"updatess": 3},
            r"compare\(\) got an unexpected keyword argument 'updatess'; did you mean updates\?",
        ),
        ({"reward": "abc"}, "did you mean rewards"),
        ({"beta": 0.1}, "beta has no effect on ppo; it is a setting of dpo"),
        ({"updates": 3, "steps": 3}, "got an unexpected keyword argument 'steps'.*write updates=3"),
    ],
)
def test_other_keywords_are_refused(given, message):
    with pytest.raises(TypeError, match=message):
        decide("MovieReview", **given)


def test_an_environment_itself_is_refused_with_its_id():
    env_id = "tokengym/MovieReview-v0"
    made = {
        "VectorRewardWrapper": gym.make_vec(env_id, num_envs=2, max_new_tokens=4),
        "OrderEnforcing": gym.make(env_id, max_new_tokens=4),
        "EnvSpec": gym.spec(env_id),
    }
    call: Any = compare
    for kind, env in made.items():
        said = rf"id or name, or .*make_env.*got a {kind}; .*write compare\('{env_id}'\)"
        with pytest.raises(TypeError, match=said):
            call(env, rewards=["sparse"])
    said = r"got a function that is at the top of no file; each run makes its own$"
    with pytest.raises(TypeError, match=said):
        call(lambda num_envs: made["VectorRewardWrapper"])
    with pytest.raises(TypeError, match="got a partial that is at the top of no file"):
        call(partial(gym.make_vec, env_id))


def test_the_function_that_makes_an_environment_is_its_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_envs.py").write_text(
        "import gymnasium as gym\n\ndef make_env(num_envs, **options):\n"
        '    return gym.make_vec("tokengym/MovieReview-v0", num_envs=num_envs, **options)\n'
    )
    make_env: Any = importlib.import_module("own_envs").make_env
    assert decide(make_env, rewards=["sparse"]) == decide(
        "own_envs.py:make_env", rewards=["sparse"]
    )


@pytest.mark.parametrize("name", ["jobs", "out", "executor", "checkpoint_every"])
def test_what_says_how_runs_are_done_is_no_argument_of_decide(name):
    given: Any = {name: 1}
    said = rf"^decide\(\) got an unexpected .* '{name}', which says how .* pass it to compare\(\)$"
    with pytest.raises(TypeError, match=said):
        decide("MovieReview", **given)


def test_a_refused_setting_names_its_agent_among_several():
    with pytest.raises(ValueError, match=r"^agent 'ppo:clip_range=-1': clip_range must be"):
        decide("MovieReview", agents=["ppo", "ppo:clip_range=-1"])
    with pytest.raises(ValueError, match=r"^clip_range must be"):
        decide("MovieReview", agent="ppo:clip_range=-1")
    several = decide("MovieReview", agents=["ppo:advantage=loo,group_size=4", "ppo:advantage=loo"])
    said = r"^agent 'ppo:advantage=loo': advantage='loo' needs group_size"
    with pytest.raises(ValueError, match=said):
        preflight(several)
    alone = decide("MovieReview", rewards=["sparse"], agent="ppo:advantage=loo")
    with pytest.raises(ValueError, match=r"^advantage='loo' needs group_size"):
        preflight(alone)


@pytest.mark.parametrize("seeds", [[3, 4, 5], (5, 3, 4), range(3, 6), np.arange(3, 6)])
def test_a_list_of_seeds_is_told_as_a_number_and_the_first(seeds):
    with pytest.raises(ValueError, match=r"number of seeds, got .*; write seeds=3, first_seed=3$"):
        decide("MovieReview", seeds=seeds)


def test_a_configuration_has_no_setting_beside_it(tmp_path):
    config = decide("MovieReview")
    for given in ({"rewards": ["abc"]}, {"updates": 3}, {"seeds": 2}):
        with pytest.raises(TypeError, match="no effect beside a Comparison; leave it out"):
            compare(config, tmp_path / "out", **given)


# --- learners that are compared -------------------------------------------------------------------


class Learns(Frozen):
    """Writes the word with id 5, whatever it learns."""

    def learn(self, episodes: Any) -> None:
        del episodes


@pytest.mark.parametrize(
    "agents",
    [
        *(("dpo", "ppo"), ("sft", "ppo"), ("dpo", "loo"), (Frozen, "ppo")),
        *((Learns, "grpo"), ("sb3:A2C", "ppo"), ("ppo:batch_size=32", "grpo"), (Frozen, Learns)),
    ],
)
@pytest.mark.parametrize(
    "given",
    [
        *({"env": "MovieReview"}, {"env": "Dialogue", "updates": 12}),
        *({"bundle": "smollm2-answers"}, {"env": "MovieReview", "batch_size": 8, "updates": 4}),
    ],
)
def test_the_order_of_learners_decides_nothing(agents, given):
    def runs(*order: Any) -> dict[str, Any]:
        found = decide(rewards="sparse", agents=order, **given).runs
        left_out = ("compared", "command")
        return {
            run.name: {k: v for k, v in run.as_dict().items() if k not in left_out} for run in found
        }

    assert runs(*agents) == runs(*reversed(agents))


@pytest.mark.parametrize("agent", ["ppo", "dpo", "sb3:A2C", Frozen, Learns])
def test_the_updates_of_a_comparison_are_those_of_any_learner(agent):
    """Three updates of eight responses of ten tokens are 240 tokens to whoever counts otherwise."""
    (run,) = decide(
        "MovieReview", rewards="sparse", agents=[agent], updates=3, batch_size=8, max_new_tokens=10
    ).runs
    assert run.training.tokens == 240
    if agent != "dpo":  # which has epochs
        assert run.training.steps == 3


# --- objects --------------------------------------------------------------------------------------


def test_a_class_that_others_find_is_named_by_its_place(tmp_path, monkeypatch):
    packages = LEARNERS.packages
    assert word_of(stable_baselines3.A2C, packages) == "sb3:A2C"
    assert word_of(Frozen, packages) == f"{__name__}:Frozen"
    file = tmp_path / "mine_of_words.py"
    file.write_text("class Mine:\n    def predict(self, observation): ...\n\n\nLAST = Mine()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine_of_words

    assert word_of(mine_of_words.Mine, packages) == f"{file}:Mine"
    assert word_of(mine_of_words.Mine) == f"{file}:Mine"
    monkeypatch.chdir(tmp_path)
    assert word_of(mine_of_words.Mine) == "mine_of_words.py:Mine"
    for own in (tail, mine_of_words.LAST):  # of a package's module, which no file word finds
        assert NAME.fullmatch(word_of(own))
        assert HERE[word_of(own)] is own


def test_the_classes_of_the_package_are_the_learners_of_their_names():
    classes = [tokengym.PPO, tokengym.GRPO, tokengym.RLOO, tokengym.DPO, stable_baselines3.A2C]
    config = decide("MovieReview", rewards=["sparse"], agents=classes)
    assert config.names == ("ppo", "grpo", "rloo", "dpo", "sb3:A2C")
    assert decide("MovieReview", agent=tokengym.GRPO) == decide("MovieReview", agent="grpo")


def test_a_default_of_the_bundle_is_nothing_that_was_given():
    """Its advantage is no setting of grpo, which has its own; A2C keeps its own learning rate."""
    grpo = decide(bundle="smollm2-answers", rewards="sparse", agents=["ppo", "grpo"])
    assert grpo.runs[1].training.learner.advantage == "grpo"
    stock = decide(bundle="smollm2-answers", rewards="sparse", agents=["ppo", "sb3:A2C"])
    assert stock.runs[1].training.learner.learning_rate == 0.0007


def test_the_name_of_an_object_tells_what_it_is():
    def scorer(scale: float) -> Any:
        return lambda response: scale * len(response)

    words = [word_of(scorer(scale)) for scale in (1.0, 1.0, 2.0)]
    assert words[0] == words[1] != words[2]
    assert short(words[0]) == "lambda"
    one = datasets.Dataset.from_dict({"prompt": ["a"]})
    other = datasets.Dataset.from_dict({"prompt": ["b"]})
    assert word_of(one) == word_of(datasets.Dataset.from_dict({"prompt": ["a"]})) != word_of(other)
    assert word_of(one).startswith("Dataset@")


def test_an_object_of_another_process_is_named():
    with pytest.raises(ValueError, match="'Gone@0123abcd' is an object of the process that passed"):
        LEARNERS.find("Gone@0123abcd")
    assert SCORERS.find(word := word_of(brief)) is brief
    assert word not in SCORERS.names()  # which messages and helps list


def test_what_others_cannot_have_needs_one_job(tmp_path):
    elsewhere = {"executor": lambda function, specs: iter(())}
    for given in ({}, {"jobs": 2}, elsewhere):
        with pytest.raises(ValueError, match=r"^tail is an object of this process.*pass jobs=1"):
            compare("MovieReview", tmp_path / "out", rewards=["sparse", tail, Rule(tail)], **given)
    assert not (tmp_path / "out").exists()


def test_objects_are_compared_in_this_process(tmp_path, monkeypatch):
    """A rule, a scorer, agents and a data set; the same call finds its runs again."""

    def train() -> Result:
        texts = ["the film was shot", "a blind actor and", "the plot of this", "an old story of"]
        return tokengym.compare(
            "TokenGeneration",
            tmp_path / "out",
            bundle="movie_review",
            rewards=[tail],
            agents=["ppo", stable_baselines3.A2C, Frozen],
            dataset=datasets.Dataset.from_dict({"text": texts * 6}),
            scorer=brief,
            jobs=1,
            console=QUIET,
            **TINY,
        )

    result = train()
    assert result["failed"] == []
    arms = result.curves.drop_duplicates("credit")
    assert arms.agent.tolist() == ["ppo", "sb3:A2C", f"{__name__}:Frozen"]
    assert {*arms.reward} == {"tail"}
    for row in result.samples.itertuples():
        assert row.score == pytest.approx(-len(row.response) / 10.0, abs=1e-5)
        assert row.token_rewards == pytest.approx([0.0] * (len(row.tokens) - 1) + [row.score])
    monkeypatch.setattr(module, "execute", None)  # nothing is left to do
    again = train()
    pd.testing.assert_frame_equal(again.summary, result.summary)
    pd.testing.assert_frame_equal(again.curves, result.curves)
