"""What the audit says of each estimator, and the tables of the page."""

import csv
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from tests.lab.audit.calibration import truth
from tests.lab.audit.calibration.common import NOT_ENUMERABLE, RIGHT, WRONG, Estimator
from tokengym.lab.audit import tokengym_audit as audit

FOLDER = Path(__file__).parents[4] / "docs/results/audit_calibration"
HOLDS, FAILS, NOT_JUDGED = "holds", "fails", "not judged"
TRUTH = {RIGHT: HOLDS, WRONG: FAILS, NOT_ENUMERABLE: HOLDS}
"""The verdict that is true. What remembers or draws is right, by how it is written."""
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """An estimator, its truth and its verdict."""

    kind: str
    idea: str
    truth: str
    """right, wrong, or cannot be enumerated."""
    case: str
    """Case of the brute force that shows that it is wrong, or right in the limit alone."""
    verdict: str
    fault: str
    """Kind of the largest fault."""
    size: float
    batch: int
    """Number of the batch that has it."""
    seconds: float
    """CPU seconds of the verdict."""

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.idea

    @property
    def agrees(self) -> bool:
        """Whether the verdict is the truth."""
        return self.verdict == TRUTH[self.truth]


def found(estimator: Estimator) -> tuple[str, str]:
    return estimator.kind, estimator.idea


def find(estimator: Estimator) -> Row:
    """Prove the truth of an estimator and ask the audit.

    Raises:
        AssertionError: if the brute force does not find what the estimator is labelled as.
    """
    case = timed(lambda: prove(estimator))[0]
    (verdict, fault, size, batch), seconds = timed(lambda: asked(estimator))
    return Row(
        estimator.kind, estimator.idea, estimator.label, case,
        verdict, fault, size, batch, seconds,
    )  # fmt: skip


def timed(ask: Callable[[], T]) -> tuple[T, float]:
    """An answer, without its warnings, and the CPU seconds that it took."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = ask()
    return answer, round(time.process_time() - began, 2)


def prove(estimator: Estimator) -> str:
    """The case that shows the truth of an estimator; nothing where every case does.

    Raises:
        AssertionError: if the brute force does not find what the estimator is labelled as.
    """
    if estimator.label == NOT_ENUMERABLE:
        return ""
    proved = truth.judge(estimator.function, estimator.options.get("pays", "tokens"))
    assert proved.label == estimator.label, (estimator.kind, estimator.idea, proved)
    return proved.case


def asked(estimator: Estimator, forest: int = 0) -> tuple[str, str, float, int]:
    """The audit's verdict on a forest: the kind of the largest fault, its size and its batch."""
    options: dict[str, Any] = dict(estimator.options)
    adapted = audit.adapt(
        estimator.function, adapter=options.pop("adapter", None), numpy=options.pop("numpy", False)
    )
    try:
        with audit.settled_process():
            fault, where = audit.judge(adapted, forest=forest, **options)
    except audit.AuditError as error:
        return NOT_JUDGED, str(error).splitlines()[0][:160], 0.0, 0
    batch = 0 if where is None else where.seed - forest
    return FAILS if fault.fails else HOLDS, fault.kind, float(f"{fault.size:.3g}"), batch


def read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{f.name: f.type(row[f.name]) for f in fields(Row)})  # type: ignore[operator]
            for row in csv.DictReader(file)
        ]


def write(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in rows)


def counts(rows: Sequence[Row], label: str) -> tuple[int, int]:
    """Estimators of a label, and verdicts that are not the truth."""
    alike = [row for row in rows if row.truth == label]
    return len(alike), sum(not row.agrees for row in alike)


def by_kind(rows: Sequence[Row]) -> str:
    """Markdown: false alarms and false passes of each kind."""
    lines = ["| kind | right | false alarms | wrong | false passes |", "|---|---|---|---|---|"]
    for kind in dict.fromkeys(row.kind for row in rows if row.truth != NOT_ENUMERABLE):
        own = [row for row in rows if row.kind == kind]
        (right, alarms), (wrong, passes) = counts(own, RIGHT), counts(own, WRONG)
        lines.append(f"| {kind} | {right} | {alarms} | {wrong} | {passes} |")
    (right, alarms), (wrong, passes) = counts(rows, RIGHT), counts(rows, WRONG)
    lines.append(f"| **all** | **{right}** | **{alarms}** | **{wrong}** | **{passes}** |")
    return "\n".join(lines)


def missed(rows: Sequence[Row]) -> str:
    """How many verdicts are not the truth, in words."""
    (right, alarms), (wrong, passes) = counts(rows, RIGHT), counts(rows, WRONG)
    drawn, missed = counts(rows, NOT_ENUMERABLE)
    return (
        f"Of {right} right estimators {alarms} fail, of {wrong} wrong ones {passes} hold; of "
        f"{drawn} that remember or draw {missed} fail."
    )


def margins(rows: Sequence[Row]) -> str:
    """Markdown: the faults next to the limit, and what the verdicts cost."""
    right = max((row for row in rows if row.truth != WRONG), key=lambda row: row.size)
    wrong = min((row for row in rows if row.truth == WRONG), key=lambda row: row.size)
    late = max((row for row in rows if row.truth == WRONG), key=lambda row: row.batch)
    seconds = sorted(row.seconds for row in rows)
    return "\n".join([
        f"- **Largest fault of a right one**: {right.size:.2g} ({right.idea}). The limit is "
        f"{audit.TOLERANCE:g}.",
        f"- **Smallest of a wrong one**: {wrong.size:.2g} ({wrong.idea}).",
        f"- **Last batch that was needed**: {late.batch + 1} of {audit.BATCHES} ({late.idea}).",
        f"- **CPU seconds of a verdict**: median {seconds[len(seconds) // 2]:.1f}, largest "
        f"{seconds[-1]:.1f}.",
    ])  # fmt: skip


def tables(rows: Sequence[Row], page: str) -> str:
    """The page with its tables made again from the rows."""
    made = {"opening": f"**{missed(rows)}**", "kinds": by_kind(rows), "margins": margins(rows)}
    for name, table in made.items():
        before, start, rest = page.partition(f"<!-- {name} -->\n")
        _, stop, after = rest.partition(f"<!-- /{name} -->")
        assert stop, f"the page has no place for {name}"
        page = f"{before}{start}{table}\n{stop}{after}"
    return page
