"""Settings of online DPO, RAFT and best-of-n, declared once; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokengym.agents.learner import Learner, register_learner
from tokengym.agents.offline.loss import PreferenceLoss
from tokengym.agents.online.pairing import Candidates, Sampling
from tokengym.envs.declared import check_number


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the policy learns from one set of data. Defaults: Dong et al. 2024.

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
    lr_scheduler_type: str = "cosine"
    """Schedule of the learning rate, one of ``transformers``."""

    def __post_init__(self) -> None:
        names = ("learning_rate", "num_train_epochs", "batch_size", "micro_batch_size")
        check_number(self, *names, above=0.0)

    def trainer_arguments(self, num_rows: int) -> dict[str, Any]:
        """Return them as `DPO` and `SFT` take them, for that many rows."""
        batch = min(self.batch_size, num_rows)
        micro = min(self.micro_batch_size, batch)
        return {
            "learning_rate": self.learning_rate,
            "num_train_epochs": self.num_train_epochs,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": max(round(batch / micro), 1),
            "lr_scheduler_type": self.lr_scheduler_type,
        }


TINY = Tuning(learning_rate=3e-4, batch_size=32)
"""Rate and batch for the bundled tasks' tiny models; papers' rates are for billions of weights."""


@dataclass(frozen=True, kw_only=True)
class IterativeSettings:
    """How a policy learns in iterations of sampling, ranking and training.

    Raises:
        ValueError: if a value is out of range.
    """

    prompts_per_iteration: int = field(default=256, metadata={"flag": "num-prompts"})
    """Prompts answered in each iteration; no prompt comes twice before all did."""
    sampling: Sampling = field(default=Sampling(temperatures=(1.0, 0.7)))
    """How responses are drawn and ranked."""
    tuning: Tuning = Tuning()
    """How the policy learns from them."""

    def __post_init__(self) -> None:
        if self.prompts_per_iteration < 1:
            raise ValueError(
                f"prompts_per_iteration must be at least 1, got {self.prompts_per_iteration}"
            )


@dataclass(frozen=True, kw_only=True)
class OnlineDPOSettings(IterativeSettings):
    """How online DPO learns. The paper subtracts .001 per character (`Sampling.length_penalty`)."""

    loss: PreferenceLoss = field(default=PreferenceLoss())
    """DPO's loss and its coefficients."""


@dataclass(frozen=True, kw_only=True)
class RAFTSettings(IterativeSettings):
    """How RAFT learns."""

    sampling: Sampling = field(default=Sampling())


@dataclass(frozen=True, kw_only=True)
class IterativeRun:
    """Settings of a whole run of a learner in iterations.

    Raises:
        ValueError: if a value is out of range.
    """

    iterations: int = 3
    """Iterations in all."""

    def __post_init__(self) -> None:
        check_number(self, "iterations", above=0)


@dataclass(frozen=True, kw_only=True)
class OnlineDPORun(IterativeRun):
    """``--agent online-dpo``; the defaults suit the bundled tasks."""

    learner: OnlineDPOSettings = OnlineDPOSettings(prompts_per_iteration=512, tuning=TINY)


@dataclass(frozen=True, kw_only=True)
class RAFTRun(IterativeRun):
    """``--agent raft``; the defaults suit the bundled tasks."""

    learner: RAFTSettings = RAFTSettings(
        prompts_per_iteration=512, sampling=Sampling(temperatures=(1.0,)), tuning=TINY
    )


register_learner(
    Learner(
        name="online-dpo",
        summary="DPO on pairs of the policy's own responses, drawn anew in each iteration",
        settings=OnlineDPORun,
        train="tokengym.agents.online.online_dpo:train",
        steps_setting="iterations",
    )
)
register_learner(
    Learner(
        name="raft",
        summary="fine-tuning on the best of the policy's own responses, in iterations",
        settings=RAFTRun,
        train="tokengym.agents.online.raft:train",
        steps_setting="iterations",
    )
)
register_learner(
    Learner(
        name="best-of-n",
        summary="the best of n responses by the scorer; nothing is trained",
        settings=Candidates,
        train="tokengym.agents.online.best_of_n:train",
        steps_setting="n",
    )
)
