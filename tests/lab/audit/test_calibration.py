"""A sixth of the calibration: the truths are proved again, and the audit says what is published."""

import pytest

from tests.lab.audit.calibration.common import NOT_ENUMERABLE, RIGHT, WRONG, Estimator
from tests.lab.audit.calibration.estimators import ESTIMATORS, IN_TESTS
from tests.lab.audit.calibration.record import (
    FAILS,
    FOLDER,
    HOLDS,
    NOT_JUDGED,
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
    page = PAGE.read_text(encoding="utf-8")
    assert filled(list(PUBLISHED.values()), page) == page
    overview = FOLDER.with_name("README.md").read_text(encoding="utf-8")
    assert (
        f"](audit_calibration.md) | {missed(list(PUBLISHED.values()))} The checks were changed "
        in overview
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", IN_TESTS, ids=called)
def test_the_truth_is_proved_and_the_audit_says_it_or_what_is_published(
    estimator: Estimator,
) -> None:
    published = PUBLISHED[found(estimator)]
    assert published.truth == estimator.label
    assert prove(estimator) == published.case
    truth = {RIGHT: HOLDS, WRONG: FAILS, NOT_ENUMERABLE: NOT_JUDGED}[estimator.label]
    assert asked(estimator)[0] in {truth, published.verdict}
