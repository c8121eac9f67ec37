"""`tokengym/Oracle-v0`: a task small enough for the exact value of every token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from tokengym.base import accepts_settings, did_you_mean, from_keywords
from tokengym.envs import (
    Bundle,
    ResponseSettings,
    SettingsError,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    bundled,
)
from tokengym.lab.envs.enumerated import word_tokenizer
from tokengym.lab.envs.oracle.dynamic_programming import FloatArray
from tokengym.lab.envs.oracle.score import RULES, WORDS, Rule, oracle_score, removal_effects
from tokengym.lab.envs.oracle.values import (
    ExactValues,
    PolicyProbs,
    Responses,
    ResponseTree,
    State,
    StateTable,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_VOCABULARY = ("<pad>", "<eos>", "<unk>", *WORDS)
_ILLEGAL_IDS = (0, 2)
"""Padding and the unknown word: no response has them unless an agent ignores the action mask."""
PROMPT = "the"
MAX_NEW_TOKENS = 6
LONGEST_LEARNT = 8
"""Longest response that the bundled models know, tokens."""
MAX_RESPONSES = 2_000_000
"""Largest table: 8 tokens of 6 words take seconds and some 100 MB."""


@lru_cache(maxsize=1)
def oracle_tokenizer() -> PreTrainedTokenizerFast:
    """Return the Oracle's tokenizer: one token per word, built in memory, one for the process."""
    return word_tokenizer(_VOCABULARY)


@dataclass(frozen=True, kw_only=True)
class OracleSettings(ResponseSettings):
    """`ResponseSettings` with the Oracle's horizon."""

    max_new_tokens: int = MAX_NEW_TOKENS
    """Horizon, tokens; exact values take 8 at most."""


class OracleValues:
    """The exact values of both Oracle environments.

    A state is the response so far, a tuple of token ids; the empty response is ``()``. There are
    as many as there are responses shorter than ``max_new_tokens`` of the six words. Values are
    of the true score as return, undiscounted, whatever reward the environment was made with.
    """

    _mdp: Any
    _rules: tuple[Rule, ...]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Rules of the score that apply."""
        return self._rules

    @property
    def states(self) -> tuple[State, ...]:
        """All states, shorter ones first: the order of every array of values."""
        return self._tree().states

    @property
    def legal_tokens(self) -> NDArray[np.bool_]:
        """(states, vocab): the tokens that are legal in each state."""
        return self._tree().legal

    def optimal_values(self) -> ExactValues:
        """Return V* and Q*, the values of the best play.

        Returns:
            ``(values, q_values)``: ``values[state]`` is a float and ``q_values[state]`` an array
            (vocab,) with NaN at illegal tokens; ``values.array`` (states,) and ``q_values.array``
            (states, vocab) hold all of them in the order of ``states``. ``.advantages`` is their
            difference: 0 for a best token, negative for any other.
        """
        return self._tree().optimal

    def kl_optimal_values(self, reference: PolicyProbs, *, kl_coef: float) -> ExactValues:
        """Return the values of the policy that is best by score - kl_coef * KL to a reference.

        That policy is ``reference * exp(advantages / kl_coef)`` in each state; see
        `kl_optimal_policy`. ``values[()]`` is the most that any policy can reach, and a policy's
        gap to it is kl_coef * KL(policy || best policy), over whole responses.

        Args:
            reference: As ``policy_probs`` of `policy_values`.
            kl_coef: Price of a nat of KL, score units, above 0.

        Example:
            >>> env = OracleEnv(max_new_tokens=3)
            >>> uniform = env.legal_tokens / env.legal_tokens.sum(1, keepdims=True)
            >>> round(env.kl_optimal_values(uniform, kl_coef=0.01).values[()], 2)  # 2 - .01 KL
            1.94
            >>> round(env.kl_optimal_values(uniform, kl_coef=1e4).values[()], 3)  # the reference's
            0.022
        """
        if not kl_coef > 0.0:
            raise SettingsError(
                f"kl_coef must be above 0, got {kl_coef}; optimal_values() has no price on the KL"
            )
        return self._tree().soft_optimal(reference, kl_coef)

    def kl_optimal_policy(self, reference: PolicyProbs, *, kl_coef: float) -> FloatArray:
        """Return the policy that is best by score - kl_coef * KL, (states, vocab).

        pi(a | s) = reference(a | s) exp((Q(s, a) - V(s)) / kl_coef)
        """
        best = self.kl_optimal_values(reference, kl_coef=kl_coef)
        probs = self._tree().probabilities(reference)
        # A token that the reference never writes has an advantage past all bounds at a small price.
        exponents = np.where(probs > 0, best.advantages.array / kl_coef, 0.0)
        return probs * np.exp(exponents)

    def policy_values(
        self,
        policy_probs: PolicyProbs | None = None,
        *,
        reference: PolicyProbs | None = None,
        kl_coef: float = 0.0,
    ) -> ExactValues:
        """Return V and Q of a policy, in the form of `optimal_values`.

        Args:
            policy_probs: A function or a mapping from state to (vocab,) probabilities, or an array
                (states, vocab) in the order of ``states``. Illegal tokens have none. None is the
                policy that is uniform over the legal tokens.
            reference: Policy to which the KL is measured, in the same forms; None has no KL.
            kl_coef: Price of a nat of that KL, score units; V is then that of score - price * KL.
        """
        return self._tree().under(policy_probs, reference, kl_coef)

    def responses(self, policy_probs: PolicyProbs | None = None) -> Responses:
        """Return all responses, their scores, and a policy's probability of writing each.

        Args:
            policy_probs: See `policy_values`.

        Example:
            >>> every = OracleEnv(max_new_tokens=3).responses()
            >>> round(float(every.probs @ every.scores), 3)  # the value of the empty response
            0.022
        """
        return self._tree().responses(policy_probs)

    def exact_advantages(self, policy_probs: PolicyProbs | None = None) -> StateTable:
        """Return the advantages A = Q - V of every token under a policy.

        Returns:
            ``advantages[state]`` (vocab,), NaN at illegal tokens; ``advantages.array`` (states,
            vocab). ``advantages.along(info["response_ids"])`` (n,) is the gold credit of an
            episode: it sums to the score minus the value of the empty response.
        """
        return self.policy_values(policy_probs).advantages

    def removal_effects(self, response_ids: Sequence[int]) -> FloatArray:
        """Return the decrease of the true score when one token is removed.

        Tokens with a non-zero effect are the ones that a reward model's attention or a credit rule
        should find, whatever the policy. For credit that depends on the policy see
        `exact_advantages`.

        Args:
            response_ids: (n,) as in ``info["response_ids"]``.

        Returns:
            (n,) reward units; 0 for EOS.
        """
        ids = [int(token) for token in response_ids]
        eos_id = self._mdp.eos_id
        words = [_VOCABULARY[token] for token in ids if token != eos_id]
        effects = iter(removal_effects(words, self._rules))
        return np.array([0.0 if token == eos_id else next(effects) for token in ids])

    def _tree(self) -> ResponseTree:
        eos_id, horizon = self._mdp.eos_id, self._mdp.settings.max_new_tokens
        legal = self._mdp.action_mask(horizon)
        tokens = tuple(int(token) for token in np.flatnonzero(legal) if token != eos_id)
        end_from = self._mdp.settings.min_new_tokens if legal[eos_id] else horizon
        responses = len(tokens) ** horizon
        if responses > MAX_RESPONSES:
            raise SettingsError(
                f"max_new_tokens={horizon} makes {responses:,} responses, more than the "
                f"{MAX_RESPONSES:,} of an exact table; lower it to 8 or less"
            )
        return _tree(self._rules, tokens, end_from, horizon)


class OracleEnv(OracleValues, TokenGenerationEnv):
    """Writing up to six words whose value is known exactly.

    ## Description
    Six words, three rules. "good" counts +1 and "bad" -1/2, but "not" inverts the opinion
    right after it (negation), "but" cancels everything before it (selection), and an opinion counts
    only after "film" (order); "the" does nothing. The value of a token depends on its context, and
    yet the whole tree of responses is small enough for dynamic programming: `optimal_values` gives
    V* and Q*, `exact_advantages` those of any policy, against which a credit rule or a critic can
    be held. The one prompt is "the"; ``<pad>`` and ``<unk>`` are illegal.

    The bundled models, for responses of up to 8 tokens, are a nearly uniform policy and a reward
    model that learned the score at every token of a text.

    ## Rewards
    0 at every step here: the registered id adds the score (`tokengym.lab.envs.oracle.score`).

    ## Arguments
    `rules` selects some of the three: with `rules=()` every word earns its own score in any
    position.

    Args:
        rules: Rules of the score that apply, from "negation", "selection" and "order".
        render_mode: "ansi", "human" or "html".
        generation: Fields of `OracleSettings`.

    Example:
        >>> env = OracleEnv(max_new_tokens=3)
        >>> values, q_values = env.optimal_values()
        >>> values[()]  # film good good
        2.0
        >>> film, good = env.tokenizer.convert_tokens_to_ids(["film", "good"])
        >>> [float(q_values[()][token]) for token in (film, good)]  # an opinion too early
        [2.0, 1.0]
        >>> advantages = env.exact_advantages()  # of the uniform policy
        >>> round(float(advantages[()][film]), 3)
        0.08
    """

    @accepts_settings(OracleSettings)
    def __init__(
        self, *, rules: Sequence[Rule] = RULES, render_mode: str | None = None, **generation: Any
    ) -> None:
        self._rules = _checked_rules(rules)
        arguments = _arguments(self._rules, generation, owner="OracleEnv")
        super().__init__(**arguments, render_mode=render_mode)


class OracleVectorEnv(OracleValues, TokenGenerationVectorEnv):
    """A batch of `OracleEnv`, as `TokenGenerationVectorEnv` is a batch of `TokenGenerationEnv`.

    Args:
        num_envs: Rows of the batch.
        autoreset_mode: See `TokenGenerationVectorEnv`.
        copy: See `TokenGenerationVectorEnv`.
        rules: See `OracleEnv`.
        render_mode: "ansi" or "html".
        generation: Fields of `OracleSettings`.
    """

    @accepts_settings(OracleSettings)
    def __init__(
        self,
        *,
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        rules: Sequence[Rule] = RULES,
        render_mode: str | None = None,
        **generation: Any,
    ) -> None:
        self._rules = _checked_rules(rules)
        super().__init__(
            num_envs=num_envs,
            autoreset_mode=autoreset_mode,
            copy=copy,
            render_mode=render_mode,
            **_arguments(self._rules, generation, owner="OracleVectorEnv"),
        )


def _arguments(
    rules: tuple[Rule, ...], generation: Mapping[str, Any], *, owner: str
) -> dict[str, Any]:
    """Return the arguments of the generic environment that make it the Oracle."""
    given = vars(from_keywords(OracleSettings, generation, owner=owner))
    return {
        "tokenizer": oracle_tokenizer(),
        "prompts": [PROMPT],
        "bundle": _models(rules, given["max_new_tokens"]),
        **given,
        "forbidden_token_ids": (*_ILLEGAL_IDS, *given["forbidden_token_ids"]),
    }


@lru_cache(maxsize=16)
def _tree(
    rules: tuple[Rule, ...], tokens: tuple[int, ...], end_from: int, horizon: int
) -> ResponseTree:
    """Return the tree of all responses; environments of the same settings share it."""
    return ResponseTree(
        tokens=tokens,
        eos_id=_VOCABULARY.index("<eos>"),
        end_from=end_from,
        horizon=horizon,
        vocab_size=len(_VOCABULARY),
        score=lambda ids: oracle_score([_VOCABULARY[i] for i in ids], rules),
    )


def _models(rules: tuple[Rule, ...], max_new_tokens: int) -> Bundle:
    """Return the bundled models, without those that were not trained for these settings."""
    models = bundled("oracle")
    if rules != RULES:
        models = models.without("reward_model", "gold")
    if max_new_tokens > LONGEST_LEARNT:
        models = models.without("reward_model", "policy")
    return models


def _checked_rules(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Return the rules in their usual order, refusing unknown ones."""
    if isinstance(rules, str):
        raise SettingsError(f"rules must be a sequence, got one str {rules!r}; put it in a list")
    for rule in rules:
        if rule not in RULES:
            hint = did_you_mean(str(rule), RULES, n=1) or f"they are {', '.join(RULES)}"
            raise SettingsError(f"the Oracle has no rule {rule!r}; {hint.rstrip()}")
    return tuple(rule for rule in RULES if rule in rules)
