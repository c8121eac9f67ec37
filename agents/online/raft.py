"""Reward-ranked fine-tuning: supervised learning on the best of the policy's own responses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tokengym.agents.offline.pair_data import responses_dataset
from tokengym.agents.offline.sft import SFT
from tokengym.agents.online.collecting import Group, Row, Sampling, best_rows
from tokengym.agents.online.iterative import IterativeLearner

if TYPE_CHECKING:
    from datasets import Dataset


class RAFT(IterativeLearner):
    """Draws n responses to every prompt, keeps the best by a scorer, learns it by `SFT`, again.

    See `IterativeLearner` for the arguments. There is no pull towards the reference: it is kept
    only so that the distance can be measured.

    Source: Dong et al. 2023, "RAFT", arXiv:2304.06767, algorithm 1; the rule is that of rejection
        sampling in Llama 2, arXiv:2307.09288, section 3.2.3.
    """

    default_sampling: ClassVar[Sampling] = Sampling(n=8)
    data_name: ClassVar[str] = "best"
    score_column: ClassVar[str] = "score"

    def choose(self, groups: Sequence[Group], prompts: Sequence[int]) -> list[Row]:
        """Return the best response to each prompt."""
        return best_rows(groups, self.sampling, prompts)

    def dataset(self, rows: Sequence[Row]) -> "Dataset":
        """Return the responses as a data set."""
        return responses_dataset(rows)

    def trainer(self, rows: Any = None, **arguments: Any) -> SFT:
        """Return the `SFT` of an iteration; see `IterativeLearner.trainer`."""
        return SFT(
            self.policy,
            rows,
            tokenizer=self.collector.rehearsal.tokenizer,
            temperature=self.policy.temperature,
            device=self.device,
            **arguments,
        )
