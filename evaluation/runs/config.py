"""Configuration of a comparison: everything that decides its numbers, and nothing else."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.agents.learner import LEARNERS, check_saved_agents
from tokengym.base.errors import SettingsError
from tokengym.base.files import to_json
from tokengym.base.objects import short
from tokengym.base.registry import Spec
from tokengym.base.saved_code import (
    check_module,
    check_saved,
    code_hashes,
    code_paths,
    data_hashes,
    display_name,
    texts_of_options,
)
from tokengym.base.settings import FieldPath, check_count, check_number, field_paths
from tokengym.evaluation.measure.environments import Decision, decide_env, env_word, resolve_env
from tokengym.evaluation.runs.defaults import (
    EvaluationSettings,
    TaskSettings,
    TrainingSettings,
    default_rewards,
    groups_from_json,
    learner_settings,
    task_name,
    training_settings,
)
from tokengym.evaluation.runs.measuring import chosen, share_of
from tokengym.evaluation.runs.spec import (
    REFERENCE,
    RunSpec,
    flat,
    has_own_prompts,
    own_texts,
    plain_settings,
    run_folder,
    slug,
)
from tokengym.rewards.credits.base import REWARDS
from tokengym.rewards.registry import check_word

if TYPE_CHECKING:
    from tokengym.evaluation.measure.evaluate import Evaluator


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Rewards to compare, their task and their training.

    Two comparisons with equal configurations have equal numbers. Its folder, its number
    of processes and what it prints are no part of it.

    Raises:
        ValueError: if a value is out of range, or a name is unknown.
    """

    env: str = ""
    """Id of the environment; a task's bare name is completed to its newest version. Or
    "file.py:make_env", see `env_of_file`. "" takes the one that follows from what was given, see
    `decide_env`."""
    rewards: tuple[str, ...] = ()
    """Names of rewards, options after a colon ("abc:beta=0.8"). The others are set against the
    first. () takes the task's own, the first of them where learners are compared."""
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
    """SHA-256 of each file or folder of data or a model that the settings name, likewise; or that
    an option of a reward or another word names ("rto:policy=runs/dpo")."""

    def __post_init__(self) -> None:
        for name in ("rewards", "agents"):
            given = getattr(self, name)  # a text is one word, not its letters
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        word = self._decision.env
        if (word := env_word(word) if isinstance(word, str) else word).file is None:
            object.__setattr__(self, "env", resolve_env(word))
        if not self.rewards:
            own = default_rewards(resolve_env(self.env))
            object.__setattr__(self, "rewards", own[:1] if self.agents else own)
        self._share_prompt_column()
        self._complete_training()
        object.__setattr__(self, "evaluation", self._with_measuring(self.evaluation))
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
        named = [leaf.value for leaf in field_paths(self)]
        object.__setattr__(self, "code", code_hashes(named, known=self.code))
        for word in self._words.values():
            check_word(word)
        self._check_runs()
        # A setting of learners that are compared, or of a task that was saved, may name data, too.
        parts = [self, *(run.training for run in self.runs if self.agents)]
        leaves = [leaf for part in parts for leaf in field_paths(part)]
        object.__setattr__(self, "data", data_hashes(_data_named(leaves), known=self.data))

    def _check_runs(self) -> None:
        """Refuse runs that are the same, would have one folder, or cannot be compared."""
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
        for run in self.runs if self.agents else ():
            if has_own_prompts(run.training):
                raise SettingsError(
                    f"own_prompts=True of {run.agent.text!r} would measure it on other prompts "
                    "than the learners that it is compared with; leave it out, or train it alone"
                )

    def _complete_training(self) -> None:
        """Take the length of responses, and learners' tokens, from the rest where none is given."""
        training = self.training
        if training.max_new_tokens is None:
            if (own := own_texts(training, self.task)) is not None:
                length = own.longest_response
            else:
                learner, bundle = training.declaration, self.task.bundle
                usual = training_settings(self.env, learner, bundle=bundle)
                length = usual.lengths()["max_new_tokens"]
            training = replace(training, max_new_tokens=length)
        if self.agents and training.tokens is None:
            # Learners are compared at equal tokens: those of the steps, if all were full length.
            length = training.lengths()["max_new_tokens"]
            training = replace(training, tokens=training.steps * training.batch_size * length)
        object.__setattr__(self, "training", training)

    def _with_measuring(self, given: EvaluationSettings) -> EvaluationSettings:
        is_alone = self.seeds == len(self.rewards) == max(len(self.agents), 1) == 1
        return chosen(given, self.training, is_alone=is_alone)

    def _share_prompt_column(self) -> None:
        """Take a column of prompts that is named for the data set alone, or for pairs, for both."""
        learner, task = self.training.learner, self.task
        of_pairs = getattr(learner, "pairs_prompt_column", None)
        if of_pairs is not None and task.dataset is not None and not task.prompt_column:
            object.__setattr__(self, "task", replace(task, prompt_column=of_pairs))
        is_open = of_pairs is None and getattr(learner, "pairs", None)
        if is_open and isinstance(task.prompt_column, str):
            learner = replace(learner, pairs_prompt_column=task.prompt_column)
            object.__setattr__(self, "training", replace(self.training, learner=learner))

    @cached_property
    def _words(self) -> dict[str, Spec]:
        """The rewards' words taken apart, by their text."""
        return {reward: REWARDS.parse(reward) for reward in self.rewards}

    @cached_property
    def _env(self) -> Spec:
        """The environment's word taken apart."""
        return env_word(self.env)

    @cached_property
    def _agents(self) -> tuple[Spec, ...]:
        """The learners' words taken apart, or that of the one learner."""
        return tuple(map(LEARNERS.parse, self.agents or (self.training.agent,)))

    @cached_property
    def all_seeds(self) -> range:
        """The seeds of every reward's runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def by_gold(self) -> bool:
        """Whether the task's gold score measures the runs, see `RunSpec.by_gold`."""
        return self._of_all.by_gold

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
    def runs(self) -> tuple[RunSpec, ...]:
        """The runs of the first seed, resolved once; those of others are copies of them."""
        runs, whole = [], self._of_all
        for word in self._agents:
            training = self.training
            if self.agents:
                training = learner_settings(whole.env_id, training, word, self.task.bundle)
            uses_credit = training.declaration.uses_credit
            rewards = self.rewards if uses_credit else self.rewards[:1]
            for reward in rewards:
                name, title, credit = word.text, short(word.text), self._words[reward]
                if training.declaration.is_frozen:
                    title = f"{title} (frozen)"
                if uses_credit and not self.agents:
                    name, title = reward, display_name(credit)
                elif uses_credit and len(self.rewards) > 1:
                    name, title = f"{name} {reward}", f"{title} {display_name(credit)}"
                named = replace(whole, name=name, title=title)
                runs.append(replace(named, agent=word, reward=credit, training=training))
        return tuple(runs)

    @cached_property
    def _of_all(self) -> RunSpec:
        """The run that draws the reference samples, with all settings of the comparison."""
        words = tuple(self._words.values())
        names = ("agents", "seeds", "first_seed", "level", *(("training",) if self.agents else ()))
        return RunSpec(
            name=REFERENCE,
            title=REFERENCE,
            seed=self.evaluation.seed,
            env=self._env,
            agent=self._agents[0],
            reward=words[0],
            rewards=words,
            training=self.training,
            evaluation=self.evaluation,
            task=self.task,
            compared=to_json({name: getattr(self, name) for name in names}),
        )

    @cached_property
    def _decision(self) -> Decision:
        """The environment that was named, or follows from the rest; read before `env` is set."""
        first = self.rewards[0] if self.rewards else None
        return decide_env(self.env or None, self.task.bundle, self.task.sources(first))

    @property
    def decided(self) -> str:
        """What was decided of the task and the length of responses, and why, in words.

        What measures the runs is `Evaluator.measured_by`.
        """
        training, least = self.training, self.task.min_new_tokens
        if training.fixed_length:
            ends = f"every response has {training.max_new_tokens} tokens, since EOS is forbidden"
        else:
            ends = f"texts may end by themselves, after {training.max_new_tokens} tokens at most"
            ends += f" and {least} at least" if least else ""
        return f"task {task_name(self.env)}: {self._decision.why}; {ends}"

    @property
    def given_evaluation(self) -> EvaluationSettings:
        """Settings of evaluation with all left open that would be chosen like this."""
        fields_left = ("every", "episodes", "reference_samples")
        for count in (3, 2, 1):
            for names in combinations(fields_left, count):
                given: Any = dict.fromkeys(names)
                settings = replace(self.evaluation, **given)
                if self._with_measuring(settings) == self.evaluation:
                    return settings
        return self.evaluation

    @property
    def measuring(self) -> str:
        """What is measured, and the share of all responses that it takes, in words."""
        settings = self.evaluation
        share = share_of(settings, list(self.trainings.values()), self.seeds)
        takes = "" if share is None else f"measuring takes {share:.0%} of all responses: "
        return (
            f"{takes}{settings.episodes} prompts every {settings.every} updates, and "
            f"{settings.reference_samples} reference samples to each"
        )

    def _word(self, reward: str) -> Spec:
        return self._words.get(reward) or REWARDS.parse(reward)

    def spec(self, name: str, seed: int, out: Path | None = None) -> RunSpec:
        """Return the spec of a run; a reward that is not compared has one too.

        Args:
            name: Name of the run, see `names`.
            seed: Its seed.
            out: The comparison's folder; None writes nothing.

        Raises:
            SettingsError: if learners are compared, and none has runs of that name.
        """
        spec = next((spec for spec in self.runs if spec.name == name), None)
        if spec is None and self.agents:
            raise SettingsError(f"no run is named {name!r}; known: {', '.join(self.names)}")
        if spec is None:
            spec = self.runs[0]
            if spec.uses_credit:
                spec = replace(spec, name=name, title=name, reward=self._word(name))
        folder = None if out is None else run_folder(out, spec.name, seed)
        code, data = self._files_of(spec)
        return replace(spec, seed=seed, folder=folder, code=code, data=data)

    def _files_of(self, run: RunSpec) -> tuple[dict[str, str], dict[str, str]]:
        """Return the hashes of the code and data that a run's own settings name."""
        leaves = [leaf for part in (run.training, run.task) for leaf in field_paths(part)]
        others = [run.env, run.rewards, run.evaluation.toxicity]
        code = code_paths([*others, *(leaf.value for leaf in leaves)])
        data = {*map(str, _data_named(leaves, others))}
        return (
            {path: self.code[path] for path in code if path in self.code},
            {path: digest for path, digest in self.data.items() if path in data},
        )

    def specs(self, out: Path) -> list[RunSpec]:
        """Return the specs of all runs, seed by seed so that all rewards advance alike."""
        return [self.spec(name, seed, out) for seed in self.all_seeds for name in self.names]

    def reference_spec(self, out: Path) -> RunSpec:
        """Return the spec of the one run that draws the reference samples."""
        folder = out / slug(REFERENCE)
        return replace(self._of_all, folder=folder, code=self.code, data=self.data)

    @property
    def trainings(self) -> dict[str, TrainingSettings]:
        """The settings of the runs' training, by the runs' names."""
        return {run.name: run.training for run in self.runs}

    def controls(self) -> list[str]:
        """Return the names of the runs whose rule does not read the text (`Credit.control`)."""
        if self.agents and len(self.rewards) == 1:  # the names are the learners'
            return []
        return [
            run.name for run in self.runs if run.uses_credit and run.choice(run.reward).is_control
        ]

    @property
    def kl_coef(self) -> float | None:
        """Price of a nat of KL; None where learners have none, or different ones."""
        settings = [training.values for training in self.trainings.values()]
        prices = {values["kl_coef"] for values in settings if "kl_coef" in values}
        return prices.pop() if len(prices) == 1 else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as plain data, read with ``trust_code``: a process does what its parent was told.

        Classes of files of the user's own are found by their words again.
        """
        return partial(ComparisonConfig.from_dict, trust_code=True), (self.as_dict(),)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return plain_settings({one.name: getattr(self, one.name) for one in fields(self)})

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
            words = [*data.get("agents", ()), data["training"]["agent"]]
            check_saved_agents(words, source, trust_code=trust_code)
            return cls(**{**data, **groups_from_json(data)})
        except (KeyError, TypeError, AttributeError) as error:
            raise SettingsError(f"{source} is damaged or of another version ({error})") from None

    def env_kwargs(self, reward: str, *, train: bool) -> dict[str, Any]:
        """Return the arguments of ``gym.make_vec``, see `RunSpec.env_kwargs`.

        Args:
            reward: The reward, which the comparison need not have.
            train: Whether a run trains in it.
        """
        return self.runs[0].env_kwargs(train=train, reward=self._word(reward))

    def evaluator(self) -> "Evaluator":
        """Return what measures every run alike: the first reward's scorer, and the gold score.

        That alone measures them where the rewards are scored by different scorers.
        """
        return self._of_all.evaluator()


def _data_named(leaves: Sequence[FieldPath], others: Sequence[object] = ()) -> list[object]:
    """Return what fields, and the options of words in these and others, may name files by."""
    in_options = texts_of_options([*others, *(leaf.value for leaf in leaves)])
    return [*(leaf.value for leaf in leaves if leaf.is_data), *in_options]


def command_line(config: ComparisonConfig, *, trains: bool = False) -> str:
    """Return the command that makes a comparison, without what is default anyway.

    It is ``tokengym train`` if it ``trains`` the one run of a comparison.
    """
    env = config.env if config._env.file else task_name(config._env)
    parts = [f"tokengym {'train' if trains else 'compare'} --env {env}"]
    parts.append(f"--reward{'' if trains else 's'} {' '.join(config.rewards)}")
    parts += [] if trains else [f"--seeds {config.seeds}"]
    if config.agents:
        parts.append(f"--agents {' '.join(config.agents)}")
    elif config.training.agent != "ppo":  # the defaults are those of the same learner
        parts.append(f"--agent {config.training.agent}")
    if config.first_seed != ComparisonConfig.first_seed:
        parts.append(f"--{'' if trains else 'first-'}seed {config.first_seed}")
    usual = training_settings(config.env, config.training.declaration)
    if has_own_prompts(config.training):
        usual = replace(usual, max_new_tokens=None)
    for settings, default in (
        (config.training, usual),
        (config.given_evaluation, EvaluationSettings()),
        (config.task, TaskSettings()),
    ):
        defaults = {leaf.path: leaf.value for leaf in field_paths(default)}
        for leaf in field_paths(settings):
            if leaf.flag and leaf.value != defaults[leaf.path]:
                values = leaf.value if isinstance(leaf.value, tuple) else (leaf.value,)
                parts.append(f"--{leaf.flag} {shlex.join(map(str, values))}")
    return " ".join(parts)
