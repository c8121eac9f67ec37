"""Settings of PPO, declared once; importable without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tokengym.agents.policy.settings import EpisodicSettings, Schedule, ValueNetwork
from tokengym.base.objects import word_of
from tokengym.base.settings import check_choice, check_count, check_number
from tokengym.envs import SettingsError

KlPlace = Literal["reward", "loss"]
LrSchedule = Literal["constant", "linear"]
LossMean = Literal["auto", "token", "sequence", "constant"]
KlEstimator = Literal["k1", "k2", "k3", "exact"]
OldLogProbs = Literal["sampled", "recomputed"]
GAE_LAMBDA = 0.95
"""``gae_lambda`` where neither the user nor the credit rule names one."""
CHOICES = {
    "learning_rate_schedule": get_args(LrSchedule),
    "drop_equal_groups": (True, False),
    "value_network": get_args(ValueNetwork),
    "loss_mean": get_args(LossMean),
    "old_log_probs": get_args(OldLogProbs),
    "kl_in": get_args(KlPlace),
    "kl_estimator": get_args(KlEstimator),
}
"""Values of the settings that have a choice."""
MAX_PASSES = 10_000
"""Most passes over a batch, and gradient steps in one: an update with more would not end."""
MAX_LEAP, MAX_LEAP_SHARE = 4.0, 0.25
"""Largest move of one update, nats per response and as a share of the KL to the reference after it,
that gives no warning. Of the published runs on questions, dialogues and summaries
(docs/results/tasks/runs.csv), 146 whose largest move was 1 to 4 nats ended with a gold score 0.03
below that of the best learning rate of their arm, 127 that moved less 0.02, and 74 that moved more
0.17. On Detox and film reviews leaps cost no gold."""


def lambda_of(given: float | None, declared: float | None = None) -> float:
    """Return ``gae_lambda``: as given, else as the credit rule declares it, else `GAE_LAMBDA`."""
    return next(one for one in (given, declared, GAE_LAMBDA) if one is not None)


@dataclass(frozen=True, kw_only=True)
class PPOSettings(EpisodicSettings):
    """Settings of PPO.

    Raises:
        SettingsError: if a value is out of range.
    """

    learning_rate_schedule: LrSchedule = "linear"
    """Schedule of ``learning_rate`` over the training: "linear" lowers it in a straight line to
    0 at the end of the run, or of the call of ``learn``, "constant" leaves it. A ``learning_rate``
    that is a schedule itself is taken as it is under either: ``learn`` gives it, as
    Stable-Baselines3 does, the share that is left after the round, which is 0 in the last update,
    where "linear" counts what is left before it. At a constant rate the last steps are noise that
    costs KL, see docs/results/earlier.md."""
    n_warmup_updates: int = 0
    """Updates at the start of the training whose learning rate is below the schedule's: that of
    update u, counted from 1, is multiplied by min(1, u / (n_warmup_updates + 1)). Adam's first
    steps are as large as the rate whatever the gradient, so that at the full rate the first update
    alone may cross many nats of KL. After ``n_value_warmup`` updates of the values alone the count
    begins anew, for the policy."""
    advantage: str | Callable[..., Any] = "gae"
    """Estimator of the advantages, by name or "file.py:name", or the function of named inputs
    itself; see `tokengym.agents.ppo.advantages`."""
    weights: str | Callable[..., Any] | None = None
    """Factors on the advantages, after whitening, by name or "file.py:name", or the function of
    named inputs itself; None leaves them."""
    loss: str | Callable[..., Any] = "clipped"
    """Policy loss of each token, likewise: "clipped", "gspo", "cispo", "sapo", or one of one's own;
    see `tokengym.agents.ppo.policy_losses`."""
    group_size: int | None = None
    """Consecutive rows that answer one prompt, at least 2 and a divisor of the rows; None gives
    each row a prompt of its own. Estimators with a group baseline need it."""
    drop_equal_groups: bool = field(default=False, metadata={"flag": ""})
    """Leave groups out whose scores are all equal: they teach nothing (DAPO, arXiv:2503.14476).
    Where a round has no other group, all advantages are 0."""
    std_floor: float = field(default=0.0, metadata={"flag": ""})
    """Least standard deviation that "grpo" divides a group's scores by."""
    loss_mean: LossMean = field(default="auto", metadata={"flag": ""})
    """Mean over the tokens of a minibatch ("token"), over a response's tokens and then responses
    ("sequence"), or a sum over a constant ("constant"); "auto" takes the estimator's own."""
    n_epochs: int = 2
    """Passes over a batch."""
    n_minibatches: int = 4
    """Gradient steps per pass; no more than there are episodes."""
    gamma: float = 1.0
    """Discount per token, of estimators that read it; "rloo", "grpo" and "dr-grpo" do not."""
    gae_lambda: float | None = None
    """1 waits for the whole return, 0 trusts the next value. None takes what the credit rule
    declares (0: mc, whose rewards are advantages), else 0.95, which ABC's paper has. Below 1 the
    score reaches early tokens through the values alone, the more so the longer the response."""
    gae_lambda_vf: float | None = field(default=None, metadata={"flag": ""})
    """The same for the returns that the values learn; None takes ``gae_lambda``. 1 is the whole
    return, which a critic that starts without knowledge learns best from whatever the advantages
    take (VC-PPO, arXiv:2503.01491)."""
    clip_range: Schedule = field(default=0.2, metadata={"flag": ""})
    """Largest move of the probability ratio before its gradient stops."""
    clip_range_high: float | None = field(default=None, metadata={"flag": ""})
    """The same upwards; None takes ``clip_range``. DAPO has 0.28."""
    old_log_probs: OldLogProbs = field(default="sampled", metadata={"flag": ""})
    """Log-probs of the old policy in the probability ratio: those of the rollout, or computed again
    as the update computes them, which costs a forward. They differ by rounding, see
    train/log_prob_gap, which in bfloat16 is some hundredths of a nat."""
    clip_range_vf: Schedule | None = None
    """The same for the values, in reward units; None does not clip them."""
    value_network: ValueNetwork = "own"
    """Input of the value head. "own": the hidden states of a network of its own, a copy of the
    model, or with LoRA adapters of its own on the same backbone, so that values learn features that
    the policy has no use for. "reward_model": a network of its own that starts from the weights and
    the head of the environment's reward model, so that its first values are the scores of the text
    so far (Ouyang et al. 2022, arXiv:2203.02155); it needs a causal reward model of the policy's
    architecture and tokenizer. "trunk": the policy's states, which cost neither memory nor time,
    and explain next to nothing of the score that is to come (docs/results/earlier.md)."""
    vf_coef: float = 1.0
    """Weight of the value loss; at 0 the values stay as they begin."""
    ent_coef: float = field(default=0.0, metadata={"flag": ""})
    """Weight of the entropy bonus."""
    kl_coef: float = 0.05
    """Penalty per nat of KL to the reference, reward units; the first value if adaptive."""
    kl_in: KlPlace = field(default="reward", metadata={"flag": ""})
    """"reward": each token's KL is subtracted from its reward, so that a token answers for the KL
    after it too (Ziegler et al. 2019). With "vineppo" it answers only for the KL up to the end of
    its segment; where each token is paid by itself, that is the price of "loss" with more noise.
    "loss": kl_coef times its mean is added to the loss and differentiated, which leaves out the KL
    that a token leads to (GRPO)."""
    kl_estimator: KlEstimator = "exact"
    """"exact" over the vocabulary, without sampling noise, or "k1", "k2", "k3" of the sampled
    tokens (see `losses.kl_estimate`). In the reward: "exact", whose direct gradient, that of the KL
    in each state, is added to the loss, or "k1", which takes no further pass of the models. An
    estimator that scales its advantages does not scale that gradient: "grpo", and "turn-returns"
    and "turn-auxiliary" of tokengym-lab, divide by a deviation, so take "loss" there; with
    "dr-grpo", whose advantages are (N - 1) / N of those of "rloo" for N responses, it costs
    N / (N - 1) times ``kl_coef``, in the loss too. In the loss: "exact" or "k2", or "k3" (GRPO),
    whose gradient on the policy's own samples is that of KL(reference || policy). Comparison:
    docs/results/earlier.md."""
    kl_target: float | None = None
    """KL per episode (nats), as it is paid and logged, that an adaptive coefficient aims at; None
    keeps it fixed."""
    kl_horizon: float = 10_000
    """Episodes over which the adaptive coefficient corrects itself; it needs ``kl_target``."""
    n_value_warmup: int = field(default=0, metadata={"flag": ""})
    """Updates at the start in which the value head alone learns, with its own network if it has
    one. A linear ``learning_rate_schedule`` counts them, so that the policy begins at less than
    ``learning_rate``: at two thirds of it after a third of the training. Under "constant" it
    begins at the whole."""
    target_kl: float | None = field(default=None, metadata={"flag": ""})
    """Ends an update early when the policy moved 1.5 times this (nats per token). The log has the
    share of gradient steps that it left out, train/steps_skipped; 0 says that it did not bind."""
    max_grad_norm: float = field(default=1.0, metadata={"flag": ""})
    """Longer gradients are scaled down to this."""
    micro_batch_size: int | None = None
    """Most sequences in one forward; changes memory and time, not the gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in CHOICES.items():
            check_choice(self, name, choices)
        for place in ("advantage", "weights", "loss"):
            word = getattr(self, place)
            if callable(word):  # settings are plain data
                object.__setattr__(self, place, word := word_of(word))
            if not isinstance(word, str) and (place != "weights" or word is not None):
                raise SettingsError(f"{place} must be a name or function, got {word!r}")
        check_count(self, "n_epochs", "n_minibatches", most=MAX_PASSES)
        check_count(
            self, "group_size", least=2, optional=True, hint="a group of one has no baseline"
        )
        for name in ("clip_range", "clip_range_vf"):
            if not callable(getattr(self, name)):
                check_number(self, name, above=0.0, optional=name == "clip_range_vf")
        check_number(self, "clip_range_high", above=0.0, optional=True)
        check_count(self, "n_value_warmup", "n_warmup_updates", least=0)
        check_count(self, "micro_batch_size", optional=True)
        check_number(self, "gamma", least=0.0, most=1.0)
        check_number(self, "gae_lambda", "gae_lambda_vf", least=0.0, most=1.0, optional=True)
        check_number(self, "ent_coef", finite=True, hint="0 leaves it out")
        check_number(self, "vf_coef", "kl_coef", "std_floor", least=0.0, finite=True)
        # An estimator has to carry the KL's gradient where it stands.
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise SettingsError(
                "kl_estimator='k1' with kl_in='loss' has a gradient of mean 0 and holds nothing "
                "back; take kl_estimator='exact', or kl_in='reward'"
            )
        if self.kl_in == "reward" and self.kl_estimator in ("k2", "k3"):
            raise SettingsError(
                f"kl_estimator={self.kl_estimator!r} with kl_in='reward' lacks the KL's direct "
                "gradient; take 'k1' or 'exact' there, or kl_in='loss'"
            )
        check_number(self, "target_kl", above=0.0, optional=True)
        check_number(self, "kl_target", above=0.0, finite=True, optional=True)
        check_number(self, "kl_horizon", "max_grad_norm", above=0.0)
        if self.kl_target is not None and self.kl_coef == 0.0:
            raise SettingsError(
                f"kl_target={self.kl_target} has no effect with kl_coef=0, which stays 0 whatever "
                "it is multiplied by; pass a first kl_coef above 0"
            )


NEEDS = {
    "critic": "with advantage={!r}, which has no critic; leave it out, or take advantage='gae'",
    "lambda": "with advantage={!r}, which has a lambda of its own; leave it out, or take "
    "advantage='gae'",
    "group_size": "without group_size; pass both, or neither",
    "gamma": "with advantage={!r}, which reads none; leave it out, or load an agent that was saved "
    "with it by load(path, gamma=1.0)",
    "std_floor": "with advantage={!r}, which reads none; leave it out",
    "clip_range": "with a loss that reads none; leave it out",
    "clip_range_high": "with a loss that reads none; leave it out",
    "kl_target": "without kl_target; pass both, or neither",
}
"""What a variant of PPO may need, with the end of the error where it lacks it."""
VARIANTS = {
    "gamma": ("gamma",),
    "gae_lambda": ("critic", "lambda"),
    "gae_lambda_vf": ("critic",),
    "value_network": ("critic",),
    "vf_coef": ("critic",),
    "clip_range_vf": ("critic",),
    "n_value_warmup": ("critic",),
    "drop_equal_groups": ("group_size",),
    "std_floor": ("group_size", "std_floor"),
    "clip_range": ("clip_range",),
    "clip_range_high": ("clip_range_high",),
    "kl_horizon": ("kl_target",),
}
"""Settings of `PPOSettings` that are refused without what they need: they would do nothing."""
CRITIC_SETTINGS = tuple(name for name, needs in VARIANTS.items() if "critic" in needs)
"""Those that do nothing without a critic."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of one update, with its schedules and what papers change of PPO's resolved."""

    clip_range: tuple[float, float]
    """Largest moves of the probability ratio down and up; DAPO's differ."""
    clip_range_vf: float | None
    """Largest move of a value, reward units; None does not clip."""
    ent_coef: float
    vf_coef: float
    kl_coef: float
    """Price of a nat in the loss; 0 where all of it is in the reward."""
    kl_estimator: str
    """"exact", or "k2", or GRPO's "k3"."""
    loss_mean: str
    """"token", or GRPO's "sequence", or Dr. GRPO's "constant"."""
    values_alone: bool
    """Whether this is one of the ``n_value_warmup`` updates."""
    reads_values: bool
    """Whether the policy's pass gives the values too; a network of their own is read apart."""


CRITIC_FREE = {
    "reinforce": "the reward to go of each token, without a baseline",
    "reinforce++": "the reward to go of each token, whitened over the batch",
    "vineppo": "the reward of each token, or of its segment, for rules such as mc",
    "rloo": "scores minus the mean of the other responses to the prompt",
    "grpo": "scores standardised among the responses to the prompt",
    "dr-grpo": "scores minus the mean of the responses to the prompt",
    "loo": "the reward to go minus that of the prompt's other responses at the same token",
}
"""Advantage estimators that are learners by name, with a line about each."""
UNDISCOUNTED = ("rloo", "grpo", "dr-grpo")
"""Those of them that read no ``gamma``."""
