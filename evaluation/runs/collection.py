"""Collecting responses or preference pairs into a file, in chunks, so that it can be stopped."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tokengym.envs.files import read_json, read_jsonl, write_json, write_jsonl
from tokengym.evaluation.runs.config import TaskSettings, differences, resolve_env

if TYPE_CHECKING:
    from tokengym.agents.online.collecting import Sampling

CHUNK = 32
"""Prompts played, scored and written at a time: what a stop loses."""
Keep = Literal["pairs", "best", "all"]


@dataclass(frozen=True, kw_only=True)
class CollectionConfig:
    """Everything that decides what is collected, and nothing else.

    Raises:
        ValueError: if a value is out of range, or a name is unknown.
    """

    env: str
    """Id of the environment; a task's bare name is completed to its newest version."""
    num_prompts: int = 256
    """Prompts, each played n times; more than the task has come again."""
    keep: Keep = "pairs"
    """"pairs": the best response against the worst; "best": the best; "all": every response."""
    n: int = 8
    """Responses per prompt."""
    temperatures: tuple[float, ...] = (1.0,)
    """The responses are shared out among them."""
    length_penalty: float = 0.0
    """Taken off the score per character, reward units."""
    min_gap: float = 0.0
    """What best and worst must differ by, reward units."""
    reward: str = "sparse"
    """Which reward's scorer judges; r3 has one of its own."""
    max_new_tokens: int | None = None
    """Longest response, tokens; None takes the task's."""
    split: str = "train"
    """Of the prompts."""
    seed: int = 0
    """Of the order of prompts and the sampling."""
    agent: str | None = None
    """Folder of a saved agent; None takes the policy that training starts from."""
    task: TaskSettings = field(default_factory=TaskSettings)
    """What the environment is made from."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", resolve_env(self.env))
        object.__setattr__(self, "temperatures", tuple(self.temperatures))
        if self.num_prompts < 1:
            raise ValueError(f"num_prompts must be at least 1, got {self.num_prompts}")
        if self.keep == "pairs" and self.n < 2:
            raise ValueError(f"n must be at least 2 to make pairs, got {self.n}; 8 is usual")
        if self.keep not in ("pairs", "best", "all"):
            raise ValueError(f"keep must be 'pairs', 'best' or 'all', got {self.keep!r}")
        self.sampling()

    def sampling(self) -> "Sampling":
        """Return how responses are drawn and paired."""
        from tokengym.agents.online.collecting import Sampling

        return Sampling(
            n=self.n,
            temperatures=self.temperatures,
            length_penalty=self.length_penalty,
            min_gap=self.min_gap,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain data, as the file of settings keeps them."""
        return {**asdict(self), "temperatures": list(self.temperatures)}


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was collected."""

    prompts: int
    """Prompts played."""
    responses: int
    """Responses written."""
    tokens: int
    """Their tokens."""
    rows: int
    """Rows kept in the file."""
    score: float
    """Mean score of all responses."""
    kept_score: float
    """Mean score of the chosen, best or kept responses; NaN if there are none."""


def collect_to_file(
    config: CollectionConfig,
    out: Path,
    *,
    report: Callable[[int], None] | None = None,
) -> Collected:
    """Play prompts, score the responses and write a file of pairs or responses.

    Finished chunks lie beside the file in ``<out>.parts`` until all are there; the same call goes
    on from them. Each chunk has its own seed, so a stopped collection ends with the same file.

    Args:
        config: What to collect.
        out: The file, jsonl or parquet; must not be there yet.
        report: Told the number of prompts done so far.

    Raises:
        ValueError: if the file is there, or the parts belong to other settings.
    """
    from tokengym.agents.offline.pair_data import (
        FORMATS,
        pairs_dataset,
        responses_dataset,
        save_dataset,
    )
    from tokengym.agents.online.collecting import prompt_order

    if out.suffix not in FORMATS:
        raise ValueError(f"out must end in {' or '.join(FORMATS)}, got {out.name!r}")
    if out.exists():
        raise ValueError(f"{out} is there already; name a new file with --out")
    parts = out.with_name(f"{out.name}.parts")
    _claim(parts, config)
    maker: _Maker | None = None
    sizes = range(0, config.num_prompts, CHUNK)
    for number, start in enumerate(sizes):
        count = min(CHUNK, config.num_prompts - start)
        if not (parts / f"{number:06d}.json").exists():
            maker = maker or _Maker(config)
            prompts = prompt_order(maker.num_prompts, count, seed=config.seed, skip=start)
            maker.write(parts, number, prompts)
        if report is not None:
            report(start + count)
    rows = [row for number in range(len(sizes)) for row in read_jsonl(_rows_file(parts, number))]
    figures = [read_json(parts / f"{number:06d}.json") for number in range(len(sizes))]
    make = pairs_dataset if config.keep == "pairs" else responses_dataset
    save_dataset(make(rows), out)
    shutil.rmtree(parts)
    return _summary(config, rows, figures)


class _Maker:
    """Makes chunks; built only where one is missing, since it loads the models."""

    def __init__(self, config: CollectionConfig) -> None:
        import gymnasium as gym

        from tokengym.agents.offline.policies import make_policy
        from tokengym.agents.online.collecting import ResponseCollector
        from tokengym.evaluation.runs.defaults import training_settings
        from tokengym.evaluation.runs.run import load_agent

        self.config = config
        lengths = training_settings(config.env, max_new_tokens=config.max_new_tokens).lengths()
        envs = gym.make_vec(
            config.env,
            num_envs=1,
            reward=config.reward,
            split=config.split,
            **{**config.task.env_kwargs(), **lengths},
        )
        self.agent = (
            make_policy(envs, config.task.model)
            if config.agent is None
            else load_agent(Path(config.agent))
        )
        self.collector = ResponseCollector(envs, sampling=config.sampling())
        self.num_prompts = len(self.collector.rehearsal.prompts)
        envs.close()

    def write(self, parts: Path, number: int, prompts: Sequence[int]) -> None:
        """Make a chunk and write its rows, then its figures, which make it count."""
        from tokengym.agents.online.collecting import best_rows, pair_rows, response_rows

        seed = int(np.random.SeedSequence([self.config.seed, number]).generate_state(1)[0])
        groups = self.collector.collect(self.agent, prompts, seed=seed)
        sampling = self.config.sampling()
        if self.config.keep == "pairs":
            rows = pair_rows(groups, sampling, prompts)
        elif self.config.keep == "best":
            rows = best_rows(groups, sampling, prompts)
        else:
            rows = response_rows(groups, prompts)
        flat = [episode for group in groups for episode in group]
        write_jsonl(_rows_file(parts, number), rows)
        figures = {
            "prompts": len(prompts),
            "responses": len(flat),
            "tokens": sum(len(episode.response_ids) for episode in flat),
            "score": sum(float(episode.score or 0.0) for episode in flat),
        }
        write_json(parts / f"{number:06d}.json", figures)


def _claim(parts: Path, config: CollectionConfig) -> None:
    """Note whose the parts are, or refuse those of other settings."""
    file = parts / "settings.json"
    if not file.exists():
        write_json(file, config.as_dict())
        return
    if differ := differences(read_json(file), config.as_dict()):
        raise ValueError(
            f"{parts} was begun with other settings ({'; '.join(differ)}); delete it, or name "
            "another file with --out"
        )


def _rows_file(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.jsonl"


def _summary(
    config: CollectionConfig,
    rows: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
) -> Collected:
    total = {
        name: sum(part[name] for part in figures)
        for name in ("prompts", "responses", "tokens", "score")
    }
    column = "chosen_score" if config.keep == "pairs" else "score"
    return Collected(
        prompts=total["prompts"],
        responses=total["responses"],
        tokens=total["tokens"],
        rows=len(rows),
        score=total["score"] / total["responses"],
        kept_score=float(np.mean([row[column] for row in rows])) if rows else float("nan"),
    )
