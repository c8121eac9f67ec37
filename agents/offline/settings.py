"""Settings of learning from given data, declared once; importable without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from math import inf
from typing import TYPE_CHECKING, Any, get_args

from tokengym.base.errors import SettingsError
from tokengym.base.settings import check_choice, check_count, check_number
from tokengym.envs.prompts.tables import LearnOn, OnError
from tokengym.envs.settings import Overlong

if TYPE_CHECKING:
    from tokengym.agents.losses.preference import PreferenceFormula

PAIR_FIGURES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
"""Figures that `DPO` logs beside its loss, by TRL's names."""
TEXT_FIGURES = ("mean_token_log_prob", "mean_token_accuracy")
"""Figures that `SFT` logs beside its loss."""


def logged(figures: Sequence[str]) -> dict[str, str]:
    """Return the log of a learner from given data, as `Learner.logged` has it.

    The columns have the names of the Trainer's log, and the trackers those that transformers gives
    them there.
    """
    trained = ("epoch", "loss", *figures, "grad_norm", "learning_rate", "num_tokens")
    held_out = ("loss", *figures)
    return {f"train/{n}": n for n in trained} | {f"eval/{n}": f"eval_{n}" for n in held_out}


@dataclass(frozen=True, kw_only=True)
class PreferenceLoss:
    """Loss of preference pairs, by name, with its coefficients.

    `tokengym.agents.losses.preference` has the table of losses: formulas, and what each reads.

    Raises:
        ValueError: if the loss is unknown or a coefficient is out of range.
    """

    loss_type: str = "sigmoid"
    """Name of the loss. "sigmoid" is DPO, arXiv:2305.18290; "simpo", "orpo" and "cpo" need no
    reference."""
    beta: float = 0.1
    """Strength of the pull towards the reference; 0.1 in DPO. SimPO wants about 2."""
    label_smoothing: float = 0.0
    """Share of wrong labels, for "sigmoid" (cDPO), "sigmoid_norm" and "robust"."""
    gamma: float = 1.0
    """SimPO's margin; 0.5 to 1.6 in arXiv:2405.14734."""
    nll_coef: float = field(default=1.0, metadata={"flag": ""})
    """Weight of the chosen response's likelihood in RPO and CPO; 1 in both papers."""
    dpop_coef: float = field(default=50.0, metadata={"flag": ""})
    """DPOP's penalty; 5 to 500 in arXiv:2402.13228."""

    def __post_init__(self) -> None:
        check_number(self, "beta", above=0.0, finite=True, hint="0.1 is usual")
        others = ("gamma", "nll_coef", "dpop_coef")
        check_number(self, *others, least=0.0, finite=True, hint="0 turns it off")
        chosen = vars(self)
        changed = {f.name: chosen[f.name] for f in fields(self) if chosen[f.name] != f.default}
        if changed:  # the defaults need no check, and settings load no torch
            from tokengym.agents.losses.preference import check_preference_loss

            try:
                check_preference_loss(**{"loss_type": self.loss_type, "beta": self.beta, **changed})
            except ValueError as error:
                raise SettingsError(str(error)) from None

    @property
    def formula(self) -> "PreferenceFormula":
        """The loss's entry in the table."""
        from tokengym.agents.losses.preference import PREFERENCE_LOSSES

        return PREFERENCE_LOSSES[self.loss_type]

    def arguments(self) -> dict[str, Any]:
        """Return what `tokengym.agents.losses.dpo_loss` reads of these settings."""
        return {name: vars(self)[name] for name in ("loss_type", "beta", *self.formula.reads)}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Settings of learning from one set of data. Defaults: Dong et al. 2024.

    Raises:
        ValueError: if a value is out of range.
    """

    learning_rate: float = 5e-7
    """Peak learning rate of AdamW; tiny models and adapters want 1e-5 to 1e-3."""
    num_train_epochs: float = field(default=2.0, metadata={"flag": "epochs"})
    """Passes over the data, of each iteration."""
    batch_size: int = 128
    """Pairs, or responses, per optimiser step."""
    micro_batch_size: int = 32
    """Most pairs, or responses, in one forward pass; the rest is accumulated."""
    lr_scheduler_type: str = field(default="cosine", metadata={"flag": ""})
    """Schedule of the learning rate, one of ``transformers``."""

    def __post_init__(self) -> None:
        check_number(self, "learning_rate", "num_train_epochs", above=0.0, finite=True)
        check_count(self, "batch_size", "micro_batch_size")
        batch, micro = self.batch_size, self.micro_batch_size
        if batch > micro and batch % micro:  # whole forward passes are accumulated
            raise SettingsError(
                f"batch_size must be at most micro_batch_size={micro} or a multiple of it, got "
                f"{batch}; pass {batch // micro * micro}, or another micro_batch_size"
            )

    @staticmethod
    def for_tiny_models() -> "Tuning":
        """Return those of the bundled tasks' models; papers' rates are for billions of weights."""
        return Tuning(learning_rate=3e-4, batch_size=32)

    def trainer_arguments(self, num_rows: int) -> dict[str, Any]:
        """Return them as `DPO` and `SFT` take them, for that many rows."""
        batch = min(self.batch_size, num_rows)
        micro = min(self.micro_batch_size, batch)
        return {
            "learning_rate": self.learning_rate,
            "num_train_epochs": self.num_train_epochs,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": -(-batch // micro),
            "lr_scheduler_type": self.lr_scheduler_type,
        }


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Settings of drawing several responses to a prompt, and of choosing the best.

    Raises:
        ValueError: if a value is out of range.
    """

    n: int = 8
    """Responses per prompt (RLHF Workflow: 8)."""
    temperatures: tuple[float | None, ...] = field(
        default=(None,), metadata={"flag": "sample-temperatures"}
    )
    """Temperatures among which the responses are divided in equal parts; None is the agent's own.
    RLHF Workflow draws half at 1.0 and half at 0.7."""
    length_penalty: float = field(default=0.0, metadata={"flag": ""})
    """Subtracted from the score per character of the response, reward units (RLHF Workflow:
    .001)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", tuple(self.temperatures))
        check_count(self, "n")
        if not self.temperatures or self.n % len(self.temperatures):
            raise SettingsError(
                f"n must be a multiple of the number of temperatures, got n={self.n} and "
                f"temperatures={self.temperatures}; 8 responses at (1.0, 0.7) are usual"
            )
        for temperature in self.temperatures:
            if temperature is not None and not 0.0 < temperature < inf:
                raise SettingsError(
                    f"temperatures must be > 0 and finite, or None, got {temperature}"
                )
        check_number(self, "length_penalty", least=0.0, finite=True, hint="0 leaves it out")

    def kl_bound(self, temperature: float | None) -> float | None:
        """Return the bound on the KL of the best of n to an agent, see `best_of_n_kl_bound`, nats.

        It is a bound to what the candidates are drawn from: None where some are drawn at another
        temperature than the agent's, whose distance to the agent is not known.

        Args:
            temperature: The agent's own; None where it has none.
        """
        if any(other not in (None, temperature) for other in self.temperatures):
            return None
        from tokengym.agents.losses.ranking import best_of_n_kl_bound

        return best_of_n_kl_bound(self.n)


@dataclass(frozen=True, kw_only=True)
class Sampling(Candidates):
    """Settings of drawing and pairing responses.

    Raises:
        ValueError: if a value is out of range.
    """

    min_gap: float = field(default=0.0, metadata={"flag": ""})
    """Least difference between the best and the worst of a pair, reward units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "min_gap", least=0.0, finite=True, hint="0 leaves it out")

    def check_for_pairs(self) -> None:
        """Refuse a single response per prompt, of which no pair can be made."""
        check_count(self, "n", least=2, hint="one response makes no pair, 8 is usual")


@dataclass(frozen=True, kw_only=True)
class SFTSettings:
    """Data and fitting of `SFT` in a run."""

    pairs: str | None = field(default=None, metadata={"is_data": True})
    """File of pairs (or, for SFT, responses) to learn from; None collects them from the policy."""
    eval_pairs: str | None = field(default=None, metadata={"is_data": True})
    """File of held-out pairs, or responses, on which the loss and its figures are measured before
    training and after every epoch."""
    pairs_prompt_column: str | None = field(default=None, metadata={"aliases": ("prompt-column",)})
    """Column of prompts of these files, and of ``dataset`` where it names none; without a
    ``dataset`` also written --prompt-column. None takes "prompt", or what dialogues begin with."""
    own_prompts: bool | None = None
    """Whether the policy is measured on the prompts of ``eval_pairs``, or else of a tenth of the
    prompts of ``pairs``, which are then held out of learning. None: where ``pairs`` are given with
    a model of one's own, and no prompts with them. Learners that are compared never are."""
    num_eval_prompts: int | None = None
    """Further prompts answered for such held-out data, where data is collected; None takes an
    eighth of ``num_prompts``. Their tokens are not counted, as those of evaluations are not."""
    on_error: OnError = "raise"
    """Whether a row of that file that cannot be learned from stops the run, or is left out and
    counted."""
    overlong_rows: Overlong = field(default="error", metadata={"flag": ""})
    """Rows of that file that are longer than the model reads: "error" refuses them, "left" cuts the
    beginning of their prompts, "drop" leaves them out."""
    learn_on: LearnOn = field(default="all", metadata={"flag": ""})
    """Answers that SFT learns of a file's conversations, of its column "messages": "all" or the
    "last"."""
    num_prompts: int = 512
    """Prompts answered, where data is collected."""
    sampling: Sampling = field(default=Sampling(n=8, temperatures=(1.0, 0.7)))
    """Sampling and ranking of the responses."""
    tuning: Tuning = field(default=Tuning.for_tiny_models())
    """Fitting of the policy to them."""

    def __post_init__(self) -> None:
        check_count(self, "num_prompts")
        check_count(self, "num_eval_prompts", least=0, optional=True)
        check_choice(self, "on_error", get_args(OnError))
        check_choice(self, "overlong_rows", get_args(Overlong))
        check_choice(self, "learn_on", get_args(LearnOn))
        has_files = bool(self.pairs or self.eval_pairs)
        idle = {
            "num_eval_prompts": has_files and self.num_eval_prompts is not None,
            "own_prompts": self.pairs is None and self.own_prompts,
            "pairs_prompt_column": self.pairs is None and self.pairs_prompt_column,
            "on_error": not has_files and self.on_error != "raise",
            "overlong_rows": not has_files and self.overlong_rows != "error",
            "learn_on": not has_files and self.learn_on != "all",
        }
        for name in (name for name, is_idle in idle.items() if is_idle):
            where = "beside pairs or eval_pairs; leave it out"
            if name != "num_eval_prompts":
                where = "on data that is collected; pass pairs"
            raise SettingsError(f"{name}={getattr(self, name)!r} has no effect {where}")


@dataclass(frozen=True, kw_only=True)
class DPOSettings(SFTSettings):
    """Data, fitting and loss of `DPO` in a run."""

    loss: PreferenceLoss = field(default=PreferenceLoss())
    """DPO's loss and its coefficients."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn_on != "all":
            raise SettingsError(
                f"learn_on={self.learn_on!r} has no effect on DPO, which learns pairs; leave it out"
            )
        if self.pairs is None:
            self.sampling.check_for_pairs()
