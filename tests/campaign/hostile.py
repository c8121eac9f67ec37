"""Hostile texts in every page and on the terminal: no script runs, nothing raw is left."""

import base64
import csv
import hashlib
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from tests.campaign.garbled import call, whole
from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.base.files import write_hashed
from tokengym.envs.render import render_ansi, render_html
from tokengym.lab.constitution import ConstitutionConfig
from tokengym.lab.constitution.report import write_reports

FRAGMENTS = (
    *("<script>alert(1)</script>", "</script><script>alert(1)//", "<svg/onload=alert(1)>"),
    *("'\"` onmouseover=alert(1) ", "</style><img src=x onerror=a()>", "<!--", "]]>", "&lt;b&gt;"),
    *("[a](javascript:alert(1))", "![a](x)", "``` \n", "{{ 7 * 7 }}", "{% raw %}"),
    *("\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "\r", "\x00", "\x7f", "\b", "\x85", "\u2028"),
    *("\u202e", "\u2066", "\u200f", "\u061c", "[red]a[/]", "[/]", "[link=file:///x]"),
    *("<iframe src=//x>", "a | b", "$x$", "=1+1", "@SUM(A1)", "+1", "-1", "naïve 😀 漢字"),
    *("words", " ", "\n", "\t", ",", '"'),
)
LONE = ("\ud800", "\udc1b")
"""Lone surrogates, which no file in UTF-8 holds: JSON does, as escapes."""
FORMULA = "=+-@\t\r"
TURNS = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def hostile_text(random: np.random.Generator, *, lone: bool = False) -> str:
    """Return one to five fragments in a row."""
    fragments = [*FRAGMENTS, *(LONE if lone else ())]
    return "".join(random.choice(fragments, size=random.integers(1, 6)).tolist())


def require_plain(text: str, where: str) -> None:
    """Lose the case if a text holds what a terminal obeys or what reorders it."""
    for character in text:
        hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        if ord(character) in TURNS or (hidden and character not in "\n\t"):
            raise LostError(f"{where} holds {character!r}")


class Tags(HTMLParser):
    """Tags of a page that may run something, and the texts of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        if tag in ("img", "iframe", "object", "embed", "base", "form", "foreignobject"):
            self.wrong.append(tag)
        for name, value in attrs:
            leads_out = value not in (None, "data:,") and not re.fullmatch(r"#term-\d+", value)
            link = name in ("href", "src", "action") and leads_out
            if name.startswith("on") or link:
                self.wrong.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)
            self._in_script = False


def require_page(path: Path) -> None:
    """Lose the case if a file runs a text, or shows one raw."""
    text = path.read_bytes().decode("utf-8")  # with its carriage returns
    require_plain(text, path.name)
    if path.suffix == ".html":
        tags = Tags(text)
        allowed = re.findall(r"script-src 'sha256-([^']+)'", text[: text.find("<style")])
        found = [
            base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            for script in tags.scripts
        ]
        if tags.wrong or any(script not in allowed[:1] for script in found):
            raise LostError(f"{path.name} holds {tags.wrong or 'a script that is not its own'}")
    elif path.suffix == ".md":
        if wrong := re.search(r"<[a-zA-Z/!]|(?<!\\)\]\(", re.sub(r"`[^`\n]*`", "", text)):
            raise LostError(f"{path.name} holds {text[wrong.start() : wrong.start() + 30]!r}")
    elif path.suffix == ".csv":
        for row in csv.reader(text.splitlines(keepends=True)):
            for cell in row:
                if (
                    cell
                    and cell[0] in FORMULA
                    and not re.fullmatch(r"[-+]?[\d.]+(e[-+]\d+)?", cell)
                ):
                    raise LostError(f"{path.name} holds the formula {cell!r}")


def curves(folder: Path, random: np.random.Generator) -> list[str]:
    """Write curves under hostile names; return the command that reports them."""
    names = {"sparse": 0.0, hostile_text(random): 0.1, hostile_text(random): 0.2}
    column = hostile_text(random)
    with (folder / "made.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["credit", column, "seed", "step", "score"])
        for name, rise in names.items():
            writer.writerows(
                [name, column, seed, step, step * rise + seed / 7]
                for seed in range(2)
                for step in range(3)
            )
    return ["report", "--curves", f"{folder}/made.csv", "--out", f"{folder}/out"]


def episodes(folder: Path, random: np.random.Generator) -> list[str]:
    """Write hostile episodes; return the command that replays them."""
    rows = [
        {
            "prompt": hostile_text(random, lone=True),
            "prompt_ids": random.integers(4, 60, size=3).tolist(),
            "response": hostile_text(random, lone=True),
            "response_ids": random.integers(4, 400, size=24).tolist(),
        }
        for _ in range(3)
    ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = ["--rewards", "sparse", "uniform", "--env", "MovieReview"]
    return ["replay", "--episodes", f"{folder}/episodes.jsonl", *rules, "--out", f"{folder}/out"]


def compared(folder: Path, random: np.random.Generator) -> list[str]:
    """Write a comparison with hostile samples and errors; return the command that reports it."""
    runs = folder / "compared"
    runs.mkdir()
    for path in whole().joinpath("compared").rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".csv"):
            new = runs / path.relative_to(whole() / "compared")
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(path.read_bytes())
    for path in runs.rglob("episodes.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row |= {key: hostile_text(random, lone=True) for key in ("prompt", "response")}
            row["tokens"] = [hostile_text(random, lone=True) for _ in row.get("tokens", ())]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finished = min(runs.glob("*/seed-*/run.json"))  # of the others the errors are shown
    for path in sorted(runs.rglob("run.json")):
        record = json.loads(path.read_text())
        del record["files"], record["hash"]
        failed = {"status": "failed", "error": hostile_text(random)} if path != finished else {}
        write_hashed(path, record | failed)
    return ["report", str(runs), "--out", f"{folder}/out"]


def written(folder: Path, random: np.random.Generator) -> None:
    """Write the pages that no quick command writes: a constitution's, a heat map."""

    def text() -> str:
        return hostile_text(random, lone=True)

    out = folder / "out"
    figures = {"toxicity": 0.5, "toxicity_low": 0.4, "toxicity_high": 0.6}
    response = {"prompt": text(), "response": text()}
    results: dict[str, Any] = {
        "critic": text(),
        "judge": text(),
        "toxicity_measure": text(),
        "policies": {"base": figures, text(): figures},
        "pairs": {"pairs": 1, "prompts": 2},
        "reward_model": {"held_out": {"accuracy": 0.5}},
        "revisions": [0.5, 0.25],
        "revised": [
            {
                "response": response,
                "rounds": [{"critique": text(), "revision": {"response": text()}}],
            }
        ],
        "samples": [{"prompt": text(), "responses": {"base": text(), text(): text()}}],
    }
    write_reports(ConstitutionConfig(env="Detox"), results, out)
    tokens = [text() for _ in range(3)]
    page = render_html(text(), tokens, random.normal(size=3))
    (out / "map.html").write_text(page, encoding="utf-8", newline="")


COMMANDS: tuple[Callable[[Path, np.random.Generator], list[str]], ...] = (
    curves,
    episodes,
    compared,
)


def require_answered(status: int, printed: str, arguments: list[str]) -> None:
    """Lose the case unless a command ended well or with one line of error."""
    if status == 1 or "Traceback" in printed:
        raise LostError(f"{arguments[0]}: {printed.strip()[-300:]!r}")


def one_page(random: np.random.Generator) -> None:
    """Write the pages of one command over hostile texts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, kind = Path(scratch), int(random.integers(len(COMMANDS) + 1))
        (folder / "out").mkdir()
        if kind < len(COMMANDS):
            arguments = COMMANDS[kind](folder, random)
            status, printed = call(arguments)
            require_answered(status, printed, arguments)
        else:
            status, printed = 0, ""
            written(folder, random)
        pages = [path for path in (folder / "out").rglob("*") if path.is_file()]
        shown = [path for path in pages if path.suffix in (".html", ".md", ".csv")]
        if not shown and (not status or COMMANDS[kind] is compared):
            raise LostError(f"no page was written: {printed.strip()[-300:]!r}")
        for path in shown:
            require_page(path)


def wrong_names(folder: Path, random: np.random.Generator) -> list[str]:
    """Return a command whose arguments are hostile names."""
    name = hostile_text(random).replace("\x00", "")
    return [
        ["train", "--reward", f"sparse:{name}", "--out", f"{folder}/out"],
        ["train", "--env", f"x{name}", "--out", f"{folder}/out"],
        ["evaluate", f"{folder}/{name}"],
        ["compare", "--rewards", f"x{name}", "--out", f"{folder}/out"],
        ["replay", "--episodes", f"{folder}/{name}"],
        ["collect", "--agent", f"{folder}/{name}"],
        [f"x{name}"],
    ][random.integers(7)]


def wrong_file(folder: Path, random: np.random.Generator) -> list[str]:
    """Return a command that reads a data set with hostile prompts, or hostile columns."""
    path = folder / "data.jsonl"
    column = str(random.choice(["prompt", hostile_text(random)]))
    rows = [{column: hostile_text(random, lone=True)} for _ in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = ["--num-prompts", "2", "--n", "2", "--out", f"{folder}/out.jsonl"]
    return ["collect", "--dataset", str(path), *few]


def one_terminal(random: np.random.Generator) -> None:
    """Show hostile texts on the terminal: a command's results, or its one line of error."""
    kinds = (*COMMANDS, wrong_names, wrong_file)
    with tempfile.TemporaryDirectory() as scratch:
        kind = int(random.integers(len(kinds) + 1))
        if kind == len(kinds):
            tokens = [hostile_text(random, lone=True) for _ in range(3)]
            shown = render_ansi(hostile_text(random), tokens, random.normal(size=3))
            require_plain(re.sub(r"\x1b\[[\d;]*m", "", shown), "render_ansi")
            return
        arguments = kinds[kind](Path(scratch), random)
        status, printed = call(arguments)
        require_answered(status, printed, arguments)
        require_plain(printed, arguments[0])


def pages(count: int, seed: int) -> Outcome:
    """Try ``count`` sets of hostile pages."""
    return try_cases("pages", one_page, count, seed)


def terminal(count: int, seed: int) -> Outcome:
    """Try ``count`` hostile texts on the terminal."""
    return try_cases("terminal", one_terminal, count, seed)
