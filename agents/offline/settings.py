"""Settings of DPO and SFT as learners by name, declared once."""

from dataclasses import dataclass, field

from tokengym.agents.learner import Learner, register_learner
from tokengym.agents.offline.loss import PreferenceLoss
from tokengym.agents.online.pairing import Sampling
from tokengym.agents.online.settings import TINY, Tuning
from tokengym.envs.declared import check_count


@dataclass(frozen=True, kw_only=True)
class SFTSettings:
    """Data and fitting of `SFT` in a run."""

    pairs: str | None = None
    """File of pairs (or, for SFT, responses) to learn from; None collects them from the policy."""
    num_prompts: int = 512
    """Prompts answered, where data is collected."""
    sampling: Sampling = field(default=Sampling(n=8, temperatures=(1.0, 0.7)))
    """Sampling and ranking of the responses."""
    tuning: Tuning = TINY
    """Fitting of the policy to them."""

    def __post_init__(self) -> None:
        check_count(self, "num_prompts")


@dataclass(frozen=True, kw_only=True)
class DPOSettings(SFTSettings):
    """Data, fitting and loss of `DPO` in a run."""

    loss: PreferenceLoss = field(default=PreferenceLoss())
    """DPO's loss and its coefficients."""


register_learner(
    Learner(
        name="dpo",
        summary="direct preference optimisation on pairs, given or collected from the policy",
        settings=DPOSettings,
        train="tokengym.agents.offline.training:train_dpo",
        steps_setting="num_train_epochs",
    )
)
register_learner(
    Learner(
        name="sft",
        summary="supervised fine-tuning on responses, given or the best of the policy's own",
        settings=SFTSettings,
        train="tokengym.agents.offline.training:train_sft",
        steps_setting="num_train_epochs",
    )
)
