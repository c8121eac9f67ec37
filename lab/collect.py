"""Collecting responses or preference pairs into a file, in chunks, so that it can be stopped."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tokengym.agents.offline import Sampling
from tokengym.base import (
    behind_link,
    check_choice,
    check_count,
    content_hash,
    field_paths,
    locked,
    read_json,
    read_jsonl,
    replacing,
    split_file_word,
    texts_of_options,
    to_json,
    write_json,
    write_jsonl,
)
from tokengym.envs import DatasetError, Vocabulary, content, encode, joined
from tokengym.evaluation.measure import resolve_env
from tokengym.evaluation.runs import TaskSettings, differences
from tokengym.rewards.pairs import pairs_dataset, read_table

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_FIGURES = ("prompts", "responses", "tokens", "scored", "score")
FORMATS = (".jsonl", ".parquet")
"""Endings of files that pairs are written to."""
CHUNK = 32
"""Prompts played, scored and written at a time; a stop loses at most these."""

NO_PATHS = ("words", "bundled")
"""Values of settings that may be a path which stand for something else, also where a file has
such a name."""


def claim_folder(folder: Path, config: Any, *, remedy: str) -> None:
    """Note the settings of the work in a folder, or refuse a folder that was begun with others.

    Args:
        folder: Folder that keeps the finished parts of the work.
        config: The settings, a dataclass; a file or folder that they name counts by its contents.
        remedy: End of the error's sentence.
    """
    hashes = {f"contents of {k}": content_hash(path) for k, path in _named_paths(config).items()}
    ours = to_json({**asdict(config), **hashes})
    file = folder / "settings.json"
    if not file.exists():
        write_json(file, ours)
    elif differ := differences(_read_object(file), ours):
        raise ValueError(f"{folder} was begun with other settings ({'; '.join(differ)}); {remedy}")


def _named_paths(config: Any) -> dict[str, Path]:
    """Return the files and folders that settings name: by the setting, or by a path in its word."""
    own = {one.name for one in fields(config)}
    texts = [leaf for leaf in field_paths(config) if isinstance(leaf.value, str)]
    words = [leaf.value for leaf in texts]
    code = [str(file[0]) for file in map(split_file_word, words) if file]
    named = {path: path for path in (*code, *texts_of_options(words))}
    for leaf in texts:
        setting = leaf.path[-1]
        if leaf.is_data and leaf.value not in NO_PATHS:
            is_second = len(leaf.path) > 1 and setting in own  # as the task's model beside a chat's
            named[".".join(leaf.path) if is_second else setting] = leaf.value
    return {name: Path(path) for name, path in named.items() if exists(path)}


@dataclass(frozen=True, kw_only=True)
class CollectionConfig(Sampling):
    """Everything that decides what is collected, and nothing else; `Sampling` has the rest."""

    env: str = field(metadata={"flag": ""})
    """Id of the environment; a task's bare name is completed to its newest version."""
    num_prompts: int = 256
    """Prompts to answer; more than the task has come again."""
    keep: Literal["pairs", "best", "all"] = "pairs"
    """"pairs": the best response against the worst; "best": the best; "all": every response."""
    temperatures: tuple[float | None, ...] = field(default=(1.0,), metadata={"flag": "temperature"})
    """Temperatures among which the responses are divided."""
    reward: str = "sparse"
    """Reward whose scorer judges, by name; r3 has one of its own."""
    split: Literal["train", "test", "all"] = "train"
    """Split of the prompts."""
    seed: int = 0
    """Seed of the order of prompts and the sampling."""
    agent: str | None = field(default=None, metadata={"is_data": True})
    """Folder of a saved agent; None takes the policy that training starts from."""
    task: TaskSettings = field(default_factory=TaskSettings)
    """Prompts and models that the environment is made from."""

    def __post_init__(self) -> None:
        if not split_file_word(self.env):
            object.__setattr__(self, "env", resolve_env(self.env))
        super().__post_init__()
        check_count(self, "num_prompts")
        check_count(self, "seed", least=0)
        if self.keep == "pairs":
            check_count(self, "n", least=2, hint="one response makes no pair, 8 is usual")
        check_choice(self, "keep", ("pairs", "best", "all"))


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Figures of a collection."""

    prompts: int
    """Prompts answered."""
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
    trust_code: bool = False,
) -> Collected:
    """Play prompts, score the responses and write a file of pairs or responses.

    Finished chunks are stored beside the file in ``<out>.parts`` until all exist; the same call
    resumes from them. Each chunk has its own seed, so a stopped collection ends with the same file.

    Args:
        config: Settings of the collection.
        out: The file, jsonl or parquet; must not exist yet.
        report: Called with the number of prompts answered so far.
        trust_code: Run the files of code that the agent names.
    """
    from tokengym.agents.offline import KEPT, prompt_order

    if out.suffix not in FORMATS:
        raise ValueError(f"out must end in {' or '.join(FORMATS)}, got {out.name!r}")
    parts = out.with_name(f"{out.name}.parts")
    with locked(parts):
        if out.exists():
            raise ValueError(f"{out} is there already; name a new file with --out")
        # What is refused before a chunk is made leaves nothing that a corrected call would not fit.
        maker = None if any(parts.glob("*.json")) else _Maker(config, trust_code)
        claim_folder(parts, config, remedy="delete it, or name another file with --out")
        sizes = range(0, config.num_prompts, CHUNK)
        for number, start in enumerate(sizes):
            count = min(CHUNK, config.num_prompts - start)
            if not (parts / f"{number:06d}.json").exists():
                maker = maker or _Maker(config, trust_code)
                prompts = prompt_order(maker.num_prompts, count, seed=config.seed, skip=start)
                maker.write(parts, number, prompts)
            if report is not None:
                report(start + count)
        numbers = range(len(sizes))
        rows = [row for number in numbers for row in read_jsonl(_rows_file(parts, number))]
        figures = [_read_object(parts / f"{number:06d}.json", _FIGURES) for number in numbers]
        kept = KEPT[config.keep]
        save_dataset(kept.dataset(rows), out)
        shutil.rmtree(parts)
    total = {name: sum(part[name] for part in figures) for name in _FIGURES}
    scored, summed = total.pop("scored"), total.pop("score")
    score = summed / scored if scored else float("nan")
    kept_score = float(np.mean([row[kept.score] for row in rows])) if rows else float("nan")
    return Collected(**total, rows=len(rows), score=score, kept_score=kept_score)


class _Maker:
    """Makes chunks; built only where one is missing, since it loads the models."""

    def __init__(self, config: CollectionConfig, trust_code: bool) -> None:
        import gymnasium as gym

        from tokengym.agents.offline import ResponseCollector, make_policy
        from tokengym.evaluation.measure import check_reads
        from tokengym.evaluation.runs import known_task, load_agent

        self.config = config
        saved = None if config.agent is None else Path(config.agent).parent
        env, kwargs = known_task(saved, config.env, task=config.task, trust_code=trust_code)
        kwargs |= {"reward": config.reward, "split": config.split}
        envs = gym.make_vec(env, num_envs=1, **kwargs)
        if config.agent is None:
            self.agent = make_policy(envs, config.task.model)
        else:
            self.agent = load_agent(Path(config.agent), trust_code=trust_code)
            check_reads(self.agent, envs)
        self.collector = ResponseCollector(envs, sampling=config)
        self.num_prompts = len(self.collector.prompts)
        envs.close()

    def write(self, parts: Path, number: int, prompts: Sequence[int]) -> None:
        """Make a chunk and write its rows, then its figures, which make it count."""
        from tokengym.agents.offline import KEPT

        seed = int(np.random.SeedSequence([self.config.seed, number]).generate_state(1)[0])
        groups = self.collector.collect(self.agent, prompts, seed=seed)
        rows = KEPT[self.config.keep].rows(groups, self.config, prompts)
        flat = [episode for group in groups for episode in group]
        scores = [episode.score for episode in flat if episode.score is not None]
        write_jsonl(_rows_file(parts, number), rows)
        figures = {
            "prompts": len(prompts),
            "responses": len(flat),
            "tokens": sum(len(episode.response_ids) for episode in flat),
            "scored": len(scores),
            "score": sum(scores),
        }
        write_json(parts / f"{number:06d}.json", figures)


def _read_object(file: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return an object, with these names alone where any are given."""
    value = read_json(file)
    if not isinstance(value, dict) or (names and set(value) != set(names)):
        raise ValueError(f"{file} is damaged; delete it and run again")
    return value


def _rows_file(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.jsonl"


def save_dataset(dataset: "Dataset", path: str | Path) -> Path:
    """Write a data set as jsonl or parquet, beside its place and then moved into it.

    Returns:
        The path.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise DatasetError(
            f"a data set is stored as {' or '.join(FORMATS)}, got {path.name!r}; name it so"
        )
    with replacing(behind_link(path)) as part:
        # datasets' own writers draw progress bars, and its readers keep copies and refuse no rows.
        if path.suffix == ".parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(dataset.with_format("arrow")[:], part)
        else:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in dataset)
            part.write_text("".join(lines), encoding="utf-8")
    return path


def load_pairs(path: str | Path) -> "Dataset":
    """Return a data set of pairs as `save_dataset` wrote it.

    Pairs of other making, texts alone, are read by `tokengym.rewards.read_pairs`.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{str(path)!r} is not there; tokengym collect writes such files")
    if path.suffix not in FORMATS:
        raise DatasetError(f"{path.name!r} must be one of {', '.join(FORMATS)}")
    try:
        if path.suffix == ".jsonl":
            return pairs_dataset(read_jsonl(path))
        import pyarrow.parquet

        has_rows = pyarrow.parquet.read_metadata(path).num_rows > 0  # datasets reads no empty table
        return pairs_dataset([*read_table(path)] if has_rows else [])
    except (OSError, ValueError) as error:
        remedy = "texts without ids are read by tokengym.rewards.read_pairs"
        raise DatasetError(f"{str(path)!r} cannot be read: {error}; {remedy}") from None


def as_texts(pairs: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> list[dict[str, str]]:
    """Return pairs as texts that read, put together, as the ids do.

    What reads ``prompt + chosen`` needs the space between them that tokenizers of whole words leave
    out of a response's text.
    """
    texts: list[dict[str, str]] = pairs.select_columns(["prompt", "chosen", "rejected"]).to_list()
    # An empty response reads the same with and without the space, and says nothing.
    told = next((row for row, text in enumerate(texts) if text["chosen"]), None)
    if told is not None:
        (ids,) = encode(tokenizer, [joined(texts[told]["prompt"], content(texts[told]["chosen"]))])
        pair, ends = pairs[told], Vocabulary.of(tokenizer).silent_ids
        if ids != [*pair["prompt_ids"], *(i for i in pair["chosen_ids"] if i not in ends)]:
            texts = [
                row | {"chosen": f" {row['chosen']}", "rejected": f" {row['rejected']}"}
                for row in texts
            ]
    return texts
