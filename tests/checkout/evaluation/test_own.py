"""Code of one's own by "file.py:Name", and that of installed packages: the how-to page, run."""

import csv
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.support.agents.checkpoint import OWN_ADVANTAGE, rewrite
from tests.support.commands import last_of_each
from tests.support.comparisons import comparison
from tests.support.stored import keep_settings, settings_of
from tokengym.agents import PPO
from tokengym.agents.learner import LEARNERS, find_learner
from tokengym.base.errors import SettingsError
from tokengym.envs.tasks import find_task
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.measure.evaluate import make_eval_envs
from tokengym.evaluation.runs.spec import RunSpec
from tokengym.rewards import LengthPenalty, RewardError, make_reward
from tokengym.rewards.credits.words import REWARDS
from tokengym.rewards.scorers import find_scorer
from tokengym.rewards.scorers.base import SCORERS
from tokengym.scripts import cli

PAGE = (Path(__file__).parents[3] / "docs/guide/own_code.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, re.DOTALL | re.M))
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


def main(arguments: list[str]) -> int:
    """Run a page's command with what shortens it behind it."""
    return cli.main(last_of_each(arguments))


SHORT = "--updates 2 --batch-size 4 --eval-every 1 --eval-episodes 4 --samples 1".split()
WORDS = "--max-new-tokens 4".split()


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    rows = [f"the {thing} was\tsuperb" for thing in ("plot", "music", "cast", "film")] * 4
    (tmp_path / "films.tsv").write_text("text\tanswer\n" + "\n".join(rows))
    return tmp_path


def command(word: str) -> list[str]:
    (found,) = (rest for rest in COMMANDS if word in " ".join(rest))
    return found


def test_rules_and_scorers_are_compared_in_processes_of_their_own(
    files: Path, capsys: pytest.CaptureFixture[str]
):
    short = [*SHORT, *WORDS, "--seeds", "1", "--jobs", "1"]
    arguments = [*command("runs/rules"), *short]
    assert main(arguments) == 0
    (folder,) = (files / "runs/rules").glob("rules.py_front_loaded_share=0.5/seed-0")
    digest = json.loads((folder / "spec.json").read_text())["code"]["rules.py"]
    assert digest == sha256((files / "rules.py").read_bytes()).hexdigest()
    (sample, *_) = map(json.loads, (folder / "episodes.jsonl").read_text().splitlines())
    rewards = np.array(sample["token_rewards"])
    half = (len(rewards) + 1) // 2
    np.testing.assert_allclose(rewards[: half - 1].sum() / 0.5 / (half - 1) * half, sample["score"])
    said = sum(sample["response"].split().count(w) for w in ("superb", "excellent", "wonderful"))
    assert sample["score"] == said - 1.0  # the file's scorer, in evaluation too
    assert "\nfront-loaded:share=0.5 " in capsys.readouterr().out  # by its own name
    page = (files / "runs/rules/report.html").read_text()
    assert "front-loaded:share=0.5" in page
    assert '"rules.py:front_loaded' not in page

    (files / "rules.py").write_text(FILES["rules.py"] + "\n# changed\n")
    assert main([*arguments, "--seeds", "2"]) == 2
    error = capsys.readouterr().err
    assert f"rules.py has changed: its SHA-256 was {digest[:12]}" in error
    kept = files / "runs/rules/code/rules.py"
    assert "--trust-code runs the code that runs/rules/code has" in error
    report = ["report", "runs/rules", "--out", "again"]
    named = ["--baseline", "front-loaded:share=0.5"]
    (files / "rules.py").write_text(FILES["rules.py"] + "\nraise RuntimeError('this was run')\n")
    assert main([*report, *named]) == 0  # what is finished can be read, and no code is run for it
    assert "front-loaded:share=0.5's" in capsys.readouterr().out
    assert "front-loaded:share=0.5" in (files / "again/report.html").read_text()
    assert main([*arguments, "--seeds", "2", "--trust-code"]) == 0  # by the copy, not the file
    again = json.loads((folder.parent / "seed-1" / "spec.json").read_text())
    assert again["code"]["rules.py"] == digest == sha256(kept.read_bytes()).hexdigest()


def test_a_task_of_ones_own_is_trained(files: Path, caplog: pytest.LogCaptureFixture):
    arguments = command("films.py")
    arguments[arguments.index("12")] = "4"
    assert main([*arguments, *SHORT]) == 0
    (folder,) = (files / "runs/films").glob("*/seed-0")
    samples = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert samples[0]["prompt"].startswith("the ")
    assert samples[0]["reference"] == "superb"
    assert samples[0]["score"] in (0.0, 1.0)
    few = ["--num-episodes", "4", "--json", "figures.json"]
    named = [*few, "--env", "films.py:make_env"]
    assert main(["evaluate", "runs/films/agent", *named]) == 0  # in the task it was trained in
    found = json.loads((files / "figures.json").read_text())
    assert found["env"].startswith("own/films.make_env-")
    assert 0.0 <= found["score"] <= 1.0
    with (files / "films.py").open("a") as file:
        file.write("# changed")
    assert main(["evaluate", "runs/films/agent", *few, "--trust-code"]) == 0
    assert "films.py has changed" in caplog.text


def test_an_agent_of_ones_own_trains_resumes_and_is_evaluated(
    files: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*command("--baseline"), *SHORT, *WORDS]) == 0
    (spec,) = (files / "runs/reinforce").glob("*/seed-0/spec.json")
    settings = RunSpec.read(spec.parent).settings()
    assert settings["training"]["agent"] == "agents.py:Reinforce"
    assert settings["training"]["learner"]["baseline"] == 0.5
    assert set(settings["code"]) == {"agents.py"}
    capsys.readouterr()
    few = ["--num-episodes", "4", *WORDS]
    assert main([*command("evaluate runs/reinforce"), *few]) == 0
    assert main(["evaluate", "runs/reinforce/agent", *few]) == 2
    assert "saved by Reinforce" in capsys.readouterr().err


def test_an_agent_with_predict_alone_is_played(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluated,) = (rest for rest in COMMANDS if rest[0] == "evaluate" and "Copycat" in rest[1])
    few = ["--num-episodes", "4", "--max-new-tokens", "3", "--json", "figures.json"]
    assert main([*evaluated, *few]) == 0
    shown = re.findall(r"^(.+?)\s+\[score", capsys.readouterr().out, re.M)
    assert len(shown) == 3
    for words in map(str.split, shown):
        assert words[-3:] == (words[:-3] * 3)[:3]  # the response repeats the prompt
    assert json.loads((files / "figures.json").read_text())["length"] == 3.0
    compared = [*command("runs/copycat"), *SHORT, "--max-new-tokens", "3", "--seeds", "1"]
    assert main([*compared, "--executor", "here"]) == 0
    rows = csv.DictReader((files / "runs/copycat/curves.csv").read_text().splitlines())
    curves = [row for row in rows if row["credit"].startswith("players.py:Copycat")]
    assert [row["score"] for row in curves] == [curves[0]["score"]] * 2
    assert [row["tokens"] for row in curves] == ["0", "24"]  # to the end of the learner beside it


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        ("class Mute: pass", "evaluate --agent-class x.py:Mute", "have a method predict"),
        (
            "class Two:\n    def __init__(self, one, two): pass\n    predict = None.__eq__",
            "compare --agents ppo x.py:Two --rewards sparse",  # before ppo is trained
            "error: agent x.py:Two is called with the environments alone, but its constructor",
        ),
        (
            "class P: predict = len",
            "compare --agents x.py:P:rate=0.1 --rewards sparse",
            "agent 'x.py:P:rate=0.1' has options, which an agent with predict does not take",
        ),
        ("class P: predict = len", "evaluate . --agent-class x.py:P", "no method load to read"),
    ],
)
def test_an_agent_that_cannot_be_played_is_refused(
    files: Path, code: str, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "x.py").write_text(code)
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


FOREIGN: dict[str, Any] = {
    "env": {"env": "evil.py:Evil"},
    "reward": {"rewards": ["evil.py:Evil"]},
    "agents": {"agents": ["ppo", "evil.py:Evil"]},
    "agent": {"training": {"agent": "evil.py:Evil"}},
    "scorer": {"task": {"scorer": "evil.py:Evil"}},
    "module": {"env": "evil:evil/Evil-v0"},
}
"""What settings of somebody else's may say."""
COLLECT = "collect --agent run/agent --num-prompts 2 --n 2 --out out.jsonl"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", *SHORT, *WORDS, "--out", str(out)]) == 0
    return out


@pytest.fixture
def foreign(trained: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what writes a run of somebody else's into run/, and their code beside it."""

    def write(kind: str) -> None:
        (files / "evil.py").write_text("raise SystemExit('it ran')")
        monkeypatch.syspath_prepend(str(files))
        shutil.copytree(trained, "run")
        shutil.copytree(trained / "agent", "other")
        if kind not in FOREIGN:
            rewrite(Path("run/agent"), {"settings": {kind: "evil.py:Evil"}})
            return
        settings = settings_of(Path("run"))
        for name, value in FOREIGN[kind].items():
            old: Any = settings.get(name)
            settings[name] = {**old, **value} if isinstance(value, dict) else value
        keep_settings(Path("run"), settings)

    return write


IN_SETTINGS = {
    "evaluate run/agent": ("env", "module", "scorer"),
    "push run --folder out": ("env", "module", "reward", "scorer", "agent", "agents"),
    "replay --agent run/agent": ("env", "scorer"),
    "replay --episodes run --rewards sparse red": ("env", "scorer"),
}
IN_CHECKPOINT = (
    *(
        "evaluate run/agent",
        "evaluate other --against run/agent --num-episodes 2",
        "push run --folder out",
    ),
    *("replay --agent run/agent", COLLECT),
)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        *((kind, arguments) for arguments, kinds in IN_SETTINGS.items() for kind in kinds),
        *(("advantage", arguments) for arguments in IN_CHECKPOINT),
    ],
)
def test_code_runs_only_for_who_trusts_the_folder(
    kind: str,
    arguments: str,
    foreign: Callable[..., None],
    files: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    foreign(kind)
    digest = sha256((files / "evil.py").read_bytes()).hexdigest()
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    named = "names the env evil:evil/" if kind == "module" else f"evil.py:Evil (SHA-256 {digest})"
    assert named in error
    assert "it ran" not in error
    assert error.count("\n") == 1
    if kind == "module":
        return  # whose file would end the process
    if (kind, arguments.split()[0]) == ("agents", "push"):
        return  # of what the run was compared with nothing is needed, and nothing is run
    assert main([*arguments.split(), "--trust-code"]) == 2
    assert "SystemExit: it ran" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["agents", "agent", "module"])
def test_a_report_of_what_is_finished_runs_no_code(
    kind: str, foreign: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(kind)
    assert main(["report", "run"]) == 0
    assert "it ran" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("kind", ["env", "scorer", "module"])
def test_a_replay_of_stored_scores_runs_no_code(
    kind: str, foreign: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(kind)
    (file,) = Path("run").glob("*/seed-0/episodes.jsonl")
    stored: dict[tuple[Any, ...], Any] = {}
    for row in map(json.loads, file.read_text().splitlines()):
        stored.setdefault((row["prompt"], *row["response_ids"]), row)
    assert main(["replay", "--episodes", "run", "--out", "out"]) == 0
    assert "it ran" not in "".join(capsys.readouterr())
    tokens = list(csv.DictReader(Path("out/credit.csv").read_text().splitlines()))
    assert list(tokens[0])[4:] == ["paid in the run", "sparse", "uniform", "random"]
    for number, row in enumerate(stored.values()):
        shown = [token for token in tokens if int(token["episode"]) == number]
        assert [float(token["paid in the run"]) for token in shown] == pytest.approx(
            row["token_rewards"]
        )
        assert [token["text"] for token in shown] == row["tokens"]
        share = row["score"] / len(shown)
        assert [float(token["uniform"]) for token in shown] == pytest.approx([share] * len(shown))
        assert float(shown[-1]["sparse"]) == pytest.approx(row["score"])
        assert sum(float(token["random"]) for token in shown) == pytest.approx(row["score"])
    assert main("replay --episodes run --rewards rules.py:front_loaded --out own".split()) == 0


@pytest.mark.parametrize("prompt_ids", [None, [], "none of the run"])
def test_a_replay_of_rows_that_lack_something_runs_no_code(
    prompt_ids: Any, foreign: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """An environment would be made to encode prompts, or to read another trainer's texts."""
    foreign("env")
    for file in Path("run").rglob("episodes.jsonl"):
        rows = map(json.loads, file.read_text().splitlines())
        lines = [json.dumps(row | {"prompt_ids": prompt_ids}) for row in rows]
        file.write_text("\n".join(lines))
        if prompt_ids == "none of the run":
            file.rename(file.with_name("others.jsonl"))
    assert main(["replay", "--episodes", "run", "--out", "out"]) == (0 if prompt_ids == [] else 2)
    printed = "".join(capsys.readouterr())
    assert "it ran" not in printed
    if prompt_ids is None:
        assert "lacks prompt_ids" in printed


@pytest.mark.parametrize("kind", ["reward", "agent", "agents"])
def test_what_is_not_needed_of_a_folder_is_not_looked_up(
    kind: str, foreign: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    foreign(kind)
    needs = kind == "reward"  # it may be the scorer that measured the run: its file alone could say
    assert main("evaluate run/agent --num-episodes 2".split()) == 2 * needs
    assert ("evil.py:Evil (SHA-256" in capsys.readouterr().err) is needs
    assert main("evaluate run/agent --num-episodes 2 --scorer rules.py:cheerful".split()) == 0
    assert main("replay --episodes run --num-episodes 2 --rewards sparse".split()) == 0


def test_what_a_command_names_itself_replaces_what_is_stored(
    foreign: Callable[[str], None], files: Path
) -> None:
    foreign("scorer")
    few = ["--num-episodes", "2"]
    assert main(["evaluate", "run/agent", *few, "--scorer", "rules.py:cheerful"]) == 0
    shutil.rmtree("run")
    shutil.rmtree("other")
    foreign("env")
    assert main(["evaluate", "run/agent", *few, "--env", "MovieReview"]) == 0


def test_a_stopped_run_of_ones_own_code_is_resumed_by_the_same_command(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoint names the code, and so does the command; a file that changed is refused."""
    (files / "own.py").write_text(OWN_ADVANTAGE)
    own = ["--advantage", "own.py:mine", "--reward", "rules.py:front_loaded"]
    arguments = ["train", *own, *SHORT, *WORDS, "--out", "runs/x"]
    loaded: list[float] = []

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    load = PPO.load.__func__  # type: ignore[attr-defined]

    def counted(*given: Any, **named: Any) -> Any:
        agent = load(*given, **named)
        loaded.append(agent.num_timesteps)
        return agent

    monkeypatch.setattr(PPO, "load", classmethod(counted))
    with monkeypatch.context() as patch:
        patch.setattr("tokengym.evaluation.runs.record.RunRecord.write", stopped)
        patch.setattr("tokengym.evaluation.runs.run.Run.remove_checkpoint", stopped)
        assert main(arguments) == 130
    (files / "rules.py").write_text(FILES["rules.py"].replace("0.8", "0.7"))
    assert main(arguments) == 2
    assert "rules.py has changed" in capsys.readouterr().err
    (files / "rules.py").write_text(FILES["rules.py"])
    assert main(arguments) == 0
    assert loaded[0] > 0


def test_a_reward_that_brings_its_scorer_is_evaluated_by_it(files: Path):
    """It was measured by the bundled reward model."""
    envs = make_eval_envs("MovieReview", {"reward": "rules.py:cheerful"}, num_envs=1)
    assert envs.reward.scorer.name == "cheerful"  # type: ignore[attr-defined]
    envs.close()


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("env", "absent.py:make_env", r"no file absent.py"),
        ("env", "numbers.py:FIVE", r"make_env\(num_envs"),
        ("agent", "numbers.py:FIVE", "EpisodicAlgorithm.*got 5"),
        ("agent", "agents.py:Reinfroce", r"'Reinfroce'.*defines.*Reinforce"),
    ],
)
def test_objects_that_do_not_serve(files: Path, kind: str, text: str, message: str):
    (files / "numbers.py").write_text("FIVE = 5")
    with pytest.raises((SettingsError, RewardError), match=message):
        resolve_env(text) if kind == "env" else find_learner(text)


def test_a_single_environment_of_a_function_is_refused(files: Path):
    with pytest.raises(SettingsError, match=r"gymnasium\.make_vec"):
        gym.make(resolve_env("films.py:make_env"))


# --- packages -------------------------------------------------------------------------------------


@pytest.fixture
def package(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a distribution of the page's files in a folder of its own."""
    site = files / "site"
    (site / "mypackage").mkdir(parents=True)
    (site / "mypackage/__init__.py").touch()
    for name, code in FILES.items():
        (site / "mypackage" / name).write_text(code)
    task = "from tokengym.envs.tasks import Task\nFILMS = Task(name='Films', bundle='movie_review'"
    (site / "mypackage/films.py").write_text(
        f"{task}, summary='s', rewards='r', reward='uniform', options={{'max_new_tokens': 3}})"
    )
    (table,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    points = table.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
    info = site / "mypackage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))
    for registry in (REWARDS, SCORERS, LEARNERS):  # what is found of a package stays known
        monkeypatch.setattr(registry, "_entries", dict(registry))
        monkeypatch.setattr(registry, "_objects", set(registry._objects))
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


def test_names_of_a_package_are_found_when_they_are_used(package: Path):
    assert "mypackage" not in sys.modules
    reward = make_reward("front-loaded:share=0.25", scorer=LengthPenalty())
    assert reward.credit_name == "front-loaded"
    assert reward.credit.options["share"] == 0.25
    assert "mypackage.agents" not in sys.modules
    scorer = find_scorer("cheerful")
    assert scorer is not None
    assert scorer.name == "cheerful"
    learner = find_learner("whole-returns")
    assert (learner.name, learner.summary) == ("whole-returns", "REINFORCE on whole returns.")
    config = comparison(env="MovieReview", rewards=("sparse", "front-loaded:share=1"))
    assert not config.reference.code
    with pytest.raises(RewardError, match="did you mean 'front-loaded'"):
        make_reward("front-loadde", scorer=LengthPenalty())


def test_a_task_of_a_package_has_its_id(package: Path, monkeypatch: pytest.MonkeyPatch):
    from tokengym.envs.tasks import TASKS, register_ids

    monkeypatch.setattr(TASKS, "_entries", dict(TASKS))
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    monkeypatch.setattr(gym, "registry", gym.envs.registration.registry)
    register_ids()
    assert resolve_env("Films") == "tokengym/Films-v0"
    assert "mypackage" not in sys.modules
    envs = gym.make_vec("tokengym/Films-v0", num_envs=2)
    assert envs.unwrapped.max_new_tokens == 3  # type: ignore[attr-defined]
    assert envs.reward.credit.name == "uniform"  # type: ignore[attr-defined]
    assert find_task("Films").summary == "s"


def test_packages_that_do_not_serve_are_named(package: Path):
    (package / "mypackage/rules.py").write_text("1 / 0")
    with pytest.raises(SettingsError, match=r"'cheerful'.*ZeroDivisionError"):
        find_scorer("cheerful")
    other = package / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[tokengym.agents]\nwhole-returns = other:Mine\n")
    with pytest.raises(SettingsError, match="mypackage and by other"):
        find_learner("whole-returns")
