"""`tokengym/Forks-v0`: a few tokens decide, a verifier judges, and every value is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from tokengym.base import Split, accepts_settings, check_choice, check_count, from_keywords
from tokengym.envs import (
    Bundle,
    Prompt,
    PromptSet,
    ResponseSettings,
    SettingsError,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    bundled,
)
from tokengym.lab.envs.enumerated import word_tokenizer
from tokengym.lab.envs.forks import families
from tokengym.lab.envs.forks.families import FAMILIES, FILLERS, FamilyName
from tokengym.lab.envs.forks.values import (
    PolicyProbs,
    Prefix,
    PrefixTable,
    PrefixTree,
    PrefixValues,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = (
    *("<pad>", "<eos>", "<unk>", *FAMILIES, "from", "to", ":", ",", families.GO, families.ANY),
    *(families.AGAIN, *FILLERS, families.KEEP, *families.ROOMS, *families.BRACKETS),
    *families.NUMBERS,
)
LONGEST_LEARNT = 128
"""Tokens of prompt and response that the bundled models read."""
PROMPTS = 256
"""Prompts of each split."""
_PROMPT_SEED = 2609


@lru_cache(maxsize=1)
def forks_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: one token per word, built in memory, one for the process."""
    return word_tokenizer(VOCABULARY)


@dataclass(frozen=True, kw_only=True)
class ForksSettings(ResponseSettings):
    """`ResponseSettings` with the knobs of the task."""

    max_new_tokens: int = 16
    """Length of every response, tokens: the decisions, and fillers in between."""
    family: FamilyName = "brackets"
    """"maze" (rooms and doors), "countdown" (to 0 in steps of 1, 2 and 3) or "brackets" (the blanks
    of a balanced sequence)."""
    decisions: int = 3
    """Decisions of the family, each of which may spoil the response."""
    recoverable: int = 0
    """Questions that are asked a second time, so that a wrong fork can be corrected."""
    distractors: int = 1
    """Decisions that change nothing: only the prompt tells them from the others."""
    fillers: int | None = None
    """Fillers before each decision, which sets ``max_new_tokens``; None fills that evenly."""
    filler_words: int = len(FILLERS)
    """Words that a filler may be; with 1 fillers are forced."""

    def __post_init__(self) -> None:
        check_choice(self, "family", FAMILIES)
        check_count(self, "decisions", most=families.MAX_DECISIONS, hint="0 would be trivial")
        check_count(self, "distractors", least=0)
        check_count(
            self, "recoverable", least=0, most=self.decisions, hint="each is one of the decisions"
        )
        check_count(self, "fillers", least=0, optional=True)
        check_count(self, "filler_words", most=len(FILLERS))
        if self.fillers is not None:
            length = self.asked * (self.fillers + 1)
            if self.max_new_tokens not in (length, ForksSettings.max_new_tokens):
                raise SettingsError(
                    f"fillers={self.fillers} makes responses of {length} tokens, got "
                    f"max_new_tokens={self.max_new_tokens} beside it; leave one out"
                )
            object.__setattr__(self, "max_new_tokens", length)
        super().__post_init__()
        if self.max_new_tokens < self.asked:
            raise SettingsError(
                f"max_new_tokens={self.max_new_tokens} is unsolvable: decisions={self.decisions}, "
                f"recoverable={self.recoverable} and distractors={self.distractors} take "
                f"{self.asked} tokens; raise it to that, or lower these"
            )

    @property
    def asked(self) -> int:
        """Positions of a response at which something is decided, or seems to be."""
        return self.decisions + self.recoverable + self.distractors

    @property
    def decides(self) -> NDArray[np.bool_]:
        """(max_new_tokens,): the positions of the decisions; each ends a stretch of fillers."""
        ends = np.arange(1, self.asked + 1) * self.max_new_tokens // self.asked
        return np.isin(np.arange(1, self.max_new_tokens + 1), ends)


class ForksValues:
    """The exact values of both Forks environments.

    A state is the response so far, a tuple of token ids; the prompt is named beside it, by its id
    or its text. Values are of the verifier's verdict as return, undiscounted, whatever reward the
    environment was made with.
    """

    _mdp: Any
    _knobs: ForksSettings

    @property
    def knobs(self) -> ForksSettings:
        """Knobs of the task."""
        return self._knobs

    def prefixes(self, prompt: int | str = 0) -> PrefixTree:
        """Return all responses to a prompt of the set (by id), or to any other (by text)."""
        text = prompt if isinstance(prompt, str) else self._mdp.table.lookup(prompt).text
        if len(families.read(text).layers) != self._knobs.asked:
            raise SettingsError(
                f"prompt {text!r} asks for {len(families.read(text).layers)} decisions, and a "
                f"response has room for {self._knobs.asked}; pass the knobs that it was made with"
            )
        legal = np.stack([self._mdp.action_mask(t) for t in range(len(self._knobs.decides))])
        return _tree(text, legal.astype(bool).tobytes(), self._knobs.decides.tobytes())

    def states(self, prompt: int | str = 0) -> tuple[Prefix, ...]:
        """Return the prefixes that can still be solved: the order of ``policy_probs``."""
        return self.prefixes(prompt).states

    def optimal_values(self, prompt: int | str = 0) -> PrefixValues:
        """Return V* and Q*: 1 where a prefix can still be solved, else 0.

        They come by dynamic programming on the automaton, for any number of decisions and fillers.
        ``optimal_values(prompt).advantages.along(response_ids)`` is -1 at the token that lost the
        response, and 0 everywhere else.
        """
        return self.prefixes(prompt).optimal

    def policy_values(
        self, policy_probs: PolicyProbs | None = None, prompt: int | str = 0
    ) -> PrefixValues:
        """Return V and Q of a policy, by enumeration of the prefixes that can still be solved.

        Args:
            policy_probs: A function or a mapping from prefix to (vocab,) probabilities, or an array
                (states, vocab) in the order of ``states(prompt)``, as
                `tokengym.agents.policy_table` gives it. None is uniform over the legal tokens.
            prompt: Id or text of the prompt.
        """
        return self.prefixes(prompt).under(policy_probs)

    def exact_advantages(
        self, policy_probs: PolicyProbs | None = None, prompt: int | str = 0
    ) -> PrefixTable:
        """Return the advantages A = Q - V of every token under a policy; see `policy_values`.

        Returns:
            ``advantages[prefix]`` (vocab,), NaN at illegal tokens. ``advantages.along(ids)`` (n,)
            is the gold credit of a response: it sums to the score minus the prompt's value.
        """
        return self.policy_values(policy_probs, prompt).advantages


class ForksEnv(ForksValues, TokenGenerationEnv):
    """Verifiable tasks in which a few known tokens decide.

    ## Description
    The prompt describes a small automaton in one of three families: a maze of rooms and doors with
    an exit, a countdown to 0 in steps of 1, 2 and 3, or a bracket sequence with blanks. The
    response is a list of decisions with fillers before each; a verifier gives 1 if they solve the
    task, else 0. Distractors look like decisions and change nothing. The position alone says
    whether a decision or a filler is legal.

    One wrong decision makes all others worthless. `optimal_values` says for every prefix whether it
    can still be solved, and `exact_advantages` what each token is worth to a policy.

    The bundled models read up to 128 tokens of prompt and response together.

    ## Rewards
    0 at every step here: the registered id adds the verdict of
    `tokengym.lab.envs.forks.families.verify`.

    ## Arguments
    Prompts are drawn by the knobs: 256 for training and 256 others for ``split="test"``, fewer
    where there are not so many.

    Args:
        split: "train", "test" or "all" of the prompts.
        prompts: Prompts of one's own, in the families' form, in place of those that are drawn.
        render_mode: "ansi", "human" or "html".
        generation: Fields of `ForksSettings`.

    Example:
        >>> env = ForksEnv(family="countdown", decisions=2, distractors=0, fillers=1)
        >>> _, info = env.reset(options={"prompt": "countdown from 5 : go go"})
        >>> values, q_values = env.optimal_values(info["prompt"])
        >>> well, one, two = env.tokenizer.convert_tokens_to_ids(["well", "1", "2"])
        >>> values[(well, two)], values[(well, one)]  # from 4 nothing leads to 0 in one step
        (1.0, 0.0)
    """

    @accepts_settings(ForksSettings)
    def __init__(
        self,
        *,
        split: Split = "train",
        prompts: PromptSet | Sequence[str | Prompt] | None = None,
        render_mode: str | None = None,
        **generation: Any,
    ) -> None:
        self._knobs = from_keywords(ForksSettings, generation, owner="ForksEnv")
        super().__init__(**_arguments(self._knobs, split, prompts), render_mode=render_mode)
        _check_solvable(self, own_prompts=prompts is not None)


class ForksVectorEnv(ForksValues, TokenGenerationVectorEnv):
    """A batch of `ForksEnv`, as `TokenGenerationVectorEnv` is a batch of `TokenGenerationEnv`.

    Args:
        num_envs: Rows of the batch.
        autoreset_mode: See `TokenGenerationVectorEnv`.
        copy: See `TokenGenerationVectorEnv`.
        split: See `ForksEnv`.
        prompts: See `ForksEnv`.
        render_mode: "ansi" or "html".
        generation: Fields of `ForksSettings`.
    """

    @accepts_settings(ForksSettings)
    def __init__(
        self,
        *,
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        split: Split = "train",
        prompts: PromptSet | Sequence[str | Prompt] | None = None,
        render_mode: str | None = None,
        **generation: Any,
    ) -> None:
        self._knobs = from_keywords(ForksSettings, generation, owner="ForksVectorEnv")
        super().__init__(
            num_envs=num_envs,
            autoreset_mode=autoreset_mode,
            copy=copy,
            render_mode=render_mode,
            **_arguments(self._knobs, split, prompts),
        )
        _check_solvable(self, own_prompts=prompts is not None)


def _arguments(
    knobs: ForksSettings, split: Split, prompts: PromptSet | Sequence[str | Prompt] | None
) -> dict[str, Any]:
    """Return the arguments of the generic environment that make it this task."""
    ids = {word: position for position, word in enumerate(VOCABULARY)}
    decisions = tuple(sorted(ids[symbol] for symbol in families.symbols(knobs.family)))
    fillers = tuple(sorted(ids[word] for word in FILLERS[: knobs.filler_words]))
    generation = {name: getattr(knobs, name) for name in ResponseSettings.__dataclass_fields__}
    if prompts is None:
        drawing = (knobs.family, knobs.decisions, knobs.recoverable, knobs.distractors)
        prompts = _drawn(*drawing, split)
    return {
        **generation,
        "tokenizer": forks_tokenizer(),
        "prompts": prompts,
        "bundle": _models(knobs),
        "forbidden_token_ids": (ids["<eos>"], *knobs.forbidden_token_ids),
        "allowed_token_ids": tuple(decisions if here else fillers for here in knobs.decides),
    }


@lru_cache(maxsize=64)
def _drawn(
    family: FamilyName, decisions: int, recoverable: int, distractors: int, split: Split
) -> PromptSet:
    """Return the prompts of a split: of all distinct ones every other, so that none is in both."""
    rng = np.random.default_rng(_PROMPT_SEED)
    texts: dict[str, None] = {}
    for _ in range(8 * PROMPTS):
        if len(texts) < 2 * PROMPTS:
            knobs = {"decisions": decisions, "recoverable": recoverable, "distractors": distractors}
            texts[families.write(family, rng, **knobs)] = None
    chosen = {"train": slice(0, None, 2), "test": slice(1, None, 2), "all": slice(None)}[split]
    return PromptSet([Prompt(text, families.solution(text)) for text in list(texts)[chosen]])


def _models(knobs: ForksSettings) -> Bundle:
    """Return the bundled models, without those that cannot read so long a text."""
    models = bundled("forks")
    longest = 3 * families.MAX_DECISIONS + knobs.asked + knobs.max_new_tokens
    return models.without("policy", "reward_model") if longest > LONGEST_LEARNT else models


def _check_solvable(env: ForksEnv | ForksVectorEnv, *, own_prompts: bool) -> None:
    """Refuse prompts that have no solution, or none of legal tokens; drawn ones always have.

    Args:
        env: Environment.
        own_prompts: Whether its prompts are the caller's.
    """
    if not own_prompts and not env.knobs.forbidden_token_ids:
        return
    for number in range(len(env.prompts)):
        tree = env.prefixes(number)
        families.solution(env.prompts[number].text)
        if not tree.best_layers[0].values.get(tree.automaton.start):
            raise SettingsError(
                f"forbidden_token_ids={list(env.knobs.forbidden_token_ids)} make prompt "
                f"{env.prompts[number].text!r} unsolvable; allow the symbols of {env.knobs.family}"
            )


@lru_cache(maxsize=512)
def _tree(prompt: str, legal: bytes, decides: bytes) -> PrefixTree:
    """Return the tree of a prompt; environments of the same settings share it."""
    positions = np.frombuffer(decides, dtype=bool)
    shape = (len(positions), len(VOCABULARY))
    return PrefixTree(
        families.read(prompt),
        VOCABULARY,
        np.frombuffer(legal, dtype=bool).reshape(shape),
        positions,
    )
