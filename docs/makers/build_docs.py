"""Writes the pages of the environments and of the names that a rule reads.

Everything on them comes from the docstrings, the settings, the spaces and the tasks, so they cannot
say what the code does not. So do the types of keywords, the files of `build_keywords`. The
repository's address, once known, is written where it is named. Pages of the commands, the metrics
and the public names are written when the site is built (`SITE`):

    python -m docs.makers.build_docs [--out docs] [--check]
"""

import argparse
import csv
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import cache, partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import docstring_parser
import gymnasium

from docs.makers import build_episodes, build_keywords, public_names
from tokengym.base.bundle import PARTS
from tokengym.envs import GenerationSettings, TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.envs.tasks import Task, TaskOptions, registered_tasks
from tokengym.evaluation.measure.measures import MEASURES, NUMBERS, OF_ERROR, OF_POLICY
from tokengym.registration import EnvReward, make_env
from tokengym.rewards.credits.names import NAMES, PLACES, SUPPLIERS, places_of
from tokengym.scripts.cli import command_names, find_command
from tokengym.scripts.commands.options import Option, options_of
from tokengym.version import REPOSITORY

FOLDER = Path("docs")
_ROOT = Path(__file__).resolve().parents[2]
_NOTICE = "<!-- Written by `python -m docs.makers.build_docs` from the docstrings: edit those. -->"
_SECTIONS = (
    "Observation Space",
    "Action Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Information",
)
_DELIVERY = (
    "With a reward, the return is the score. `step` returns 0 until the end and the whole score "
    'then, while `info["token_rewards"]` says what each token earned; '
    "[causal credit](../rewards/credits.md#when-a-token-is-paid) is paid token by token."
)
_BLOCK = re.compile(r"(Args|Returns|Raises|Example|Source|Yields):")
_NAMES_HEADER = ["name", "shape", "unit", "what it is"]
_HEADER = ["argument", "type", "default", "meaning"]
_ADDRESSED = {
    "README.md": ("  version = {", "  url     = {{{}}},\n"),
    "CITATION.cff": ("license: ", 'repository-code: "{}"\n'),
    "pyproject.toml": ("[project.scripts]", '[project.urls]\nRepository = "{}"\n\n'),
}
"""Files of the root that name the repository: what the line stands before, and the line."""
_LISTINGS = ".github/listings.md"
_FULL = "compare"
"""Command whose page describes the options that others share with it."""
_OF_POLICY = (
    "`gym.make` does not know who will play, and takes a rule that reads these. Who cannot supply "
    "them is refused before a token is written: an agent of `compare` before the first run, an "
    "environment whose rewards are paid where no learner sees them when a learner is made, and "
    "whoever calls `env.step` or `collect` at the first step. Agents of Stable-Baselines3 and "
    "others with `predict` alone give none of the three; one of your own that calls "
    "`tokengym.agents.bind_policy` gives `continue_from`."
)
"""Where a rule that reads names of the policy is refused."""
_PUBLISHED = {
    "earlier/best_of_n.csv": ("MovieReview",),
    "overoptimisation/best_of_n.csv": ("Dialogue", "Summarize"),
    "earlier/tasks.csv": ("Detox", "Oracle", "QuestionAnswer"),
}
"""Published data of tasks without training, and the tasks that are taken from each."""
_TITLES = {
    "Detox": "Detoxification",
    "Dialogue": "Dialogues",
    "Forks": "Forks: puzzles that a few tokens decide",
    "MovieReview": "Movie reviews",
    "Oracle": "Oracle: words of known worth",
    "QuestionAnswer": "Questions and answers",
    "ReasoningGym": "Reasoning problems",
    "Summarize": "Summaries",
    "TokenGeneration": "Your own text",
}
"""What people call the tasks."""
_EXAMPLE = """```python
import gymnasium
import tokengym

env = gymnasium.make("{id}", render_mode="ansi")
observation, info = env.reset(seed=0)
over = False
while not over:
    action = env.action_space.sample(info["action_mask"])
    observation, reward, terminated, truncated, info = env.step(action)
    over = terminated or truncated
print(env.render(), info["score"], info["token_rewards"])
```"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pages, or with ``--check`` only say whether they are current.

    Args:
        argv: The command line; None takes the process's.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the pages")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if one is stale")
    options = parser.parse_args(argv)
    stale = []
    files = {options.out / name: write for name, write in PAGES.items()}
    files |= {_ROOT / name: partial(build_keywords.text, name) for name in build_keywords.FILES}
    files |= {_ROOT / name: partial(addressed, name) for name in (*_ADDRESSED, _LISTINGS)}
    for file, write in files.items():
        text = write()
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(str(file))
            if not options.check:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
    if options.check:
        sys.exit(f"not current: {', '.join(stale)}; leave out --check" if stale else 0)
    print(f"written: {', '.join(stale)}" if stale else "all pages were current")


def page() -> str:
    """Return the reference page, markdown."""
    tasks = registered_tasks()
    parts = {name: _markdown(text) for name, text in class_sections(TokenGenerationEnv).items()}
    parts["Rewards"] += f"\n\n{_DELIVERY}"
    rows = [
        [
            f"[{title_of(task.name)}]({task.name.lower()}.md)<br>`{task.name}`",
            task.summary + _of_lab("tokengym.tasks", task.name),
        ]
        for task in tasks
    ]
    blocks = [
        _NOTICE,
        "# Environments",
        "Every task is the same Markov decision process with its own prompts, models and score. "
        "This page describes what they share; the [arguments of `make`](../reference/make.md) have "
        "another. The id of `MovieReview` is `tokengym/MovieReview-v0`, and so on. What is marked "
        "(lab) comes with `pip install ./lab`.",
        _table(["task", "what it asks"], rows),
        parts["Description"],
        f"## Example\n\n{_EXAMPLE.format(id='tokengym/MovieReview-v0')}",
        *(f"## {name}\n\n{parts[name]}" for name in _SECTIONS),
    ]
    return "\n\n".join(blocks) + "\n"


def make_page() -> str:
    """Return the reference page of the arguments and methods of every environment, markdown."""
    blocks = [
        _NOTICE,
        "# Arguments of make",
        "`gymnasium.make` takes these for every [task](../environments/README.md), by keyword:",
        _table(_HEADER, list(_arguments())),
        "`gymnasium.make_vec` takes these too:",
        _table(_HEADER, list(_batch_arguments())),
        "## Methods\n\nOf `env.unwrapped`, beside Gymnasium's own:",
        _table(["method", "what it does"], list(_methods(TokenGenerationEnv))),
    ]
    return "\n\n".join(blocks) + "\n"


def task_page(task: Task) -> str:
    """Return the page of one task, markdown."""
    blocks = [_NOTICE, f"# {title_of(task.name)}", section(task)]
    if task.name in build_episodes.RULES:
        episode = build_episodes.read()[task.name]
        blocks += [
            "## Three responses",
            "To one prompt: by the bundled policy, by the same after "
            f"`{episode['command']}`, and the best scored of {build_episodes.DRAWN} by the bundled "
            f"one. `{episode['rule']}` pays blue tokens and blames orange ones.",
            build_episodes.as_text(task.name),
            _against_best(episode),
            f"![{title_of(task.name)}: a trained response, written token by token]"
            f"(../images/episodes/{task.name.lower()}.svg)",
        ]
    if facts := list(known_facts(task)):
        blocks += ["## Known facts", _table(["policy", "score", "gold score"], facts)]
    blocks.append(
        "Observations, actions, `info` and an example: [environments](README.md); "
        "[arguments of every task](../reference/make.md)."
    )
    return "\n\n".join(blocks) + "\n"


def _against_best(episode: dict[str, Any]) -> str:
    """Return what the trained response's score says beside that of the best of several."""
    trained, best = (episode[stage]["score"] for stage in build_episodes.STAGES[1:])
    both = f"(score {trained:.2f} against {best:.2f})"
    drawn = build_episodes.DRAWN
    if trained >= best:
        return f"The one trained response is as good as the best of {drawn} {both}."
    return (
        f"After a minute of training one response does not reach the best of {drawn} {both}. "
        "Longer training passes it [on some tasks](../results/tasks.md)."
    )


def title_of(task: str) -> str:
    """Return what people call a task; the name that is typed, of one that has no other."""
    return _TITLES.get(task, task)


def known_facts(task: Task) -> Iterator[tuple[str, str, str]]:
    """Yield what the published data say of a task without training: level, score, gold score."""
    for source, per_task in _PUBLISHED.items():
        with (_ROOT / "docs" / "results" / source).open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("task", task.name) == task.name]
        if task.name not in per_task:
            continue
        for n, name in (("1", "untrained policy"), ("16", "best of 16 responses, untrained")):
            found = [row for row in rows if row.get("n", "1") == n and row.get("step", "0") == "0"]
            if found:
                score, gold = (
                    f"{sum(float(row[column]) for row in found) / len(found):.2f}"
                    for column in ("score", "gold_score")
                )
                yield f"[{name}](../results/{source.rsplit('/', 1)[0]}.md)", score, gold
        return


def _of_lab(group: str, name: str) -> str:
    """Return the mark of an entry that the laboratory brings, "" of the suite's own."""
    theirs = distribution("tokengym-lab").entry_points.select(group=group)
    return " (lab)" if name in theirs.names else ""


def command_line() -> str:
    """Return the site's page that lists the commands, markdown."""
    rows = []
    for name in command_names():
        first = (inspect.getdoc(find_command(name)) or "").partition("\n\n")[0]
        said = _cell(first) + _of_lab("tokengym.commands", name)
        rows.append((f"[`tokengym {name}`](commands/{name}.md)", said))
    blocks = [
        "# Command line",
        "`tokengym COMMAND --help` shows the options that most need, for the task and the learner "
        "that are named, and `--help-all` all of them. The pages have those of PPO, with the "
        "defaults of MovieReview; `tokengym train dpo --help-all` has another learner's. What is "
        "marked (lab) comes with `pip install ./lab`.",
        "What is wrong with a command is said in one line; `TOKENGYM_TRACEBACK=1 tokengym ...` "
        "shows the traceback. The exit status is 0, or 1 for a fault of the program and for runs "
        "that failed, 2 for a mistake in the input, and 130 after Ctrl-C.",
        _table(["command", "what it does"], rows),
    ]
    return "\n\n".join(blocks) + "\n"


def command_page(name: str) -> str:
    """Return the reference page of one command, markdown."""
    command = find_command(name)
    text = (inspect.getdoc(command) or "").partition("\nArgs:")[0].strip()
    said, _, examples = text.partition("\n\nFor example:\n")
    rows, said_there = [], []
    for option in options_of(command):
        row = _option(option)
        if name == _FULL or (row[0], row[2]) not in _said_of_compare():
            rows.append(row)
        else:
            same = row[1] == _said_of_compare()[row[0], row[2]]
            said_there.append(row[0] if same else f"{row[0]} (here {row[1] or 'none'})")
    lines = [line for line in textwrap.dedent(examples).splitlines() if line]
    lines = [re.sub(r"(\S) {3,}", r"\1  # ", line) for line in lines]
    blocks = [
        f"# tokengym {name}",
        _markdown(said),
        "```bash\n" + "\n".join(lines) + "\n```",
        _table(["option", "default", "meaning"], rows),
    ]
    if said_there:
        blocks.append(f"As in [`tokengym {_FULL}`]({_FULL}.md): {', '.join(said_there)}.")
    return "\n\n".join(blocks) + "\n"


@cache
def _said_of_compare() -> dict[tuple[str, str], str]:
    """Return the defaults on the page of `_FULL`, by option and meaning."""
    rows = map(_option, options_of(find_command(_FULL)))
    return {(name, meaning): default for name, default, meaning in rows}


def _option(option: Option) -> tuple[str, str, str]:
    """Return the cells of one command-line option; choices are listed behind its meaning."""
    values, default, meaning = option.values, option.default, option.text
    name = "" if option.is_positional else f"--{option.flag}"
    if values.startswith("{"):
        choices = ", ".join(f"`{value}`" for value in values.strip("{}").split(","))
        values, meaning = "", f"{meaning} One of {choices}."
    shown = "" if default in (None, ()) else f"`{_cell(_plain(default))}`"
    shown = "required" if default is inspect.Parameter.empty else shown
    return f"`{_cell(f'{name} {values}'.strip())}`", shown, _cell(meaning)


def metrics() -> str:
    """Return the reference page of the measurements, markdown."""
    rows = [
        (
            f"`{m.name}`",
            _cell(m.meaning),
            m.unit,
            m.better or "-",
            m.policy,
            m.error_by or "none",
            _cell(m.missing) or "-",
            "yes" if m.recorded else "",
        )
        for m in MEASURES.values()
    ]
    numbers = [
        (f"{n.words} (`{n.name}`)", _cell(n.meaning), _cell(n.error)) for n in NUMBERS.values()
    ]
    blocks = [
        "# Metrics",
        "Measurements of a frozen policy on held-out prompts, by the raw score, never by the token "
        "rewards. `evaluate(...).metrics` has them by name; those marked are columns of "
        "`curves.csv`. [A metric of your own](../extending.md#a-metric) is one function. Words are "
        "runs of letters and runs of punctuation; in Chinese, Japanese, Thai, Lao, Khmer and "
        "Burmese, which have no spaces between words, each character with its marks is one.",
        "A value that is missing is left out, of means too, and is never 0. The two tables behind "
        "this one say what its words stand for. Files of 0.2.0 and before count a response of "
        "fewer than three words as 0 in `repetition` and `copy_rate`, and responses without words "
        "as 1 in `distinct_1` and `distinct_2`; these columns are read as they are.",
        _table(
            ["name", "meaning", "unit", "better", "of", "error", "missing", "in curves.csv"], rows
        ),
        _table(["of", "policy, sampler and prompts"], list(OF_POLICY.items())),
        _table(["error", "how it is found"], [(n or "none", said) for n, said in OF_ERROR.items()]),
        "## Figures of a run",
        "A comparison takes these numbers from each learning curve, and compares rules by them. "
        "Beside each the report has its interval, and behind ± its standard error of measuring:",
        _table(["figure", "meaning", "how sure it is"], numbers),
    ]
    return "\n\n".join(blocks) + "\n"


def names() -> str:
    """Return the page of the names that a function of token credit may read, markdown."""
    blocks = [
        _NOTICE,
        "# Names that a rule reads",
        "A function of token credit gets what its parameters name: a "
        "[rule](../guide/idea.md) under `reward=` and `--rewards`, an "
        "estimator under `advantage=`, a weight under `weights=`, a policy loss under `loss=`; the "
        "last columns say where a name is. Any other name is a column of the data. Columns of a "
        "tensor are the tokens that the policy wrote, from 0; past a row's end values are 0. Under "
        "`reward=` they are in float64, so that a row earns the same bits in any batch, but for "
        "the last ones of what a model's pass says, which other sizes of the batch may change; "
        "under the others in float32, on the policy's device.",
    ]
    for supplier, said in SUPPLIERS.items():
        rows = [
            (
                *(f"`{name}`", f"`{one.shape}`", one.unit or "-", _cell(one.meaning)),
                *("yes" if place in places_of(name) else "no" for place in PLACES),
            )
            for name, one in NAMES.items()
            if one.supplier == supplier
        ]
        if rows:
            blocks += [f"## From {said.partition(':')[0]}", _table([*_NAMES_HEADER, *PLACES], rows)]
            if remedy := said.partition(":")[2].strip():
                blocks.append(f"Where it is missing: {remedy}.")
            if supplier == "policy":
                blocks.append(_OF_POLICY)
    return "\n\n".join(blocks) + "\n"


def section(task: Task) -> str:
    """Return the part of the page that tells of one task, markdown."""
    env: Any = gymnasium.make(task.id, reward=None).unwrapped
    class_parts = class_sections(task.env_class) if task.env_class is not TokenGenerationEnv else {}
    blocks = [
        task.summary,
        _table(["what", "value"], list(_overview(task, env))),
        _markdown(task.description or class_parts.get("Description", "")),
        _markdown(task.rewards),
    ]
    if class_parts:
        texts = arguments(task.env_class) | field_texts(task.settings)
        parameters = inspect.signature(task.env_class).parameters
        common = inspect.signature(TokenGenerationEnv).parameters
        rows = [
            _row(name, one.annotation, one.default, texts[name])
            for name, one in parameters.items()
            if name not in common
        ]
        methods = set(_methods(task.env_class)) - set(_methods(TokenGenerationEnv))
        blocks += [
            "Further arguments, and the settings above but for prompts and tokenizer:",
            _table(_HEADER, rows),
            "Further methods of `env.unwrapped`:",
            _table(["method", "what it does"], sorted(methods)),
            _own_example(task.env_class),
        ]
    return "\n\n".join(blocks)


def _overview(task: Task, env: Any) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table at the head of a task."""
    yield "Make", f'`gymnasium.make("{task.id}")`'
    yield "Action space", f"`{env.action_space}`"
    yield "Observation space", f"`{env.observation_space}`"
    yield "Default reward", f"`{task.reward!r}`"
    bundle = env.bundle
    if task.bundle is None or task.read_dataset is not None:
        yield "Prompts", str(len(env.prompts))
    else:
        counts = [f"{len(bundle.prompts(split)):,} {split}" for split in ("train", "test")]
        yield "Prompts", ", ".join(counts)
    models = [part for part in PARTS if part not in ("tokenizer", "prompts") and bundle.has(part)]
    yield "Bundled models", ", ".join(f"`{part}`" for part in models)


def _arguments() -> Iterator[tuple[str, ...]]:
    """Yield the rows of ``gymnasium.make``'s arguments: name, type, default, meaning."""
    texts = arguments(make_env) | arguments(TokenGenerationEnv) | field_texts(GenerationSettings)
    texts |= field_texts(EnvReward) | field_texts(TaskOptions)
    shown = {"task"}
    parameters = inspect.signature(make_env).parameters
    for name in dict.fromkeys(("reward", *parameters)):
        if name not in shown:
            shown.add(name)
            default = "of the task" if name == "reward" else parameters[name].default
            yield _row(name, parameters[name].annotation, default, texts[name])
    for name, one in inspect.signature(TokenGenerationEnv).parameters.items():
        if name not in shown | {"prompt_shard"}:
            yield _row(name, one.annotation, one.default, texts[name])


def _batch_arguments() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the arguments that only ``gymnasium.make_vec`` has."""
    texts = arguments(TokenGenerationVectorEnv)
    parameters = inspect.signature(TokenGenerationVectorEnv).parameters
    for name in ("num_envs", "autoreset_mode", "copy"):
        yield _row(name, parameters[name].annotation, parameters[name].default, texts[name])


# --- docstrings -----------------------------------------------------------------------------------


def sections(owner: Any) -> dict[str, str]:
    """Return the ``## Heading`` parts of a docstring, and what stands before them under "".

    The Google blocks at its end (Args, Raises, ...) are in none of them.
    """
    lines_by_heading: dict[str, list[str]] = {"": []}
    heading: str | None = ""
    for line in (inspect.getdoc(owner) or "").splitlines():
        if line.startswith("## "):
            heading = line[3:].strip()
            lines_by_heading[heading] = []
        elif _BLOCK.match(line):
            heading = None
        elif heading is not None:
            lines_by_heading[heading].append(line)
    return {name: "\n".join(lines).strip() for name, lines in lines_by_heading.items()}


def class_sections(cls: type) -> dict[str, str]:
    """Return `sections` of a class, those that it leaves out taken from its bases."""
    merged: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        if owner.__module__.startswith("tokengym.") and owner.__doc__:
            merged |= sections(owner)
    return merged


def arguments(owner: Any) -> dict[str, str]:
    """Return what a docstring's "Args:" says of each argument, as one line."""
    documented = docstring_parser.parse(owner.__doc__).params
    return {one.arg_name: " ".join((one.description or "").split()) for one in documented}


def field_texts(declared: type) -> dict[str, str]:
    """Return the text below each field of a dataclass, as one line; bases included."""
    return {
        one.arg_name: " ".join((one.description or "").split())
        for cls in reversed(declared.__mro__[:-1])
        for one in docstring_parser.parse_from_object(cls).params
    }


# --- cells ----------------------------------------------------------------------------------------


def _methods(cls: type) -> Iterator[tuple[str, str]]:
    """Yield the rows of a class's own public methods and properties."""
    owners = [owner for owner in cls.__mro__ if owner.__module__.startswith("tokengym.")]
    names = {name for owner in owners for name in vars(owner) if not name.startswith("_")}
    for name in sorted(names - {"metadata", "reset", "step"}):
        member = inspect.getattr_static(cls, name)
        text = (inspect.getdoc(member) or "").partition("\n\n")[0]
        signature = "" if isinstance(member, property) else _signature(member)
        yield f"`{name}{signature}`", _cell(text)


def _own_example(cls: type) -> str:
    """Return the example of an environment class's docstring."""
    _, _, block = (inspect.getdoc(cls) or "").partition("\nExample:\n")
    return f"```pycon\n{textwrap.dedent(block).strip()}\n```"


def _row(name: str, annotation: Any, default: Any, text: str) -> tuple[str, ...]:
    """Return the cells of one argument."""
    shown = f"{type(default).__name__}.{default.name}" if isinstance(default, Enum) else default
    return (
        f"`{name}`",
        f"`{_cell(str(annotation))}`",
        f"`{shown if isinstance(default, Enum) else repr(default)}`",
        _cell(text),
    )


def _signature(function: Any) -> str:
    """Return a method's arguments without types."""
    shown = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name != "self":
            given = parameter.default is not parameter.empty
            shown.append(f"{name}={parameter.default!r}" if given else name)
    return f"({', '.join(shown)})"


def addressed(name: str, address: str = REPOSITORY) -> str:
    """Return a file of the root with the repository's address, as it is while there is none."""
    text = (_ROOT / name).read_text(encoding="utf-8")
    if name == _LISTINGS:
        return text.replace("REPOSITORY", address or "REPOSITORY")
    before, line = _ADDRESSED[name]
    line = line.format(address)
    return text if not address or line in text else text.replace(before, line + before, 1)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    """Return a text fit for a table: one line, no bars."""
    return _markdown(" ".join(text.split())).replace("|", "\\|")


def _markdown(text: str) -> str:
    """Return a docstring's text with its double backticks as markdown's single ones."""
    return text.replace("``", "`")


def _plain(value: Any) -> str:
    """Return a default as it is typed on the command line."""
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


PAGES: dict[str, Callable[[], str]] = {
    "environments/README.md": page,
    **{
        f"environments/{task.name.lower()}.md": partial(task_page, task)
        for task in registered_tasks()
        if task.id.startswith("tokengym/")
    },
    "rewards/names.md": names,
    "reference/make.md": make_page,
}
"""Pages that are stored, by their path in docs/."""
SITE: dict[str, Callable[[], str]] = {
    "reference/api/public_names.md": public_names.page,
    "reference/command_line.md": command_line,
    **{f"reference/commands/{name}.md": partial(command_page, name) for name in command_names()},
    "reference/metrics.md": metrics,
}
"""Pages that only the site has: `--help-all` and `help()` say the same."""

if __name__ == "__main__":
    main()
