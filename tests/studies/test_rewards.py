"""Rewards, preferences and over-optimisation: tables by hand, and figures that the text quotes."""

import re
from dataclasses import replace
from statistics import mean

import pytest

from studies import overoptimisation, preferences, rewards
from tokengym import decide
from tokengym.lab.study import DOCS

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
    golds = rewards.by_seed(runs, rewards.arm(name), rewards.FIGURES["gold at the end"])
    assert len(golds) >= rewards.FEWEST
    (answer,) = (line for line in PAGE.splitlines() if line.startswith("**R3 paid"))
    assert re.search(rf"`{name}` (ends )?at {mean(golds.values()):.2f}\b", answer)


@pytest.mark.parametrize("name", rewards.OTHERS)
def test_the_first_seeds_of_the_other_arms_are_those_of_the_published_runs(name: str) -> None:
    golds = rewards.by_seed(
        rewards.STUDY.published(DOCS).runs, rewards.arm(name), rewards.FIGURES["gold at the end"]
    )
    middle = mean(golds[seed] for seed in range(3))
    assert f"`{name}` ends at {middle:.2f}" in PAGE or f"`{name}` at {middle:.2f}" in PAGE


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


def test_sparse_loses_no_gold_at_its_own_rate() -> None:
    (line,) = (row for row in PAGE.splitlines() if row.startswith("| `sparse`, 0.95"))
    assert line.split(" | ")[3:6] == ["0.204", "0.217", "1.10"]
    assert "rises to 0.22, here at 1.1 nats" in PAGE


def test_a_judge_that_ties_half_agrees_half() -> None:
    about = {"phrasing": "taught", "material": "quarrels", "pairs": 4.0}
    judged = {"bundled": (3.0, 0.0), "words": (1.0, 2.0), "untrained": (0.0, 0.0)}
    rows = [
        {**about, "material": material, "judge": judge, "wins": wins, "ties": ties}
        for material in preferences.MATERIALS
        for judge, (wins, ties) in judged.items()
    ]
    line = preferences.judges_table(rows).splitlines()[2]
    assert line == "| quarrels (Detox) | 75.0% | 50.0% | 0.0% |"


def test_where_gold_is_best_and_what_is_lost_by_hand() -> None:
    golds = {0.0: (0.2, 0.2), 1.0: (0.6, 0.4), 2.0: (0.1, 0.3)}
    rows = [
        {"task": task, "price": price, "rule": rule, "step": step, "score": step}
        | {"kl": 2 * step, "gold_score": gold}
        for task in overoptimisation.TASKS
        for price in overoptimisation.PRICES
        for rule in overoptimisation.RULES
        for step, seeds in golds.items()
        for gold in seeds
    ]
    line = overoptimisation.falls_table(rows).splitlines()[2].split(" | ")
    assert line[3:7] == ["1", "1.00 to 2.00", "0.500 to 0.200", "2.00 to 4.00"]
    assert line[7].startswith("\u22120.300 ")


@pytest.mark.parametrize("figure", ["\u22120.001", "0.077"])
def test_the_answer_on_preferences_is_that_of_its_table(figure: str) -> None:
    page = (DOCS / "preferences.md").read_text(encoding="utf-8")
    (answer,) = (line for line in page.splitlines() if line.startswith("**Once"))
    (row,) = (line for line in page.splitlines() if line.startswith("| PPO minus DPO"))
    assert figure in answer
    assert figure in row
