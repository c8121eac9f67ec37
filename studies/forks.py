"""Which rule follows the decisive token? Runs and page of docs/results/details/forks.md.

Forks at three settings of its knobs, where one wrong decision makes all others worthless: `sparse`,
`uniform`, `answer-gain`, `red` and `abc-signed` by the bundled model of the verifier, `prm` by a
process model (`forks_steps train`), `mc` and `decisive`, the exact advantage under the best play,
each with PPO and most with `loo`. GRPO runs under
sparse alone, because its updates are the same under every rule that redistributes the score. Equal
response tokens, continuations counted; runs are paired by seed. The rate of each cell is tuned on
one spare seed, as the ledger's are. Published runs are not run again.

    python -m studies.forks run --out runs/forks [--part 0/2] [--until 12:25]
    python -m studies.forks longer
    python -m studies.forks publish --out runs/forks
    python -m studies.forks page
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokengym import ComparisonConfig
from tokengym.base import read_json, write_csv, write_json
from tokengym.envs import Episode
from tokengym.evaluation import run as run_one
from tokengym.evaluation.measure import resolve_env
from tokengym.evaluation.report import (
    Curve,
    SummarySettings,
    make_panels,
    number,
    read_curves,
    save_figure,
    signed,
    summarize,
)
from tokengym.evaluation.runs import (
    EvaluationSettings,
    TaskSettings,
    slug,
    training_settings,
)
from tokengym.evaluation.statistics import PairedDifference, holm, paired_difference
from tokengym.lab.cards.page import AREA
from tokengym.lab.envs.forks.families import FILLERS, FamilyName, read
from tokengym.lab.envs.forks.values import backward, best
from tokengym.lab.protocol import (
    FIRST_RATE,
    PRICE,
    RATES,
    SPARE_SEED,
    Row,
    best_rate,
    net_area,
    next_rate,
)
from tokengym.lab.study import DOCS, Docs, Out, command_line, read_rows, run_pending, write_rows
from tokengym.lab.tables import difference, fill, grouped, iqm_with_interval, markdown_table
from tokengym.rewards import Credit, register_credit
from tokengym.rewards.maths import split_evenly

OUT = Path("runs/forks")
BASELINE = "sparse"
PUBLISHED = (
    *("credit", "seed", "step", "tokens", "episodes", "score", "gold_score", "kl", "length"),
    *("entropy", "repetition", "copy_rate", "compression", "toxicity", "eos_rate"),
    *("reference_perplexity", "train_score", "wall_s"),
)
"""Columns of the published curves."""
FOLDER = "forks"
CURVES, SETTINGS_OF = "runs.csv", "settings.json"
"""Published curves of all cells, and the settings of each by its name."""
BUDGET, HARD_BUDGET = 100_000, 200_000
"""Response tokens of a run, continuations included; the second in the hard setting."""
HARD_PRICE = 0.01
"""Score that a nat costs in the hard setting. At `PRICE` no rate of any rule rose clearly above
what the untrained policy has: there whoever stays at the start has most."""
ROWS = 64
"""Episodes per update without continuations."""
CONTINUED_ROWS = 16
"""Episodes per update of `mc`, which is left a quarter of the updates otherwise."""
EVALUATIONS = 12
FILLERS_BEFORE = 3
SETTINGS: dict[str, dict[str, Any]] = {
    "easy": {"decisions": 2, "distractors": 1},
    "middle": {"decisions": 3, "distractors": 2},
    "hard": {"decisions": 5, "distractors": 2},
}
"""Knobs of the three settings; a filler before each decision is one of four words, three times."""
FAMILY: FamilyName = "brackets"
MC = "mc:k=4,segments={asked}"
GAIN = "answer-gain:segments={asked}"
RED = "red:delivery=end"
PRM = "prm:model=runs/forks_process/{setting},steps=segment,segments={asked}"
"""By a process model that lies below the working directory; `forks_steps train` makes it."""
PURE = PRM + ",form=min"
RULES = (BASELINE, "decisive", RED, MC, "abc-signed", "uniform", GAIN, PRM, PURE)
"""In the order of their runs: those that the page's question is about come first."""
PATIENT = 0.95
"""Second lambda of `red`, whose own trusts the model more than the verdict."""
UNDER_PPO = (MC, PRM, PURE)
"""Rules that run under PPO alone."""
OTHER_LAMBDAS = ((RED, PATIENT), (BASELINE, 1.0))
"""Rules that run under PPO at another lambda than their own too."""
LEARNERS: dict[str, dict[str, Any]] = {
    "ppo": {},
    "loo": {"advantage": "loo", "group_size": 8},
    "grpo": {"advantage": "grpo", "group_size": 8},
    "grpo-as-published": {"advantage": "grpo", "group_size": 8, "kl_in": "loss"},
}
"""In `grpo` the price comes off the score, as in the others; its paper has it in the loss."""
BY_SCORES = ("grpo", "grpo-as-published")
"""Learners that read the scores alone."""
ADVANTAGES = (MC, "decisive")
"""Rules whose token rewards are advantages: under PPO they are taken as they are (`vineppo`)."""
FIRST_SEED, SEEDS = 80, 10
SWEEPS, DEARER_SWEEPS = "rates.csv", "rates-hard-0.05.csv"
"""Files of what each rate reached on the spare seed; the second in the hard setting at `PRICE`."""
LONGER, LONGER_BUDGET, LONGER_RATE = "longer.csv", 400_000, 3e-4
"""File of one run of each of two rules with more tokens, at the rate that suits both."""
LONGER_RULES = (BASELINE, "decisive")
DRAWN = (BASELINE, "decisive", f"red, lambda {PATIENT:g}", "abc-signed", "uniform")
"""Rules of the figure."""
FEWEST = 3
"""Runs without which a rule is left out of the figures."""
FIGURES = {
    "score over the run": ("score", "auc"),
    "final score": ("score", "final"),
    "final gold score": ("gold_score", "final"),
    "final KL": ("kl", "final"),
    "score - c KL over the run": ("net_score", "auc"),
}
"""Column of the figures: measurement and kind."""
COLUMNS = {
    "score - c KL over the run": AREA,
    "score over the run": ("score", "auc"),
    "final score": ("score", "final"),
    "final KL": ("kl", "final"),
}


class Decisive(Credit):
    """Each token of Forks earns its exact advantage under the best play.

    r_t = V*(y_<=t) - V*(y_<t), and r_0 also the score minus their sum
    """

    name = "decisive"
    gae_lambda = 0.0

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> NDArray[np.floating]:
        """Return the changes of V*, and the rest of the score on the first token."""
        del attribution
        task = read(episode.prompt)
        layers = backward(task, best)
        state, position = task.start, 0
        values = [layers[0].values[state]]
        for word in episode.response.split():
            if word not in FILLERS:
                state = None if state is None else task.layers[position][state].get(word)
                position += 1
            values.append(0.0 if state is None else layers[position].values.get(state, 0.0))
        rewards = np.diff(values)
        rewards[0] += score - rewards.sum()
        return rewards


def register_decisive() -> None:
    """Make `Decisive` a rule by name: importing the study registers nothing."""
    register_credit(Decisive)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One rule and learner in one setting of the knobs."""

    setting: str
    """One of `SETTINGS`."""
    learner: str
    """One of `LEARNERS`."""
    rule: str
    """One of `RULES`."""
    gae_lambda: float | None = None
    """Lambda; None takes the rule's, and for `abc-signed` PPO's default."""

    @property
    def label(self) -> str:
        """Name in the tables."""
        name = "prm, min" if self.rule == PURE else self.rule.partition(":")[0]
        return name if self.gae_lambda is None else f"{name}, lambda {self.gae_lambda:g}"

    @property
    def price(self) -> float:
        """Score that a nat of KL costs, in training and in the criterion."""
        return HARD_PRICE if self.setting == "hard" else PRICE

    @property
    def budget(self) -> int:
        """Response tokens of a run, continuations included."""
        return HARD_BUDGET if self.setting == "hard" else BUDGET

    @property
    def length(self) -> int:
        """Tokens of every response."""
        return self.asked * (FILLERS_BEFORE + 1)

    @property
    def asked(self) -> int:
        """Positions of a response at which something is decided, or seems to be."""
        return sum(SETTINGS[self.setting].values())

    @property
    def reward(self) -> str:
        """Name of the reward, with a segment per decision where it reads segments."""
        return self.rule.format(asked=self.asked, setting=self.setting)

    @property
    def name(self) -> str:
        """Name of its folder and of its csv."""
        at = "" if self.gae_lambda is None else f"-{self.gae_lambda:g}"
        return f"{self.setting}-{self.learner}-{slug(self.reward)}{at}"

    def tokens_per_episode(self) -> int:
        """Return the response tokens that an episode costs, continuations included."""
        inner = split_evenly(self.length, self.asked)[:-1] if self.rule == MC else []
        return self.length + 4 * sum(self.length - piece.stop for piece in inner)

    def folder(self, out: Path, rate: float) -> Path:
        """Return the folder of its runs at a rate."""
        return out / f"{self.name}-{rate:g}"

    def config(
        self,
        rate: float = FIRST_RATE,
        *,
        first_seed: int = FIRST_SEED,
        seeds: int = SEEDS,
        budget: int | None = None,
    ) -> ComparisonConfig:
        """Return the comparison this cell is."""
        register_decisive()
        budget = budget or self.budget
        env = resolve_env("Forks")
        learner = dict(LEARNERS[self.learner])
        if self.learner == "ppo" and self.rule in ADVANTAGES:
            learner["advantage"] = "vineppo"
        if self.gae_lambda is not None:
            learner["gae_lambda"] = self.gae_lambda
        elif self.learner == "ppo" and self.rule == "abc-signed":
            learner["gae_lambda"] = 0.95  # its runs are from before it declared a lambda
        rows = CONTINUED_ROWS if self.rule == MC else ROWS
        updates = budget // (rows * self.tokens_per_episode())
        knobs = ",".join(f"{name}={value}" for name, value in SETTINGS[self.setting].items())
        return ComparisonConfig(
            env=env,
            rewards=(self.reward,),
            seeds=seeds,
            first_seed=first_seed,
            training=training_settings(
                env,
                tokens=budget,
                batch_size=rows,
                max_new_tokens=self.length,
                kl_coef=self.price,
                learning_rate=rate,
                **learner,
            ),
            evaluation=EvaluationSettings(every=max(updates // EVALUATIONS, 1), samples=0),
            task=TaskSettings(task_options=f"family={FAMILY},{knobs}"),
        )


@dataclass(frozen=True, kw_only=True)
class PairedRuns:
    """A rule and its baseline, in one setting."""

    panel: Any
    """The setting's runs."""
    rule: str
    """The rule in question."""
    baseline: str
    """Rule that it is compared with."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds both have, rising."""
        rewards = self.panel.rewards
        if not {self.rule, self.baseline} <= set(rewards):
            return ()
        other = rewards[self.baseline].seeds
        return tuple(seed for seed in rewards[self.rule].seeds if seed in other)

    def figures(self, measure: str, kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return both sides' figures of a measurement, each (pairs,); see `Panel.per_run`."""
        rule, baseline = (
            self.panel.per_run(self.panel.rewards[name], measure, kind)[self._rows(name)]
            for name in (self.rule, self.baseline)
        )
        return rule, baseline

    def difference(self, measure: str, kind: str) -> PairedDifference | None:
        """Return the rule's figure minus the baseline's; None where it was not measured."""
        if measure not in self.panel.measures:
            return None
        return paired_difference(*self.figures(measure, kind))

    def _rows(self, name: str) -> list[int]:
        return [self.panel.rewards[name].seeds.index(seed) for seed in self.seeds]


def cells() -> list[Cell]:
    """Return all cells: the middle setting before the others, and PPO before other learners."""
    listed = []
    middle = [(learner, "middle") for learner in LEARNERS]
    others = [(learner, setting) for learner in LEARNERS for setting in ("hard", "easy")]
    for learner, setting in middle + others:
        listed += [
            Cell(setting=setting, learner=learner, rule=rule)
            for rule in RULES
            if (learner == "ppo" or rule not in UNDER_PPO)
            and (learner not in BY_SCORES or rule == BASELINE)
        ]
        if learner == "ppo":
            listed += [
                Cell(setting=setting, learner=learner, rule=rule, gae_lambda=gae_lambda)
                for rule, gae_lambda in OTHER_LAMBDAS
            ]
    return listed


def swept(cell: Cell, out: Path, docs: Path) -> dict[float, float]:
    """Return what each rate has reached on the spare seed: mean of score - c KL over the run."""
    areas = {row["rate"]: row["area"] for row in _sweeps(docs) if row["cell"] == cell.name}
    for rate in RATES:
        if rows := list(finished_rows([cell.reward], [SPARE_SEED], cell.folder(out, rate))):
            areas[rate] = net_area(rows, cell.price)
    return areas


def tuned_rate(cell: Cell, out: Path, docs: Path) -> float | None:
    """Return the best rate of a cell's sweep, None while it is not finished."""
    return best_rate(swept(cell, out, docs))


def pending(out: Path, docs: Path) -> Iterator[tuple[str, ComparisonConfig, str, int]]:
    """Yield the runs to do: sweeps and three seeds of all cells before more seeds."""
    for last in (3, 5, SEEDS):
        for learner, setting in dict.fromkeys((cell.learner, cell.setting) for cell in cells()):
            here = [c for c in cells() if (c.learner, c.setting) == (learner, setting)]
            for cell in here:
                while (rate := next_rate(areas := swept(cell, out, docs))) is not None:
                    config = cell.config(rate, first_seed=SPARE_SEED, seeds=1)
                    yield cell.folder(out, rate).name, config, cell.reward, SPARE_SEED
                    if len(swept(cell, out, docs)) == len(areas):
                        break  # another process has it
            best = {cell: rate for cell in here if (rate := tuned_rate(cell, out, docs))}
            published = {cell: _published(cell, rate, docs) for cell, rate in best.items()}
            for seed in range(FIRST_SEED, FIRST_SEED + last):
                for cell, rate in best.items():
                    config = cell.config(rate, first_seed=seed, seeds=1)
                    folder = cell.folder(out, rate)
                    if seed not in published[cell] and not all(
                        plan.is_done for plan in config.plans(folder)
                    ):
                        yield folder.name, config, cell.reward, seed


def finished_rows(
    rewards: Sequence[str], seeds: Iterable[int], folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield a row per evaluation of every finished run of a comparison's folder."""
    for reward in rewards:
        for seed in seeds:
            run = folder / slug(reward) / f"seed-{seed}"
            record = run / "run.json"
            if not record.exists() or read_json(record)["status"] != "finished":
                continue
            (curve,) = read_curves(run / "curve.csv", group_by=())
            for index, step in enumerate(curve.steps):
                values = {k: round(float(v[index]), 4) for k, v in curve.values.items()}
                for count in ("tokens", "episodes"):
                    values[count] = int(values[count])
                yield {"credit": reward, "seed": seed, "step": int(step), **values}


def _published(cell: Cell, rate: float, docs: Path) -> dict[int, list[Row]]:
    """Return the rows of a cell's published runs by seed, as they are written.

    Runs at another rate than the best do not count: a sweep may have gone on since.
    """
    settings = _settings(docs).get(cell.name)
    if settings is None or settings["training"]["learner"]["learning_rate"] != rate:
        return {}
    return grouped(published_rows(docs)[cell.name], lambda row: int(row["seed"]))


def _settings(docs: Path) -> dict[str, Any]:
    """Return the settings of the published cells by name."""
    file = docs / FOLDER / SETTINGS_OF
    return read_json(file) if file.exists() else {}


def published_rows(docs: Path) -> dict[str, list[Row]]:
    """Return the rows of the published curves by the names of their cells, all of them text."""
    file = docs / FOLDER / CURVES
    rows = read_rows(file, text=("cell", *PUBLISHED)) if file.exists() else []
    by_cell = grouped(rows, lambda row: str(row["cell"]))
    return {name: [{k: row[k] for k in PUBLISHED} for row in of] for name, of in by_cell.items()}


def _sweeps(docs: Path, name: str = SWEEPS) -> list[dict[str, Any]]:
    """Return what each rate has reached in the published sweeps."""
    file = docs / FOLDER / name
    return read_rows(file, text=("cell",)) if file.exists() else []


def run(out: Out = OUT, docs: Docs = DOCS, part: str = "0/1", until: str | None = None) -> None:
    """Run what is missing, one run at a time, in this process.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the page, whose published runs are not run again.
        part: "i/n" takes the seeds with seed % n == i, so that n processes share the work.
        until: Time of day, HH:MM, after which no run begins.
    """
    run_pending(pending(out, docs), out, part, until)


def longer(docs: Docs = DOCS) -> None:
    """Train two rules with four times the tokens in the middle setting, and publish the runs.

    Args:
        docs: Folder of the page.
    """
    rows = []
    for rule in LONGER_RULES:
        cell = Cell(setting="middle", learner="ppo", rule=rule)
        config = cell.config(LONGER_RATE, seeds=1, budget=LONGER_BUDGET)
        for point in run_one(config, rule, FIRST_SEED).curve:
            figures = {k: point[k] for k in ("step", "tokens", "score", "kl", "train_score")}
            rows.append({"rule": rule, **figures})
    write_rows(docs / FOLDER / LONGER, rows)


def publish(out: Out = OUT, docs: Docs = DOCS) -> None:
    """Write the finished runs of all cells as one csv, their settings beside it, and the sweeps."""
    tried = []
    settings, curves = _settings(docs), published_rows(docs)
    for cell in cells():
        best = tuned_rate(cell, out, docs)
        if best is None:
            continue
        tried += [
            {"cell": cell.name, "rate": rate, "area": round(area, 4), "taken": int(rate == best)}
            for rate, area in swept(cell, out, docs).items()
        ]
        seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
        runs = _published(cell, best, docs)
        for row in finished_rows([cell.reward], set(seeds) - set(runs), cell.folder(out, best)):
            runs.setdefault(row["seed"], []).append(row)
        if runs:
            curves[cell.name] = [row for seed in sorted(runs) for row in runs[seed]]
            settings[cell.name] = cell.config(best).as_dict()
    if curves:
        rows = [{"cell": name, **row} for name in sorted(curves) for row in curves[name]]
        write_csv(docs / FOLDER / CURVES, rows, ("cell", *PUBLISHED))
        write_json(docs / FOLDER / SETTINGS_OF, dict(sorted(settings.items())))
    if tried:
        write_rows(docs / FOLDER / SWEEPS, tried)


def page(docs: Docs = DOCS) -> None:
    """Fill the page's tables from the published curves."""
    panels = _panels(docs)
    tables = {"differences": _differences(panels), "figures": rules_table(panels)}
    tables["rates"] = _rates(_sweeps(docs))
    tables["rates hard"] = _rates(_sweeps(docs, DEARER_SWEEPS))
    tables["longer"] = _longer(read_rows(docs / FOLDER / LONGER, text=["rule"]))
    fill(docs / "details/forks.md", tables)
    draw(docs)


def draw(docs: Path) -> None:
    """Draw what the rules of `DRAWN` solve over the tokens under PPO, a panel per setting."""
    shown = [cell for cell in cells() if cell.learner == "ppo" and cell.label in DRAWN]
    curves = _curves(docs)
    runs = []
    for cell in sorted(shown, key=lambda cell: [*SETTINGS].index(cell.setting)):
        group = (("setting", cell.setting),)
        for run in _over_tokens(cell, curves):
            runs.append(replace(run, group=group, values={"score": run.values["score"]}))
    summary = summarize(runs, SummarySettings(baseline=BASELINE, axis="tokens"))
    save_figure(docs / FOLDER / "curves.png", summary, runs)


def _longer(rows: Sequence[Row]) -> str:
    """Return what the longer runs solve after 1, 2 and 4 times the tokens of the others."""
    lines = []
    for rule in LONGER_RULES:
        points = [row for row in rows if row["rule"] == rule and row["train_score"] is not None]
        for budget in (BUDGET, 2 * BUDGET, LONGER_BUDGET):
            point = min(points, key=lambda row: abs(row["tokens"] - budget))
            solved = (number(point[k]) for k in ("score", "train_score", "kl"))
            lines.append([f"`{rule}`", f"{point['tokens']:,.0f}", *solved])
    header = ["rule", "tokens", "solved, held-out prompts", "solved, training prompts", "KL"]
    return markdown_table(header, lines)


def _rates(rows: Sequence[Row]) -> str:
    """Return what each rate reached on the spare seed; the one that was taken in bold."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        line = lines.setdefault(row["cell"], [row["cell"], *([""] * len(RATES))])
        shown = signed(row["area"]).removeprefix("+")
        line[1 + RATES.index(row["rate"])] = f"**{shown}**" if row["taken"] else shown
    return markdown_table(["cell", *(f"{rate:g}" for rate in RATES)], [*lines.values()])


def _curves(docs: Path) -> dict[str, list[Curve]]:
    """Return the published runs by the names of their cells."""
    file = docs / FOLDER / CURVES
    curves = read_curves(file, group_by=("cell",)) if file.exists() else []
    return grouped(curves, lambda curve: dict(curve.group)["cell"])


def _over_tokens(cell: Cell, curves: Mapping[str, Sequence[Curve]]) -> list[Curve]:
    """Return a cell's published runs by its label, over tokens."""
    runs = curves.get(cell.name, ())
    return [replace(one, credit=cell.label, group=(), steps=one.values["tokens"]) for one in runs]


def _panels(docs: Path) -> dict[str, Any]:
    """Return the published runs by setting and learner, over tokens."""
    curves_of: dict[tuple[str, float], list[Any]] = {}
    published = _curves(docs)
    for cell in cells():
        if curves := _over_tokens(cell, published):
            key = f"{cell.setting}, {cell.learner}", cell.price
            curves_of.setdefault(key, []).extend(curves)
    panels = {}
    for (label, price), curves in curves_of.items():
        (panels[label],) = make_panels(curves, kl_coef=price)
    return panels


def gains(docs: Path = DOCS) -> dict[str, PairedDifference]:
    """Return each rule's difference from sparse, in the middle setting under PPO.

    Args:
        docs: Folder of the published curves.

    Returns:
        By rule as its card has it, score - c KL over the run; without rules of one run.
    """
    panel = _panels(docs)["middle, ppo"]
    by_rule = {}
    for rule in RULES[1:]:
        cell = Cell(setting="middle", learner="ppo", rule=rule)
        runs = PairedRuns(panel=panel, rule=cell.label, baseline=BASELINE)
        gain = runs.difference(*AREA) if len(runs.seeds) >= 2 else None
        if gain is not None:
            by_rule[rule if rule == RED else cell.label] = gain
    return by_rule


def rules_table(panels: Mapping[str, Any]) -> str:
    """Return each rule's figures: interquartile means with intervals."""
    rows = []
    for label, panel in panels.items():
        for rule, runs in panel.rewards.items():
            if len(runs.seeds) < FEWEST:
                continue
            row = [label, rule, str(len(runs.seeds))]
            for measure, kind in FIGURES.values():
                if measure not in panel.measures:
                    row.append("\u2013")
                    continue
                row.append(iqm_with_interval(panel.per_run(runs, measure, kind)))
            rows.append(row)
    return markdown_table(["cell", "rule", "seeds", *FIGURES], rows)


def _differences(panels: dict[str, Any]) -> str:
    """Return every rule's differences from sparse, clear ones of the first column in bold."""
    pairs = {
        (label, rule): PairedRuns(panel=panel, rule=rule, baseline=BASELINE)
        for label, panel in panels.items()
        for rule in panel.rewards
        if rule != BASELINE
    }
    pairs = {key: runs for key, runs in pairs.items() if len(runs.seeds) >= 2}
    gains = {
        key: [runs.difference(*column) for column in COLUMNS.values()]
        for key, runs in pairs.items()
    }
    corrected = holm([gain[0].p_value for gain in gains.values() if gain[0] is not None])
    rows = []
    for (label, rule), p_value in zip(gains, corrected, strict=True):
        first, *others = (difference(gain) for gain in gains[label, rule])
        first = first.replace("**", "")
        shown = f"**{first}**" if p_value < 0.05 else first
        rows.append([label, rule, str(len(pairs[label, rule].seeds)), shown, *others])
    return markdown_table(["setting, learner", "rule", "pairs", *COLUMNS], rows)


if __name__ == "__main__":
    command_line(__doc__, run, longer, publish, page)
