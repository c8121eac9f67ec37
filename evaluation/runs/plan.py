"""The plan of one run: what a comparison resolves once, and a process is given to do it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokengym.agents.learner import Learner
from tokengym.evaluation.runs.config import REFERENCE, ComparisonConfig, NamedRun
from tokengym.evaluation.runs.defaults import TrainingSettings
from tokengym.evaluation.runs.progress import Run


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One run, resolved: its settings, learner, reward and folder.

    Sent to another process it is its settings as plain data, which are read there once.
    """

    config: ComparisonConfig
    """Settings that the run's results keep: the comparison's, under this run's learner alone."""
    run: NamedRun
    """The runs of its name."""
    seed: int
    """Seed of everything random in it."""
    folder: Path | None = None
    """Folder of its results; None writes none."""

    @property
    def key(self) -> Run:
        """Name and seed, which no other run of the comparison has."""
        return self.run.name, self.seed

    @property
    def is_reference(self) -> bool:
        """Whether it draws the reference samples and trains nothing."""
        return self.run.name == REFERENCE

    @property
    def training(self) -> TrainingSettings:
        """Settings of its training."""
        return self.config.training

    @property
    def learner(self) -> Learner:
        """Declaration of its learner."""
        return self.config.training.declaration

    @property
    def is_done(self) -> bool:
        """Whether its result is in its folder, failed or finished."""
        return self.folder is not None and (self.folder / "run.json").exists()

    def env_kwargs(self, *, train: bool) -> dict[str, Any]:
        """Return the arguments of ``gym.make_vec`` under its reward."""
        return self.config.env_kwargs(self.run.reward, train=train)


def plan_run(config: ComparisonConfig, name: str, seed: int, out: Path | None = None) -> RunPlan:
    """Return the plan of a comparison's run; a reward that is not compared has one too.

    Args:
        config: The comparison.
        name: Name of the run, see `ComparisonConfig.names`, or `REFERENCE`.
        seed: Its seed.
        out: The comparison's folder; None writes nothing.
    """
    named = config.run_of(name)
    own = config if name == REFERENCE else config.of_run(named)
    folder = None if out is None else named.folder(out, seed)
    return RunPlan(config=own, run=named, seed=seed, folder=folder)


def plan_runs(config: ComparisonConfig, out: Path) -> Iterator[RunPlan]:
    """Yield the plans of all runs, seed by seed so that all rewards advance alike."""
    own = {run.name: config.of_run(run) for run in config.runs}
    for seed in config.all_seeds:
        for run in config.runs:
            yield RunPlan(config=own[run.name], run=run, seed=seed, folder=run.folder(out, seed))
