"""The study of beta: slopes by hand, what a run pays, and what its page says."""

import re

import pytest

from studies import larger_beta as study
from studies.larger_beta import BETAS, SEEDS, STUDY, arms, figure_of, slopes_of
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import level, way
from tokengym.lab.study import DOCS, NET, Runs, read_rows
from tokengym.lab.tables import paired

PAGE = (DOCS / STUDY.document).read_text(encoding="utf-8")
RUNS = STUDY.published(DOCS).runs
QUOTING = ("README", "papers")
"""Pages that tell the answer too."""


def test_a_slope_is_that_of_least_squares_by_hand() -> None:
    """Betas 0, 0.4 and 1 are 0.467 on average; the last alone has 2 more."""
    assert study.slopes({0.0: {7: 1.0}, 0.4: {7: 1.0}, 1.0: {7: 3.0}})[7] == pytest.approx(
        (0.5333333 * 2.0) / (0.4666667**2 + 0.0666667**2 + 0.5333333**2)
    )


@pytest.mark.parametrize("gae_lambda", BETAS)
def test_a_run_pays_the_share_and_lambda_of_its_cell(gae_lambda: str) -> None:
    for beta, cell in zip(BETAS[gae_lambda], arms(gae_lambda), strict=False):
        made = study.config(cell, DOCS)
        spec = made.spec(made.names[0], 30, None)
        assert spec.reward.text == (f"abc:beta={beta:g}" if beta else "sparse")
        learner = spec.training.learner
        assert (learner.gae_lambda, learner.learning_rate) == (float(gae_lambda), 1e-3)


def test_the_table_has_differences_and_slopes_of_made_runs() -> None:
    """The score is 1 + beta at every update and the KL 2: a slope of 1, and 0 of the KL."""
    rows = [
        {**cell, "seed": seed, "step": step, "tokens": step, "gold_score": 0.5, "kl": 2.0}
        | {"score": 1.0 + beta + 0.1 * seed}
        for beta, cell in zip((*BETAS["0.95"], 0.5), arms("0.95"), strict=True)
        for seed in (30, 31, 32)
        for step in (0, 1, 2)
    ]
    lines = study.betas_table(Runs(rows, STUDY.axes), ["0.95"]).splitlines()
    (one,) = (line for line in lines if " | `abc:beta=1` | " in line)
    assert "**+1.00** (1.000 to 1.00) | 0.500 | 5.10 | 2.00 | " in one
    for least in ("0", "0.2"):
        (line,) = (line for line in lines if f" | a line from {least} to 1 | " in line)
        assert re.search(
            r" \|  \| \+1\.00 \(1\.0+ to 1\.00\) \| 0\.000 \| \+1\.00 \| 0\.000 \|", line
        )
    assert " | 1 minus `uniform` |  | +0.500 (0.500 to 0.500) | 0.000 | +0.500 | " in lines[-1]


def test_every_run_is_published() -> None:
    made = {cell: {*of} for cell, of in RUNS.runs.items()}
    assert made == {cell: {*SEEDS} for gae_lambda in BETAS for cell in arms(gae_lambda)}


def test_the_answer_is_what_decides_and_where_the_rise_is() -> None:
    """Both slopes from 0 are clear; from the next share on that at lambda 0.8 alone."""
    answer = PAGE.partition("![")[0]
    rises = {}
    for gae_lambda, (_, least, *_) in BETAS.items():
        whole, rest = (
            paired_difference(of, [0.0] * len(of))
            for of in (slopes_of(RUNS, gae_lambda, NET, least=at) for at in (0.0, least))
        )
        said = f"{signed(whole.difference)} ({number(whole.low)} to {number(whole.high)})"
        for page in (answer, *(f"{(DOCS / f'{name}.md').read_text('utf-8')}" for name in QUOTING)):
            assert said in page
        assert whole.low > 0
        rises[gae_lambda] = rest
    assert f"a line rises by {signed(rises['0.95'].difference)}, which is not clear" in answer
    assert rises["0.95"].low < 0 < rises["0.8"].low


def test_every_figure_of_the_text_is_one_of_the_tables() -> None:
    tables = "".join(study.tables(STUDY.published(DOCS)).values())
    text = re.sub(r"(?m)^\|.*\n", "", PAGE)
    quoted = {*re.findall(r"\d\.\d{3}\b|\d\.\d\d\b", text)} - {*BETAS, "0.05", "0.06", "0.08"}
    assert len(quoted) > 6
    assert quoted <= {*re.findall(r"\d+\.\d+", tables)}


def test_what_decides_is_the_slope_and_not_the_margin() -> None:
    """It is above 0, and not level; the control is behind beta 1."""
    of = slopes_of(RUNS, "0.95", NET)
    drawn = read_rows(DOCS / "film_reviews" / "best_of_n.csv", text=())
    start, goal = way([row for row in drawn if row["length"] == study.TOKENS])
    assert not level(of, [0.0] * len(of), goal - start).equivalent
    *_, one, uniform = (figure_of(RUNS, cell, NET) for cell in arms("0.95"))
    assert paired_difference(*paired(one, uniform)).low > 0
