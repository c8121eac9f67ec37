"""``tokengym train-reward``: a reward or preference model from preference pairs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tokengym.scripts.commands.options import Folder, Number, Text, Whole

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.rewards.pairs import PreferencePairs
    from tokengym.rewards.training import RewardTraining
    from tokengym.rewards.training.fitting import Report

BUNDLED = {"learning_rate": 1e-3, "batch_size": 32, "epochs": 3.0}
"""What a bundled model of a few hundred thousand weights wants, where nothing is given."""

Rank = Annotated[
    int | None, tyro.conf.arg(metavar="RANK", help_behavior_hint="", aliases=["--lora"])
]


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """How the pairs are read."""

    held_out: str = "0.1"
    """Share of the prompts whose pairs are held out, or another file of pairs."""
    on_error: Literal["raise", "skip"] = "raise"
    """Whether a row that makes no comparison stops, or is left out and counted."""
    split: Text = None
    """Which one, where the data set has several."""
    prompt_column: Text = None
    """Its column of prompts (default: prompt, else what both dialogues begin with)."""
    chosen_column: str = "chosen"
    """Its column of preferred responses, or of dialogues that end in them."""
    rejected_column: str = "rejected"
    """The other column."""
    margin_column: Text = None
    """Its column of margins (default: margin, if there is one)."""

    def read(self, source: str) -> "PreferencePairs":
        """Return the pairs of a file or data set."""
        from tokengym.rewards import read_pairs

        return read_pairs(
            source,
            prompt_column=self.prompt_column,
            chosen_column=self.chosen_column,
            rejected_column=self.rejected_column,
            margin_column=self.margin_column,
            split=self.split,
            on_error=self.on_error,
        )

    def share_or_pairs(self) -> Any:
        """Return what is held out: a share, or pairs."""
        try:
            return float(self.held_out)
        except ValueError:
            return self.read(self.held_out)


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How the model is trained; what is left out is RewardTraining's default, or a small one's."""

    learning_rate: Number = None
    """Peak rate."""
    epochs: Number = None
    """Passes over the pairs."""
    batch_size: Whole = None
    """Pairs per step."""
    micro_batch_size: Whole = None
    """Pairs per forward pass."""
    max_tokens: Whole = None
    """Longest text."""
    overlong: Annotated[
        Literal["error", "left", "drop"] | None,
        tyro.conf.arg(metavar="{error,left,drop}", help_behavior_hint=""),
    ] = None
    """What pairs with a longer one do."""
    chat_template: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Put a reward model's prompts through its chat template, as Dialogue's environment does."""
    seed: int = 0
    """Of new weights, the order of pairs and dropout."""

    def settings(self, *, bundled: bool) -> "RewardTraining":
        """Return the settings."""
        from tokengym.rewards import RewardTraining

        given = {name: value for name, value in vars(self).items() if value is not None}
        return RewardTraining(**{**(BUNDLED if bundled else {}), **given})


Reading = Annotated[PairOptions, tyro.conf.arg(name="")]
Fitting = Annotated[FitOptions, tyro.conf.arg(name="")]


def train_reward(
    pairs: str,
    kind: Literal["reward", "preference"] = "reward",
    model: Text = None,
    env: str = "MovieReview",
    out: Folder = None,
    lora_rank: Rank = None,
    reading: Reading = PairOptions(),
    training: Fitting = FitOptions(),
) -> None:
    """Train a reward or preference model on preference pairs, and measure it on held-out pairs.

    Writes the model with measures.json and reliability.png. Ctrl-C leaves checkpoints beside the
    folder; the same command goes on from there, and ends with the same model.

    For example:
      tokengym train-reward --pairs pairs.jsonl --out runs/reward
      tokengym train-reward --pairs hh.jsonl.gz --on-error skip --model path/of/lm --lora 16
      tokengym train-reward --pairs pairs.csv --kind preference --held-out other.csv

    Args:
        pairs: A csv, tsv, json, jsonl or parquet file, gzipped or not, or a name on the hub.
        kind: One score per response (Bradley-Terry), or a comparison of two.
        model: Folder or hub name of the language model to start from (default: a bundled one).
        env: Whose bundled model that is.
        out: A new folder (default: runs/ and the kind).
        lora_rank: Train LoRA adapters of this rank, not all weights; they are merged afterwards.
        reading: How the pairs are read.
        training: How the model is trained.
    """
    from rich.console import Console

    from tokengym.evaluation.report.reliability import save_reliability
    from tokengym.rewards import train_preference_model, train_reward_model
    from tokengym.scripts.commands.show_pairs import show_pair_metrics

    console = Console()
    out = out or Path("runs") / kind
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; name a new folder with --out")
    found = reading.read(pairs)
    console.print(found.report(), highlight=False)
    train = train_reward_model if kind == "reward" else train_preference_model
    with _progress(console) as report:
        trained = train(
            model or _bundled_policy(env),
            found,
            output_dir=out,
            held_out=reading.share_or_pairs(),
            lora=_lora(lora_rank),
            training=training.settings(bundled=model is None),
            report=report,
        )
    save_reliability(out / "reliability.png", trained.metrics.reliability, title=f"{kind} model")
    show_pair_metrics(console, trained)


def _bundled_policy(env: str) -> Path:
    """Return the folder of an environment's bundled language model."""
    import gymnasium as gym

    from tokengym.evaluation.runs.config import resolve_env

    with gym.make(resolve_env(env), reward=None) as made:
        bundle = getattr(made.unwrapped, "bundle", None)
    if bundle is None or not bundle.has("policy"):
        raise ValueError(f"{env} has no bundled language model; pass --model")
    return Path(bundle.policy)


def _lora(rank: int | None) -> Any:
    if rank is None:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank)


@contextmanager
def _progress(console: "Console") -> "Iterator[Report]":
    """Show a bar while the model is trained, on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=None, loss="")
    with bar:
        yield lambda done, total, loss: bar.update(
            task, completed=done, total=total, loss=f"loss {loss:.3f}"
        )
