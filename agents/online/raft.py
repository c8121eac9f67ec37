"""Reward-ranked fine-tuning: supervised learning on the best of the policy's own responses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tokengym.agents.learner import TrainingRun
from tokengym.agents.offline.pair_data import responses_dataset
from tokengym.agents.offline.sft import SFT
from tokengym.agents.online.collecting import Group, Row, best_rows
from tokengym.agents.online.iterative import IterativeLearner, train_iterations
from tokengym.agents.online.settings import RAFTSettings

if TYPE_CHECKING:
    from datasets import Dataset


class RAFT(IterativeLearner):
    """Draws n responses to every prompt, trains on the best by a scorer with `SFT`, and repeats.

    See `IterativeLearner` for the arguments, and `RAFTSettings` for the settings among them.
    Nothing pulls the policy towards the reference, which only serves to measure the distance.

    Source: Dong et al. 2023, "RAFT", arXiv:2304.06767, algorithm 1; the rule is that of rejection
        sampling in Llama 2, arXiv:2307.09288, section 3.2.3.
    """

    settings_class = RAFTSettings
    data_name: ClassVar[str] = "best"
    score_column: ClassVar[str] = "score"
    make_dataset = staticmethod(responses_dataset)

    def choose(self, groups: Sequence[Group], prompts: Sequence[int]) -> list[Row]:
        """Return the best response to each prompt."""
        return best_rows(groups, self.settings.sampling, prompts)

    def trainer(self, rows: "Dataset | None" = None, **arguments: Any) -> SFT:
        """Return the `SFT` of an iteration; see `IterativeLearner.trainer`."""
        return SFT(self.policy, rows, **self.trainer_arguments(), **arguments)


def train(run: TrainingRun) -> RAFT:
    """Train `RAFT`; see `train_iterations`."""
    return train_iterations(run, RAFT)
