"""The tables of the pages about one comparison are those of the published runs."""

import shutil
from pathlib import Path

from studies.cells import DOCS
from studies.comparisons import PAGES, publish, sweep_table

ROOT = Path(__file__).parents[2]


def test_the_pages_are_current(tmp_path: Path):
    for page in PAGES.values():
        shutil.copytree(ROOT / DOCS / page.folder, tmp_path / page.folder, dirs_exist_ok=True)
        shutil.copy(ROOT / DOCS / page.page, tmp_path)
    publish(tmp_path)
    for page in PAGES.values():
        assert (tmp_path / page.page).read_text() == (ROOT / DOCS / page.page).read_text()


def test_a_sweep_s_row_by_hand(tmp_path: Path):
    file = tmp_path / "sweep.csv"
    head = "learning_rate,credit,seed,step,score,kl\n"
    lines = ["1e-3,sparse,0,0,0,0", "1e-3,sparse,0,1,2,10", "1e-3,sparse,1,0,0,0"]
    file.write_text(head + "\n".join([*lines, "1e-3,sparse,1,1,4,30"]) + "\n")
    (line,) = sweep_table(file).splitlines()[2:]
    # score: means of (0, 2) and (0, 4); score - .05 KL: of (0, 1.5) and (0, 2.5); at the end 3, 20
    assert line == "| 1e-3 | 1.00 | 1.50 | 3.00 | 20.0 |"
