"""``tokengym demo``: a first comparison, from nothing to a report."""

import shlex
from pathlib import Path

SETTINGS = (
    "--env MovieReview --rewards sparse random abc-signed --seeds 5 --updates 8 --eval-every 2 "
    "--learning-rate 1e-3 --reference-samples 16 --eval-episodes 128"
)
"""Options of the comparison; it takes about 110 seconds on two cores."""


def demo(out: Path = Path("runs/demo"), no_browser: bool = False) -> int:
    """Compare two rewards and a control in two minutes on two CPU cores, and open the report.

    Nothing is downloaded. Ctrl-C keeps finished runs, and the same command resumes.

    For example:
      tokengym demo
      tokengym demo --out runs/first --no-browser

    Args:
        out: Folder of the results.
        no_browser: Only print where the report is; otherwise it opens, if there is a display.
    """
    from tokengym.scripts.commands.compare import compare
    from tokengym.scripts.commands.options import call
    from tokengym.scripts.commands.show import open_page, say, terminal

    console = terminal()
    settings = f"{SETTINGS} --out {shlex.quote(str(out))}"
    say(
        console,
        "A small language model learns to continue film reviews positively, 5 times with each of 3 "
        "rewards: sparse (the score at the last token), abc-signed (the same score divided over "
        "the tokens) and random (a control). This takes about 2 minutes on 2 cores and runs:\n\n"
        f"  tokengym compare {settings}\n",
    )
    status = call(compare, "tokengym compare", shlex.split(settings))
    if not no_browser:
        open_page(console, (out / "report.html").resolve().as_uri())
    return status
