"""A comparison's results as an object, of folders whose figures are worked out by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.comparisons import comparison
from tokengym.base.files import write_csv, write_hashed
from tokengym.base.settings import changed
from tokengym.evaluation.measure.measures import MEASURES, Measure, register_measure
from tokengym.evaluation.report.curves import curve_columns
from tokengym.evaluation.report.tables import group_table
from tokengym.evaluation.result import Result, read_curves, read_result
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.elsewhere import report_curves
from tokengym.evaluation.runs.results import write_comparison
from tokengym.evaluation.runs.settings import TrainingSettings

ENDS = {"sparse": (1.0, 2.0, 3.0), "abc": (2.0, 4.0, 6.0), "uniform": (2.0, 3.1, 3.9)}
"""Scores that the runs of three seeds end at; all rise from 0 on a straight line."""
# abc ends 1, 2 and 3 above sparse, uniform 1, 1.1 and 0.9. With two degrees of freedom the
# two-sided p-value of t is 1 - t / sqrt(t^2 + 2); t^2 is 12 and 300.
P_ABC, P_UNIFORM = 1.0 - np.sqrt(12.0 / 14.0), 1.0 - np.sqrt(300.0 / 302.0)
T_975 = 4.302652729911275
"""Quantile of Student's t with two degrees of freedom."""
HALF = T_975 / np.sqrt(3.0)
"""Half of the 95 % interval of abc's difference at the end, whose deviation is 1."""


def points(end: float, tokens: int = 100) -> list[dict[str, float]]:
    return [
        {"step": step, "tokens": tokens * step, "score": end * step / 10.0, "wall_s": 0.5 * step}
        for step in (0, 10)
    ]


def write_run(
    config: Comparison, out: Path, name: str, seed: int, status="finished", rows=None
) -> Path:
    """Write what a run of a comparison leaves in its folder."""
    spec = config.spec(name, seed, out)
    assert spec.folder is not None
    spec.write({})
    rows = rows or points(ENDS[spec.reward.name][seed])
    write_csv(
        spec.folder / "curve.csv",
        [{"credit": name, "seed": seed} | r for r in rows],
        curve_columns(),
    )
    result = {"status": status, "versions": {}, "made": {}, "measured_by": "Words"}
    write_hashed(spec.folder / "run.json", result | ({"error": "x"} if status == "failed" else {}))
    texts = [
        {"credit": name, "seed": seed, "step": step, "sample": 0, "prompt": "a", "response": " b c"}
        | {"tokens": [" b", " c"], "token_rewards": [0.25, 0.75], "score": 1.0, "prompt_ids": [1]}
        for step in (0, 10)
    ]
    (spec.folder / "episodes.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    return spec.folder


@pytest.fixture
def config() -> Comparison:
    return comparison(
        env="TokenGeneration",
        rewards=("sparse", "abc", "uniform"),
        seeds=3,
        training=changed(TrainingSettings(), max_new_tokens=8),
    )


@pytest.fixture
def folder(config, tmp_path) -> Path:
    for name in config.names:
        for seed in range(3):
            write_run(config, tmp_path / "runs", name, seed)
    write_comparison(config, tmp_path / "runs")
    return tmp_path / "runs"


def test_a_run_that_was_deleted_is_in_no_figure(folder):
    shutil.rmtree(folder / "uniform" / "seed-1")
    result = read_result(folder)
    assert result.curves.groupby("credit").seed.nunique().to_dict()["uniform"] == 2
    assert result.summary.seeds.to_dict() == {"sparse": 3, "abc": 3, "uniform": 2}


def test_the_summary_has_differences_that_are_worked_out_by_hand(folder):
    table = read_result(folder).summary
    assert table.index.tolist() == ["sparse", "abc", "uniform"]
    assert table.loc["abc", ["reward", "agent", "seeds"]].tolist() == ["abc", "ppo", 3]
    assert table["score_final"].tolist() == pytest.approx([2.0, 4.0, 3.0])  # of three, the mean
    assert table["score_auc"].tolist() == pytest.approx([1.0, 2.0, 1.5])  # half of it
    abc = table.loc["abc"]
    assert abc.score_final_difference == pytest.approx(2.0)
    assert abc.score_final_difference_low == pytest.approx(2.0 - HALF)
    assert abc.score_final_difference_high == pytest.approx(2.0 + HALF)
    assert abc.score_auc_difference == pytest.approx(1.0)
    assert abc.score_auc_difference_low == pytest.approx(1.0 - HALF / 2.0)
    # Holm's method: the smaller p-value twice, the larger once.
    assert abc.score_auc_p == pytest.approx(P_ABC)
    assert table.score_auc_p["uniform"] == pytest.approx(2.0 * P_UNIFORM)
    assert table.score_auc_clear["uniform"] == 0  # three seeds are too few
    assert np.isnan(table.score_auc_difference["sparse"])


def test_a_summary_by_the_name_that_a_measurement_had_is_read(folder):
    file = folder / "summary.json"
    summary = json.loads(file.read_text())
    for place, entry in enumerate(summary["groups"][0]["rewards"].values()):
        share = {"final": {"mean": 0.5 + place / 10.0, "low": 0.4, "high": 0.9}}
        entry["figures"]["normalized_gold_score"] = share
        entry["measuring"]["normalized_gold_score"] = {"final": 0.01}
    file.write_text(json.dumps(summary))
    result = read_result(folder)
    assert result.summary["normalised_gold_score_final"].tolist() == [0.5, 0.6, 0.7]
    assert result.summary["normalised_gold_score_final_measuring"].tolist() == [0.01] * 3
    (group,) = result.found.groups
    shown = group_table(group, 0.95, "Markdown", ["normalized_gold_score"])
    assert "| 0.500 " in shown


@pytest.mark.parametrize("level", [None, [0.95], "0.95", True, 95.0, float("nan")])
def test_a_summary_with_a_damaged_level_is_refused_when_it_is_read(folder, level):
    file = folder / "summary.json"
    summary = json.loads(file.read_text())
    file.write_text(json.dumps({**summary, "level": level}))
    with pytest.raises(ValueError, match=r"summary\.json is damaged.*level must be a number in"):
        read_result(folder)
    del summary["level"]
    file.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"summary\.json is damaged.*KeyError\('level'\).*report"):
        read_result(folder)


@pytest.mark.parametrize(
    "damage", [{"verdict": None}, {"verdict": {"headline": "a", "notes": [1], "differences": []}}]
)
def test_a_summary_with_a_damaged_verdict_is_refused_when_it_is_read(folder, damage):
    file = folder / "summary.json"
    summary = json.loads(file.read_text())
    summary["groups"][0] |= damage
    file.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"summary\.json is damaged or of another version"):
        read_result(folder)


def test_curves_and_samples_are_frames(folder):
    result = read_result(folder)
    curves = result.curves
    assert curves.columns.tolist() == [
        *("credit", "reward", "agent", "seed", "step", "tokens", "wall_s", "score")
    ]
    abc = curves[(curves.reward == "abc") & (curves.seed == 1)]
    assert abc.step.tolist() == [0, 10]
    assert abc.tokens.tolist() == [0, 1000]
    assert abc.score.tolist() == [0.0, 4.0]
    assert abc.wall_s.tolist() == [0.0, 5.0]
    samples = result.samples
    assert len(samples) == 3 * 3 * 2
    assert samples.token_rewards[0] == [0.25, 0.75]
    assert {"credit", "reward", "agent", "prompt", "response"} <= {*samples.columns}
    assert "prompt_ids" not in samples


def test_a_measure_that_is_registered_after_the_import_is_a_column(config, tmp_path, monkeypatch):
    monkeypatch.setattr(MEASURES, "_entries", dict(MEASURES))
    meaning = "Share of responses that ask something."
    register_measure(Measure(name="asked", title="Asked", meaning=meaning, recorded=True))
    for name in config.names:
        for seed in range(3):
            rows = [row | {"asked": 0.25 * seed} for row in points(ENDS[name][seed])]
            folder = write_run(config, tmp_path / "runs", name, seed, rows=rows)
            assert "asked" in (folder / "curve.csv").read_text().splitlines()[0].split(",")
    summary = write_comparison(config, tmp_path / "runs")
    assert "asked" in summary.groups[0].measures
    assert summary.measurements["asked"]["meaning"] == meaning
    assert summary.groups[0].rewards["abc"].figures["asked"]["final"].mean == 0.25
    assert "asked" in (tmp_path / "runs" / "curves.csv").read_text().splitlines()[0].split(",")
    assert read_result(tmp_path / "runs").curves["asked"].unique().tolist() == [0.0, 0.25, 0.5]


def test_it_is_the_mapping_that_the_summary_is(folder):
    result = read_result(folder)
    stored = json.loads((folder / "summary.json").read_text())
    assert {*result} == {*stored}
    assert result["settings"] == stored["settings"]
    (group,) = result["groups"]
    assert group["rewards"]["abc"]["figures"] == stored["groups"][0]["rewards"]["abc"]["figures"]


def test_learners_under_one_reward_are_no_controls(config, tmp_path):
    config = comparison(
        "TokenGeneration", rewards="uniform", agents=("ppo", "loo"), seeds=3, max_new_tokens=8
    )
    for name in config.names:
        for seed in range(3):
            write_run(config, tmp_path, name, seed)
    assert not any(run.is_control for run in config.runs)
    assert read_result(tmp_path)["groups"][0]["controls"] == []


def test_a_folder_with_finished_and_missing_runs_is_read(config, tmp_path):
    out = tmp_path / "runs"
    for name, seed in (("sparse", 0), ("sparse", 1), ("abc", 0), ("abc", 1)):
        write_run(config, out, name, seed)
    write_run(config, out, "uniform", 0, status="failed")
    result = read_result(out)
    assert result.summary["seeds"].to_dict() == {"sparse": 2, "abc": 2}
    assert result.summary.score_final_difference["abc"] == pytest.approx(1.5)
    assert [(run["credit"], run["seed"]) for run in result["failed"]] == [("uniform", 0)]
    assert {(run["credit"], run["seed"]) for run in result["missing"]} == {
        *(("sparse", 2), ("abc", 2), ("uniform", 1), ("uniform", 2))
    }
    assert result["groups"][0]["controls"] == []  # uniform has no finished run
    write_comparison(config, out)
    written = read_result(out)
    pd.testing.assert_frame_equal(written.summary, result.summary)
    write_run(config, out, "sparse", 2)  # which the summary has not seen
    assert read_result(out).summary["seeds"]["sparse"] == 3


def test_a_folder_that_names_code_is_read_and_runs_none(tmp_path):
    file = tmp_path / "rules.py"
    file.write_text(
        "from tokengym.rewards import token_credit\n\n\n@token_credit\ndef mine(scores): ...\n"
    )
    config = comparison(
        env="TokenGeneration", rewards=("sparse", f"{file}:mine"), seeds=3, agents=("ppo",)
    )
    ENDS["mine"] = ENDS["abc"]
    for name in config.names:
        for seed in range(3):
            write_run(config, tmp_path / "runs", name, seed)
    file.write_text("raise SystemExit('run')\n")
    result = read_result(tmp_path / "runs")
    assert result["axis"] == "tokens"
    assert result.summary.index.tolist() == ["ppo sparse", "ppo mine"]
    assert result.summary.reward["ppo mine"] == f"{file}:mine"
    assert result.summary.score_final_difference["ppo mine"] == pytest.approx(2.0)
    assert len(result.samples) == 12


def test_an_empty_folder_is_refused(config, tmp_path):
    with pytest.raises(
        ValueError, match=r"holds no comparison \(.*; name a folder that tokengym compa"
    ):
        read_result(tmp_path)
    with pytest.raises(ValueError, match=r"no folder .*missing; name a folder that tokengym"):
        read_result(tmp_path / "missing")
    config.spec("abc", 0, tmp_path).write({})
    with pytest.raises(ValueError, match=r"no run of .* has finished; name a folder"):
        read_result(tmp_path)


@pytest.fixture
def axes():
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("Agg")
    return Figure().add_subplot()


def lines_of(ax) -> dict[str, list[tuple[float, float]]]:
    """Return the points of the curves by their names in the legend."""
    legend = ax.get_legend()
    colours = [handle.get_color() for handle in legend.legend_handles]
    names = dict(zip(colours, (text.get_text() for text in legend.get_texts()), strict=True))
    return {
        names[line.get_color()]: list(zip(*line.get_data(), strict=True))
        for line in ax.lines
        if line.get_linestyle() in ("-", "--")
    }


def test_a_measurement_is_drawn_over_what_was_spent(folder, axes):
    result = read_result(folder)
    assert result.plot(ax=axes) is axes
    drawn = lines_of(axes)
    assert drawn["abc"] == [(0.0, 0.0), (1000.0, pytest.approx(4.0))]
    assert axes.get_xlabel() == "tokens generated"
    assert len(axes.collections) == 3  # the intervals
    for x, end in (("step", 10.0), ("wall_s", 5.0)):
        axes.clear()
        result.plot("score", x, axes, intervals=False)
        assert lines_of(axes)["sparse"] == [(0.0, 0.0), (end, pytest.approx(2.0))]
        assert not axes.collections
    with pytest.raises(ValueError, match=r"'timesteps' here; write tokens, since a timestep is"):
        result.plot(x="timesteps")
    both: dict[str, Any] = {"y": ["score", "kl"]}
    with pytest.raises(TypeError, match=r"one name, got \['score', 'kl'\]; call it for each"):
        result.plot(**both)
    with pytest.raises(ValueError, match="no measurement 'gold' here"):
        result.plot("gold", ax=axes)
    with pytest.raises(ValueError, match="no measurement 'kl' here"):
        result.plot(ax=axes, against="kl")
    calls: list[dict[str, Any]] = [
        {"x": "kl"},
        {"against": "entropy"},
        {"against": "kl", "x": "step"},
    ]
    for wrong in calls:
        with pytest.raises(ValueError, match=r"x (must be|left out|is one of)|against must be"):
            result.plot(ax=axes, **wrong)
    made = result.plot()
    assert made.figure is not axes.figure


def test_score_is_drawn_against_kl(axes, make_rows):
    result = read_curves(pd.DataFrame(make_rows()))
    result.plot(against="kl", ax=axes)
    assert axes.get_xlabel() == "KL to the reference (nats)"
    result.plot("gold_score", "tokens", axes)


def test_other_tools_are_drawn_beside_it(folder, axes):
    result = read_result(folder)
    result.plot(ax=axes)
    log = [{"time/total_timesteps": t, "rollout/ep_rew_mean": t / 500} for t in (500, 1500)]
    read_curves({"stock": log}).plot(ax=axes)
    drawn = lines_of(axes)
    assert [*drawn] == ["sparse", "abc", "uniform", "stock"]
    assert drawn["stock"] == [(500.0, 1.0), (1500.0, 3.0)]
    assert axes.get_xlim() == (0.0, 1500.0)


def test_curves_of_several_sources_are_one_result(folder, tmp_path):
    result = read_result(folder)
    log = [{"time/total_timesteps": t, "rollout/ep_rew_mean": t / 500} for t in (0, 1000)]
    both = read_curves({"ours": result, "stock": log})
    assert both["axis"] == "tokens"  # what the stock agent counts
    assert not both["measured_by"]  # which nobody knows of the stock agent
    by_step = read_curves({"stock": log}, axis="step")
    assert read_curves(by_step)["axis"] == "step"
    assert both.summary.index.tolist() == ["sparse", "abc", "uniform", "stock"]
    assert both.summary.score_final_difference["stock"] == pytest.approx(1.0)  # 2 less 1, one seed
    both.curves.to_csv(tmp_path / "both.csv", index=False)
    again = read_curves(tmp_path / "both.csv")
    pd.testing.assert_frame_equal(again.summary, both.summary)
    assert isinstance(again, Result)
    assert again.samples.empty


def test_a_notebook_shows_headline_picture_and_table(folder):
    result = read_result(folder)
    page, text = result._repr_html_(), repr(result)
    headline = result["groups"][0]["verdict"]["headline"]
    for shown in (page, text):
        assert headline.replace("'", "&#x27;") in shown or headline in shown
        assert "Score over the run" in shown
        assert "4.00" in shown
    assert page.count('<img alt="Score of each arm" src="data:image/png;base64,iVBOR') == 1
    assert str(folder / "report.html") in text


def test_no_name_is_markup_in_a_notebook():
    rows = [
        {"credit": name, "seed": 0, "step": step, "score": step}
        for name in ("sparse", "<b>abc")
        for step in (0, 1)
    ]
    page = read_curves(rows)._repr_html_()
    assert "&lt;b&gt;abc" in page
    assert "<b>abc" not in page


# --- what commands wrote --------------------------------------------------------------------------


def table_of(ends: dict[str, float], seeds: int = 6) -> str:
    """Return a curves.csv of arms whose score rises to their ends in six updates."""
    rows = [
        f"{name},{seed},{step},{end * step / 6 + seed / 100}"
        for name, end in ends.items()
        for seed in range(seeds)
        for step in range(7)
    ]
    return "\n".join(["credit,seed,step,score", *rows, ""])


def test_what_the_report_of_curves_wrote_is_read_and_shown(tmp_path):
    file, out = tmp_path / "log.csv", tmp_path / "report"
    file.write_text(table_of({"a": 0.75, "b": 0.2}))
    written = report_curves(file, out)
    read, direct = read_result(out), read_curves(file)
    pd.testing.assert_frame_equal(read.curves, direct.curves)
    pd.testing.assert_frame_equal(read.summary, direct.summary)
    assert repr(read).startswith(repr(direct))
    assert read._repr_html_().startswith(direct._repr_html_().removesuffix("</div>"))
    (group,) = read["groups"]
    versus = group["rewards"]["b"]["versus_baseline"]
    assert versus == written.to_json()["groups"][0]["rewards"]["b"]["versus_baseline"]


def test_a_report_beside_its_curves_leaves_them_alone(tmp_path):
    file = tmp_path / "curves.csv"
    file.write_text(text := table_of({"a": 0.75, "b": 0.2}))
    report_curves(file, tmp_path)
    assert file.read_text() == text
    assert read_result(tmp_path).summary["seeds"].to_dict() == {"a": 6, "b": 6}


def test_curves_are_not_shown_beside_the_summary_of_others(config, tmp_path):
    """A comparison that grew may be stopped between curves.csv and summary.json."""
    out = tmp_path / "runs"
    for name in ("sparse", "abc"):
        for seed in (0, 1):
            write_run(config, out, name, seed)
    write_comparison(config, out)
    old = (out / "summary.json").read_text()
    write_run(config, out, "abc", 2)
    write_run(config, out, "sparse", 2)
    write_comparison(config, out)
    new = read_result(out)
    (out / "summary.json").write_text(old)
    stopped = read_result(out)
    pd.testing.assert_frame_equal(stopped.curves, new.curves)
    pd.testing.assert_frame_equal(stopped.summary, new.summary)
    assert stopped.summary["seeds"].to_dict() == {"sparse": 3, "abc": 3}
    for folder in out.glob("*/seed-*"):  # curves alone, with the summary of others
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"summary.json is not the summary of .*curves.csv"):
        read_result(out)
