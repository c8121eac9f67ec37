"""Arguments of a scoring function of the user's: fields of the episode and columns of its data."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from types import CellType, CodeType
from typing import Any

import numpy as np

from tokengym.base.prompt import Metadata, Prompt
from tokengym.envs.episode import Episode
from tokengym.rewards.errors import ScorerError

ANNOTATIONS = ("reference", "query_type")
"""Fields of an episode that its data may lack."""
FIELDS = (
    *("prompt", "response", *ANNOTATIONS, "metadata"),
    *("prompt_ids", "response_ids", "finish_reason", "turns", "messages"),
)
"""Fields of an episode that a function may name."""
ALIASES = {"completion": "response", "_": "prompt"}
"""Names that other trainers give a field, or that say that it is not read."""
OF_MANY = frozenset({"prompts", "completions", "responses"})
"""Names that other trainers give lists of a field, where a function here gets one episode."""
OF_RESPONSE = frozenset({"response", "response_ids", "turns", "completion"})
"""Fields of which a function names one, unless it takes the response second."""
OF_RULES = frozenset({"response_mask", "scores", "paid"})
"""Names that nearly every rule of credit reads."""
ALL_COLUMNS = "*"
"""Stands for every column of the data, see `EpisodeArguments.columns`."""


class EpisodeArguments:
    """Arguments of a function that scores an episode, found by the names of its parameters.

    A parameter gets the field of `Episode` or the column of the data that it names, and ``**rest``
    gets all that no other parameter names. A function that names no field of the response takes
    prompt and response first, whatever it calls them: ``lambda p, r: ...``, unless that is a column
    of the data. Where the data lack a column, a parameter keeps its default.

    Args:
        function: The function.
        name: Its name in messages.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._name = name
        self._function = function
        fixed = set(function.keywords) if isinstance(function, partial) else set()
        parameters = inspect.signature(function).parameters.values()
        free = [p for p in parameters if p.name not in fixed]
        named = [p for p in free if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        in_order = [p for p in free if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        has_more = any(p.kind is p.VAR_POSITIONAL for p in free)
        self._takes_rest = any(p.kind is p.VAR_KEYWORD for p in free)
        if many := next((p.name for p in free if p.name in OF_MANY), None):
            raise TypeError(
                f"scorer {name!r} takes {many!r}, and a function gets one episode at a time; name "
                f"the parameter {many.removesuffix('s')!r} and return a number"
            )
        by_rules = OF_RULES & {p.name for p in free}
        if "response_mask" in by_rules or by_rules & {p.name for p in in_order[:1]}:
            raise ScorerError(
                f"{name!r} takes {max(by_rules)!r} as a rule of credit does, and is not marked as "
                "one; write @tokengym.token_credit above it, or name what a scorer gets: prompt, "
                "response, a column of the data"
            )
        pair = in_order[:2]
        only_rest = self._takes_rest and not has_more and len(pair) < 2
        self._takes_pair = OF_RESPONSE.isdisjoint(p.name for p in named) and not only_rest
        self._closed = fixed
        if self._takes_pair:
            own_names = [p.name for p in pair if p.kind is not p.POSITIONAL_ONLY]
            is_other_field = any(n in FIELDS and n != "prompt" for n in own_names)
            if is_other_field or own_names[1:] == ["prompt"] or (len(pair) < 2 and not has_more):
                raise TypeError(
                    f"scorer {name!r} takes ({', '.join(p.name for p in free)}), none of which is "
                    "the response; name a parameter 'response', or take prompt and response first"
                )
            named = [p for p in named if p not in pair]
            self._closed = {*fixed, *own_names, "prompt", "response"}
            if has_more and not pair:  # such as (*args, **kwargs), which hands on what it gets
                self._takes_rest = False
        self._needs = {p.name: p.default is p.empty for p in named}
        # Beside the field's own name it is a column of that name.
        self._aliases = {a: field for a, field in ALIASES.items() if field not in self._needs}
        rest = {ALL_COLUMNS: False} if self._takes_rest else {}
        self._by_place = [p.name for p in pair if p.name not in FIELDS] if self._takes_pair else []
        is_field = {*FIELDS, *self._aliases}
        self.columns: Mapping[str, bool] = {
            **dict.fromkeys(self._by_place, False),  # read where there are such, to be refused
            **{n: is_needed for n, is_needed in self._needs.items() if n not in is_field},
            **{n: is_needed for n, is_needed in self._needs.items() if n in ANNOTATIONS},
            **rest,
        }
        """Columns of the data that it names, and whether it needs each; `ALL_COLUMNS` for all."""

    def texts_sought(self) -> list[str]:
        """Return the texts that stand in a function which reads responses as text alone.

        They are its constants and defaults, and the texts and patterns around it that it names.
        """
        if "response_ids" in self._needs or self._takes_rest:
            return []
        parameters = inspect.signature(self._function).parameters.values()
        function: Any = self._function
        while isinstance(function, partial):
            function = function.func
        called = inspect.unwrap(function if inspect.isroutine(function) else function.__call__)
        code, names = getattr(called, "__code__", None), getattr(called, "__globals__", {})
        cells = getattr(called, "__closure__", None) or ()
        kept = [cell.cell_contents for cell in cells if cell != CellType()]  # not the empty ones
        kept += [parameter.default for parameter in parameters]
        kept += [] if code is None else _values(code, names)
        texts = [one.pattern if isinstance(one, re.Pattern) else one for one in kept]
        found = [one for one in texts if isinstance(one, str) and one != called.__doc__]
        return [text.replace("\\", "") for text in found]

    def of(self, episode: Episode) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return the arguments for an episode, those by position and those by name."""
        known = {name: getattr(episode, name) for name in FIELDS}
        reads_all = self._takes_rest or "metadata" in self._needs
        columns = {
            name: _own(value)
            for name, value in episode.metadata.items()
            if reads_all or name in self._needs
        }
        known["messages"], known["metadata"] = episode.chat.messages, Metadata(columns)
        known |= {alias: known[name] for alias, name in self._aliases.items()}
        if taken := next((name for name in self._by_place if name in episode.metadata), None):
            raise ScorerError(
                f"scorer {self._name!r} takes prompt and response by their places, and {taken!r} "
                "is a column of the data; name a parameter 'response' to get all by name"
            )
        by_name = {}
        for name, is_needed in self._needs.items():
            value = known[name] if name in known else columns.get(name)
            if value is not None:
                by_name[name] = value
            elif is_needed and (name in known or name in episode.metadata):
                by_name[name] = None
            elif is_needed:
                raise ScorerError(
                    f"scorer {self._name!r} takes {name!r}, a column that the prompt "
                    f"{episode.prompt!r} lacks; {_remedy(name, episode.metadata)}"
                )
        if self._takes_rest:
            closed = self._closed | self._needs.keys()
            every = {**columns, **{name: known[name] for name in FIELDS}}
            by_name |= {n: v for n, v in every.items() if n not in closed}
        return (episode.prompt, episode.response) if self._takes_pair else (), by_name


def _own(value: Any) -> Any:
    """Return a value that a function may change: the data are there for the next episode too."""
    return deepcopy(value) if isinstance(value, list | dict | set | np.ndarray) else value


def _values(code: CodeType, names: Mapping[str, Any]) -> Iterator[Any]:
    """Yield constants of a function's code, of functions within, and globals that they name."""
    for value in (*code.co_consts, *(names.get(name) for name in code.co_names)):
        if isinstance(value, CodeType):
            yield from _values(value, names)
        else:
            yield value


def check_columns(name: str, columns: Mapping[str, bool], prompts: Sequence[Prompt]) -> None:
    """Refuse a scorer that needs columns which the prompts of its environment lack."""
    needed = [column for column, is_needed in columns.items() if is_needed]
    if not needed:
        return
    there = columns_of(prompts)
    there += [one for one in ANNOTATIONS if any(getattr(p, one) is not None for p in prompts)]
    for column in needed:
        if column not in there:
            raise ScorerError(
                f"scorer {name!r} takes {column!r}, a column that the data lack; "
                f"{_remedy(column, there)}"
            )


def columns_of(prompts: Sequence[Prompt]) -> list[str]:
    """Return the columns of the prompts' data, in order; it reads every prompt."""
    return list(dict.fromkeys(column for prompt in prompts for column in prompt.metadata))


def _remedy(column: str, there: Sequence[str] | Mapping[str, Any]) -> str:
    """Return what to do about a column that is missing, naming those that there are."""
    fields = [field for field in FIELDS if field not in ANNOTATIONS]
    columns = f" and the columns {', '.join(there)}" if len(there) else ""
    how = f"pass {column}_column=" if column in ANNOTATIONS else "name the parameter after one"
    return f"there are {', '.join(fields)}{columns}; {how}, or give it a default"
