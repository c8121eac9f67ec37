"""Which explanation holds: the cells that are read, and a correlation by hand."""

from pathlib import Path

import pytest

from studies import explanations as study
from studies.explanations import Case
from tokengym.lab.tables import NONE

DOCS = Path(__file__).parents[2] / "docs" / "results"


def test_a_rank_correlation_by_hand() -> None:
    # ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * (1 + 1 + 1 + 1 + 0) / (5 * 24) = 0.8
    gains = [0.2, 0.1, 0.4, 0.3, 0.5]
    cases = [Case(gain, {"tokens found": float(at)}) for at, gain in enumerate(gains)]
    assert study.correlation(cases, "tokens found").startswith("0.800 (p = 0.1")
    assert study.correlation(cases, "little noise") == NONE
    assert study.correlation([*cases, Case(9.0, {})], "tokens found").endswith("; 5 cells)")
    assert study.correlation(cases[:4], "tokens found") == NONE


def test_cells_are_those_with_runs_and_a_gradient() -> None:
    own = study.films(DOCS, "own")
    assert len(own) == 22
    alone = study.films(DOCS, "own", lambdas=(0.95,))
    assert len(alone) == 8
    signed = max(own, key=lambda case: case.gain)
    assert signed.gain == pytest.approx(0.528, abs=5e-4)  # the ledger's, abc-signed at 0.5
    assert signed.known["little noise"] == -168.6
    hard = study.of_forks(DOCS, "hard")
    assert len(hard) == 6
    assert max(case.gain for case in hard) == pytest.approx(0.034, abs=1e-3)  # decisive
