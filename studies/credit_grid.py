"""Every credit rule at every length, and when redistribution helps: the runs behind docs/results.

Two grids. ``rules``: which rule learns faster, by task and length, at the default setting
(docs/results/default_setting.md: learning rate tuned on sparse, 64 episodes an update, scores
centred by their batch, KL coefficient 0.05), on seeds that no tuning saw; at length 32 also the
dearer rules, ABC's beta, and five times the updates. ``when``: sparse against ABC at length 32
with one setting changed at a time.

The folder is the state: a finished run is not run again, so the grid can be stopped at any time and
is resumed where it was. What is needed most comes first.

    python -m studies.credit_grid run --out runs/grid [--until 12:25] [--most 8]
    python -m studies.credit_grid publish --out runs/grid --docs docs/results/grid
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from studies.cells import (
    DOCS,
    EARLIER,
    PUBLISHED_KL,
    Docs,
    Out,
    command_line,
    deadline,
)
from tokengym.base.files import read_json, write_csv, write_json
from tokengym.envs import bundled
from tokengym.evaluation.report.curves import COLUMNS, read_curves
from tokengym.evaluation.runs.compare import check_folder
from tokengym.evaluation.runs.config import (
    SETTINGS_FILE,
    ComparisonConfig,
    TaskSettings,
    missing_runs,
    run_folder,
)
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.environments import resolve_env
from tokengym.evaluation.statistics import area_under_curve

OUT = Path("runs/grid")
RED = "red:delivery=end"
PAIR = ("sparse", "abc")
SIGNED = "abc-signed"
RULES = (*PAIR, RED, "attribution", SIGNED, "uniform", "recency")
BETAS = ("abc:beta=0.5", "abc:beta=1")
"""Beside the default 0.8, and sparse, which is 0."""
DEAR_RULES = ("random", "abc-d", "scar", "attribution:method=leave-one-out")
"""Rules run at one length only: some take several times as long to score."""
LENGTHS = (16, 32, 48, 64, 96, 128)
ORACLE_RULES = (*RULES, "scar", "attribution:method=leave-one-out")
FIRST_SEED, SWEEP_SEED = 20, 1000
RATES = (1e-4, 3e-4, 1e-3)
"""Learning rates tried with sparse on the Oracle."""
MISALIGNED = "misaligned"
"""Stands for the folder of the misaligned reward model."""
FIGURES = "figures.json"
"""File with the measurements of the misaligned reward model."""
PUBLISHED = tuple(c for c in COLUMNS if c not in ("distinct_1", "distinct_2", "train_kl"))

Stage = tuple[str, Sequence[str], int]
"""A cell's name, the rules wanted of it, and of how many seeds."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting, and the runs wanted of it."""

    name: str
    """Name of its folder and of its csv."""
    env: str = "MovieReview"
    """Task."""
    rewards: tuple[str, ...] = PAIR
    """Rules; the others are compared with the first."""
    seeds: int = 10
    """Runs per rule."""
    first_seed: int = FIRST_SEED
    """Lowest seed."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings of training that differ from the task's defaults."""
    misaligned: bool = False
    """Whether the reward model is the one whose attention was spoilt."""
    tuned: bool = False
    """Whether the learning rate is the best of the task's sweep cells."""

    def config(self, out: Path) -> ComparisonConfig:
        """Return the comparison this cell is."""
        env = resolve_env(self.env)
        changes = {**EARLIER, "kl_estimator": PUBLISHED_KL, **self.changes}
        if self.tuned:
            changes["learning_rate"] = tuned_rate(self.env, out)
        scorer = str(out / MISALIGNED) if self.misaligned else None
        return ComparisonConfig(
            env=env,
            rewards=self.rewards,
            seeds=self.seeds,
            first_seed=self.first_seed,
            training=training_settings(env, **changes),
            task=TaskSettings(scorer=scorer),
        )


def cells() -> dict[str, Cell]:
    """Return all cells by name."""
    grid = [
        Cell(
            name=f"MovieReview-{length}",
            rewards=(*RULES, *BETAS, *DEAR_RULES) if length == 32 else RULES,
            changes={"max_new_tokens": length},
        )
        for length in LENGTHS
    ]
    grid.append(
        Cell(name="MovieReview-32-long", seeds=5, changes={"max_new_tokens": 32, "steps": 150})
    )
    grid += [
        Cell(
            name=f"Oracle-rate-{rate:g}",
            env="Oracle",
            rewards=("sparse",),
            seeds=2,
            first_seed=SWEEP_SEED,
            changes={"learning_rate": rate},
        )
        for rate in RATES
    ]
    grid.append(Cell(name="Oracle", env="Oracle", rewards=ORACLE_RULES, tuned=True))
    grid.append(
        Cell(
            name="Oracle-not-centred",
            env="Oracle",
            rewards=ORACLE_RULES,
            changes={"normalize": "off"},
            tuned=True,
        )
    )
    grid += [
        Cell(
            name=f"when-{name}",
            changes={"max_new_tokens": 32, **changes},
            misaligned=name == MISALIGNED,
        )
        for name, changes in WHEN.items()
    ]
    return {cell.name: cell for cell in grid}


WHEN: dict[str, dict[str, Any]] = {
    "no-kl-price": {"kl_coef": 0.0},
    "lambda-1": {"gae_lambda": 1.0},
    "rate-1e-3": {"learning_rate": 1e-3},
    "batch-16": {"batch_size": 16},
    "not-centred": {"normalize": "off"},
    "no-critic": {"vf_coef": 0.0},
    MISALIGNED: {},
    "rate-1e-4": {"learning_rate": 1e-4},
    "running": {"normalize": "running"},
    "batch-16-not-centred": {"batch_size": 16, "normalize": "off"},
    "lambda-1-no-critic": {"gae_lambda": 1.0, "vf_coef": 0.0},
    "lambda-1-rate-1e-3": {"gae_lambda": 1.0, "learning_rate": 1e-3},
}
"""Changes to the setting MovieReview-32, which is itself the first row of the table."""


def stages() -> Iterator[Stage]:
    """Yield what to run, in the order in which it is needed."""
    yield "MovieReview-32", PAIR, 3
    for rate in RATES:
        yield f"Oracle-rate-{rate:g}", ("sparse",), 2
    yield "Oracle", ORACLE_RULES, 10  # its runs take a tenth of the others' time
    yield "Oracle-not-centred", ORACLE_RULES, 10
    yield from _reviews((32, 96, 48), PAIR)
    yield from _settings(5)
    yield from _reviews((32, 48), RULES)
    yield "MovieReview-32", BETAS, 10
    yield from _reviews((128, 64, 16), PAIR)
    yield "MovieReview-32-long", PAIR, 5
    yield from _reviews((96, 64, 128, 16), (SIGNED,))
    yield from _reviews((16, 96, 64, 128), RULES)
    yield "MovieReview-32", DEAR_RULES, 10
    yield from _settings(10)


def _reviews(lengths: Sequence[int], rules: Sequence[str]) -> Iterator[Stage]:
    return ((f"MovieReview-{length}", rules, 10) for length in lengths)


def _settings(seeds: int) -> Iterator[Stage]:
    return ((f"when-{name}", PAIR, seeds) for name in WHEN)


def run(
    out: Out = OUT, until: str | None = None, most: int | None = None, only: Sequence[str] = ()
) -> None:
    """Run what is missing, in order, one run at a time, in this process.

    Args:
        out: Folder of the study's runs.
        until: Time of day, HH:MM, after which no run begins.
        most: Largest number of runs; None runs all.
        only: Names of the cells to run; () takes all.
    """
    from tokengym.evaluation.runs.record import describe
    from tokengym.evaluation.runs.run import run as run_one

    end = deadline(until)
    known, done = cells(), 0
    for name, rewards, seeds in stages():
        if only and name not in only:
            continue
        cell = known[name]
        if cell.misaligned:
            build_misaligned(out / MISALIGNED)
        config = cell.config(out)
        folder = out / name
        check_folder(config, folder)
        write_json(folder / SETTINGS_FILE, config.as_dict())
        for reward, seed in missing_runs(config, folder):
            if reward not in rewards or seed >= cell.first_seed + seeds:
                continue
            if datetime.now() >= end or done == most:
                return
            done += 1
            started = time.process_time()
            error = ""
            try:
                run_one(config, reward, seed, out=folder)
            except Exception as caught:  # the run records it; the others continue
                error = f" failed: {describe(caught)}"
            seconds = time.process_time() - started
            now = datetime.now()
            print(f"{now:%H:%M:%S} {name} {reward} {seed} {seconds:.0f} s{error}", flush=True)


def tuned_rate(env: str, out: Path) -> float:
    """Return sparse's learning rate with the highest mean area under score - c KL in the sweep.

    Raises:
        ValueError: if the sweep is not finished.
    """
    best: tuple[float, float] | None = None
    for name, cell in cells().items():
        if cell.env != env or cell.first_seed != SWEEP_SEED:
            continue
        config = cell.config(out)
        if missing_runs(config, out / name):
            raise ValueError(f"{name} has runs to do; run the sweep before the cells it tunes")
        areas = []
        for seed in config.all_seeds:
            path = run_folder(out / name, "sparse", seed) / "curve.csv"
            (curve,) = read_curves(path, group_by=())
            net = curve.values["score"] - config.training.learner.kl_coef * curve.values["kl"]
            areas.append(area_under_curve(curve.steps, net, normalize=True))
        area = sum(areas) / len(areas)
        if best is None or area > best[0]:
            best = (area, config.training.learner.learning_rate)
    if best is None:
        raise ValueError(f"{env} has no sweep; give its cell a learning rate")
    return best[1]


def build_misaligned(folder: Path) -> None:
    """Write the bundled reward model with the same scores and an attention that finds nothing.

    A further layer adds nothing to the residual stream, its output projections being zero, so that
    every score stays what it was. But it is now the last one, whose attention ABC reads, and its
    queries and keys are the trained layer's with their inputs shuffled, and sharpened until the
    row is about as peaked as it was: on tokens that do not matter. What was measured of it is
    stored beside it.
    """
    if (folder / FIGURES).exists():
        return
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from tokengym.lab.makers.building.bundle_files import PromptRow
    from tokengym.lab.makers.bundles import movie_review as building

    bundle, seed, sharpness = bundled("movie_review"), 1, 30.0
    tokenizer: Any = bundle.tokenizer
    trained = AutoModelForSequenceClassification.from_pretrained(bundle.reward_model).float()
    layers = trained.config.n_layer
    config = type(trained.config).from_dict({**trained.config.to_dict(), "n_layer": layers + 1})
    model = type(trained)(config).eval()
    model.load_state_dict(trained.state_dict(), strict=False)
    added = model.transformer.h[layers]
    added.load_state_dict(trained.transformer.h[-1].state_dict())
    shuffled = torch.from_numpy(np.random.default_rng(seed).permutation(config.n_embd))
    with torch.no_grad():
        weight = added.attn.c_attn.weight[shuffled]
        weight[:, : config.n_embd] *= sharpness  # the queries
        added.attn.c_attn.weight.copy_(weight)
        for projection in (added.attn.c_proj, added.mlp.c_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(bundle.policy).float().eval()
    prompts = [PromptRow(prompt=row.text, split="test") for row in bundle.prompts("test")]
    figures = building.measure_reward_model(tokenizer, policy, model, prompts, seed=seed)
    write_json(folder / FIGURES, figures)


def publish(out: Out = OUT, docs: Docs = DOCS / "grid") -> None:
    """Write each cell's finished runs as one csv, with their settings beside it."""
    for name, cell in cells().items():
        seeds = range(cell.first_seed, cell.first_seed + cell.seeds)
        rows = list(finished_rows(cell.rewards, seeds, out / name))
        if not rows:
            continue
        settings = read_json(out / name / SETTINGS_FILE)
        if settings.get("task", {}).get("scorer"):  # its folder is this machine's own
            settings["task"]["scorer"] = Path(settings["task"]["scorer"]).name
        if cell.misaligned:
            write_json(docs / f"{MISALIGNED}.json", read_json(out / MISALIGNED / FIGURES))
        write_csv(docs / f"{name}.csv", rows, PUBLISHED)
        write_json(docs / f"{name}.json", settings)


def finished_rows(
    rewards: Sequence[str], seeds: Iterable[int], folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield a row per evaluation of every finished run of a comparison's folder."""
    for reward in rewards:
        for seed in seeds:
            run = run_folder(folder, reward, seed)
            record = run / "run.json"
            if not record.exists() or read_json(record)["status"] != "finished":
                continue
            (curve,) = read_curves(run / "curve.csv", group_by=())
            for index, step in enumerate(curve.steps):
                values = {k: round(float(v[index]), 4) for k, v in curve.values.items()}
                for count in ("tokens", "episodes"):
                    values[count] = int(values[count])
                yield {"credit": reward, "seed": seed, "step": int(step), **values}


if __name__ == "__main__":
    command_line(__doc__, run, publish)
