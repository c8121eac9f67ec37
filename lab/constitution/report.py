"""The report of a constitutional run, as Markdown and as one self-contained page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokengym.base import markdown, write_text
from tokengym.evaluation.report import render
from tokengym.evaluation.runs import fixed
from tokengym.lab.constitution.scene import ConstitutionConfig

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
COLUMNS = {
    "toxicity": "toxicity",
    "offending": "with an offence",
    "gold_score": "gold score",
    "win": "wins over base",
    "kl": "KL to base, nats",
    "length": "tokens",
    "distinct_2": "distinct bigrams",
}


def write_reports(config: ConstitutionConfig, results: Mapping[str, Any], out: Path) -> None:
    """Write report.md and report.html."""
    title = f"Constitutional AI on {config.env}"
    sections = _report_sections(config, results)
    write_text(out / "report.md", _as_markdown(title, sections))
    policies = results["policies"].items()
    steps = [f"{_figure(entry['toxicity'])} ({name})" for name, entry in policies]
    headline = f"Toxicity of held-out responses: {', '.join(steps)}."
    write_text(out / "report.html", as_html(title, headline, sections))


def _report_sections(
    config: ConstitutionConfig, results: Mapping[str, Any]
) -> list[tuple[str, list[str], Table | None]]:
    """Return heading, paragraphs and table of each section."""
    names = [f"{p.name}: {p.text}" for p in config.principles]
    who = (
        f"Critique and revision: {results['critic']}. Judgement: {results['judge']}. Toxicity: "
        f"{results['toxicity_measure']}. {config.eval_episodes} held-out prompts at most, one "
        "response each, the same random numbers for every policy; seed "
        f"{config.seed}."
    )
    if "no model" in results["critic"] or "no model" in results["judge"]:
        who += (
            " Rules over words, the baseline `words`, stand in for a model here: the figures show "
            "that the pipeline does its work, not what a model's judgement is worth."
        )
    pairs, reward = results["pairs"], results["reward_model"]
    wins = [entry["win_rate"] for entry in results["policies"].values() if "win_rate" in entry]
    shares = ", ".join(f"{win['disagreement']:.0%}" for win in wins)
    is_model = "no model" not in results["judge"]
    orders = f" Of held-out pairs it chose by the order in {shares}." if is_model else ""
    accuracy = reward["held_out"]["accuracy"]
    rounds = results["revisions"]
    return [
        ("Before and after", [who], policies_table(results["policies"])),
        (
            "Stage 1: critique and revision",
            [f"Principles, one drawn for each revision. {' '.join(names)}"],
            (
                ("text", "toxicity"),
                [
                    ("response" if number == 0 else f"revision {number}", _figure(value))
                    for number, value in enumerate(rounds)
                ],
            ),
        ),
        (
            "Stage 2: feedback",
            [
                f"{pairs['pairs']} of {pairs['prompts']} prompts had responses that the judge told "
                f"apart. The reward model orders {accuracy:.1%} of held-out ones as the judge."
                f"{orders}"
            ],
            None,
        ),
        ("Revisions", [], _revised(results["revised"])),
        ("Side by side", [], _samples(results["samples"])),
    ]


def _as_markdown(title: str, sections: Sequence[tuple[str, list[str], Table | None]]) -> str:
    """Return the sections as Markdown."""
    lines = [f"# {markdown(title)}", ""]
    for heading, paragraphs, table in sections:
        lines += [f"## {heading}", ""]
        for paragraph in paragraphs:
            lines += [markdown(paragraph), ""]
        if table is not None:
            head, rows = table
            lines += [_line(head), _line(["---"] * len(head)), *map(_line, rows), ""]
    return "\n".join(lines)


def as_html(
    title: str, headline: str, sections: Sequence[tuple[str, list[str], Table | None]]
) -> str:
    """Return the sections as one page in the style of the report; all text is escaped."""
    shown = []
    for heading, paragraphs, table in sections:
        columns, rows = table or ((), ())
        shown.append(
            {
                "heading": heading,
                "paragraphs": paragraphs,
                "columns": columns,
                "rows": rows,
                "texts": "prompt" in columns,
            }
        )
    page = {"title": title, "subtitle": title, "headline": headline, "sections": shown}
    return render(Path(__file__).with_name("constitution.html.jinja"), page)


def policies_table(policies: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return what was measured of each policy: column names, and a row for each."""
    shown = [key for key in COLUMNS if any(_cell(entry, key) for entry in policies.values())]
    rows = [[name, *(_cell(entry, key) for key in shown)] for name, entry in policies.items()]
    return ("policy", *(COLUMNS[key] for key in shown)), rows


def _cell(entry: Mapping[str, Any], key: str) -> str:
    if key == "win":
        if "win_rate" not in entry:
            return ""
        win = entry["win_rate"]
        return f"{win['rate']:.0%} ({win['low']:.0%} to {win['high']:.0%})"
    if entry.get(key) is None:
        return ""
    if key == "toxicity":
        ends = f"{_figure(entry['toxicity_low'])} to {_figure(entry['toxicity_high'])}"
        return f"{_figure(entry[key])} ({ends})"
    return _figure(entry[key])


def _revised(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = []
    for row in rows:
        last = row["rounds"][-1]
        critiques = [one["critique"] or "no fault found" for one in row["rounds"]]
        table.append(
            (
                row["response"]["prompt"],
                row["response"]["response"],
                " ".join(f"{n}. {text}" for n, text in enumerate(critiques, 1)),
                last["revision"]["response"],
            )
        )
    return ("prompt", "response", "critiques", "last revision"), table


def _samples(samples: Sequence[Mapping[str, Any]]) -> Table:
    names = list(samples[0]["responses"]) if samples else []
    rows = [(s["prompt"], *(s["responses"][name] for name in names)) for s in samples]
    return ("prompt", *names), rows


def _figure(value: float) -> str:
    return fixed(value, 3 if abs(value) < 10 else 1)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown, cells))} |"
