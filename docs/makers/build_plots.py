"""Draws docs/images/mistakes, a plot for each section of docs/guide/mistakes.md.

All but two, which measure bundled models, read published curves.

    python -m docs.makers.build_plots [NAME ...]
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from tokengym.evaluation.report.figures import COLOURS, STYLE
from tokengym.evaluation.statistics import Array, area_under_curve, student_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROOT = Path(__file__).resolve().parents[2]
FOLDER = _ROOT / "docs" / "images" / "mistakes"
RESULTS = _ROOT / "docs" / "results"
GREY, BLUE, ORANGE, GREEN = COLOURS[:4]
PRICE = 0.05
"""Score units per nat of KL in `score - c KL`."""
Rows = list[dict[str, str]]


def read(name: str, **values: str) -> Rows:
    """Return the rows of a published csv whose columns have these values."""
    with (RESULTS / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def curves(rows: Rows, value: Callable[[dict[str, str]], float], axis: str) -> tuple[Array, Array]:
    """Return the points of an axis, (time,), and a value there by seed, (seeds, time)."""
    seeds = sorted({int(row["seed"]) for row in rows})
    points = sorted({int(row[axis]) for row in rows})
    at = {(int(row["seed"]), int(row[axis])): value(row) for row in rows}
    whole = [seed for seed in seeds if all((seed, point) in at for point in points)]
    return np.array(points, float), np.array([[at[seed, p] for p in points] for seed in whole])


def over_run(points: Array, values: Array) -> Array:
    """Return the mean over the run of each seed's curve, (seeds,), as the results pages take it."""
    return np.array([area_under_curve(points, curve, normalize=True) for curve in values])


def net_score(row: dict[str, str]) -> float:
    """Return the score minus the price of the KL."""
    return float(row["score"]) - PRICE * float(row["kl"])


def column(name: str) -> Callable[[dict[str, str]], float]:
    """Return a reader of one column."""
    return lambda row: float(row[name])


def draw_line(axes: "Axes", points: Array, values: Array, label: str, colour: str) -> None:
    """Draw the mean over the seeds with Student's 95 % interval; of two runs, between them."""
    middle, low, high, _ = student_interval(values.T)
    if len(values) < 3:
        low, high = values.min(0), values.max(0)
    axes.plot(points, middle, color=colour, label=label, linewidth=1.8)
    axes.fill_between(points, low, high, color=colour, alpha=0.15, linewidth=0)


def draw_bars(axes: "Axes", values: dict[str, float], colours: Sequence[str], form: str) -> None:
    """Draw horizontal bars with their figures, the first on top."""
    names = list(values)[::-1]
    axes.barh(names, [values[name] for name in names], color=list(colours)[::-1], height=0.6)
    axes.grid(visible=False)
    for index, name in enumerate(names):
        axes.text(values[name], index, f" {format(values[name], form)}", va="center", fontsize=9)


def stock_buffer() -> dict[str, Array]:
    """Return the rewards of SB3's first rollout, in its own buffer and in ours."""
    from stable_baselines3 import PPO

    import tokengym  # noqa: F401  registers the tasks
    from tokengym.agents import HindsightRolloutBuffer
    from tokengym.agents.sb3 import TokenFeatures, as_vec_env

    found = {}
    for name, buffer in (("stock buffer", None), ("hindsight buffer", HindsightRolloutBuffer)):
        envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=1, reward="abc", max_new_tokens=16)
        agent = PPO(
            "MultiInputPolicy",
            as_vec_env(envs),
            n_steps=48,
            batch_size=48,
            gamma=1.0,
            rollout_buffer_class=buffer,
            policy_kwargs={"features_extractor_class": TokenFeatures},
            seed=3,
            device="cpu",
        )
        agent.learn(48)
        found[name] = np.asarray(agent.rollout_buffer.rewards)[:, 0].astype(float)
    return found


def draw_stock_agent(axes: "Axes") -> None:
    """Show what a stock agent's buffer holds under token credit."""
    for (name, rewards), colour in zip(stock_buffer().items(), (GREY, BLUE), strict=True):
        axes.plot(
            np.arange(len(rewards)), rewards, color=colour, marker="o", markersize=3, label=name
        )
    axes.set(xlabel="step of the rollout (episodes of 16 tokens)", ylabel="reward in the buffer")
    axes.legend()


def lambda_levels() -> dict[str, list[float]]:
    """Return score - c KL over the run at lambda 0.5, 0.95 and 1, of `sparse` and `abc-signed`."""
    levels: dict[str, list[float]] = {}
    for rule, lambdas in (("sparse", ("0.5", "0.95", "1")), ("abc-signed", ("0.5", "0.95", "1"))):
        for gae_lambda in lambdas:
            cell = {"rule": rule, "gae_lambda": gae_lambda, "critic": "own", "length": "48"}
            cell |= {"model": "aligned", "updates": "30"}
            found = best_rate(read("earlier/lambdas.csv", **cell))
            areas = over_run(*curves(found, net_score, "step"))
            levels.setdefault(rule, []).append(float(areas.mean()) if len(areas) else np.nan)
    return levels


def best_rate(rows: Rows) -> Rows:
    """Return the rows of the rate that was run on most seeds: the tuned one."""
    seeds: dict[str, set[str]] = {}
    for row in rows:
        seeds.setdefault(row["rate"], set()).add(row["seed"])
    chosen = max(seeds, key=lambda rate: len(seeds[rate]), default="")
    return [row for row in rows if row["rate"] == chosen and int(row["seed"]) < 1000]


def draw_lambda(axes: "Axes") -> None:
    """Show what lambda does to two rules."""
    for (rule, values), colour in zip(lambda_levels().items(), (GREY, BLUE), strict=True):
        axes.plot(["0.5", "0.95", "1"], values, color=colour, marker="o", label=rule)
    axes.set(xlabel="gae_lambda", ylabel="score - c KL over the run")
    axes.legend()


def seed_spread() -> tuple[Array, Array, Array]:
    """Return numbers of pairs, and the least and greatest lead over the run that each can show."""
    values = {}
    for rule in ("abc", "sparse"):
        rows = read("earlier/seeds.csv", credit=rule)
        values[rule] = over_run(*curves(rows, column("score"), "step"))
    lead = values["abc"] - values["sparse"]
    counts = np.arange(1, len(lead) + 1)
    means = [
        [float(np.mean(chosen)) for chosen in combinations(lead.tolist(), int(count))]
        for count in counts
    ]
    return (
        counts.astype(float),
        np.array([min(m) for m in means]),
        np.array([max(m) for m in means]),
    )


def draw_seeds(axes: "Axes") -> None:
    """Show which leads a few seeds can show."""
    counts, low, high = seed_spread()
    axes.fill_between(counts, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(counts, low, color=BLUE)
    axes.plot(counts, high, color=BLUE)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.axhline(low[-1], color=BLUE, linewidth=1, linestyle=":")
    axes.set(xlabel="pairs of seeds, any of the ten", ylabel="lead of abc in score", xlim=(1, 10))


def field_accuracy() -> dict[str, float]:
    """Return the share of pairs in which a reward model prefers the relevant answer."""
    found = {}
    for label, queries, scorer in (
        ("dialogue's, on dialogue", "dialogue", "reward model of dialogue"),
        ("dialogue's, on questions", "questions", "reward model of dialogue"),
        ("film reviews', on questions", "questions", "reward model of movie_review"),
    ):
        (row,) = read(
            "earlier/relevance.csv", queries=queries, scorer=scorer, against="irrelevant answer"
        )
        found[label] = (float(row["wins"]) + float(row["ties"]) / 2) / float(row["pairs"])
    return found


def draw_field(axes: "Axes") -> None:
    """Show a reward model on its own field and off it."""
    draw_bars(axes, field_accuracy(), (BLUE, ORANGE, ORANGE), ".0%")
    axes.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1.1), xlabel="prefers the relevant answer")


def unread_shares() -> dict[str, float]:
    """Return the share of other tasks' prompts that the film reviews' reward model cannot read."""
    from tokengym import bundled
    from tokengym.envs.prompts.tokenization import unknown_share

    tokenizer = bundled("movie_review").tokenizer  # its reward model's, too
    found = {}
    for name in ("movie_review", "dialogue", "summarize", "question_answer"):
        texts = [prompt.text for prompt in bundled(name).prompts("test")][:128]
        found[name.replace("_", " ")] = float(np.mean(unknown_share(tokenizer, texts)))
    return found


def draw_tokenizers(axes: "Axes") -> None:
    """Show how much of a text another model's tokenizer cannot read."""
    shares = unread_shares()
    draw_bars(axes, shares, (BLUE, *(ORANGE,) * 3), ".0%")
    axes.set(xlim=(0, 1.15 * max(shares.values())), xlabel="words it cannot read")


def draw_best_of_n(axes: "Axes") -> None:
    """Show a learning curve beside what needs no training."""
    rows = read("overoptimisation/runs.csv", task="Dialogue", price="0.05", rule="sparse")
    points, values = curves(rows, column("gold_score"), "step")
    draw_line(axes, points, values, "PPO, c = 0.05", BLUE)
    level = best_of("Dialogue", 16)
    axes.axhline(level, color=GREY, linestyle="--", label="best of 16, untrained")
    axes.set(xlabel="updates", ylabel="gold score")
    axes.legend()


def best_of(task: str, n: int) -> float:
    """Return the gold score of the best of n untrained responses by the proxy."""
    rows = read("overoptimisation/best_of_n.csv", task=task, n=str(n))
    return float(np.mean([float(row["gold_score"]) for row in rows]))


def draw_estimators(axes: "Axes") -> None:
    """Show a sampled and the exact KL as a price."""
    cell = {"kl_in": "reward", "price": "0.2", "rate": "0.0003"}
    for estimator, colour in (("k1", ORANGE), ("exact", BLUE)):
        rows = read("earlier/kl.csv", kl_estimator=estimator, **cell)
        points, values = curves(
            rows, lambda row: float(row["score"]) - 0.2 * float(row["kl"]), "step"
        )
        draw_line(axes, points, values, estimator, colour)
    axes.set(xlabel="updates", ylabel="score - c KL, c = 0.2")
    axes.legend(title="kl_estimator")


def gradient_noise() -> dict[str, float]:
    """Return the number of responses at which the noise of the gradient equals its signal."""
    cells = (("sparse", "1"), ("abc", "0.5"), ("red", "0.5"), ("abc-signed", "0.5"))
    found = {}
    for rule, gae_lambda in cells:
        (row,) = read("earlier/noise.csv", policy="untrained", rule=rule, gae_lambda=gae_lambda)
        found[f"{rule.partition(':')[0]}, lambda {gae_lambda}"] = float(row["noise"])
    return found


def draw_batch(axes: "Axes") -> None:
    """Show how many responses a gradient takes."""
    draw_bars(axes, gradient_noise(), (GREY, BLUE, BLUE, BLUE), ",.0f")
    axes.axvline(64, color=ORANGE, linestyle="--", linewidth=1.2)
    axes.set(xscale="log", xlim=(30, 12_000), xlabel="responses (dashed: 64)")


def draw_tokens(axes: "Axes") -> None:
    """Show a run over all of its tokens, and over those of its responses alone."""
    rule = "mc:k=3,segments=4"
    for name, label, colour in (("sparse", "sparse", GREY), ("mc", f"{rule}, all tokens", BLUE)):
        points, values = curves(read(f"earlier/{name}.csv"), column("score"), "tokens")
        draw_line(axes, points / 1000, values, label, colour)
    rows = read("earlier/mc.csv")
    points, values = curves(rows, column("score"), "episodes")
    label = f"{rule}, its responses alone"
    axes.plot(points * 48 / 1000, values.mean(0), color=ORANGE, linestyle="--", label=label)
    axes.set(xlabel="thousand tokens", ylabel="score")
    axes.legend()


def draw_gold(axes: "Axes") -> None:
    """Show the score and the gold score of the same runs."""
    rows = read("overoptimisation/runs.csv", task="Dialogue", price="0", rule="sparse")
    for name, label, colour in (
        ("score", "score (reward model)", BLUE),
        ("gold_score", "gold", ORANGE),
    ):
        points, values = curves(rows, column(name), "step")
        scaled = (values - values[:, :1].mean()) / abs(values[:, :1].mean())
        draw_line(axes, points, scaled, label, colour)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set(xlabel="updates", ylabel="change from the start")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
    axes.legend()


PLOTS: dict[str, Callable[[Any], None]] = {
    "stock_agent": draw_stock_agent,
    "lambda": draw_lambda,
    "seeds": draw_seeds,
    "field": draw_field,
    "tokenizers": draw_tokenizers,
    "best_of_n": draw_best_of_n,
    "estimators": draw_estimators,
    "batch": draw_batch,
    "tokens": draw_tokens,
    "gold": draw_gold,
}
"""Names of the files, in the page's order, and what draws each."""


def main(argv: Iterable[str] | None = None) -> None:
    """Draw the plots that are named, or all.

    Args:
        argv: The command line; None takes the process's.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*PLOTS, []], help="all without")
    options = parser.parse_args(None if argv is None else list(argv))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in options.names or PLOTS:
        file = FOLDER / f"{name}.png"
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(4.6, 2.5), layout="constrained")
            PLOTS[name](figure.add_subplot())
            figure.savefig(file, dpi=150, metadata={"Software": None})
        print(file)


if __name__ == "__main__":
    main()
