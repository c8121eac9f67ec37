"""Reward models not chosen for their attention: how they are made, and the section's figures."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studies import one_grid
from studies import reward_models as study
from studies.reward_models import ARMS, BUNDLED, MODELS, NARROW, SEEDS, STUDY
from tokengym.base import read_json
from tokengym.envs import Episode, bundled
from tokengym.lab.makers.models import (
    ModelSize,
    choose,
    new_language_model,
    reward_logits,
    reward_model_from,
)
from tokengym.lab.study import DOCS, Cell, Row, Runs


def tiny(seed: int = 0) -> tuple[Any, list[Episode]]:
    """Return a small classifier, and responses that are better the higher their first token."""
    size = ModelSize(layers=1, width=8, heads=2, positions=16)
    tokenizer: Any = bundled("movie_review").tokenizer
    language_model = new_language_model(tokenizer, size, seed=seed)
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(
            prompt="a", response="b", prompt_ids=[5], response_ids=ids, score=3.0 + 2.0 * sum(ids)
        )
        for ids in rng.integers(10, 60, (40, 4)).tolist()
    ]
    return reward_model_from(language_model, seed=seed), episodes


def test_scores_get_the_mean_and_deviation_of_the_bundled_ones_and_keep_their_order() -> None:
    network, episodes = tiny()
    texts = [study.ids_of(episode) for episode in episodes]
    before = reward_logits(network, texts).numpy()
    study.scaled_as(network, episodes)
    after = reward_logits(network, texts).numpy()
    wanted = np.array([episode.score for episode in episodes], dtype=float)
    assert after.mean() == pytest.approx(np.mean(wanted), rel=1e-4)
    assert after.std() == pytest.approx(np.std(wanted), rel=1e-4)
    assert [*np.argsort(after)] == [*np.argsort(before)]


def test_training_stops_at_the_first_check_that_has_the_accuracy() -> None:
    network, episodes = tiny()
    texts = [study.ids_of(episode) for episode in episodes]
    pairs = [
        (max(two, key=lambda ids: ids[1]), min(two, key=lambda ids: ids[1]))
        for two in zip(texts[::2], texts[1::2], strict=True)
        if two[0][1] != two[1][1]
    ]
    loss = partial(study.loss_of_pairs, pairs=pairs)
    before = study.accuracy(network, pairs)
    steps = study.trained(network, loss, pairs, target=0.8, seed=0)
    assert before < 0.8 <= study.accuracy(network, pairs)
    assert steps % study.CHECK_EVERY == 0
    again, _ = tiny()
    assert study.trained(again, loss, pairs, target=0.8, seed=0) == steps
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, network.state_dict()[name]), name


def test_a_target_that_is_not_reached_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network, episodes = tiny()
    one, other = (study.ids_of(episode) for episode in episodes[:2])
    monkeypatch.setattr(study, "MOST_STEPS", 10)
    with pytest.raises(RuntimeError, match=r"0\.500 after 10 steps, less than 0\.9"):
        study.trained(
            network,
            partial(study.loss_of_pairs, pairs=[(one, other)]),
            [(one, other), (other, one)],
            target=0.9,
            seed=0,
        )


def test_the_loss_of_rated_responses_is_of_all_pairs_by_gold() -> None:
    """By hand, of as many draws of three texts as a step has."""
    network, episodes = tiny()
    texts, gold = [study.ids_of(e) for e in episodes[:3]], np.array([1.0, 0.0, 1.0])
    drawn = choose(3, study.TEXTS, torch.Generator().manual_seed(5))
    scores = reward_logits(network, texts).double().numpy()
    terms = [
        np.log1p(np.exp(-(scores[better] - scores[worse])))
        for better in drawn
        for worse in drawn
        if gold[better] > gold[worse]
    ]
    loss = study.loss_of_rated(
        network, torch.Generator().manual_seed(5), texts=texts, gold=gold
    ).item()
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)


def test_pairs_are_neighbours_with_the_better_by_gold_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, episodes = tiny()
    gold = np.array([0.0, 1.0, 2.0, 2.0, 5.0, 4.0])
    monkeypatch.setattr(study, "gold_of", lambda task, episodes: gold)
    one, two, _, _, three, four = map(study.ids_of, episodes[:6])
    pairs = study.pairs_of("MovieReview", [episodes[:4], episodes[4:6]])
    assert pairs == [(two, one), (three, four)]


def test_accuracy_on_held_out_pairs_is_of_neighbours_whose_gold_differs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    score = np.array([[1.0, 2.0, 3.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    gold = np.array([[0.0, 1.0, 0.0, 2.0], [1.0, 1.0, 0.0, 1.0]])
    monkeypatch.setattr(study, "held_out", lambda task: ([], score, gold))
    (row,) = study.worth("MovieReview", BUNDLED, tmp_path)
    assert (row["right"], row["of"]) == (1, 3)  # right, wrong, equal gold, equal score


def points(cell: Cell, seed: int, rise: float, kl: float) -> Iterator[Row]:
    """A run whose score rises by so much an update, at one KL."""
    for step in range(31):
        figures = {"score": rise * step, "gold_score": 0.1 * rise, "kl": kl}
        yield {**cell, "seed": seed, "step": step, "tokens": 64 * step, **figures}


def test_an_arm_is_compared_with_sparse_of_its_own_reward_model() -> None:
    """By one model twice as fast; by another as fast as `sparse`."""
    rows: list[Row] = []
    for model, rises in {"0.65": (0.2, 0.4), "0.75": (0.3, 0.3)}.items():
        for arm, rise, kl in zip(("sparse", "abc-signed"), rises, (1.0, 3.0), strict=True):
            for seed in SEEDS:
                rows += points(study.cell("Detox", model, arm), seed, rise, kl)
    table = study.answer_table(Runs(rows, STUDY.axes), "Detox")
    first, second, *_ = table.splitlines()[2:]
    # Score over the run 15 * rise; score - c KL of it 0.05 * 2 less.
    assert "| **+2.90** (2.90 to 2.90); **+0.020**; +3.00; +2.00; **2.00** |" in first
    assert "| **\N{MINUS SIGN}0.100** (" in second
    assert "; 1.00 |" in second


def test_the_arms_have_the_grids_best_cells_by_score_minus_price_times_kl() -> None:
    """At the rate of all; `uniform` alone has as much at another, within 0.01."""
    runs, at = one_grid.STUDY.published(DOCS).runs, one_grid.ways(DOCS)[study.TOKENS]
    criterion = one_grid.CRITERIA[one_grid.NET]
    for arm, about in ARMS.items():
        reached = {
            cell: np.mean([criterion(runs.runs[cell][seed], at) for seed in SEEDS])
            for cell in one_grid.cells(study.TOKENS, arm)
        }
        own = one_grid.STUDY.cell(**about, length=study.TOKENS, learning_rate=study.RATE)
        short = max(reached.values()) - reached[own]
        assert short == 0 or (arm == "uniform" and short < 0.01)


def test_the_bundled_reward_models_film_reviews_are_the_grids() -> None:
    runs = STUDY.published(DOCS).runs
    for arm, about in ARMS.items():
        there = one_grid.STUDY.cell(**about, length=study.TOKENS, learning_rate=study.RATE)
        grid = one_grid.STUDY.published(DOCS).runs.runs[there]
        here = runs.runs[study.cell("MovieReview", BUNDLED, arm)]
        assert here.keys() == {*SEEDS}
        assert {s: [p["score"] for p in points] for s, points in here.items()} == {
            s: [p["score"] for p in grid[s]] for s in SEEDS
        }


def test_a_run_is_scored_by_its_own_reward_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(study, "made", lambda task, model, out: out / f"{task}-{model}")
    for model in MODELS:
        made = study.config(study.cell("Detox", model, "uniform"), tmp_path)
        spec = made.spec(made.names[0], 20, None)
        learner = spec.training.learner
        assert (learner.n_warmup_updates, learner.learning_rate) == (5, 1e-3)
        assert spec.training.max_new_tokens == 24
        wanted = None if model == BUNDLED else str(tmp_path / f"Detox-{model}")
        assert spec.task.scorer == wanted


def test_no_critic_starts_from_a_model_of_another_width() -> None:
    assert "critic" not in study.arms_of(NARROW)
    assert all(study.arms_of(model) == [*ARMS] for model in MODELS if model != NARROW)


def test_the_bundled_attention_is_as_its_bundle_says(tmp_path: Path) -> None:
    stored = read_json(bundled("movie_review").path / "bundle.json")["reward_model"]["24"]
    row = study.attended("MovieReview", BUNDLED, tmp_path)
    assert row["entropy"] == pytest.approx(stored["attention_entropy"], abs=0.02)
    on_opinions = stored["opinion_mass"] / stored["opinion_share"]
    assert row["on_opinions"] == pytest.approx(on_opinions, rel=0.2)
    assert row["correlation"] > 0.5
