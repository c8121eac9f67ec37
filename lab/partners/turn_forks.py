"""Forks over turns: the first word decides, the verdict comes with the last turn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from tokengym.base import check_choice, check_count, check_number
from tokengym.envs import Partner, Reply, TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.lab.envs.enumerated import word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = ("<pad>", "<eos>", "<unk>", "go", "left", "right", "um", "warm", "cold")
EOS, LEFT, RIGHT, UM = 1, 4, 5, 6
PROMPT = "go"
TURN_TOKENS = 3
"""Longest turn: a word, perhaps "um", and the end."""

TurnScores = Literal["turn", "state"]


class TurnForks(Partner):
    """Leads left or right by the first word, and says only at the end which it should have been.

    A turn is "left" or "right", perhaps with "um" after it. "left" in the first turn is right, and
    the replies are "warm" from then on; after "right" they are "cold". The last turn is told the
    verdict, 1 or 0. Each later turn adds ``bonus`` if it says "left".

    Args:
        turns: Turns of a conversation.
        bonus: What a later "left" adds to the score.
        scores: "turn" scores a turn by what it earned, the verdict at the end; "state" by how
            the conversation stands, as if the verdict were known at once.
        leaves: Whether "right" in a later turn ends the conversation with the verdict so far.

    Example:
        >>> talk = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "left um"}]
        >>> TurnForks().reply(talk, {}, np.random.default_rng(0))
        Reply(text='warm', score=0.0, done=False)
    """

    name = "turn-forks"

    def __init__(
        self,
        turns: int = 4,
        bonus: float = 0.25,
        scores: TurnScores = "turn",
        leaves: bool = False,
    ) -> None:
        self.turns, self.bonus, self.scores, self.leaves = turns, bonus, scores, leaves
        check_count(self, "turns")
        check_number(self, "bonus", finite=True)
        check_choice(self, "scores", get_args(TurnScores))

    def reply(
        self, conversation: Any, metadata: Mapping[str, Any], rng: np.random.Generator
    ) -> Reply:
        """Return the sign of the branch, and the turn's score."""
        said = [m["content"].split() for m in conversation if m["role"] == "assistant"]
        lefts = [words[:1] == ["left"] for words in said]
        warm, here = lefts[0], len(lefts)
        over = here >= self.turns or (self.leaves and here > 1 and not lefts[-1])
        if self.scores == "state":
            score = warm + self.bonus * sum(lefts[1:])
        else:
            score = warm * over + self.bonus * (here > 1 and lefts[-1])
        return Reply("warm" if warm else "cold", score=float(score), done=over)


def turn_forks_env(
    num_envs: int | None = None, *, partner: TurnForks | None = None, **settings: Any
) -> TokenGenerationEnv | TokenGenerationVectorEnv:
    """Return the environment of a `TurnForks` partner, without a reward.

    Args:
        num_envs: Rows of a batch; None makes a single environment.
        partner: The partner; None takes its defaults.
        settings: Further arguments of the environment.

    Example:
        >>> env = turn_forks_env(partner=TurnForks(turns=2))
        >>> _ = env.reset(seed=0)
        >>> for token in (LEFT, EOS, RIGHT, UM, EOS):
        ...     *_, info = env.step(token)
        >>> [turn.text for turn in info["turns"]], info["turns"][2].score
        (['left', 'warm', 'right um', 'warm'], 1.0)
    """
    partner = TurnForks() if partner is None else partner
    arguments = {
        "tokenizer": turn_forks_tokenizer(),
        "prompts": [PROMPT],
        "partner": partner,
        "max_turns": partner.turns,
        "min_new_tokens": 1,
        "max_turn_tokens": TURN_TOKENS,
        "max_reply_tokens": 1,
        "max_new_tokens": partner.turns * (TURN_TOKENS + 1),
        "allowed_token_ids": ((LEFT, RIGHT), (EOS, UM), (EOS,)),
        **settings,
    }
    if num_envs is None:
        return TokenGenerationEnv(**arguments)
    return TokenGenerationVectorEnv(num_envs=num_envs, **arguments)


@lru_cache(maxsize=1)
def turn_forks_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: one token per word, built in memory."""
    return word_tokenizer(VOCABULARY)
