"""Runs the commands of docs/results/speed/cpu.txt and puts what they print into it.

The file is its own script: below each command stands ``<!-- output -->``, the table that it
printed, and ``<!-- end -->``. The page quotes it. Run it on a quiet machine, from the root of a
checkout:

    python benchmarks/speed_page.py [--trl FOLDER] [--only rollout_speed] [--skip ppo_peer]
    python benchmarks/speed_page.py --picture    # draws the page's first table
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PAGE, OUTPUTS = Path("docs/results/speed.md"), Path("docs/results/speed/cpu.txt")
PICTURE = Path("docs/results/speed/ratios.png")
TRL = "trl-1.12.0"
BLOCK = re.compile(
    r"```bash\n(python \S[^\n]*)\n```\n\n<!-- output -->\n.*?<!-- end -->", re.DOTALL
)


def rerun(match: re.Match[str], trl: str, only: str, skipped: Sequence[str]) -> str:
    """Return a command's block with its present output, or as it was if it is not chosen."""
    command = match.group(1)
    if only not in command or any(word in command for word in skipped):
        return match.group(0)
    print(command, file=sys.stderr)
    words = [trl if word == TRL else word for word in shlex.split(command)]
    words[0] = sys.executable
    ran = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return f"```bash\n{command}\n```\n\n<!-- output -->\n{ran.stdout.strip()}\n<!-- end -->"


def draw(page: str, file: Path) -> None:
    """Draw the page's first table: how many times as fast, by torch's products and oneDNN's.

    Args:
        page: Text of the page.
        file: Picture to write.
    """
    from matplotlib.figure import Figure

    _, _, *lines = re.findall(r"^\|(.*)\|$", page.partition("\n## ")[0], re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("|")] for line in lines][::-1]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    for column, color, shift, label in (
        (1, "#0072b2", 0.2, "torch's products"),
        (2, "#e69f00", -0.2, "oneDNN's products"),
    ):
        at = [place + shift for place in range(len(rows))]
        bars = axes.barh(at, [float(row[column]) for row in rows], 0.38, color=color, label=label)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.axvline(1, color="#56616f", linewidth=1)
    axes.set_yticks(range(len(rows)), [row[0].replace("`", "") for row in rows], fontsize=9)
    axes.set_xlabel("times as fast")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, metadata={"Software": None})


def main() -> None:
    """Rewrite the outputs, command by command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", default=TRL, help="folder that holds TRL 1.12.0's package")
    parser.add_argument("--only", default="", help="run commands that contain this")
    parser.add_argument("--skip", nargs="+", default=[], help="leave out commands with these")
    parser.add_argument("--picture", action="store_true", help="draw the first table, run nothing")
    settings = parser.parse_args()
    if settings.picture:
        draw(PAGE.read_text(encoding="utf-8"), PICTURE)
        return
    done = 0
    while True:  # a block at a time: what was measured stays if a later command fails
        text = OUTPUTS.read_text(encoding="utf-8")
        blocks = list(BLOCK.finditer(text))
        if done == len(blocks):
            return
        block = blocks[done]
        new = rerun(block, settings.trl, settings.only, settings.skip)
        text = text[: block.start()] + new + text[block.end() :]
        OUTPUTS.write_text(text, encoding="utf-8")
        done += 1


if __name__ == "__main__":
    main()
