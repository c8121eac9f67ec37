"""One rule through a version of the benchmark: what it will cost, its runs, its row."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.base import read_json, write_json
from tokengym.lab.benchmark.definition import Definition
from tokengym.lab.benchmark.figures import numbers_of, row_of
from tokengym.lab.benchmark.runs import Bench
from tokengym.lab.protocol import net_area
from tokengym.lab.tables import student_mean

if TYPE_CHECKING:
    from rich.console import Console

VERSION_FILE = "definition.json"


def play(bench: Bench, console: "Console | None" = None) -> tuple[dict[str, Any], Path]:
    """Do the runs that are missing and write the row; stopped at any time, it resumes.

    Says first how long it takes, by short runs of the rule and of the baseline in every setting;
    a rule that cannot be used in one is refused there.

    Args:
        bench: The runs.
        console: Where progress is shown; None shows nothing.

    Returns:
        The row, and its file.

    Raises:
        ValueError: if the folder is of another version, or the bundled models are not those that
            the version is defined on.
    """

    def say(text: str) -> None:
        if console is not None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    bench.definition.check_models()
    _settle(bench.out, bench.definition)
    total, seconds = 0, 0.0
    say(f"{bench.rule} in {bench.definition.name}, track {bench.track}")
    for setting in bench.definition.settings:
        for rule in bench.subjects:
            if not (runs := bench.left(setting, rule)):
                continue
            each = bench.pace(setting, rule)
            total, seconds = total + runs, seconds + runs * each
            say(f"  {setting.name} {rule}: about {runs} runs of {each:.0f} CPU seconds")
    if total:
        say(
            f"about {total} runs, {seconds / 3600:.1f} CPU hours on one core; Ctrl-C stops, and "
            "the same command resumes"
        )
    for done, (setting, rule, run) in enumerate(bench.pending(), start=1):
        bench.measure(setting, rule, run)
        reached = net_area(bench.read(run), bench.definition.price)
        about = f"{run.start} lambda {run.gae_lambda} rate {run.rate:g} seed {run.seed:g}"
        say(f"{done} of about {max(total, done)}: {setting.name} {rule} {about}: {reached:.3f}")
    row = row_of(bench)
    file = bench.out / f"{bench.key(bench.rule)}-{bench.track}{'-hidden' * row['hidden']}.json"
    write_json(file, row)
    number = student_mean([100 * value for value in numbers_of(row)])
    say(f"{bench.rule} minus the baseline, % of the way to best of 16: {number}")
    return row, file


def _settle(out: Path, definition: Definition) -> None:
    """Write which version a folder is of, or refuse it.

    Raises:
        ValueError: if it is another one.
    """
    file = out / VERSION_FILE
    about = {"name": definition.name, "hash": definition.hash}
    if file.exists() and (stored := read_json(file)) != about:
        raise ValueError(
            f"{out} holds runs of {stored.get('name')} ({stored.get('hash')}), not of "
            f"{definition.name} ({definition.hash}); name another folder"
        )
    write_json(file, about)
