"""RTO: token rewards from the log-ratio of a DPO-trained policy, the score on the last token."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.declared import check_number
from tokengym.envs.episode import Episode
from tokengym.rewards.attribution.probe import Probe
from tokengym.rewards.credits.base import Credit, FloatArray, register_credit
from tokengym.rewards.errors import CreditError
from tokengym.rewards.maths.redistribution import sparse
from tokengym.rewards.scorers.base import Scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards.attribution.policy_reader import PolicyReader

Source = Union[str, Path, "PolicyReader"]


@register_credit
class RTO(Credit):
    """Each token earns the implicit reward of a DPO-trained policy, the last one the score as well.

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

    Raises:
        CreditError: if there is no policy, or ``beta`` is negative.

    Source: Zhong et al. 2024, "DPO Meets PPO: Reinforced Token Optimization for RLHF",
    arXiv:2404.18922; implicit reward: Rafailov et al. 2024, arXiv:2404.12358.
    """

    name = "rto"
    needs_attributions = True
    sum_preserving = False

    def __init__(
        self, policy: Source | None = None, beta: float = 0.1, reference: Source | None = None
    ) -> None:
        self.policy = policy
        self.beta = beta
        check_number(self, "beta", least=0, finite=True, error=CreditError)
        self.reference = reference
        self.fallback: str | Path | None = None
        """The bundle's policy, for a policy without a reference of its own."""

    def with_policy(self, path: str | Path) -> "RTO":
        """Return the rule with the environment's policy as what it falls back on."""
        other = copy.copy(self)
        other.fallback = path
        return other

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "RTO":
        """Return the rule with both models loaded, whose vocabularies are the policy's.

        Raises:
            CreditError: if there is no policy or no reference.
            TokenizerError: if a vocabulary is another one.
        """
        other = copy.copy(self)
        for reader in other._readers():
            reader.bind(tokenizer)
        return other

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with each token's log-ratio, nats."""
        del probe
        policy, reference = (reader.log_probs(episodes) for reader in self._readers())
        ratios = [one - other for one, other in zip(policy, reference, strict=True)]
        return scores.with_attributions(ratios, signed=True)

    def spread(
        self, score: float, episode: Episode, attribution: FloatArray | None
    ) -> NDArray[np.floating]:
        """Return the implicit rewards plus the sparse reward."""
        assert attribution is not None
        return self.beta * attribution.astype(np.float64) + sparse(score, len(attribution))

    def _readers(self) -> "tuple[PolicyReader, PolicyReader]":
        """Return policy and reference, loaded when they are first needed."""
        from tokengym.rewards.attribution.policy_reader import PolicyReader, agent_folder

        if self.policy is None:
            raise CreditError(
                "credit 'rto' needs a policy trained by DPO; write 'rto:policy=PATH' with what "
                "'tokengym train --agent dpo' saved"
            )
        if self.reference is None and isinstance(self.policy, str | Path):
            agent = agent_folder(self.policy)
            own = None if agent is None else agent / "reference"
            self.reference = own if own is not None and own.is_dir() else self.fallback
        if self.reference is None:
            raise CreditError(
                f"credit 'rto' has no reference beside the policy {self.policy} and none in a "
                "bundle; add 'reference=PATH' with the model that DPO began with"
            )
        if not isinstance(self.policy, PolicyReader):
            self.policy = PolicyReader.from_pretrained(self.policy)
        if not isinstance(self.reference, PolicyReader):
            self.reference = PolicyReader.from_pretrained(self.reference)
        return self.policy, self.reference
