"""IMDb, SST-2 and SmolLM2: comparisons, baselines and the figures of the page's text."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from studies import film_reviews
from studies import real_text as study
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import PRICE, SPARE_SEED
from tokengym.lab.study import DOCS, Cell, write_rows

IMDB = film_reviews.STUDIES["imdb"]
PAGE = (DOCS / "real_text.md").read_text(encoding="utf-8")


def rows_of(run: Cell, score: float) -> list[dict[str, Any]]:
    """Return a run whose score stays the same and that costs no KL."""
    about = {**run, "score": score, "kl": 0.0, "gold_score": 1.0, "vader": 0.1}
    return [{**about, "step": step, "tokens": step * 768.0} for step in (0, 20, 40)]


def test_the_comparison_of_smollm2_has_its_rules_rate() -> None:
    config = study.config(Cell(rule="random", seed=0), Path())
    (spec,) = config.runs
    learner: Any = spec.training.learner
    assert (spec.training.lora_rank, learner.learning_rate) == (8, 1e-3)
    assert (spec.task.bundle, config.price) == ("smollm2-reviews", PRICE)
    assert spec.evaluation.episodes == 64 * 8


def test_a_run_on_a_corpus_has_the_plans_settings(tmp_path: Path) -> None:
    cell = IMDB.cell(rule="sparse", gae_lambda="1")
    (spec,) = film_reviews.config(cell.but(rate=1e-3, seed=0), tmp_path).runs
    training = spec.training
    learner: Any = training.learner
    assert (learner.gae_lambda, learner.value_network, learner.kl_coef) == (1.0, "own", PRICE)
    assert (training.steps, training.batch_size, training.max_new_tokens) == (40, 32, 24)


def test_a_sweep_begins_at_the_corpus_own_rate_and_seeds_wait_for_it(tmp_path: Path) -> None:
    sparse = film_reviews.cells("imdb")[0]
    assert next(IMDB.pending(tmp_path)) == sparse.but(rate=3e-4, seed=SPARE_SEED)
    for rate, score in ((3e-4, 2.0), (1e-3, 1.0), (1e-4, 1.0)):
        for cell in film_reviews.cells("imdb")[:3]:
            run = cell.but(rate=rate, seed=SPARE_SEED)
            write_rows(IMDB.file(run, tmp_path), rows_of(run, score))
    assert next(IMDB.pending(tmp_path)) == sparse.but(rate=3e-4, seed=0)


def test_the_better_baseline_of_sst2() -> None:
    """`sparse` at lambda 0.95 and the rate of lambda 1, by hand from the published runs."""
    runs = film_reviews.STUDIES["sst2"].published(DOCS).runs
    areas = {}
    for rule, gae_lambda in (("sparse", "0.95"), ("sparse", "1"), ("abc-signed", "0.5")):
        of = [
            (run.seed, [(row["tokens"], row["score"] - 0.05 * row["kl"]) for row in points])
            for run, points in runs.each.items()
            if (run.rule, run.gae_lambda, run.rate) == (rule, gae_lambda, 1e-3) and run.seed < 1000
        ]
        areas[rule, gae_lambda] = [
            sum((b - a) * (y + z) / 2 for (a, y), (b, z) in pairwise(curve)) / curve[-1][0]
            for _, curve in sorted(of)
        ]
    better, published, signed = areas.values()
    assert sum(better) / 5 - sum(published) / 5 == pytest.approx(0.12, abs=0.005)
    for base, lead in ((better, "+0.344 (0.210 to 0.479)"), (published, "+0.463")):
        assert f"{paired_difference(signed, base).difference:+.3f}" == lead.partition(" ")[0]
        assert lead in PAGE
