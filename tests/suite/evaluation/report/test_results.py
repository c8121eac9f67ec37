"""Results gathered from the folders of runs, made up here."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.comparisons import comparison
from tests.support.evaluation.common import fabricate_curves, fabricate_rows, references
from tokengym.base.errors import UntrustedCodeError
from tokengym.base.files import read_hashed, write_csv, write_hashed
from tokengym.base.settings import changed
from tokengym.evaluation.report.curves import curve_columns, curve_of, read_curves
from tokengym.evaluation.report.facts import Summary
from tokengym.evaluation.report.figures import Paper
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.report.tables import cells, columns
from tokengym.evaluation.result import Result, read_result
from tokengym.evaluation.result import read_curves as read_result_of
from tokengym.evaluation.runs.comparison import Comparison, largest
from tokengym.evaluation.runs.decide import decide
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.elsewhere import CurveSettings, report_curves
from tokengym.evaluation.runs.files import write_results
from tokengym.evaluation.runs.folder import stored_comparison
from tokengym.evaluation.runs.record import RunRecord
from tokengym.evaluation.runs.results import merge_comparisons, write_comparison
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.settings import TrainingSettings
from tokengym.evaluation.runs.spec import run_folder

SHARED = "the gold score, Words, and the score by "
DPO = training_settings("tokengym/MovieReview-v0", "dpo")


@pytest.fixture
def make_comparison(tmp_path: Path):
    def make(
        name: str,
        rewards: tuple[str, ...] = ("sparse",),
        torch: Any = "2.13.0",
        agents: tuple[str, ...] = (),
        training: TrainingSettings | None = None,
        env: str = "MovieReview",
        **changes: Any,
    ) -> tuple[Comparison, Path]:
        settings = changed(TrainingSettings(), **changes) if training is None else training
        config = comparison(env=env, rewards=rewards, agents=agents, seeds=5, training=settings)
        out = tmp_path / name
        by_gold = config.reference.by_gold
        judge = "the gold score, Words" if by_gold else SHARED + "Model"
        for reward in config.names:
            for seed in range(5):
                folder = run_folder(out, reward, seed)
                config.spec(reward, seed, out).write({})
                rows = [r for r in fabricate_rows((reward,)) if r["seed"] == seed]
                if by_gold:
                    rows = [{**row, "score": row["gold_score"]} for row in rows]
                write_csv(folder / "curve.csv", rows, curve_columns())
                result = {
                    "status": "finished",
                    "versions": {"torch": torch if seed else "2.13.0"},
                    "made": {"commit": None, "hardware": "1 core" if seed else "2 cores"},
                    "measured_by": judge,
                }
                write_hashed(folder / "run.json", result)
        return config, out

    return make


def test_a_runs_own_curve_is_that_of_its_file(make_comparison):
    _, out = make_comparison("one")
    folder = run_folder(out, "sparse", 2)
    (expected,) = read_curves(folder / "curve.csv", group_by=())
    curve = curve_of(Run(folder).points, credit="sparse", seed=2)
    assert (curve.credit, curve.seed, curve.group) == ("sparse", 2, ())
    np.testing.assert_array_equal(curve.steps, expected.steps)
    assert [*curve.values] == [*expected.values]
    for name, values in curve.values.items():
        np.testing.assert_array_equal(values, expected.values[name])


def test_prices_of_the_kl_are_compared(make_comparison, tmp_path):
    folders = [make_comparison(f"at-{price}", kl_coef=price)[1] for price in (0.05, 0.2)]
    (group,) = merge_comparisons(folders, tmp_path / "merged", baseline=None).groups
    assert list(group.rewards) == ["sparse (kl_coef 0.05)", "sparse (kl_coef 0.2)"]
    assert group.rewards["sparse (kl_coef 0.2)"].versus_baseline
    found = merge_comparisons(folders, tmp_path / "other", baseline="sparse (kl_coef 0.2)")
    assert found.groups[0].baseline == "sparse (kl_coef 0.2)"
    with pytest.raises(ValueError, match=r"'sparse'.*sparse \(kl_coef 0.05\)"):
        merge_comparisons(folders, None, baseline="sparse")


def test_tasks_are_groups_and_never_arms(make_comparison, tmp_path):
    one = make_comparison("one")[1]
    other = make_comparison("other", env="Detox", kl_coef=0.2, batch_size=8)[1]
    merged = merge_comparisons([one, other], tmp_path / "merged", baseline=None)
    assert [group.group for group in merged.groups] == [
        {"task": "MovieReview"},
        {"task": "Detox"},
    ]
    assert all([*group.rewards] == ["sparse"] for group in merged.groups)
    assert merged.about["settings"]["batch_size"] == "64 (MovieReview), 8 (Detox)"
    assert "env" not in merged.about["settings"]


@pytest.mark.parametrize(("weights", "by_gold"), [("a1", False), ("b2", True)])
def test_a_judge_is_what_its_weights_are(make_comparison, weights, by_gold):
    folders = [make_comparison(name)[1] for name in ("x", "y")]
    for folder, digest in zip(folders, ("a1", weights), strict=True):
        for file in folder.rglob("spec.json"):
            spec, path = read_hashed(file), f"{folder.name}/rm"
            task = {**spec["task"], "reward_model": path}
            write_hashed(file, {**spec, "task": task, "data": {path: digest}})
    assert merge_comparisons(folders, None, baseline=None).by_gold is by_gold


def test_runs_of_two_commits_are_cautioned_of(make_comparison):
    config, out = make_comparison("one")
    file = run_folder(out, "sparse", 3) / "run.json"
    for commit in ("a" * 40, "a" * 40 + "-dirty"):
        made = {"commit": commit, "hardware": "1 core"}
        write_hashed(file, {**read_hashed(file), "made": made})
        file = run_folder(out, "sparse", 4) / "run.json"
    cautions = write_comparison(config, out).groups[0].verdict.cautions
    assert any("commit aaaaaaaaaaaa and aaaaaaaaaaaa-dirty" in said for said in cautions)


def test_a_level_is_of_the_report_and_not_of_the_runs(make_comparison, tmp_path):
    _, one = make_comparison("one")
    _, other = make_comparison("other", ("abc",))

    def read(*folders: Path, level: float | None = None) -> Summary:
        return merge_comparisons(folders, None, baseline=None, level=level)

    narrow, wide = read(one, other, level=0.8), read(one, other)
    assert (narrow.level, wide.level) == (0.8, 0.95)
    ends = [summary.groups[0].rewards["abc"].figures["score"]["auc"] for summary in (narrow, wide)]
    assert ends[0].high - ends[0].low < ends[1].high - ends[1].low
    for file in other.rglob("spec.json"):
        stored = read_hashed(file)
        write_hashed(file, {**stored, "compared": {**stored["compared"], "level": 0.8}})
    assert (read(other).level, read(other).about["settings"]["level"]) == (0.8, 0.8)
    alone = read(other, level=0.9)
    assert (alone.level, alone.about["settings"]["level"]) == (0.9, 0.9)
    merge_comparisons([one], one, baseline=None, level=0.9)
    assert (read(one).level, read(one, level=0.95).level) == (0.9, 0.95)
    merge_comparisons([one], one, baseline=None, level=0.95)
    with pytest.raises(ValueError, match=r"of level 0.95, 0.8; name one: --level 0.95"):
        read(one, other)
    assert read(one, other, level=0.8).groups == narrow.groups
    with pytest.raises(ValueError, match=r"level must be within \(0, 1\), got 80"):
        read(one, level=80)


def test_the_curves_of_groups_are_read_again(make_comparison, tmp_path):
    rewards = ("sparse", "abc")
    changes = ({"tokens": 9000}, {"tokens": 8000, "max_new_tokens": 24})
    folders = [make_comparison(f"made-{i}", rewards, **c)[1] for i, c in enumerate(changes)]
    merged = merge_comparisons(folders, tmp_path, baseline=None)
    again = report_curves(tmp_path / "curves.csv", None)
    for one, other in zip(merged.groups, again.groups, strict=True):
        assert other.group == one.group
        for reward in rewards:
            first, second = (group.rewards[reward].figures for group in (one, other))
            assert first["score"] == second["score"]


@pytest.mark.parametrize("agents", [(), ("ppo:kl_coef=0.1", "loo:group_size=8", "dpo")])
def test_the_specs_of_the_runs_are_all_that_a_report_needs(make_comparison, tmp_path, agents):
    rewards = ("sparse", "abc:beta=0.8")
    config, out = make_comparison("new", rewards, agents=agents)
    _, settings = stored_comparison(out) or (None, {})
    ours = config.runs[0].settings()
    assert settings == ours | {"training": settings["training"]}  # that of any arm
    written = write_comparison(config, out)
    assert merge_comparisons([out], None, baseline=None).groups == written.groups
    for name in config.names[1:]:  # any run's is enough
        shutil.rmtree(run_folder(out, name, 0).parent)
    again = merge_comparisons([out], None, baseline=None)
    assert [run.credit for run in again.missing] == [
        title for title in list(config.titles.values())[1:] for _ in range(5)
    ]


@pytest.mark.parametrize(("prices", "shared"), [((0.1, 0.1), 0.1), ((0.0, 0.1), None)])
def test_learners_at_prices_of_their_own_have_no_score_minus_the_kl_penalty(
    make_comparison, prices, shared
):
    agents = tuple(f"{n}:kl_coef={price}" for n, price in zip(("ppo", "loo"), prices, strict=True))
    config, out = make_comparison("prices", agents=agents)
    summary = write_comparison(config, out)
    (group,) = summary.groups
    assert summary.kl_coef == merge_comparisons([out], None, baseline=None).kl_coef == shared
    assert ("net_score" in group.measures) == (shared is not None)


def test_runs_that_have_not_ended_are_said(make_comparison, tmp_path):
    """Stopped by Ctrl-C, or shared out: what one folder lacks, another may have."""
    _, stopped = make_comparison("stopped", rewards=("sparse", "abc"))
    config, other = make_comparison("other", rewards=("sparse", "abc"))
    for seed in range(1, 5):
        shutil.rmtree(run_folder(stopped, "abc", seed))
    (group,) = merge_comparisons([stopped], tmp_path / "merged", baseline=None).groups
    assert group.missing_seeds == {"abc": [1, 2, 3, 4]}
    said = " ".join(group.verdict.cautions)
    assert "runs that have not ended (abc, seeds 1, 2, 3 and 4); the comparison's own" in said
    for name, seed in product(config.names, config.seeds):
        if run_folder(stopped, name, seed).exists():
            shutil.rmtree(run_folder(other, name, seed))
    whole = merge_comparisons([stopped, other], tmp_path / "both", baseline=None)
    assert (whole.missing, whole.groups[0].fewest_runs) == ([], 5)


def test_a_report_of_other_curves_leaves_the_file_that_it_read_alone(tmp_path):
    """Else the summary would stand beside curves that it is not of."""
    lines = ["credit,seed,step,score,kl", *(f"{{}},0,{step},{step}.5,0.1" for step in (0, 1))]
    files = [tmp_path / name / "curves.csv" for name in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text("\n".join(lines).format(*[file.parent.name] * 2))
    before = files[0].read_text()
    with pytest.raises(ValueError, match=r"the report of 2 files cannot stand in .*whose curves"):
        report_curves(files, tmp_path / "a")
    with pytest.raises(ValueError, match="the report of 'kl' cannot stand in"):
        report_curves(files[0], tmp_path / "a", CurveSettings(score="kl"))
    with pytest.raises(ValueError, match="the report of 'kl' cannot stand in"):
        report_curves(tmp_path / "a", tmp_path / "a", CurveSettings(score="kl"))  # its folder
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["curves.csv"]
    assert files[0].read_text() == before


def test_arms_of_which_none_has_both_measurements_have_no_frontier(tmp_path):
    heads = {"a": "kl", "b": "gold_score"}
    for name, measure in heads.items():
        rows = [f"{name},{seed},{step},{step}.5,0.{step}" for seed in (0, 1) for step in (0, 1)]
        (tmp_path / f"{name}.csv").write_text(
            "\n".join([f"credit,seed,step,score,{measure}", *rows])
        )
    report_curves([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out")
    assert (tmp_path / "out" / "report.html").stat().st_size > 0


def test_counts_of_nine_digits_are_kept(tmp_path):
    """A cell shows eight digits of another number: 100000019 would be read again as 100000020."""
    steps, file = [0, 100_000_019, 200_000_033], tmp_path / "log.csv"
    lines = [f"sparse,0,{step},{step},0.{step}" for step in steps]
    file.write_text("\n".join(["credit,seed,step,tokens,score", *lines]))
    report_curves(file, tmp_path / "out")
    (curve,) = read_curves(tmp_path / "out" / "curves.csv")
    assert curve.steps.tolist() == curve["tokens"].tolist() == steps


def test_the_command_is_that_of_the_comparison_as_it_has_grown():
    """A run that began before more seeds were asked for keeps the command of that time."""

    few, more = (decide("MovieReview", seeds=seeds).reference for seeds in (2, 3))
    assert largest([few, more, few]) is more
    assert more.command.endswith("--seeds 3")


def test_runs_that_two_folders_lack_are_said_once(make_comparison, tmp_path):
    """One that failed in a folder and finished in another is in the figures."""
    folders = [make_comparison(name, rewards=("sparse", "abc"))[1] for name in ("one", "two")]
    for out, seeds in zip(folders, ((0, 1), (2, 3)), strict=True):
        for name, seed in product(("sparse", "abc"), (*seeds, 4)):
            folder = run_folder(out, name, seed)
            spec = (folder / "spec.json").read_bytes()
            shutil.rmtree(folder)
            if name == "abc":
                folder.mkdir()
                (folder / "spec.json").write_bytes(spec)
    failed = {"status": "failed", "error": "the disk was full"}
    for out, seed in ((folders[0], 0), (folders[0], 4), (folders[1], 4)):
        write_hashed(run_folder(out, "abc", seed) / "run.json", failed)
    merged = merge_comparisons(folders, None, baseline=None)
    (group,) = merged.groups
    assert group.rewards["abc"].seeds == [0, 1, 2, 3]
    assert (group.failed_seeds, group.failed) == ({"abc": [4]}, 1)
    assert group.missing_seeds == {"sparse": [4]}


def test_runs_of_learners_with_other_settings_are_groups(make_comparison, tmp_path):
    folders = [make_comparison("ppo")[1], make_comparison("dpo", training=DPO)[1]]
    groups = merge_comparisons(folders, tmp_path / "merged", baseline=None).groups
    assert [group.group["agent"] for group in groups] == ["ppo", "dpo"]
    assert all("beta" not in group.group for group in groups)  # which PPO does not have


@pytest.mark.parametrize("rewards", [("sparse", "uniform"), ("sparse", "r3")])
def test_the_report_says_what_all_runs_are_measured_by(make_comparison, rewards):
    config, out = make_comparison("mixed", rewards)
    summary = write_comparison(config, out)
    page = (out / "report.html").read_text()
    verdict = summary.groups[0].verdict
    words = " ".join([verdict.headline, *verdict.differences])
    by_gold = "r3" in rewards
    assert "score over the run" in words
    assert ("gold score over the run" in words) == by_gold
    assert ("what the learner itself maximises" in page) != by_gold
    assert ("before any shaping or centring" in page) != by_gold
    assert ("<h3>Gold score against score</h3>" in page) != by_gold
    assert page.count("<h3>Gold score minus the KL penalty</h3>") == by_gold * page.count(
        "<h3>KL to the reference</h3>"
    )
    judge = "the gold score, Words" + ("" if by_gold else ", and the score by Model")
    assert f">Measured by</dt><dd>{judge}</dd>" in page


def test_groups_without_a_setting_are_read_and_shown_again(make_comparison, tmp_path):
    """A cell of curves.csv is empty where a learner has no such setting."""
    folders = [make_comparison(f"at-{price}", kl_coef=price)[1] for price in (0.05, 0.2)]
    folders.append(make_comparison("dpo", training=DPO)[1])
    merged = merge_comparisons(folders, tmp_path / "merged", baseline=None)
    groups = [group.group for group in merged.groups]
    assert ["kl_coef" in group for group in groups] == [True, True, False]
    result = read_result(tmp_path / "merged")
    assert [dict(group) for group in dict.fromkeys(c.group for c in result._curves)] == groups
    legend = result.plot().get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert ["kl_coef" in label for label in labels] == [True, True, False]
    assert "<img" in result._repr_html_()
    again = [read_result_of(one).found.groups for one in (result, tmp_path / "merged")]
    assert [[group.group for group in read] for read in again] == [groups, groups]


@pytest.mark.parametrize(("has_gold", "num_cautions"), [(True, 0), (False, 1)])
def test_rewards_of_different_scorers_without_a_gold_score_are_cautioned_of(
    make_comparison, has_gold, num_cautions
):
    config, out = make_comparison("mixed", ("sparse", "r3"))
    if not has_gold:
        for curve in out.glob("*/*/curve.csv"):
            rows = [{**row, "gold_score": None} for row in csv.DictReader(curve.open())]
            write_csv(curve, rows, curve_columns())
    summary = write_comparison(config, out)
    cautions = summary.groups[0].verdict.cautions
    said = [line for line in cautions if "sparse's scorer" in line]
    assert (summary.by_gold, len(said)) == (has_gold, num_cautions)


@pytest.mark.parametrize(
    ("rewards", "judge"),
    [(("sparse", "r3"), "the gold score, Words"), (("sparse",), SHARED + "Other")],
)
def test_folders_with_different_judges_are_compared_by_the_gold_score(
    make_comparison, tmp_path, rewards, judge
):
    first, one = make_comparison("one", rewards)
    second, other = make_comparison("other", ("abc",))
    write_measured_by(one, judge)
    out = tmp_path / "merged"
    merged = merge_comparisons([one, other], out, baseline=None)
    (group,) = merged.groups
    assert (merged.by_gold, merged.about["measured_by"]) == (True, "the gold score, Words")
    for entry in group.rewards.values():
        assert entry.figures["score"] == entry.figures["gold_score"]
    for curve in read_curves(out / "curves.csv"):
        np.testing.assert_array_equal(curve.values["score"], curve.values["gold_score"])
    for config, folder in ((first, one), (second, other)):  # their curves alone, likewise
        write_comparison(config, folder)
    alone = report_curves([one / "curves.csv", other / "curves.csv"], None)
    for name, entry in alone.groups[0].rewards.items():
        assert entry.figures["score"] == group.rewards[name].figures["score"]
    assert any("measures all" in line for line in alone.groups[0].verdict.cautions)
    for read in EACH_WAY:
        found = read([one, other]).found
        assert (found.by_gold, found.about["measured_by"]) == (True, "the gold score, Words")
        assert any("measures all" in line for line in found.groups[0].verdict.cautions)
        for name, entry in found.groups[0].rewards.items():
            assert entry.figures["score"]["auc"] == pytest.approx(
                group.rewards[name].figures["score"]["auc"]
            )
    assert merged.anchors.reference["score"] == 0.1
    said = [line for line in group.verdict.cautions if "measures all" in line]
    assert len(said) == 1
    assert f"{judge}, those of other by {SHARED}Model" in said[0]


@pytest.mark.parametrize("lacks", ["a column", "the scorer"])
def test_folders_with_different_judges_and_no_common_gold_score_are_refused(make_comparison, lacks):
    first, one = make_comparison("one", ("sparse", "r3"))
    second, other = make_comparison("other", ("abc",))
    judge = "Model; the task has no gold score"
    if lacks == "a column":
        for curve in other.glob("*/*/curve.csv"):
            rows = [{**row, "gold_score": None} for row in csv.DictReader(curve.open())]
            write_csv(curve, rows, curve_columns())
    else:
        judge = "the gold score, Other, and the score by Model"
    write_measured_by(other, judge)
    match = rf"one are measured by the gold score, Words, those of .*other by {judge}, and no gold"
    with pytest.raises(ValueError, match=match):
        merge_comparisons([one, other], None, baseline=None)
    for made in ((first, one), (second, other)):
        write_comparison(*made)
    with pytest.raises(ValueError, match="no gold score is the same for all"):
        report_curves([one / "curves.csv", other / "curves.csv"], None)
    for read in EACH_WAY:
        with pytest.raises(ValueError, match="no gold score is the same for all"):
            read([one, other])


EACH_WAY: list[Callable[[list[Path]], Result]] = [
    lambda folders: read_result_of([*map(str, folders)]),
    lambda folders: read_result_of([read_result(folder) for folder in folders]),
    lambda folders: read_result_of([read_result_of(folder) for folder in folders]),
    lambda folders: read_result_of([read_result_of(read_result(folder)) for folder in folders]),
]
"""How curves of folders are read: from these, from results, and from curves of either."""


def test_a_column_has_the_judge_that_is_its_own(make_comparison):
    for number, name in enumerate(("one", "other", "third")):
        config, out = make_comparison(name, ("sparse", "abc", "uniform")[number : number + 1])
        write_measured_by(out, f"the gold score, {'WWV'[number]}, and the score by {number}")
        write_comparison(config, out)
    folders = [out.with_name(name) for name in ("one", "other", "third")]
    result = read_result_of(folders[:2], score="gold_score")
    assert result["measured_by"] == "the gold score, W"
    assert not any("measures all" in line for line in result.found.groups[0].verdict.cautions)
    with pytest.raises(ValueError, match="no gold score is the same for all"):
        read_result_of(folders, score="gold_score")
    assert read_result_of(folders, score="kl")["measured_by"] == ""  # which no scorer measures


def test_titles_that_two_versions_word_otherwise_are_one_judge(make_comparison):
    """One folder has one judge, and what it shares with another measures both."""
    _, one = make_comparison("one")
    _, other = make_comparison("other", ("abc",))
    for out, seed in ((one, 0), (other, 1)):
        write_measured_by(out, SHARED + "the Model", f"*/seed-{seed}")
    assert not merge_comparisons([one, other], None, baseline=None).by_gold


def write_measured_by(out: Path, judge: str, runs: str = "*/*") -> None:
    """Put other words of what measured them into the runs of a folder."""
    for file in out.glob(f"{runs}/run.json"):
        write_hashed(file, {**read_hashed(file), "measured_by": judge})


RULES = """
from tokengym.rewards import shares, token_credit


@token_credit(control=True)
def blind(paid, response_mask):
    return paid[:, None] * shares(1.0 * response_mask, response_mask)
"""
FIXED = {"advantage": "rloo", "group_size": 8, "batch_size": 64}
"""A learner that sees no token credit."""


def test_the_report_of_one_comparison_says_what_the_comparison_says(make_comparison, tmp_path):
    rules = tmp_path / "rules.py"
    rules.write_text(RULES)
    rewards = ("sparse", "abc", "uniform", f"{rules}:blind")
    config, out = make_comparison("one", rewards, **FIXED)
    compared = write_comparison(config, out)
    reported = merge_comparisons([out], tmp_path / "report", baseline=None)
    assert reported.about.keys() == compared.about.keys()
    asked = {key: reported.about[key] for key in ("settings", "command")}
    assert reported == replace(compared, about={**compared.about, **asked})
    (group,) = reported.groups
    assert group.controls == ["uniform", config.titles[rewards[3]]]
    assert any("must equal sparse's" in said for said in group.verdict.cautions)
    rules.unlink()  # a figure and a table are made of the results, and run nothing
    paper = Paper(table="markdown", figure=tmp_path / "figure.svg")
    drawn = merge_comparisons([out], None, baseline=None, paper=paper)
    (redrawn,) = drawn.groups
    assert redrawn.rewards.keys() == group.rewards.keys()
    for name, entry in group.rewards.items():
        assert redrawn.rewards[name].figures == entry.figures
    assert (redrawn.controls, redrawn.baseline) == (group.controls, group.baseline)
    assert (tmp_path / "figure.svg").exists()
    again = merge_comparisons([out], tmp_path / "report", baseline=None)
    assert again.groups[0].rewards.keys() == group.rewards.keys()
    written = (out / "curves.csv").read_bytes()
    assert (tmp_path / "report" / "curves.csv").read_bytes() == written
    (out / "summary.json").unlink()  # nor is what was written before
    assert merge_comparisons([out], None, baseline=None).groups == reported.groups


def test_the_report_of_one_comparison_has_the_optimum(make_comparison):
    best = {8: {"gold_score": 2.0}, 9: {"gold_score": 3.0}}
    one, other, longer = (
        make_comparison(name, max_new_tokens=length)[1]
        for name, length in (("one", 8), ("other", 8), ("longer", 9))
    )
    for out, length in ((one, 8), (other, 8), (longer, 9)):
        for file in out.glob("*/*/run.json"):  # as a run writes it
            write_hashed(file, {**read_hashed(file), "optimum": best[length]})
    for seed in range(4):
        shutil.rmtree(run_folder(other, "sparse", seed))
    shutil.rmtree(run_folder(one, "sparse", 4))
    for folders, optimum in (([one], best[8]), ([one, other], best[8]), ([one, longer], None)):
        merged = merge_comparisons(folders, None, baseline=None)
        assert merged.anchors.optimum == optimum


def test_unseen_credit_is_said_of_comparisons_made_apart(make_comparison, tmp_path):
    folders = [make_comparison(name, (name,), **FIXED)[1] for name in ("sparse", "abc")]
    (group,) = merge_comparisons(folders, None, baseline=None).groups
    assert any("the curves of abc must equal" in said for said in group.verdict.cautions)


def test_the_curves_of_learners_are_compared_at_equal_tokens(make_comparison, tmp_path):
    config, out = make_comparison("learners", agents=("ppo", "loo"))
    slow = run_folder(out, "loo", 0)
    rows = [row | {"tokens": row["tokens"] * 3} for row in Run(slow).points]
    write_csv(slow / "curve.csv", rows, curve_columns())
    compared = write_comparison(config, out)
    again = report_curves(out / "curves.csv", None, CurveSettings(baseline="ppo"))
    alone = shutil.copy(out / "curves.csv", tmp_path)
    asked = report_curves(Path(alone), None, CurveSettings(baseline="ppo", axis="tokens"))
    for summary in (again, asked):
        assert summary.axis == "tokens"
        (one,), (other,) = compared.groups, summary.groups
        assert (one.steps, one.cut_at) == (other.steps, other.cut_at)
        figures = [group.rewards["loo"].figures["score"] for group in (one, other)]
        assert figures[0] == figures[1]
    for read in EACH_WAY:
        assert read([out])["axis"] == "tokens"
    assert report_curves(Path(alone), None).axis == "step"
    lines = [",".join(line.split(",")[:3] + line.split(",")[5:]) for line in open(alone)]
    (tmp_path / "plain.csv").write_text("\n".join(map(str.strip, lines)))
    with pytest.raises(ValueError, match="compared at equal tokens; take axis step"):
        report_curves(tmp_path / "plain.csv", None, CurveSettings(axis="tokens"))


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({"ppo": "token", "loo": "sequence"}, "ppo token, loo sequence"),
        ({"ppo": "token", "loo": "token"}, "token"),
        ({}, "auto"),
    ],
)
def test_the_settings_say_what_learners_decided_of_those_left_open(make_comparison, means, said):
    config, out = make_comparison("learners", agents=("ppo", "loo"))
    for arm, mean in means.items():
        file = run_folder(out, arm, 0) / "run.json"
        write_hashed(file, {**read_hashed(file), "gae_lambda": None, "loss_mean": mean})
    assert write_comparison(config, out).about["settings"]["loss_mean"] == said


def test_runs_of_several_versions_are_said(make_comparison):
    summary = write_comparison(*make_comparison("mixed", torch="2.12.1"))
    cautions = summary.groups[0].verdict.cautions
    assert "The runs were made with different versions: torch 2.13.0 and 2.12.1." in cautions
    assert summary.about["made"] == {"hardware": "2 cores and 1 core"}
    assert "2 cores and 1 core" in (make_comparison("mixed")[1] / "report.html").read_text()
    cautions = write_comparison(*make_comparison("one")).groups[0].verdict.cautions
    assert not any("versions" in caution for caution in cautions)


@pytest.mark.parametrize(("advantage", "said"), [("rloo", True), ("gae", False)])
def test_a_learner_that_sees_no_token_credit_is_said(make_comparison, advantage, said):
    learner = {"group_size": 8} if said else {}
    rewards = ("sparse", "abc", "r3")
    made = make_comparison(advantage, rewards, advantage=advantage, batch_size=64, **learner)
    cautions = write_comparison(*made).groups[0].verdict.cautions
    assert any("the curves of abc must equal sparse's" in line for line in cautions) == said


HOLED = "credit,seed,step,score,kl\n" + "\n".join(
    f"{credit},0,{step},{step},{'' if (credit, step) == ('abc', 1) else step}"
    for credit in ("sparse", "abc")
    for step in (0, 1, 2)
)


@pytest.mark.parametrize(
    ("kl_coef", "text", "message"),
    [
        (0.1, HOLED, r"kl_coef=0.1 prices the KL, which abc, seed 0 has not at step 1; fill in"),
        (0.1, "credit,seed,step,score\na,0,0,1\na,0,1,1", "which a, seed 0 has not at step 0"),
        (float("nan"), HOLED, "kl_coef must be a finite number >= 0, got nan"),
        (-0.1, HOLED, "got -0.1"),
    ],
)
def test_a_price_of_kl_needs_the_kl(tmp_path, kl_coef, text, message):
    (tmp_path / "curves.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        report_curves(tmp_path / "curves.csv", None, CurveSettings(kl_coef=kl_coef))


def test_a_measurement_that_a_run_lacks_is_said(tmp_path):
    (tmp_path / "curves.csv").write_text(HOLED + "\nabc,1,0,nan,0\nabc,1,1,1,1\nabc,1,2,1,1")
    (group,) = report_curves(tmp_path / "curves.csv", None).groups
    cautions = " ".join(group.verdict.cautions)
    assert "kl" not in group.rewards["abc"].figures
    assert group.rewards["sparse"].figures["kl"]["final"].mean == 2.0
    assert "KL to the reference: left out of abc (seed 0, step 1), where it was not" in cautions
    assert "1 failed run (abc, seed 1)" in cautions
    assert "--retry-failed" not in cautions  # which curves made elsewhere have not


def test_an_arm_without_kl_takes_nothing_from_the_others(tmp_path):
    """Figures, price, equal KL, tables and pictures of the others are those without it."""
    blind = [
        replace(c, credit="stock", values={**c.values, "kl": np.full_like(c.steps, np.nan)})
        for c in fabricate_curves(("uniform",))
    ]
    settings = SummarySettings(kl_coef=0.05, references=references())
    curves = fabricate_curves(("sparse", "abc"))
    (alone,) = summarize(curves, settings).groups
    summary = summarize([*curves, *blind], settings)
    (group,) = summary.groups
    for name in ("sparse", "abc"):
        assert group.rewards[name].figures == alone.rewards[name].figures
    with_it, without = (each.rewards["abc"].versus_baseline for each in (group, alone))
    assert with_it.at_kl == without.at_kl
    assert with_it.differences.keys() == without.differences.keys()
    assert group.equal_kl == alone.equal_kl
    stock = group.rewards["stock"]
    assert {"kl", "net_score", "normalised_score"}.isdisjoint(stock.figures)
    assert {"kl", "net_score"}.isdisjoint(stock.versus_baseline.differences)
    cautions = group.verdict.cautions
    (said,) = [text for text in cautions if "stock" in text and "KL" in text]
    assert said == "KL to the reference: left out of stock, where it was not measured."
    row = dict(zip((title for title, *_ in columns(group)), cells(group)["stock"], strict=True))
    blanks = [title for title, cell in row.items() if cell.value == "\u2013"]
    assert [cell.below for title, cell in row.items() if title in blanks] == [""] * len(blanks)
    assert any("KL" in title for title in blanks)
    assert row["Score at the end"].value != "\u2013"
    write_results(tmp_path, [*curves, *blind], settings, about={})
    page = (tmp_path / "report.html").read_text()
    assert "Score against KL" in page
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_figures_of_training_are_not_missed_before_it_begins(tmp_path):
    rows = "credit,seed,step,score,train_score\na,0,0,1,\na,0,1,2,1.5\nb,0,0,1,\nb,0,1,2,1.5"
    (tmp_path / "curves.csv").write_text(rows)
    (group,) = report_curves(tmp_path / "curves.csv", None).groups
    assert "left out" not in " ".join(group.verdict.cautions)


def saving(tokens: int) -> Callable[[Path], None]:
    """Return what saves an agent that is a number of tokens."""

    def save(path: Path) -> None:
        path.mkdir()
        (path / "tokens").write_text(str(tokens))

    return save


def loaded(path: Path) -> int:
    return int((path / "tokens").read_text())


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[]", '{"settings": {}, "measured": 3}', "a digit", None]
)
def test_damaged_measurements_are_left_for_those_before(tmp_path, text):
    def record(**changes: Any) -> RunRecord:
        training = changed(TrainingSettings(), **changes)
        config = comparison(env="MovieReview", rewards=("sparse",), training=training)
        return RunRecord(config.spec("sparse", 0, tmp_path))

    unfinished = record()
    assert unfinished.load(loaded) is None
    for tokens in (111, 222):
        unfinished.points = [{"tokens": tokens}]
        unfinished.save(saving(tokens))
    again = record()
    assert (again.load(loaded), again.points) == (222, [{"tokens": 222}])
    assert record(learning_rate=1e-5).load(loaded) is None
    if text is None:  # killed between the two renames
        shutil.rmtree(unfinished.checkpoint)
    else:
        file = unfinished.checkpoint / "measured.json"
        file.write_text(file.read_text().replace("222", "223") if text == "a digit" else text)
    assert (again.load(loaded), again.points) == (111, [{"tokens": 111}])


def test_code_that_a_checkpoint_names_is_not_taken_for_damage(tmp_path):
    config = comparison(env="MovieReview", rewards=("sparse",))
    unfinished = RunRecord(config.spec("sparse", 0, tmp_path))
    unfinished.save(saving(10))

    def refuse(path: Path) -> int:
        raise UntrustedCodeError(f"{path} names code")

    with pytest.raises(UntrustedCodeError, match="names code"):
        unfinished.load(refuse)


def test_toxicity_is_reported_before_and_after(make_comparison):
    config, out = make_comparison("rude")
    for seed in range(5):
        folder = run_folder(out, "sparse", seed)
        points = Run(folder).points
        shares = np.linspace(0.4, 0.0, len(points))
        rows = [point | {"toxicity": share} for point, share in zip(points, shares, strict=True)]
        write_csv(folder / "curve.csv", rows, curve_columns())
    summary = write_comparison(config, out)
    assert summary.anchors.reference["toxicity"] == 0.4
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Toxicity 0.400" in page  # the reference policy
    assert "Toxicity at the end" in page
