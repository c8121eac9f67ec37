"""People's preferences: which of two responses is better, asked in both orders.

Labels of the file are not shown. A person prefers a response if both orders are answered alike, and
a pair is kept if all who prefer one of its responses prefer the same.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tokengym.base import locked, read_json, write_json, write_jsonl
from tokengym.lab.tables import wilson_interval
from tokengym.rewards import PreferencePair, PreferencePairs

ANSWERS, KEPT = "answers.json", "pairs.jsonl"
Side = Literal["chosen", "rejected"]
"""A response of a pair, by its column in the file that is labelled."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One pair in one order."""

    pair: int
    """Place of the pair."""
    first: Side
    """Response that is shown first."""

    @property
    def second(self) -> Side:
        """Response that is shown second."""
        return "rejected" if self.first == "chosen" else "chosen"


@dataclass(frozen=True, kw_only=True)
class Answer(Question):
    """Answer of a person."""

    who: str
    """The person."""
    better: Side | None
    """The better response; None if they skipped it."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of things counted, with Wilson's interval."""

    hits: int
    of: int

    def __str__(self) -> str:
        if not self.of:
            return "none yet"
        low, high = wilson_interval(self.hits / self.of, self.of)
        return f"{self.hits} of {self.of} ({low:.0%} to {high:.0%})"


class Labels:
    """The answers of all people about the pairs of one file, kept in a folder.

    Args:
        pairs: The pairs.
        folder: Where answers.json and pairs.jsonl are; made if need be.
        who: Name of the person who answers now.
        once: Whether one order of each pair is asked, not both; others are judged by what they were
            asked.
    """

    def __init__(
        self, pairs: PreferencePairs, folder: Path, *, who: str, once: bool = False
    ) -> None:
        self.pairs, self.folder, self.who, self.once = pairs, folder, who, once
        texts = json.dumps([(pair.prompt, pair.chosen, pair.rejected) for pair in pairs])
        self._hash = hashlib.sha256(texts.encode()).hexdigest()
        self.answers, self._once = self._stored()
        # Each person has an order of their own; no pair comes again before all were seen.
        seed = int.from_bytes(hashlib.sha256(who.encode()).digest()[:8], "big")
        rng = np.random.default_rng(seed)
        flipped = rng.integers(2, size=len(pairs))
        sides: tuple[Side, Side] = "chosen", "rejected"
        self.questions = [
            Question(pair=int(pair), first=sides[int(flipped[pair]) ^ turn])
            for turn in range(1 if once else 2)
            for pair in rng.permutation(len(pairs))
        ]

    def waiting(self) -> list[Question]:
        """Return the questions that this person has not answered, in order."""
        asked = {(a.pair, a.first) for a in self._of(self.who)}
        return [q for q in self.questions if (q.pair, q.first) not in asked]

    def answer(self, question: Question, better: Side | None) -> None:
        """Store an answer."""
        self.answers.append(Answer(**asdict(question), who=self.who, better=better))
        self.write()

    def undo(self) -> bool:
        """Take this person's last answer back; return whether there was one."""
        for index in reversed(range(len(self.answers))):
            if self.answers[index].who == self.who:
                del self.answers[index]
                self.write()
                return True
        return False

    def preferences(self, who: str) -> dict[int, Side]:
        """Return the response that a person prefers, by pair: the same in all orders asked."""
        said: dict[int, list[Side | None]] = {}
        for answer in self._of(who):
            said.setdefault(answer.pair, []).append(answer.better)
        orders = 1 if who in self._once else 2
        return {
            pair: sides[0]
            for pair, sides in said.items()
            if len(sides) >= orders and len({*sides}) == 1 and sides[0] is not None
        }

    def kept(self) -> list[PreferencePair]:
        """Return the pairs of which all who prefer a response prefer the same one."""
        everyone = [self.preferences(who) for who in self.people()]
        kept_pairs = []
        for index, pair in enumerate(self.pairs):
            sides = {preferred[index] for preferred in everyone if index in preferred}
            if sides == {"chosen"}:
                kept_pairs.append(pair)
            elif sides == {"rejected"}:
                kept_pairs.append(pair.swapped())
        return kept_pairs

    def people(self) -> list[str]:
        """Return the names of those who have answered."""
        return list(dict.fromkeys(answer.who for answer in self.answers))

    def report(self) -> Iterator[tuple[str, str]]:
        """Yield what the answers agree with, and how often."""
        mine = self.preferences(self.who)
        answers = [a for a in self._of(self.who) if a.better is not None]
        if not self.once:
            seen: dict[int, list[Side]] = {}
            for answer in answers:
                seen.setdefault(answer.pair, []).append(answer.better or "chosen")
            twice = [sides for sides in seen.values() if len(sides) == 2]
            alike = sum(one == other for one, other in twice)
            yield "the same in both orders", str(Share(hits=alike, of=len(twice)))
        first = sum(answer.better == answer.first for answer in answers)
        yield "the first shown", str(Share(hits=first, of=len(answers)))
        yield "as in the file", str(_agreement(mine, dict.fromkeys(mine, "chosen")))
        for other in self.people():
            if other != self.who:
                yield f"as {other}", str(_agreement(mine, self.preferences(other)))

    def _of(self, who: str) -> Sequence[Answer]:
        return [answer for answer in self.answers if answer.who == who]

    def _stored(self) -> tuple[list[Answer], set[str]]:
        """Return the answers in the folder, and who is asked one order of each pair."""
        own = {self.who} if self.once else set()
        if not (file := self.folder / ANSWERS).exists():
            return [], own
        stored = read_json(file)
        if not isinstance(stored, dict) or not isinstance(stored.get("answers"), list):
            raise ValueError(f"{file} holds no answers of tokengym label; name another --out")
        if stored.get("pairs") != self._hash:
            raise ValueError(f"{self.folder} holds answers about other pairs; name another --out")
        answers = [self._answer_of(answer, file) for answer in stored["answers"]]
        # Files of earlier versions do not say; all were asked what the present caller is.
        asked_once = stored.get("once", [a.who for a in answers] if self.once else [])
        if not isinstance(asked_once, list) or not all(isinstance(who, str) for who in asked_once):
            raise ValueError(
                f"{file} holds once={asked_once!r}, which must be a list of names; name another "
                "--out"
            )
        return answers, own | ({*asked_once} - {self.who})

    def _answer_of(self, stored: Any, file: Path) -> Answer:
        """Return a stored answer; one about no pair of the file, or no side of it, is refused."""
        with suppress(TypeError):
            answer = Answer(**stored)
            if (
                type(answer.pair) is int
                and 0 <= answer.pair < len(self.pairs)
                and answer.first in get_args(Side)
                and answer.better in (*get_args(Side), None)
                and isinstance(answer.who, str)
            ):
                return answer
        raise ValueError(
            f"{file} holds the answer {stored!r}, which must have pair (0 to {len(self.pairs) - 1})"
            f", first and better ({' or '.join(get_args(Side))}) and who; name another --out"
        )

    def write(self) -> None:
        """Store this person's answers beside those that others have given in the meantime."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            stored, self._once = self._stored()
            others = [answer for answer in stored if answer.who != self.who]
            self.answers = [*others, *self._of(self.who)]
            answers = [asdict(answer) for answer in self.answers]
            record = {"pairs": self._hash, "once": sorted(self._once), "answers": answers}
            write_json(self.folder / ANSWERS, record)
            rows = [pair.to_record() for pair in self.kept()]
            write_jsonl(
                self.folder / KEPT,
                ({k: v for k, v in row.items() if v is not None} for row in rows),
            )


def _agreement(one: dict[int, Side], other: dict[int, Side]) -> Share:
    both = one.keys() & other.keys()
    return Share(hits=sum(one[pair] == other[pair] for pair in both), of=len(both))
