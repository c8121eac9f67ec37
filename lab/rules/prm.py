"""Process rewards: each step earns by what a model of steps says at its end."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from typing_extensions import Self

from tokengym.base import check_choice, check_number
from tokengym.envs import Episode, special_tokens, token_texts
from tokengym.lab.rules.pure import min_form
from tokengym.rewards import CreditError, Cut, Probe, Scores, SegmentedCredit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.rewards import RewardModel

Steps = Literal["line", "sentence", "segment"]
StepForm = Literal["sum", "min", "last", "delta"]
"""How scores of steps become rewards; see `step_rewards`."""
STEPS_KEY = "step_separator"
"""Entry of a model's configuration that `train_process_model` leaves: its scores are logits."""


class PRM(SegmentedCredit):
    """Each step of a response earns by the mark that a model which judges steps gives it.

    v_j = expit(M(x, y up to the end of step j)), and M itself of a model that was not trained by
    `train_process_model`; r_j of ``form`` by `step_rewards`, on the step's last token. Under
    "delta" the last token gets the rest of the score, so that the sum is kept; under the others the
    score is not paid. ``form=min`` is PURE with the process model that its paper has.

    Args:
        model: Folder or hub name of the process model, a causal classifier of one logit with the
            policy's vocabulary, or the model itself.
        form: "sum", "min", "last" or "delta".
        steps: "line", "sentence" (one that ends in ., ! or ?), or "segment" (``segments`` of them).
        segments: See `SegmentedCredit`; of ``steps="segment"`` alone.
        cut: Likewise.
        temperature: Of ``form="min"``, reward units. The paper uses 0.1.

    Source: Lightman et al. 2023, arXiv:2305.20050 (steps); Wang et al. 2024, "Math-Shepherd",
    arXiv:2312.08935 (values); Cheng et al. 2025, arXiv:2504.15275 (min).
    """

    name = "prm"
    needs_model = True

    def __init__(
        self,
        model: "str | Path | RewardModel | None" = None,
        form: StepForm = "delta",
        steps: Steps = "line",
        segments: int | None = None,
        cut: Cut = "even",
        temperature: float = 0.1,
    ) -> None:
        super().__init__(segments, cut)
        self.form, self.steps, self.temperature = form, steps, temperature
        check_choice(self, "form", get_args(StepForm), error=CreditError)
        check_choice(self, "steps", get_args(Steps), error=CreditError)
        check_number(self, "temperature", above=0, finite=True, error=CreditError)
        if (steps == "segment") != (segments is not None):
            raise CreditError(
                f"steps={steps!r} with segments={segments} names no steps; write "
                "'prm:steps=segment,segments=8', or leave segments out"
            )
        self.model = model
        self.sum_preserving = form == "delta"
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Return the rule with its model loaded, whose vocabulary is the policy's."""
        from tokengym.rewards import RewardModel

        other = copy.copy(super().bind(tokenizer))
        if self.model is None:
            raise CreditError(
                "credit 'prm' needs a process model; write 'prm:model=PATH' with what "
                "'tokengym train-reward --kind process' saved"
            )
        model = self.model
        if not isinstance(model, RewardModel):
            model = RewardModel.from_pretrained(model)
        other.model = model = model.bind(tokenizer)
        if "prefix" not in (model.attribution_kinds or ()):
            raise CreditError(
                f"credit 'prm' reads {model.name} at the end of every step, and it has no scores "
                "of prefixes; take a causal model with the policy's tokenizer"
            )
        other._tokenizer = tokenizer
        return other

    def pieces(self, episodes: Sequence[Episode]) -> list[list[range]]:
        """Return the steps of each response; what follows the last end is a step too.

        In a conversation the end of a turn ends a step, to which the reply's tokens belong: its
        lines are no steps of the policy's.
        """
        if self.steps == "segment":
            return super().pieces(episodes)
        if self._tokenizer is None:
            return [[range(len(episode.response_ids))] for episode in episodes]
        special = {*special_tokens(self._tokenizer).values()}
        shown = [
            ["" if i in special else text for i, text in zip(ids, texts, strict=True)]
            for ids in (episode.response_ids for episode in episodes)
            for texts in [token_texts(self._tokenizer, ids)]
        ]
        return [
            _turn_by_turn(texts, episode, self.steps)
            for texts, episode in zip(shown, episodes, strict=True)
        ]

    def attribute(self, probe: Probe, episodes: Sequence[Episode], scores: Scores) -> Scores:
        """Return the scores with each step's reward on its last token."""
        del probe
        rows = [
            step_rewards(values[1:], self.form, start=values[0], temperature=self.temperature)
            for values in self.values(episodes)
        ]
        return scores.with_attributions(rows, signed=True, pieces=self.pieces(episodes))

    def values(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Return, per episode, the value of the prompt and of each step's end, (1 + steps,)."""
        from tokengym.rewards import RewardModel

        assert isinstance(self.model, RewardModel)
        read = self.model.score(episodes, attribution="prefix")
        is_logit = STEPS_KEY in self.model.model.config.to_dict()
        step_values = []
        for end, increments, parts in zip(
            read.values, read.attributions or (), self.pieces(episodes), strict=True
        ):
            known = float(end) - np.cumsum([0.0, *increments.astype(np.float64)[::-1]])[::-1]
            known = known[[0, *(part.stop for part in parts)]]
            step_values.append(expit(known) if is_logit else known)
        return step_values

    def spread(
        self, score: float, episode: Episode, attribution: NDArray[np.float32] | None
    ) -> NDArray[np.floating]:
        """Return the steps' rewards; under "delta" the rest of the score is on the last token."""
        assert attribution is not None
        if self.form == "delta":
            return super().spread(score, episode, attribution)
        return attribution.astype(np.float64)


def _turn_by_turn(texts: Sequence[str], episode: Episode, steps: Steps) -> list[range]:
    """Return the steps of each turn that the policy wrote, the last one with the reply to it."""
    if episode.written is None:
        return step_spans(texts, steps)
    written = (episode.written > 0).astype(np.int8)
    turns, starts = np.flatnonzero(np.diff(written, prepend=0) > 0).tolist(), list[int]()
    for begin, end in pairwise([*turns, len(texts)]):
        own = texts[begin : begin + int(written[begin:end].sum())]
        starts += [begin + span.start for span in step_spans(own, steps)]
    return [range(*span) for span in pairwise([*starts, len(texts)])]


def step_spans(texts: Sequence[str], steps: Steps) -> list[range]:
    r"""Return the spans of a response's lines or sentences.

    Args:
        texts: The text that each token adds; special tokens add none.
        steps: "line" or "sentence".

    Example:
        >>> step_spans(["one", ".", "\n", " two", "!", ""], "sentence")
        [range(0, 3), range(3, 6)]
    """
    ends = list[int]()
    for index, text in enumerate(texts):
        if ends and ends[-1] == index and not text.strip():
            ends[-1] = index + 1  # what is blank belongs to the step before it
        elif "\n" in text if steps == "line" else text.rstrip().endswith((".", "!", "?")):
            ends.append(index + 1)
    bounds = [end for end in ends if end < len(texts)]
    return [range(a, b) for a, b in zip([0, *bounds], [*bounds, len(texts)], strict=True)]


def step_rewards(
    values: ArrayLike, form: StepForm, *, start: float = 0.0, temperature: float = 0.1
) -> NDArray[np.float64]:
    """Return what each step of a response earns by a process model's values.

    sum:   r_j = v_j
    min:   r_j = w_j v_j,  w = softmax(-v / temperature)   (`min_form`: the sum is about the worst)
    last:  r_m = v_m, the others 0
    delta: r_j = v_j - v_{j-1},  v_0 = start               (the sum is v_m - v_0)

    Args:
        values: (steps,) v, reward units.
        form: One of the four.
        start: v_0, the value before the first step, of "delta".
        temperature: Of "min", reward units.

    Returns:
        (steps,) reward units.

    Example:
        >>> step_rewards([0.9, 0.5, 0.6], "delta", start=0.7).round(2)
        array([ 0.2, -0.4,  0.1])
    """
    array = np.asarray(values, dtype=np.float64)
    if form == "min":
        return min_form(array, temperature=temperature)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values must be finite, (steps,) with a step or more, got {array}")
    if form == "sum":
        return array
    if form == "last":
        return np.where(np.arange(len(array)) == len(array) - 1, array, 0.0)
    return np.diff(array, prepend=start)
