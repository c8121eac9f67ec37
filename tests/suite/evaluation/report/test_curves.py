from pathlib import Path

import numpy as np
import pytest

from tokengym.evaluation.report.curves import Curve, make_panels, read_curves, write_curves
from tokengym.evaluation.statistics import pairs


def csv(folder: Path, text: str) -> Path:
    path = folder / "curves.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_written_is_read_back(tmp_path, make_rows):
    rows = make_rows(("sparse", "abc"), seeds=2)
    write_curves(tmp_path / "curves.csv", rows)
    found = read_curves(tmp_path / "curves.csv")
    assert [(curve.credit, curve.seed) for curve in found] == [
        ("sparse", 0),
        ("sparse", 1),
        ("abc", 0),
        ("abc", 1),
    ]
    assert found[0].group == ()
    for name in ("score", "gold_score", "kl", "tokens", "wall_s"):
        assert found[0].values[name] == pytest.approx([r[name] for r in rows[:11]], rel=1e-7)
    assert not found[0].has("entropy")  # its column is there and empty


def test_unknown_columns_group(tmp_path):
    path = csv(
        tmp_path,
        "credit,length_cell,seed,step,score\n"
        "abc,8-15,0,1,2.0\nabc,8-15,0,0,1.0\nabc,90-110,0,0,5.0\nabc,90-110,0,1,6.0\n"
        "abc,200,0,2,5.0\nabc,200,0,3,6.0\n",
    )
    first, second, _ = read_curves(path)
    assert (first.group, second.group) == ((("length_cell", "8-15"),), (("length_cell", "90-110"),))
    assert list(first.steps) == [0.0, 1.0]  # sorted
    assert list(first.values["score"]) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("epoch", lambda price, step: step // 2),
        ("epoch", lambda price, step: step + 0.1),  # every part has a single step
        ("price,epoch", lambda price, step: f"{price},{step // (2 + price)}"),  # a true setting too
        ("epoch,rate", lambda price, step: f"{step // 2},{1 - step // 2}"),
    ],
)
def test_a_column_that_changes_in_the_course_of_a_run_is_refused(tmp_path, column, values):
    prices = (0, 1) if "price" in column else (0,)
    rows = [f"a,0,{step},1,{values(price, step)}" for price in prices for step in range(6)]
    path = csv(tmp_path, "\n".join([f"credit,seed,step,score,{column}", *rows, ""]))
    with pytest.raises(ValueError, match=r"epoch.* changes in the course of a run.*--group-by"):
        read_curves(path)
    assert len(read_curves(path, group_by=("price",) if len(prices) == 2 else ())) == len(prices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed,step,score\n0,0,1\n", "has no column 'credit', only seed, step, score; rename one"),
        ("credit,seed,step,score\n", "holds no rows"),
        ("credit,seed,step,score\na,0,x,1\n", "line 2: step must be a number, got 'x'"),
        ("credit,seed,step,score\na,0.5,0,1\n", "seed.*got '0.5'"),
        ("credit,seed,step,score\na,0,0,1\na,0,0,2\n", "line 3 is a second row for step 0 of"),
        ("credit,seed,step,score\na,0,0\n", "line 2 has not 4 cells as the header; fix"),
        ("credit,seed,step,score\na,0,0,high\n", "line 2: score must be a number, got 'high'"),
        ("credit,seed,step,score,score\na,0,0,1,2\n", "has two columns 'score'; rename or drop"),
        ("credit,seed,step,score\na,0,0,1\n ,0,1,1\n", "line 3 names no credit; fill it in"),
        ("credit,seed,step,score\na,0,-1,1\n", "line 2: step must be at least 0, got '-1'"),
        ("credit,seed,step,score\na,0,0,-1e308\n", r"line 2: score must be within 3.4e\+38 of 0"),
        ("\udc89PNG", "is no CSV in UTF-8"),
        (None, "is no file; pass a CSV of curves"),
    ],
)
def test_bad_files_are_named_by_line(tmp_path, text, message):
    path = tmp_path / "curves.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        read_curves(path)


def curve(credit: str, seed: int, steps: list[float], score: list[float], **more: list[float]):
    values = {"score": np.array(score), **{k: np.array(v) for k, v in more.items()}}
    return Curve(credit=credit, seed=seed, steps=np.array(steps, float), values=values)


def test_each_reward_is_drawn_over_what_its_own_runs_cover():
    panel = make_panels(
        [
            curve("a", 0, [0, 10, 20], [0.0, 1.0, 2.0], kl=[0.0, 1.0, 1.0]),
            curve("b", 0, [0, 5, 15], [0.0, 5.0, 15.0]),
        ],
        kl_coef=0.5,
    )[0]
    assert list(panel.steps) == [0.0, 5.0, 10.0, 15.0]
    assert panel.cut_at == 15.0
    assert list(panel.rewards["a"].steps) == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert list(panel.rewards["a"].values["score"][0]) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert list(panel.rewards["b"].steps) == [0.0, 5.0, 10.0, 15.0]
    assert list(panel.rewards["b"].values["score"][0]) == [0.0, 5.0, 10.0, 15.0]
    assert panel.measures == ("score", "kl", "net_score")
    assert list(panel.rewards["a"].values["net_score"][0]) == [0.0, 0.25, 0.5, 1.0, 1.5]
    assert panel.measured(panel.rewards["b"]) == ["score"]  # it takes nothing from the other
    assert panel.lost == {"kl": ("b",)}


def test_what_no_run_measured_is_left_out_without_a_word():
    unknown = [np.nan, np.nan]
    (panel,) = make_panels(
        [
            curve("a", 0, [0, 10], [0.0, 1.0], toxicity=unknown, kl=[0.0, np.nan]),
            curve("b", 0, [0, 10], [0.0, 1.0], toxicity=unknown, kl=[0.0, 2.0]),
        ]
    )
    assert panel.lost == {"kl": ("a (seed 0, step 10)",)}


def test_the_end_of_a_run_is_of_its_own_evaluations():
    """However often others were evaluated between them."""
    scores = [float(at * at) for at in range(11)]
    alone = curve("a", 0, list(range(11)), scores)
    finer = curve("b", 0, [0.1 * at for at in range(101)], [0.0] * 101)
    for curves in ([alone], [alone, finer]):
        panel = make_panels(curves)[0]
        assert panel.rewards["a"].figures("score", "final") == [(81 + 100) / 2]
    ((cut, _),) = pairs({0: alone}, {0: curve("c", 0, [0, 9.5], [0.0, 1.0])})
    assert cut["score"].tolist() == [*scores[:10], (81 + 100) / 2]
    assert cut.end() == (81 + (81 + 100) / 2) / 2


def test_panels_refuse_what_does_not_fit():
    one = curve("a", 0, [0, 1], [0, 1])
    with pytest.raises(ValueError, match="credit 'a' has two runs with seed 0"):
        make_panels([one, one])
    with pytest.raises(ValueError, match=r"share 0 steps \(from 5 to 1\)"):
        make_panels([one, curve("b", 0, [5, 6], [0, 1])])


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@a", "'=a", "''@a", "'a", "plain", "a=b"])
def test_no_name_is_a_formula_and_all_are_read_back(tmp_path, make_rows, name):
    rows = [{**row, "credit": name} for row in make_rows(("sparse",), seeds=1)]
    write_curves(tmp_path / "curves.csv", rows)
    cell = (tmp_path / "curves.csv").read_text().splitlines()[1].split(",")[0]
    assert cell[0] not in "=+-@"
    assert [curve.credit for curve in read_curves(tmp_path / "curves.csv")] == [name]


def test_names_of_foreign_curves_are_made_printable(tmp_path):
    text = "credit,cell,seed,step,score\n\x1b[31mabc,\u202ex,0,0,1.0\n\x1b[31mabc,\u202ex,0,1,2.0\n"
    (curve,) = read_curves(csv(tmp_path, text))
    assert (curve.credit, curve.group) == ("\u241b[31mabc", (("cell", "\ufffdx"),))
