"""The study's tables say what the curves hold; the other writer lacks half of the words."""

from dataclasses import replace

import numpy as np
import pytest

from tokengym.envs import bundled
from tokengym.envs.files import write_csv
from tokengym.scripts.studies import preferences as study


def rows():
    """Return curves of two points: agent k of seed s ends at k + s / 10."""
    made = []
    for k, cell in enumerate(study.all_cells(None)):
        for seed in (1, 2, 3):
            for step in (0, 5):
                end = k + seed / 10 if step else seed / 100
                made.append(
                    {
                        "study": cell[0],
                        "cell": cell[1],
                        "agent": cell[2],
                        "credit": cell[2],
                        "seed": float(seed),
                        "step": float(step),
                        "tokens": 1000.0 * step,
                        "score": end,
                        "gold_score": end / 4,
                        "kl": end,
                        "distinct_2": 0.5,
                        "unseen": 0.04,
                        "reward_accuracy": 0.75 if cell[2] == "ppo" and cell[1] else None,
                    }
                )
    return made


def test_curves_survive_the_disk(tmp_path):
    for index, row in enumerate(rows()):
        write_csv(tmp_path / f"{index:03d}.csv", [row], study.COLUMNS)
    found = study.read_curves(tmp_path)
    assert [{k: v for k, v in row.items() if k in rows()[0]} for row in found] == rows()


def test_last_and_first_points_are_taken_in_the_order_of_seeds():
    cell = ("lift", "", "online-dpo")  # the second of all
    np.testing.assert_allclose(study.at_end(rows(), cell, "score"), [1.1, 1.2, 1.3])
    np.testing.assert_allclose(study.at_end(rows(), cell, "score", first=True), [0.01, 0.02, 0.03])
    assert study.at_end(rows(), cell, "reward_accuracy") is None


def test_lift_is_judged_by_both_intervals():
    table = study.lift_table(rows()).splitlines()
    assert len(table) == 3 + len(study.LIFT)
    assert table[2].startswith("| reference | 0.020 (0.010 to 0.030)")
    dpo = next(line for line in table if line.startswith("| DPO |"))
    assert dpo.endswith("| 5k | yes |")  # from 0.1 on, above the reference's 0.03
    assert "at most 1.84" in next(line for line in table if "best of 16" in line)
    level = [dict(r, gold_score=0.0) if r["agent"] == "dpo" else r for r in rows()]
    dpo = next(x for x in study.lift_table(level).splitlines() if x.startswith("| DPO |"))
    assert dpo.endswith("| no |")


def test_differences_are_paired():
    table = study.differences_table(rows())
    # In the cell "in", PPO comes one place after DPO: by 1 / 4 of gold with every seed.
    line = "| 512 pairs: PPO - DPO, its own | +0.250 (+0.250 to +0.250) | 3/3 |"
    assert table.splitlines()[2] == line
    assert len(table.splitlines()) == 2 + 4 + 4
    assert "0.750" in study.shift_table(rows())
    fewer = [row for row in rows() if row["study"] != "shift4"]
    assert len(study.differences_table(fewer).splitlines()) == 2 + 4
    assert len(study.shift_table(fewer).splitlines()) == 2 + 1 + 4


def test_the_other_writer_lacks_every_second_word(monkeypatch):
    tokenizer = bundled("movie_review").tokenizer
    words = set(tokenizer.convert_ids_to_tokens(list(study.unseen_ids())))
    assert len(words) == len(study.unseen_ids()) > 20
    monkeypatch.setattr(study, "PROMPTS", 6)
    study.make_pairs.cache_clear()
    found = study.make_pairs("out", 0, 1)
    written = {i for row in found for i in (*row["chosen_ids"], *row["rejected_ids"])}
    assert not written & set(study.unseen_ids())
    own = study.make_pairs("in", 0, 4)
    study.make_pairs.cache_clear()
    assert {i for row in own for i in row["chosen_ids"]} & set(study.unseen_ids())
    assert all(row["chosen_score"] > row["rejected_score"] for row in (*found, *own))
    texts = [tuple(row["chosen_ids"]) for row in own] + [tuple(row["rejected_ids"]) for row in own]
    assert len(set(texts)) == len(texts) > 2 * 6  # several pairs a prompt, no response twice


def test_ppo_counts_what_it_passes_over():
    assert study.processed({"tokens": 100}, "ppo") == 100 * (1 + study.TRAINING.learner.n_epochs)
    assert study.processed({"tokens": 100}, "dpo") == 100


def test_both_learn_from_the_same_pairs(monkeypatch):
    short = replace(study.TRAINING, steps=1, batch_size=8, max_new_tokens=6)
    monkeypatch.setattr(study, "TRAINING", short)
    monkeypatch.setitem(study.CHANGES["dpo"], "batch_size", 8)
    monkeypatch.setattr(study, "PROMPTS", 16)
    study.make_pairs.cache_clear()
    dpo, ppo = (study.shift("in", agent, 3, 1) for agent in ("dpo", "ppo"))
    study.make_pairs.cache_clear()
    assert [point["step"] for point in dpo] == [0, 1, 2, 3]
    assert [point["step"] for point in ppo] == [0, 1]
    assert dpo[0]["gold_score"] == pytest.approx(ppo[0]["gold_score"])  # the same reference
    sampled = 16 * study.RESPONSES * 6
    assert dpo[1]["tokens"] > sampled
    assert ppo[1]["tokens"] == sampled + 5 * 8 * 6
    assert 0.0 <= ppo[1]["reward_accuracy"] <= 1.0
    assert ppo[1]["kl"] > 0.0
