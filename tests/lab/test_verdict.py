"""Version 2's verdict: leads with tuning inside, tests over tasks, and its words."""

import numpy as np
import pytest
import scipy.stats

from tokengym.evaluation.statistics import RunPath
from tokengym.lab.benchmark.definition import V1
from tokengym.lab.benchmark.verdict import (
    Leads,
    by_task,
    call,
    in_words,
    leads_of,
    net_of,
    path_of,
    table_of,
)
from tokengym.lab.benchmark.version2 import V2
from tokengym.lab.protocol import RATES


def run(score: float, kl: float = 3.0, tokens: float = 300.0) -> RunPath:
    """Return a run whose KL goes to ``kl`` in three updates, a score of so much at each but 0."""
    steps = np.arange(4.0)
    points = [
        {"step": s, "tokens": tokens * s / 3, "kl": kl * s / 3, "score": score * (s > 0)}
        | {"gold_score": 2.0 * score * (s > 0)}
        for s in steps
    ]
    return path_of(points)


def test_a_run_is_scored_less_its_kl_over_its_tokens():
    # score 1 from the first third on: 1 - 1/6 of it; KL rises evenly to 3: 1.5 nats
    assert net_of(run(1.0), price=0.1) == pytest.approx(5 / 6 - 0.15)
    assert net_of(run(1.0), price=0.0) == pytest.approx(5 / 6)


def test_leads_are_shares_of_the_way_by_seed_with_their_parts():
    arm = {"": {seed: run(1.0 + seed, kl=1.5) for seed in (0, 1)}}
    leads = leads_of(arm, {"": {0: run(1.0), 1: run(1.0), 7: run(9.0)}}, way=2.0, price=0.1)
    assert leads.kl == 1.5
    # half the KL, .75 nats on average, is .075 of score not paid, of a way of 2
    assert leads.net == pytest.approx([0.0375, 0.0375 + 5 / 12])
    assert leads.score == pytest.approx([0.0, 5 / 12])
    assert leads.at_kl == pytest.approx([0.0, 0.5])
    gold = leads_of(arm, {"": {0: run(1.0), 1: run(1.0)}}, way=2.0, measure="gold_score")
    assert gold.at_kl == pytest.approx([0.0, 1.0])


def test_a_run_with_more_tokens_is_cut_where_the_other_ends():
    """It is not the shorter one that stays at its best level."""
    long, short = {"": {0: run(1.0, tokens=600.0)}}, {"": {0: run(1.0)}}
    cut, other = leads_of(long, short, way=1.0), leads_of(short, long, way=1.0)
    # Of 600 tokens the first 300 hold half the KL; the score is there from a third of 600 on.
    assert cut.net == pytest.approx([-np.array(other.net)[0]])
    assert cut.kl == pytest.approx(1.5)
    assert cut.score == pytest.approx([(100 + 100) / 300 - 5 / 6])


def test_each_seed_takes_the_cell_that_is_better_on_the_others():
    lucky = {0: run(5.0), 1: run(0.0), 2: run(0.0)}
    even = {0: run(1.0), 1: run(1.0), 2: run(1.0)}
    base = {"": {seed: run(0.0) for seed in range(3)}}
    leads = leads_of({"lucky": lucky, "even": even}, base, way=1.0)
    assert leads.at_kl == pytest.approx([1.0, 0.0, 0.0])  # not 5 on seed 0, which chose it
    with pytest.raises(ValueError, match=r"2 cells have the seeds \[0\].*two are needed"):
        leads_of({"a": {0: run(1.0)}, "b": {0: run(1.0)}}, base, way=1.0)
    with pytest.raises(ValueError, match="share no seed"):
        leads_of({"": {5: run(1.0)}}, base, way=1.0)


def test_where_the_baseline_leaps_no_score_at_equal_kl_is_given():
    leapt = {"": {0: run(1.0, kl=30.0)}}
    leads = leads_of({"": {0: run(1.0)}}, leapt, way=1.0)
    assert (leads.kl, leads.at_kl) == (None, None)


def test_means_are_over_equal_tokens_also_where_they_end_in_a_leap():
    leapt, short = {"": {0: run(0.0, kl=30.0, tokens=600.0)}}, {"": {0: run(0.0, tokens=300.0)}}
    leads = leads_of(leapt, short, way=1.0, price=0.1)
    # In 300 tokens, half way through its second update, its KL rises to 15: 7.5 on average.
    assert leads.net == pytest.approx([0.1 * (1.5 - 7.5)])
    assert (leads.kl, leads.at_kl) == (None, None)  # the path that is known ends at 200 tokens


def test_settings_of_a_task_enter_as_their_mean():
    leads = {
        "a-1": Leads(net=(1.0, 3.0), score=(0.0, 0.0), at_kl=(2.0, 2.0), kl=1.0),
        "a-2": Leads(net=(3.0, 5.0), score=(2.0, 2.0), at_kl=(4.0, 0.0), kl=2.0),
        "b": Leads(net=(0.0, 1.0), score=(0.0, 0.0), at_kl=None, kl=None),
    }
    figures = by_task(leads, {"a-1": "a", "a-2": "a", "b": "b"})
    assert figures["a"]["net"].tolist() == [2.0, 4.0]
    assert figures["a"]["score"].tolist() == [1.0, 1.0]
    assert figures["a"]["at_kl"].tolist() == [3.0, 1.0]
    assert figures["b"]["at_kl"] is None
    (row,) = table_of([figures])
    assert row[0].tolist() == [3.0, 0.5]
    assert row[1].tolist() == pytest.approx([2.0, np.nan], nan_ok=True)


def test_the_tests_are_over_tasks_and_corrected_over_rows_and_figures():
    leads = np.random.default_rng(0).normal([[[0.0]], [[2.0]], [[0.0]]], 1.0, (3, 2, 8))
    calls = call(leads)
    p_values = scipy.stats.ttest_1samp(leads, 0.0, axis=-1).pvalue.reshape(-1)
    order, running, adjusted = np.argsort(p_values), 0.0, np.empty(6)
    for place, index in enumerate(order):
        running = max(running, min(1.0, (6 - place) * p_values[index]))
        adjusted[index] = running
    assert calls.p_value.reshape(-1) == pytest.approx(adjusted)
    assert calls.ahead.tolist() == [False, True, False]
    assert call(-leads).behind.tolist() == [False, True, False]


EIGHT = np.linspace(-1.0, 1.0, 8)


@pytest.mark.parametrize(
    ("net", "at_kl", "ahead"),
    [
        (5.0 + EIGHT, 5.0 + EIGHT, True),
        (5.0 + EIGHT, EIGHT, True),  # one is enough where the other is not behind
        (5.0 + EIGHT, EIGHT - 0.6, False),  # p = .04: behind without a correction
        (5.0 + EIGHT, np.full(8, np.nan), False),  # not known is not shown
        (EIGHT, EIGHT, False),
        (-5.0 - EIGHT, 5.0 + EIGHT, False),
    ],
)
def test_ahead_asks_for_one_ahead_and_none_behind(net, at_kl, ahead: bool):
    calls = call([[net, at_kl]])
    assert calls.ahead.tolist() == [ahead]
    assert calls.behind.tolist() == [False]


def test_the_verdict_says_what_holds_on_these_tasks_alone():
    seeds = np.array([-0.1, 0.0, 0.1])

    def said(tasks: list[float], *, known: bool = True) -> str:
        means = np.array(tasks)
        table = np.array([[means, means if known else np.full(len(tasks), np.nan)]])
        nets = {f"{number}": lead + seeds for number, lead in enumerate(tasks)}
        return in_words(call(table), 0, nets)

    assert said([4.0, 5.0, 6.0, 5.0]) == "ahead"
    assert said([-4.0, -5.0, -6.0, -5.0]) == "behind"
    assert said([9.0, -3.0, -2.0, 1.0]) == (
        "not shown beyond these tasks; on these 4 tasks alone ahead in score - c KL"
    )
    assert said([0.1, -0.1, 0.2, -0.2]) == "not shown beyond these tasks"
    assert said([4.0, 5.0, 6.0, 5.0], known=False).endswith(
        "ahead in score - c KL; scores at equal KL are not known on every task"
    )


def test_version_2_has_twelve_settings_of_eight_tasks():
    names = [at.name for at in V2.settings]
    assert len(set(names)) == 12
    assert len({at.label for at in V2.settings}) == 8
    old = {at.name: at for at in V1.settings if not at.verified}
    for at in V2.settings:
        assert set(at.rates) <= set(RATES)
        if at.name in old:  # the same task, with its learning rates
            same = ("task", "tokens", "fixed", "options", "verified")
            assert [getattr(at, name) for name in same] == [
                getattr(old[at.name], name) for name in same
            ]
    assert {*old} < {*names}
    assert V2.runs() == 288
    assert V2.learner["n_warmup_updates"] == 5
