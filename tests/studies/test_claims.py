"""The figures of the README's results are those of the published curves."""

import pytest

from studies import critic, end, frontier, ledger_fine, other_tasks
from studies.critic import STARTED
from studies.frontier import kl_over
from tokengym.evaluation.report import number, signed
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import equivalence
from tokengym.lab.study import DOCS

OVERVIEW = (DOCS / "README.md").read_text(encoding="utf-8")
CLAIMS = (DOCS / "claims.md").read_text(encoding="utf-8")
LENGTHS, PAIRS = (24, 48, 96), 10


def test_speeds() -> None:
    read = critic.Readings(critic.STUDY.published(DOCS))
    quoted = []
    for length in LENGTHS:
        sparse, signed, *_ = ledger_fine.cells(length)
        speed = read.fine.speed(signed, sparse, *read.ways[length])
        assert speed is not None
        assert len(read.fine.areas(signed)) == len(read.fine.areas(sparse)) == PAIRS
        ratio, low, high, at_most = speed
        assert not at_most
        quoted.append(f"{ratio:.1f}")
        assert f"{ratio:.1f} ({low:.2f} to {high:.2f})" in CLAIMS
    first, second, third = quoted
    assert f"{first}, {second} and {third} times fewer updates" in OVERVIEW


def test_the_end() -> None:
    runs = end.STUDY.published(DOCS).runs
    sparse, signed, _, started = end.cells_of(48, 120)
    for cell in (signed, started):
        ends = [end.ends_of(runs, one, "net") for one in (cell, sparse)]
        assert ends[0].keys() == ends[1].keys()
        assert len(ends[0]) == PAIRS
        ours, theirs = ([by_seed[seed] for seed in sorted(by_seed)] for by_seed in ends)
        figure = paired_difference(ours, theirs)
        shown = f"{figure.difference:+.3f} ({figure.low:.3f} to {figure.high:.3f})"
        assert shown.replace("-", "\u2212") in CLAIMS
        assert equivalence(ours, theirs, margin=0.086).p_value < 0.05


def test_a_critic_that_knows_the_score() -> None:
    fine = critic.Readings(critic.STUDY.published(DOCS)).fine
    gains, leads = [], []
    for length in LENGTHS:
        sparse, signed, *_ = ledger_fine.cells(length)
        started = STARTED[2].but(length=length)
        gain, lead, left = (
            fine.difference(one, other)
            for one, other in ((started, sparse), (signed, sparse), (started, signed))
        )
        assert gain is not None
        assert lead is not None
        assert left is not None
        assert gain.pairs == lead.pairs == left.pairs == PAIRS
        gains.append(f"+{number(gain.difference)}")
        leads.append(f"+{number(lead.difference)}")
        for figure in (gain, left):
            shown = f"{figure.difference:+.3f} ({figure.low:.3f} to {figure.high:.3f})"
            assert shown.replace("-", "\u2212") in CLAIMS
    said = " ".join(OVERVIEW.split())
    for figures in (gains, leads):
        assert "{}, {} and {}".format(*figures) in said


def test_other_tasks():
    runs = other_tasks.STUDY.published(DOCS).runs
    for task in other_tasks.TASKS:
        own, high = other_tasks.signed_cells(task)
        shown = []
        for cell in (own, high):
            figure = runs.difference(cell, other_tasks.cell_of(task, "sparse"))
            assert figure is not None
            assert figure.pairs == 10
            ends = f"({number(figure.low)} to {number(figure.high)})"
            shown.append(f"{signed(figure.difference)} {ends}")
        assert f"{task} {shown[0]} at 0.5, {shown[1]} at 0.95" in CLAIMS
    assert "clearly ahead of `sparse` and both controls on one, Detox" in CLAIMS


def test_score_gold_and_kl_apart() -> None:
    """Each sentence of the README, by the parts that a lead in score - c KL may be."""
    page = CLAIMS.replace("\u2212", "-")
    for updates, rows in ((30, (0.845, 0.983)), (120, (-0.072, 0.101))):
        arms = frontier.runs_of(frontier.films(96, updates), DOCS)
        for arm, score in zip(("`abc-signed`", frontier.STARTED), rows, strict=True):
            seeds = sorted(arms[arm].keys() & arms["`sparse`"].keys())
            ours, sparse = ([of[seed] for seed in seeds] for of in (arms[arm], arms["`sparse`"]))
            over, ends, golds, nats = (
                paired_difference([*map(of, ours)], [*map(of, sparse)]).difference
                for of in (
                    frontier.score_over,
                    frontier.score_at_end,
                    frontier.gold_at_end,
                    kl_over,
                )
            )
            assert over == pytest.approx(score, abs=5e-4)
            quoted = {30: (over, nats), 120: (ends, golds)}[updates]
            for value, places in zip(quoted, (3, 2 if updates == 30 else 3), strict=True):
                assert f"{value:+.{places}f}" in page
    speeds = []
    for length in LENGTHS:
        source = frontier.films(length, 30)
        arms = frontier.runs_of(source, DOCS)
        speed = frontier.speed_of(source, arms["`abc-signed`"], arms["`sparse`"], DOCS, 0.0)
        assert speed is not None
        speeds.append(f"{speed.times:.2f} ({speed.low:.2f} to {speed.high:.2f})")
        assert f"| {length} | " in OVERVIEW
        assert f" | {speed.times:.1f} | 10 |" in OVERVIEW
    assert ", ".join(speeds) in page
