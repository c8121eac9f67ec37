"""Openings that no judge knows, the order of the runs, and the page's tables by hand."""

from pathlib import Path
from typing import Any

import pytest

from studies import film_reviews as study
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.protocol import SPARE_SEED
from tokengym.lab.study import Cell, Runs, write_rows

DOCS = Path(__file__).parents[2] / "docs" / "results"
IMDB = study.STUDIES["imdb"]
CELLS = study.cells("imdb")
SPARSE, SIGNED, UNIFORM, SPARSE_AT_1 = CELLS[:4]
LINES = [
    {"n": 1, "score": 0.0, "gold_score": 0.0, "kl": 0.0, "vader": 0.1, "optimum": 3.0},
    {"n": 16, "score": 2.1, "gold_score": 1.0, "kl": 2.0, "vader": 0.4, "optimum": 3.0},
]


def rows_of(cell: Cell, rate: float, seed: int, score: float) -> list[dict[str, Any]]:
    """Return a run whose score stays the same and that costs no KL."""
    about = {**cell, "rate": rate, "seed": seed, "score": score, "kl": 0.0, "gold_score": 1.0}
    ends = {0: 0.1, 20: None, 40: 0.5}
    return [{**about, "step": s, "tokens": s * 768.0, "vader": v} for s, v in ends.items()]


def test_no_known_text_begins_with_an_opening() -> None:
    texts = [f"It was film number {n} of a long day" for n in range(40)]
    known = ["It was  film number 7 of many", "It was\na film"]
    found = study.openings(texts, known, 10)
    assert len(set(found)) == 10
    assert "It was" not in found  # known texts are read with single spaces
    assert not any("It was film number 7 of many".startswith(opening) for opening in found)
    assert all(any(text.startswith(opening) for text in texts) for opening in found)
    assert study.openings(texts, known, 10) == found
    with pytest.raises(ValueError, match="not 500; give more"):
        study.openings(texts, known, 500)


def test_a_bundle_is_linked_and_its_held_out_prompts_replaced(tmp_path: Path) -> None:
    from tokengym.lab.makers.other_prompts import read_prompts, with_prompts

    source = tmp_path / "bundle"
    source.mkdir()
    (source / "bundle.json").write_text("{}")
    (source / "prompts.jsonl").write_text('{"prompt": "a film", "split": "train"}\n')
    new = with_prompts(source, [{"prompt": "é", "split": "test"}], tmp_path / "new")
    assert (new / "bundle.json").read_text() == "{}"
    assert read_prompts(new) == [{"prompt": "é", "split": "test"}]
    assert read_prompts(source) == [{"prompt": "a film", "split": "train"}]


def test_the_texts_of_a_tsv_are_its_first_column(tmp_path: Path) -> None:
    file = tmp_path / "dev.tsv"
    file.write_text('a "great film\t1\nnot a good one\t0\n', encoding="utf-8")
    assert study.texts(file) == ['a "great film', "not a good one"]


def test_a_corpus_bundle_gets_openings_of_texts_without_labels(tmp_path: Path) -> None:
    from tokengym.lab.makers.other_prompts import read_prompts

    data, bundle = tmp_path / "data", tmp_path / "trained"
    data.mkdir()
    bundle.mkdir()
    (bundle / "prompts.jsonl").write_text(
        '{"prompt": "a film", "split": "train"}\n{"prompt": "known", "split": "test"}\n'
    )
    numbers = range(study.CORPORA["sst2"].openings)
    (data / "test.tsv").write_text("".join(f"take {n} was dull throughout\t0\n" for n in numbers))
    (data / "train.tsv").write_text("take that\t1\n")
    (data / "dev.tsv").write_text("known\t1\n")
    study.prompts(data, tmp_path / "out", "sst2", bundle)
    rows = read_prompts(tmp_path / "out" / study.BUNDLE)
    assert [row["prompt"] for row in rows if row["split"] == "train"] == ["a film"]
    held_out = [row["prompt"] for row in rows if row["split"] == "test"]
    assert len(set(held_out)) == len(numbers)
    assert all(prompt.startswith("take ") for prompt in held_out)


def test_each_corpus_has_cells_of_its_own_length() -> None:
    lengths = {name: {cell.length for cell in study.cells(name)} for name in study.STUDIES}
    assert lengths == {"imdb": {24}, "sst2": {16}}


def test_a_sweep_begins_at_the_studys_own_rate_and_seeds_wait_for_it(tmp_path: Path) -> None:
    assert next(IMDB.pending(tmp_path)) == SPARSE.but(rate=3e-4, seed=SPARE_SEED)
    for rate, score in ((3e-4, 2.0), (1e-3, 1.0), (1e-4, 1.0)):
        for cell in CELLS[:3]:
            run = cell.but(rate=rate, seed=SPARE_SEED)
            write_rows(IMDB.file(run, tmp_path), rows_of(cell, rate, SPARE_SEED, score))
    assert next(IMDB.pending(tmp_path)) == SPARSE.but(rate=3e-4, seed=0)


def test_a_run_has_the_plans_settings(tmp_path: Path) -> None:
    training = study.config(SPARSE_AT_1.but(rate=1e-3, seed=0), tmp_path).training
    learner: Any = training.learner
    assert (learner.gae_lambda, learner.value_network, learner.kl_coef) == (1.0, "own", 0.05)
    assert (training.steps, training.batch_size, training.max_new_tokens) == (40, 32, 24)


def test_without_runs_the_tables_say_so() -> None:
    assert study.levels_table(Runs([], IMDB.axes), CELLS, LINES) == "Not measured yet."
    assert study.differences_table(Runs([], IMDB.axes), CELLS) == "Not measured yet."


def test_sparse_in_hindsight_is_corrected_as_the_page_is() -> None:
    """Three differences that leave out 0 by themselves: correction leaves the clearest one."""
    signed = (1.0, 1.2, 0.9, 1.1)
    by_rate = {
        1e-3: (0.0, 0.0, 0.0, 0.0),
        3e-3: (0.1, -0.6, 0.4, 0.2),
        1e-2: (0.4, -0.6, 0.4, -0.2),
    }
    rows = []
    for cell, rate, scores in ((SIGNED, 1e-3, signed), *((SPARSE, *it) for it in by_rate.items())):
        rows += rows_of(cell, rate, SPARE_SEED, 1.0)
        for seed, score in enumerate(scores):
            rows += rows_of(cell, rate, seed, score)
    assert all(paired_difference(signed, scores).low > 0.0 for scores in by_rate.values())
    table = study.sparse_table(Runs(rows, IMDB.axes), [SPARSE, SIGNED])
    gains = [line.split(" | ")[3] for line in table.splitlines()[2:]]
    assert [gain.startswith("**") for gain in gains] == [True, False, False]


QUOTED = {
    "imdb.md": ("+1.57", "+0.527", "+0.368", "+0.761", "+0.275", "+0.378", "4.08", "12.7", "0.796"),
    "details/sst2.md": ("+0.463", "+0.344", "+0.394", "3.21", "3.16", "10.4", "13.3", "21.9"),
}


@pytest.mark.parametrize("page", QUOTED)
def test_figures_of_the_text_stand_in_its_tables(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    inside = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    outside = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    for figure in QUOTED[page]:
        assert figure in inside
        assert figure in outside
