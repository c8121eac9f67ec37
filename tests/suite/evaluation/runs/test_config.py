import pickle
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.comparisons import comparison
from tests.support.rules import rule_of
from tests.support.suite import of_suite
from tokengym.agents.learner import LEARNERS
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.base.errors import SettingsError
from tokengym.base.files import read_hashed, write_hashed
from tokengym.base.settings import changed
from tokengym.envs import bundled
from tokengym.envs.tasks.task import Task
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.runs.comparison import Comparison, differences
from tokengym.evaluation.runs.decide import decide
from tokengym.evaluation.runs.defaults import default_rewards, training_settings
from tokengym.evaluation.runs.folder import check_folder
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.settings import (
    EvaluationSettings,
    RunSettings,
    TaskSettings,
    TrainingSettings,
)
from tokengym.evaluation.runs.spec import RunSpec, run_folder, slug
from tokengym.evaluation.runs.trusted import known_task
from tokengym.rewards import FunctionScorer, Reward

RULES = """
from tokengym.rewards import shares, token_credit


@token_credit(control=True)
def blind(paid, response_mask):
    return paid[:, None] * shares(1.0 * response_mask, response_mask)
"""


def config(**changes) -> Comparison:
    return comparison(**{"env": "MovieReview", "rewards": ("sparse", "abc"), **changes})


def test_adapters_have_the_rank_and_the_maps_that_are_named():
    assert TrainingSettings().lora() is None
    named: Any
    for named, maps in (
        ({}, "all-linear"),
        ({"lora_targets": "q_proj, v_proj"}, {"q_proj", "v_proj"}),
    ):
        made = TrainingSettings(lora_rank=3, **named).lora()
        assert made is not None
        assert (made.r, made.lora_alpha, made.target_modules) == (3, 6, maps)


def test_bare_names_are_completed_and_a_runs_folder_has_a_safe_name():
    for name in ("MovieReview", "tokengym/MovieReview", "MovieReview-v0"):
        assert resolve_env(name) == "tokengym/MovieReview-v0"
    assert resolve_env("someone/Else-v3") == "someone/Else-v3"
    assert (slug("abc:beta=0.8"), slug("../x"), slug("..")) == ("abc_beta=0.8", "_x", "_")


def test_a_tasks_own_length_is_the_commands(monkeypatch):
    """Where a task declares it, as an argument of ``gym.make`` or as a default of training."""
    task = Task.of("tokengym/MovieReview-v0")
    assert task is not None
    for name in ("options", "training"):
        changes: dict[str, Any] = {name: {"max_new_tokens": 12}}
        short = replace(task, **changes)
        monkeypatch.setattr(Task, "of", lambda env_id, short=short: short)
        assert training_settings(short.id).max_new_tokens == 12


OWN = {"dataset": "food.csv"}


@pytest.mark.parametrize(
    ("given", "env", "why"),
    [
        ({}, "MovieReview", "nothing names another"),
        (OWN, "MovieReview", "own prompts, and no scorer or reward model to them"),
        ({"scorer": "judge"}, "MovieReview", "nothing names another"),
        ({**OWN, "scorer": "judge"}, "TokenGeneration", "own prompts and own scorer"),
        ({**OWN, "reward_model": "judge"}, "TokenGeneration", "own prompts and own reward model"),
        ({**OWN, "encoder": "bert"}, "TokenGeneration", "own prompts and own encoder"),
        ({"bundle": bundled("detox").path, **OWN}, "Detox", "the task of the bundle"),
    ],
)
def test_what_is_given_decides_the_task_which_is_said_with_its_reason(given, env, why):
    """A reward model, a scorer and an encoder of one's own decide alike."""
    task = TaskSettings(**given)
    ours = comparison(task=task)
    assert ours.reference.env_id == f"tokengym/{env}-v0"
    ends = "may end by themselves, after 48 tokens at most"
    ends = "EOS is forbidden" if env in ("MovieReview", "Detox") else ends
    assert ours.said[0].startswith(f"task {env} ({why}); ")
    assert ends in ours.said[0]
    assert ours.names == default_rewards(ours.reference.env_id)
    assert config(task=task).said[0].startswith("task MovieReview (named); ")


def test_defaults_lie_in_one_place():
    assert training_settings("tokengym/MovieReview-v0", steps=7, kl_coef=None) == replace(
        TrainingSettings(), steps=7, fixed_length=True
    )
    question = "tokengym/QuestionAnswer-v0"
    ours, dpo = training_settings(question), training_settings(question, "dpo")
    assert (ours.learner.kl_coef, ours.batch_size, ours.steps) == (0.02, 256, 15)
    assert (dpo.batch_size, dpo.steps) == (64, 30)  # the task's own are PPO's
    assert training_settings("someone/Else-v3") == TrainingSettings()
    assert default_rewards(question) == ("r3", "r3-dense")
    assert default_rewards("tokengym/MovieReview-v0") == ("sparse", "uniform", "abc-signed")
    assert default_rewards("tokengym/TokenGeneration-v0") == ("sparse", "uniform")  # of any score
    assert changed(EvaluationSettings(), every=None, samples=1) == EvaluationSettings(samples=1)


@pytest.mark.parametrize("agent", of_suite(LEARNERS.names(), "agents"))
def test_every_learner_survives_the_file(agent, tmp_path):
    ours = config(
        rewards=("sparse",),
        training=training_settings("tokengym/MovieReview-v0", agent, lora_rank=4),
        task=TaskSettings(dataset="a.csv", prompt_column=0),
    )
    (name,) = ours.names
    spec = ours.spec(name, 0, tmp_path)
    spec.write({})
    read = RunSpec.read(spec.folder)
    assert read == spec
    assert differences(read.as_dict(), spec.as_dict()) == []
    assert read.name == ("sparse" if LEARNERS[agent].uses_credit else agent)
    assert pickle.loads(pickle.dumps(ours)) == ours


def test_a_setting_of_another_version_is_named():
    data = config().reference.as_dict()
    data["training"]["learner"]["n_passes"] = data["training"]["learner"].pop("n_epochs")
    spec = RunSpec.from_dict(data)  # the learner is not looked up before it is asked for
    with pytest.raises(ValueError, match="PPOSettings of another version: n_passes is unknown"):
        _ = spec.training


def test_environment_arguments(tmp_path):
    ours = config(task=TaskSettings(dataset="a.csv", prompt_column=0, model=str(tmp_path)))
    (_, abc) = ours.runs
    train = abc.env_kwargs(train=True)
    assert train.pop("reward").kind == "reward_model"  # parsed, not a text again
    assert train == {
        "dataset": "a.csv",
        "prompt_column": 0,
        "model": str(tmp_path),
        "normalize": "batch",
        "min_new_tokens": 48,
        "max_new_tokens": 48,
        "split": "train",
    }
    training = changed(abc.training, fixed_length=True, max_new_tokens=20)
    fixed = replace(abc, groups=RunSettings.of(training, abc.evaluation, abc.task))
    assert fixed.env_kwargs(train=True)["min_new_tokens"] == 20
    measured = abc.env_kwargs(train=False)
    assert (measured["split"], measured["normalize"]) == ("test", None)


SCORERS = """
from tokengym.rewards import FunctionScorer, Reward, RewardChoice

def brevity(prompt, response):
    return -len(response)

class Brief(Reward):
    def __init__(self, credit="sparse"):
        super().__init__(FunctionScorer(brevity), RewardChoice.of(credit).made)
"""


@pytest.mark.parametrize(
    ("rewards", "scorer", "by_gold"),
    [
        (("sparse", "brevity"), None, True),
        (("brevity", "sparse"), None, True),
        (("sparse", "brevity"), "words", True),
        (("sparse", "r3"), "words", False),
        (("brevity",), None, False),
        (("Brief", "Brief:credit=uniform"), None, False),
        (("Brief", "sparse"), None, True),
    ],
)
def test_a_reward_with_a_scorer_of_its_own_has_its_own_judge(tmp_path, rewards, scorer, by_gold):
    (tmp_path / "own.py").write_text(SCORERS)
    words = [word if word in ("sparse", "r3") else f"{tmp_path}/own.py:{word}" for word in rewards]
    assert config(rewards=words, task=TaskSettings(scorer=scorer)).reference.by_gold == by_gold


def test_rewards_as_objects_have_one_judge_where_they_have_one_scorer():
    """Of functions of one name two may score otherwise."""

    def judge(sign):
        return lambda prompt, response: sign * float(len(response))

    one, other = judge(1), judge(-1)
    rewards = [Reward(FunctionScorer(score), rule_of("sparse")) for score in (one, other)]
    alike = [Reward(FunctionScorer(one), rule_of(rule)) for rule in ("sparse", "uniform")]
    assert decide("MovieReview", rewards=rewards).reference.by_gold
    assert not decide("MovieReview", rewards=alike).reference.by_gold

    class Judge:
        def score(self, prompt: str, response: str) -> float:
            return float(len(response))

    of = Judge()
    bound = [Reward(FunctionScorer(of.score), rule_of(rule)) for rule in ("sparse", "uniform")]
    assert not decide("MovieReview", rewards=bound).reference.by_gold  # a method is made anew


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"updates": 5, "tokens": 900}, "updates=5 has no effect beside tokens=900"),
        ({"agent": "dpo", "epochs": 2.0, "tokens": 900}, r"epochs=2\.0 has no effect beside"),
        ({"agents": ["ppo", "dpo"], "updates": 5, "tokens": 900}, "updates=5 has no effect beside"),
    ],
)
def test_a_length_without_effect_is_refused(given, said):
    with pytest.raises(SettingsError, match=said):
        decide("MovieReview", rewards=["sparse"], **given)


def test_when_is_said_as_it_is_done():
    for given, when in (
        ({"agent": "dpo"}, "before training and after each pass or iteration"),
        ({"updates": 30, "eval_every": 50, "eval_every_until": 5}, "every 50 updates"),
        ({"updates": 30, "eval_every": 50}, "before and after training"),
    ):
        made = decide("MovieReview", rewards=["sparse"], seeds=1, **given)
        assert f" prompts {when}, and " in made.said[-1]


def test_a_command_holds_places_with_spaces(tmp_path):
    (tmp_path / "my rules").mkdir()
    (tmp_path / "my rules" / "own.py").write_text(RULES)
    word = f"{tmp_path}/my rules/own.py:blind"
    command = decide("MovieReview", rewards=[word]).reference.command
    assert shlex.split(command)[shlex.split(command).index("--rewards") + 1] == word


@pytest.mark.parametrize(
    ("rewards", "by_gold"),
    [(("r3", "sparse"), True), (("sparse", "abc"), False), (("r3", "r3-dense"), False)],
)
def test_all_learners_are_measured_alike(rewards, by_gold):
    """Also one that sees the score of the first reward alone."""
    ours = config(env="QuestionAnswer", rewards=rewards, agents=("ppo", "dpo"))
    assert [run.name for run in ours.runs] == [*(f"ppo {reward}" for reward in rewards), "dpo"]
    assert {run.by_gold for run in (ours.reference, *ours.runs)} == {by_gold}


def test_every_option_of_the_environment_reaches_it():
    given: dict[str, Any] = {
        "stop_strings": (".",),
        "forbidden_token_ids": (5, 7),
        "min_new_tokens": 2,
        "chat_template": False,  # the task's own is True
        "prompt_tokens": 4,
    }
    others = {"horizon": "truncated", "prompt_sampling": "epoch"}  # which are no options
    task = TaskSettings(**given, task_options="horizon=truncated,prompt_sampling=epoch")
    kwargs = config(env="Dialogue", task=task).runs[1].env_kwargs(train=True)
    assert kwargs | given | others | {"max_new_tokens": 48} == kwargs
    assert "chat_template" not in config(env="Dialogue").runs[1].env_kwargs(train=True)
    # Outside of a comparison the length is an option too, and the task says if it is fixed.
    for env, least in (("MovieReview", 8), ("QuestionAnswer", 0)):
        _, lengths = known_task(None, env, task=TaskSettings(max_new_tokens=8))
        assert lengths == {"min_new_tokens": least, "max_new_tokens": 8}
    _, lengths = known_task(
        None, "QuestionAnswer", task=TaskSettings(max_new_tokens=8, min_new_tokens=3)
    )
    assert lengths == {"min_new_tokens": 3, "max_new_tokens": 8}


def test_what_a_task_decides_is_said_in_the_order_that_it_declares():
    task = Task.of("tokengym/QuestionAnswer-v0")
    assert task is not None
    (said,) = (line for line in decide("QuestionAnswer").said if line.startswith("ppo: "))
    names = [part.split()[0] for part in said.removeprefix("ppo: ").split(", ")]
    assert len(names) > 2
    assert names == [name for name in {**task.options, **task.training} if name in names]


def test_another_tokenizer_leaves_the_task_its_prompts_and_scorers(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    task = TaskSettings(tokenizer=str(tmp_path))
    kwargs = config(env="MovieReview", task=task).runs[1].env_kwargs(train=True)
    assert kwargs["tokenizer"] == str(tmp_path)
    assert kwargs["bundle"] == bundled("movie_review")
    task = TaskSettings(model=str(tmp_path))  # beside which the environment finds its tokenizer
    kwargs = config(env="MovieReview", task=task).runs[1].env_kwargs(train=True)
    assert kwargs["model"] == str(tmp_path)
    assert "tokenizer" not in kwargs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config(env="MovieRevue"), "did you mean tokengym/MovieReview-v0"),
        (lambda: config(env="zzz"), "'zzz'.*tokengym/"),
        (lambda: config(rewards=("sprse",)), "'sprse'.*'sparse'"),
        (lambda: config(rewards=("abc", "abc")), "rewards.*'abc'"),
        (lambda: config(seeds=0), "seeds.*>= 1, got 0; 5"),
        (lambda: config(level=95.0), r"level.*\(0, 1\), got 95"),
        (lambda: changed(TrainingSettings(), steps=0), "steps.*>= 1, got 0"),
        (
            lambda: changed(TrainingSettings(), batch_size=3, n_minibatches=5),
            "batch_size=3, got 5; raise batch_size",
        ),
        (
            lambda: changed(TrainingSettings(), batch_size=1, n_minibatches=1),
            "batch_size >= 2, got 1",
        ),
        (
            lambda: changed(TrainingSettings(), steps=3, n_value_warmup=3),
            "n_value_warmup=3 leaves the policy none of 3 updates",
        ),
        (lambda: changed(TrainingSettings(), normalize="none"), "or 'off', got 'none'"),
        (lambda: changed(TrainingSettings(), normalize="running:windw=3"), "'running'.*'windw'"),
        (lambda: TrainingSettings(agent="dpo"), "must be DPOSettings for agent='dpo', got PPOS"),
        (lambda: TrainingSettings(agent="pp0"), "'pp0'.*'ppo'"),
        (lambda: TrainingSettings(agent="dpo", learner=PPOSettings()), "must be DPOSettings for"),
        (lambda: TrainingSettings(lora_targets="q_proj"), "'q_proj' has no effect without lora_"),
        (lambda: TrainingSettings(precision="bf16"), "'full' or 'bf16-mixed', got 'bf16'"),  # type: ignore[arg-type]
        (lambda: TrainingSettings(products="onednn", dtype="bfloat16"), "'onednn'.*float32"),
        (lambda: TrainingSettings(products="onednn", precision="bf16-mixed"), "'onednn'.*float32"),
        (
            lambda: TrainingSettings(precision="bf16-mixed", dtype="bfloat16"),
            "float32, got dtype='bfloat16'",
        ),
        (lambda: config(agent="dpo"), "'sparse'.*'abc'"),
        (lambda: EvaluationSettings(reference_samples=20), "reference_samples.*0.*16, got 20; 16"),
        (lambda: TaskSettings(prompt_column=0), "prompt_column=0"),
        (lambda: TaskSettings(overlong="left"), "max_prompt_tokens"),
        (lambda: config(rewards=("abc:bta=1",)), "no option 'bta'.*beta"),
        (
            lambda: config(
                training=TrainingSettings(fixed_length=True), task=TaskSettings(min_new_tokens=8)
            ),
            "min_new_tokens=8",
        ),
    ],
)
def test_bad_settings_are_refused_when_built(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_default_of_minibatches_gives_way_to_a_small_batch():
    assert changed(TrainingSettings(), batch_size=2).learner.n_minibatches == 4


@pytest.mark.parametrize("value", [5, "x"])
@pytest.mark.parametrize("part", ["compared", "env", "task"])
def test_a_spec_of_another_version_is_named(tmp_path, part, value):
    ours = config()
    ours.spec("abc", 0, tmp_path).write({})
    file = run_folder(tmp_path, "abc", 0) / "spec.json"
    write_hashed(file, {**read_hashed(file), part: value})
    with pytest.raises(ValueError, match=r"spec\.json is damaged"):
        check_folder(ours, tmp_path)


def test_a_folder_holds_one_comparison(tmp_path):
    ours = config(seeds=2)
    check_folder(ours, tmp_path / "new")
    ours.spec("abc", 1, tmp_path).write({})
    write_hashed(run_folder(tmp_path, "abc", 0) / "run.json", {"status": "finished"})
    check_folder(ours, tmp_path)
    check_folder(config(seeds=3), tmp_path)  # more seeds: the runs that are there stay
    check_folder(config(seeds=2, rewards=("sparse", "abc", "uniform")), tmp_path)
    measured = r"evaluation\.every 3 there, 6 here; evaluation\.episodes 48 there, 16 here"
    said = rf"of other settings: steps 30 there, 5 here; {measured}\. Name"
    with pytest.raises(ValueError, match=said):
        check_folder(config(seeds=2, updates=5), tmp_path)
    with pytest.raises(ValueError, match=r"'torch'.*'onednn'"):
        check_folder(config(seeds=2, products="onednn"), tmp_path)
    with pytest.raises(ValueError, match="abc, seed 1, is there and not here"):
        check_folder(config(seeds=1), tmp_path)
    ours.spec("abc", 0, tmp_path).write({})
    with pytest.raises(ValueError, match="abc, seeds 0 and 1, are there and not here"):
        check_folder(config(seeds=2, rewards=("sparse",)), tmp_path)
    with pytest.raises(
        ValueError, match="judge 'the scorer of sparse' there, 'the scorer of abc' here"
    ):  # which measures all
        check_folder(config(seeds=2, rewards=("abc", "sparse")), tmp_path)


@pytest.mark.parametrize("first", ["sparse", "rules.py:blind"])
def test_a_corrected_file_may_replace_one_that_no_finished_run_used(first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rules, out = Path("rules.py"), tmp_path / "runs"
    rewards = tuple(dict.fromkeys((first, "sparse", "rules.py:blind")))

    def end(name: str, status: str) -> None:
        folder = run_folder(out, name, 0)
        folder.mkdir(parents=True, exist_ok=True)
        write_hashed(folder / "run.json", {"status": status})

    rules.write_text(RULES)
    faulty = config(seeds=1, rewards=rewards)
    for name in rewards:
        faulty.spec(name, 0, out).write({})
    end("rules.py:blind", "failed")
    rules.write_text(f"{RULES}# corrected")
    corrected = config(seeds=1, rewards=rewards)
    check_folder(corrected, out)
    end("sparse", "finished")
    with pytest.raises(ValueError, match="steps 30 there, 5 here"):
        check_folder(config(seeds=1, rewards=rewards, updates=5), out)
    if first == "sparse":
        check_folder(corrected, out)
        end("rules.py:blind", "finished")
    with pytest.raises(ValueError, match=r"rules\.py has changed: .*Name another folder"):
        check_folder(corrected, out)  # the first reward's file measures every run


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"no spec\.json of a run to resume; name a new"):
        check_folder(config(), tmp_path)
    with pytest.raises(ValueError, match=r"thesis\.tex is a file; name a folder"):
        check_folder(config(), tmp_path / "thesis.tex")


def test_missing_runs_go_seed_by_seed(tmp_path):
    ours = config(seeds=2, first_seed=7)
    write_hashed(tmp_path / "abc" / "seed-7" / "run.json", {})
    missing = [spec.key for spec in ours.specs(tmp_path) if not Run(spec).has_ended]
    assert missing == [("sparse", 7), ("sparse", 8), ("abc", 8)]


def test_the_command_names_what_is_not_default():
    ours = config(seeds=3, learning_rate=1e-3, evaluation=EvaluationSettings(every=1))
    assert ours.reference.command == (
        "tokengym compare --env MovieReview --rewards sparse abc --seeds 3 "
        "--learning-rate 0.001 --eval-every 1"
    )
    theirs = config(rewards=("sparse",), agent="dpo", num_prompts=12)
    assert theirs.reference.command == (
        "tokengym compare --env MovieReview --rewards sparse --seeds 5 --agent dpo --num-prompts 12"
    )
    assert config(level=0.8, seeds=3).reference.command.endswith("--seeds 3 --level 0.8")


def test_the_price_is_that_of_all_learners():
    assert config().price == 0.05
    assert config(agents=("ppo:kl_coef=0.2", "loo:kl_coef=0.2")).price == 0.2
    assert config(agents=("ppo", "loo:kl_coef=0.2")).price is None
    assert config(agents=("ppo", "dpo")).price == 0.05  # the other has none
    assert config(rewards=("sparse",), agent="dpo").price is None


def controls(made: Comparison) -> list[str]:
    return [run.name for run in made.runs if run.is_control]


def test_controls_are_known_by_their_rules(tmp_path):
    rules = tmp_path / "rules.py"
    rules.write_text(RULES)
    names = ("sparse", "abc", "recency:tau=5", "random", f"{rules}:blind")
    made = config(rewards=names)
    assert controls(made) == ["recency:tau=5", "random", f"{rules}:blind"]
    crossed = config(rewards=("sparse", "uniform"), agents=("ppo", "dpo"))
    assert controls(crossed) == ["ppo uniform"]
    assert controls(config(rewards=("uniform",), agents=("ppo", "loo"))) == []


@pytest.mark.parametrize(
    ("steps", "batch_size", "rewards", "seeds", "measured"),
    [
        # 2 runs of 1920 responses allow for 1920 measurements: 48 * (2 * 11 + 16) = 1824 of 5664.
        (30, 64, ("sparse", "abc"), 1, (3, 48, 16, "32%")),
        # The choice is that of 2 runs; 15 of them are 48 * (15 * 11 + 16) = 8688 of 37488.
        (30, 64, ("sparse", "abc", "uniform"), 5, (3, 48, 16, "23%")),
        # One run is measured as if another joined it: 48 * (11 + 16) = 1296 of 3216.
        (30, 64, ("sparse",), 1, (3, 48, 16, "40%")),
        # 2 * 6400 / 2 = 6400 allow for 128 * (2 * 15 + 16) = 5888; 32 samples would be 7936.
        (40, 160, ("sparse", "abc"), 1, (3, 128, 16, "32%")),
        # 2 runs of 256 responses allow for 256 measurements. Both ends alone, by the fewest prompts
        # and samples that there are, take 16 * (2 * 2 + 16) = 320 of 832.
        (8, 32, ("sparse", "abc"), 1, (12, 16, 16, "38%")),
    ],
)
def test_measuring_takes_a_third_where_nothing_is_said(steps, batch_size, rewards, seeds, measured):
    chosen = comparison(
        env="MovieReview", rewards=rewards, seeds=seeds, updates=steps, batch_size=batch_size
    )
    every, episodes, samples, share = measured
    found = chosen.reference.evaluation
    assert (found.every, found.episodes, found.reference_samples) == (every, episodes, samples)
    when = f"every {every} updates" if every < steps else "before and after training"
    assert chosen.said[-1] == (
        f"measuring takes {share} of all responses: {episodes} prompts {when}, and {samples} "
        "reference samples to each"
    )


def test_a_run_that_ends_before_the_next_evaluation_is_measured_at_its_ends():
    found = comparison(env="MovieReview", rewards=("sparse",), seeds=1, updates=2, eval_every=3)
    assert " prompts before and after training, and " in found.said[-1]
    longer = comparison(env="MovieReview", rewards=("sparse",), seeds=1, updates=4, eval_every=3)
    assert " prompts every 3 updates, and " in longer.said[-1]


def test_what_a_person_says_of_measuring_is_kept():
    given = EvaluationSettings(every=1, episodes=100, reference_samples=64)
    assert config(evaluation=given).reference.evaluation == given
    one = config(evaluation=EvaluationSettings(episodes=100)).reference.evaluation
    assert (one.every, one.episodes, one.reference_samples) == (3, 100, 16)


def test_a_run_names_the_code_that_it_runs_and_that_of_its_judge(tmp_path: Path):
    files = [tmp_path / f"{name}.py" for name in ("judge", "mine", "player")]
    for file in files[:2]:
        file.write_text("def score(response):\n    return float(len(response))\n")
    files[2].write_text(
        "class Player:\n    def predict(self, *_, **__):\n        raise NotImplementedError\n"
    )
    judge, mine, player = map(str, files)
    rewards = (f"{judge}:score", f"{mine}:score")
    ours = config(env="MovieReview", rewards=rewards, agents=("ppo", f"{player}:Player"))
    assert [{*run.code} for run in ours.runs] == [{judge}, {judge, mine}, {judge, player}]
    assert {*ours.reference.code} == {judge, mine, player}
