"""Slips of a user, each known to have broken a command: one line, and nothing hangs or leaves."""

import contextlib
import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import gymnasium as gym
import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.campaign.outcome import LostError, Outcome, try_cases
from tests.support.rewards.common import LengthScorer, make_episode
from tokengym.base.files import read_json, write_json
from tokengym.envs.prompts import conversation
from tokengym.envs.prompts.datasets import read_tables
from tokengym.evaluation.report import read_curves
from tokengym.lab.partners.calculator import Calculator
from tokengym.lab.replay.explore_requests import ExplorePage
from tokengym.lab.rules.mc import mc
from tokengym.rewards import RewardChoice, Rule
from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.pairs.read import read_pairs
from tokengym.scripts import cli

WORDS = ("<pad>", "<eos>", "a", "b", "good")


def tokenizer(splits_at: str = r"\s+", template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of a few words, split by a pattern, with a chat template."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(splits_at), "removed")
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", chat_template=template
    )


def made(**settings: Any) -> gym.Env[Any, Any]:
    """Return an environment of the few words."""
    usual: dict[str, Any] = {"tokenizer": tokenizer(), "prompts": ["a b"], "max_new_tokens": 2}
    return gym.make("tokengym/TokenGeneration-v0", **usual | settings)


def refused(call: Callable[[], Any], *words: str) -> None:
    """Lose the case unless a call is refused in one line that has some words.

    Raises:
        LostError: if it is not.
    """
    try:
        given = call()
    except (ValueError, TypeError) as error:
        said = str(error)
        if "\n" in said or not all(word in said for word in words):
            raise LostError(f"refused without {words}: {said[:300]!r}") from error
    except BaseException as error:
        raise LostError(f"{type(error).__name__} escapes: {error}") from error
    else:
        raise LostError(f"taken: {str(given)[:200]}")


@cache
def page() -> ExplorePage:
    """Return a page of explore."""
    return ExplorePage("MovieReview", {"max_new_tokens": 4})


@cache
def shown() -> str:
    """Return the name of a response that the page shows."""
    return str(answered("sample")()["shown"])


def answered(part: str, **sent: Any) -> Callable[[], Any]:
    """Return a request of the page; "sample" has the usual boxes but for those that are sent."""
    boxes: dict[str, Any] = {"env": page().env, "agent": "", "rules": ["sparse"]}
    boxes |= {"prompt": "the film", "seed": 0, "temperature": 1}
    return partial(page().answer, part, (boxes if part == "sample" else {}) | sent)


def a_rules_number() -> None:
    """Ask for more continuations, or orders, than any memory holds."""
    for word in ("mc:k=1000000000", "mc:k=1025", "scar:permutations=1000000000"):
        refused(partial(RewardChoice.of, word), word.partition("=")[2])
        refused(answered("sample", rules=[word]), "64 at most")
    episode, rule = make_episode(response_ids=(5,) * 99), Rule(mc, k=1024)
    inputs = Inputs([episode], scorer=LengthScorer())
    with mock.patch("psutil.virtual_memory") as memory:
        memory.return_value.available = 2**20
        refused(
            lambda: rule(inputs),
            *("continuations must be at most 1,024", "got 100,352"),
        )


def a_type_of_the_page() -> None:
    """Send numbers of other types than the page's boxes and buttons have."""
    name = shown()
    for index in ("0", 0.5, [0], True, None, -1, 10**30):
        refused(answered("choose", shown=name, index=index))
    for token_id in (3.7, "3", True, -1, 10**30):
        asked = answered("fork", shown=name, index=0, token_id=token_id, count=1)
        refused(asked, "token_id must be")
    asked = answered("fork", shown=name, index=0, token_id=3, count=1.5)
    refused(asked, "continuations must be a whole number")
    refused(answered("sample", seed=1.5), "seed must be a whole number")
    refused(answered("sample", rules={"sparse": 1}), "rules must be a list")


def a_panic() -> None:
    """Encode a text over which the tokenizer's own library panics."""
    text = "a" * 40
    refused(lambda: made(tokenizer=tokenizer("(a+)+b"), prompts=[text]), "breaks down")
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    words = tokenizer("(a+)+b", template)
    refused(lambda: made(tokenizer=words, chat_template=True, prompts=[text]), "breaks down")


class PanicException(BaseException):
    """Stands for the panic of a library in Rust."""


def a_panic_of_a_command() -> None:
    """Let a library panic under a command: one line, and the status of a fault."""

    def command() -> NoReturn:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    printed = io.StringIO()
    with mock.patch.dict(cli.COMMANDS, envs=command), contextlib.redirect_stderr(printed):
        status = cli.main(["envs"])
    said = printed.getvalue()
    if status != cli.FAULT or said.count("\n") != 1 or "error: PanicException: called" not in said:
        raise LostError(f"exit code {status}: {said!r}")


def an_exit(kind: str, **settings: Any) -> None:
    """Call ``sys.exit`` in a partner or a scorer."""
    env = made(**settings)
    env.reset(seed=0)
    refused(lambda: [env.step(1) for _ in range(2)], kind, "raised SystemExit")


def exits() -> None:
    """Leave from a partner, with and without a time limit, from a scorer and from a rule."""

    def partner(*_: Any) -> NoReturn:
        sys.exit(0)

    def scorer(prompt: str, response: str) -> NoReturn:
        sys.exit(3)

    for seconds in (None, 9.0):
        an_exit("partner", partner=partner, max_turns=2, partner_timeout=seconds)
    an_exit("scorer", scorer=scorer, reward="sparse")
    rule = mock.patch("tokengym.rewards.credits.rule.Rule.__call__", side_effect=SystemExit(0))
    with rule:
        an_exit("credit", scorer=lambda prompt, response: 1.0, reward="uniform")


def a_sum() -> None:
    """Let the policy write sums that no float holds, or that take long."""
    for asked in (
        f"calc {' * '.join(11 * ['9' * 29])} / 7 =",
        f"calc 1{' / 3' * 20_000} =",
        f"calc {'9' * 31} =",
        "calc 1 / (2 - 2) =",
    ):
        said = [{"role": "assistant", "content": asked}]
        reply = Calculator().reply(said, {}, np.random.default_rng(0))
        if reply.text != "error":
            raise LostError(f"{asked[:60]} gives {reply.text[:60]!r}")
    refused(lambda: made(partner="calculator:spaced=maybe"), "spaced", "'maybe'")


def a_lone_surrogate() -> None:
    """Let a scorer raise, and a record hold, a text that UTF-8 lacks."""

    def scorer(prompt: str, response: str) -> NoReturn:
        raise ValueError("lone \ud800 word")

    env = made(scorer=scorer, reward="sparse")
    env.reset(seed=0)
    refused(lambda: [env.step(1) for _ in range(2)], "scorer", "lone \ufffd word")
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch, "a.json"), {"error": "lone \ud800 word"})
        if read_json(Path(scratch, "a.json")) != {"error": "lone \ud800 word"}:
            raise LostError("a record with a lone surrogate is read as another one")


def a_pipe() -> None:
    """Put a pipe, which never ends, in the place of a run's spec."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "sparse/seed-0/spec.json")
        file.parent.mkdir(parents=True)
        os.mkfifo(file)
        refused(partial(read_json, file), "is a pipe or a device")
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            status = cli.main(["report", scratch, "--out", f"{scratch}/merged"])
        if status != cli.USER_ERROR or "is a pipe or a device" not in printed.getvalue():
            raise LostError(f"exit code {status}: {printed.getvalue()!r}")


def logs_of_other_tools() -> None:
    """Pass a pipe, and archives that unpack to more than they say or than memory holds, as logs."""
    with tempfile.TemporaryDirectory() as scratch:
        pipe = Path(scratch, "progress.csv")
        os.mkfifo(pipe)
        refused(lambda: read_curves(pipe), "is a pipe or a device")
        archive = Path(scratch, "evaluations.npz")
        header = io.BytesIO()
        shape = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 1)}
        np.lib.format.write_array_header_1_0(header, shape)
        arrays: dict[str, Any] = dict.fromkeys(
            ("timesteps", "results", "ep_lengths"), np.zeros((2 * 10**7, 1))
        )
        with zipfile.ZipFile(archive, "w") as made_up:
            for name in arrays:
                made_up.writestr(f"{name}.npy", header.getvalue())
        refused(lambda: read_curves(archive), "is no evaluations.npz")
        np.savez_compressed(archive, **arrays)
        with mock.patch("tokengym.envs.prompts.datasets.MAX_UNPACKED_BYTES", 10**8):
            refused(lambda: read_curves(archive), "unpacks to more than 100000000 bytes")


def an_endless_template() -> None:
    """Render chat templates that take too long, or write too much."""
    # The thread that is left behind takes a core until it ends, so it ends soon.
    loops = "{% for i in range(99) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with mock.patch.object(conversation, "TEMPLATE_S", 0.05):
        slow = tokenizer(template=loops)
        refused(lambda: made(tokenizer=slow, chat_template=True), "had not ended after 0.05 s")
    with mock.patch.object(conversation, "MAX_TEMPLATE_CHARACTERS", 50_000):
        long = tokenizer(template="{{ messages | tojson(indent=99999) }}")
        refused(lambda: made(tokenizer=long, chat_template=True), "more than 50,000")


def columns_and_pairs() -> None:
    """Name a column twice, and repeat and contradict pairs."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "pairs.csv")
        file.write_text("prompt,chosen,rejected,chosen\na,b,c,d\n")
        refused(lambda: read_tables(file), "the column 'chosen' twice")
        file = Path(scratch, "pairs.jsonl")
        row: dict[str, Any] = {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1e308}
        file.write_text(json.dumps(row))
        refused(lambda: read_pairs(file), "'margin' must be a number from 0 to 1,000,000")
        other = {"prompt": "a", "chosen": "c", "rejected": "b"}
        rows = 3 * [row | {"margin": 0.0}] + [other]
        with mock.patch("tokengym.rewards.pairs.read._LOG") as log:
            read_pairs(rows)
        said = log.warning.call_args[0][0]
        if not said.startswith("of 4 pairs 2 repeat another and 2 have the responses of another"):
            raise LostError(f"of repeated pairs it says {said!r}")


SLIPS: dict[str, Callable[[], None]] = {
    slip.__name__: slip
    for slip in (
        *(a_rules_number, a_type_of_the_page, a_panic, a_panic_of_a_command, exits, a_sum),
        *(a_lone_surrogate, a_pipe, logs_of_other_tools, an_endless_template, columns_and_pairs),
    )
}


def slips(count: int, seed: int) -> Outcome:
    """Try ``count`` of the slips, in turn."""
    names = list(SLIPS)
    numbers = iter(range(seed, seed + count))
    return try_cases("slips", lambda _: SLIPS[names[next(numbers) % len(names)]](), count, seed)
