"""Options that several commands share. None leaves a value to the task's defaults."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tokengym.evaluation.runs.config import TaskSettings
from tokengym.evaluation.runs.defaults import EvaluationSettings, changed

if TYPE_CHECKING:
    from tokengym.evaluation.runs.preference_runs import PreferenceSettings

# A value that is left out is the task's default, whatever that is: nothing to show.
Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Whole = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
Flag = Annotated[bool | None, tyro.conf.arg(metavar="{True,False}", help_behavior_hint="")]
Choice = Annotated[
    Literal["batch", "running", "off"] | None,
    tyro.conf.arg(metavar="{batch,running,off}", help_behavior_hint=""),
]


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The task: bundled models and prompts, or your own."""

    bundle: Text = None
    """Folder of tokenizer, prompts and models (scripts/build_models.py writes one)."""
    dataset: Text = None
    """A csv, tsv, jsonl or parquet file, or a hub name, with the prompts."""
    prompt_column: Text = None
    """Its column of prompts; a number counts columns from 0 where a file has no header."""
    reference_column: Text = None
    """Its column of reference answers."""
    query_type_column: Text = None
    """Its column of OPENENDED or CONSTRAINED."""
    scorer: Text = None
    """Folder or hub name of a reward model (default: the bundle's)."""
    model: Text = None
    """Folder or hub name of the policy's language model (default: the bundle's)."""

    def settings(self) -> TaskSettings:
        """Return the settings that were given."""
        values = asdict(self)
        for name in ("prompt_column", "reference_column", "query_type_column"):
            if values[name] is not None and values[name].isdigit():
                values[name] = int(values[name])
        return TaskSettings(**values)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How PPO trains; what is left out is the task's default (evaluation/runs/defaults.py)."""

    steps: Whole = None
    """Updates per run."""
    batch_size: Whole = None
    """Episodes per update."""
    max_new_tokens: Whole = None
    """Longest response, tokens."""
    fixed_length: Flag = None
    """Forbid EOS, so that all responses are of that length."""
    learning_rate: Number = None
    """Of AdamW."""
    n_epochs: Whole = None
    """Passes over each batch."""
    n_minibatches: Whole = None
    """Gradient steps per pass."""
    gae_lambda: Number = None
    """1 waits for the whole return."""
    vf_coef: Number = None
    """Weight of the value loss; 0 is no critic."""
    kl_coef: Number = None
    """Price of a nat of KL to the reference."""
    kl_target: Number = None
    """KL per episode that an adaptive coefficient aims at."""
    temperature: Number = None
    """Of sampling."""
    normalize: Choice = None
    """What scores are centred by in training."""
    lora_rank: Whole = None
    """Train LoRA adapters of this rank, not all weights."""

    def given(self) -> dict[str, Any]:
        """Return what was given."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PreferenceOptions:
    """How DPO, SFT, online DPO, RAFT and best-of-n learn; what is left out is usual."""

    pairs: Text = None
    """File of pairs, or of responses for SFT (default: collected from the policy first)."""
    num_prompts: Whole = None
    """Prompts answered: in all, or in each iteration."""
    iterations: Whole = None
    """Of online DPO and RAFT."""
    n: Whole = None
    """Responses per prompt; candidates of best-of-n."""
    sample_temperatures: Annotated[
        tuple[float, ...] | None, tyro.conf.arg(metavar="T ...", help_behavior_hint="")
    ] = None
    """Shared by the responses that are learnt from."""
    length_penalty: Number = None
    """Taken off the score per character."""
    epochs: Number = None
    """Passes over the data, of each iteration."""
    beta: Number = None
    """DPO's pull towards the reference."""
    loss_type: Text = None
    """DPO's loss: sigmoid, ipo, hinge, robust, ..."""

    def settings(self, training: TrainingOptions, agent: str) -> "PreferenceSettings":
        """Return the settings, the defaults where nothing was given.

        Args:
            training: Gives rate, batch size and LoRA rank.
            agent: Whose; temperatures are those of its kind.
        """
        from tokengym.evaluation.runs.preference_runs import PreferenceSettings

        usual = PreferenceSettings(
            temperatures=(1.0,) if agent in ("raft", "best-of-n") else (1.0, 0.7)
        )
        result: PreferenceSettings = changed(
            usual,
            pairs=self.pairs,
            num_prompts=self.num_prompts,
            iterations=self.iterations,
            n=self.n,
            temperatures=self.sample_temperatures,
            length_penalty=self.length_penalty,
            epochs=self.epochs,
            beta=self.beta,
            loss_type=self.loss_type,
            learning_rate=training.learning_rate,
            batch_size=training.batch_size,
            lora_rank=training.lora_rank,
        )
        return result


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How policies are measured."""

    eval_every: Whole = None
    """Updates between two evaluations."""
    eval_episodes: Whole = None
    """Held-out prompts per evaluation."""
    eval_seed: Whole = None
    """Of the sampling in evaluations."""
    samples: Whole = None
    """Responses kept for the report."""
    toxicity: Text = None
    """Measure toxicity: a classifier's folder or hub name, or "words"."""

    def settings(self) -> EvaluationSettings:
        """Return the settings, the defaults where nothing was given."""
        result: EvaluationSettings = changed(
            EvaluationSettings(),
            every=self.eval_every,
            episodes=self.eval_episodes,
            seed=self.eval_seed,
            samples=self.samples,
            toxicity=self.toxicity,
        )
        return result


Task = Annotated[TaskOptions, tyro.conf.arg(name="")]
Training = Annotated[TrainingOptions, tyro.conf.arg(name="")]
Preference = Annotated[PreferenceOptions, tyro.conf.arg(name="")]
Measuring = Annotated[EvaluationOptions, tyro.conf.arg(name="")]
