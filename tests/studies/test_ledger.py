"""The ledger's sweep, rules and tables by hand, and its gradients against a closed form."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studies import ledger as page
from studies import ledger_cells as study
from studies import ledger_fine as fine
from studies import ledger_noise as noise
from studies.ledger_cells import AXES, make_cell
from tokengym.base import write_csv
from tokengym.envs import bundled
from tokengym.envs.episode import Episode
from tokengym.lab.protocol import SPARE_SEED, next_rate
from tokengym.lab.study import Cell, Runs
from tokengym.lab.tables import NONE
from tokengym.rewards import gold_scorer

DOCS = Path(__file__).parents[2] / "docs" / "results"
SPARSE = make_cell(rule="sparse")


def rows_of(cell: Cell, rate: float, seed: int, score: float) -> list[dict[str, object]]:
    """Return a run whose score stays the same and whose KL grows from 0 to 2 nats."""
    about = {**cell, "rate": rate, "seed": seed, "gold_score": 0.5}
    return [
        {**about, "step": step, "tokens": step * 3072, "score": score, "kl": step / 15}
        for step in (0, 15, 30)
    ]


def test_a_sweep_climbs_until_both_neighbours_are_worse():
    areas: dict[float, float] = {}
    tried = []
    while (rate := next_rate(areas)) is not None:
        tried.append(rate)
        areas[rate] = -abs(math.log(rate / 3e-4))
    assert tried == [1e-3, 3e-3, 3e-4, 1e-4]
    assert max(areas, key=lambda rate: areas[rate]) == 3e-4


def test_a_sweep_ends_at_the_end_of_the_range():
    assert next_rate({3e-3: 1.0, 1e-2: 2.0, 1e-3: 0.0}) is None


def test_lambda_depends_on_the_length_where_it_says_so():
    cell = make_cell(rule="sparse", gae_lambda="1-1/n", length=24, rate=1e-3)
    learner = study.config(cell, Path()).training.learner
    assert learner.gae_lambda == 1 - 1 / 24
    assert learner.value_network == "own"
    without = make_cell(rule="red", critic="none", rate=1e-3)
    assert study.config(without, Path()).training.learner.vf_coef == 0


def test_seeds_wait_for_the_sweep_and_what_is_published_is_not_run_again(tmp_path: Path):
    out, docs = tmp_path / "out", tmp_path / "docs"
    first = next(page.STUDY.pending(out))
    assert first == SPARSE.but(rate=1e-3, seed=SPARE_SEED)
    sweep = {3e-3: 0.0, 1e-3: 2.0, 3e-4: 1.0}
    rows = [
        row for rate, score in sweep.items() for row in rows_of(SPARSE, rate, SPARE_SEED, score)
    ]
    rows += rows_of(SPARSE, 1e-3, 0, 2.0)
    write_csv(docs / study.FOLDER / study.RUNS, rows, list(rows[0]))
    ways = [{"length": length, "n": n, "score": 1.0 * n} for length in (24, 96) for n in (1, 2)]
    write_csv(docs / study.FOLDER / study.WAYS, ways, list(ways[0]))
    page.STUDY.restore(out, docs)
    assert (out / "ways" / "96.csv").read_text() == "length,n,score\n96,1,1\n96,2,2\n"
    wanted = [
        (run.rate, run.seed)
        for run in page.STUDY.pending(out)
        if run.without("rate", "seed") == SPARSE
    ]
    assert wanted[:4] == [(1e-3, 1), (1e-3, 2), (1e-3, 3), (1e-3, 4)]


def test_true_words_pay_the_grammar_and_the_rest_at_the_end():
    bundle = bundled("movie_review")
    text = " a wonderful film but a dull plot"
    ids = bundle.tokenizer(text)["input_ids"]
    episode = Episode(prompt="i saw", prompt_ids=[1], response=text, response_ids=ids)
    gold = gold_scorer(bundle)
    assert gold is not None
    (truth,) = gold.token_worth([episode], bundle.tokenizer) or []
    assert (truth > 0).any()
    assert (truth < 0).any()
    paid = study.TrueWords().bind(bundle.tokenizer).spread(5.0, episode, None)
    assert paid.sum() == pytest.approx(5.0)
    np.testing.assert_allclose(paid[:-1], study.TrueWords.SCALE * truth[:-1], atol=1e-6)


# --- gradients ------------------------------------------------------------------------------------


def test_cosine_and_noise_are_those_of_the_gradients_that_were_drawn():
    rng = np.random.default_rng(0)
    blocks, size, width = 8, 500, 6
    true = np.array([1.0, 0, 0, 0, 0, 0])
    turned = np.array([0.6, 0.8, 0, 0, 0, 0])
    estimates = [true + rng.normal(size=(blocks, size, width)) for _ in range(2)]
    rule = turned + 2.0 * rng.normal(size=(blocks, size, width))
    drawn = np.stack([rule, *estimates], axis=1)  # (blocks, kinds, size, width)
    means = drawn.mean(axis=2)
    between = np.einsum("akw,blw->akbl", means, means)
    products = np.einsum("aksw,alsw->akl", drawn, drawn) / size
    (cosine, responses), errors = noise.with_errors(between, products, [0], [1, 2])
    assert cosine == pytest.approx(0.6, abs=4 * errors[0])
    assert errors[0] < 0.1
    # tr Cov = 4 * 6, and the signal along the true gradient is 0.6.
    assert responses == pytest.approx(24 / 0.36, abs=4 * errors[1])
    (same, free), _ = noise.with_errors(between, products, [1, 2], [1, 2])
    assert same == pytest.approx(1.0, abs=0.01)
    assert free == pytest.approx(0.0, abs=0.5)  # the noise of two estimates is not the rule's


def test_increments_summed_by_lambda_are_gae_with_their_values():
    from tokengym.agents.losses.advantages import gae

    values = torch.tensor([[0.0, 0.5, -0.25]])
    increments = torch.tensor([[0.5, -0.75, 1.25]])  # of 0, .5, -.25 and the score 1
    sparse = torch.tensor([[0.0, 0.0, 1.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    expected, _ = gae(sparse, values, mask, gamma=1.0, gae_lambda=0.7)
    torch.testing.assert_close(noise.without_critic(increments, 0.7), expected)


def test_a_responses_gradient_is_that_of_its_weighted_log_probs(tmp_path: Path):
    episodes, policy, _ = noise.played(0, tmp_path, responses=2)
    length = len(episodes[0].response_ids)
    weights = torch.randn(3, 2, length, generator=torch.Generator().manual_seed(0))
    legal = noise.legal_tokens(policy, length)
    found = list(noise.gradients(episodes, policy, weights, legal))
    parameters = list(policy.language_model.parameters())
    before = policy.log_probs(
        [e.prompt_ids for e in episodes],
        [e.response_ids for e in episodes],
        action_masks=[legal.numpy()] * 2,
    )
    step = 1e-3
    moved = parameters[0]
    direction = torch.zeros_like(moved)
    direction[episodes[1].response_ids[3]] = 1.0
    with torch.no_grad():
        moved += step * direction
    after = policy.log_probs(
        [e.prompt_ids for e in episodes],
        [e.response_ids for e in episodes],
        action_masks=[legal.numpy()] * 2,
    )
    slope = (after[1] - before[1]) / step
    for kind in range(3):
        expected = float((weights[kind, 1].numpy() * slope).sum())
        along = float(found[1][kind][: moved.numel()] @ direction.flatten())
        assert along == pytest.approx(expected, rel=0.02, abs=0.02)


# --- tables ---------------------------------------------------------------------------------------


def cells_of(table: str) -> list[list[str]]:
    """Return a Markdown table's cells, line by line."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_a_speed_is_the_ratio_of_the_updates_to_three_quarters_of_the_way():
    signed = make_cell(rule="abc-signed", gae_lambda="0.5")

    def climb(cell: Cell, seed: int, updates: float) -> list[dict[str, Any]]:
        """Return a run that rises from 0 to 2 in so many updates, without any KL."""
        about = {**cell, "rate": 1e-3, "seed": seed, "gold_score": 0.0, "kl": 0.0}
        scores = {at: min(2.0, 2.0 * at / updates) for at in range(0, 31, 5)}
        return [{**about, "step": at, "tokens": at, "score": scores[at]} for at in scores]

    rows = [
        row for seed, slow in ((1000, 20), (0, 20), (1, 20)) for row in climb(SPARSE, seed, slow)
    ]
    rows += [
        row for seed, fast in ((1000, 10), (0, 10), (1, 5)) for row in climb(signed, seed, fast)
    ]
    ways = [{"length": 48, "n": n, "score": score, "kl": 0.0} for n, score in ((1, 0.0), (16, 2.0))]
    lines = {line[0]: line[1] for line in cells_of(page.speeds_table(Runs(rows, AXES), ways))}
    assert lines["`sparse`, its best"] == "10.0 / 15.0 / 18.0"
    # 7.5 and 3.75 updates in place of 15: twice and four times, of which the mean is sqrt(8).
    assert lines["`abc-signed`, lambda 0.5"].startswith("3.8 / 5.6 / 6.8; 2.83 times (")
    assert lines["`uniform`, lambda 0.95"] == NONE
    never = [
        row | {"score": 0.5 * row["score"]} if row["rule"] == "sparse" else row for row in rows
    ]
    lines = {line[0]: line[1] for line in cells_of(page.speeds_table(Runs(never, AXES), ways))}
    assert lines["`abc-signed`, lambda 0.5"] == "3.8 / 5.6 / 6.8; more than 4.00 times"
    half = [row | {"score": 0.5 * row["score"]} if row["rule"] != "sparse" else row for row in rows]
    lines = {line[0]: line[1] for line in cells_of(page.speeds_table(Runs(half, AXES), ways))}
    # Neither of its runs comes there: 15 in place of 30 at most.
    assert lines["`abc-signed`, lambda 0.5"].endswith("; at most 0.500 times (0.500 to 0.500)")
    slow = [row | {"score": 0.5 * row["score"]} for row in climb(signed, 0, 30.0)]
    (steps,) = Runs([*climb(signed, 1000, 30), *slow], AXES).steps(signed, 0.0, 2.0).values()
    assert steps.tolist() == [30.0, 30.0, 30.0]  # half of the way at the end, no more after it


def test_a_run_at_every_update_is_planned_for_every_length():
    assert {cell.gae_lambda for cell in fine.cells(96)} == {"1", "0.5", "0.95"}
    planned = {cell: seeds for cells, seeds in fine.rounds() for cell in cells}
    assert planned == {cell: range(10) for at in fine.SPARSE_LAMBDAS for cell in fine.cells(at)}


def test_vineppo_has_the_tokens_of_sparse():
    cell = study.AT_VINEPPO[0]
    spent = cell.updates * cell.rows * (48 + 3 * (36 + 24 + 12))  # three inner ends of segments
    assert 0.95 * 30 * 64 * 48 < spent <= 30 * 64 * 48
    config = study.config(cell.but(rate=1e-3), Path())
    assert config.training.learner.advantage == "vineppo"
    assert config.training.batch_size == cell.rows


def test_runs_of_both_grids_are_published_once(tmp_path: Path):
    """Those of the critic's page and the ledger's sweeps are read beside the finer runs."""
    docs, out = tmp_path / "docs", tmp_path / "out"
    signed = make_cell(rule="abc-signed", gae_lambda="0.5")
    sweep = [*rows_of(signed, 1e-3, SPARE_SEED, 2.0), *rows_of(signed, 3e-4, SPARE_SEED, 1.0)]
    sweep += rows_of(signed, 3e-3, SPARE_SEED, 1.0)
    write_csv(docs / "ledger" / "runs.csv", sweep, list(sweep[0]))
    critic = rows_of(signed, 1e-3, 0, 3.0)
    write_csv(docs / "critic" / "runs.csv", critic, list(critic[0]))
    page.FINE_STUDY.restore(out, docs)
    new = rows_of(signed, 1e-3, 1, 4.0)
    write_csv(page.FINE_STUDY.file(signed.but(rate=1e-3, seed=1), out), new, list(new[0]))
    (docs / "ledger.md").write_text((DOCS / "ledger.md").read_text())
    replace(page.FINE_STUDY, tables=lambda _: {}, pictures=lambda _: None).publish(out, docs)
    assert [row["seed"] for row in page.STUDY.read(docs / "ledger" / "fine.csv")] == [1, 1, 1]
    assert {*page.FINE_STUDY.published(docs).runs.areas(signed)} == {0, 1}


def test_figures_of_the_text_are_those_of_the_tables():
    text = (DOCS / "ledger.md").read_text(encoding="utf-8")
    first_screen = text.split("\n## ")[0].splitlines()
    short = "\n".join(line for line in first_screen if line.startswith("- **"))
    pages = text + (DOCS / "end.md").read_text(encoding="utf-8")  # which the first screen names
    tables = "\n".join(line for line in pages.splitlines() if line.startswith("|"))
    quoted = re.findall(r"[+\u2212]?\d+\.\d+|\d{2,}", short.replace(",", ""))
    assert len(quoted) > 5
    for figure in quoted:
        assert figure in tables.replace(",", ""), figure
