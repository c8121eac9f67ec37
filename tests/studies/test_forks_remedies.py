"""The remedies on Forks: their runs, and what their tables leave out."""

from pathlib import Path

import numpy as np
import pytest

from studies import forks, forks_critic
from studies.forks_remedies import (
    MODELS,
    PRETRAINED,
    PRICE,
    RED,
    SPARSE,
    STUDY,
    VARIANTS,
    cells,
    own_updates,
    share_of_changes,
)
from studies.remedies import paths
from tokengym.lab.benchmark.verdict import net_of
from tokengym.lab.study import Row, Runs


@pytest.mark.parametrize(
    ("rule", "learner", "at", "variant"),
    [
        (SPARSE, "ppo", None, "as published"),
        (RED, "ppo", 0.95, "as published"),
        (SPARSE, "loo", None, "leave-one-out"),
    ],
)
def test_a_run_is_one_of_the_page_of_forks(
    rule: str, learner: str, at: float | None, variant: str, tmp_path: Path
) -> None:
    """Or its published runs could not stand beside these."""
    there = forks.Cell(setting="hard", learner=learner, rule=rule, gae_lambda=at).config(3e-4)
    here = STUDY.config(STUDY.cell(rule=rule, variant=variant).but(rate=3e-4), tmp_path)
    theirs, own = (
        {**config.as_dict()["training"]["learner"], "gae_lambda": None} for config in (there, here)
    )
    assert own == theirs
    assert (own["kl_coef"], here.training.tokens) == (there.training.learner.kl_coef, 200_000)
    assert (here.task, here.evaluation) == (there.task, there.evaluation)


def test_the_models_critic_stands_beside_the_same_runs(tmp_path: Path) -> None:
    started = STUDY.cell(rule=SPARSE, critic=MODELS).but(rate=1e-4, seed=80)
    there = forks_critic.STUDY.cell(gae_lambda="0.95").but(rate=1e-4, seed=80)
    assert STUDY.config(started, tmp_path) == forks_critic.STUDY.config(there, tmp_path)


def test_every_remedy_changes_the_learner(tmp_path: Path) -> None:
    made = [STUDY.config(cell.but(rate=1e-3), tmp_path) for cell in cells()]
    assert all(made.count(config) == 1 for config in made)
    assert {cell.variant for cell in cells()} == {*VARIANTS}


def test_values_that_learn_alone_are_left_out_of_the_run() -> None:
    """By hand: 0.2 for the pretraining and the first update, then 0.5 less 2 nats at 0.01."""
    cell = STUDY.cell(rule=SPARSE, variant="values pretrained")
    steps = (0, PRETRAINED, PRETRAINED + 1, PRETRAINED + 2)
    scores, kls = (0.2, 0.2, 0.5, 0.5), (0.0, 0.0, 2.0, 2.0)
    rows: list[Row] = [
        {
            **cell,
            **{"rate": 1e-3, "seed": seed, "step": step, "tokens": 10 * step},
            **{"score": score, "gold_score": score, "kl": kl},
        }
        for seed in (1000, 80)
        for step, score, kl in zip(steps, scores, kls, strict=True)
    ]
    runs = Runs(rows, STUDY.axes, PRICE)
    own, whole = own_updates(runs, cell)[80], paths(runs, cell)[80]
    # The line between two points is half of the way between them.
    assert net_of(own, PRICE) == pytest.approx((0.34 + 0.48) / 2)
    assert net_of(whole, PRICE) == pytest.approx(
        (PRETRAINED * 0.2 + 0.34 + 0.48) / (PRETRAINED + 2)
    )


def test_values_are_centred_by_position_before_they_explain() -> None:
    """By hand: values 0, 0.5 and 0, -0.5 before the tokens of scores 1 and 0."""
    changes = np.array([[0.5, 9.0], [-0.5, 9.0]])  # the last token's is not read
    # Missed are 0.5 and -0.5 before the first token, nothing before the second.
    assert share_of_changes(np.array([1.0, 0.0]), changes) == pytest.approx(0.5)
    # A value of 7 everywhere is centred away.
    assert share_of_changes(np.array([1.0, 0.0]), np.zeros((2, 2))) == pytest.approx(0.0)
