"""Draws docs/images/learning-{light,dark}.png: learning curves of the runs of README's table.

python -m docs.makers.build_curves
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt

from studies import one_grid
from tokengym.evaluation.report.report import TEMPLATES
from tokengym.evaluation.statistics import student_interval
from tokengym.lab.protocol import net, way
from tokengym.lab.study import DOCS, NET, read_rows

FOLDER = Path(__file__).resolve().parents[1] / "images"
ARMS = {
    "sparse": "sparse",
    "uniform": "uniform",
    "abc-signed": "abc-signed",
    "random": "random (control)",
    "critic": "sparse, critic from the reward model",
}
"""Arm of the grid -> its label, in the order of the task's comparison, which gives colours."""
LENGTH = 48
GROUNDS = {"light": ("#ffffff", "#1d2329"), "dark": ("#14171b", "#e7eaed")}


def palette(mode: str) -> list[str]:
    """Return the colours that the report's style sheet has for arms, the baseline's first."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    found = re.findall(r"--c\d: (#\w+)", style)  # of the light ground, then of the dark one
    half = len(found) // 2
    return found[:half] if mode == "light" else found[half:]


def draw(mode: str) -> None:
    """Draw score - c KL over the updates, means of five seeds with 95 % intervals."""
    ground, ink = GROUNDS[mode]
    figure, axes = plt.subplots(figsize=(6.4, 3.4), dpi=160, facecolor=ground)
    axes.set_facecolor(ground)
    runs, at = one_grid.STUDY.published(DOCS).runs, one_grid.ways(DOCS)[LENGTH]
    seeds = one_grid.complete(runs, LENGTH)
    for place, (arm, label) in enumerate(ARMS.items()):
        colour, dash = palette(mode)[place], "--" if place == 0 else "-"
        of_seeds = one_grid.chosen_runs(runs, arm, LENGTH, at, seeds)[one_grid.BY_NET].values()
        middle, low, high, _ = student_interval(
            [[*map(net, of)] for of in zip(*of_seeds, strict=True)]
        )
        updates = [row["step"] for row in next(iter(of_seeds))]
        axes.plot(updates, middle, color=colour, linestyle=dash, linewidth=2, label=label)
        axes.fill_between(updates, low, high, color=colour, alpha=0.18, linewidth=0)
    drawn = read_rows(DOCS / one_grid.STUDY.folder / one_grid.WAYS, text=())
    _, level = way([row for row in drawn if row["length"] == LENGTH])
    axes.axhline(level, color=ink, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(
        0.4,
        level + 0.05,
        "best of 16 untrained texts",
        color=ink,
        ha="left",
        va="bottom",
        fontsize=8,
    )
    axes.set_xlabel("updates of 64 texts", color=ink)
    axes.set_ylabel(f"{NET} of held-out texts", color=ink)
    axes.set_xlim(0, 30)
    axes.tick_params(colors=ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)
    axes.grid(axis="y", color=ink, alpha=0.12)
    axes.legend(frameon=False, labelcolor=ink, loc="lower right", fontsize=9)
    figure.tight_layout()
    figure.savefig(FOLDER / f"learning-{mode}.png", facecolor=ground, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    for mode in GROUNDS:
        draw(mode)
