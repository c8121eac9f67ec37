"""Tasks: their declaration and registry, and an environment's arguments from a user's options."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium

from tokengym.base.bundle import PARTS, Bundle, Split, bundled
from tokengym.base.chat import Messages
from tokengym.base.errors import PromptError, SettingsError, TokenizerError
from tokengym.base.files import read_once
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.base.registry import Registry
from tokengym.base.settings import check_choice
from tokengym.base.stored.parts import tokenizer_place
from tokengym.envs.env import TokenGenerationEnv
from tokengym.envs.prompts.loading import Column, ConversationCutError, first_tokens, load_prompts
from tokengym.envs.prompts.query_types import fill_query_types
from tokengym.envs.prompts.tokenization import load_tokenizer
from tokengym.envs.settings import GenerationSettings
from tokengym.envs.vector import TokenGenerationVectorEnv

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
else:
    PreTrainedTokenizerBase = Any  # the annotations below are read, and transformers loads slowly

logger = logging.getLogger(__name__)

PromptTokens = int | tuple[int, ...]
VERSION = re.compile(r"-v(\d+)$")
"""End of an environment's id, with its version."""
ID_NAME = re.compile(r"[\w.-]+")
"""Names that Gymnasium's ids can have."""
COLUMNS = ("prompt_column", "reference_column", "query_type_column", "metadata_columns")
"""Options that name columns of a data set."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Declaration of a task.

    A task is one file that calls `register_task`, and the folder of its bundle. Ids, reference
    pages, and the defaults of training and comparisons are read from the registry.
    """

    name: str
    """Name in the environment's id, ``tokengym/<name>-v0``."""
    summary: str
    """One sentence."""
    rewards: str
    """The default score and credit, in words."""
    description: str = ""
    """Prompts and responses and their origin; empty if the task has its own environment class,
    whose docstring describes them."""
    reward: str | None = "sparse"
    """Name of the default reward of ``gym.make``; None leaves the environment without one."""
    bundle: str | Path | None = None
    """Models and prompts: the name of a folder in ``base/assets``, or the path of any other bundle.
    None for an environment class that has its own."""
    needs_prompts: bool = False
    """Whether a caller who passes a tokenizer must pass prompts too; otherwise the bundle's prompts
    are used as texts."""
    prompt_tokens: PromptTokens | None = None
    """First tokens of a data set's texts that make prompts, a number or (low, high); None takes
    whole texts."""
    transcripts: bool = False
    """Whether data sets may hold transcripts of conversations, "Human: ... Assistant: ..."."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the environment whose default differs, by name."""
    normalize_by: Literal["query_type"] | None = None
    """Annotation of the prompts by whose values scores are normalised apart, where they are; None
    normalises all together."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Training settings whose default differs, by name. Learning rates are those of 1e-4, 3e-4 and
    1e-3 with the best score minus KL penalty when the last token is paid the whole score."""
    compare: tuple[str, ...] = ("sparse", "uniform")
    """Default rewards of a comparison. The first is the baseline, and the default of one training:
    what ends best if a training is long (docs/results). ``uniform`` is the control. These two work
    with any score; a task adds the rule that did well on it, or that its paper is about
    (docs/results/tasks.md)."""
    env_class: type[Any] = TokenGenerationEnv
    """Class of the single environment."""
    vector_class: type[Any] = TokenGenerationVectorEnv
    """Class of the batched environment."""
    settings: type[Any] = GenerationSettings
    """Dataclass of the settings of both."""

    def own_bundle(self) -> Bundle:
        """Return the task's own prompts and models."""
        assert self.bundle is not None
        return bundled(self.bundle) if isinstance(self.bundle, str) else Bundle(self.bundle)

    models_know: str = ""
    """Training settings of the bundled reward model, for the refusal of other settings."""
    read_dataset: Callable[[Any, Split], PromptSet] | None = None
    """Function that returns a split of what ``dataset=`` names, where that is no table of texts."""
    chat_where_possible: bool = False
    """Whether ``chat_template`` is True by default where the tokenizer has a template."""
    scorer: str | None = None
    """Word of the scorer that is the score under every reward, as `exact_score`'s is."""
    exact_score: Callable[[Any], Callable[[str, str], float]] | None = None
    """Function that returns an environment's exact score of texts, if there is one; it is then the
    score under every reward, and a reward model only attributes it to tokens."""

    @property
    def id(self) -> str:
        """The environment's id."""
        return f"tokengym/{self.name}-v0"

    @staticmethod
    def of(env_id: str) -> Task | None:
        """Return the task of an environment's id; None for other environments.

        Example:
            >>> Task.of("tokengym/MovieReview-v0").name
            'MovieReview'
        """
        name = task_name_of(env_id)
        return TASKS.find(name) if name in TASKS.names() else None


def _adopted(name: str, plugin: Any) -> Task:
    """Return the task that an installed package declares, registered."""
    if not isinstance(plugin, Task) or plugin.name != name:
        raise SettingsError(
            f"{name!r} of tokengym.tasks must be a Task with name={name!r}, got {plugin!r}"
        )
    if not ID_NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} of tokengym.tasks cannot be part of an environment's id; name the task with "
            "letters, digits, '_', '.' and '-'"
        )
    return register_task(plugin)


LABORATORY = ("Forks", "Oracle", "ReasoningGym")
"""Tasks of tokengym-lab, whose ids are kept for it: Gymnasium looks up no id by entry points."""
TASKS: Registry[Task] = Registry("task", group="tasks", adopt=_adopted)
"""All tasks by name."""
ENTRY_POINTS: dict[str, str] = {}
"""Gymnasium's entry points, which make a task's environments under a reward; see `register_ids`."""


def register_task(task: Task) -> Task:
    """Register a task by its name, and its environment with Gymnasium.

    Raises:
        SettingsError: if another task has the name.
    """
    TASKS.register(task.name, task)
    _register_id(task.id, task=task.name, reward=task.reward, **task.options)
    return task


def register_ids(**entry_points: str) -> None:
    """Register the ids of all tasks with Gymnasium, whose arguments say what makes them.

    Those of packages are imported when made; one of the laboratory says what to install.
    """
    ENTRY_POINTS.update(entry_points)
    for task in TASKS.values():
        _register_id(task.id, task=task.name, reward=task.reward, **task.options)
    for name in (*TASKS.plugins(), *LABORATORY):
        if ID_NAME.fullmatch(name):  # any other is refused when it is looked up, and not here
            _register_id(f"tokengym/{name}-v0", task=name)


def _register_id(env_id: str, **options: Any) -> None:
    if ENTRY_POINTS and env_id not in gymnasium.registry:
        gymnasium.register(env_id, **ENTRY_POINTS, kwargs=options)  # type: ignore[arg-type]


def registered_tasks() -> tuple[Task, ...]:
    """Return all tasks of tokengym and its laboratory, and those of others that are in use."""
    for name in TASKS.plugins():
        if name in LABORATORY:
            TASKS.find(name)
    return tuple(sorted(TASKS.values(), key=lambda task: task.name))


def find_task(name: str) -> Task:
    """Return the task of that name, which an installed package may declare."""
    return TASKS.find(name)


def task_name_of(env_id: str) -> str:
    """Return the task's name in an environment's id."""
    return VERSION.sub("", env_id.rpartition("/")[2])


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options for a task's prompts and models; None takes the task's own.

    Raises:
        SettingsError: if both prompts and a data set are given, or a column of no data set.
    """

    bundle: Bundle | Path | str | None = field(default=None, metadata={"is_data": True})
    """Bundle of tokenizer, prompts and models: a folder, or the name of a bundled one, such as
    "smollm2-reviews"; None takes the task's own (``gym.make`` with a ``tokenizer``: no models)."""
    model: str | None = field(default=None, metadata={"is_data": True})
    """Folder, GGUF file, registered name ("smollm2") or hub name of the policy's language model;
    None takes the bundle's. A tokenizer beside it is taken too."""
    tokenizer: PreTrainedTokenizerBase | str | None = field(
        default=None, metadata={"is_data": True}
    )
    """Folder or hub name of the tokenizer, or the tokenizer itself; None takes that of ``model``,
    else the bundle's."""
    eos_token: Sequence[str | int] | None = None
    """Tokens that end a text, in place of the tokenizer's EOS: one or several, as texts or ids.
    Chat models end a turn by several, which their generation_config.json names."""
    pad_token: str | None = None
    """Token for padding, in place of the tokenizer's own; EOS pads where there is none."""
    prompts: PromptSet | Sequence[str | Prompt | Messages] | None = None
    """Prompts in place of the task's, for every ``split``: texts, or conversations as messages."""
    dataset: str | Path | Any | None = field(default=None, metadata={"is_data": True})
    """Data set of prompts: a csv, tsv, jsonl or parquet file, a folder or hub name ("name:config"
    for one of its configurations), or a ``datasets.Dataset``; None takes the bundle's prompts."""
    prompt_column: Column | None = None
    """Its column of prompts: a name, or a number where the file has no header."""
    reference_column: Column | None = None
    """Its column of reference answers."""
    query_type_column: Column | None = field(default=None, metadata={"flag": ""})
    """Its column of OPENENDED or CONSTRAINED, R3's annotation."""
    metadata_columns: Sequence[Column] = ()
    """Its further columns, for verifiers: ``Episode.metadata`` holds their values by name."""
    predict_query_types: bool = False
    """Whether the bundled classifier fills in query types that are missing."""
    prompt_tokens: PromptTokens | None = None
    """First tokens of each text that make the prompt: a number, or two to draw one between them;
    None takes whole texts, or the task's default for data sets (2 to 7 tokens of film reviews)."""

    def __post_init__(self) -> None:
        if self.prompts is not None and self.dataset is not None:
            raise SettingsError("pass either prompts or dataset, got both; leave one out")
        if self.model is not None:
            if not isinstance(self.model, str | Path) or not str(self.model):
                text = isinstance(self.model, str)
                kind = "an empty text" if text else f"a {type(self.model).__name__}"
                raise SettingsError(
                    f"model must be a folder or a name, got {kind}; pass a loaded"
                    " model to the learner, policy_kwargs=dict(model=...)"
                )
            object.__setattr__(self, "model", str(self.model))
        if isinstance(self.eos_token, Iterable) and not isinstance(self.eos_token, str):
            object.__setattr__(self, "eos_token", tuple(self.eos_token))
        columns = () if self.metadata_columns is None else self.metadata_columns
        if isinstance(columns, str) or not isinstance(columns, Iterable):
            raise SettingsError(
                f"metadata_columns must be a list of columns, got {columns!r}; put it in a list"
            )
        object.__setattr__(self, "metadata_columns", tuple(columns))
        check_choice(self, "predict_query_types", (True, False))
        for name in COLUMNS:
            if self.dataset is None and getattr(self, name) not in (None, ()):
                raise SettingsError(
                    f"{name}={getattr(self, name)!r} names a column of no data set; pass dataset"
                )


def task_arguments(
    task: Task,
    options: TaskOptions,
    split: Split = "train",
    *,
    named_columns: tuple[tuple[str, bool], ...] = (),
) -> dict[str, Any]:
    """Return arguments of `TokenGenerationEnv` and `TokenGenerationVectorEnv` for a task.

    Settings of the generation itself (``max_new_tokens``, ...) go to the environments directly.
    """
    tokenizer_path = options.tokenizer
    if tokenizer_path is None and options.model is not None and tokenizer_place(options.model):
        tokenizer_path = options.model  # it is stored with the model
    models = _models(task, options, tokenizer_path)
    source: Any = models.tokenizer if models and tokenizer_path is None else tokenizer_path
    tokenizer = source  # the bundle's own is checked with the rules that its environments share
    if any(one is not None for one in (tokenizer_path, options.eos_token, options.pad_token)):
        tokenizer = load_tokenizer(source, eos_token=options.eos_token, pad_token=options.pad_token)
    if options.dataset is not None:
        changes = tokenizer_path is not None or tokenizer is not source
        prompts = _read(task, options, tokenizer, split, named_columns, may_change=changes)
    elif options.prompts is not None:
        listed = options.prompts
        prompts = listed if isinstance(listed, PromptSet) else PromptSet(listed)
    elif task.needs_prompts and (models is None or not models.has("prompts")):
        raise PromptError("got a tokenizer but no prompts (None); pass prompts=[...] or dataset=")
    else:  # with the caller's own tokenizer, the task's bundled prompts are still used as texts
        prompts = (models or task.own_bundle()).prompts(split)
    if options.dataset is None and options.prompt_tokens is not None:
        prompts = first_tokens(prompts, options.prompt_tokens, tokenizer)
    if options.predict_query_types:
        prompts = fill_query_types(prompts)
    if models is not None and (options.prompts is not None or options.dataset is not None):
        models = models.for_other_prompts()
    if (
        models is not None
        and tokenizer_path is not None
        and models.has("grammar")
        and tokenizer.get_vocab() != models.tokenizer.get_vocab()
    ):
        models = models.without("grammar")  # other words make other sentences
    return {"tokenizer": tokenizer, "prompts": prompts, "bundle": models}


def _read(
    task: Task,
    options: TaskOptions,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    named_columns: tuple[tuple[str, bool], ...],
    *,
    may_change: bool,
) -> PromptSet:
    """Return the prompts of the caller's data set; a file is read once while it is unchanged."""
    if task.read_dataset is not None:
        for name in (*COLUMNS, "prompt_tokens"):
            if getattr(options, name) not in (None, ()):
                raise SettingsError(
                    f"{name}={getattr(options, name)!r} has no effect on {task.id}, whose prompts "
                    "are generated; leave it out"
                )
        return task.read_dataset(options.dataset, split)
    default = task.prompt_tokens if options.prompt_tokens is None else None
    how: dict[str, Any] = dict(
        prompt_column=options.prompt_column,
        reference_column=options.reference_column,
        query_type_column=options.query_type_column,
        metadata_columns=options.metadata_columns,
        named_columns=named_columns,
        split=split,
        prompt_tokens=options.prompt_tokens if default is None else default,
        tokenizer=tokenizer,
        transcripts=task.transcripts,
    )
    path = Path(options.dataset) if isinstance(options.dataset, str | Path) else None
    if isinstance(how["prompt_tokens"], list):
        how["prompt_tokens"] = tuple(how["prompt_tokens"])
    try:
        if may_change or path is None or not path.is_file():
            prompts = load_prompts(options.dataset, **how)
        else:
            prompts = _read_file(path, **how)
    except ConversationCutError:
        if default is None:
            raise
        raise ConversationCutError(
            f"{task.id} keeps the first {_in_words(default)} tokens of each prompt by default, and "
            "the data set has conversations, which cannot be cut; take env=TokenGeneration "
            "for whole ones, or name a column of texts by prompt_column="
        ) from None
    if default is not None:
        _say_cut(default)
    return prompts


_read_file = read_once(maxsize=4)(load_prompts)


@functools.cache
def _say_cut(tokens: PromptTokens) -> None:
    """Log, once, that a task cuts the texts of a data set."""
    logger.warning(
        "prompts are the first %s tokens of each text, the task's default; pass prompt_tokens= "
        "or take env=TokenGeneration for whole texts",
        _in_words(tokens),
    )


def _in_words(tokens: PromptTokens) -> str:
    return str(tokens) if isinstance(tokens, int) else " to ".join(map(str, tokens))


def _models(task: Task, options: TaskOptions, tokenizer: Any) -> Bundle | None:
    """Return the caller's bundle, or the task's own if something of it is needed.

    That of a task for any prompts lends a caller's model nothing but its place.
    """
    if options.bundle is not None:
        models = Bundle.of(options.bundle)
    elif options.model is not None and tokenizer is None:
        raise TokenizerError(
            f"model {str(options.model)!r} has no tokenizer beside it; save its own there, or pass "
            "tokenizer="
        )
    elif options.model is None and tokenizer is not None:
        return None
    else:
        models = task.own_bundle()
        if task.needs_prompts and tokenizer is not None:
            models = models.without(*PARTS)
    return models if options.model is None else models.with_policy(options.model)
