"""What the audit says of each estimator, and the tables of the page."""

import csv
import hashlib
import inspect
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from tests.lab.audit.calibration import common, decisions, truth
from tests.lab.audit.calibration.common import NOT_ENUMERABLE, RIGHT, WRONG, Estimator
from tests.lab.audit.calibration.estimators import held_out
from tokengym.lab import audit

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "docs/results/audit_calibration"
T = TypeVar("T")
HOLDS, FAILS, NOT_JUDGED = "holds", "fails", "not judged"


@dataclass(frozen=True)
class Row:
    """An estimator, its truth and its verdict.

    Args:
        kind: Kind of the idea.
        idea: The idea in a line.
        half: "told" or "held out".
        truth: right, wrong, or cannot be enumerated.
        case: Case of the brute force that shows that it is wrong, or right in the limit alone.
        verdict: holds, fails or not judged.
        checks: The checks that fail with their verdicts, or why it was not judged.
        proof: Stamp of the brute force and the estimators.
        audit: Stamp of the audit.
        proof_seconds: CPU seconds of the brute force.
        audit_seconds: CPU seconds of the audit.
    """

    kind: str
    idea: str
    half: str
    truth: str
    case: str
    verdict: str
    checks: str
    proof: str
    audit: str
    proof_seconds: float
    audit_seconds: float

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.idea


def found(estimator: Estimator) -> tuple[str, str]:
    return estimator.kind, estimator.idea


def stamps() -> tuple[str, str]:
    """Twelve digits that change with the brute force or an estimator, and with the audit."""
    proof = [Path(inspect.getfile(module)) for module in (common, decisions, truth)]
    proof += [Path(__file__).with_name(f"{name}.py") for name in ("baselines", "tokens", "scales")]
    return _digits(proof), _digits([Path(inspect.getfile(audit.check_estimator))])


def _digits(paths: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def find(estimator: Estimator, known: Row | None = None) -> Row:
    """Prove the truth of an estimator and ask the audit.

    Args:
        estimator: The estimator.
        known: What was found earlier; what has changed since is found again.

    Raises:
        AssertionError: if the brute force does not find what the estimator is labelled as.
    """
    proof, of_audit = stamps()
    if known and (known.proof, known.audit) == (proof, of_audit):
        return known
    if known and known.proof == proof:
        case, proof_seconds = known.case, known.proof_seconds
    else:
        case, proof_seconds = timed(lambda: prove(estimator))
    (verdict, checks), audit_seconds = timed(lambda: asked(estimator))
    return Row(
        estimator.kind,
        estimator.idea,
        "held out" if held_out(estimator) else "told",
        estimator.label,
        case,
        verdict,
        checks,
        proof,
        of_audit,
        proof_seconds,
        audit_seconds,
    )


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


def asked(estimator: Estimator) -> tuple[str, str]:
    """The audit's verdict, and the checks that fail or why there is none."""
    try:
        answer = audit.check_estimator(estimator.function, **estimator.options)
    except audit.AuditError as error:
        return NOT_JUDGED, str(error).splitlines()[0][:160]
    failing = [f"{check.name}: {check.verdict}" for check in answer.checks if check.fails]
    return (HOLDS, "") if answer.holds else (FAILS, "; ".join(failing))


def agrees(row: Row) -> bool:
    """Whether the verdict is the truth."""
    return row.verdict == {RIGHT: HOLDS, WRONG: FAILS, NOT_ENUMERABLE: NOT_JUDGED}[row.truth]


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                **{name: text for name, text in row.items() if not name.endswith("seconds")},
                proof_seconds=float(row["proof_seconds"]),
                audit_seconds=float(row["audit_seconds"]),
            )
            for row in csv.DictReader(file)
        ]


def write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part")
    with whole.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    whole.replace(path)


def counts(rows: Sequence[Row], label: str) -> tuple[int, int, int]:
    """Estimators of a label, verdicts that are not the truth, and those not judged."""
    alike = [row for row in rows if row.truth == label]
    unjudged = [row for row in alike if row.verdict == NOT_JUDGED]
    untrue = [row for row in alike if not agrees(row) and row not in unjudged]
    return len(alike), len(untrue), len(unjudged)


def by_kind(rows: Sequence[Row]) -> str:
    """Markdown: false alarms and false passes of each kind."""
    lines = ["| kind | right | false alarms | wrong | false passes |", "|---|---|---|---|---|"]
    for kind in dict.fromkeys(row.kind for row in rows if row.truth != NOT_ENUMERABLE):
        own = [row for row in rows if row.kind == kind]
        (right, alarms, _), (wrong, passes, _) = counts(own, RIGHT), counts(own, WRONG)
        lines.append(f"| {kind} | {right} | {alarms} | {wrong} | {passes} |")
    (right, alarms, _), (wrong, passes, _) = counts(rows, RIGHT), counts(rows, WRONG)
    lines.append(f"| **all** | **{right}** | **{alarms}** | **{wrong}** | **{passes}** |")
    return "\n".join(lines)


def by_half(rows: Sequence[Row]) -> str:
    """Markdown: the same for the half that was told of, and for the half that was not."""
    lines = [
        "| half | right | false alarms | not judged | wrong | false passes | not judged |",
        "|---|---|---|---|---|---|---|",
    ]
    for half in ("told", "held out"):
        own = [row for row in rows if row.half == half]
        numbers = [*counts(own, RIGHT), *counts(own, WRONG)]
        lines.append(f"| {half} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def disagreements(rows: Sequence[Row]) -> str:
    """Markdown: every estimator of which the audit does not say the truth."""
    untrue = [row for row in rows if not agrees(row)]
    if not untrue:
        return "There is none."
    lines = ["| kind | idea | truth | verdict | shown by |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.kind} | {row.idea} | {row.truth} | {row.verdict} | {row.checks or row.case} |"
        for row in untrue
    ]
    return "\n".join(lines)


def unjudged(rows: Sequence[Row]) -> str:
    """Markdown: estimators with state or chance."""
    own = [row for row in rows if row.truth == NOT_ENUMERABLE]
    told = sum(agrees(row) for row in own)
    return f"{told} of {len(own)} are told that they cannot be judged."


def missed(rows: Sequence[Row]) -> str:
    """How many verdicts are not the truth, in words."""
    (right, alarms, _), (wrong, passes, _) = counts(rows, RIGHT), counts(rows, WRONG)
    return f"Of {right} right estimators {alarms} fail, of {wrong} wrong ones {passes} hold."


def opening(rows: Sequence[Row]) -> str:
    """Markdown: the answer, and how many verdicts are missed on both sides."""
    every, misses = (
        sum(of) for of in zip(*(counts(rows, at)[:2] for at in (RIGHT, WRONG)), strict=True)
    )
    share = f"{misses} of {every}" if misses else "None"
    return f"**{share} on this set, on whose mistakes its checks were changed.** {missed(rows)}"


def by_audit(rows: Sequence[Row]) -> str:
    """Markdown: how many verdicts are of which audit."""
    found = Counter(row.audit for row in rows).most_common()
    return "; ".join(f"`{digest}`: {number} estimators" for digest, number in found) + "."


def tables(rows: Sequence[Row], page: str) -> str:
    """The page with its tables made again from the rows."""
    made = {
        "opening": opening(rows),
        "audits": by_audit(rows),
        "halves": by_half(rows),
        "kinds": by_kind(rows),
        "disagreements": disagreements(rows),
        "state": unjudged(rows),
    }
    for name, table in made.items():
        before, start, rest = page.partition(f"<!-- {name} -->\n")
        _, stop, after = rest.partition(f"<!-- /{name} -->")
        assert start, f"the page has no place for {name}"
        assert stop, f"the page has no end of {name}"
        page = f"{before}{start}{table}\n{stop}{after}"
    return page
