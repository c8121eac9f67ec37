"""A sixth of the calibration: the truths are proved again, and the audit says them."""

import pytest

from tests.lab.audit.calibration.common import RIGHT, WRONG, Estimator
from tests.lab.audit.calibration.estimators import ESTIMATORS, IN_TESTS
from tests.lab.audit.calibration.record import (
    FOLDER,
    TRUTH,
    asked,
    counts,
    found,
    missed,
    prove,
    read,
)
from tests.lab.audit.calibration.record import tables as filled

PUBLISHED = {row.key: row for row in read(FOLDER / "estimators.csv")}
PAGE = FOLDER.with_suffix(".md")


def called(estimator: Estimator) -> str:
    return f"{estimator.kind}: {estimator.idea}"


def test_a_hundred_of_each_are_published() -> None:
    assert [found(estimator) for estimator in ESTIMATORS] == list(PUBLISHED)
    for label in (RIGHT, WRONG):
        assert counts(list(PUBLISHED.values()), label)[0] >= 100


def test_the_page_is_current() -> None:
    rows = list(PUBLISHED.values())
    page = PAGE.read_text(encoding="utf-8")
    assert filled(rows, page) == page
    overview = FOLDER.with_name("README.md").read_text(encoding="utf-8")
    assert f"](audit_calibration.md) | {missed(rows)}" in overview


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", IN_TESTS, ids=called)
def test_the_truth_is_proved_and_the_audit_says_it(estimator: Estimator) -> None:
    published = PUBLISHED[found(estimator)]
    assert published.truth == estimator.label
    assert prove(estimator) == published.case
    assert asked(estimator)[0] == TRUTH[estimator.label]
