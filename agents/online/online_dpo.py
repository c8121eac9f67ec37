"""Online iterative DPO."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tokengym.agents.learner import TrainingRun
from tokengym.agents.offline.dpo import DPO
from tokengym.agents.offline.pair_data import pairs_dataset
from tokengym.agents.online.collecting import Group, Row, pair_rows
from tokengym.agents.online.iterative import IterativeLearner, train_iterations
from tokengym.agents.online.settings import OnlineDPOSettings

if TYPE_CHECKING:
    from datasets import Dataset


class OnlineDPO(IterativeLearner):
    """Online iterative DPO: pairs from the current policy, ranked by a scorer.

    Each iteration draws n responses to every prompt, half by the main agent at temperature 1.0 and
    half by the enhancer, the same policy at 0.7, pairs the best with the worst, drops ties and
    identical texts, and continues `DPO` from the policy's weights. The reference is the policy that
    the first iteration began with, throughout.

    See `IterativeLearner` for the arguments, and `OnlineDPOSettings` for the settings among them.

    Source: Dong et al. 2024, "RLHF Workflow", arXiv:2405.07863, section 3; three iterations there.
    """

    settings: OnlineDPOSettings
    settings_class = OnlineDPOSettings
    data_name: ClassVar[str] = "pairs"
    score_column: ClassVar[str] = "chosen_score"
    make_dataset = staticmethod(pairs_dataset)

    def choose(self, groups: Sequence[Group], prompts: Sequence[int]) -> list[Row]:
        """Return the best response to each prompt, paired with the worst."""
        return pair_rows(groups, self.settings.sampling, prompts)

    def trainer(self, rows: "Dataset | None" = None, **arguments: Any) -> DPO:
        """Return the `DPO` of an iteration; see `IterativeLearner.trainer`."""
        loss = self.settings.loss
        return DPO(self.policy, rows, loss=loss, **self.trainer_arguments(), **arguments)


def train(run: TrainingRun) -> OnlineDPO:
    """Train `OnlineDPO`; see `train_iterations`."""
    return train_iterations(run, OnlineDPO)
