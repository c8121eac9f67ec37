"""PPO or DPO, from the same pairs? Fills docs/results/preferences.md.

The untrained policy's responses to film reviews' prompts, ranked by the gold score, make pairs. DPO
learns them; PPO climbs a reward model that is trained on them. After Xu et al. 2024, "Is DPO
Superior to PPO for LLM Alignment?", arXiv:2404.10719.

    python -m studies.ppo_against_dpo run --out runs/ppo_against_dpo [--until 22:00]
    python -m studies.ppo_against_dpo publish --out runs/ppo_against_dpo    # fills the page
    python -m studies.ppo_against_dpo page
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym

from tokengym import Comparison
from tokengym.agents.offline import (
    ResponseCollector,
    Sampling,
    make_policy,
    pair_rows,
    prompt_order,
)
from tokengym.base import read_json
from tokengym.envs import Task
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import (
    EvaluationSettings,
    RunRecord,
    TaskSettings,
    training_settings,
)
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.commands.train_reward import BUNDLED
from tokengym.lab.protocol import MEASURES, chosen_on_others
from tokengym.lab.study import Cell, Published, Round, Row, Runs, Study, single_run
from tokengym.lab.tables import (
    NOT_YET,
    after_holm,
    difference,
    markdown_table,
    mean,
    paired,
    student_mean,
)
from tokengym.lab.training import RewardTraining, train_reward_model
from tokengym.rewards import gold_scorer
from tokengym.rewards.pairs import pairs_dataset

ENV = "tokengym/MovieReview-v0"
LENGTH = 48
"""Tokens of every response."""
PROMPTS, RESPONSES, HELD_OUT = 512, 8, 128
"""Prompts that pairs are of, responses to each, and further prompts, whose pairs measure the reward
models."""
UPDATES, BATCH, PPO_PASSES = 20, 64, 2
"""PPO's updates, the episodes of each, and the passes over these."""
DPO_EPOCHS, REWARD_EPOCHS = 3.0, 5.0
"""Passes of DPO and of the reward model over the pairs."""
SEEDS = range(10, 15)
"""Of pairs, reward model and training; no earlier page has them."""
AGENTS = {"dpo": "DPO", "ppo": "PPO"}
TRIED = {
    "dpo": ((0.3, 3e-4), (0.1, 3e-4), (0.1, 1e-4), (0.3, 1e-3), (1.0, 1e-3)),
    "ppo": ((0.05, 1e-3), (0.05, 3e-4), (0.02, 3e-4), (0.02, 1e-3), (0.1, 1e-3)),
}
"""Agent -> every price (DPO's beta, PPO's c) and learning rate: what did best in the older runs,
what is usual, and others."""
GRID = EvaluationSettings(every=5, episodes=128, samples=0)
"""Measurement of PPO; DPO is measured after each epoch."""
GOLD, KL = "gold_score", "kl"
NEAR = 1.0
"""Nats by which the KL of two settings may differ, in the mean, to be compared at one KL."""


def settings_of(agent: str) -> list[Cell]:
    """Return the cells of an agent."""
    return [
        STUDY.cell(agent=agent, price=price, learning_rate=rate) for price, rate in TRIED[agent]
    ]


def every_setting() -> list[Cell]:
    """Return the cells of both agents."""
    return [cell for agent in AGENTS for cell in settings_of(agent)]


def first_settings() -> list[Cell]:
    """Return what the headline compares: what did best in the older runs, and what is usual."""
    return [cell for agent in AGENTS for cell in settings_of(agent)[:2]]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them: what the headline compares comes first."""
    yield first_settings(), SEEDS
    for seed in SEEDS:
        yield every_setting(), (seed,)


# --- pairs and reward models ----------------------------------------------------------------------


def ranked_pairs(seed: int, skip: int, count: int) -> Any:
    """Return the pairs of so many prompts: best with worst, second with second-worst, and so on.

    Args:
        seed: Of the prompts and responses.
        skip: Prompts that were used before.
        count: Prompts.
    """
    bundle = _task().own_bundle()
    lengths: dict[str, Any] = training_settings(ENV, max_new_tokens=LENGTH).lengths()
    envs: Any = gym.make_vec(ENV, num_envs=1, reward=None, **lengths)
    sampling = Sampling(n=RESPONSES)
    collector = ResponseCollector(envs, scorer=gold_scorer(bundle), sampling=sampling, max_rows=256)
    prompts = prompt_order(len(collector.prompts), count, seed=seed, skip=skip)
    groups = collector.collect(make_policy(envs), prompts, seed=seed + skip)
    ranked = [sorted(group, key=lambda one: -(one.score or 0.0)) for group in groups]
    rows: list[dict[str, Any]] = []
    for rank in range(RESPONSES // 2):
        couples = [(group[rank], group[-1 - rank]) for group in ranked]
        rows += pair_rows(couples, sampling, prompts)  # equal scores make none
    return pairs_dataset(rows)


def _task() -> Task:
    task = Task.of(ENV)
    assert task is not None
    return task


def pairs_file(seed: int, out: Path, *, held_out: bool = False) -> Path:
    """Return the file of a seed's pairs, made if it is missing.

    Args:
        seed: The seed.
        out: Folder of the study's runs.
        held_out: Whether they are those that measure the reward model.
    """
    file = out / "pairs" / f"{'held_out' if held_out else 'train'}-{seed}.parquet"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        skip, count = (PROMPTS, HELD_OUT) if held_out else (0, PROMPTS)
        whole = file.with_suffix(".unfinished")
        ranked_pairs(seed, skip, count).to_parquet(whole)
        whole.rename(file)
    return file


def reward_model(seed: int, out: Path) -> Path:
    """Return the folder of the reward model of a seed's pairs, trained if it is missing.

    Args:
        seed: The seed.
        out: Folder of the study's runs.
    """
    folder = out / "reward" / str(seed)
    if not folder.exists():
        bundle = _task().own_bundle()
        training = RewardTraining(
            append_eos=False, seed=seed, **{**BUNDLED, "epochs": REWARD_EPOCHS}
        )
        train_reward_model(
            bundle.policy,
            pairs_file(seed, out),
            held_out=pairs_file(seed, out, held_out=True),
            output_dir=folder,
            tokenizer=bundle.tokenizer,
            training=training,
        )
    return folder


# --- runs -----------------------------------------------------------------------------------------


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of; what it reads is made if it is missing."""
    made = reward_model if run.agent == "ppo" else pairs_file
    return reading(run, str(made(int(run.seed), out)))


def reading(run: Cell, path: str) -> Comparison:
    """Return the comparison that a run is of.

    Args:
        run: A cell.
        path: Folder of the reward model that PPO climbs, or file of the pairs that DPO learns.
    """
    training: dict[str, Any] = {
        "max_new_tokens": LENGTH,
        "learning_rate": run.learning_rate,
    }
    if run.agent == "ppo":
        training |= {"updates": UPDATES, "batch_size": BATCH, "n_epochs": PPO_PASSES}
        training |= {"kl_coef": run.price, "task": TaskSettings(scorer=path)}
    else:
        training |= {"agent": "dpo", "pairs": path, "epochs": DPO_EPOCHS, "beta": run.price}
    return single_run(ENV, "sparse", evaluation=GRID, stream="run", **training)


def measure(run: Cell, record: RunRecord) -> list[Row]:
    """Return the rows of a run, with all its response tokens and the accuracy of its reward model.

    Tokens are counted as often as they are sampled, for the pairs or by PPO, or passed over.
    """
    spent = PROMPTS * RESPONSES * LENGTH
    passes, accuracy = 1, None
    if run.agent == "ppo":
        measures = read_json(Path(str(record.spec.task.scorer)) / "measures.json")
        spent += round(2 * LENGTH * measures["trained_on"] * REWARD_EPOCHS)
        passes, accuracy = 1 + PPO_PASSES, round(measures["held_out"]["accuracy"], 4)
    return [
        {
            **{name: round(point[name], 4) for name in MEASURES},
            "tokens": spent + passes * point["tokens"] if point["step"] else 0,
            "reward_accuracy": accuracy,
        }
        for point in record.points
    ]


# --- page -----------------------------------------------------------------------------------------


def ends(runs: Runs, cell: Cell, name: str) -> dict[int, float]:
    """Return the last measurement of each of a cell's runs by seed."""
    return {seed: float(p[-1][name]) for seed, p in runs.runs.get(cell, {}).items()}


def are_made(runs: Runs, cells: Sequence[Cell]) -> bool:
    """Return whether cells have all seeds: fewer fill no table."""
    return all({*SEEDS} <= {*runs.runs.get(cell, {})} for cell in cells)


def chosen(runs: Runs, agent: str) -> list[Cell]:
    """Return for each seed the setting with the most gold at the end on the other seeds."""
    settings = settings_of(agent)
    golds = [[ends(runs, cell, GOLD)[seed] for seed in SEEDS] for cell in settings]
    return [*chosen_on_others(settings, SEEDS, golds).values()]


def setting_text(cells: Sequence[Cell]) -> str:
    """Return prices and rates, each once, with the seeds that have it where there are several."""
    counts = Counter(cells)
    return "; ".join(
        f"{cell.price:g} at {cell.learning_rate:g}"
        + (f" ({count} of {len(cells)})" if len(counts) > 1 else "")
        for cell, count in counts.items()
    )


def ways_to_choose(runs: Runs) -> dict[str, dict[str, list[Cell]]]:
    """Return how a setting is chosen -> agent -> that of each seed, of the ways that are made."""
    settings = {agent: settings_of(agent) for agent in AGENTS}
    ways = {
        "best in the older runs": {agent: [of[0]] * len(SEEDS) for agent, of in settings.items()},
        "usual": {agent: [of[1]] * len(SEEDS) for agent, of in settings.items()},
    }
    if are_made(runs, every_setting()):
        ways["best on the other seeds"] = {agent: chosen(runs, agent) for agent in AGENTS}
    return ways


def tuned_table(runs: Runs) -> str:
    """Return both agents and their difference in gold, paired by seed, by how they are set."""
    lines, gaps = [], {}
    for how, cells in ways_to_choose(runs).items():
        golds = []
        for agent, name in AGENTS.items():
            of_seeds = [*zip(SEEDS, cells[agent], strict=True)]
            gold, kl, tokens = (
                [ends(runs, cell, figure)[seed] for seed, cell in of_seeds]
                for figure in (GOLD, KL, "tokens")
            )
            golds.append(gold)
            figures = [student_mean(gold), student_mean(kl), f"{mean(tokens) / 1e6:.2f} million"]
            lines.append([name, how, setting_text(cells[agent]), *figures])
        gaps[how] = paired_difference(golds[1], golds[0])
    for how, text in after_holm(gaps).items():
        lines.append(["PPO minus DPO", how, "", text, "", ""])
    head = ["agent", "setting", "beta or c, rate", "gold", "KL, nats", "tokens"]
    return markdown_table(head, lines)


def settings_table(runs: Runs) -> str:
    """Return gold and KL at the end of both agents at every price and rate, once all are made."""
    if not are_made(runs, every_setting()):
        return NOT_YET
    lines = []
    for agent in AGENTS:
        for cell in sorted(settings_of(agent), key=lambda at: (at.price, at.learning_rate)):
            figures = [student_mean([*ends(runs, cell, at).values()]) for at in (GOLD, KL)]
            about = [AGENTS[agent], f"{cell.price:g}", f"{cell.learning_rate:g}"]
            lines.append([*about, *figures])
    return markdown_table(["agent", "beta or c", "rate", "gold", "KL, nats"], lines)


def at_one_kl_table(runs: Runs) -> str:
    """Return both agents' difference in gold where two settings end at nearly one KL."""
    if not are_made(runs, every_setting()):
        return NOT_YET
    lines = []
    for pair in product(settings_of("ppo"), settings_of("dpo")):
        of_ppo, of_dpo = ({at: ends(runs, cell, at) for at in (GOLD, KL)} for cell in pair)
        gold, kl = (paired_difference(*paired(of_ppo[at], of_dpo[at])) for at in (GOLD, KL))
        if abs(kl.difference) <= NEAR:
            settings = [setting_text([cell]) for cell in pair]
            lines.append([*settings, difference(gold), difference(kl)])
    head = ["PPO's c, rate", "DPO's beta, rate", "gold, PPO minus DPO", "KL, nats"]
    return markdown_table(head, lines) if lines else "There are none."


def accuracy_table(runs: Runs) -> str:
    """Return by seed the reward model's accuracy, and gold at the end of what is made first."""
    lines = []
    for seed in SEEDS:
        of_seed = [runs.runs[cell][seed][-1] for cell in first_settings()]
        (accuracy,) = {row["reward_accuracy"] for row in of_seed} - {None}
        golds = [number(row[GOLD]) for row in of_seed]
        lines.append([str(seed), number(accuracy), *golds])
    heads = [
        f"gold, {AGENTS[cell.agent]}, {cell.price:g} at {cell.learning_rate:g}"
        for cell in first_settings()
    ]
    return markdown_table(["seed", "reward model's accuracy", *heads], lines)


def tables(published: Published) -> dict[str, str]:
    """Return the tables of the page's first part by name; none until the first runs are made."""
    runs = published.runs
    if not are_made(runs, first_settings()):
        return {}
    return {
        "tuned": tuned_table(runs),
        "every setting": settings_table(runs),
        "at one kl": at_one_kl_table(runs),
        "accuracies": accuracy_table(runs),
    }


COLORS = {"dpo": "#56616f", "ppo": "#d55e00"}


def draw(published: Published) -> None:
    """Draw gold by KL at the end of every setting, each seed and the mean."""
    from matplotlib.figure import Figure

    runs = published.runs
    if not are_made(runs, every_setting()):
        return
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for agent, name in AGENTS.items():
        color = COLORS[agent]
        for cell in settings_of(agent):
            gold, kl = ([*ends(runs, cell, at).values()] for at in (GOLD, KL))
            axes.plot(kl, gold, ".", color=color, alpha=0.35)
            axes.plot(mean(kl), mean(gold), "o", color=color)
        axes.plot([], [], "o", color=color, label=name)
    axes.set(xlabel="KL to the reference, nats", ylabel="gold score", xscale="log")
    axes.set_xticks([3, 5, 10, 20, 40], labels=["3", "5", "10", "20", "40"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", fontsize=9)
    file = published.folder / "gold_against_kl.png"
    figure.savefig(file, dpi=110, metadata={"Software": None})


STUDY = Study(
    document="preferences.md",
    folder="preferences",
    runs="ppo_against_dpo.csv",
    axes={"agent": str, "price": float, "learning_rate": float},
    rounds=rounds,
    config=config,
    measure=measure,
    tables=tables,
    pictures=draw,
    first_rate=None,
    holm="table",
)

if __name__ == "__main__":
    STUDY.command_line(__doc__)
