"""The board's verdict: leads with tuning inside, tests over tasks, and its words."""

import numpy as np
import pytest
import scipy.stats

from tokengym.evaluation.report import number
from tokengym.evaluation.statistics import Curve
from tokengym.lab.benchmark.verdict import (
    Leads,
    by_task,
    call,
    detectable_lead,
    in_words,
    leads_of,
    resolution,
    spread_of,
    table_of,
)
from tokengym.lab.protocol import curve_of


def run(score: float, kl: float = 3.0, tokens: float = 300.0) -> Curve:
    """Return a run whose KL goes to ``kl`` in three updates, a score of so much at each but 0."""
    steps = np.arange(4.0)
    points = [
        {"step": s, "tokens": tokens * s / 3, "kl": kl * s / 3, "score": score * (s > 0)}
        | {"gold_score": 2.0 * score * (s > 0)}
        for s in steps
    ]
    return curve_of(points)


def test_a_run_is_scored_less_its_kl_over_its_tokens():
    # score 1 from the first third on: 1 - 1/6 of it; KL rises evenly to 3: 1.5 nats
    assert run(1.0).priced(0.1).area("net_score") == pytest.approx(5 / 6 - 0.15)
    assert run(1.0).priced(0.0).area("net_score") == pytest.approx(5 / 6)


def test_leads_are_shares_of_the_way_by_seed_with_their_parts():
    arm = {"": {seed: run(1.0 + seed, kl=1.5) for seed in (0, 1)}}
    leads = leads_of(arm, {"": {0: run(1.0), 1: run(1.0), 7: run(9.0)}}, way=2.0, price=0.1)
    # half the KL, .75 nats on average, is .075 of score not paid, of a way of 2
    assert leads.net == pytest.approx([0.0375, 0.0375 + 5 / 12])
    assert leads.score == pytest.approx([0.0, 5 / 12])


def test_a_run_with_more_tokens_is_cut_where_the_other_ends():
    """It is not the shorter one that stays at its best level."""
    long, short = {"": {0: run(1.0, tokens=600.0)}}, {"": {0: run(1.0)}}
    cut, other = leads_of(long, short, way=1.0), leads_of(short, long, way=1.0)
    # Of 600 tokens the first 300 hold half the KL; the score is there from a third of 600 on.
    assert cut.net == pytest.approx([-np.array(other.net)[0]])
    assert cut.score == pytest.approx([(100 + 100) / 300 - 5 / 6])


def test_each_seed_takes_the_cell_that_is_better_on_the_others():
    lucky = {0: run(5.0), 1: run(0.0), 2: run(0.0)}
    even = {0: run(1.0), 1: run(1.0), 2: run(1.0)}
    base = {"": {seed: run(0.0) for seed in range(3)}}
    leads = leads_of({"lucky": lucky, "even": even}, base, way=1.0)
    # of the score 5/6 is there on average; not 5 of it on seed 0, which chose that cell
    assert leads.score == pytest.approx([5 / 6, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"2 cells have the seeds \[0\].*two are needed"):
        leads_of({"a": {0: run(1.0)}, "b": {0: run(1.0)}}, base, way=1.0)
    with pytest.raises(ValueError, match="share no seed"):
        leads_of({"": {5: run(1.0)}}, base, way=1.0)


def test_means_are_over_equal_tokens_also_where_they_end_in_a_leap():
    leapt, short = {"": {0: run(0.0, kl=30.0, tokens=600.0)}}, {"": {0: run(0.0, tokens=300.0)}}
    leads = leads_of(leapt, short, way=1.0, price=0.1)
    # In 300 tokens, half way through its second update, its KL rises to 15: 7.5 on average.
    assert leads.net == pytest.approx([0.1 * (1.5 - 7.5)])


def test_settings_of_a_task_enter_as_their_mean():
    leads = {
        "a-1": Leads(net=(1.0, 3.0), score=(0.0, 0.0)),
        "a-2": Leads(net=(3.0, 5.0), score=(2.0, 2.0)),
        "b": Leads(net=(0.0, 1.0), score=(0.0, 0.0)),
    }
    figures = by_task(leads, {"a-1": "a", "a-2": "a", "b": "b"})
    assert figures["a"]["net"].tolist() == [2.0, 4.0]
    assert figures["a"]["score"].tolist() == [1.0, 1.0]
    (row,) = table_of([figures], ["a", "c", "b"])
    assert row.tolist() == pytest.approx([3.0, np.nan, 0.5], nan_ok=True)


def test_the_tests_are_over_tasks_and_corrected_over_rows():
    leads = np.random.default_rng(0).normal([[0.0], [2.0], [0.0]], 1.0, (3, 8))
    calls = call(leads)
    p_values = scipy.stats.ttest_1samp(leads, 0.0, axis=-1).pvalue
    order, running, adjusted = np.argsort(p_values), 0.0, np.empty(3)
    for place, index in enumerate(order):
        running = max(running, min(1.0, (3 - place) * p_values[index]))
        adjusted[index] = running
    assert calls.p_value == pytest.approx(adjusted)
    assert calls.ahead.tolist() == [False, True, False]
    assert call(-leads).behind.tolist() == [False, True, False]


def test_a_task_that_is_not_known_bars_no_row():
    """Its row is tested on the others; one task alone is a test without a finding."""
    known = [4.0, 5.0, 6.0, 5.0]
    calls = call([[*known, np.nan], [np.nan] * 4 + [9.0]])
    assert calls.ahead.tolist() == [True, False]
    alone = scipy.stats.ttest_1samp(known, 0.0)
    assert calls.mean[0] == 5.0
    assert calls.p_value.tolist() == pytest.approx([2 * alone.pvalue, 1.0])
    assert (calls.low[0], calls.high[0]) == pytest.approx(alone.confidence_interval(0.95))


def test_the_verdict_says_what_holds_on_these_tasks_alone_and_what_is_not_known():
    seeds = np.array([-0.1, 0.0, 0.1])

    def said(tasks: list[float], unknown: tuple[str, ...] = ()) -> str:
        nets = {f"{number}": lead + seeds for number, lead in enumerate(tasks)}
        return in_words(call([tasks]), 0, nets, unknown)

    assert said([4.0, 5.0, 6.0, 5.0]) == "ahead"
    assert said([-4.0, -5.0, -6.0, -5.0]) == "behind"
    assert said([9.0, -3.0, -2.0, 1.0]) == (
        "not shown beyond these tasks; on these 4 tasks alone ahead in score - c KL, uncorrected"
    )
    assert said([0.1, -0.1, 0.2, -0.2]) == "not shown beyond these tasks"
    assert said([4.0, 5.0, 6.0, 5.0], ("IMDb-24", "SST-2-16")) == (
        "ahead; of 4 tasks, not known: IMDb-24, SST-2-16"
    )


ROWS, TASKS, SPREAD = 6, 8, 7.0


def test_the_lead_that_is_seen_four_times_in_five_is_that_of_simulated_boards():
    """Tasks differ by a normal deviate; one row of six has the lead, and is called or not."""
    lead = detectable_lead(SPREAD, TASKS, ROWS)
    assert 11.0 < lead < 12.5  # of the way: what an audit of the board had found by simulation
    boards = np.random.default_rng(0).normal(0.0, SPREAD, (10_000, ROWS, TASKS))
    boards[:, 0] += lead
    ahead = call(boards).ahead
    assert ahead[:, 0].mean() == pytest.approx(0.8, abs=0.015)
    false = ahead[:, 1:].any(axis=1).mean()
    assert 0.01 < false < 0.03  # of two-sided 5 %, the half above 0
    boards[:, 0] -= 0.5 * lead
    assert call(boards).ahead[:, 0].mean() < 0.35


def test_the_lead_that_is_seen_by_known_figures():
    # one row: power of Student's test of eight at 1.16 deviations (G*Power: n = 8 for d = 1.16)
    assert detectable_lead(1.0, 8, 1) == pytest.approx(1.156, abs=0.002)
    # without a spread of the spread, z_.975 + z_.8 deviations of a mean of many
    assert detectable_lead(1.0, 10_000, 1) == pytest.approx(2.8016 / 100, rel=1e-3)
    assert detectable_lead(3.0, 8, 1) == pytest.approx(3 * detectable_lead(1.0, 8, 1))


def test_more_tasks_see_less_and_more_seeds_hardly():
    rng = np.random.default_rng(1)
    # tasks differ by 7, seeds within a task by 2: two of them leave 2 / sqrt(2)
    tasks = rng.normal(0.0, 7.0, 200)
    leads = {f"{at}": lead + rng.normal(0.0, 2.0, 2) for at, lead in enumerate(tasks)}
    spread, left = spread_of(leads)
    assert spread == pytest.approx(np.sqrt(49 + 2), rel=0.1)
    assert spread**2 - left**2 == pytest.approx(2.0, rel=0.2)
    eight = {task: leads[task] / 100 for task in [*leads][:8]}
    spread_8, left_8 = spread_of(eight)
    seen, wider, seeded = (
        number(100 * detectable_lead(deviation, count, 6))
        for deviation, count in ((spread_8, 8), (spread_8, 16), (left_8, 8))
    )
    assert float(wider) < float(seeded) < float(seen)
    assert resolution([eight], 6) == (
        f"a lead of {seen} % of the way is seen in 80 of 100 boards with 6 rows and 8 tasks; "
        f"16 tasks would see {wider} %, more seeds on these 8 no less than {seeded} %"
    )
    assert resolution([{"one": [1.0, 2.0]}], 1) == "a verdict takes two tasks"
