"""Hold the audit against every estimator whose truth is known, and write the page's tables.

python -m tests.lab.audit.calibration

Rows are written to docs/results/audit_calibration/ as they are found. Rows of the same audit,
truths and estimators are kept when the command is started again, so that it can be stopped.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.lab.audit.calibration.estimators import ESTIMATORS
from tests.lab.audit.calibration.record import FOLDER, Row, find, found, read, tables, write


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.audit.calibration")
    parser.add_argument("--out", type=Path, default=FOLDER / "estimators.csv", help="csv of rows")
    parser.add_argument("--page", type=Path, default=FOLDER.with_suffix(".md"), help="page to fill")
    arguments = parser.parse_args(argv)
    began = time.process_time()
    known = {row.key: row for row in read(arguments.out)}
    rows: list[Row] = []
    for number, estimator in enumerate(ESTIMATORS, start=1):
        row = find(estimator, known.pop(found(estimator), None))
        rows.append(row)
        write(arguments.out, [*rows, *known.values()])
        print(f"{number}/{len(ESTIMATORS)} {row.verdict}, {row.truth}: {row.idea}", flush=True)
    write(arguments.out, rows)
    if arguments.page.exists():
        arguments.page.write_text(tables(rows, arguments.page.read_text(encoding="utf-8")))
    seconds = sum(row.proof_seconds + row.audit_seconds for row in rows)
    now = time.process_time() - began
    print(f"{len(rows)} estimators, {seconds:.0f} CPU s, {now:.0f} of them now")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
