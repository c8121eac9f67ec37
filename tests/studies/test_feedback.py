"""The study of the bundled judge and critic counts what it says, and its page is current."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from studies import feedback
from studies.feedback import Material, agreement, materials, revised
from tokengym.envs import Episode, bundled
from tokengym.evaluation.runs.defaults import TaskSettings
from tokengym.lab.constitution.critics import DEFAULT_PRINCIPLES, Critique, Principle
from tokengym.lab.makers.corpora.feedback import HELD_OUT_TOPICS
from tokengym.lab.scorers.preference_model import Triple

QUARREL = Material(
    name="quarrels",
    task="Detox",
    triples=[
        ("x", "my friend .", "you wobblehat ."),
        ("x", "you wobblehat , you wobblehat .", "you wobblehat ."),
        ("x", "my friend .", "come in ."),
    ],
)


def test_pairs_that_the_rules_do_not_order_are_left_out() -> None:
    def first(material: Material, text: str, triples: Sequence[Triple]) -> NDArray[np.float64]:
        return np.full(len(triples), 0.9)

    row = agreement(QUARREL, "calm", "taught", "first", first)
    assert (row["pairs"], row["wins"], row["ties"], row["consistent"]) == (2, 0, 2, 0)
    assert (row["own_pairs"], row["own_ties"]) == (2, 2)
    assert agreement(QUARREL, "harm", "taught", "first", first)["own_pairs"] == 0


def test_words_count_different_offences() -> None:
    row = agreement(QUARREL, "calm", "taught", "words", feedback._by_words)
    assert (row["pairs"], row["wins"], row["ties"], row["consistent"]) == (2, 1, 1, 2)


def test_revisions_are_judged_by_the_gold_score() -> None:
    class Half:
        name = "half"

        def critique(
            self, episodes: Sequence[Episode], principles: Sequence[Principle]
        ) -> list[Critique]:
            return [Critique(text="rude")] * len(episodes)

        def revise(
            self,
            episodes: Sequence[Episode],
            principles: Sequence[Principle],
            critiques: Sequence[Critique],
            *,
            seed: int,
        ) -> list[Episode]:
            del principles, critiques, seed
            return [
                episodes[0],
                said("he said , my kind friend , come in ."),
                said("wobblehat"),
                *clean,
            ]

    def said(response: str) -> Episode:
        return Episode(prompt="furious .", response=response, prompt_ids=[1], response_ids=[2])

    rude = "he said , you snorky wobblehat , go away ."
    clean = [said("he said , my kind friend , come in .")]
    episodes = [said(rude), said(rude), said(rude), *clean]
    row = revised("Detox", bundled("detox"), episodes, DEFAULT_PRINCIPLES, Half())
    assert (row["faulty"], row["better"], row["worse"], row["unchanged"]) == (3, 1, 1, 1)
    assert (row["clean_after"], row["left_alone"]) == (1, 1)
    assert row["gold_before"] == pytest.approx(5 / 7)


def test_materials_are_held_out() -> None:
    found = {material.name: material for material in materials(8)}
    assert found.keys() == feedback.MATERIALS.keys()
    test = {prompt.text for prompt in bundled("dialogue").prompts("test")}
    assert {prompt for prompt, _, _ in found["harmful"].triples} <= test
    for prompt, a, b in found["new harmful"].triples:
        assert HELD_OUT_TOPICS & set(prompt.split())
        assert a != b


def test_a_run_measures_every_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, Any] = {"num_prompts": 16, "pair_prompts": 16, "ppo_steps": 1, "batch_size": 8}
    task = TaskSettings(max_new_tokens=16)
    short: dict[str, Any] = {"eval_episodes": 8, "task": task, "reward_epochs": 1.0}
    config = partial(feedback.ConstitutionConfig, **small, **short)
    monkeypatch.setattr(feedback, "ConstitutionConfig", config)
    rows = feedback.train(feedback.Cell(arm="bundled judge", seed=0), tmp_path)
    policies = ["base", "SFT on revisions", "RL from AI feedback", "DPO on the pairs"]
    assert [row["policy"] for row in rows] == policies
    assert rows[0].keys() == set(feedback.RUNS)
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert all(0.0 <= row["gold_score"] <= 1.0 for row in rows)
    assert rows[3]["kl"] != rows[1]["kl"]
