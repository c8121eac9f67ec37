"""Principles are read from a file and drawn at random."""

import numpy as np
import pytest

from tokengym.lab.constitution.critics import (
    DEFAULT_PRINCIPLES,
    Principle,
    draw_principles,
    load_principles,
)


def test_all_principles_are_drawn_alike():
    drawn = draw_principles(DEFAULT_PRINCIPLES, 4000, np.random.default_rng(0))
    counts = [drawn.count(principle) / 4000 for principle in DEFAULT_PRINCIPLES]
    np.testing.assert_allclose(counts, 1 / len(DEFAULT_PRINCIPLES), atol=0.03)


def test_names_are_short_and_texts_may_hold_colons(tmp_path):
    file = tmp_path / "principles.txt"
    file.write_text("be kind: It is kind: always.\nIt says: nothing bad, ever.\nOne two three: x\n")
    found = [(p.name, p.text) for p in load_principles(file)]
    assert found == [
        ("be kind", "It is kind: always."),
        ("It says", "nothing bad, ever."),
        ("principle 3", "One two three: x"),
    ]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_principles(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(ValueError, match="holds none"):
        load_principles(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match=r"'x'.*no text"):
        Principle(name="x", text=" ")
