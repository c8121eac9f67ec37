"""Configuration of a comparison: everything that decides its numbers, and nothing else."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.agents.learner import LEARNERS
from tokengym.base.errors import SettingsError
from tokengym.base.files import write_hashed
from tokengym.base.pretrained import from_pretrained
from tokengym.base.registry import Spec, split_file_word
from tokengym.base.saved_code import (
    changed_files,
    check_module,
    check_saved,
    code_hashes,
    code_paths,
    data_hashes,
    display_name,
)
from tokengym.base.settings import (
    as_plain,
    check_count,
    check_number,
    field_paths,
    from_plain,
    values_by_name,
)
from tokengym.evaluation.measure.environments import resolve_env
from tokengym.evaluation.runs.defaults import (
    LACKING,
    EvaluationSettings,
    TaskSettings,
    TrainingSettings,
    bundle_settings,
    learner_settings,
    names_of_run,
    task_defaults,
    task_name,
    task_of_file,
)
from tokengym.rewards.credits.base import REWARDS
from tokengym.rewards.registry import RewardChoice

if TYPE_CHECKING:
    from tokengym.agents.offline.own import OwnTexts
    from tokengym.evaluation.measure.evaluate import Evaluator

SETTINGS_FILE = "comparison.json"
"""File of the configuration, in a comparison's folder."""
REFERENCE = "reference samples"
"""Name of the run that draws the reference samples, which no reward can have."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One run, resolved: its settings, learner, reward and folder.

    Sent to another process it is its settings as plain data, which are read there once.
    """

    name: str
    """Name of the learner, the reward or both, whichever vary; runs of one differ in their seed."""
    title: str
    """Name in the results, with an own rule's ``name`` in place of its file and class."""
    agent: Spec
    """The learner, with options of its own."""
    reward: str
    """The reward, options after a colon."""
    config: "ComparisonConfig"
    """Settings that its results keep: the comparison's, under its learner alone."""
    seed: int
    """Seed of everything random in it."""
    folder: Path | None = None
    """Folder of its results; None writes none."""
    warns: bool = True
    """Whether it names a judge that cannot read the texts; of a comparison's runs one does."""

    @property
    def key(self) -> tuple[str, int]:
        """Name and seed, which no other run of the comparison has."""
        return self.name, self.seed

    @property
    def uses_credit(self) -> bool:
        """Whether the learner sees more of the reward than the score."""
        return self.training.declaration.uses_credit

    @property
    def is_reference(self) -> bool:
        """Whether it draws the reference samples and trains nothing."""
        return self.name == REFERENCE

    @property
    def training(self) -> TrainingSettings:
        """Settings of its training."""
        return self.config.training

    @property
    def comparison_folder(self) -> Path | None:
        """Folder of the comparison's results; None writes none."""
        if self.folder is None:
            return None
        return self.folder.parent if self.is_reference else self.folder.parents[1]

    @property
    def is_done(self) -> bool:
        """Whether its result is in its folder, failed or finished."""
        return self.folder is not None and (self.folder / "run.json").exists()

    @property
    def code(self) -> list[str]:
        """Paths of the files of the user's own code that it runs.

        The comparison's first reward is one of them: every run is measured by its scorer.
        """
        of_all = {
            k: v for k, v in self.config.as_dict().items() if k not in ("rewards", "code", "data")
        }
        return code_paths([of_all, self.config.rewards[0], self.agent, self.reward])

    def env_kwargs(self, *, train: bool) -> dict[str, Any]:
        """Return the arguments of ``gym.make_vec`` under its reward."""
        return self.config.env_kwargs(self.reward, train=train)


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Rewards to compare, their task and their training.

    Two comparisons with equal configurations have equal numbers. Its folder, its number
    of processes and what it prints are no part of it.

    Raises:
        ValueError: if a value is out of range, or a name is unknown.
    """

    env: str
    """Id of the environment; a task's bare name is completed to its newest version. Or
    "file.py:make_env", see `env_of_file`."""
    rewards: tuple[str, ...]
    """Names of rewards, options after a colon ("abc:beta=0.8"). The others are set against the
    first."""
    agents: tuple[str, ...] = field(default=(), metadata={"flag": ""})
    """Names of learners that are compared at equal tokens, settings after a colon
    ("loo:learning_rate=1e-3"); each shares the settings of ``training`` that it has. () compares
    rewards alone, under the learner of ``training``."""
    seeds: int = 5
    """Runs per reward, with the seeds first_seed, first_seed + 1, ..., the same for all."""
    first_seed: int = 0
    """The lowest seed."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """Settings of each run's training."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """Settings of its evaluations."""
    task: TaskSettings = field(default_factory=TaskSettings)
    """Prompts and models of the environment."""
    level: float = field(default=0.95, metadata={"flag": ""})
    """Confidence level of the intervals, in (0, 1)."""
    code: Mapping[str, str] = field(default_factory=dict, metadata={"flag": ""})
    """SHA-256 of each file of the user's own code that the settings name, by path; where it is
    given it stays, so that a changed file is noticed."""
    data: Mapping[str, str] = field(default_factory=dict, metadata={"flag": ""})
    """SHA-256 of each file or folder of data that the settings name, likewise."""

    def __post_init__(self) -> None:
        if not split_file_word(self.env):
            object.__setattr__(self, "env", resolve_env(self.env))
        object.__setattr__(self, "rewards", tuple(self.rewards))
        object.__setattr__(self, "agents", tuple(self.agents))
        self._complete_training()
        check_count(self, "seeds", hint="5 is the least that gives an interval")
        check_count(self, "first_seed", least=0)
        check_number(self, "level", above=0.0, below=1.0, hint="0.95 is usual")
        if self.task.max_new_tokens is not None:
            raise SettingsError(
                f"max_new_tokens of a comparison is a training setting, got "
                f"{self.task.max_new_tokens} for its task; pass it to TrainingSettings"
            )
        if self.training.fixed_length and self.task.min_new_tokens is not None:
            raise SettingsError(
                f"min_new_tokens={self.task.min_new_tokens} has no effect on responses of fixed "
                "length; leave it out, or pass fixed_length=False"
            )
        self._name_prompt_column()
        if not self.rewards:
            raise ValueError("rewards must name at least one reward, e.g. sparse uniform abc")
        named = [leaf.value for leaf in field_paths(self)]
        object.__setattr__(self, "code", code_hashes(named, known=self.code))
        for word in self._words.values():
            REWARDS.check(word)
        learner = self.training.declaration
        if not self.agents and not learner.uses_credit and len(self.rewards) > 1:
            raise SettingsError(
                f"{learner.name} learns from the scorer alone, so that rewards {self.rewards[0]!r} "
                f"and {self.rewards[1]!r} are the same to it; name one reward"
            )
        # Two names that differ in a space or a slash would have one folder.
        slugs = [slug(name) for name in self.names]
        for index, name in enumerate(slugs):
            if name in slugs[:index]:
                what = "agents" if self.agents else "rewards"
                raise ValueError(
                    f"{what} names {self.names[index]!r} twice; leave one out, seeds repeats it"
                )
        self._check_prompts()
        object.__setattr__(self, "data", self._data_hashes())

    def _check_prompts(self) -> None:
        """Refuse learners that are compared, and of which one is measured on its own prompts."""
        for run in self.runs if self.agents else ():
            if _has_own_prompts(run.training):
                raise SettingsError(
                    f"own_prompts=True of {run.agent.text!r} would measure it on other prompts "
                    "than the learners that it is compared with; leave it out, or train it alone"
                )

    def _complete_training(self) -> None:
        """Take the length of responses, and learners' tokens, from the rest where none is given."""
        training = self.training
        if training.max_new_tokens is None:
            training = replace(training, max_new_tokens=self._default_length())
        if self.agents and training.tokens is None:
            # Learners are compared at equal tokens: those of the steps, if all were full length.
            length = training.lengths()["max_new_tokens"]
            training = replace(training, tokens=training.steps * training.batch_size * length)
        object.__setattr__(self, "training", training)

    def _name_prompt_column(self) -> None:
        """Take the column of prompts that is named for pairs for the data set's as well."""
        column = getattr(self.training.learner, "pairs_prompt_column", None)
        if column is not None and self.task.dataset is not None and not self.task.prompt_column:
            object.__setattr__(self, "task", replace(self.task, prompt_column=column))

    def _data_hashes(self) -> dict[str, str]:
        """Return the hashes of the data that these settings name, those that are known unchanged.

        A setting of learners that are compared, or of a task that was saved, may be such a name.
        """
        parts = [self] if not self.agents else [self, *(run.config for run in self.runs)]
        named = [leaf.value for part in parts for leaf in field_paths(part) if leaf.is_data]
        return data_hashes(named, known=self.data)

    @cached_property
    def _words(self) -> dict[str, Spec]:
        """The rewards' words taken apart, by their text."""
        return {reward: REWARDS.parse(reward) for reward in self.rewards}

    @cached_property
    def all_seeds(self) -> range:
        """The seeds of every reward's runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @cached_property
    def by_gold(self) -> bool:
        """Whether rewards are scored by different scorers, none of which can judge them all.

        They are then measured by the task's gold score, where it has one.
        """
        is_relevance = {self.choice(reward).kind == "encoder" for reward in self.rewards}
        return len(is_relevance) > 1 and self.task.scorer is None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the runs of one seed: of the learner, the reward or both, whichever vary.

        A learner that sees only the scorer has one name, whatever the rewards.
        """
        return tuple(run.name for run in self.runs)

    @cached_property
    def titles(self) -> dict[str, str]:
        """The runs' titles by their names; of two runs with one title both keep their names."""
        shown = [run.title for run in self.runs]
        return {r.name: r.title if shown.count(r.title) == 1 else r.name for r in self.runs}

    @cached_property
    def runs(self) -> tuple[RunPlan, ...]:
        """The runs of the first seed, resolved once; those of others are copies of them.

        Raises:
            SettingsError: if a learner has no such option.
        """
        runs = []
        for agent in self.agents or (self.training.agent,):
            word, training, config = LEARNERS.parse(agent), self.training, self
            if self.agents:
                training = learner_settings(resolve_env(self.env), training, word)
            uses_credit = training.declaration.uses_credit
            rewards = self.rewards if uses_credit else self.rewards[:1]
            if self.agents:
                config = replace(self, agents=(), rewards=rewards, training=training)
            for reward in rewards:
                name, title = word.text, word.text
                if uses_credit and not self.agents:
                    name, title = reward, display_name(reward)
                elif uses_credit and len(self.rewards) > 1:
                    name, title = f"{name} {reward}", f"{name} {display_name(reward)}"
                plan = RunPlan(
                    name=name,
                    title=title,
                    agent=word,
                    reward=reward,
                    config=config,
                    seed=self.first_seed,
                )
                runs.append(plan)
        return tuple(runs)

    @cached_property
    def _choices(self) -> dict[str, RewardChoice]:
        return {}

    def choice(self, reward: str) -> RewardChoice:
        """Return what the word of a reward stands for; a word of the user's own file runs it.

        It is parsed when it is first needed.

        Raises:
            RewardError: if an option is unknown.
        """
        if reward not in self._choices:
            self._choices[reward] = RewardChoice.of(self._words.get(reward, reward))
        return self._choices[reward]

    def plan(self, name: str, seed: int, out: Path | None = None) -> RunPlan:
        """Return the plan of a run; a reward that is not compared has one too.

        Args:
            name: Name of the run, see `names`.
            seed: Its seed.
            out: The comparison's folder; None writes nothing.

        Raises:
            SettingsError: if learners are compared, and none has runs of that name.
        """
        plan = next((plan for plan in self.runs if plan.name == name), None)
        if plan is None and self.agents:
            raise SettingsError(f"no run is named {name!r}; known: {', '.join(self.names)}")
        if plan is None:
            plan = self.runs[0]
            if plan.uses_credit:
                plan = replace(plan, name=name, title=name, reward=name)
        folder = None if out is None else run_folder(out, plan.name, seed)
        return replace(plan, seed=seed, folder=folder)

    def plans(self, out: Path) -> list[RunPlan]:
        """Return the plans of all runs, seed by seed so that all rewards advance alike.

        Args:
            out: The comparison's folder.
        """
        return [self.plan(name, seed, out) for seed in self.all_seeds for name in self.names]

    def reference_plan(self, out: Path) -> RunPlan:
        """Return the plan of the one run that draws the reference samples.

        Args:
            out: The comparison's folder.
        """
        return replace(
            self.runs[0],
            name=REFERENCE,
            title=REFERENCE,
            config=self,
            seed=self.evaluation.seed,
            folder=out / slug(REFERENCE),
        )

    @property
    def trainings(self) -> dict[str, TrainingSettings]:
        """The settings of the runs' training, by the runs' names."""
        return {run.name: run.config.training for run in self.runs}

    def controls(self) -> list[str]:
        """Return the names of the runs whose rule does not read the text (`Credit.control`)."""
        if self.agents and len(self.rewards) == 1:  # the names are the learners'
            return []
        return [
            run.name for run in self.runs if run.uses_credit and self.choice(run.reward).is_control
        ]

    @property
    def kl_coef(self) -> float | None:
        """Price of a nat of KL; None where learners have none, or different ones."""
        settings = [training.values for training in self.trainings.values()]
        prices = {values["kl_coef"] for values in settings if "kl_coef" in values}
        return prices.pop() if len(prices) == 1 else None

    @property
    def price(self) -> float | None:
        """`kl_coef` under its name of version 0.1."""
        return self.kl_coef

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as plain data, read with ``trust_code``: a process does what its parent was told.

        Classes of files of the user's own are found by their words again.
        """
        return partial(ComparisonConfig.from_dict, trust_code=True), (self.as_dict(),)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain data, as comparison.json keeps them."""
        data: dict[str, Any] = as_plain(self)
        del data["task"]["max_new_tokens"]  # the training's
        return {k: v for k, v in data.items() if v or k not in ("code", "data")}

    def flat(self) -> dict[str, Any]:
        """Return them with the nested names alone, as the command line has them."""
        return flat(self.as_dict())

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        source: Path | str = "the settings",
        *,
        trust_code: bool = False,
    ) -> "ComparisonConfig":
        """Return the configuration that `as_dict` wrote.

        Args:
            data: What it returned.
            source: Where it was read, for messages.
            trust_code: Let the settings name code of files, and of modules to import.

        Raises:
            SettingsError: if another version wrote it.
            UntrustedCodeError: if it names code.
        """
        check_saved(data, source, trust_code=trust_code)
        try:
            check_module(data["env"], source, trust_code=trust_code)
            parts = {
                "training": TrainingSettings.from_dict(data["training"]),
                "evaluation": from_plain(
                    EvaluationSettings,
                    # An earlier version drew none.
                    {"reference_samples": 0} | data["evaluation"],
                ),
                "task": from_plain(TaskSettings, task_of_file(data["task"])),
            }
            return cls(**{**data, **parts})
        except (KeyError, TypeError, AttributeError) as error:
            raise SettingsError(f"{source} is damaged or of another version ({error})") from None

    def env_kwargs(self, reward: str, *, train: bool) -> dict[str, Any]:
        """Return the arguments of ``gym.make_vec`` for training or for evaluation.

        Environments share a rule, which keeps no state; what scores itself is made for each.
        """
        normalize = self.training.normalize if train else "off"
        choice, own = self.choice(reward), self._own_texts
        own_prompts: dict[str, Any] = {}
        if own is not None:
            own_prompts["prompts"] = own.train_prompts if train else own.test_prompts
            own_prompts |= self._own_lengths(own)
        return {
            **self.training.lengths(),
            **self.task.env_kwargs(self.env),
            **own_prompts,
            "reward": choice if choice.kind is not None else self._words.get(reward, reward),
            "normalize": None if normalize == "off" else normalize,
            "split": "train" if train else "test",
        }

    @cached_property
    def _own_texts(self) -> "OwnTexts | None":
        """The given pairs of a run that is measured on their prompts; None for all others."""
        learner: Any = self.training.learner
        if not _has_own_prompts(self.training):
            return None
        from tokengym.agents.offline.own import read_own, text_encoding
        from tokengym.envs.prompts.tokenization import load_tokenizer

        task = self.task
        named: Any = task.tokenizer or task.model
        if named is None:
            raise SettingsError("own_prompts=True needs a model of one's own; pass model")
        encoding = text_encoding(
            learner, chat_template=bool(task.chat_template), prompt_format=task.prompt_format
        )
        tokenizer = load_tokenizer(named, eos_token=task.eos_token, pad_token=task.pad_token)
        return read_own(learner, tokenizer, encoding, max_positions=positions_of(task.model))

    def _default_length(self) -> int:
        """Return the longest response, tokens, where none is given."""
        if (own := self._own_texts) is not None:
            return own.longest_response
        of_bundle = bundle_settings(self.task.bundle, "training")
        defaults = task_defaults(self.env, self.training.declaration, of_bundle)
        declared = values_by_name(TrainingSettings)
        return int((declared | defaults)["max_new_tokens"])

    def _own_lengths(self, own: "OwnTexts") -> dict[str, int]:
        """Return how long responses may be where prompts are those of given pairs.

        As long as is set, and the model reads behind the longest prompt.
        """
        longest, limit = self.training.lengths()["max_new_tokens"], positions_of(self.task.model)
        if limit is not None:
            longest = max(min(longest, limit - own.longest_prompt), 1)
        return {"max_new_tokens": longest, "min_new_tokens": self.task.min_new_tokens or 0}

    def evaluator(self, *, warns: bool = True) -> "Evaluator":
        """Return what measures every run alike.

        By the first reward's scorer, and by the gold score where the task has one; by that alone
        where the rewards are scored by different scorers.

        Args:
            warns: Whether it names a judge that cannot read the texts.
        """
        from tokengym.evaluation.measure.evaluate import Evaluator

        return Evaluator(
            self.env,
            self.env_kwargs(self.rewards[0], train=False),
            num_episodes=self.evaluation.episodes,
            seed=self.evaluation.seed,
            toxicity=self.evaluation.toxicity,
            by_gold=self.by_gold,
            warns=warns,
        )

    def save(self, folder: Path) -> None:
        """Write it into a comparison's folder, for what reads the runs there."""
        write_hashed(folder / SETTINGS_FILE, self.as_dict())

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


def _has_own_prompts(training: TrainingSettings) -> bool:
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


NO_NUMBERS = ("scorer_timeout", "evaluation.reference_samples")
"""Settings that change no number of a run, and may be others when it is resumed."""


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return which settings of two configurations (`ComparisonConfig.as_dict`) differ, in words."""
    left, right = (
        LACKING
        | task_of_file(side.get("task", {}))
        | flat({**side, "task": {}, "code": {}, "data": {}})
        for side in (old, new)
    )
    changed = (changed_files(old.get(key, {}), new.get(key, {})) for key in ("code", "data"))
    return [*chain(*changed)] + [
        f"{name} {left.get(name)!r} there, {right.get(name)!r} here"
        for name in [*left, *(name for name in right if name not in left)]
        if left.get(name) != right.get(name) and name not in NO_NUMBERS
    ]


def varying_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names on which configurations (`ComparisonConfig.flat`) differ.

    A setting that only some of them have, as that of one learner, differs where those do. A file of
    code is a setting by its path.

    Example:
        >>> varying_names([{"agent": "ppo", "clip_range": 0.2}, {"agent": "dpo", "beta": 0.1}])
        ['agent']
    """
    names = dict.fromkeys(name for each in settings for name in each if name not in NO_NUMBERS)
    values = {name: [each[name] for each in settings if name in each] for name in names}
    return [name for name, known in values.items() if any(one != known[0] for one in known)]


def command_line(config: ComparisonConfig) -> str:
    """Return the command that makes a comparison, without what is default anyway."""
    env = config.env if split_file_word(config.env) else task_name(config.env)
    parts = ["tokengym compare", f"--env {env}"]
    parts.append(f"--rewards {' '.join(config.rewards)} --seeds {config.seeds}")
    if config.agents:
        parts.append(f"--agents {' '.join(config.agents)}")
    elif config.training.agent != "ppo":  # the defaults are those of the same learner
        parts.append(f"--agent {config.training.agent}")
    if config.first_seed != ComparisonConfig.first_seed:
        parts.append(f"--first-seed {config.first_seed}")
    learner = config.training.declaration
    of_task = task_defaults(config.env, learner)
    of_learner = learner.default_values() | of_task  # which may have a name that the run has too
    of_run = {name: of_task[name] for name in of_task.keys() & names_of_run(learner)}
    if _has_own_prompts(config.training):
        of_run["max_new_tokens"] = None
    for settings, defaults in (
        (config.training, values_by_name(TrainingSettings) | {"agent": learner.name} | of_run),
        (config.evaluation, values_by_name(EvaluationSettings)),
        (config.task, values_by_name(TaskSettings)),
    ):
        for leaf in field_paths(settings):
            of_leaf = defaults if leaf.owner is type(settings) else of_learner
            if leaf.flag and leaf.value != of_leaf[leaf.path[-1]]:
                values = leaf.value if isinstance(leaf.value, tuple) else (leaf.value,)
                parts.append(f"--{leaf.flag} {shlex.join(map(str, values))}")
    return " ".join(parts)


def slug(reward: str) -> str:
    """Return a reward's name as a folder's.

    Example:
        >>> slug("abc:beta=0.8")
        'abc_beta=0.8'
    """
    return re.sub(r"[^\w.=+-]", "_", reward).strip(".") or "_"


def run_folder(out: Path, name: str, seed: int) -> Path:
    """Return the folder of one run."""
    return out / slug(name) / f"seed-{seed}"
