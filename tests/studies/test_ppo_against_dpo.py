"""Both learn from the same pairs; tables and picture say what the published points hold."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from studies import ppo_against_dpo as study
from studies import ppo_against_dpo_page as pages
from studies.cells import read_rows
from tokengym.base.files import write_csv
from tokengym.envs import bundled
from tokengym.evaluation.statistics import paired_difference

DOCS = Path(__file__).parents[2] / "docs" / "results"
CURVES = DOCS / study.FOLDER / "ppo_dpo.csv"
END = {"dpo": study.EPOCHS, "ppo": study.UPDATES}


def point(agent: study.Agent, seed: int, step: int, kl: float, gold: float, **changes: Any) -> Any:
    """Return one point of the main comparison, as it is read from the csv."""
    row = dict.fromkeys(study.COLUMNS)
    row |= {"agent": agent, "seed": float(seed), "step": float(step), "kl": kl, "gold_score": gold}
    row |= {"part": "sweep", "writer": "own", "prompts": float(study.PROMPTS), "credit": agent}
    row |= {"recipe": study.CHOSEN if agent == "ppo" else "", "price": study.SWEEP[agent][0][0]}
    row |= {"rate": study.SWEEP[agent][0][1], "tokens": 1e5 * step, "pairs": 2000.0 + seed}
    row |= {"distinct_2": 0.3, "unseen": 0.04, "reward_accuracy": 0.8 if agent == "ppo" else None}
    return row | changes


def points() -> list[Any]:
    """Return straight lines: DPO gains .05 a nat, PPO .06 and .01 for every seed besides."""
    rows = []
    for seed in (1, 2, 3):
        slopes: dict[study.Agent, float] = {"dpo": 0.05, "ppo": 0.06 + 0.01 * seed}
        for agent, slope in slopes.items():
            for step, kl in ((0, 0.0), (END[agent], 10.0)):
                rows.append(point(agent, seed, step, kl, slope * kl))
    return rows


def test_every_part_has_its_runs_and_no_two_share_a_file_unless_they_are_one() -> None:
    for part in get_args(study.Part):
        names = [cell.name for cell in study.cells(part, 1)]
        assert len(set(names)) == len(names)
    sweep, pairs = ({c.name for c in study.cells(p, 1)} for p in ("sweep", "pairs"))
    assert len(sweep & pairs) == 1  # DPO's usual settings at the usual number of pairs
    assert {cell.recipe for cell in study.cells("accuracy", 1)} == {"short", study.DEFAULT}
    assert {cell.data.writer for cell in study.cells("writer", 1)} == {"another"}


def test_golds_are_compared_at_equal_kl_and_paired_by_seed() -> None:
    lines = pages.budget_table(points(), "kl", (5.0, 20.0)).splitlines()[2:]
    # At 5 nats: DPO .25; PPO .35, .40, .45.
    assert lines[0].startswith("| 5 nats | 0.250 | 0.400 | **+0.150** (0.026 to 0.274), 3/3 | 3 |")
    assert lines[1] == "| 20 nats | \u2013 | \u2013 | not reached by two seeds of both | 0 |"


def test_at_equal_tokens_only_finished_points_count() -> None:
    lines = pages.budget_table(points(), "tokens", (1e5, 4e5)).splitlines()[2:]
    assert lines[0].startswith("| 100k | 0.000 | 0.000 |")
    # DPO's end costs 300k, PPO's two million: the policy it still has is the untrained one.
    assert lines[1].startswith("| 400k | 0.500 | 0.000 | **\u22120.500**")


def test_endings_take_last_points_and_name_the_price() -> None:
    short = [point("ppo", 1, END["ppo"], 9.0, 0.2, recipe="short", reward_accuracy=0.6)]
    lines = pages.endings_table([*points(), *short]).splitlines()[2:]
    assert len(lines) == 3
    assert lines[0].startswith(
        "| 2,002, its own | DPO, beta 0.1, rate 0.0003 | 0.500 (0.500 to 0.500) | 10.0"
    )
    assert "| PPO, c 0.05, rate 0.0003 | 0.800 (0.700 to 0.900) |" in lines[1]
    assert lines[1].endswith("| 0.800, 5 epochs | 2,000k | 3 |")
    assert "PPO, c 0.05, rate 0.0003 | 0.200" in lines[2]
    assert lines[2].endswith("| 0.600, short training | 2,000k | 1 |")
    assert not pages.is_main(short[0])
    assert all(map(pages.is_main, points()))


def test_both_are_paired_by_seed_on_each_set_of_pairs() -> None:
    """DPO has no reward model: its runs stand beside those of PPO with either training."""
    end = END["ppo"]
    others = [
        point("ppo", s, end, 9.0, 0.1 * s, recipe="short", reward_accuracy=0.6) for s in (1, 2)
    ]
    others += [point("dpo", 1, END["dpo"], 9.0, 0.9, price=0.3)]  # not the usual price
    others += [point("ppo", s, end, 9.0, 0.1, writer="another") for s in (1, 2)]  # DPO's are absent
    lines = pages.usual_table([*points(), *others]).splitlines()[2:]
    assert len(lines) == 2
    # DPO ends at .5, PPO at .7, .8 and .9.
    assert lines[0].startswith("| 2,002, its own | 0.600, short training | 0.500 (0.500 to")
    assert "\u22120.350" in lines[0]
    assert lines[1].startswith(
        "| 2,002, its own | 0.800, 5 epochs | 0.500 (0.500 to 0.500) | 0.800"
    )
    # p = .035 alone, .070 as one of two.
    assert "| +0.300 (0.052 to 0.548), 3/3 | 10.0 | 10.0 | 3 |" in lines[1]


def test_the_lead_on_other_pairs_is_set_against_that_on_as_many_of_its_own() -> None:
    """DPO ends at .3; PPO .1 to .3 above it on its own pairs, and .4, .3 and .8 on others."""
    leads = {"own": (0.1, 0.2, 0.3), "another": (0.4, 0.3, 0.8)}
    trainings: dict[study.Agent, dict[str, str]] = {"dpo": {}, "ppo": {"recipe": study.DEFAULT}}
    rows = [
        point(agent, seed, END[agent], 9.0, 0.3 + (agent == "ppo") * lead, writer=writer, **trained)
        for writer, found in leads.items()
        for seed, lead in enumerate(found)
        for agent, trained in trainings.items()
    ]
    (line,) = pages.writers_table(rows).splitlines()[2:]
    # Differences .3, .1 and .5: mean .3, standard error .2 / sqrt(3), t of two degrees 4.303.
    assert line == "| 0.200 | 0.500 | +0.300 (\u22120.197 to 0.797), 3/3 | 3 |"
    assert pages.writers_table(points()) == "Too few runs yet."


def test_the_quoted_leads_are_the_tables() -> None:
    """The page and the overview say by how much PPO leads, and by how much more on other pairs."""
    rows = [row for row in read_rows(CURVES, text=study.TEXT) if row["seed"] in study.SEEDS]
    leads = pages.leads(rows)
    own, another = (
        list(leads[writer, study.PROMPTS, study.DEFAULT].values()) for writer in ("own", "another")
    )
    for first, second in ((own, [0.0] * 5), (another, [0.0] * 5), (another, own)):
        gap = paired_difference(first, second)
        low = f"{gap.low:.2f}".replace("-", "\u2212")
        page, overview = (
            " ".join((DOCS / name).read_text(encoding="utf-8").split())
            for name in ("preferences.md", "README.md")
        )
        assert re.search(rf"\+{gap.difference:.2f}[ ,(]+{low} to {gap.high:.2f}\)", page)
        assert re.search(rf"\+{gap.difference:.2f}[ ,(]+{low} to {gap.high:.2f}\)", overview)


def test_rates_are_shown_with_where_they_end() -> None:
    tried = [point("ppo", 100, s, 2.0 * s, 0.01 * s, rate=1e-3) for s in (5, END["ppo"])]
    tried += [point("dpo", 100 + i, END["dpo"], 7.0 + 2 * i, 0.3 + 0.2 * i) for i in (0, 1)]
    assert pages.rates_table(tried).splitlines()[2:] == [
        "| DPO | 0.1 | 0.0003 | 0.400 (0.300 to 0.500) | 8.00 (7.00 to 9.00) | 2 |",
        "| PPO | 0.05 | 0.001 | 0.200 (0.200 to 0.200) | 40.0 (40.0 to 40.0) | 1 |",
    ]


def test_each_learner_is_taken_at_what_did_best_on_the_spare_seeds() -> None:
    rows = []
    tried: dict[study.Agent, dict[float, float]] = {
        "dpo": {1e-4: 0.9, 3e-4: 0.1},
        "ppo": {1e-3: 0.8, 1e-4: 0.2},
    }
    for agent, spare in tried.items():
        for rate, gold in spare.items():
            rows.append(point(agent, 100, END[agent], 1.0, gold, rate=rate))
            rows += [point(agent, s, END[agent], 1.0, 1 - gold + s / 10, rate=rate) for s in (1, 2)]
    *learners, gain = (line.split("|") for line in pages.tuned_table(rows).splitlines()[2:])
    assert [line[3].strip() for line in learners] == ["0.0001", "0.001"]
    assert "+0.100" in gain[4]


def test_reward_models_are_averaged_over_seeds() -> None:
    rows = [
        dict(
            zip(
                study.REWARD_COLUMNS,
                ("own", 512, recipe, seed, 2025, 1.0, a, 0.5, 0.1, 1e6),
                strict=True,
            )
        )
        for recipe, accuracies in (("epochs12", (0.8, 0.84)), ("short", (0.5, 0.6)))
        for seed, a in enumerate(accuracies)
    ]
    lines = pages.reward_table(rows).splitlines()[2:]
    assert lines[0].startswith("| 2,025, its own | 3 epochs, batch 32 | 0.550 (0.500 to 0.600)")
    assert "| 12 epochs, batch 16, label smoothing 0.1 |" in lines[1]
    assert "| 0.820 (0.800 to 0.840) | 1.00 | 0.500 | 0.100 | 1,000k | 2 |" in lines[1]


def test_the_picture_is_drawn_and_is_the_same_again(tmp_path: Path) -> None:
    for save in (pages.save_frontiers, pages.save_axes):
        for name in ("one.png", "two.png"):
            save(tmp_path / name, points())
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_the_other_writer_lacks_every_second_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "HELD_OUT", 3)
    tokenizer = bundled("movie_review").tokenizer
    words = set(tokenizer.convert_ids_to_tokens(list(study.unseen_ids())))
    assert len(words) == len(study.unseen_ids()) > 20
    data = study.Pairs(writer="another", prompts=6, seed=0)
    train, held_out = study.make_pairs(data, tmp_path)
    own, own_held_out = study.make_pairs(study.Pairs(prompts=6, seed=0), tmp_path)

    def written(rows: Any) -> set[int]:
        return {i for row in rows for i in (*row["chosen_ids"], *row["rejected_ids"])}

    assert not written(train) & set(study.unseen_ids())
    assert written(own) & set(study.unseen_ids())
    assert list(held_out) == list(own_held_out)  # the trained policy's own either way
    assert {row["prompt_id"] for row in own}.isdisjoint(row["prompt_id"] for row in held_out)
    assert all(row["chosen_score"] > row["rejected_score"] for row in (*train, *own))
    texts = [tuple(row["chosen_ids"]) for row in own] + [tuple(row["rejected_ids"]) for row in own]
    assert len(set(texts)) == len(texts) > 2 * 6  # several pairs a prompt, no response twice
    assert list(study.make_pairs(data, tmp_path)[0]) == list(train)  # read back from its file


def test_both_learn_from_the_same_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HELD_OUT": 4, "UPDATES": 1, "BATCH": 8, "LENGTH": 6, "EPOCHS": 2}.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(study, "PROMPTS", 8)
    few = {"agent": "dpo", "prompts": 8}, {"agent": "ppo", "prompts": 8}
    monkeypatch.setattr(study, "PLAN", {part: [] for part in study.PLAN} | {"sweep": [*few]})
    monkeypatch.setattr(study, "reward_models", lambda seed: [])
    study.run(tmp_path, seeds=(3,))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.csv")}
    study.run(tmp_path, seeds=(3,))
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.csv")} == before
    monkeypatch.setattr(study, "SEEDS", (3,))
    study.publish(tmp_path, tmp_path / "docs")
    rows = study.read_rows(tmp_path / "docs/preferences/ppo_dpo.csv", text=study.TEXT)
    dpo, ppo = ([row for row in rows if row["agent"] == agent] for agent in ("dpo", "ppo"))
    assert [row["step"] for row in dpo] == [0, 1, 2]
    assert [row["step"] for row in ppo] == [0, 1]
    assert dpo[0]["gold_score"] == pytest.approx(ppo[0]["gold_score"])  # the same reference
    assert dpo[0]["pairs"] == ppo[0]["pairs"] > 8
    sampled, passed = 8 * study.RESPONSES * 6, 2 * 6 * dpo[0]["pairs"]
    assert dpo[1]["tokens"] == sampled + passed
    assert ppo[1]["tokens"] == sampled + 5 * passed + 5 * 8 * 6  # five epochs of its reward model
    (model,) = study.read_rows(
        tmp_path / "docs/preferences/reward_models.csv", text=("writer", "recipe")
    )
    assert model["accuracy"] == ppo[1]["reward_accuracy"]


def test_no_run_begins_when_it_is_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "deadline", lambda until: datetime(2026, 1, 1))
    study.run(tmp_path, part="sweep", until="12:25")
    assert not list(tmp_path.glob("*"))


def test_the_page_is_filled_from_its_curves(tmp_path: Path) -> None:
    write_csv(tmp_path / "preferences/ppo_dpo.csv", points(), study.COLUMNS)
    write_csv(tmp_path / "preferences/reward_models.csv", [], study.REWARD_COLUMNS)
    names = ["epochs", "reward-models", "equal-kl", "equal-tokens", "by-pairs", "writers"]
    names += ["rates", "tuned", "endings"]
    marks = "".join(f"<!-- {name} -->\n<!-- end {name} -->\n" for name in names)
    (tmp_path / "preferences.md").write_text(marks)
    pages.page(tmp_path)
    assert "| 4 nats | 0.200 | 0.320 |" in (tmp_path / "preferences.md").read_text()
    for name in ("gold_against_kl", "gold_against_pairs"):
        assert (tmp_path / "preferences" / f"{name}.png").exists()
