"""Comparison of every credit rule with the true credit of each token.

Two truths. On MovieReview the grammar's own word weights, signed, after intensifiers and negation:
what each word adds to the polarity. On the Oracle the exact advantage of each token under the
policy that wrote it, by dynamic programming; there the tokens that matter are those without which
the score would be another.

Episodes of the policy that learning starts from, and of one that PPO trained on the sparse reward
(so that no rule under test shaped it). Each is scored by the learned reward model and by the exact
score itself: the second shows a rule apart from its model's faults. A seed is one set of episodes,
and one training of the trained policy; intervals are bootstraps over seeds.

The folder is the state: a cell that has its file is not run again.

    python -m studies.credit_truth run --out runs/credit_truth [--seeds 10]
    python -m studies.credit_truth publish --out runs/credit_truth
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from studies.cells import EARLIER, PUBLISHED_KL, Out, command_line, run_missing
from studies.tables import fill, markdown_table, mean, with_interval
from tokengym.base.files import read_json, write_csv, write_json
from tokengym.envs import bundled
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.runs.config import ComparisonConfig
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.environments import resolve_env
from tokengym.evaluation.statistics import interval

OUT = Path("runs/credit_truth")
DOCUMENT = Path("docs/results/credit_truth.md")
PAGE = Path("docs/rewards/credits.md")
MEASURES = {
    "correlation": "rank correlation",
    "pooled": "pooled over tokens",
    "share": "share on tokens that matter",
    "signs": "right sign",
}
POLICIES = ("reference", "trained")
SCORERS = ("learned", "exact")
Task = Literal["MovieReview", "Oracle"]
TASKS: tuple[Task, ...] = get_args(Task)
BLIND = ("sparse", "uniform", "random", "recency")
BY_MODEL = (
    "abc",
    "abc:beta=1",
    "abc-signed",
    "abc-d",
    "abc-d2",
    "red",
    "scar",
    "attribution",
    "attribution:method=integrated-gradients",
    "attribution:method=leave-one-out",
)
BY_SCORE = ("red:every_prefix=true", "scar", "attribution:method=leave-one-out")
BEST = "*without ties at best; all tokens alike*"
"""Label of the last line of a table."""
LEARNING_RATE = 3e-4
"""Learning rate of the trained policies, on both tasks."""
TRAINED_STEPS: dict[Task, int] = {"Oracle": 6}
"""Updates of the trained policies, if not the task's default. The Oracle's learns fast:
soon it writes one text, and there is nothing left to rank."""
FINER: dict[Task, str] = {"MovieReview": "scar:spans=12"}
"""Finer spans where the default six are long; the Oracle's default spans are single tokens."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One set of episodes under one scorer."""

    task: Task
    """Task of the episodes."""
    policy: str
    """Who wrote: "reference" or "trained"."""
    seed: int
    """Seed of the sampling and of the training."""
    scorer: str
    """"learned" or "exact"."""

    def path(self, out: Path) -> Path:
        """Return where its figures are stored."""
        return out / self.task / self.policy / f"seed-{self.seed}" / f"{self.scorer}.json"

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that its scorer allows."""
        common_rules = BLIND + (BY_MODEL if self.scorer == "learned" else BY_SCORE)
        return common_rules + ((FINER[self.task],) if self.task in FINER else ())


def cells(seeds: int) -> Iterator[Cell]:
    """Yield all cells; those of one set of episodes follow one another."""
    for task, policy, seed, scorer in product(TASKS, POLICIES, range(seeds), SCORERS):
        yield Cell(task=task, policy=policy, seed=seed, scorer=scorer)


def run(
    out: Out = OUT,
    seeds: int = 10,
    episodes: int = 128,
    steps: int | None = None,
    tasks: Sequence[Task] = TASKS,
) -> None:
    """Run the cells that are missing.

    Args:
        out: Folder of the study's runs.
        seeds: Sets of episodes per task and policy.
        episodes: Responses in a set.
        steps: Updates of the trained policies; None takes `TRAINED_STEPS`, or the task's default.
        tasks: Tasks to run.
    """
    run_missing(
        (cell for cell in cells(seeds) if cell.task in tasks),
        lambda cell: cell.path(out),
        lambda cell: write_json(cell.path(out), measure(cell, out, episodes, steps)),
    )


def measure(cell: Cell, out: Path, episodes: int, steps: int | None) -> dict[str, Any]:
    """Return the agreement of every rule with the truth on a cell's episodes."""
    from tokengym.lab.replay.replay import replay

    played, policy = play(cell, out, episodes=episodes, steps=steps)
    result = replay(
        played,
        cell.rules,
        env=cell.task,
        env_kwargs=lengths(cell.task) | {"scorer": make_scorer(cell)},
        policy=policy,
    )
    assert result.truth is not None
    return {
        "episodes": len(played),
        "alike": float(np.mean([mask.mean() for mask in result.truth.matters if mask.any()])),
        "score": float(next(iter(result.scores.values())).mean()),
        "rules": {name: asdict(agreement) for name, agreement in result.agreements.items()},
    }


def play(cell: Cell, out: Path, *, episodes: int, steps: int | None) -> tuple[list[Any], Any]:
    """Return a cell's episodes, on held-out prompts, and the policy that wrote them."""
    from tokengym.agents import PPO
    from tokengym.evaluation.measure.evaluate import Evaluator

    evaluator = Evaluator(
        cell.task, lengths(cell.task), num_episodes=episodes, seed=1000 + cell.seed
    )
    if cell.policy == "trained":
        agent: Any = PPO.load(trained_agent(cell, out, steps))
    else:
        agent = PPO(
            "CausalLMPolicy",
            evaluator.envs,
            advantage="reinforce",
            n_minibatches=1,
            seed=cell.seed,
        )
    played = list(evaluator(agent).episodes)
    evaluator.close()
    return played, agent.policy


def trained_agent(cell: Cell, out: Path, steps: int | None) -> Path:
    """Return the folder of the policy trained with a cell's seed, trained if it is not there."""
    from tokengym.evaluation.runs.run import run as run_one

    folder = out / cell.task / cell.policy / f"seed-{cell.seed}" / "agent"
    if not folder.exists():
        env = resolve_env(cell.task)
        training = training_settings(
            env,
            steps=steps or TRAINED_STEPS.get(cell.task),
            learning_rate=LEARNING_RATE,
            kl_estimator=PUBLISHED_KL,
            **EARLIER,
        )
        config = ComparisonConfig(
            env=env,
            rewards=("sparse",),
            seeds=1,
            first_seed=cell.seed,
            training=training,
            evaluation=EvaluationSettings(every=training.steps, episodes=8, samples=0),
        )
        run_one(config, "sparse", cell.seed, save=folder)
    return folder


def make_scorer(cell: Cell) -> Any:
    """Return what scores a cell's episodes: the bundled reward model, or the truth itself."""
    from tokengym.envs.oracle.score import oracle_text_score
    from tokengym.rewards import FunctionScorer, Sentiment, gold_scorer

    bundle = bundled("movie_review" if cell.task == "MovieReview" else "oracle")
    if cell.scorer == "learned":
        return bundle.reward_model
    if bundle.has("lexicon"):  # the truth of words is the polarity's; grammar is no word's
        return Sentiment.from_file(bundle.lexicon)
    return gold_scorer(bundle) or FunctionScorer(oracle_text_score, name="oracle")


def lengths(task: Task) -> dict[str, int]:
    """Return how long a task's responses are in training and here."""
    return training_settings(resolve_env(task)).lengths()


def summarize(out: Path, seeds: int) -> list[dict[str, Any]]:
    """Return one row per task, policy, scorer, rule and measure: mean over seeds and interval."""
    by_setting: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for cell in cells(seeds):
        if cell.path(out).exists():
            key = (cell.task, cell.policy, cell.scorer)
            by_setting.setdefault(key, []).append(read_json(cell.path(out)))
    rows = []
    for (task, policy, scorer), sets in by_setting.items():
        setting = {"task": task, "policy": policy, "scorer": scorer}
        for rule in sets[0]["rules"]:
            for measure in MEASURES:
                values = [one["rules"][rule][measure] for one in sets]
                rows.append(setting | {"rule": rule, "measure": measure} | _figure(values))
        rows.append(
            setting
            | {"rule": "all alike", "measure": "share"}
            | _figure([s["alike"] for s in sets])
        )
        earned = _figure([one["score"] for one in sets])
        rows.append(setting | {"rule": "policy", "measure": "score"} | earned)
        ceilings = [next(iter(one["rules"].values()))["ceiling"] for one in sets]
        rows.append(setting | {"rule": "ceiling", "measure": "correlation"} | _figure(ceilings))
    return rows


def _figure(values: Sequence[float]) -> dict[str, Any]:
    centre = mean(values)
    low, high = interval(values, mean) if len(values) > 1 else (centre, centre)
    return {"mean": centre, "low": low, "high": high, "seeds": len(values)}


def publish(out: Out = OUT, seeds: int = 10, document: Path = DOCUMENT, page: Path = PAGE) -> None:
    """Write the csv, the figure and the tables of the documents.

    Args:
        out: Folder of the study's runs.
        seeds: Sets of episodes per task and policy.
        document: Page of the study.
        page: Page of the credit rules, which has the overview.
    """
    rows = summarize(out, seeds)
    folder = document.with_suffix("")
    columns = ("task", "policy", "scorer", "rule", "measure", "mean", "low", "high", "seeds")
    write_csv(folder / "figures.csv", rows, columns)
    tables = {
        " ".join(setting): _table(rows, *setting) for setting in product(TASKS, POLICIES, SCORERS)
    }
    fill(document, {name: table for name, table in tables.items() if table})
    fill(page, {"scores": _overview(rows)})
    draw(folder / "correlation.png", rows)


def _select(rows: Sequence[Mapping[str, Any]], **wanted: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _rules(rows: Sequence[Mapping[str, Any]], **setting: str) -> list[str]:
    """Return the rules of a setting, the best correlation first."""
    chosen = [
        row
        for row in _select(rows, measure="correlation", **setting)
        if row["rule"] not in ("ceiling", "all alike")
    ]
    return [row["rule"] for row in sorted(chosen, key=lambda row: -row["mean"])]


def _cell(
    rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, str], *, interval: bool = True
) -> str:
    matching = _select(rows, **wanted)
    if not matching:
        return "\u2013"
    (row,) = matching
    return with_interval(row, "mean") if interval else number(row["mean"])


def _table(rows: Sequence[Mapping[str, Any]], task: str, policy: str, scorer: str) -> str:
    setting = {"task": task, "policy": policy, "scorer": scorer}
    lines = [
        [
            f"`{rule}`",
            *(_cell(rows, {**setting, "rule": rule, "measure": measure}) for measure in MEASURES),
        ]
        for rule in _rules(rows, **setting)
    ]
    if not lines:
        return ""
    lines.append(
        [
            BEST,
            _cell(rows, {**setting, "rule": "ceiling", "measure": "correlation"}),
            "",
            _cell(rows, {**setting, "rule": "all alike", "measure": "share"}),
            "",
        ]
    )
    return markdown_table(["rule", *MEASURES.values()], lines)


def _overview(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the page on rules: two measures in each place, by the learned model."""
    settings = [
        (task, policy)
        for task, policy in product(TASKS, POLICIES)
        if _select(rows, task=task, policy=policy, scorer="learned")
    ]
    header = ["rule", *(f"{task}, {policy}" for task, policy in settings)]
    first = {"task": settings[0][0], "policy": settings[0][1], "scorer": "learned"}
    lines = []
    for rule in [*_rules(rows, **first), ""]:
        line = [f"`{rule}`" if rule else BEST]
        for task, policy in settings:
            setting = {"task": task, "policy": policy, "scorer": "learned"}
            correlation, share = (
                _cell(rows, {**setting, "rule": rule or other, "measure": measure}, interval=False)
                for measure, other in (("correlation", "ceiling"), ("share", "all alike"))
            )
            line.append(f"{correlation}; {share}")
        lines.append(line)
    return markdown_table(header, lines)


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw each rule's rank correlation with its interval, a panel per task and policy."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from tokengym.evaluation.report.figures import COLOURS, STYLE, write_picture

    settings = [
        (task, policy)
        for task, policy in product(TASKS, POLICIES)
        if _select(rows, task=task, policy=policy)
    ]
    order = list(dict.fromkeys(BLIND + tuple(FINER.values()) + BY_SCORE + BY_MODEL))[::-1]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(3.2 * len(settings) + 2.4, 5.6), layout="constrained")
        axes = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
        for axis, (task, policy) in zip(axes, settings, strict=True):
            for scorer, colour, shift in zip(SCORERS, COLOURS[1:3], (0.14, -0.14), strict=True):
                setting = {"task": task, "policy": policy, "scorer": scorer}
                chosen = _select(rows, measure="correlation", **setting)
                points = [row for row in chosen if row["rule"] in order]
                y = np.array([order.index(row["rule"]) for row in points]) + shift
                x = np.array([row["mean"] for row in points])
                ends = np.array([[row["low"], row["high"]] for row in points]).reshape(-1, 2)
                axis.errorbar(
                    x,
                    y,
                    xerr=np.abs(ends - x[:, None]).T,
                    fmt="o" if scorer == "learned" else "D",
                    markersize=5,
                    color=colour,
                    label=f"{scorer} score",
                )
            ceiling = _select(rows, rule="ceiling", task=task, policy=policy)
            if ceiling:
                axis.axvline(ceiling[0]["mean"], color="#9aa1a8", linestyle=":", linewidth=1.2)
            axis.axvline(0.0, color="#9aa1a8", linewidth=0.8)
            axis.set_title(f"{task}, {policy} policy")
            axis.set_xlabel("rank correlation with the truth")
        axes[0].set_yticks(range(len(order)), order)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        write_picture(path, figure, dpi=130)


if __name__ == "__main__":
    command_line(__doc__, run, publish)
