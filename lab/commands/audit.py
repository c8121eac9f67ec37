"""``tokengym audit``: an advantage estimator against exact gradients."""

import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.lab.audit import Audit, CheckResult


def audit(
    subject: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE.py:FUNCTION|NAME")],
    adapter: str | None = None,
    pays: Literal["tokens", "outcome", "advantages"] = "tokens",
    non_negative: bool = False,
    group_sizes: tuple[int, ...] = (2, 4, 8, 16),
    checks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CHECK ...")] = (),
    numpy: bool = False,
    draws: int = 0,
    out: Path | None = None,
) -> int:
    """Check an advantage estimator against gradients that are known.

    Eight questions, each answered exactly, by going through every batch that a small policy can
    draw: token rewards, turns, length, groups, masks, a discount, a shared prefix, large rewards.
    Exits with 1 if a check fails, with 2 if the function cannot be called.

    For example:
      tokengym audit estimators.py:mine
      tokengym audit estimators.py:compute_advantage --adapter verl --pays outcome
      tokengym audit loo --out audit.json

    Args:
        subject: Function or class in a file of your own, "path/to/file.py:function", with options
            behind a colon as advantage= takes them, or a registered estimator by name. It gets by
            name those that it names of token_rewards, response_mask, values, turn_ids,
            response_ids, log_probs, entropy (batch, time), scores, group_ids (batch,), group_size,
            gamma and others, and returns advantages. One that @tokengym.token_credit marks is
            called as PPO calls it: columns are a row's own tokens.
        adapter: Family of signatures: tokengym, verl, trl, openrlhf, turns, nemo-rl, steps or
            groups (default: found by the names of the arguments).
        pays: What its documentation promises of token rewards: any, one "outcome" a response, or
            "advantages" that a rule has measured already.
        non_negative: Whether it promises that no reward is below 0.
        group_sizes: Responses to a prompt, two sizes or more.
        checks: Some of "token rewards", turns, length, groups, "masks and replies", discount,
            "shared prefix" and "large rewards" (default: all).
        numpy: Pass arrays instead of tensors.
        draws: Drawn batches of each case, in place of all that there are: for a function that
            remembers or draws, which is judged by intervals.
        out: File of all figures, JSON.
    """
    from tokengym.base import write_json
    from tokengym.lab.audit import check_estimator, registered
    from tokengym.rewards import is_token_credit
    from tokengym.scripts.commands import say, terminal

    in_file = ".py:" in subject or subject.endswith(".py")
    function = _of_file(subject) if in_file else None
    marked = adapter is None and is_token_credit(function)
    result = check_estimator(
        function if function is not None and not marked else registered(function or subject),
        adapter=adapter,
        name=subject,
        pays=pays,
        non_negative=non_negative,
        group_sizes=group_sizes,
        checks=checks,
        numpy=numpy,
        draws=draws,
    )
    console = terminal()
    show(result, console)
    if out is not None:
        write_json(out, result.to_dict())
        say(console, str(out))
    return int(not result.holds)


def _of_file(subject: str) -> Any:
    """Return what a word names in a file: a function with its options, a class called with them."""
    from tokengym.agents.ppo import ADVANTAGES
    from tokengym.base import running_user_code
    from tokengym.lab.audit import load_function

    if "::" in subject or not subject.partition(".py:")[1]:  # as pytest names it, or a bare file
        return load_function(subject)
    word = ADVANTAGES.parse(subject)
    made: Any = load_function(word.without_options)
    options, of_call = dict(word.options), list[str]()
    if isinstance(made, type):
        of_call = list(inspect.signature(made.__call__).parameters)
    if options:
        ADVANTAGES.check_options(word, made, also=tuple(of_call))
    if isinstance(made, type):
        names = inspect.signature(made).parameters
        given = {name: options.pop(name) for name in names if name in options}
        with running_user_code(f"advantage {word.without_options} cannot be made", word.file):
            made = made(**given)
    return partial(made, **options) if options else made


def show(result: "Audit", console: "Console") -> None:
    """Print the verdicts as a table, and a sentence on each below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("check", "verdict", "scale", "bias", "noise", "best stays"):
        table.add_column(column)
    styles = [
        "red" if check.fails else "green" if check.applies else "dim" for check in result.checks
    ]
    for check, style in zip(result.checks, styles, strict=True):
        table.add_row(check.name, Text(check.verdict, style), *figures(check))
    console.print(table)
    console.print(Text(f"\n{result.name}"))
    for check, style in zip(result.checks, styles, strict=True):
        console.print(Text.assemble("  ", (f"{check.name}: ", style), "\n    ".join(check.lines)))
    for kind in result.kinds:
        console.print(Text(f"  its mistake: {kind}", "red"))
    for note in result.notes:
        console.print(Text(f"  {note}"))
    failing = [check.name for check in result.checks if check.fails]
    applied = sum(check.applies for check in result.checks)
    end = f"fails {', '.join(failing)}" if failing else f"holds in the {applied} that apply to it"
    console.print(Text(f"{end}; {result.seconds:.1f} s"))


def figures(check: "CheckResult") -> tuple[str, str, str, str]:
    """Return scale, bias and noise in the largest groups, and whether the best stays, as cells.

    Least and greatest scale of the cases, the greatest bias, and the greatest noise with that of
    exact values after it.
    """
    if not any(case.bias for case in check.cases):
        return "", "", "", ""  # not asked, or judged by draws
    scales = [case.scale[-1] for case in check.cases if case.scale and case.scale[-1] is not None]
    biases = [case.bias[-1] for case in check.cases if case.bias]
    noises = [
        (case.noise, case.ideal_noise)
        for case in check.cases
        if case.noise is not None and case.ideal_noise is not None
    ]
    low, high = min(scales, default=0.0), max(scales, default=0.0)
    stays = [case.best_stays for case in check.cases if case.best_stays is not None]
    scale = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
    bias = max(biases)
    noise, ideal = max(noises, default=(float("inf"), 0.0))
    return (
        scale,
        "0" if bias < 0.0005 else f"{bias:.1%}",
        f"{noise:.1f} ({ideal:.1f})",
        ("yes" if all(stays) else "no") if stays else "",
    )
