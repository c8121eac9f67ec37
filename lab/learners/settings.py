"""Settings of the laboratory's learners, declared once; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from tokengym.agents.offline import PreferenceLoss, Sampling, Tuning
from tokengym.agents.ppo import PPOSettings
from tokengym.base import check_choice, check_count, check_number

Enhancer = Literal["temperatures", "checkpoint", "best-of-n", "disagreement"]


@dataclass(frozen=True, kw_only=True)
class IterativeSettings:
    """Settings of learning in iterations of sampling, ranking and training."""

    prompts_per_iteration: int = field(default=256, metadata={"flag": "num-prompts"})
    """Prompts answered in each iteration; no prompt comes twice before all did."""
    sampling: Sampling = field(default=Sampling(temperatures=(1.0, 0.7)))
    """Settings of drawing and ranking responses."""
    enhancer: Enhancer = "temperatures"
    """Exploration of the responses (RLHF Workflow, section 3.2): "temperatures" divides all of them
    among the temperatures; otherwise half come from the enhancer, which is the policy of one
    iteration before ("checkpoint"), or keeps of several candidates the best ("best-of-n") or the
    one that the heads of the reward model disagree on the most ("disagreement")."""
    enhancer_candidates: int = 4
    """Candidates of which either keeps one, n; which bounds its KL to what they are drawn from, the
    policy at one of the temperatures, by log n - (n - 1) / n nats."""
    preference_model: str | None = None
    """Folder or hub name of a preference model that ranks the responses to a prompt by their mean
    win rate among each other, both orders asked; None ranks by the reward's scorer."""
    tuning: Tuning = field(default=Tuning())
    """Settings of learning from them."""

    def __post_init__(self) -> None:
        check_count(self, "prompts_per_iteration")
        check_choice(self, "enhancer", get_args(Enhancer))
        check_count(self, "enhancer_candidates", least=2)
        n, parts = self.sampling.n, 2 * len(self.sampling.temperatures)
        if self.enhancer != "temperatures" and n % parts:
            raise ValueError(
                f"n must be a multiple of {parts} with enhancer={self.enhancer!r}, half of it for "
                f"the enhancer at each temperature, got {n}"
            )
        if self.preference_model is not None and n < 2:
            raise ValueError(
                f"n must be at least 2 for a preference model to rank responses, got {n}; 8 is "
                "usual"
            )


@dataclass(frozen=True, kw_only=True)
class OnlineDPOSettings(IterativeSettings):
    """Settings of online DPO. The paper subtracts .001 a character (`Sampling.length_penalty`)."""

    loss: PreferenceLoss = field(default=PreferenceLoss())
    """DPO's loss and its coefficients."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sampling.check_for_pairs()


@dataclass(frozen=True, kw_only=True)
class RAFTSettings(IterativeSettings):
    """Settings of RAFT."""

    sampling: Sampling = field(default=Sampling())

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling.min_gap:
            raise ValueError(
                f"min_gap={self.sampling.min_gap} has no effect on the best responses, which are "
                "compared with none; leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class IterativeRun:
    """Settings of a whole run of a learner in iterations."""

    iterations: int = 3
    """Iterations in all."""

    def __post_init__(self) -> None:
        check_count(self, "iterations")


@dataclass(frozen=True, kw_only=True)
class OnlineDPORun(IterativeRun):
    """``--agent online-dpo``; the defaults suit the bundled tasks."""

    learner: OnlineDPOSettings = OnlineDPOSettings(
        prompts_per_iteration=512, tuning=Tuning.for_tiny_models()
    )


@dataclass(frozen=True, kw_only=True)
class RAFTRun(IterativeRun):
    """``--agent raft``; the defaults suit the bundled tasks."""

    learner: RAFTSettings = RAFTSettings(
        prompts_per_iteration=512,
        sampling=Sampling(temperatures=(1.0,)),
        tuning=Tuning.for_tiny_models(),
    )


@dataclass(frozen=True, kw_only=True)
class NLPOSettings(PPOSettings):
    """Settings of NLPO, which samples among the likeliest tokens of a masking model."""

    mask_top_p: float = 0.9
    """Probability that the masking model's likeliest tokens must have together."""
    mask_refresh: int = 20
    """Updates between two refreshes of the masking model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "mask_refresh")
        check_number(self, "mask_top_p", above=0.0, most=1.0)
