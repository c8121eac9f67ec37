"""Online iterative DPO."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokengym.agents.offline.dpo import DPO
from tokengym.agents.offline.loss import PreferenceLoss
from tokengym.agents.offline.pair_data import pairs_dataset
from tokengym.agents.online.collecting import Group, Row, Sampling, pair_rows
from tokengym.agents.online.iterative import IterativeLearner, Tuning
from tokengym.agents.rollouts.environments import Environments

if TYPE_CHECKING:
    from datasets import Dataset


class OnlineDPO(IterativeLearner):
    """Online iterative DPO: pairs from the policy as it is now, ranked by a scorer.

    Each iteration draws n responses to every prompt, half by the main agent at temperature 1.0 and
    half by the enhancer, the same policy at 0.7, sets the best against the worst, drops ties and
    identical texts, and takes `DPO` on from where the policy is. The reference is the policy that
    the first iteration began with, throughout.

    Args:
        env: See `IterativeLearner`, as for all but ``loss``.
        model: Path, hub name or model; None takes the environment's bundled one.
        scorer: What ranks responses.
        loss: DPO's loss and its coefficients.
        sampling: How responses are drawn and paired; `Sampling.length_penalty` is the paper's
            "- lambda * characters" (.001 there, 0 here).
        tuning: How the policy learns from the pairs.
        prompts_per_iteration: Prompts answered in each.
        lora: Trains adapters only.
        output_dir: Where iterations are kept and found again.
        max_rows: Most responses written at a time.
        seed: Of everything random.
        device: "auto" takes a GPU if there is one.

    Raises:
        ValueError: if a value is out of range, or there is no scorer.

    Source: Dong et al. 2024, "RLHF Workflow", arXiv:2405.07863, section 3; three iterations there.
    """

    data_name: ClassVar[str] = "pairs"
    score_column: ClassVar[str] = "chosen_score"

    def __init__(
        self,
        env: Environments,
        model: Any = None,
        *,
        scorer: Any | None = None,
        loss: PreferenceLoss | None = None,
        sampling: Sampling | None = None,
        tuning: Tuning | None = None,
        prompts_per_iteration: int = 256,
        lora: Any | None = None,
        output_dir: str | Path | None = None,
        max_rows: int = 256,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.loss = loss or PreferenceLoss()
        super().__init__(
            env,
            model,
            scorer=scorer,
            sampling=sampling,
            tuning=tuning,
            prompts_per_iteration=prompts_per_iteration,
            lora=lora,
            output_dir=output_dir,
            max_rows=max_rows,
            seed=seed,
            device=device,
        )

    def choose(self, groups: Sequence[Group], prompts: Sequence[int]) -> list[Row]:
        """Return the best response to each prompt against the worst."""
        return pair_rows(groups, self.sampling, prompts)

    def dataset(self, rows: Sequence[Row]) -> "Dataset":
        """Return the pairs as a data set."""
        return pairs_dataset(rows)

    def trainer(self, rows: Any = None, **arguments: Any) -> DPO:
        """Return the `DPO` of an iteration; see `IterativeLearner.trainer`."""
        return DPO(
            self.policy,
            rows,
            tokenizer=self.collector.rehearsal.tokenizer,
            loss=self.loss,
            temperature=self.policy.temperature,
            device=self.device,
            **arguments,
        )

    def settings(self) -> dict[str, Any]:
        """See `IterativeLearner.settings`."""
        return super().settings() | {"loss": asdict(self.loss)}
