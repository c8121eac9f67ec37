"""The table of docs/results/kl.md, from rows made by hand and from the published curves."""

from pathlib import Path

from tokengym.scripts.studies.kl_price import DOCS, cells, publish, table

ROOT = Path(__file__).parents[3]


def test_a_cell_is_score_minus_price_times_kl():
    rows = [
        dict(kl_in=kl_in, price=0.5, rate=1e-3, seed=seed, step=step, score=score, kl=kl)
        for kl_in, kl in (("reward", 10.0), ("loss", 1.0))
        for seed, score in ((0, 1.0), (1, 2.0))
        for step in (0, 20)
    ]
    (line,) = table(rows).splitlines()[2:]
    assert "**\N{MINUS SIGN}3.50** (1.50, 10.0 nats) | **1.00** (1.50, 1.00 nats)" in line


def test_there_are_54_runs():
    assert len(list(cells())) == len({cell.name for cell in cells()}) == 54


def test_the_page_is_current(tmp_path: Path):
    page = ROOT / DOCS / "kl.md"
    (tmp_path / "kl.md").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    publish(ROOT / DOCS / "kl", tmp_path)
    assert (tmp_path / "kl.md").read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
