"""A card as a Markdown page, and the cards of many rules as a leaderboard."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from tokengym.base import markdown
from tokengym.envs import printable
from tokengym.evaluation.report import number, signed
from tokengym.lab.cards.parts import unsettled

HEADER = (
    "rule",
    "contract",
    "rank correlation: MovieReview",
    "Oracle",
    "rank correlation with executed forks",
    "best response stays: centred",
    "not centred",
    "cosine (EOS)",
    "cosine (no EOS)",
    "noise / sparse's",
    "passes",
    "seconds / sparse's",
    "trained on MovieReview at one rate: score - c KL over the run",
    "final score",
    "final gold score",
    "final KL",
    "on Dialogue: score - c KL over the run",
    "on the Oracle",
    "card",
)
DASH = "\N{EN DASH}"
AREA = ("net_score", "auc")
"""Criterion of training, a measure and its kind; see docs/results/protocol.md."""
FINALS = (("score", "final"), ("gold_score", "final"), ("kl", "final"))
FEW = 5
"""Pairs of runs below which a difference says how many it has."""


def card_row(card: Mapping[str, Any], sparse: Mapping[str, Any] | None = None) -> list[str]:
    """Return a card's row of the table of cards.

    Args:
        card: As card.json holds it.
        sparse: The card of sparse, which the noise is compared with.
    """
    parts = card["parts"]
    contract = parts.get("contract", {})
    agreements, stays = parts.get("identification", {}), parts.get("best-response", {})
    spent: Mapping[str, Any] = next(iter(parts.get("cost", {}).values()), {})
    ends = parts.get("convergence", {})
    kept = [_one(stays, "Oracle", name, _stay) for name in ("centred", "not centred")]
    return [
        _code(card["subject"]),
        _contract(contract),
        *(_one(agreements, task, "correlation", number) for task in ("MovieReview", "Oracle")),
        _executed(parts.get("executed", {}).get("Forks", {})),
        *kept,
        *(_cosines(parts.get("gradient", {}), eos) for eos in (True, False)),
        _noise(parts.get("gradient", {}), (sparse or {}).get("parts", {}).get("gradient", {})),
        _one({"": spent}, "", "passes", lambda value: f"{value:.3g}"),
        _one({"": spent}, "", "times_sparse", lambda value: f"{float(f'{value:.2g}'):,g}"),
        *(_gain(ends.get("MovieReview", {}), *measure) for measure in (AREA, *FINALS)),
        *(_gain(ends.get(task, {}), *AREA) for task in ("Dialogue", "Oracle")),
        f"`{card['hash'][:8]}` ({card['size']}{_older(card)})",
    ]


BOARD = (
    "rank",
    "95 % of the rank",
    "rule",
    "tuned: lead on sparse",
    "its 95 % interval",
    "at one rate: lead on sparse",
    "its 95 % interval",
    "tokens found on MovieReview",
    "on Forks",
    "gradient",
    "cost",
    "in one sentence",
)
"""Columns of the leaderboard, one figure each."""


def board_row(
    card: Mapping[str, Any],
    chance: Mapping[str, Any],
    tuned: Mapping[str, Any] | None = None,
    rank: tuple[int, int, int] | None = None,
    link: str = "",
) -> list[str]:
    """Return a card's row of the leaderboard.

    Args:
        card: As card.json holds it.
        chance: The card of `random`, which a rule that finds tokens must beat.
        tuned: The rule's difference from sparse in training at a rate of its own, if known.
        rank: Its rank by that training and the ends of the rank's interval.
        link: Where the card is published.
    """
    finds = [_found(card, task) for task in ("MovieReview", "Forks")]
    cosines = [row["cosine"] for row in card["parts"].get("gradient", {}).get("rows", [])]
    spent: Mapping[str, Any] = next(iter(card["parts"].get("cost", {}).values()), {})
    name = _code(card["subject"])
    is_control = card["subject"] == chance["subject"]
    return [
        *((DASH, DASH) if rank is None else (str(rank[0]), f"{rank[1]} to {rank[2]}")),
        (f"[{name}]({link})" if link else name) + (", the control" if is_control else ""),
        *_lead(tuned or {}),
        *_lead(_versus(card, "MovieReview")),
        *(number(agreement["correlation"]) if agreement else DASH for agreement in finds),
        f"{min(cosines):.2f}".replace("-", "\N{MINUS SIGN}") if cosines else DASH,
        _one({"": spent}, "", "times_sparse", lambda value: f"{float(f'{value:.2g}'):,g}"),
        _sentence(card, chance, tuned),
    ]


def lead_of(card: Mapping[str, Any]) -> float:
    """Return a card's lead on sparse in training at one rate, -inf where it was not trained."""
    return float(_versus(card, "MovieReview").get("difference", float("-inf")))


def _lead(versus: Mapping[str, Any]) -> tuple[str, str]:
    """Return a difference, and its interval with the number of pairs where there are few."""
    if not versus:
        return DASH, DASH
    pairs = versus["pairs"]
    few = "" if pairs >= FEW else f"; {pairs} seed{'s' if pairs > 1 else ''}"
    ends = f"{number(versus['low'])} to {number(versus['high'])}" if pairs > 1 else DASH
    return signed(versus["difference"]), f"{ends}{few}"


def trained_alike(card: Mapping[str, Any], chance: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card without its training, if that had other settings than the control's.

    Args:
        card: As card.json holds it.
        chance: The card of `random`, by whose settings the leaderboard's rows are trained.
    """
    ends = card["parts"].get("convergence", {})
    trained, baseline = _trainings(card), _trainings(chance)
    alike = {task: end for task, end in ends.items() if trained.get(task) == baseline.get(task)}
    return {**card, "parts": {**card["parts"], **({"convergence": alike} if ends else {})}}


def _trainings(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings that a card was trained with, by task; {} where it does not say."""
    settings = card.get("made", {}).get("convergence", {}).get("settings")
    return {} if settings is None else json.loads(settings).get("training", {})


def order_flips(
    cards: Sequence[Mapping[str, Any]],
    forked: Mapping[str, Mapping[str, Any]],
    trained: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return in words how often two rules swap their order from one task to another.

    A pair is clear where the rules' 95 % intervals lie apart on both tasks.

    Args:
        cards: Those of rules.
        forked: Agreements with executed forks, by task and rule, that no card has.
        trained: Differences from sparse in training, likewise.
    """
    finding = {
        task: {card["subject"]: agreement for card in cards if (agreement := _found(card, task))}
        for task in ("MovieReview", "Oracle", "Forks")
    }
    finding |= {task: dict(agreement["rules"]) for task, agreement in forked.items()}
    ending = {
        task: {card["subject"]: gain for card in cards if (gain := _versus(card, task))}
        for task in ("MovieReview", "Dialogue", "Oracle")
    }
    ending |= {task: dict(gains) for task, gains in trained.items()}
    lines = []
    for what, figure, figures in (
        ("finding tokens", "correlation", finding),
        ("training", "difference", ending),
    ):
        for one, other in combinations(figures, 2):
            left, right = figures[one], figures[other]
            pairs = list(combinations(sorted({*left} & {*right}), 2))
            swapped = [
                (a, b)
                for a, b in pairs
                if (left[a][figure] - left[b][figure]) * (right[a][figure] - right[b][figure]) < 0
            ]
            if not pairs:
                continue
            clear = [(a, b) for a, b in pairs if _apart(left, a, b) and _apart(right, a, b)]
            kept = len({*clear} & {*swapped})
            lines.append(
                f"{what}, {one} and {other}: {len(swapped)} of {len(pairs)} pairs; of the "
                f"{len(clear)} that are clear on both, {kept}"
            )
    return lines


def _apart(figures: Mapping[str, Mapping[str, Any]], one: str, other: str) -> bool:
    """Return whether two rules' intervals have no point in common."""
    a, b = figures[one], figures[other]
    return bool(a["low"] > b["high"] or b["low"] > a["high"])


def forked_table(
    forked: Mapping[str, Mapping[str, Any]], trained: Mapping[str, Mapping[str, Any]]
) -> list[list[str]]:
    """Return the table of what no card has: its header and its rows.

    Args:
        forked: Agreements with executed forks, by task and rule.
        trained: Differences from sparse in training, likewise.
    """
    agreements = [known["rules"] for known in forked.values()]
    rules = dict.fromkeys(rule for known in (*agreements, *trained.values()) for rule in known)
    rows = []
    for rule in rules:
        gains = [_shown(known[rule]) if rule in known else DASH for known in trained.values()]
        rows.append(
            [_code(rule), *(_executed(known.get(rule, {})) for known in agreements), *gains]
        )
    for figure in ("ceiling", "chance", "share"):
        shown = [number(known[figure]) for known in forked.values()]
        rows.append([figure, *shown, *[DASH] * len(trained)])
    return [["rule", *forked, *(f"training: {task}" for task in trained)], *rows]


VARIANTS = ("name", "cosine (EOS)", "cosine (no EOS)", "training at one rate", "card")
"""Columns of the tables of estimators and weights."""


def variant_row(card: Mapping[str, Any]) -> list[str]:
    """Return the row of an estimator or a weight."""
    gradient = card["parts"].get("gradient", {})
    return [
        _code(card["subject"]),
        *(_cosines(gradient, eos) for eos in (True, False)),
        _gain(card["parts"].get("convergence", {}).get("MovieReview", {}), *AREA),
        f"`{card['hash'][:8]}` ({card['size']})",
    ]


def _sentence(
    card: Mapping[str, Any], chance: Mapping[str, Any], tuned: Mapping[str, Any] | None
) -> str:
    """Return what a card's figures say, in one sentence."""
    parts = card["parts"]
    if _contract(parts.get("contract", {})) == "broken":
        return "Breaks the contract."
    said = []
    finds = {t: (_found(card, t), _found(chance, t)) for t in ("MovieReview", "Forks")}
    known = {task: pair for task, pair in finds.items() if all(pair)}
    if known:
        better = [task for task, (rank, luck) in known.items() if rank["low"] > luck["high"]]
        places = f"on {' and '.join(better)}" if better else "no better than `random`"
        said.append(f"finds the tokens {places}")
    cosines = [row["cosine"] for row in parts.get("gradient", {}).get("rows", [])]
    if cosines:
        said.append("keeps the gradient" if min(cosines) > 0.9995 else "turns the gradient")
    stays = parts.get("best-response", {}).get("Oracle", {}).values()
    if any(isinstance(one, Mapping) and not one["stays"] for one in stays):
        said.append("can leave the best response")
    if versus := tuned or _versus(card, "MovieReview"):
        pairs = versus["pairs"]
        above, below = versus["low"] > 0 and pairs > 1, versus["high"] < 0 and pairs > 1
        end = "gains on" if above else "loses to" if below else "is not clearly apart from"
        few = "" if pairs >= FEW else f" ({pairs} seed{'s' if pairs > 1 else ''})"
        said.append(f"{end} `sparse` in training{few}")
    elif card["subject"] != "sparse":
        said.append(f"was {'trained otherwise' if 'convergence' in parts else 'not trained'}")
    text = ", ".join(said)
    return f"{text[0].upper()}{text[1:]}." if said else DASH


def _found(card: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """Return a rule's agreement with the truth of a task, executed where it is; {} if none."""
    part = "executed" if task == "Forks" else "identification"
    figures: Mapping[str, Any] = card["parts"].get(part, {}).get(task, {})
    return figures if "correlation" in figures else {}


def _versus(card: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """Return the difference from the baseline in training; {} if there is none."""
    measure, kind = AREA
    figures = card["parts"].get("convergence", {}).get(task, {}).get(measure, {})
    versus: Mapping[str, Any] | None = figures.get("versus_baseline", {}).get(kind)
    return versus or {}


def _older(card: Mapping[str, Any]) -> str:
    """Return which parts were measured before the bundled data last changed."""
    older = unsettled(card)
    parts = "all" if len(older) == len(card["parts"]) else ", ".join(older)
    return f"; {parts}: data `{card.get('data_before', card['data'])[:8]}`" if older else ""


def card_page(card: Mapping[str, Any]) -> str:
    """Return a card as a Markdown page: a table per part."""
    lines = [f"# Card of the {card['kind']} {_code(card['subject'])}", ""]
    lines += [
        f"Size {card['size']}, seed {card['seed']}, tokengym {card['tokengym']}, data "
        f"`{card['data']}`, hash `{card['hash']}`. Numbers of the same hash differ in seconds "
        "alone.",
        "",
    ]
    for part, measured in card["parts"].items():
        lines += [f"## {part.replace('-', ' ').capitalize()}", "", *_table(part, measured), ""]
    return "\n".join(lines)


def _table(part: str, measured: Mapping[str, Any]) -> list[str]:
    """Return the lines of one part."""
    if "refused" in measured:
        return [f"Refused: {markdown(measured['refused'])}"]
    if "rows" in measured:
        header = list(measured["rows"][0])
        return _lines(header, [[_cell(v) for v in row.values()] for row in measured["rows"]])
    if part == "convergence":
        return _convergence(measured)
    rows = [
        [task, name, _cell(value)]
        for task, figures in measured.items()
        for name, value in _flat(figures).items()
    ]
    return _lines(["task", "figure", "value"], rows)


def _convergence(measured: Mapping[str, Any]) -> list[str]:
    rows = []
    for task, figures in measured.items():
        if "refused" in figures:
            rows.append([task, "refused", figures["refused"], ""])
            continue
        for measure, kinds in figures.items():
            if not isinstance(kinds, Mapping):
                continue
            for kind in ("auc", "final"):
                if kind in kinds:
                    figure = kinds[kind]
                    is_one = figures.get("runs") == 1
                    value = f"{number(figure['iqm'])} ({'one seed' if is_one else _range(figure)})"
                    rows.append([task, f"{measure}, {kind}", value, _difference(kinds, kind)])
    return _lines(["task", "figure", "interquartile mean", "minus the baseline's, paired"], rows)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}: ")
        else:
            flat[prefix + name] = value
    return flat


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (header, ["---"] * len(header), *rows)
    return [f"| {' | '.join(map(markdown, line))} |" for line in lines]


def _code(name: str) -> str:
    """Return a name as a span of code, which nothing in it can end."""
    return f"`{' '.join(printable(name).split()).replace('`', chr(39))}`"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


def _one(part: Mapping[str, Any], task: str, name: str, show: Any) -> str:
    """Return a figure of a task, or a dash."""
    value = part.get(task, {}).get(name)
    return DASH if value is None else show(value)


def _executed(agreement: Mapping[str, Any]) -> str:
    """Return the rank correlation with executed truth and its interval over responses."""
    if "correlation" not in agreement:
        return DASH
    return f"{number(agreement['correlation'])} ({_range(agreement)})"


def _stay(departure: Mapping[str, Any]) -> str:
    return ("yes" if departure["stays"] else "no") + f" ({signed(round(departure['gain'], 3))})"


def _contract(checks: Mapping[str, Any]) -> str:
    if not checks:
        return DASH
    passed = [entry.get("passed") for entry in checks.values()]
    if all(one is None for one in passed):
        return DASH
    return "passed" if all(one is not False for one in passed) else "broken"


def _cosines(gradient: Mapping[str, Any], eos: bool) -> str:
    values = [f"{row['cosine']:.3f}" for row in gradient.get("rows", []) if row["eos"] == eos]
    return " / ".join(values) or DASH


def _noise(measured: Mapping[str, Any], sparse: Mapping[str, Any]) -> str:
    """Return the noise in units of sparse's, with EOS in play."""
    sparse_noise = {(row["eos"], row["share"]): row["noise"] for row in sparse.get("rows", [])}
    ratios = [
        "n/a"  # infinite: the expected gradient does not point the true way
        if row["noise"] is None
        else f"{row['noise'] / sparse_noise[row['eos'], row['share']]:.2f}"
        for row in measured.get("rows", [])
        if row["eos"] and (row["eos"], row["share"]) in sparse_noise
    ]
    return " / ".join(ratios) or DASH


def _gain(ends: Mapping[str, Any], measure: str, kind: str) -> str:
    return _difference(ends.get(measure, {}), kind)


def _difference(kinds: Mapping[str, Any], kind: str) -> str:
    return _shown(kinds.get("versus_baseline", {}).get(kind))


def _shown(versus: Mapping[str, Any] | None) -> str:
    """Return a paired difference with its interval, few pairs counted; a dash for none."""
    if not versus:
        return DASH
    few = f"; {versus['pairs']} seeds" if versus["pairs"] < FEW else ""
    span = "one seed" if versus["pairs"] == 1 else f"{_range(versus)}{few}"
    return f"{signed(versus['difference'])} ({span})"


def _range(figure: Mapping[str, Any]) -> str:
    return f"{number(figure['low'])} to {number(figure['high'])}"
