"""RTO: token rewards from the log-ratio of a DPO-trained policy, the score on the last token."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tokengym.base import check_number
from tokengym.envs import Episode
from tokengym.rewards import Credit, CreditError, Probe, Scores, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards import PolicyReader


class RTO(Credit):
    """Each token earns how much likelier DPO made it, and the last one the score as well.

    r_t = beta * (log pi_dpo(y_t | x, y_<t) - log pi_ref(y_t | x, y_<t)) + R * 1[t = n - 1]

    The log-probabilities are the models' own, without temperature or action mask. The paper's price
    on the KL is the learner's (``kl_coef``). The rewards sum to the score plus beta times the
    response's log-ratio, not to the score.

    Args:
        policy: Folder that ``tokengym train --agent dpo`` or ``DPO.save`` wrote, or folder or hub
            name of a language model.
        beta: Reward units per nat. 0.1 is DPO's usual beta, at which the log-ratio is DPO's own
            implicit reward; 0 leaves `sparse`.
        reference: Language model in the denominator; None takes the reference saved with the
            policy, or else the bundle's policy.

    Source: Zhong et al. 2024, "DPO Meets PPO: Reinforced Token Optimization for RLHF",
    arXiv:2404.18922; implicit reward: Rafailov et al. 2024, arXiv:2404.12358.
    """

    name = "rto"
    needs_reference = True
    reference_remedy = "add 'reference=PATH' with the model that DPO began with"
    sum_preserving = False

    def __init__(
        self, policy: Source | None = None, beta: float = 0.1, reference: Source | None = None
    ) -> None:
        self.policy = policy
        self.beta = beta
        check_number(self, "beta", least=0, finite=True, error=CreditError)
        self.reference = reference or _saved_reference(policy)

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Return the rule with both models loaded, whose vocabularies are the policy's."""
        self._trained().bind(tokenizer)
        return super().bind(tokenizer)

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with each token's log-ratio, nats."""
        del probe
        trained = self._trained().log_probs(episodes)
        pairs = zip(trained, self.log_probs(episodes), strict=True)
        ratios = [policy - reference for policy, reference in pairs]
        return scores.with_attributions(ratios, signed=True)

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> NDArray[np.floating]:
        """Return the implicit rewards plus the sparse reward."""
        assert attribution is not None
        rewards = self.beta * attribution.astype(np.float64)
        rewards[-1] += score
        return rewards

    def _trained(self) -> "PolicyReader":
        """Return what reads the DPO-trained policy, loaded when it is first needed."""
        from tokengym.rewards import PolicyReader

        if self.policy is None:
            raise CreditError(
                "credit 'rto' needs a policy trained by DPO; write 'rto:policy=PATH' with what "
                "'tokengym train --agent dpo' saved"
            )
        if not isinstance(self.policy, PolicyReader):
            self.policy = PolicyReader.from_pretrained(self.policy)
        return self.policy


def _saved_reference(policy: Source | None) -> Path | None:
    """Return the folder of the reference that was saved with a policy, None if there is none."""
    if not isinstance(policy, str | Path):
        return None
    places = (Path(policy) / "reference", Path(policy) / "agent" / "reference")
    return next((folder for folder in places if folder.is_dir()), None)
