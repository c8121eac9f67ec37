"""The card of a credit rule or an advantage estimator: its parts, its hash and its files.

The folder is the state. A part that is stored there with the same settings is not measured again.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokengym import __version__
from tokengym.base import (
    auto_device,
    check_count,
    did_you_mean,
    read_json,
    split_file_word,
    texts_of_options,
    write_json,
    write_text,
)
from tokengym.envs import SettingsError
from tokengym.evaluation.runs import versions
from tokengym.lab.cards.elsewhere import AMOUNTS, PART, TransferTask
from tokengym.lab.cards.parts import (
    ESTIMATOR_PARTS,
    PARTS,
    TASKS,
    WEIGHT_PARTS,
    Part,
    Size,
    bare,
    trained_by,
    unsettled,
)
from tokengym.lab.gradients.oracle import estimator_names, find_estimator
from tokengym.lab.learners.weighted import WEIGHTS
from tokengym.rewards import REWARDS

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = 1
CARD_FILE, PAGE_FILE = "card.json", "card.md"
SHAPE = {
    **dict.fromkeys(("subject", "kind", "size", "tokengym", "data", "hash"), str),
    **{"seed": int, "versions": dict, "hashes": dict, "made": dict, "parts": dict},
}
"""Entries that every card has, and their types."""
Kind = Literal["rule", "estimator", "weight"]
WEIGHT = "weight:"
"""Before the name of a weight on the advantage that a rule has too."""
KINDS: Mapping[Kind, Mapping[str, Part]] = {
    "rule": PARTS,
    "estimator": ESTIMATOR_PARTS,
    "weight": WEIGHT_PARTS,
}
"""Parts of a card by what it is of."""

SIZES = {
    "quick": Size(
        responses=8,
        seeds=1,
        steps=2,
        shares=(0.0,),
        tokens=8,
        batch_size=8,
        forked=8,
        continuations=8,
    ),
    "standard": Size(responses=64, seeds=5, steps=15, shares=(0.0, 0.5, 0.9)),
    "full": Size(responses=256, seeds=10, steps=None, shares=(0.0, 0.25, 0.5, 0.75, 0.9)),
}
"""Sizes of a card: seconds, a quarter of an hour, and hours on two cores."""


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Settings of a card: its subject and the amount of data.

    Raises:
        ValueError: if the subject, a part or the size is unknown.
    """

    subject: str
    """Rule, estimator or weight by name, options after a colon, or "path/to/file.py:Name";
    "weight:random" for a weight whose name a rule has too."""
    parts: tuple[str, ...] = ()
    """Parts to measure; none given is all that the subject has."""
    size: str = "standard"
    """"quick", "standard" or "full"; see `SIZES`."""
    seed: int = 0
    """Seed of prompts and sampling, and the lowest seed of the training runs."""
    seeds: int | None = None
    """Training runs per task in place of the size's; rows of few are marked."""
    tasks: tuple[str, ...] = ()
    """Tasks that are trained on, of `TASKS`; none given is all."""
    elsewhere: TransferTask | None = None
    """Bundle on which a rule is measured beside the card's own; None for none."""

    def __post_init__(self) -> None:
        check_count(self, "seed", least=0)
        check_count(self, "seeds", optional=True)
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(f"unknown task {task!r} of a card; known: {', '.join(TASKS)}")
        if self.size not in SIZES:
            raise ValueError(f"size must be {', '.join(SIZES)}, got {self.size!r}")
        known = tuple(self.measures)
        if self.elsewhere is None and PART in self.parts:
            raise ValueError(f"part {PART!r} needs a bundle; name one: --bundle smollm2-reviews")
        if self.elsewhere is not None and self.kind != "rule":
            raise ValueError(
                f"only rules are measured on a bundle, and {self.subject!r} is none; leave "
                "--bundle out"
            )
        for part in self.parts:
            if part not in known:
                raise ValueError(
                    f"unknown part {part!r} of the cards of {self.kind}s; known: {', '.join(known)}"
                )
        object.__setattr__(self, "parts", tuple(p for p in known if p in (self.parts or known)))
        if self.elsewhere is not None and PART in self.parts:
            self.elsewhere.check()

    @property
    def kind(self) -> Kind:
        """Kind of the subject."""
        if split_file_word(self.name):
            with suppress(SettingsError):
                find_estimator(self.name)
                return "estimator"
            with suppress(SettingsError):
                WEIGHTS.make(self.name)
                return "weight"
            return "rule"
        if self.subject in estimator_names():
            return "estimator"
        bare = self.name.partition(":")[0]
        is_rule = bare in REWARDS.names() and not self.subject.startswith(WEIGHT)
        if bare in WEIGHTS.names() and not is_rule:
            return "weight"
        known = {*REWARDS.names(), *estimator_names(), *WEIGHTS.names()}
        if bare not in known:
            raise SettingsError(
                f"unknown subject {self.subject!r}; {did_you_mean(bare, sorted(known), n=1)}bench "
                f"takes rules ({', '.join(REWARDS.names())}), estimators "
                f"({', '.join(estimator_names())}), weights ({', '.join(WEIGHTS.names())}) and "
                "path/to/file.py:Name"
            )
        return "rule"

    @property
    def measures(self) -> Mapping[str, Part]:
        """Parts that the card can have, and what measures each."""
        parts, elsewhere = dict(KINDS[self.kind]), self.elsewhere
        if elsewhere is not None:
            amounts = AMOUNTS[self.size]
            parts[PART] = lambda subject, _, seed, __: elsewhere.measure(subject, amounts, seed)
        return parts

    @property
    def amounts(self) -> Size:
        """Amounts that the card is measured from."""
        size = SIZES[self.size]
        return replace(size, seeds=self.seeds or size.seeds, tasks=self.tasks or size.tasks)

    @property
    def name(self) -> str:
        """The subject as `compare` or ``advantage_weight=`` takes it."""
        return self.subject.removeprefix(WEIGHT)

    def settings(self, part: str) -> dict[str, Any]:
        """Return all that a part's numbers depend on; the same settings give the same numbers."""
        size = asdict(AMOUNTS[self.size] if part == PART else self.amounts)
        if part not in ("convergence", PART):
            del size["tasks"]  # of training
        about = {
            "subject": bare(self.subject),
            "source": _source(self.name),
            "part": part,
            "size": size,
            "seed": self.seed,
            "tokengym": __version__,
            "versions": versions(),
            "data": data_hash(),
        }
        options = _options_source(self.name)
        if split_file_word(self.name) and options:  # the source is that of its code alone
            about["options"] = options
        if part == "convergence":  # how its runs are trained, but for what the subject changes
            about["training"] = {
                task: asdict(trained_by(task, self.amounts, device="auto"))
                for task in self.amounts.tasks
            }
        if part == PART and self.elsewhere is not None:
            files = _digest_of(self.elsewhere.files())
            about["bundle"] = {"name": self.elsewhere.name, "files": files}
        return about


def make_card(config: CardConfig, out: Path, console: "Console | None" = None) -> dict[str, Any]:
    """Measure what is missing of a card, and write card.json and card.md after each part.

    Args:
        config: The card.
        out: Its folder; parts stored there with the same settings are kept.
        console: Where progress is shown; None shows nothing.

    Returns:
        The card, as card.json holds it.

    Raises:
        ValueError: if the folder holds the card of something else.
    """
    from tokengym.lab.cards.page import card_page

    stored = _stored(out / CARD_FILE)
    if stored and stored["subject"] != config.subject:
        raise ValueError(
            f"{out} holds the card of {stored['subject']!r}, not of {config.subject!r}; name "
            "another folder"
        )
    measures = config.measures
    parts: dict[str, Any] = dict(stored.get("parts", {}))
    hashes: dict[str, str] = dict(stored.get("hashes", {}))
    made: dict[str, Any] = dict(stored.get("made", {}))
    card: dict[str, Any] = {}
    for part in config.parts:
        settings = json.dumps(config.settings(part), sort_keys=True)
        digest = _digest(settings.encode())
        if hashes.get(part) != digest or part not in parts:
            if console is not None:
                said = f"{config.subject}: {part}"
                if part == PART and config.elsewhere is not None:
                    cost = config.elsewhere.cost(AMOUNTS[config.size])
                    said = f"{config.subject}: {config.elsewhere.name}: {cost}"
                console.print(said, markup=False, highlight=False, soft_wrap=True)
            began = sum(os.times()[:4])
            parts[part] = measures[part](config.name, config.amounts, config.seed, out)
            hashes[part] = digest
            tasks = [task for task in parts[part].values() if isinstance(task, Mapping)]
            of_runs = [task.get("cpu_s", 0.0) for task in tasks]  # nobody waits for their processes
            made[part] = {
                "settings": settings,
                "figures": figures_hash(parts[part]),
                "device": auto_device(),
                "cpu_s": round(sum(os.times()[:4]) - began + sum(of_runs), 1),
            }
        card = {
            "format": FORMAT,
            "subject": config.subject,
            "kind": config.kind,
            "size": config.size,
            "seed": config.seed,
            "tokengym": __version__,
            "versions": versions(),
            "data": data_hash(),
            "hash": _digest(json.dumps(hashes, sort_keys=True).encode()),
            "hashes": hashes,
            "made": made,
            "parts": {name: parts[name] for name in (*KINDS[config.kind], PART) if name in parts},
        }
        write_json(out / CARD_FILE, card)
        write_text(out / PAGE_FILE, card_page(card))
    return card


def _stored(file: Path) -> dict[str, Any]:
    """Return the card in a file, {} if there is none."""
    if not file.exists():
        return {}
    card = read_json(file)
    kinds = {"subject": str, "parts": dict, "hashes": dict}
    if not isinstance(card, dict) or not all(isinstance(card.get(k), t) for k, t in kinds.items()):
        raise ValueError(f"{file} is damaged; delete it and run again")
    return card


def read_cards(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the cards of folders.

    Raises:
        ValueError: if a folder holds no card of this format.
    """
    cards = []
    for folder in folders:
        if not (folder / CARD_FILE).exists():
            raise ValueError(f"{folder} holds no {CARD_FILE}; make one with tokengym bench")
        card = read_json(folder / CARD_FILE)
        check_card(card, f"{folder / CARD_FILE}")
        cards.append(card)
    return cards


def check_card(card: object, name: str) -> None:
    """Refuse what was read from a file unless it has the shape of a card.

    Args:
        card: What was read; what its figures say is not looked at.
        name: Where it was read, for the message.

    Raises:
        ValueError: naming the entry.
    """
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(
            f"{name} is no card of format {FORMAT}; make one with tokengym bench --submit"
        )
    for entry, value, kind in _entries(card):
        if not isinstance(value, kind):
            raise ValueError(
                f"{entry} of {name} must be {kind.__name__}, got {value!r}; take the file that "
                "tokengym bench wrote"
            )


def _entries(card: Mapping[str, Any]) -> Iterator[tuple[str, Any, type]]:
    """Yield name, value and type of a card's entries, an outer one before those within it."""
    for entry, kind in SHAPE.items():
        yield entry, card.get(entry), kind
    yield "code", card.get("code") or "", str
    for outer, kind in {"parts": dict, "made": dict, "hashes": str}.items():
        for part, value in card[outer].items():
            yield f"{outer}.{part}", value, kind
    for part, made in card["made"].items():
        for entry in sorted({"settings", "figures", "device"} & made.keys()):
            yield f"made.{part}.{entry}", "" if made[entry] is None else made[entry], str


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card with the parts of an earlier one that it does not have itself."""
    card = dict(new)
    for field in ("hashes", "made", "parts"):
        card[field] = {**old.get(field, {}), **new.get(field, {})}
    if unsettled(card):
        card["data_before"] = old.get("data_before", old["data"])
    card["hash"] = _digest(json.dumps(card["hashes"], sort_keys=True).encode())
    return card


def faults_of(card: Mapping[str, Any]) -> list[str]:
    """Return in words which hashes of a card do not fit what it says; [] if all do."""
    faults = []
    if card["hash"] != _digest(json.dumps(card["hashes"], sort_keys=True).encode()):
        faults.append("hash is not that of its parts' hashes")
    for part, figures in card["parts"].items():
        made = card.get("made", {}).get(part, {})
        if made.get("figures") != figures_hash(figures):
            faults.append(f"{part}: its figures were changed after they were measured")
    for part in sorted({*card["parts"]} - {*unsettled(card)}):
        made = card["made"][part]
        settings = json.loads(made["settings"])
        if card["hashes"].get(part) != _digest(made["settings"].encode()):
            faults.append(f"{part}: its hash is not that of its settings")
        if settings["subject"] != bare(card["subject"]):
            faults.append(f"{part}: its settings are of {settings['subject']!r}")
        code = card.get("code")
        if code is not None and settings["source"] != _digest(code.encode()):
            faults.append(f"{part}: measured with other code than the card holds")
    return faults


def broken(card: Mapping[str, Any]) -> dict[str, str]:
    """Return per task on which the contract is broken what the checker says."""
    contract = {**card["parts"].get("contract", {}), **card["parts"].get(PART, {})}
    return {
        task: checked.get("message", "")
        for task, checked in contract.items()
        if checked.get("passed") is False
    }


def unmeasured(card: Mapping[str, Any]) -> str | None:
    """Return why nothing of a card could be measured, None if something was."""
    measured: list[Mapping[str, Any]] = []
    for part in card["parts"].values():
        measured += [part] if {"rows", "refused"} & part.keys() else part.values()
    reasons = [measurement.get("refused") for measurement in measured]
    return reasons[0] if reasons and all(reasons) else None


def figures_hash(part: Any) -> str:
    """Return one hash of a part's figures to four digits, timings left out."""
    return _digest(json.dumps(_steady(part), sort_keys=True).encode())


def _steady(value: Any) -> Any:
    """Return plain data without timings, its numbers to four digits."""
    if isinstance(value, Mapping):
        timings = ("seconds", "times_sparse", "cpu_s")
        return {key: _steady(inner) for key, inner in value.items() if key not in timings}
    if isinstance(value, list):
        return [_steady(inner) for inner in value]
    return float(f"{value:.4g}") + 0.0 if isinstance(value, float) else value


def unlike(one: Any, other: Any, where: str = "") -> str | None:
    """Return the first figure that differs by more than a thousandth, timings left out; else None.

    Machines differ in the last digits, which may change a hash.
    """
    one, other = (_steady(value) for value in (one, other)) if not where else (one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        pairs = [(f"{where} {key}", one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [
            (f"{where} {index}", *pair) for index, pair in enumerate(zip(one, other, strict=True))
        ]
    elif isinstance(one, float) and isinstance(other, float):
        is_close = math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4)
        return None if is_close else f"{where.strip()}: {one} and {other}"
    else:
        return None if one == other else f"{where.strip()}: {one} and {other}"
    return next((fault for pair in pairs if (fault := unlike(pair[1], pair[2], pair[0]))), None)


def data_hash() -> str:
    """Return one hash of the bundled models and prompts that cards are measured on."""
    from tokengym.envs import bundled

    tasks = ("movie_review", "dialogue", "question_answer", "oracle", "forks")
    return _digest_of([Path(bundled(task).path) for task in tasks])


def _source(name: str) -> str | None:
    """Return one hash of the file that has a rule, or of the paths among its options; else None."""
    if file_word := split_file_word(name):
        return _digest(file_word[0].read_bytes())
    return _options_source(name)


def _options_source(name: str) -> str | None:
    """Return one hash of the files and folders among a rule's options, None without any."""
    named = [Path(text) for text in texts_of_options(name) if exists(text)]
    return _digest_of(named) if named else None


def _digest_of(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) or [path]:
            if file.is_file():
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
