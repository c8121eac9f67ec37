"""Rewards: tables by hand, and figures that the text quotes."""

import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import pytest

from studies import rewards
from tokengym import decide
from tokengym.lab.study import DOCS, Runs

AT_END = rewards.FIGURES["gold at the end"]
PAGE = (DOCS / "rewards.md").read_text(encoding="utf-8")


def run_of(rule: str, group: str, start: float, end: float) -> dict[str, object]:
    return {"rule": rule, "group": group, "start": start, "end": end}


def test_gains_on_known_and_new_things_by_hand() -> None:
    rows = [
        *(run_of("r3", "known", 0.1, end) for end in (0.4, 0.6)),
        *(run_of("r3", "new", 0.1, end) for end in (0.2, 0.2)),
    ]
    *_, line = rewards.entities_table(rows).splitlines()
    cells = line.split(" | ")
    assert cells[1] == "0.100 to 0.500"  # gains of 0.3 and 0.5
    assert cells[2].startswith("0.400 ")
    assert cells[4].startswith("0.100 (0.100 to 0.100)")
    assert cells[5].startswith("+0.300 ")  # 0.2 and 0.4: t = 3 leaves 0 in


@pytest.mark.parametrize("name", rewards.REWARDS)
def test_the_answer_quotes_gold_at_the_end_of_the_published_runs(name: str) -> None:
    runs = rewards.STUDY.published(DOCS).runs
    golds = rewards.by_seed(runs.runs[rewards.arm(name)], *rewards.FIGURES["gold at the end"])
    assert len(golds) >= rewards.FEWEST
    (answer,) = (line for line in PAGE.splitlines() if line.startswith("**R3 paid"))
    assert re.search(rf"`{name}` (ends )?at {mean(golds.values()):.2f}\b", answer)
    start = mean([points[0]["gold_score"] for points in runs.runs[rewards.arm(name)].values()])
    assert f"from {start:.2f}, " in answer
    assert f"({['five', 'ten'][len(golds) == 10]} seeds)" in answer


def test_the_answer_quotes_the_arms_over_another_score() -> None:
    runs = rewards.STUDY.published(DOCS).runs
    end = rewards.FIGURES["gold at the end"]
    equal, gold = (
        mean(rewards.by_seed(runs.runs[rewards.arm(at)], *end).values()) for at in rewards.OTHERS
    )
    assert {*rewards.OTHERS} <= {*rewards.made(runs)}
    said = f"gold itself, paid at the end, ends at {gold:.2f} and R3 in equal parts at {equal:.2f}"
    assert said in PAGE


RUN, END, KL = range(3)
"""Columns of the table of pairs."""


@pytest.mark.parametrize(
    ("said", "pair", "columns", "is_clear"),
    [
        (
            "clearly ahead of `r3` (+0.097 over the run, +0.131 at the end)",
            "`r3-dense` minus `r3`",
            (RUN, END),
            True,
        ),
        ("of `uniform` (+0.082 and +0.105)", "`r3-dense` minus `uniform`", (RUN, END), True),
        (
            "of R3 in equal parts (+0.048 and +0.063), the last for 0.477 nats more",
            "`r3-dense` minus `uniform` over R3",
            (RUN, END, KL),
            True,
        ),
        ("`uniform` minus `sparse` is +0.095", "`uniform` minus `sparse`", (END,), True),
        ("`uniform` over R3 minus `r3` +0.068", "`uniform` over R3 minus `r3`", (END,), True),
        (
            "0.034 more gold than the reward model's score over the run, which is clear",
            "`uniform` over R3 minus `uniform`",
            (RUN,),
            True,
        ),
        ("and 0.042 at the end, which is not", "`uniform` over R3 minus `uniform`", (END,), False),
        ("at the end it has 0.070 more, which is clear", "`r3` minus `sparse`", (END,), True),
        (
            "0.15 more than the reward model's score paid there",
            "`sparse` over gold minus `sparse`",
            (END,),
            True,
        ),
        ("0.081 more than `r3`, both clear", "`r3` minus `sparse` over gold", (END,), True),
        ("`abc` has 0.044 less at the end", "`abc` minus `uniform`", (END,), True),
        ("and 0.052 more than `sparse`", "`abc` minus `sparse`", (END,), True),
    ],
)
def test_the_page_quotes_differences_as_clear_as_they_are(
    said: str, pair: str, columns: Sequence[int], is_clear: bool
) -> None:
    assert said in PAGE
    table = rewards.pairs_table(rewards.STUDY.published(DOCS).runs)
    (line,) = (row for row in table.splitlines() if row.startswith(f"| {pair} | "))
    cells = [line.split(" | ")[1 + column] for column in columns]
    for figure, cell in zip(re.findall(r"\d\.\d+", said), cells, strict=True):
        assert cell.startswith("**") == is_clear
        assert figure in cell


def test_the_answer_quotes_what_is_clear_with_a_rate_for_each() -> None:
    answer = PAGE.split("![")[0]
    table = rewards.own_rates_table(rewards.STUDY.published(DOCS).runs).splitlines()
    for other, more in (("uniform", "0.127"), ("r3", "0.175")):
        (line,) = (row for row in table if row.startswith(f"| `r3-dense` minus `{other}` |"))
        assert f"**+{more}** " in line.split(" | ")[1]
        assert f"{more} more than `{other}`" in answer
    (line,) = (row for row in table if row.startswith("| `r3-dense` minus `uniform` over R3 |"))
    assert "**" not in line
    levels = [
        rewards.at_own_rate(rewards.STUDY.published(DOCS).runs, name, AT_END)[0]
        for name in ("r3-dense", "uniform", "r3", "abc", "sparse")
    ]
    *firsts, last = [f"{mean(of.values()):.2f}" for of in levels]
    assert f"at {', '.join(firsts)} and {last}." in answer


def runs_at(golds: dict[str, dict[float, list[float]]]) -> Runs:
    """Return runs of two points that have these golds, by arm, rate and seed."""
    rows = [
        {**rewards.arm(name, rate), "seed": seed, "step": step, "tokens": step}
        | {"score": 0.0, "kl": 1.0, "gold_score": gold}
        for name, of_rates in golds.items()
        for rate, of_seeds in of_rates.items()
        for seed, gold in enumerate(of_seeds)
        for step in (0, 1)
    ]
    return Runs(rows, rewards.STUDY.axes)


def test_a_rate_is_chosen_on_the_other_seeds_by_the_figure_that_is_shown() -> None:
    arms = (*rewards.REWARDS, *rewards.OTHERS)
    flat = {3e-4: [0.3] * 5, 1e-3: [0.2] * 5}
    lucky = {3e-4: [0.3] * 5, 1e-3: [0.9, 0.25, 0.25, 0.25, 0.25]}
    runs = runs_at({**dict.fromkeys(arms, flat), "sparse": lucky})
    # Of the seeds 1 to 4 the others have 0.9 among them, and 1e-3 the higher mean.
    golds, rates = rewards.at_own_rate(runs, "sparse", rewards.FIGURES["gold at the end"])
    assert golds == {0: 0.3, 1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}
    assert rates == {0: 3e-4, 1: 1e-3, 2: 1e-3, 3: 1e-3, 4: 1e-3}
    first = rewards.own_rates_table(runs).splitlines()[2]
    cells = [cell.strip() for cell in first.split("|")[1:-1]]
    assert cells[0] == "`sparse`"
    assert cells[1].startswith("0.260 ")
    assert cells[2] == "0.0003 (1), 0.001 (4)"


def test_rates_that_one_arm_lacks_are_not_chosen_from() -> None:
    arms = (*rewards.REWARDS, *rewards.OTHERS)
    golds = {name: {3e-4: [0.3] * 5, 1e-3: [0.2] * 5} for name in arms}
    del golds["r3"][1e-3]
    assert rewards.whole_rates(runs_at(golds)) == [3e-4]
    assert rewards.own_rates_table(runs_at(golds)) == "Not measured yet."


def test_an_arm_pays_the_score_that_its_name_says() -> None:
    about = {"uniform over R3": ("uniform", "encoder"), "sparse over gold": ("sparse", "gold.json")}
    for name, (rule, end) in about.items():
        made = rewards.config(rewards.arm(name), DOCS)
        spec = made.spec(made.names[0], 0, None)
        assert spec.reward.text == rule
        assert str(spec.task.scorer).endswith(end)


def test_each_reward_has_the_settings_that_compare_takes() -> None:
    """`tokengym compare --env QuestionAnswer` decides the same of training and of measuring."""
    made = rewards.config(rewards.arm("r3-dense"), DOCS)
    (run,) = made.runs
    (other,) = decide("QuestionAnswer", rewards="r3-dense").runs
    assert run.training == other.training
    assert replace(run.evaluation, samples=4) == other.evaluation
