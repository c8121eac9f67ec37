"""The gradient check of a credit rule and an advantage estimator, on a small Oracle.

Three words and three tokens make 40 responses (27 without EOS): few enough to enumerate every group
of four. Scores are the rule's own, and the true gradient is that of their expectation. Batches are
taken to be large: whitening scales by the policy's own mean and deviation, and a mean over the
tokens of a batch divides by the expected length.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from tokengym.agents import losses
from tokengym.agents.ppo import (
    ADVANTAGES,
    OF_MASK,
    OF_SETTINGS,
    Estimator,
    PPOSettings,
    RoundInputs,
    Weights,
    find_advantage,
)
from tokengym.envs import Episode, SettingsError, encode_contents
from tokengym.evaluation.measure import task_reward
from tokengym.lab.envs.oracle.env import PROMPT
from tokengym.lab.envs.oracle.score import WORDS
from tokengym.lab.gradients.exact import (
    GradientCheck,
    Responses,
    centred_steps,
    check_gradient,
    every_response,
    per_index_mean,
    prime,
    response_probs,
    true_gradient,
    values_to_come,
)
from tokengym.rewards import Reward

SMALL_WORDS = ("film", "good", "not")
HORIZON = 3
GROUP_SIZE = 4
OF_GROUP = frozenset({"advantages", "token_rewards", "scores", "paid", "group_ids"})
"""Names that a group of enumerated responses has."""
LARGE = 2**16
"""Responses of a large batch."""
SAMPLES = 100_000
"""Groups drawn where there are too many to enumerate."""


CONTROLS = {
    "prime": prime,
    "centred-steps": centred_steps,
    "per-index-mean": per_index_mean,
}
"""Published constructions that are biased, by name; no learner has them: Cui et al. 2025,
arXiv:2502.01456; Shao et al. 2024, arXiv:2402.03300, 4.1.3; that of verl's issue 7244."""


def find_estimator(name: str) -> Estimator:
    """Return an estimator: a learner's, a control, or one of a file of the user's own.

    Args:
        name: As ``PPO(advantage=...)`` takes it, a name of `CONTROLS`, or a function of
            named inputs as "path/to/file.py:name".
    """
    return find_advantage(CONTROLS.get(name, name))


def estimator_names() -> list[str]:
    """Return the names of the learners' estimators and of the controls."""
    return [*ADVANTAGES, *CONTROLS]


@dataclass(frozen=True, kw_only=True)
class SmallOracle:
    """An Oracle of few words, with every response that it allows."""

    oracle: Any
    """The environment."""
    legal: Tensor
    """(states, vocab) bool."""
    responses: Responses
    """All responses."""
    episodes: tuple[Episode, ...]
    """The same as episodes, unscored."""

    @classmethod
    def make(
        cls,
        *,
        ends: bool = True,
        words: Sequence[str] = SMALL_WORDS,
        horizon: int = HORIZON,
    ) -> "SmallOracle":
        """Return the Oracle of the given words.

        Args:
            ends: Whether EOS may end a response; otherwise each has the same length.
            words: Words of the Oracle that are legal.
            horizon: Longest response, tokens.
        """
        oracle: Any = gym.make("tokengym/Oracle-v0", **cls.settings(ends, words, horizon)).unwrapped
        legal = torch.from_numpy(oracle.legal_tokens.copy())
        tokenizer = oracle.tokenizer
        responses = every_response(
            oracle.states, legal, eos_id=tokenizer.eos_token_id, horizon=horizon
        )
        episodes = tuple(as_episodes(responses.ids, PROMPT, tokenizer))
        return cls(oracle=oracle, legal=legal, responses=responses, episodes=episodes)

    @staticmethod
    def settings(
        ends: bool = True, words: Sequence[str] = SMALL_WORDS, horizon: int = HORIZON
    ) -> dict[str, Any]:
        """Return the arguments of ``gym.make`` that make the environment, without a reward."""
        first_word = 3  # after <pad>, <eos> and <unk>
        left_out = [first_word + i for i, word in enumerate(WORDS) if word not in words]
        return {
            "max_new_tokens": horizon,
            "min_new_tokens": 0 if ends else horizon,
            "forbidden_token_ids": left_out,
            "reward": None,
        }

    def true_scores(self) -> Tensor:
        """Return the Oracle's score of each response, (responses,)."""
        from tokengym.lab.envs.oracle.score import oracle_score

        rules = self.oracle.rules
        scores = [oracle_score(episode.response.split(), rules) for episode in self.episodes]
        return torch.tensor(scores, dtype=torch.float64)

    def probs(self, logits: Tensor) -> Tensor:
        """Return the policy (states, vocab) of a table of logits; 0 at illegal tokens."""
        return logits.masked_fill(~self.legal, -torch.inf).softmax(-1)

    def figures(self, probs: Tensor) -> dict[str, Tensor]:
        """Return what a policy (states, vocab) knows of each token, (responses, time) in nats."""
        states, tokens = self.responses.states, self.responses.tokens
        logs = probs.clamp(min=1e-300).log()
        return {
            "log_probs": logs[states].gather(-1, tokens[..., None])[..., 0],
            "entropy": -(probs * logs).sum(1)[states],
        }

    def rewarded(
        self, reward: Reward, *, centre: Tensor | None = None, probs: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return token rewards (responses, time) and scores (responses,) under a rule.

        Args:
            reward: Scorer and rule.
            centre: (responses,) probabilities; the scores' mean under them is subtracted before
                the rule spreads them, as ``normalize="batch"`` does in training.
            probs: (states, vocab) of the policy, for a rule that reads what it knows.
        """
        bound = reward.bind(self.oracle.tokenizer)
        episodes = self.episodes
        if probs is not None:
            log_probs, entropy = (v.numpy() for v in self.figures(probs).values())
            sizes = [len(episode.response_ids) for episode in episodes]
            episodes = tuple(
                replace(e, log_probs=log_probs[row, :size], entropy=entropy[row, :size])
                for row, (e, size) in enumerate(zip(episodes, sizes, strict=True))
            )
        scored = bound.evaluate(episodes)
        assert all(e.score is not None for e in scored)
        scores = torch.tensor([e.score for e in scored], dtype=torch.float64)
        if centre is not None:
            mean = float((centre * scores).sum())
            scored, scores = shifted(bound, -mean).evaluate(episodes), scores - mean
        rewards = torch.zeros(self.responses.mask.shape, dtype=torch.float64)
        for row, episode in enumerate(scored):
            assert episode.token_rewards is not None
            rewards[row, : len(episode.response_ids)] = torch.from_numpy(
                episode.token_rewards.astype("float64")
            )
        return rewards, scores


def as_episodes(responses: Iterable[Sequence[int]], prompt: str, tokenizer: Any) -> list[Episode]:
    """Return responses to one prompt as episodes, unscored."""
    return [
        Episode(
            prompt=prompt,
            response=tokenizer.decode(ids, skip_special_tokens=True),
            prompt_ids=encode_contents(tokenizer, [prompt], add_special_tokens=True)[0],
            response_ids=ids,
        )
        for ids in responses
    ]


def shifted(reward: Reward, by: float) -> Reward:
    """Return a rule that spreads the same score with a number added to it."""
    scorer: Any = reward.scorer
    return Reward(scorer + by, reward.credit, tokenizer=reward.tokenizer)


def rule_of(name: str) -> Reward:
    """Return a reward of the Oracle by name, or of a file of the user's own."""
    return task_reward("Oracle", {"reward": name})[0]


def gradient_of(
    small: SmallOracle,
    probs: Tensor,
    rewards: Tensor,
    scores: Tensor,
    estimator: str | Estimator,
    *,
    group_size: int = GROUP_SIZE,
    critic: bool = True,
    weights: Tensor | str | None = None,
    seed: int = 0,
) -> GradientCheck:
    """Return an estimator's expected gradient under a rule, beside the true one.

    An estimator that needs no groups and reads other rows gets a large batch of the policy's;
    whitening is left to its declaration.

    Args:
        small: The task.
        probs: (states, vocab) of the policy.
        rewards: (responses, time) token rewards of the rule.
        scores: (responses,) that the rule spreads.
        estimator: Estimator, or its name (`find_estimator`).
        group_size: Responses of a group, for an estimator that needs groups.
        critic: Whether an estimator that needs a critic gets the exact values of the rule's reward
            to go; otherwise values of 0, those of an untrained critic.
        weights: Weight on the advantages by name, asked of each group with its advantages, or
            (responses, time) factors; None is 1 everywhere.
        seed: Seed of the drawing.
    """
    if isinstance(estimator, str):
        estimator = find_estimator(estimator)
    responses, mask = small.responses, small.responses.mask
    chances = response_probs(probs, responses)
    lengths = mask.sum(1).to(probs.dtype)
    figures = small.figures(probs)
    weight = _enumerated(weights, figures) if isinstance(weights, str) else None
    weighed = partial(_weighed, weight, figures)
    factors = weights if isinstance(weights, Tensor) else torch.ones_like(rewards)
    if estimator.loss_mean == "sequence":
        factors = factors * ((chances * lengths).sum() / lengths)[:, None]
    settings = PPOSettings(group_size=group_size if estimator.needs_groups else None)

    def advantages(rows: Tensor, values: Tensor | None = None) -> Tensor:
        r, m, s = rewards[rows], mask[rows], scores[rows]
        given = {"token_rewards": r, "scores": s, "final_values": torch.zeros_like(s)}
        if values is not None:
            given["values"] = values
        inputs = RoundInputs(m, given, settings=settings)
        found = estimator.estimate(inputs)[0]
        return weighed(found, inputs, rows) if estimator.needs_groups else found

    given = rewards
    if not estimator.needs_groups:
        values = None
        if estimator.needs_critic:
            values = torch.zeros_like(rewards)
            if critic:
                values = values_to_come(probs, responses, losses.rewards_to_go(rewards, mask))
        rows = torch.arange(len(mask)) if estimator.by_row else _large_batch(chances)
        first = torch.searchsorted(rows, torch.arange(len(mask)))
        told = None if values is None else values[rows]
        given = advantages(rows, told)
        if estimator.whitens:
            given = _whitened(given[first], mask, chances)[rows]
        alone = {"token_rewards": rewards[rows], "scores": scores[rows]}
        given = weighed(given, RoundInputs(mask[rows], alone, settings=settings), rows)[first]

    def by_number(numbers: Tensor, m: Tensor, s: Tensor) -> Tensor:
        del m, s
        rows = numbers[:, 0].long()
        return advantages(rows) if estimator.needs_groups else given[rows]

    return check_gradient(
        probs,
        responses,
        torch.arange(len(mask))[:, None].expand(mask.shape),
        scores,
        by_number,
        weights=factors,
        group_size=group_size if estimator.needs_groups else 1,
        samples=SAMPLES,
        seed=seed,
    )


def _enumerated(word: str, figures: Mapping[str, Tensor]) -> Weights:
    """Return a weight by name, or refuse one that reads what a table of states has not."""
    weight: Weights = Weights.find(word)
    known = {*OF_MASK, *OF_GROUP, *OF_SETTINGS, *figures}
    if missing := [*({*weight.reads} - known), *weight.signature.models]:
        raise SettingsError(
            f"weights {word!r} reads {missing[0]}, which a table of states lacks; it is not "
            "enumerated"
        )
    return weight


def _weighed(
    weight: Weights | None,
    figures: Mapping[str, Tensor],
    advantages: Tensor,
    inputs: RoundInputs,
    rows: Tensor,
) -> Tensor:
    """Return the advantages of some responses times the weight, which is asked with them."""
    if weight is None:
        return advantages
    for name, values in figures.items():
        inputs.give(name, values[rows])
    inputs.give("advantages", advantages)
    return advantages * weight.weigh(inputs)


def _large_batch(chances: Tensor) -> Tensor:
    """Return the numbers of a batch's responses, rising: each as often as it is likely, or once.

    What reads a whole batch sees the policy's own means there.
    """
    counts = (chances * LARGE).round().long().clamp(min=1)
    return torch.arange(len(chances)).repeat_interleave(counts)


def _whitened(advantages: Tensor, mask: Tensor, chances: Tensor) -> Tensor:
    """Return advantages whitened by their mean and deviation over the tokens that are written."""
    weight = chances[:, None] * mask
    weight = weight / weight.sum()
    mean = (weight * advantages).sum()
    deviation = (weight * (advantages - mean) ** 2).sum().sqrt().clamp(min=1e-8)
    return ((advantages - mean) / deviation).masked_fill(~mask, 0.0)


def policies_along(small: SmallOracle, scores: Tensor, *, shares: Sequence[float]) -> list[Tensor]:
    """Return policies of a training run: exact ascent of the expected score from the uniform one.

    Args:
        small: The task.
        scores: (responses,) to climb.
        shares: Shares of the way from the first expected score to the best, ascending from 0.

    Returns:
        One (states, vocab) per share: the first policy of the run that has come that far.
    """
    logits = torch.zeros(small.legal.shape, dtype=torch.float64)
    start = float((response_probs(small.probs(logits), small.responses) * scores).sum())
    best, snapshots = float(scores.max()), []
    for share in shares:
        while True:
            probs = small.probs(logits)
            reached = float((response_probs(probs, small.responses) * scores).sum())
            if reached >= start + share * (best - start):
                break
            logits = logits + true_gradient(probs, small.responses, scores)
        snapshots.append(probs)
    return snapshots
