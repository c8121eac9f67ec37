"""Writes the reference page of each environment, in the manner of Gymnasium's documentation.

Everything on a page comes from the docstrings, the spaces and the registry, so that it cannot say
what the code does not:

    python -m tokengym.scripts.build_docs [--out docs/environments] [--check]
"""

import argparse
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from tokengym.envs import TokenGenerationEnv, TokenGenerationVectorEnv
from tokengym.envs.bundle import PARTS
from tokengym.envs.tasks.descriptions import DESCRIPTIONS
from tokengym.envs.tasks.task import TaskOptions
from tokengym.registration import IDS, make_env
from tokengym.scripts.docstrings import arguments, class_sections, field_texts

FOLDER = Path("docs/environments")
_NOTICE = (
    "<!-- Written by `python -m tokengym.scripts.build_docs` from the docstrings: edit those. -->"
)
_SECTIONS = (
    "Description",
    "Observation Space",
    "Action Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Information",
)
_DELIVERY = (
    "Whatever the credit, the return is the score. A hindsight credit is known when the episode "
    "ends, so `step` returns 0 until then and the whole score at the end, while "
    '`info["token_rewards"]` carries what each token earned; a causal one is paid token by token.'
)
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
    """Write the pages, or with ``--check`` only say which are not current.

    Args:
        argv: The command line; None takes the process's.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the pages")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if one is stale")
    options = parser.parse_args(argv)
    written = pages()
    stale = [name for name, text in written.items() if _read(options.out / name) != text]
    if options.check:
        sys.exit(f"not current: {', '.join(stale)}; leave out --check" if stale else 0)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (options.out / name).write_text(written[name], encoding="utf-8")
    print(f"{len(stale)} of {len(written)} pages written to {options.out}")


def pages() -> dict[str, str]:
    """Return every page by its file's name, an index among them."""
    written = {f"{_bare(env_id)}.md": page(env_id) for env_id in IDS}
    rows = []
    for env_id in IDS:
        summary = _parts(env_id, type(gymnasium.make(env_id, reward=None).unwrapped))["Summary"]
        rows.append([f"[{_bare(env_id)}]({_bare(env_id)}.md)", f"`{env_id}`", summary])
    index = [_NOTICE, "# Environments", _table(["page", "id", "task"], rows)]
    return {"README.md": "\n\n".join(index) + "\n", **written}


def page(env_id: str) -> str:
    """Return an environment's reference page, markdown.

    Raises:
        ValueError: if `DESCRIPTIONS` does not say what its task is.
    """
    env: Any = gymnasium.make(env_id, reward=None).unwrapped
    parts = _parts(env_id, type(env))
    header = ["argument", "type", "default", "meaning"]
    blocks = [
        _NOTICE,
        f"# {_bare(env_id)}",
        parts["Summary"],
        _table(["", ""], list(_overview(env_id, env))),
        *(f"## {name}\n\n{parts[name]}" for name in _SECTIONS),
        f"## Arguments\n\n{parts['Arguments']}",
        _table(header, list(_arguments(env_id, type(env)))),
        "`gymnasium.make_vec` takes these too:",
        _table(header, list(_batch_arguments())),
        "## Methods\n\nOf `env.unwrapped`, beside Gymnasium's own:",
        _table(["method", "what it does"], list(_methods(type(env)))),
        "## Registered Ids",
        _table(["id", "default reward"], list(_versions(env_id))),
        f"## Example\n\n{_EXAMPLE.format(id=env_id)}",
    ]
    if own := _own_example(type(env)):
        blocks.append(own)
    return "\n\n".join(blocks) + "\n"


def _parts(env_id: str, cls: type) -> dict[str, str]:
    """Return the sections of a page, from the description of its task and its class's docstring."""
    parts = class_sections(cls)
    described = DESCRIPTIONS.get(IDS[env_id])
    if described is None:
        raise ValueError(
            f"task {IDS[env_id]!r} has no description; add one to tokengym.envs.tasks.descriptions"
        )
    parts |= {"Summary": described.summary, "Rewards": described.rewards}
    if described.description:
        parts["Description"] = described.description
    parts["Rewards"] += f"\n\n{_DELIVERY}"
    return {name: _markdown(text) for name, text in parts.items()}


def _overview(env_id: str, env: Any) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table at a page's head."""
    yield "Make", f'`gymnasium.make("{env_id}")`'
    yield "Action space", f"`{env.action_space}`"
    yield "Observation space", f"`{env.observation_space}`"
    yield "Default reward", f"`{_default_reward(env_id)!r}`"
    bundle = env.bundle
    if bundle is None:
        yield "Prompts", str(len(env.prompts))
        return
    counts = [f"{len(bundle.prompts(split)):,} {split}" for split in ("train", "test")]
    yield "Prompts", ", ".join(counts)
    models = [part for part in PARTS if part not in ("tokenizer", "prompts") and bundle.has(part)]
    yield "Bundled models", ", ".join(f"`{part}`" for part in models)


def _arguments(env_id: str, cls: type) -> Iterator[tuple[str, ...]]:
    """Yield the rows of ``gymnasium.make``'s arguments: name, type, default, meaning."""
    entry = _entry(env_id)
    texts = arguments(make_env) | _said(arguments(entry))
    of_task = isinstance(entry, partial)
    for name, parameter in inspect.signature(entry).parameters.items():
        if name != "task" and parameter.kind is not parameter.VAR_KEYWORD:
            yield _row(name, parameter.annotation, parameter.default, texts[name])
    named = {"bundle", "prompt_shard", "tokenizer", "prompts"}
    if of_task:
        below = field_texts(TaskOptions)
        for field in fields(TaskOptions):
            named.add(field.name)
            yield _row(field.name, field.type, field.default, below[field.name])
    texts = arguments(TokenGenerationEnv) | _said(arguments(cls))
    for name, parameter in inspect.signature(cls).parameters.items():
        if name not in named:
            yield _row(name, parameter.annotation, parameter.default, texts[name])


def _batch_arguments() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the arguments that only ``gymnasium.make_vec`` has."""
    texts = arguments(TokenGenerationVectorEnv)
    parameters = inspect.signature(TokenGenerationVectorEnv).parameters
    for name in ("num_envs", "autoreset_mode", "copy"):
        yield _row(name, parameters[name].annotation, parameters[name].default, texts[name])


def _methods(cls: type) -> Iterator[tuple[str, str]]:
    """Yield the rows of a class's own public methods and properties."""
    owners = [owner for owner in cls.__mro__ if owner.__module__.startswith("tokengym.")]
    names = {name for owner in owners for name in vars(owner) if not name.startswith("_")}
    for name in sorted(names - {"metadata", "reset", "step"}):
        member = inspect.getattr_static(cls, name)
        text = (inspect.getdoc(member) or "").partition("\n\n")[0]
        signature = "" if isinstance(member, property) else _signature(member)
        yield f"`{name}{signature}`", _cell(text)


def _versions(env_id: str) -> Iterator[tuple[str, str]]:
    """Yield the rows of the ids under which a task is registered."""
    for other in IDS:
        if _bare(other) == _bare(env_id):
            yield f"`{other}`", f"`{_default_reward(other)!r}`"


def _own_example(cls: type) -> str:
    """Return the example of an environment class of its own, or nothing."""
    if cls is TokenGenerationEnv:
        return ""
    _, _, block = (inspect.getdoc(cls) or "").partition("\nExample:\n")
    return f"```pycon\n{textwrap.dedent(block).strip()}\n```" if block else ""


def _entry(env_id: str) -> Any:
    """Return what ``gymnasium.make`` calls for an id."""
    return load_env_creator(str(gymnasium.spec(env_id).entry_point))


def _default_reward(env_id: str) -> Any:
    return inspect.signature(_entry(env_id)).parameters["reward"].default


def _said(texts: dict[str, str]) -> dict[str, str]:
    """Return the texts that say something themselves, not only where it is said."""
    return {name: text for name, text in texts.items() if not text.startswith("As of ")}


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


def _bare(env_id: str) -> str:
    """Return a task's name without namespace and version."""
    return env_id.rpartition("/")[2].rpartition("-v")[0]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    main()
