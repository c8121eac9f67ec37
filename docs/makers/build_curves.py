"""Draws docs/images/learning-{light,dark}.png: learning curves of the README from published runs.

python -m docs.makers.build_curves
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt

from docs.makers.build_plots import column, curves, read
from tokengym.evaluation.report.report import TEMPLATES
from tokengym.evaluation.statistics import student_interval

FOLDER = Path(__file__).resolve().parents[1] / "images"
ARMS = {
    "sparse": ("0.95", "sparse"),
    "uniform": ("0.95", "uniform"),
    "abc-signed": ("0.5", "abc-signed"),
    "random": ("0.95", "random (control)"),
}
"""Rule -> its lambda and its label, in the order of the task's comparison, which gives colours."""
GROUNDS = {"light": ("#ffffff", "#1d2329"), "dark": ("#14171b", "#e7eaed")}


def palette(mode: str) -> list[str]:
    """Return the colours that the report's style sheet has for arms, the baseline's first."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    found = re.findall(r"--c\d: (#\w+)", style)  # of the light ground, then of the dark one
    half = len(found) // 2
    return found[:half] if mode == "light" else found[half:]


def draw(mode: str) -> None:
    """Draw the score over the updates, means of ten seeds with 95 % intervals."""
    ground, ink = GROUNDS[mode]
    figure, axes = plt.subplots(figsize=(6.4, 3.4), dpi=160, facecolor=ground)
    axes.set_facecolor(ground)
    setting = {"critic": "own", "length": "48", "updates": "30", "warmup": "0", "rate": "0.001"}
    for place, (rule, (gae_lambda, label)) in enumerate(ARMS.items()):
        colour, dash = palette(mode)[place], "--" if place == 0 else "-"
        rows = read("film_reviews/runs.csv", rule=rule, gae_lambda=gae_lambda, **setting)
        rows = [row for row in rows if int(row["seed"]) < 10]
        updates, scores = curves(rows, column("score"), "step")
        middle, low, high, _ = student_interval(scores.T)
        text = f"{label}, lambda {gae_lambda}"
        axes.plot(updates, middle, color=colour, linestyle=dash, linewidth=2, label=text)
        axes.fill_between(updates, low, high, color=colour, alpha=0.18, linewidth=0)
    (best,) = read("film_reviews/best_of_n.csv", length="48", n="16")
    level = float(best["score"])
    axes.axhline(level, color=ink, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(
        30,
        level - 0.07,
        "best of 16 untrained texts, by score",
        color=ink,
        ha="right",
        va="top",
        fontsize=8,
    )
    axes.set_xlabel("updates of 64 texts", color=ink)
    axes.set_ylabel("score of held-out texts", color=ink)
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
