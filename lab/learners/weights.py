"""Weights on the advantage, each known to ``WeightedPPO(advantage_weight=...)`` by its name."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tokengym.agents import losses
from tokengym.base import check_number
from tokengym.envs import SettingsError, encode_contents
from tokengym.lab.learners import weighing
from tokengym.lab.learners.weighted import AdvantageWeight, WeighedRound


def _check_share(name: str, value: float) -> float:
    if not 0.0 < value <= 1.0:
        raise SettingsError(f"{name} must lie in (0, 1], got {value}")
    return value


class Constant(AdvantageWeight):
    """The control that changes nothing: a run equals the unweighted one bit for bit."""

    name = "constant"

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return 1 on every token."""
        return played.response_mask.to(played.advantages.dtype)


class Random(AdvantageWeight):
    """The control that knows nothing: uniform numbers, drawn anew in each round."""

    name = "random"

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return uniform numbers, scaled."""
        generator = torch.Generator().manual_seed(played.seed)
        drawn = torch.rand(tuple(played.response_mask.shape), generator=generator)
        return losses.mean_one(drawn.to(played.response_mask.device), played.response_mask)


class Position(AdvantageWeight):
    """The control that knows the place alone: weights rising with it.

    Args:
        power: w_t proportional to t ** power, t = 1, 2, ...; negative favours the beginning.
    """

    name = "position"

    def __init__(self, power: float = 1.0) -> None:
        self.power = power
        check_number(self, "power", finite=True)

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return powers of the place, scaled."""
        mask = played.response_mask
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=torch.float32)
        return losses.mean_one((places**self.power).expand(mask.shape), mask)


class Entropy(AdvantageWeight):
    """Gradient on the tokens with the highest entropy alone; see `weighing.top_weights`.

    Args:
        top: Share of a response's tokens that carry gradient.
    """

    name = "entropy"
    source = "Wang et al. 2025, arXiv:2506.01939"

    def __init__(self, top: float = 0.2) -> None:
        self.top = _check_share("top", top)

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return n / k on the k tokens of highest entropy."""
        return weighing.top_weights(played.entropy(), played.response_mask, share=self.top)


class GTPO(AdvantageWeight):
    """Entropy against that of the other responses; see `weighing.entropy_bonus_weights`.

    Args:
        share: Weight of the entropy.
    """

    name = "gtpo"
    source = "Tan et al. 2025, arXiv:2508.04349"
    by_response = False

    def __init__(self, share: float = 0.5) -> None:
        self.share = _check_share("share", share)

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return the shaped entropies, scaled."""
        return weighing.entropy_bonus_weights(
            played.entropy(), played.advantages, played.response_mask, share=self.share
        )


class PolicyAttentionWeight(AdvantageWeight):
    """Attention that later tokens pay: the policy's own attention received by each token.

    w_t proportional to the mean over queries q >= t of the last layer's attention from q to t,
    averaged over heads; one more pass over the finished texts.
    """

    name = "policy-attention"
    needs_model = True

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return the attention received, scaled."""
        from tokengym.lab.rules.policy_attention import policy_attention
        from tokengym.rewards import PolicyReader

        matrices = policy_attention(PolicyReader(played.language_model), played.episodes)
        received = [
            matrix.sum(0) / np.arange(len(matrix), 0, -1, dtype=np.float64) for matrix in matrices
        ]
        return losses.mean_one(played.padded(received), played.response_mask)


class RewardAttention(AdvantageWeight):
    """The reward model's attention, which ABC spreads the score by; one more pass of it."""

    name = "reward-attention"
    source = "Chan et al. 2024, arXiv:2402.00782, who spread the reward"
    needs_model = True

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return the attention of the last token, scaled."""
        rows = _attributions(played, "attention", self.name)
        return losses.mean_one(played.padded(rows), played.response_mask)


def _attributions(played: WeighedRound, kind: str, name: str) -> Sequence[ArrayLike]:
    """Return what a reward model's score rests on, for a weight of that name."""
    kinds = None if played.scorer is None else played.scorer.attribution_kinds
    if kind not in (kinds or ()):
        raise SettingsError(
            f"advantage_weight={name!r} needs an environment whose scorer is a reward model; take "
            "'policy-attention', or another task"
        )
    rows: Sequence[ArrayLike] = played.scorer.score(played.episodes, attribution=kind).attributions
    return rows


class Teacher(AdvantageWeight):
    """Departure of a better model from the reference: softmax of log pi_teacher - log pi_ref.

    Args:
        path: Folder of the teacher: a model, or what an agent's ``save`` wrote; same tokenizer.
        temperature: Nats; large makes all weights 1.
    """

    name = "teacher"
    needs_model = True

    def __init__(self, path: str = "", temperature: float = 1.0) -> None:
        from tokengym.rewards import PolicyReader

        if not path:
            raise SettingsError(
                "advantage_weight 'teacher' needs a model; write 'teacher:path=runs/dpo'"
            )
        if not temperature > 0:
            raise SettingsError(f"temperature must be > 0, got {temperature}")
        self.temperature = temperature
        self.reader = PolicyReader.from_pretrained(path)

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return the softmax of the log ratios, scaled."""
        assert played.ref_log_probs is not None
        teacher = played.padded(self.reader.log_probs(played.episodes))
        return weighing.softmax_weights(
            teacher - played.ref_log_probs, played.response_mask, temperature=self.temperature
        )


class RelativeSurprisal(AdvantageWeight):
    """Gradient on the tokens whose surprisal is near what the policy expected of it.

    w_t equal where low <= -log pi(y_t) / H_t <= high, 0 elsewhere (`band_weights`): neither
    on what was sure to be written, nor on the tail.

    Args:
        low: Least surprisal, in entropies of the policy before the token.
        high: Largest. The paper's band was not available; these two are ours.
    """

    name = "rsi"
    source = "Lv et al. 2026, arXiv:2606.31575"

    def __init__(self, low: float = 0.5, high: float = 2.0) -> None:
        if not 0 <= low < high:
            raise SettingsError(f"rsi needs 0 <= low < high, got low={low}, high={high}")
        self.low, self.high = low, high

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return n / k on the k tokens in the band."""
        assert played.log_probs is not None
        values = -played.log_probs / played.entropy().clamp(min=1e-6)
        return weighing.band_weights(values, played.response_mask, low=self.low, high=self.high)


class OutcomeSensitivity(AdvantageWeight):
    """OAR: the size of embedding times gradient of the score, gated at a quantile.

    There the outcome is the distribution of the answer that follows the reasoning; here it is the
    reward model's score. See `weighing.gated_weights`.

    Args:
        quantile: Share of a response's tokens that lose weight, in (0, 1].
        boost: Extra weight of the most important token, >= 0. Both defaults are ours.
    """

    name = "oar"
    source = "Li et al. 2026, arXiv:2601.07408, OAR-G"
    needs_model = True

    def __init__(self, quantile: float = 0.5, boost: float = 1.0) -> None:
        self.quantile = _check_share("quantile", quantile)
        self.boost = boost
        check_number(self, "boost", least=0)
        check_number(self, "boost", finite=True)

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return the gated sensitivities, scaled."""
        rows = _attributions(played, "gradient", self.name)
        size = played.padded([np.abs(np.asarray(row)) for row in rows])
        return weighing.gated_weights(
            size, played.response_mask, quantile=self.quantile, boost=self.boost
        )


class SelfTeacher(AdvantageWeight):
    """RLSD: the policy that has read the reference answer teaches the policy that has not.

    w_t by pi(y_t | answer, x, y_<t) / pi(y_t | x, y_<t), see `evidence_weights`; the answer
    stands before the prompt. One more pass over the finished texts.

    Args:
        mix: Share of the teacher, in (0, 1].
        clip: Largest departure of the teacher's factor from 1, in (0, 1].
    """

    name = "self-teacher"
    source = "Yang et al. 2026, arXiv:2604.03128"
    needs_model = True

    def __init__(self, mix: float = 0.5, clip: float = 0.2) -> None:
        self.mix, self.clip = _check_share("mix", mix), _check_share("clip", clip)

    def weigh(self, played: WeighedRound) -> Tensor:
        """Return the mixed evidence, scaled."""
        from tokengym.rewards import PolicyReader

        told = []
        for index, episode in enumerate(played.episodes):
            if episode.reference is None:
                raise SettingsError(
                    f"advantage_weight 'self-teacher' reads reference answers, and episode {index} "
                    "has none; take a task with references, or 'teacher:path=MODEL'"
                )
            (answer,) = encode_contents(played.tokenizer, [episode.reference])
            told.append(replace(episode, prompt_ids=(*answer, *episode.prompt_ids)))
        assert played.log_probs is not None
        teacher = played.padded(PolicyReader(played.language_model).log_probs(told))
        return weighing.evidence_weights(
            teacher - played.log_probs,
            played.advantages,
            played.response_mask,
            mix=self.mix,
            clip=self.clip,
        )
