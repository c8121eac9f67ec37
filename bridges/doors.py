"""The one table of the doors: which names each gives to an advantage function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokengym.rewards.credits.names import NAMES

EVERYWHERE = (
    *("response_mask", "positions", "turn_ids", "token_rewards", "scores", "paid"),
    *("group_ids", "group_size", "gamma", "std_floor"),
)
"""Names that every door has: they are in the mask, the rewards and what tells the prompts apart."""
OF_TEXTS = tuple(
    name
    for name, one in NAMES.items()
    if one.supplier == "texts" and name not in (*EVERYWHERE, "turn_scores", "segment_ends")
)
"""Names of the texts where a door has token ids; nobody there scores single turns or cuts."""
OF_SCORER = tuple(
    name
    for name, one in NAMES.items()
    if one.supplier == "scorer" and name not in ("scores", "paid", "score_parts")
)
"""Names that the scorer of a `TokenCredit` gives, where it has them."""


@dataclass(frozen=True)
class Door:
    """What one trainer's rows say, by the names of `NAMES`."""

    title: str
    """The trainer, in messages and on the page."""
    more: tuple[str, ...] = ()
    """Names beside those of `EVERYWHERE`."""
    has_texts: bool = False
    """Whether it has token ids and prompts: the names of `OF_TEXTS`."""
    has_scorer: bool = False
    """Whether a `TokenCredit` scores there: the names of `OF_SCORER`."""
    has_columns: bool = False
    """Whether it has the columns of the data."""

    @property
    def names(self) -> frozenset[str]:
        """All names of the table that an advantage function may read there."""
        texts = OF_TEXTS if self.has_texts else ()
        return frozenset((*EVERYWHERE, *self.more, *texts, *(OF_SCORER if self.has_scorer else ())))

    @property
    def cell(self) -> str:
        """What it has beside `EVERYWHERE`, for the page."""
        parts = [
            *(["the texts"] if self.has_texts else []),
            *(["the scorer's"] if self.has_scorer else []),
            *(["the data's columns"] if self.has_columns else []),
            *(f"`{name}`" for name in self.more),
        ]
        return ", ".join(parts) or "no more"


_ROWS = ("log_probs", "entropy")
DOORS: Mapping[str, Door] = {
    "trl": Door(
        "TRL",
        (
            *("score_parts", "log_probs", "entropy", "hidden_states", "top_log_probs"),
            *("advantages", "ref_log_probs", "kl"),
        ),
        has_texts=True,
        has_scorer=True,
        has_columns=True,
    ),
    "verl": Door("verl", ("gae_lambda",)),
    "skyrl": Door("SkyRL", ("values", "gae_lambda")),
    "tinker": Door("Tinker", _ROWS, has_texts=True, has_scorer=True),
    "prime-rl": Door("prime-rl", ("log_probs",), has_texts=True, has_scorer=True),
    "verifiers": Door("verifiers", ("log_probs",), has_texts=True, has_scorer=True),
    "rows": Door("credit_rows", _ROWS, has_texts=True, has_scorer=True),
}
"""The doors by name; "rows" is a loop of one's own."""


def who_has(name: str) -> str:
    """Return the trainers that give a name to an advantage function, for messages."""
    titles = [door.title for door in DOORS.values() if name in door.names]
    if name in NAMES and name != "advantages":
        titles.append("PPO(advantage=...)")
    if name not in NAMES:
        titles = [door.title for door in DOORS.values() if door.has_columns]
        titles.append("PPO(advantage=...)")
    return f"{', '.join(titles)} can" if titles else "no door can"
