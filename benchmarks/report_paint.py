"""How soon a report is painted, and how big it is: headless Chromium, medians over fresh browsers.

python -m benchmarks.report_paint runs/demo/report.html [--repeats 5]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from tests.support.browser import browser_page, complaints

PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    """Open the report again and again, and print the median."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    times = []
    for _ in range(arguments.repeats):
        with browser_page() as page, tempfile.TemporaryDirectory() as folder:
            page.goto(arguments.report.resolve().as_uri())
            page.screenshot(path=Path(folder) / "shot.png")  # without a frame nothing is painted
            times.append(float(page.evaluate(PAINT)))
            if said := complaints(page):
                print("console:", *said)
    size = arguments.report.stat().st_size / 1e6
    print(f"first contentful paint {statistics.median(times):.0f} ms (of {len(times)}: ", end="")
    print(f"{min(times):.0f} to {max(times):.0f}), {size:.2f} MB")


if __name__ == "__main__":
    main()
