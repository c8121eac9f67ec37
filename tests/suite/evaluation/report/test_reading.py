"""Logs of other tools, by their own column names; those of Stable-Baselines3 are made by it."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces

from tokengym.evaluation.report.curves import read_curves
from tokengym.evaluation.result import Result
from tokengym.evaluation.result import read_curves as read_result_of
from tokengym.evaluation.runs.elsewhere import CurveSettings, report_curves


class Countdown(gym.Env):
    """An episode of three steps that pays 1, 2 and 3."""

    observation_space = spaces.Box(0.0, 1.0, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.step_count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.step_count += 1
        return np.zeros(1, np.float32), float(self.step_count), self.step_count == 3, False, {}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train as rl-zoo3 lays its logs out: logs/ALGORITHM/ENV_NUMBER, two monitors in it."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure

    root = tmp_path_factory.mktemp("zoo")
    folder = root / "logs" / "ppo" / "Countdown-v1_2"
    envs = make_vec_env(Countdown, n_envs=2, monitor_dir=str(folder))
    agent = PPO("MlpPolicy", envs, n_steps=6, batch_size=12, n_epochs=1, seed=0, device="cpu")
    agent.set_logger(configure(str(folder), ["csv"]))
    measure = EvalCallback(
        make_vec_env(Countdown), eval_freq=12, n_eval_episodes=2, log_path=str(folder), verbose=0
    )
    agent.learn(48, callback=measure)
    return folder


def test_the_logs_of_stable_baselines3_are_read(zoo):
    (evaluated,) = read_curves(zoo)  # of a folder, its evaluations
    assert (evaluated.credit, evaluated.seed) == ("ppo", 2)
    assert evaluated.steps.tolist() == evaluated.values["tokens"].tolist() == [24.0, 48.0]
    assert evaluated.values["score"].tolist() == [6.0, 6.0]
    assert evaluated.values["length"].tolist() == [3.0, 3.0]
    (same,) = read_curves(zoo / "progress.csv")  # which has both; those of evaluations count
    assert same.steps.tolist() == [24.0, 48.0]
    assert same.values["score"].tolist() == [6.0, 6.0]
    (played,) = read_curves(zoo / "progress.csv", score="rollout/ep_rew_mean")
    assert played.steps.tolist() == [12.0, 24.0, 36.0, 48.0]  # each rollout, two rows of six
    assert played.values["score"].tolist() == [6.0] * 4
    for name in ("evaluations.npz", "0.monitor.csv"):
        with pytest.raises(ValueError, match="has one score, so that score='r' has no"):
            read_curves(zoo / name, score="r")
    (episodes,) = read_curves(zoo / "0.monitor.csv")
    assert episodes.steps.tolist() == [3.0 * number for number in range(1, 9)]
    assert episodes.values["score"].tolist() == [6.0] * 8


def test_the_monitors_of_a_run_are_one_curve_of_the_last_hundred_episodes(tmp_path):
    folder = tmp_path / "a2c-seed-4"
    folder.mkdir()
    # Episodes of two environments by the time of their end: returns 0, 10, 2, 30.
    (folder / "0.monitor.csv").write_text(
        '#{"t_start": 100.0, "env_id": "x"}\nr,l,t\n0,5,1\n2,5,3\n'
    )
    (folder / "1.monitor.csv").write_text(
        '#{"t_start": 101.0, "env_id": "x"}\nr,l,t\n10,1,1\n30,4,5\n'
    )
    (curve,) = read_curves(folder)
    assert (curve.credit, curve.seed) == ("a2c", 4)
    assert curve.values["tokens"].tolist() == [5.0, 6.0, 11.0, 15.0]
    assert curve.values["score"].tolist() == [0.0, 5.0, 4.0, 10.5]
    assert curve.values["wall_s"].tolist() == [1.0, 2.0, 3.0, 6.0]
    lines = [f"{episode},1,{episode}" for episode in range(1001)]
    (folder / "0.monitor.csv").write_text('#{"t_start": 0.0}\nr,l,t\n' + "\n".join(lines))
    (folder / "1.monitor.csv").unlink()
    (long,) = read_curves(folder / "0.monitor.csv")
    assert len(long.steps) == 200
    assert long.values["score"][-1] == np.mean(range(901, 1001))


HISTORY = [
    {"step": 1, "reward": 0.5, "kl": 0.0, "completions/mean_length": 20.0, "loss": 0.1},
    {"step": 2, "reward": 0.7, "kl": 0.2, "completions/mean_length": 22.0, "loss": 0.1},
    {"step": 2, "train_runtime": 3.0},
]


def test_a_log_history_is_read_from_rows_frames_and_folders(tmp_path):
    for number in (2, 10):
        folder = tmp_path / "grpo-seed-1" / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        rows = HISTORY if number == 10 else HISTORY[:1]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": rows}))
    (stored,) = read_curves(tmp_path / "grpo-seed-1")  # that of the last checkpoint
    assert (stored.credit, stored.seed) == ("grpo", 1)
    with pytest.raises(ValueError, match="has no columns to group by model"):
        read_curves(tmp_path / "grpo-seed-1", group_by=("model",))
    for source in (HISTORY, pd.DataFrame(HISTORY)):
        (curve,) = read_curves(source, name="trl", seed=7)
        assert (curve.credit, curve.seed) == ("trl", 7)
        for one in (curve, stored):
            assert one.steps.tolist() == [1.0, 2.0]
            assert one.values["score"].tolist() == [0.5, 0.7]
            assert one.values["length"].tolist() == [20.0, 22.0]


def test_a_chart_that_wandb_exported_is_read(tmp_path):
    text = (
        '"Step","abc-seed-1 - train/reward","abc-seed-1 - train/reward__MIN",'
        '"abc-seed-1 - train/reward__MAX","my - run - train/reward","my - run - _step"\n'
        '"0","0.1","0.1","0.1","","0"\n"5","0.3","0.3","0.3","-1","5"\n"10","0.5","0.5","0.5","2",""\n'
    )
    (tmp_path / "wandb.csv").write_text(text)
    first, second = read_curves(tmp_path / "wandb.csv")
    assert (first.credit, first.seed, second.credit, second.seed) == ("abc", 1, "my - run", 0)
    assert first.steps.tolist() == [0.0, 5.0, 10.0]
    assert first.values["score"].tolist() == [0.1, 0.3, 0.5]
    assert second.steps.tolist() == [5.0, 10.0]
    assert second.values["score"].tolist() == [-1.0, 2.0]
    other = text.replace("train/reward", "throughput")  # a chart of one measurement is it
    (tmp_path / "wandb.csv").write_text(other)
    assert read_curves(tmp_path / "wandb.csv")[0].values["score"].tolist() == [0.1, 0.3, 0.5]


def test_the_history_of_a_wandb_run_is_read():
    nan = float("nan")
    frame = pd.DataFrame(
        {
            "_step": [0, 1, 2],
            "_runtime": [1.5, 2.5, 3.5],
            "_timestamp": [1.7e9] * 3,
            "train/reward": [0.1, nan, 0.5],
            "train/kl": [0.0, nan, 0.25],
            "train/global_step": [10, 20, 30],
        }
    )
    for one in (frame, frame.convert_dtypes()):  # which has <NA> for NaN
        (curve,) = read_curves(one, name="hub")
        assert curve.steps.tolist() == [10.0, 30.0]
        assert curve.values["score"].tolist() == [0.1, 0.5]
    assert curve.values["kl"].tolist() == [0.0, 0.25]
    assert curve.values["wall_s"].tolist() == [1.5, 3.5]
    synced = pd.DataFrame(  # TensorBoard's files of Stable-Baselines3
        {"global_step": [64, 128], "rollout/ep_rew_mean": [1.0, 2.0], "name": ["ppo seed 3"] * 2}
    )
    (curve,) = read_curves(synced)
    assert (curve.credit, curve.seed) == ("ppo", 3)
    assert curve.steps.tolist() == curve.values["tokens"].tolist() == [64.0, 128.0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("monitor.csv", '#{"t_start": 1}\nr,l,t\n1,1,1\n', "holds 1 episodes"),
        ("monitor.csv", '#{"began": 1}\nr,l,t\n1,1,1\n', "is no monitor.csv of Stable-Baselines3"),
        (
            "monitor.csv",  # Monitor(override_existing=False) adds a second training's rows
            '#{"t_start": 1}\nr,l,t\n25,5,1\n55,5,2\n14,5,0.5\n27,5,1.5\n',
            r"monitor\.csv: the times t fall from 2 to 0\.5, so that several trainings are in one",
        ),
        ("evaluations.npz", "text", "is no evaluations.npz of Stable-Baselines3"),
        ("trainer_state.json", '{"best": 1}', "has no log_history; pass the trainer_state.json of"),
        ("t.json", '{"log_history": []}', "logs no reward, only nothing"),
        ("t.json", '{"log_history": [{"loss": 1, "step": 1}]}', "logs no reward, only loss, step"),
        ("p.csv", "reward,loss\n1,2\n", "has no column of steps in every row with reward, only re"),
        ("p.csv", "reward,step\nx,2\n", "line 1: reward must be a number, got 'x'"),
    ],
)
def test_a_damaged_log_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_curves(tmp_path / name)


@pytest.mark.parametrize("shapes", [((3,), (3,), (3,)), ((3,), (3, 2), (2, 2)), ((), (3,), (3,))])
def test_evaluations_of_other_shapes_are_named(tmp_path, shapes):
    names = ("timesteps", "results", "ep_lengths")
    arrays: dict[str, Any] = dict(zip(names, map(np.zeros, shapes), strict=True))
    np.savez(tmp_path / "evaluations.npz", **arrays)
    with pytest.raises(ValueError, match=r"is no evaluations\.npz of Stable-Baselines3"):
        read_curves(tmp_path)


def test_what_has_no_score_says_how_to_name_one(tmp_path):
    with pytest.raises(
        ValueError, match=r"logs no reward, only loss, step; .* read_curves\(score=\), --score"
    ):
        read_curves([{"step": 1, "loss": 2.0}])
    with pytest.raises(ValueError, match="has no column 'accuracy' with numbers, only step, loss"):
        read_curves([{"step": 1, "loss": 2.0}], score="accuracy")
    (curve,) = read_curves([{"step": 1, "loss": 2.0}], score="loss")
    assert curve.values["score"].tolist() == [2.0]
    with pytest.raises(ValueError, match="holds no learning curve that is known"):
        read_curves(tmp_path)
    with pytest.raises(TypeError, match="must be a file, a folder, a pandas DataFrame or a list"):
        read_curves(3)


def test_the_column_of_the_score_can_be_said_of_any_table(tmp_path):
    """One of ours too, whose runs and seeds stay apart."""
    rows = [
        {"credit": credit, "seed": seed, "step": step, "score": 9.0, "accuracy": 0.5 * seed + step}
        for credit in ("sparse", "abc")
        for seed in (1, 2)
        for step in (0, 1)
    ]
    expected = {(c, s): [0.5 * s, 0.5 * s + 1] for c in ("sparse", "abc") for s in (1, 2)}
    others = [{"run": r.pop("credit"), **r} for r in map(dict, rows)]  # another tool's
    without = [{k: v for k, v in row.items() if k != "score"} for row in rows]
    for table in (rows, without, others):
        pd.DataFrame(table).to_csv(tmp_path / "made.csv", index=False)
        for source in (tmp_path / "made.csv", pd.DataFrame(table), table):
            found = read_curves(source, score="accuracy")
            assert {(c.credit, c.seed): c.values["score"].tolist() for c in found} == expected
            assert all(curve.group == () for curve in found)
    with pytest.raises(ValueError, match="has no column 'acc' with numbers, only credit, seed"):
        read_curves(rows, score="acc")


def test_the_parts_of_an_arm_are_no_settings():
    """Both together: either alone is a column to group by, as any other of our own tables."""
    parts = {"reward": ["a:beta=1", "b"], "agent": ["ppo", "ppo"]}
    table = pd.DataFrame({"credit": ["a", "b"], "seed": 0, "step": 0, "score": 1.0} | parts)
    for one in (table, table.rename(columns={"credit": "arm"})):  # as it was called before
        assert [(curve.credit, curve.group) for curve in read_curves(one)] == [("a", ()), ("b", ())]
    groups = [curve.group for curve in read_curves(table.drop(columns="agent"))]
    assert groups == [(("reward", "a:beta=1"),), (("reward", "b"),)]


def test_a_report_of_stable_baselines3_is_by_its_tokens(zoo, tmp_path):
    for seed in (3, 4):
        (tmp_path / f"dqn-seed-{seed}").mkdir()
        (tmp_path / f"dqn-seed-{seed}" / "progress.csv").write_text(
            "rollout/ep_rew_mean,time/total_timesteps\n1,20\n3,60\n"
        )
    files = [zoo, *sorted(tmp_path.glob("*/progress.csv"))]  # its evaluations
    summary = report_curves(files, tmp_path / "report")
    assert summary.axis == "tokens"
    (group,) = summary.groups
    assert {name: entry.seeds for name, entry in group.rewards.items()} == {
        "ppo": [2],
        "dqn": [3, 4],
    }
    assert group.steps == [24.0, 48.0]  # what all share
    dqn = group.rewards["dqn"]
    assert dqn.figures["score"]["auc"].mean == pytest.approx(2.0)  # from 1 to 3, its own runs
    # Beside the 6 of ppo it has 1.2 at 24 and 2.4 at 48.
    better = dqn.versus_baseline.probability_of_improvement["score"]["auc"]
    assert better.probability == 0.0
    assert (tmp_path / "report" / "report.html").exists()


def rows_of(*columns: str, by: str = "time/total_timesteps") -> list[dict[str, float]]:
    """Return a log of three steps, whose columns rise from the number of each."""
    return [
        {by: 10.0 * at, **{name: at + float(place) for place, name in enumerate(columns)}}
        for at in range(3)
    ]


def said_of_scores(result: Result) -> list[str]:
    (group,) = result.found.groups
    return [text for text in group.verdict.cautions if "different measurements" in text]


def test_scores_of_different_columns_are_refused_where_all_have_one(tmp_path):
    played, both = (
        rows_of("rollout/ep_rew_mean"),
        rows_of("rollout/ep_rew_mean", "eval/mean_reward"),
    )
    files = []
    logs = {"sparse": played, "dense": both}
    for name, log in logs.items():
        for seed in (0, 1):
            files.append(tmp_path / f"{name}-seed-{seed}" / "progress.csv")
            files[-1].parent.mkdir()
            pd.DataFrame(log).to_csv(files[-1], index=False)
    message = (
        r"different columns \(rollout/ep_rew_mean of sparse; eval/mean_reward of dense\), .* "
        r"name one that all have: --score rollout/ep_rew_mean, in Python score='rollout/ep_rew_mean"
    )
    with pytest.raises(ValueError, match=message):
        report_curves(files, None)
    table = [{"name": name, **row} for name, log in logs.items() for row in log]
    with pytest.raises(ValueError, match=message):  # of one table, too
        read_result_of(pd.DataFrame(table))
    named = report_curves(files, None, CurveSettings(score="rollout/ep_rew_mean"))
    (group,) = named.groups
    assert [e.figures["score"]["final"].mean for e in group.rewards.values()] == [2.0, 2.0]
    (tmp_path / "monitored-seed-0").mkdir()  # which has that score alone
    monitor = '#{"t_start": 0.0}\nr,l,t\n0,10,1\n2,10,2\n'
    (tmp_path / "monitored-seed-0" / "monitor.csv").write_text(monitor)
    sources = [tmp_path / "dense-seed-0", tmp_path / "monitored-seed-0"]
    with pytest.raises(ValueError, match="--score rollout/ep_rew_mean"):
        read_result_of(sources)
    assert not said_of_scores(read_result_of(sources, score="rollout/ep_rew_mean"))


def test_scores_without_a_common_column_are_said_to_differ():
    logs = {"grpo": rows_of("reward", by="step"), "ppo": rows_of("objective/scores", by="step")}
    said = "The scores may be different measurements, as their columns are: "
    ends = ["reward of grpo", "objective/scores of ppo"]
    assert said_of_scores(read_result_of(logs)) == [f"{said}{'; '.join(ends)}."]
    one_by_one = [read_result_of({name: log}) for name, log in logs.items()]
    assert said_of_scores(read_result_of(one_by_one)) == [f"{said}{'; '.join(ends)}."]
    ours = [{"credit": "abc", "seed": 0, "step": at, "score": at} for at in range(3)]
    assert said_of_scores(read_result_of([ours, one_by_one[0]])) == [
        f"{said}score of abc; reward of grpo."
    ]
    tracked = {"hub": rows_of("train/reward", by="step"), "log": rows_of("reward", by="step")}
    assert not said_of_scores(read_result_of(tracked))  # two names of one measurement


@pytest.mark.parametrize(
    ("name", "credit", "seed"),
    [
        ("abc-seed-1", "abc", 1),
        ("abc seed 1", "abc", 1),
        ("abc, seed=12", "abc", 12),
        ("my_run_seed2", "my_run", 2),
        ("abcseed1", "abcseed1", 0),
        ("linseed2", "linseed2", 0),
        ("seed-1-abc", "seed-1-abc", 0),
    ],
)
def test_the_seed_is_read_alike_of_folders_and_of_names(tmp_path, name, credit, seed):
    folder, log = tmp_path / name, {"log_history": HISTORY}
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps(log))
    for curves in (read_curves(folder), read_curves(HISTORY, name=name)):
        assert [(curve.credit, curve.seed) for curve in curves] == [(credit, seed)]


def stored_log(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    return str(folder)


def test_a_name_has_several_runs(tmp_path):
    plain = [stored_log(tmp_path / name) for name in ("a", "b", "c")]
    named = [Path(stored_log(tmp_path / f"x-seed-{seed}")) for seed in (5, 2, 9)]
    result = read_result_of({"mine": plain, "theirs": named, "rows": [HISTORY[:2], HISTORY[:2]]})
    (group,) = result.found.groups
    assert {name: entry.seeds for name, entry in group.rewards.items()} == {
        "mine": [0, 1, 2],
        "theirs": [2, 5, 9],
        "rows": [0, 1],
    }
    (group,) = read_result_of({"mine": HISTORY[:2]}).found.groups  # rows of one run
    assert group.rewards["mine"].seeds == [0]


def test_one_seed_has_no_interval():
    table = read_result_of({"a": HISTORY[:2], "b": HISTORY[:2]}).summary
    ends = [f"score_{kind}{end}" for kind in ("auc", "final") for end in ("_low", "_high")]
    assert table[ends].isna().all(axis=None)
    assert table.score_auc.notna().all()
    of_pair = ["score_auc_difference_low", "score_auc_difference_high", "score_auc_p"]
    assert table.loc["b", of_pair].isna().all()
    assert table.score_auc_difference["b"] == 0.0
    two = read_result_of({"a": [HISTORY[:2]] * 2, "b": [HISTORY[:2]] * 2}).summary
    assert two.loc["b", [*ends, *of_pair]].notna().all()


def test_what_another_tool_measured_is_said_to_be_its_own(tmp_path):
    for name, gain in (("grpo", 0.2), ("dr-grpo", 0.4)):
        for seed in range(5):
            rows = [
                {"step": s, "reward": gain * s + 0.1 * seed, "kl": 0.01 * s, "entropy": 1.0}
                | {"completions/mean_length": 9.0}
                for s in range(6)
            ]
            folder = tmp_path / f"{name}-seed-{seed}"
            folder.mkdir()
            (folder / "trainer_state.json").write_text(json.dumps({"log_history": rows}))
    logs, out = sorted(tmp_path.iterdir()), tmp_path / "out"
    summary = report_curves(logs, out, CurveSettings(baseline="grpo"))
    page = (out / "report.html").read_text()
    again = report_curves(out, tmp_path / "again", CurveSettings(baseline="grpo"))
    for found in (summary, again):  # the second is read from curves.csv and its summary
        told = found.measurements
        assert {one["of"] for one in told.values()} == {"what the tool that logged it measured"}
        assert told["score"]["meaning"].startswith("The column reward of ")
        assert told["kl"]["meaning"].startswith(
            "The column kl of trainer_state.json, in TRL a mean"
        )
        assert "completions/mean_length" in told["length"]["meaning"]
        assert told["kl"]["unit"] == ""
        (group,) = found.groups
        assert group.equal_kl is None
        assert group.rewards["dr-grpo"].versus_baseline.at_kl is None
        assert {*group.rewards["dr-grpo"].figures["score"]} == {"auc", "final"}
    assert "2 arms" in page
    for wrong in ("frozen policy", "responses.npz", "ats per response", "equal KL", "0.1 nats"):
        assert wrong not in page


def test_the_names_of_a_mapping_have_seeds(tmp_path):
    logs = {f"{name}-seed-{seed}": HISTORY[:2] for name in ("abc", "stock") for seed in (0, 1)}
    (group,) = read_result_of(logs).found.groups
    assert {name: entry.seeds for name, entry in group.rewards.items()} == {
        "abc": [0, 1],
        "stock": [0, 1],
    }
    folder = tmp_path / "made-seed-3"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    named = [("abc", "abc", 3), ("abc-seed-7", "abc", 7), ("seed-7", "seed-7", 3)]
    named += [("linseed2", "linseed2", 3)]  # a word that ends so
    for name, credit, seed in named:  # the seed of the folder, where the name has none
        (curve,) = read_curves(folder, name=name)
        assert (curve.credit, curve.seed) == (credit, seed)
    with pytest.raises(
        TypeError, match=r"got int; runs of several seeds are a mapping, {'abc-seed"
    ):
        read_result_of({"abc": [HISTORY, 3]})
    with pytest.raises(ValueError, match="no curves to read; pass a file"):
        read_result_of({})
