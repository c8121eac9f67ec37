"""Files of other people: submissions to the leaderboard, and answers and pairs to label."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from studies.cards import _submitted, publish
from tests.campaign.foreign import JUNK
from tests.campaign.garbled import call
from tests.campaign.hostile import hostile_text, require_plain
from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.lab.cards.page import card_row
from tokengym.lab.label import ANSWERS

CARDS = Path(__file__).parents[2] / "docs" / "results" / "cards"
SUBJECTS: tuple[Any, ...] = (
    *("../../evil", "/tmp/evil", "..", ".", "", "a/../../evil", "evil.py:Evil", "x" * 300),
    *("..\\evil", "\x1b[2J", "abc\x00", "rules.py:../../Evil", "weight:../evil", 3, None, []),
)


def a_subject(card: dict[str, Any], random: np.random.Generator) -> str:
    """Have the card be about something that is no name of a folder."""
    card["subject"] = SUBJECTS[random.integers(len(SUBJECTS))]
    return f"subject {card['subject']!r}"


def some_code(card: dict[str, Any], random: np.random.Generator) -> str:
    """Add code, which a card of a rule of one's own holds."""
    card["subject"], card["code"] = "evil.py:Evil", "open('ran', 'w')\nEvil = None\n"
    return "code"


def an_entry(card: dict[str, Any], random: np.random.Generator) -> str:
    """Put something else in place of an entry, at any depth."""
    owner: Any = card
    place = []
    while True:
        key = sorted(owner)[random.integers(len(owner))]
        place.append(key)
        if not isinstance(owner[key], dict) or not owner[key] or random.integers(3) == 0:
            break
        owner = owner[key]
    if random.integers(3) == 0:
        del owner[key]
        return f"{'.'.join(place)} left out"
    value = (*JUNK, hostile_text(random))[random.integers(len(JUNK) + 1)]
    owner[key] = value
    return f"{'.'.join(place)} = {value!r}"


def other_text(card: dict[str, Any], random: np.random.Generator) -> str:
    """Return a file that is no card."""
    return str(
        random.choice(["", "[]", "3", "null", "[" * 5000, '{"format": 1}', "{", '{"format": "1"}'])
    )


CHANGES: tuple[Callable[[dict[str, Any], np.random.Generator], str], ...] = (
    *(a_subject, some_code, an_entry, an_entry, an_entry),
)


def a_submission(folder: Path, random: np.random.Generator) -> str:
    """Add a changed card to the leaderboard, in a folder of its own."""
    names = sorted(path.parent.name for path in CARDS.glob("*/card.json"))
    card = json.loads((CARDS / str(random.choice(names)) / "card.json").read_text())
    if random.integers(6) == 0:
        text = told = other_text(card, random)
    else:
        told = CHANGES[random.integers(len(CHANGES))](card, random)
        text = json.dumps(card)
    file, published = folder / "mine.json", folder / "docs" / "cards"
    file.write_text(text)
    try:
        publish(_submitted(file), published)
    except ValueError as error:
        if "\n" in str(error):
            raise LostError(f"{told[:80]}: {error}") from error
        return told
    (stored,) = published.rglob("card.json")
    if stored.parent.parent != published:
        raise LostError(f"{told[:80]}: written to {stored}")
    card_row(json.loads(stored.read_text()), None)
    return told


def an_answer(folder: Path, random: np.random.Generator) -> str:
    """Label a pair of somebody else's, beside answers of somebody else's."""
    pair = {name: hostile_text(random) for name in ("prompt", "chosen", "rejected")}
    file, out = folder / "pairs.jsonl", folder / "labels"
    file.write_text(json.dumps(pair) + "\n")
    arguments = ["label", str(file), "--out", str(out), "--who"]
    with mock.patch("rich.console.Console.input", side_effect=["a", "a", EOFError]):
        status, printed = call([*arguments, "ann"])
    told = "whole"
    if not status and (out / ANSWERS).exists():
        stored: Any = json.loads((out / ANSWERS).read_text())
        if random.integers(4) == 0:
            stored = JUNK[random.integers(len(JUNK))]
            told = f"answers.json = {stored!r}"
        else:
            owner: Any = stored["answers"][0] if random.integers(2) else stored
            key = str(random.choice([*owner, "evil"]))
            owner[key] = (*JUNK, hostile_text(random))[random.integers(len(JUNK) + 1)]
            told = f"{key} = {owner[key]!r}"
        (out / ANSWERS).write_text(json.dumps(stored))
        with mock.patch("rich.console.Console.input", side_effect=["b", "s", EOFError]):
            status, printed = call([*arguments, "bob"])
    require_plain(printed, f"label, {told}")
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    if status not in (0, 2) or "Traceback" in printed or len(lines) != (status == 2):
        raise LostError(f"label, {told}: exit code {status}: {printed.strip()[-300:]!r}")
    return told


def one_file(random: np.random.Generator) -> None:
    """Read one file of somebody else's in a folder where nothing else may be written."""
    with tempfile.TemporaryDirectory() as scratch:
        base, before = Path(scratch), os.getcwd()
        folder = base / "deep" / "folder"
        folder.mkdir(parents=True)
        os.chdir(folder)
        try:
            told = (a_submission, a_submission, an_answer)[random.integers(3)](folder, random)
        finally:
            os.chdir(before)
        written = {path.relative_to(base).parts[0] for path in base.rglob("*")} - {"deep"}
        if (folder / "ran").exists() or written:
            raise LostError(f"{told[:80]}: its code ran, or it wrote {written}")


def submitted(count: int, seed: int) -> Outcome:
    """Try ``count`` submissions, and answers to pairs."""
    return try_cases("submitted", one_file, count, seed)
