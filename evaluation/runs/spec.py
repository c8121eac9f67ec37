"""One run: all that decides its numbers, which plain JSON says and another process reads.

Words of the command line are taken apart before: a spec has names, options and files. What they
stand for is looked up where the run is done.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.base.errors import SettingsError
from tokengym.base.files import read_hashed, to_json, write_hashed
from tokengym.base.pretrained import from_pretrained
from tokengym.base.registry import Spec, name_of
from tokengym.base.saved_code import CODE, code_paths
from tokengym.base.settings import names_of
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.runs.settings import (
    EvaluationSettings,
    ModelSettings,
    RunSettings,
    TaskSettings,
    TrainingSettings,
)
from tokengym.rewards import Reward, Scorer
from tokengym.rewards.registry import RewardChoice
from tokengym.rewards.scorers import SCORERS

if TYPE_CHECKING:
    from tokengym.agents.offline.own import OwnTexts
    from tokengym.evaluation.measure.evaluate import Evaluator

SPEC_FILE = "spec.json"
"""File of the spec, in a run's folder."""
REFERENCE = "reference samples"
"""Name of the run that draws the reference samples, which no reward can have."""
UNFINISHED = "unfinished"
"""Folder of an unfinished run's checkpoint, in the run's."""
NO_NUMBERS = ("scorer_timeout", "evaluation.reference_samples")
"""Settings that change no number of a run, and may be others when it is resumed."""
UNSTORED = ("folder", "choices", "warns")
"""Fields of a `RunSpec` that its file has not: they decide no number."""
GROUPS = ("training", "evaluation", "task")
"""Names of the groups of a run's settings."""
OF_SAMPLES = (*names_of(ModelSettings), "precision", "products", "max_new_tokens", "fixed_length")
"""Settings of the training that the reference samples depend on."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, resolved: its environment, reward, learner, evaluation and seed."""

    name: str
    """Name of the learner, the reward or both, whichever vary; runs of one differ in their seed."""
    title: str
    """Name in the results, with an own rule's ``name`` in place of its file and class."""
    seed: int
    """Seed of everything random in it."""
    env: Spec
    """Id of the environment, or the file that makes it."""
    agent: Spec
    """The learner, with options of its own."""
    reward: Spec
    """The reward that it trains with."""
    rewards: tuple[Spec, ...]
    """The rewards that it is compared under; the scorer of the first measures it."""
    groups: RunSettings
    """Settings of its training, its evaluations and its task."""
    compared: Mapping[str, Any]
    """Settings of its comparison besides its own: ``agents``, ``seeds``, ``first_seed`` and
    ``level``; and the titles of its ``arms`` by their names."""
    by_gold: bool = False
    """Whether the task's gold score measures it, where the task has one: the rewards have different
    scorers, none of which can judge them all."""
    is_control: bool = False
    """Whether its reward's rule does not read the text (`Rule.control`)."""
    command: str = field(default="", compare=False)
    """The command that asks for its comparison."""
    code: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the user's own code that the settings name, by path."""
    data: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file or folder of data or a model that the settings name, likewise."""
    warns: bool = True
    """Whether it names a judge that cannot read the texts; of a comparison's runs one does."""
    folder: Path | None = None
    """Folder of its results; None writes none."""
    choices: dict[str, RewardChoice] = field(default_factory=dict, compare=False, repr=False)
    """What the rewards stand for, as far as they were looked up; a comparison's runs share it."""

    @property
    def key(self) -> tuple[str, int]:
        """Name and seed, which no other run of the comparison has."""
        return self.name, self.seed

    @property
    def training(self) -> TrainingSettings:
        """Settings of its training, by the learner, which is found first: it may be code."""
        return self.groups.training

    @property
    def evaluation(self) -> EvaluationSettings:
        """Settings of its evaluations."""
        return self.groups.evaluation

    @property
    def task(self) -> TaskSettings:
        """Prompts and models of the environment."""
        return self.groups.task

    @property
    def plain(self) -> Mapping[str, Any]:
        """Its settings as plain data, by ``training``, ``evaluation`` and ``task``."""
        return self.groups.plain

    @property
    def learner(self) -> Mapping[str, Any]:
        """Settings of its learner as plain data; no code is run."""
        learner: Mapping[str, Any] = self.plain["training"]["learner"]
        return learner

    @property
    def judge(self) -> str:
        """What measures it: the first reward's scorer, or the gold score."""
        return "the gold score of all" if self.by_gold else f"the scorer of {self.rewards[0].text}"

    @property
    def arm(self) -> str:
        """Name of its arm in the results: its title, unless another arm has the same."""
        return titles_of(self.compared["arms"].items()).get(self.name, self.title)

    @property
    def uses_credit(self) -> bool:
        """Whether the learner sees more of the reward than the score."""
        return self.training.declaration.uses_credit

    @property
    def is_reference(self) -> bool:
        """Whether it draws the reference samples and trains nothing."""
        return self.name == REFERENCE

    @property
    def used_code(self) -> list[str]:
        """Paths of the files of the user's own code that it runs, those of its judge included."""
        return code_paths([self.env, self.plain, self.rewards[0], self.agent, self.reward])

    @property
    def copies(self) -> Path | None:
        """Folder of the copies of its files of code, which its comparison keeps; None without."""
        if self.folder is None:
            return None
        out = self.folder.parent if self.is_reference else self.folder.parent.parent
        return out / CODE

    @cached_property
    def env_id(self) -> str:
        """Id by which Gymnasium makes the environment; that of a file is registered."""
        return resolve_env(self.env)

    def choice(self, word: Spec) -> RewardChoice:
        """Return what a reward stands for; one of the user's own file is made by running it.

        Raises:
            RewardError: if an option is unknown.
        """
        if word.text not in self.choices:
            self.choices[word.text] = RewardChoice.of(word)
        return self.choices[word.text]

    def alone(self) -> "RunSpec":
        """Return it with rules that it makes itself, whose states no other run moves."""
        scoring = {text: choice for text, choice in self.choices.items() if choice.kind is None}
        return replace(self, choices=scoring)

    def payers(self) -> list[Reward | Scorer]:
        """Return the scorers and whole rewards that its words name and all runs share."""
        named: list[Any] = [self.choice(self.reward).made]
        if isinstance(word := self.task.scorer, str) and SCORERS.knows(name_of(word)):
            named.append(SCORERS.find(SCORERS.parse(word)))
        return [one for one in named if isinstance(one, Reward | Scorer)]

    def env_kwargs(self, *, train: bool, reward: Spec | None = None) -> dict[str, Any]:
        """Return the arguments of ``gym.make_vec`` for training or for evaluation.

        Environments of a run share a rule and its state; what scores itself is made for each.

        Args:
            train: Whether the run trains in it.
            reward: Another reward than the run's own.
        """
        word = reward or self.reward
        choice, normalize = self.choice(word), self.training.normalize if train else "off"
        payer: Spec | RewardChoice = word if choice.kind is None else choice
        if beside := self._columns_beside(word, train=train):
            payer = RewardChoice.of(payer).reading(beside)
        own_prompts: dict[str, Any] = {}
        if (own := self._own) is not None:
            own_prompts["prompts"] = own.train_prompts if train else own.test_prompts
        return {
            **self.training.lengths(),
            **self.task.env_kwargs(self.env_id),
            **own_prompts,
            "reward": payer,
            "normalize": None if normalize == "off" else normalize,
            "split": "train" if train else "test",
        }

    def _columns_beside(self, word: Spec, *, train: bool) -> list[str]:
        """Return columns of the data that are read beside those that a reward names.

        Functions of the learner read some in training. The run's own reward credits responses to
        the held-out prompts, whatever measures them.
        """
        if self.task.dataset is None or self.is_reference:
            return []
        columns = [] if word == self.reward or not self.uses_credit else self._columns_of_reward
        if train:
            training = self.training
            columns = [*columns, *training.declaration.columns(training.learner)]
        return columns

    @property
    def _columns_of_reward(self) -> list[str]:
        return list(self.choice(self.reward).columns)

    @cached_property
    def _own(self) -> "OwnTexts | None":
        return own_texts(self.training, self.task)

    def policy_kwargs(self) -> dict[str, Any]:
        """Return the arguments of a policy; what is left to the task is left out."""
        training = self.training
        values = {
            "model": self.task.model,
            "lora": training.lora(),
            "dtype": None if training.dtype == "auto" else training.dtype,
            "precision": None if training.precision == "full" else training.precision,
            "products": None if training.products == "torch" else training.products,
        }
        return {name: value for name, value in values.items() if value is not None}

    def evaluator(self) -> "Evaluator":
        """Return what measures every run of its comparison alike."""
        from tokengym.evaluation.measure.evaluate import Evaluator

        return Evaluator(
            self.env_id,
            self.env_kwargs(train=False, reward=self.rewards[0]),
            num_episodes=self.evaluation.episodes or 0,
            seed=self.evaluation.seed,
            toxicity=self.evaluation.toxicity,
            by_gold=self.by_gold,
            warns=self.warns,
        )

    def settings(self) -> dict[str, Any]:
        """Return its settings and its comparison's, plain, by the names of a call of `compare`."""
        compared = {name: value for name, value in self.compared.items() if name != "arms"}
        task = {n: value for n, value in self.plain["task"].items() if n != "max_new_tokens"}
        files = {"code": dict(self.code), "data": dict(self.data)}
        return {
            "env": self.env.text,
            "rewards": [word.text for word in self.rewards],
            **{name: compared.pop(name) for name in ("agents", "seeds", "first_seed")},
            "training": self.plain["training"],
            "evaluation": self.plain["evaluation"],
            "task": task,  # the length is the training's
            **compared,
            **{name: known for name, known in files.items() if known},
        }

    def numbers(self) -> dict[str, Any]:
        """Return what decides its numbers, by name; equal runs may be resumed by one another.

        The files that it names are left out. What draws the reference samples depends on no
        learner.
        """
        training = flat(self.plain["training"])
        named = {"env": self.env.text, "reward": self.reward.text, "agent": self.agent.text}
        if self.is_reference:
            training = {name: training[name] for name in OF_SAMPLES}
            named = {"env": self.env.text}
        evaluation = flat({"evaluation": self.plain["evaluation"]})
        of_task = flat(self.plain["task"])
        known = {**named, "judge": self.judge, **of_task, **training, **evaluation}
        return {name: value for name, value in known.items() if name not in NO_NUMBERS}

    # --- as plain data ----------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, without its folder."""
        shown: dict[str, Any] = {}
        for name in (one.name for one in fields(self) if one.name not in UNSTORED):
            shown |= self.plain if name == "groups" else {name: to_json(getattr(self, name))}
        return shown

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path | None = None) -> "RunSpec":
        """Return the spec that `as_dict` wrote, with the user's own files that it names trusted.

        Args:
            data: What it returned.
            folder: Folder of the run's results.
        """
        words: dict[str, Any] = {
            name: word_of_json(data[name]) for name in ("env", "agent", "reward")
        }
        words["rewards"] = tuple(map(word_of_json, data["rewards"]))
        others = {name: value for name, value in data.items() if name not in GROUPS}
        groups = RunSettings({name: data[name] for name in GROUPS})
        return cls(**{**others, **words, "groups": groups, "folder": folder})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as plain data: classes of files of the user's own are looked up again."""
        return RunSpec.from_dict, ({**self.as_dict(), "warns": self.warns}, self.folder)

    def write(self, versions: Mapping[str, str]) -> None:
        """Write it into its folder, with the versions of the packages that do the run."""
        if self.folder is not None:
            write_hashed(self.folder / SPEC_FILE, {**self.as_dict(), "versions": versions})

    @classmethod
    def read(cls, folder: Path) -> "RunSpec":
        """Return the spec of a run's folder; no code that it names is run before it is used.

        Raises:
            ValueError: if it is damaged, was changed, or is of another version.
        """
        stored = read_hashed(file := folder / SPEC_FILE)
        kinds: dict[str, Any] = {"name": str, "title": str, "seed": int, "rewards": list}
        kinds |= dict.fromkeys(("compared", *GROUPS, "code", "data"), Mapping)
        names = [one.name for one in fields(cls) if one.name not in (*UNSTORED, "groups")]
        try:
            plain = {name: stored[name] for name in (*names, *GROUPS)}
            for name, kind in kinds.items():
                if not isinstance(plain[name], kind):
                    raise TypeError(f"{name} is {plain[name]!r}")
            spec = cls.from_dict(plain, folder)
            spec.numbers(), spec.settings(), {**spec.compared["arms"]}
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file} is damaged or of another version ({error}); name another folder, or read "
                "it with the version that wrote it"
            ) from None
        return spec


def word_of_json(data: Mapping[str, Any]) -> Spec:
    """Return the word that `to_json` wrote."""
    file = data["file"]
    return Spec(data["text"], data["name"], data["options"], None if file is None else Path(file))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with the nested names alone, as the command line has them.

    Example:
        >>> flat({"seeds": 5, "training": {"learner": {"beta": 0.1}}, "evaluation": {"every": 3}})
        {'seeds': 5, 'beta': 0.1, 'evaluation.every': 3}
    """
    result: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{name}." if name == "evaluation" else "")
        else:
            result[f"{prefix}{name}"] = value
    return result


def titles_of(arms: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return arms' titles by their names; of two arms with one title both keep their names.

    Example:
        >>> titles_of([("a.py:Half", "half"), ("b.py:Half", "half"), ("sparse", "sparse")])
        {'a.py:Half': 'a.py:Half', 'b.py:Half': 'b.py:Half', 'sparse': 'sparse'}
    """
    named = dict(arms)
    shown = list(named.values())
    return {name: title if shown.count(title) == 1 else name for name, title in named.items()}


def slug(name: str) -> str:
    """Return a run's name as a folder's.

    Example:
        >>> slug("abc:beta=0.8")
        'abc_beta=0.8'
    """
    return re.sub(r"[^\w.=+-]", "_", name).strip(".") or "_"


def run_folder(out: Path, name: str, seed: int) -> Path:
    """Return the folder of one run."""
    return out / slug(name) / f"seed-{seed}"


def own_texts(training: TrainingSettings, task: TaskSettings) -> "OwnTexts | None":
    """Return the given pairs of a run that is measured on their prompts; None for all others."""
    if not has_own_prompts(training):
        return None
    from tokengym.agents.offline.own import read_own, text_encoding
    from tokengym.envs.prompts.tokenization import load_tokenizer
    from tokengym.envs.prompts.vocabulary import with_date

    named: Any = task.tokenizer or task.model
    if named is None:
        raise SettingsError("own_prompts=True needs a model of one's own; pass model")
    encoding = text_encoding(
        training.learner, chat_template=bool(task.chat_template), prompt_format=task.prompt_format
    )
    tokenizer = load_tokenizer(named, eos_token=task.eos_token, pad_token=task.pad_token)
    tokenizer = with_date(tokenizer, task.template_date)
    limit = positions_of(task.model)
    return read_own(training.learner, tokenizer, encoding, max_positions=limit)


def has_own_prompts(training: TrainingSettings) -> bool:
    """Return whether a run is measured on the prompts of its own pairs."""
    return bool(getattr(training.learner, "own_prompts", False))


def positions_of(model: str | None) -> int | None:
    """Return how many tokens a stored model has positions for; None where that is not known."""
    if model is None:
        return None
    from transformers import AutoConfig

    config = from_pretrained(AutoConfig, model).get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return limit if limit and limit > 0 else None
