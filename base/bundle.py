"""Bundles: folders of models and prompts that belong together, read lazily."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tokengym.base.errors import BundleError, SettingsError
from tokengym.base.files import odd_entry, parse_json, read_once, read_text
from tokengym.base.models import located
from tokengym.base.pretrained import from_pretrained
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.base.registry import did_you_mean
from tokengym.base.saved_code import check_module, check_saved

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "test", "all"]
"""Part of a task's prompts."""
SettingsKind = Literal["options", "training", "evaluation", "comparison"]
FORMAT = 1
PARTS = {
    "tokenizer": "tokenizer",
    "prompts": "prompts.jsonl",
    "policy": "policy",
    "reward_model": "reward_model",
    "encoder": "encoder",
    "lexicon": "lexicon.json",
    "grammar": "grammar.json",
    "gold": "gold.json",
    "gold_model": "gold_model",
    "judge": "judge",
}
"""Files and folders of a bundle, by what they hold."""
_ASSETS = Path(__file__).parent / "assets"
_BUILDER = "python -m tokengym.scripts.build_models"


@dataclass(frozen=True)
class Bundle:
    """A task's tokenizer, prompts and models in one folder; parts are loaded when used.

    Loaded parts are cached for the process: bundles of one folder share tokenizer and prompts until
    its files change. Copy the tokenizer before changing it.

    Args:
        path: A folder written by ``tokengym.scripts.build_models``.
        hidden: Parts to treat as missing; see `without`.
        model: Word for a language model in place of its policy; see `with_policy`.

    Raises:
        BundleError: if the folder or its ``bundle.json`` is missing, or the latter is damaged.
        UntrustedCodeError: if its settings name a file of code, or a module to import.
    """

    path: Path
    hidden: frozenset[str] = frozenset()
    model: str | None = None
    manifest: dict[str, Any] = field(init=False, repr=False, compare=False)
    """Contents of ``bundle.json``: the task, and the figures that the builder measured."""
    _named_models: Mapping[str, str] = field(init=False, repr=False, compare=False)
    """Parts that are models found by name and not stored here."""

    def __init__(
        self, path: Path | str, *, hidden: Iterable[str] = (), model: str | None = None
    ) -> None:
        object.__setattr__(self, "path", Path(path))
        object.__setattr__(self, "hidden", frozenset(hidden))
        object.__setattr__(self, "model", model)
        file = self.path / "bundle.json"
        if not file.is_file():
            raise BundleError(f"{str(self.path)!r} has no bundle.json; build it with {_BUILDER}")
        if (odd := odd_entry(self.path)) is not None:
            raise BundleError(f"{odd} is no file or folder that can be read; take it out")
        manifest = _read_manifest(file)
        object.__setattr__(self, "manifest", manifest)
        models = manifest.get("models", {})
        models = models if model is None else {**models, "policy": model}
        object.__setattr__(self, "_named_models", models)

    @classmethod
    def of(cls, word: Bundle | Path | str) -> Bundle:
        """Return a bundle, that of a folder, or the bundled one of a name ("smollm2-reviews")."""
        if isinstance(word, Bundle):
            return word
        name = str(word)
        return cls(word) if Path(name).exists() or Path(name).name != name else bundled(name)

    @property
    def task(self) -> str:
        """The task that the models were built for."""
        return self.manifest["task"]

    @property
    def env(self) -> str | None:
        """Name of the environment it was made for; None if it is a task's own or names none."""
        return self.manifest.get("env")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that all of the bundle's models share."""
        return _read_tokenizer(self._part("tokenizer"))

    def prompts(self, split: Split = "train") -> PromptSet:
        """Return the prompts of a split, at least one."""
        return _read_prompts(self._part("prompts"), split)

    @property
    def policy(self) -> Path:
        """Folder of the causal language model that learning starts from."""
        return self._part("policy")

    @property
    def reward_model(self) -> Path:
        """Folder of the sequence classifier that scores a response."""
        return self._part("reward_model")

    @property
    def encoder(self) -> Path:
        """Folder of the encoder whose mean-pooled states measure relevance."""
        return self._part("encoder")

    @property
    def lexicon(self) -> Path:
        """File of the gold score's word weights, intensifiers and negations."""
        return self._part("lexicon")

    @property
    def grammar(self) -> Path:
        """File of the grammar that the gold score multiplies with, as far as texts keep to it."""
        return self._part("grammar")

    @property
    def gold(self) -> Path:
        """File of the rules that are the gold score of dialogues, quarrels or other rated texts."""
        return self._part("gold")

    @property
    def gold_model(self) -> Path:
        """Folder of the held-out reward model that is the gold score where there is no other."""
        return self._part("gold_model")

    @property
    def judge(self) -> Path:
        """Folder of the causal language model that judges, criticises and revises."""
        return self._part("judge")

    def has(self, part: str) -> bool:
        """Return whether the bundle has a part ("policy", "encoder", "lexicon", ...)."""
        if part not in PARTS:
            raise BundleError(f"a bundle has no part {part!r}; its parts are {', '.join(PARTS)}")
        return part not in self.hidden and (
            part in self._named_models or (self.path / PARTS[part]).exists()
        )

    def without(self, *parts: str) -> Bundle:
        """Return the bundle with some of its parts, named as in `has`, treated as missing."""
        return Bundle(self.path, hidden=self.hidden.union(parts), model=self.model)

    def with_policy(self, model: str | Path) -> Bundle:
        """Return the bundle with another model (folder, file or name) as its policy."""
        return Bundle(self.path, hidden=self.hidden - {"policy"}, model=str(model))

    def for_other_prompts(self) -> Bundle:
        """Return the bundle without a gold score that knows its own prompts only."""
        return self.without("gold") if self.manifest.get("gold_knows") == "own prompts" else self

    def _part(self, part: str) -> Path:
        """Return the path of a part that must exist."""
        if part in self.hidden:
            raise BundleError(
                f"the {part} of bundle {str(self.path)!r} (task {self.task!r}) was made for other "
                "settings of the environment; pass one of your own"
            )
        if (word := self._named_models.get(part)) is not None:
            return Path(located(word))
        path = self.path / PARTS[part]
        if not path.exists():
            raise BundleError(
                f"bundle {str(self.path)!r} (task {self.task!r}) has no {part}: {PARTS[part]} is "
                f"missing; build it with {_BUILDER}"
            )
        return path

    def model_name(self, part: str) -> str | None:
        """Return the name of a part that is a model found by name; None if it is stored here."""
        return self._named_models.get(part)

    def settings(self, kind: SettingsKind) -> dict[str, Any]:
        """Return settings of a kind, "options" being an environment's, by name."""
        return dict(self.manifest.get(kind, {}))


@read_once(maxsize=32)
def _read_manifest(file: Path) -> dict[str, Any]:
    def damaged(fault: str) -> BundleError:
        return BundleError(f"{str(file)!r} {fault}; build it again with {_BUILDER}")

    try:
        manifest = parse_json(read_text(file))
    except ValueError as error:
        raise damaged(f"is damaged ({error})") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("task"), str):
        raise damaged("names no task")
    if manifest.get("format") != FORMAT:
        raise damaged(f"has format {manifest.get('format')!r}, not {FORMAT}")
    kinds: dict[str, type] = dict.fromkeys(("models", *get_args(SettingsKind)), dict)
    for name, kind in {**kinds, "env": str}.items():
        value = manifest.get(name, kind())
        if not isinstance(value, kind):
            raise damaged(f"must have an entry {name} of type {kind.__name__}, got {value!r}")
        check_saved(value, file)
    check_module(manifest.get("env", ""), file)
    return manifest


def bundled(task: str) -> Bundle:
    """Return the bundle that ships with the package.

    Args:
        task: "movie_review", "question_answer", "dialogue", "detox", "summarize", "oracle",
            "forks", "reasoning_gym", "calculator", "feedback", which has a judge and no prompts, or
            "smollm2-reviews" and "smollm2-answers", whose language model is the extra ``smollm2``.

    Raises:
        BundleError: if there is no bundle of this task (the message lists those that exist).
    """
    if (_ASSETS / task / "bundle.json").is_file():
        return Bundle(_ASSETS / task)
    names = bundle_names()
    raise BundleError(
        f"{task!r} has no bundle.json, and no bundle of this name ships with tokengym; "
        f"{did_you_mean(task, names)}known: {', '.join(names)}; build one with {_BUILDER}"
    )


def bundle_names() -> list[str]:
    """Return the names of the bundles that ship with the package."""
    return sorted(folder.parent.name for folder in _ASSETS.glob("*/bundle.json"))


def check_split(split: object) -> None:
    """Refuse an unknown split."""
    if split not in get_args(Split):
        raise SettingsError(f"split must be 'train', 'test' or 'all', got {split!r}")


@read_once()
def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return from_pretrained(AutoTokenizer, folder)


@read_once()
def _read_prompts(file: Path, split: Split) -> PromptSet:
    check_split(split)
    lines = read_text(file).split("\n")  # a text may hold other ends of lines, such as U+2028
    prompts = []
    for number, line in enumerate(filter(str.strip, lines), start=1):
        try:
            row = parse_json(line)
            further = (row.get("reference"), row.get("query_type"), row.get("metadata", {}))
            prompt = Prompt(row["prompt"], *further)
            if split in ("all", row["split"]):
                prompts.append(prompt)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"{str(file)!r} line {number} is damaged ({error!r}); build it again with "
                f"{_BUILDER}"
            ) from error
    if not prompts:
        raise BundleError(
            f"{str(file)!r} has no prompts of split {split!r}; build it again with {_BUILDER}"
        )
    return PromptSet(prompts)
