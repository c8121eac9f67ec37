"""``tokengym label``: a person says which of two responses is better."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tokengym.lab.commands.train_reward import PairOptions
from tokengym.scripts.commands import takes_settings

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.lab.label import Labels, Question


def label_settings() -> dict[str, Any]:
    """Return the default settings of reading pairs."""
    return {"reading": PairOptions()}


@takes_settings(label_settings)
def label(
    pairs: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PAIRS")],
    who: str = "me",
    out: Path = Path("runs/labels"),
    once: bool = False,
    *,
    reading: PairOptions,
) -> None:
    """Ask which of two responses is better, and write the pairs that the answers agree on.

    Every pair is asked in both orders, and which response the file prefers is not shown. Each
    answer is stored at once; the same command continues. The pairs are written to pairs.jsonl in
    the folder, for train-reward and train --agent dpo.

    For example:
      tokengym collect --env MovieReview --num-prompts 40 --n 2 --out candidates.jsonl
      tokengym label candidates.jsonl --who ann
      tokengym label candidates.jsonl --who bob
      tokengym train-reward --pairs runs/labels/pairs.jsonl

    Args:
        pairs: A csv, tsv, json, jsonl or parquet file with prompts and two responses each.
        who: Your name; the agreement with everyone else who answered is shown.
        out: Folder of the answers of all people.
        once: Ask each pair in one order only, which halves the work and hides a habit of
            preferring what stands first.
        reading: Settings of reading the pairs.
    """
    from tokengym.lab.label import KEPT, Labels
    from tokengym.scripts.commands import say, terminal

    console = terminal(highlight=False)
    labels = Labels(reading.read(pairs), out, who=who, once=once)
    console.print("a or b: that one is better; s: skip; u: undo; q: quit", style="dim")
    while waiting := labels.waiting():
        if not _ask(console, labels, waiting[0]):
            break
    if labels.answers:  # by what is asked now, even where nothing was left to ask
        labels.write()
    console.print()
    for what, share in labels.report():
        say(console, f"{what:<24} {share}")
    say(console, f"{len(labels.kept())} of {len(labels.pairs)} pairs in {out / KEPT}")


def _ask(console: "Console", labels: "Labels", question: "Question") -> bool:
    """Ask one question; return whether to continue."""
    from rich.text import Text

    from tokengym.envs import printable

    pair, total = labels.pairs[question.pair], len(labels.questions)
    console.print(f"\n[{total - len(labels.waiting()) + 1}/{total}]", style="dim", markup=False)
    console.print(Text(printable(pair.prompt), "bold"))
    for key, side in (("a", question.first), ("b", question.second)):
        text = pair.chosen if side == "chosen" else pair.rejected
        console.print(Text(f"  {key}  ", "bold").append(printable(text.strip()), "default"))
    while True:
        try:
            said = console.input("a, b, s, u or q? ").strip().lower()
        except EOFError:
            return False
        if said in ("a", "b", "s"):
            sides = {"a": question.first, "b": question.second, "s": None}
            labels.answer(question, sides[said])
            return True
        if said == "u":
            if not labels.undo():
                console.print("there is nothing to undo")
            return True
        if said == "q":
            return False
