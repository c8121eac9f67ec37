"""``tokengym audit``: an advantage estimator against exact gradients."""

import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from tokengym.lab.audit import Audit


def audit(
    subject: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE.py:FUNCTION|NAME")],
    place: Literal["advantage", "weights", "loss"] = "advantage",
    adapter: str | None = None,
    pays: Literal["tokens", "outcome", "advantages"] = "tokens",
    non_negative: bool = False,
    numpy: bool = False,
    out: Path | None = None,
) -> int:
    """Check an advantage estimator, a weight or a loss against gradients that are known.

    It is asked for the advantages of random small trees, whose exact gradient is known. Where its
    expected update is not along that, the smallest tree that shows it is printed. Exits with 1 if
    it fails, with 2 if the function cannot be called.

    For example:
      tokengym audit estimators.py:mine
      tokengym audit estimators.py:compute_advantage --adapter verl --pays outcome
      tokengym audit ideas.py:my_weight --place weights

    Args:
        subject: Function or class in a file of your own, "path/to/file.py:function", with options
            behind a colon as advantage= takes them, or a registered estimator or weight by name.
            It gets by name those that it names of token_rewards, response_mask, values, turn_ids,
            response_ids, log_probs, entropy (batch, time), scores, group_ids (batch,), group_size,
            gamma and others, and returns advantages. One that @tokengym.token_credit marks is
            called as PPO calls it: columns are a row's own tokens.
        place: What it returns: advantages; "weights" on the advantages that it may read; or the
            "loss" of each token, which is judged by its gradient.
        adapter: Family of signatures: tokengym, verl, trl, openrlhf, turns, nemo-rl, steps or
            groups (default: found by the names of the arguments).
        pays: What its documentation promises of token rewards: any, one "outcome" a response, or
            "advantages" that a rule has measured already.
        non_negative: Whether it promises that no reward is below 0.
        numpy: Pass arrays instead of tensors.
        out: File of the verdict, JSON.
    """
    from tokengym.base import write_json
    from tokengym.lab.audit import (
        AuditError,
        check_estimator,
        registered,
        registered_loss,
        registered_weights,
    )
    from tokengym.rewards import is_token_credit
    from tokengym.scripts.commands import say, terminal

    in_file = ".py:" in subject or subject.endswith(".py")
    function = _of_file(subject) if in_file else None
    marked = adapter is None and is_token_credit(function)
    asked: Any = function
    if place == "weights" and adapter is None and not numpy and (marked or function is None):
        asked, place = registered_weights(function or subject), "advantage"
    elif place == "advantage" and (marked or function is None):
        asked = registered(function or subject)
    elif place == "loss" and function is None:
        asked = registered_loss(subject)
    elif function is None:
        raise AuditError(f"no {place} is registered as {subject!r}; name FILE.py:FUNCTION")
    result = check_estimator(
        asked,
        place=place,
        adapter=adapter,
        name=subject,
        pays=pays,
        non_negative=non_negative,
        numpy=numpy,
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
    """Print the verdict, and the tree that shows a fault."""
    from rich.text import Text

    lines = str(result).splitlines()
    console.print(Text(lines[0], "green" if result.holds else "red"))
    for line in lines[1:]:
        console.print(Text(line))
    console.print(Text(f"{result.seconds:.1f} s"))
