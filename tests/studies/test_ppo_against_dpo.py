"""PPO against DPO: the settings of a run, what a setting is chosen by, and the table by hand."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studies import ppo_against_dpo as study
from studies.ppo_against_dpo import SEEDS, STUDY, first_settings, settings_of
from tokengym.lab.study import DOCS, Cell, Row, Runs

EVERY = [cell for agent in study.AGENTS for cell in settings_of(agent)]


def runs_of(golds: dict[Cell, list[float]]) -> Runs:
    """Return runs that end so, a gold for each seed."""
    rows: list[Row] = [
        {**cell, "seed": seed, "step": step, "tokens": 5e5 * step, "score": 0.0, "kl": 3.0 * step}
        | {"gold_score": gold * step, "reward_accuracy": 0.75}
        for cell, of_seeds in golds.items()
        for seed, gold in zip(SEEDS, of_seeds, strict=True)
        for step in (0, 1)
    ]
    return Runs(rows, STUDY.axes)


def test_a_setting_is_chosen_on_the_other_seeds_alone() -> None:
    lucky, second, *others = settings_of("dpo")
    golds = {
        lucky: [0.9, 0.1, 0.1, 0.1, 0.1],
        second: [0.4] * 5,
        **dict.fromkeys(others, [0.0] * 5),
    }
    assert study.chosen(runs_of(golds), "dpo") == [second] * 5


def test_the_difference_is_paired_by_seed_and_needs_every_seed() -> None:
    golds = dict.fromkeys(EVERY, [0.0] * 5)
    best_dpo, best_ppo = (settings_of(agent)[0] for agent in ("dpo", "ppo"))
    golds[best_dpo] = [0.1, 0.2, 0.3, 0.4, 0.5]
    golds[best_ppo] = [0.2, 0.5, 0.4, 0.7, 0.6]
    table = study.tuned_table(runs_of(golds))
    *_, of_older, of_usual, of_chosen = table.splitlines()
    assert "| best in the older runs |  | +0.180 (0.044 to 0.316), 5/5 |" in of_older.replace(
        "*", ""
    )
    assert "| usual |  | 0.000 (0.000 to 0.000), 0/5 |" in of_usual.replace("+", "")
    assert of_chosen.startswith("| PPO minus DPO | best on the other seeds |")
    first = {cell: golds[cell] for cell in first_settings()}
    assert "other seeds" not in study.tuned_table(runs_of(first))
    of_first = runs_of(first)
    del of_first.runs[best_ppo][SEEDS[-1]]
    assert not study.are_made(of_first, first_settings())


def test_every_setting_is_shown_once_all_are_made() -> None:
    golds = {cell: [float(at)] * 5 for at, cell in enumerate(EVERY)}
    lines = study.settings_table(runs_of(golds)).splitlines()[2:]
    assert len(lines) == len(EVERY)
    assert lines[0].startswith("| DPO | 0.1 | 0.0001 | 2.00 (2.00 to 2.00) | 3.00 ")
    del golds[EVERY[-1]]
    assert study.settings_table(runs_of(golds)) == "Not measured yet."


def test_what_the_headline_compares_is_made_first() -> None:
    (cells, seeds), *later = study.rounds()
    assert [*cells] == first_settings()
    assert [*seeds] == [*SEEDS]
    assert {cell for wanted, _ in later for cell in wanted} == {*EVERY}


@pytest.mark.parametrize("cell", first_settings(), ids=str)
def test_a_run_has_the_settings_of_its_cell(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = study._task().own_bundle()
    monkeypatch.setattr(study, "reward_model", lambda seed, out: bundle.reward_model)
    monkeypatch.setattr(study, "pairs_file", lambda seed, out: out / f"{seed}.parquet")
    made = study.config(cell.but(seed=11), tmp_path)
    spec = made.spec(made.names[0], 11, None)
    learner = spec.training.learner
    if cell.agent == "dpo":
        assert learner.loss.beta == cell.price
        assert learner.tuning.learning_rate == cell.learning_rate
        assert learner.tuning.num_train_epochs == 3
        assert learner.pairs == str(tmp_path / "11.parquet")
    else:
        assert (learner.kl_coef, learner.learning_rate) == (cell.price, cell.learning_rate)
        assert (learner.n_epochs, spec.training.batch_size, spec.training.steps) == (2, 64, 20)
        assert spec.task.scorer == str(bundle.reward_model)
    assert spec.training.max_new_tokens == 48


def test_tokens_count_what_was_sampled_and_passed_over(tmp_path: Path) -> None:
    (tmp_path / "measures.json").write_text('{"trained_on": 100, "held_out": {"accuracy": 0.75}}')
    point = {"step": 1, "tokens": 10, "score": 1.0, "gold_score": 0.5, "kl": 2.0}
    record: Any = SimpleNamespace(
        points=[{**point, "step": 0, "tokens": 0}, point],
        spec=SimpleNamespace(task=SimpleNamespace(scorer=str(tmp_path))),
    )
    dpo, ppo = (study.measure(settings_of(agent)[0], record) for agent in ("dpo", "ppo"))
    sampled = 512 * 8 * 48
    assert [row["tokens"] for row in dpo] == [0, sampled + 10]
    assert [row["tokens"] for row in ppo] == [0, sampled + 2 * 48 * 100 * 5 + 3 * 10]
    assert (dpo[-1]["reward_accuracy"], ppo[-1]["reward_accuracy"]) == (None, 0.75)


def test_ranked_pairs_are_best_with_worst_and_inwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "RESPONSES", 4)
    rows = study.ranked_pairs(seed=0, skip=0, count=2)
    by_prompt: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        pair = (row["chosen_score"], row["rejected_score"])
        by_prompt.setdefault(row["prompt_id"], []).append(pair)
    assert len(by_prompt) == 2
    for pairs in by_prompt.values():
        assert len(pairs) <= 2
        for better, worse in pairs:
            assert better > worse
        if len(pairs) == 2:
            (best, worst), (second, third) = pairs
            assert best >= second >= third >= worst


PAGE = (DOCS / STUDY.document).read_text(encoding="utf-8")


def test_what_is_published_has_every_seed_of_what_the_headline_compares() -> None:
    assert study.are_made(STUDY.published(DOCS).runs, first_settings())


@pytest.mark.parametrize("how", ["best in the older runs", "usual", "best on the other seeds"])
def test_the_answer_quotes_the_difference_as_clear_as_it_is(how: str) -> None:
    (answer,) = (line for line in PAGE.splitlines() if line.startswith("**PPO"))
    table = study.tuned_table(STUDY.published(DOCS).runs)
    (line,) = (at for at in table.splitlines() if at.startswith(f"| PPO minus DPO | {how} |"))
    gap = line.split(" | ")[3]
    figures = gap.replace("*", "").partition(",")[0].replace(" (", ", ").rstrip(")")
    assert f"({figures}" in answer or figures.replace(", ", " (", 1).lstrip("+") in answer
    assert gap.startswith("**") == (how != "usual")


def test_what_is_compared_at_one_kl_ends_there() -> None:
    def ending(kl: dict[Cell, float]) -> Runs:
        runs = runs_of({cell: [0.5 if cell.agent == "ppo" else 0.4] * 5 for cell in EVERY})
        for cell, of_seeds in runs.runs.items():
            for points in of_seeds.values():
                points[-1] = {
                    **points[-1],
                    "kl": kl.get(cell, 20.0 if cell.agent == "ppo" else 9.0),
                }
        return runs

    assert study.at_one_kl_table(ending({})) == "There are none."
    near, far = settings_of("ppo")[:2]
    table = study.at_one_kl_table(ending({near: 9.9, far: 10.1}))
    assert len(table.splitlines()) == 2 + len(settings_of("dpo"))
    assert "| +0.100 (0.100 to 0.100), 5/5 | +0.900 (0.900 to 0.900), 5/5 |" in table.replace(
        "*", ""
    )


def test_the_answer_quotes_what_is_had_at_one_kl() -> None:
    table = study.at_one_kl_table(STUDY.published(DOCS).runs)
    more, less = sorted(re.findall(r"[+\u2212](\d\.\d+) \([^|]*\| [+\u2212]", table))
    assert f"it has {more} more or {less} less, by its rate, neither clear" in PAGE
    assert all(" (\u2212" in line for line in table.splitlines()[2:])  # each interval holds 0


def test_every_figure_of_how_it_was_made_is_one_of_its_tables() -> None:
    begins, ends = PAGE.index("## How it was made"), PAGE.index("## What else could explain it")
    told = re.sub(
        r"<!-- (.+) -->\n.*?<!-- end \1 -->|\(http\S*\)", "", PAGE[begins:ends], flags=re.S
    )
    runs = STUDY.published(DOCS).runs
    tables = study.tuned_table(runs) + study.accuracy_table(runs) + study.settings_table(runs)
    shown = re.findall(r"\d+\.\d+", tables)
    quoted = re.findall(r"\d+\.\d+", told)
    assert quoted
    assert {*quoted} <= {*shown}
