"""Each response's figures, by evaluation and prompt, and what is read off them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokengym.base.files import read_hashed, write_hashed
from tokengym.base.text import number
from tokengym.envs.prompts import datasets
from tokengym.evaluation.measure.evaluate import Evaluator, evaluate
from tokengym.evaluation.measure.measures import MEASURES
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.report.tables import cells, columns
from tokengym.evaluation.result import read_result
from tokengym.evaluation.runs.compare import compare
from tokengym.evaluation.runs.record import packed, read_responses
from tokengym.evaluation.runs.results import _anchors
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.statistics import Curve

SMALL: dict[str, Any] = {
    "rewards": ["sparse", "uniform"],
    "updates": 1,
    "batch_size": 8,
    "max_new_tokens": 4,
    "eval_episodes": 16,
    "reference_samples": 0,
    "executor": "here",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out: Path = tmp_path_factory.mktemp("compared") / "runs"
    compare("MovieReview", out=out, seeds=2, **SMALL)
    return out


def runs_of(folder: Path) -> dict[tuple[str, int], Run]:
    runs = [Run(file.parent) for file in sorted(folder.glob("*/*/run.json"))]
    return {(run.arm, run.seed): run for run in runs}


def test_a_curve_is_the_mean_of_its_table(folder):
    for run in runs_of(folder).values():
        curve = run.curve
        kept = {name for name, m in MEASURES.items() if m.error_by == "prompts"} - {"net_score"}
        assert curve.responses.keys() == kept
        for name, values in curve.responses.items():
            assert values.shape == (2, 16)
            assert np.nanmean(values, axis=1) == pytest.approx(curve[name], abs=1e-5)
        assert "responses.npz" in run.result["files"]


def test_arms_of_a_seed_share_prompts_and_draws_and_seeds_do_not(folder):
    runs = runs_of(folder)
    prompts = {}
    for key, run in runs.items():
        with np.load(run.folder / "responses.npz") as stored:
            prompts[key] = stored["prompt"]
        assert (prompts[key][0] == prompts[key][1]).all()  # of all its evaluations
        assert len({*prompts[key][0].tolist()}) == 16
    for seed in (0, 1):
        first, second = (runs[arm, seed].curve.responses["score"][0] for arm in SMALL["rewards"])
        assert first.tolist() == second.tolist()  # one policy before the first update
        assert (prompts["sparse", seed] == prompts["uniform", seed]).all()
    assert (prompts["sparse", 0] != prompts["sparse", 1]).any()


def test_evaluate_gives_a_row_again(folder):
    run = runs_of(folder)["sparse", 1]
    settings = run.spec.evaluation
    evaluator = run.spec.evaluator()
    untrained = evaluator.untrained(seed=1)
    again = evaluate(
        untrained,
        "MovieReview",
        {"max_new_tokens": 4, "min_new_tokens": 4},
        num_episodes=16,
        seed=settings.seed,
        draws=(1, 0),
    )
    assert again.metrics["score"] == pytest.approx(run.points[0]["score"], abs=1e-6)
    other = evaluator(untrained, draws=(1, 1))
    assert other.metrics["score"] != again.metrics["score"]
    assert other.prompt_ids == again.prompt_ids
    evaluator.close()


def test_another_stream_takes_no_new_seeds(folder, tmp_path):
    """Runs of the folder before evaluations drew by seed and step have one stream for all."""
    with pytest.raises(ValueError, match="stream"):
        compare("MovieReview", out=folder, seeds=3, eval_stream="shared", **SMALL)
    run = runs_of(folder)["sparse", 0]
    stored = read_hashed(run.folder / "spec.json")
    del stored["evaluation"]["stream"]
    write_hashed(tmp_path / "spec.json", stored)
    assert Run(tmp_path).spec.evaluation.stream == "shared"


def test_fewer_prompts_than_episodes_are_all_played_again():
    evaluator = Evaluator(
        "MovieReview",
        {"max_new_tokens": 1, "prompts": ["a", "b", "the film"]},
        num_episodes=7,
        warns=False,
    )
    _, prompt_ids = evaluator._drawn((5, 0))
    assert prompt_ids is not None
    assert sorted(prompt_ids[:3]) == sorted(prompt_ids[3:6]) == [0, 1, 2]
    evaluator.close()


def test_the_error_of_a_figure_is_that_of_one_number_per_prompt():
    """Over the run prompts have 1, 3 and 5: 3 +- 2 / root 3."""
    table = np.array([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0], [2.0, 4.0, 6.0]])
    curve = Curve(
        steps=np.array([0.0, 10.0, 20.0]),
        values={"score": table.mean(axis=1)},
        responses={"score": table},
    )
    assert curve.error("score", "auc") == pytest.approx(2.0 / 3.0**0.5)
    assert curve.error("score", "final") == pytest.approx(2.0 / 3.0**0.5)
    assert curve.of_prompts("score", "auc").mean() == curve.area()
    lost = replace(curve, responses={"score": np.where(table == 3.0, np.nan, table)})
    # Of the second prompt 2 and 4 are known, with a quarter each.
    assert lost.of_prompts("score", "auc").tolist() == [1.0, 3.0, 5.0]
    none = replace(curve, responses={"score": np.where(table % 2 == 0, table, np.nan)})
    assert np.isnan(replace(none, steps=curve.steps).of_prompts("score", "final")).sum() == 0
    assert curve.between(5.0, 20.0).error("score", "auc") is None  # interpolated: no responses


@pytest.mark.parametrize(("own_prompts", "share"), [(True, 5.0**-0.5), (False, 1.0)])
def test_what_measuring_adds_is_said_of_each_figure(own_prompts, share):
    """Where every prompt has the same lead, the difference has no error of measuring.

    Prompts that five seeds have alike leave the error of one.
    """
    settings = SummarySettings(own_prompts=own_prompts)
    prompts, steps = np.arange(4.0), np.arange(3.0)
    curves = []
    for seed in range(5):
        for name, lead in (("sparse", 0.0), ("abc", 1.0)):
            table = np.tile(prompts + lead + 0.1 * seed, (3, 1))
            curves.append(
                Curve(
                    steps=steps,
                    values={"score": table.mean(axis=1)},
                    responses={"score": table},
                    credit=name,
                    seed=seed,
                )
            )
    (group,) = summarize(curves, settings).groups
    of_arm = group.rewards["abc"].measuring["score"]
    expected = prompts.std(ddof=1) / 2.0 * share
    assert of_arm == pytest.approx({"final": expected, "auc": expected})
    assert group.rewards["abc"].versus_baseline.measuring["score"]["auc"] < 1e-12
    place = [title for title, _, _ in columns(group)].index("Score at the end")
    shown = {name: row[place].error for name, row in cells(group).items()}
    assert shown == dict.fromkeys(("sparse", "abc"), f"\u00b1 {number(expected)}")
    page = render_report(summarize(curves, settings), curves)
    assert page.count(f'<small class="error">\u00b1 {number(expected)}</small>') >= 4
    for curve in curves:
        curve.responses["score"][:] = np.nan
    (group,) = summarize(curves).groups
    assert group.rewards["abc"].measuring == {}
    assert {row[place].error for row in cells(group).values()} == {""}


def test_a_share_of_the_way_has_the_error_of_its_score():
    """Of a way of 0.5 the error is twice that of the score."""
    table = np.tile(np.array([0.0, 0.2]), (3, 1))
    curve = Curve(
        steps=np.arange(3.0),
        values={"score": table.mean(axis=1), "gold_score": table.mean(axis=1)},
        responses={"score": table, "gold_score": table},
        credit="sparse",
    )
    settings = SummarySettings(anchors={"gold_score": 0.1}, optimum={"gold_score": 0.6})
    (group,) = summarize([curve], settings).groups
    errors = group.rewards["sparse"].measuring
    assert errors["gold_score"]["final"] == pytest.approx(0.1)
    assert errors["normalised_gold_score"]["final"] == pytest.approx(0.2)


def test_what_has_an_error_is_kept_of_each_response(folder):
    """The table of measurements says of which there are standard errors; a run keeps those."""
    run = runs_of(folder)["sparse", 0]
    measured = run.curve.priced(0.05).responses.keys()
    with_error = {m.name for m in MEASURES.values() if m.error_by == "prompts"}
    assert with_error - {"normalised_score", "normalised_gold_score"} == {*measured}
    result = read_result(folder)
    assert {name for name, of in result["measurements"].items() if of["unit"] == "nats"} == {
        "kl",
        "train_kl",
        "round_kl",
    } & {*result["measurements"]}
    entry = result.found.groups[0].rewards["uniform"]
    size = entry.measuring["score"]["final"]
    assert result.summary.loc["uniform", "score_final_measuring"] == size
    paired = entry.versus_baseline.measuring["score"]["final"]
    assert result.summary.loc["uniform", "score_final_difference_measuring"] == paired


def test_an_evaluation_is_one_line(folder):
    evaluator = Evaluator("MovieReview", {"max_new_tokens": 4}, num_episodes=4)
    found = evaluator(evaluator.untrained())
    scores = np.array([episode.raw_score for episode in found.episodes])
    assert found.errors["score"] == pytest.approx(scores.std(ddof=1) / 2.0)
    line = repr(found)
    size = number(found.errors["score"])
    assert line.startswith(f"Evaluation(4 responses: score {number(scores.mean())} \u00b1 {size}, ")
    assert len(line) < 500
    assert "array" not in line
    evaluator.close()


def test_responses_are_read_as_they_were_packed(tmp_path):
    file = tmp_path / "responses.npz"
    assert read_responses(file, 2) == {}
    file.write_bytes(packed([{"score": [1.0, None], "prompt": [3, 4]}]))
    (table,) = read_responses(file, 1).values()
    assert table[0, 0] == 1.0
    assert np.isnan(table[0, 1])
    file.write_bytes(b"PK")
    with pytest.raises(ValueError, match="is damaged"):
        read_responses(file, 1)
    file.write_bytes(packed([{"score": [1.0, None], "prompt": [3, 4]}]))
    with pytest.raises(ValueError, match=r"score has the shape \(1, 2\), and the curve 3 evalua"):
        read_responses(file, 3)


def test_a_table_of_responses_takes_no_more_memory_than_its_size_allows(tmp_path, monkeypatch):
    file = tmp_path / "responses.npz"
    file.write_bytes(packed([{"score": [0.0] * 50_000}]))  # 200 kB, which pack to a few hundred B
    monkeypatch.setattr(datasets, "MAX_UNPACKED_BYTES", 1_000)
    with pytest.raises(ValueError, match=r"unpacks to more than .*delete its folder"):
        read_responses(file, 1)


def test_the_share_of_the_way_to_the_optimum_starts_where_the_seeds_do():
    """Each seed measures the untrained policy on its own prompts: 0 is the mean of their starts."""

    def run(credit: str, seed: int, first: float) -> Curve:
        gold = np.array([first, 0.5, 0.9])
        return Curve(
            credit=credit,
            seed=seed,
            steps=np.arange(3.0),
            values={"score": 2.0 * gold, "gold_score": gold},
        )

    curves = [run(c, seed, 0.1 * (1 + seed)) for c in ("sparse", "abc") for seed in range(3)]
    anchors = _anchors(curves)
    assert anchors == pytest.approx({"score": 0.4, "gold_score": 0.2})
    settings = SummarySettings(anchors=anchors, optimum={"gold_score": 1.0}, own_prompts=True)
    (group,) = summarize(curves, settings).groups
    share = group.rewards["abc"].figures["normalised_gold_score"]["final"].mean
    assert share == pytest.approx((0.9 - 0.2) / 0.8)
    assert _anchors([*curves, run("apart", 1, 0.7)]) == {}  # an agent that starts elsewhere
