"""Draws docs/images/report.png and curves.png: the report and the picture of a finished run.

python -m docs.makers.build_report runs/demo    after tokengym demo, with Chromium
"""

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "images"
SIZE = "1280,1200"
"""CSS pixels of the part of the report that is shown."""


def main() -> None:
    """Copy the picture, and take one of the first part of the page."""
    run = Path(sys.argv[1]).resolve()
    shutil.copyfile(run / "curves.png", FOLDER / "curves.png")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    shot = [f"--window-size={SIZE}", f"--screenshot={FOLDER / 'report.png'}"]
    page = (run / "report.html").as_uri()
    subprocess.run(["chromium", *options, *shot, page], check=True, capture_output=True)


if __name__ == "__main__":
    main()
