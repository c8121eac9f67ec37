"""A card as a Markdown page, and the cards of many rules as one table."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokengym.envs.render import markdown, printable
from tokengym.evaluation.report.verdict import number, signed

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
    "final score minus sparse's: MovieReview",
    "Dialogue",
    "Oracle, trained",
    "card",
)
DASH = "\N{EN DASH}"


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
        _one({"": spent}, "", "times_sparse", lambda value: f"{value:.2g}"),
        *(_end(ends.get(task, {})) for task in ("MovieReview", "Dialogue", "Oracle")),
        f"`{card['hash'][:8]}` ({card['size']})",
    ]


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
        for task, found in measured.items()
        for name, value in _flat(found).items()
    ]
    return _lines(["task", "figure", "value"], rows)


def _convergence(measured: Mapping[str, Any]) -> list[str]:
    rows = []
    for task, found in measured.items():
        if "refused" in found:
            rows.append([task, "refused", found["refused"], ""])
            continue
        for measure, kinds in found.items():
            if not isinstance(kinds, Mapping):
                continue
            for kind in ("auc", "final"):
                if kind in kinds:
                    figure = kinds[kind]
                    value = f"{number(figure['iqm'])} ({_range(figure)})"
                    rows.append([task, f"{measure}, {kind}", value, _difference(kinds, kind)])
    return _lines(["task", "figure", "interquartile mean", "minus the baseline's, paired"], rows)


def _flat(found: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in found.items():
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


def _one(found: Mapping[str, Any], task: str, name: str, show: Any) -> str:
    """Return a figure of a task, or a dash."""
    value = found.get(task, {}).get(name)
    return DASH if value is None else show(value)


def _executed(found: Mapping[str, Any]) -> str:
    """Return the rank correlation with executed truth and its interval over responses."""
    if "correlation" not in found:
        return DASH
    return f"{number(found['correlation'])} ({_range(found)})"


def _stay(found: Mapping[str, Any]) -> str:
    return ("yes" if found["stays"] else "no") + f" ({signed(round(found['gain'], 3))})"


def _contract(found: Mapping[str, Any]) -> str:
    if not found:
        return DASH
    passed = [entry.get("passed") for entry in found.values()]
    if all(one is None for one in passed):
        return DASH
    return "passed" if all(one is not False for one in passed) else "broken"


def _cosines(found: Mapping[str, Any], eos: bool) -> str:
    values = [f"{row['cosine']:.3f}" for row in found.get("rows", []) if row["eos"] == eos]
    return " / ".join(values) or DASH


def _noise(found: Mapping[str, Any], sparse: Mapping[str, Any]) -> str:
    """Return the noise in units of sparse's, with EOS in play."""
    usual = {(row["eos"], row["share"]): row["noise"] for row in sparse.get("rows", [])}
    ratios = [
        f"{row['noise'] / usual[row['eos'], row['share']]:.2f}"
        for row in found.get("rows", [])
        if row["eos"] and (row["eos"], row["share"]) in usual
    ]
    return " / ".join(ratios) or DASH


def _end(found: Mapping[str, Any]) -> str:
    score = found.get("score", {})
    return _difference(score, "final") if score else DASH


def _difference(kinds: Mapping[str, Any], kind: str) -> str:
    versus = kinds.get("versus_baseline", {}).get(kind)
    return DASH if versus is None else f"{signed(versus['difference'])} ({_range(versus)})"


def _range(figure: Mapping[str, Any]) -> str:
    return f"{number(figure['low'])} to {number(figure['high'])}"
