"""Command-line options are the fields of settings, with the defaults of the chosen task."""

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.suite import of_suite
from tokengym.agents.learner import LEARNERS, find_learner
from tokengym.base.bundle import bundled
from tokengym.base.registry import Spec
from tokengym.base.settings import field_paths
from tokengym.envs.settings import GenerationSettings
from tokengym.envs.tasks import TaskOptions
from tokengym.evaluation.report.compared import about_reward
from tokengym.evaluation.runs.defaults import options_of_run, training_settings
from tokengym.rewards.credits.words import REWARDS
from tokengym.scripts.cli import command_names, find_command, main
from tokengym.scripts.commands.options import (
    Chosen,
    call,
    options_of,
    takes_settings,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    """Share of ``things``."""
    names: tuple[str, ...] = ("a",)
    """Names of things."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int | None = None
    """Number of things."""
    quick: bool = False
    """Be quick."""
    idle: int = 1
    """Nothing here reads it."""
    every: int = field(default=3, metadata={"flag": "tell-every"})
    """Steps between two reports."""
    function: object = None
    """Cannot be on a command line."""
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be >= 1, got {self.every}")


HEARD: list[tuple[str, Outer]] = []


def settings(task: str) -> dict[str, object]:
    usual = Outer(every=7 if task == "big" else 3)
    return {"options": Chosen(usual, without=frozenset({"idle"}))}


@takes_settings(settings)
def command(task: str = "small", *, options: Outer) -> None:
    """Do something.

    For example:
      command --task big

    Args:
        task: Which one of all those tasks
            that there are.
        options: How it is done.
    """
    HEARD.append((task, options))


def heard(*arguments: str) -> tuple[str, Outer]:
    call(command, "command", arguments)
    return HEARD.pop()


def test_fields_are_options():
    assert heard() == ("small", Outer())
    assert heard("--count", "4", "--rate", "0.25", "--names", "x", "y", "--tell-every", "2") == (
        "small",
        Outer(count=4, every=2, inner=Inner(rate=0.25, names=("x", "y"))),
    )
    assert heard("--count", "None")[1].count is None
    assert heard("--quick")[1].quick
    assert heard("--quick", "True", "--task=big") == ("big", Outer(quick=True, every=7))
    assert heard("--quick", "False", "--task", "big", "--tell-every", "3") == ("big", Outer())


def test_help_has_texts_and_defaults(capsys):
    with pytest.raises(SystemExit):
        heard("--task", "big", "--help")
    shown = capsys.readouterr().out
    assert "Which one of all those tasks that there are." in shown  # on one line
    text = " ".join(shown.replace("│", " ").split())
    assert "--tell-every INT Steps between two reports. (default: 7)" in text
    assert "--rate FLOAT Share of things. (default: 0.5)" in text
    assert "--idle" not in text
    assert "--function" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("--tell-evry 2", "--tell-evry.*'--tell-every'"), ("--idle 2", "unknown option --idle")],
)
def test_unknown_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        heard(*arguments.split())


# --- the learners' options ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "flag", "owner"),
    [("ppo", "--beta", "dpo"), ("dpo", "--gae-lambda", "ppo"), ("sft", "--n-epochs", "reinforce")],
)
def test_an_option_without_effect_is_refused(agent, flag, owner, capsys):
    assert main(["train", "--agent", agent, flag, "1"]) == 2
    said = capsys.readouterr().err
    assert f"{flag} has no effect on {agent}; it is an option of " in said
    assert owner in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("agent", of_suite(LEARNERS.names(), "agents"))
def test_a_setting_of_a_learner_is_an_option_where_its_declaration_says_so(agent, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--agent", agent, "--help-all"])
    text = capsys.readouterr().out
    learner = find_learner(agent)
    for leaf in field_paths(learner.default_settings()):
        hidden = leaf.path[-1] in {*learner.fixed, *learner.idle}
        flag = leaf.flag or leaf.path[-1].replace("_", "-")
        assert (f"--{flag} " in text) == (bool(leaf.flag) and not hidden)
    for flag in ("device", "dtype", "lora-rank", "max-new-tokens", "eval-every", "bundle"):
        assert f"--{flag} " in text
    assert ("--updates INT" in text) == find_learner(agent).uses_credit


@pytest.mark.parametrize("bundle", ["smollm2-reviews", "smollm2-answers"])
@pytest.mark.parametrize("agent", of_suite(LEARNERS.names(), "agents"))
def test_a_bundles_defaults_suit_every_learner(agent, bundle):
    found = options_of(find_command("train"), [f"--agent={agent}", f"--bundle={bundle}"])
    values = {option.name: option.default for option in found}
    assert (values["lora_rank"], values["dtype"]) == (8, "float32")
    assert values.get("gae_lambda") is None  # what the credit rule declares
    learner, usual = find_learner(agent), bundled(bundle).settings("training")
    if learner.uses_credit:
        assert values["batch_size"] == usual["batch_size"]
    settings = training_settings("MovieReview", agent, bundle=bundle)
    learner.check_settings(settings.learner, settings.batch_size)


def test_commands_take_the_environment_of_a_bundle(monkeypatch):
    asked: list[str] = []

    def compare(decided: Any, *_: Any, **__: Any) -> dict[str, int]:
        asked.append(decided.reference.env_id)
        return {"failed": 0, "missing": 0}

    monkeypatch.setattr("tokengym.evaluation.runs.compare.compare", compare)
    monkeypatch.setattr("tokengym.scripts.commands.show.show_summary", lambda *_: None)
    for arguments in (["--bundle=smollm2-answers"], ["--bundle", "smollm2-reviews"], []):
        main(["compare", *arguments])
    main(["compare", "--bundle=smollm2-answers", "--env=MovieReview"])
    task, films = "tokengym/QuestionAnswer-v0", "tokengym/MovieReview-v0"
    assert asked == [task, films, films, films]


TASK_OPTIONS = {
    leaf.path[-1]
    for one in (TaskOptions, GenerationSettings)
    for leaf in field_paths(one)
    if leaf.flag and leaf.path[-1] != "prompts"
}


@pytest.mark.parametrize("name", ["compare", "train", "evaluate"])
def test_every_option_of_the_environment_is_one_of_the_command(name):
    assert {option.name for option in options_of(find_command(name))} >= TASK_OPTIONS


@pytest.mark.parametrize("name", of_suite(command_names(), "commands"))
def test_help_shows_what_people_use_and_help_all_the_rest(name, capsys):
    shown = {}
    for question in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main([name, question])
        text = capsys.readouterr().out
        words = " ".join(text.replace("│", " ").split())
        assert not re.search(r"\(default[^()]*\)\.? \(default", words)  # one of two would be false
        shown[question] = set(re.findall(r"^\W? (?:-h, )?--([a-z][\w-]*)", text, re.MULTILINE))
        hidden = re.search(r"--help-all shows (\d+) more options", text)
        assert (hidden is not None) == (question == "--help" and name in LONG)
        if hidden is not None:
            assert int(hidden[1]) == sum(
                not option.is_used for option in options_of(find_command(name))
            )
    assert len(shown["--help"] - {"help"}) <= (20 if name in ("compare", "train") else 26)
    assert shown["--help"] <= shown["--help-all"]
    named = {option.flag for option in options_of(find_command(name)) if not option.is_positional}
    assert shown["--help-all"] - {"help"} == named


REAL_MODEL = """
    model dataset scorer advantage group-size batch-size micro-batch-size dtype lora-rank
    lora-targets reference-samples max-new-tokens learning-rate kl-coef updates
""".split()


@pytest.mark.parametrize("name", ["compare", "train"])
def test_the_usual_options_are_those_of_a_real_model_and_at_most_twenty(name):
    for agent in LEARNERS.names():
        usual = [o.flag for o in options_of(find_command(name), ["--agent", agent]) if o.is_used]
        assert len(usual) <= 20, agent
        if agent == "ppo":
            assert {*REAL_MODEL} <= {*usual}


def test_help_all_groups_the_options_by_what_declares_them(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    groups = re.findall(r"^\W+ (\w+) options \W+$", capsys.readouterr().out, re.MULTILINE)
    assert groups[:5] == ["model", "training", "sampling", "episodic", "ppo"]
    assert "rewards" in groups  # that of --scorer, beside the option --reward
    assert len(groups) == len({*groups})


LONG = {*"compare train train-reward collect constitution evaluate replay label".split()}


def test_a_length_is_left_open_where_pairs_are_given():
    for pairs, length in (("pairs.csv", None), (None, 48)):  # so that a 48 that is typed counts
        training = options_of_run("MovieReview", "dpo", None, pairs=pairs)["training"].settings
        assert (training.learner.pairs, training.max_new_tokens) == (pairs, length)


def test_two_names_of_one_option_are_not_both_taken(capsys):
    line = ["--pairs", "p", "--prompt-column", "a", "--pairs-prompt-column", "b"]
    assert main(["train", "dpo", *line]) == 2
    said = capsys.readouterr().err
    assert "--prompt-column and --pairs-prompt-column are names of one option" in said


@pytest.mark.parametrize(
    ("line", "of_pairs", "of_dataset"),
    [
        ("--pairs p --prompt-column a", "a", None),
        ("--pairs p --pairs-prompt-column a", "a", None),
        ("--dataset d --prompt-column a", None, "a"),
        ("--pairs p --dataset d --prompt-column a", "a", "a"),
        ("--pairs p --dataset d --prompt-column a --pairs-prompt-column b", "b", "a"),
        ("--pairs p --dataset d --pairs-prompt-column b", "b", "b"),
    ],
)
def test_pairs_and_data_set_have_a_column_of_prompts_each(line, of_pairs, of_dataset, monkeypatch):
    heard: list[Any] = []
    monkeypatch.setattr(
        "tokengym.scripts.commands.train._train_once", lambda *a: heard.append(a[0])
    )
    call(find_command("train"), "tokengym train", ["dpo", "--reward=sparse", *line.split()])
    (spec,) = (decided.reference for decided in heard)
    assert spec.training.learner.pairs_prompt_column == of_pairs
    assert spec.task.prompt_column == of_dataset


def test_train_lists_the_learners_and_the_rewards(capsys):
    assert main(["train", "--list"]) == 0
    tables = capsys.readouterr().out.split("\n\n")  # where to find more stands behind them
    for table, names in zip(tables, (LEARNERS.names(), REWARDS.names()), strict=False):
        _, *lines = table.splitlines()
        assert {line.split()[0] for line in lines if not line.startswith(" ")} == {*names}
    said = " ".join(tables[1].split())
    assert "sparse The last token earns the whole score" in said
    assert "r3 The last token earns the relevance of the response" in said


@pytest.mark.parametrize("name", REWARDS.names())
def test_each_reward_is_told_in_a_sentence_of_one_line(name):
    said = about_reward(Spec(name, name))["summary"]
    assert said.startswith("Each ") or said.startswith("The last token earns ")
    assert said.endswith(".")
    assert len(said) <= 100


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("train --total-timesteps 9", "write --tokens 9"),
        ("train --num-generations 4", "write --group-size 4"),
        ("train --bf16", "--dtype bfloat16"),
        ("report --bf16", "unknown option --bf16; --help-all"),
        ("compare --agents ppo grpo --sedes 3", "unknown option --sedes; did you mean '--seeds'"),
    ],
)
def test_words_of_other_programs_get_the_remedy_by_its_name(typed, said, capsys):
    assert main(typed.split()) == 2
    assert said in capsys.readouterr().err
