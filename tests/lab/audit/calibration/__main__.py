"""Hold the audit against every estimator whose truth is known, and write the page's tables.

python -m tests.lab.audit.calibration
"""

from tests.lab.audit.calibration.estimators import ESTIMATORS
from tests.lab.audit.calibration.record import FOLDER, Row, find, tables, write

rows: list[Row] = []
for number, estimator in enumerate(ESTIMATORS, start=1):
    rows.append(find(estimator))
    print(f"{number}/{len(ESTIMATORS)} {rows[-1].verdict}, {rows[-1].truth}: {rows[-1].idea}")
write(FOLDER / "estimators.csv", rows)
page = FOLDER.with_suffix(".md")
page.write_text(tables(rows, page.read_text(encoding="utf-8")), encoding="utf-8")
