"""What a comparison is: what was given goes in, the specs of its runs and what was chosen come out.

Nothing else fills in what was left open. A setting is, from the strongest: what the learner's word
says, what was given, what the learner's name stands for, the bundle's, the task's, the learner's,
and the default where it is declared. `gym.make` alone decides the prompts, the models and the
scorer of an environment, and its chat template.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from numbers import Number
from pathlib import Path
from typing import Any, NoReturn

from tokengym.agents.learner import LEARNERS, Learner, NoSettings, find_learner
from tokengym.agents.learner import word_of as word_of_agent
from tokengym.base.errors import SettingsError
from tokengym.base.files import to_json
from tokengym.base.objects import keep, place_of, short, word_of
from tokengym.base.registry import Spec, did_you_mean
from tokengym.base.saved_code import (
    code_hashes,
    data_hashes,
    display_name,
    texts_of_options,
)
from tokengym.base.settings import (
    Chosen,
    FieldPath,
    as_given,
    changed,
    check_count,
    check_number,
    field_paths,
    filled,
    keywords_of,
    values_by_name,
)
from tokengym.base.spellings import answer, in_place_of_seeds
from tokengym.evaluation.measure.environments import (
    Decision,
    decide_env,
    env_word,
    resolve_env,
    task_name,
)
from tokengym.evaluation.runs.comparison import Comparison, naming_agent
from tokengym.evaluation.runs.defaults import (
    COMMON,
    OF_BUDGET,
    Layer,
    LearnerSettings,
    amounts,
    common_settings,
    default_rewards,
    evaluation_of,
    groups_of,
    in_words,
    layers_of,
    settings_of,
    strongest,
)
from tokengym.evaluation.runs.settings import (
    AGENT,
    SEEDS,
    EvaluationSettings,
    RunSettings,
    TaskSettings,
    TrainingSettings,
)
from tokengym.evaluation.runs.spec import (
    REFERENCE,
    RunSpec,
    has_own_prompts,
    own_texts,
    positions_of,
    slug,
)
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.rewards import FunctionScorer, Reward
from tokengym.rewards.credits.words import REWARDS
from tokengym.rewards.registry import RewardChoice, check_word


def decide(
    env: str | Callable[..., Any] | None = None,
    *,
    rewards: Any = (),
    agent: Any = AGENT,
    agents: Any = (),
    seeds: int = SEEDS,
    first_seed: int = 0,
    level: float = DEFAULT_LEVEL,
    trains: bool = False,
    **given: Any,
) -> Comparison:
    """Return the comparison that a call or a command asks for, with all that was left open decided.

    Args:
        env: Word of the environment, or a function at the top of a file that makes it; None takes
            the one that follows from the rest.
        rewards: Words or objects; () takes the task's, the first of them where one is enough.
        agent: Learner, by its word or itself.
        agents: Learners to compare at equal tokens; () compares rewards.
        seeds: Runs per arm, with the seeds first_seed, first_seed + 1, ..., the same for all.
        first_seed: The lowest seed.
        level: Confidence level of the intervals, in (0, 1).
        trains: Whether it is the one run of ``tokengym train``, which has 16 reference samples, and
            is measured on the prompts of its own pairs where it has no others.
        given: Settings of the training, the evaluation and the task by the words of their options.
            An object among them becomes a word.

    Raises:
        TypeError: if there is no such setting.
        ValueError: if a value is out of range, a name is unknown, or runs cannot be compared.

    Example:
        >>> decide("MovieReview", rewards=["sparse", "abc"], updates=12).names
        ('sparse', 'abc')
    """
    _check_places(given)
    asked = Asked(
        env=_env_word(env),
        rewards=tuple(map(_word, _listed(rewards))),
        agents=tuple(map(_agent_word, _listed(agents or agent))),
        compares=bool(agents),
        seeds=seeds,
        first_seed=first_seed,
        level=level,
        trains=trains,
        settings={name: _plain(value) for name, value in given.items() if value is not None},
    )
    if agents and agent != AGENT:
        raise ValueError(f"agent={agent!r} has no effect beside agents; leave one of them out")
    return _Decisions(asked).comparison


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was given, objects by the words that stand for them; see `decide`."""

    env: str | None
    rewards: tuple[str, ...]
    agents: tuple[str, ...]
    compares: bool
    """Whether learners are compared."""
    seeds: int
    first_seed: int
    level: float
    trains: bool
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.seeds, Iterable):
            listed = ", ".join(map(str, self.seeds))
            remedy = in_place_of_seeds(listed, is_option=False) or "seeds=5, first_seed=0"
            raise SettingsError(f"seeds is a number of seeds, got {self.seeds!r}; write {remedy}")
        check_count(self, "seeds", hint="5 is the least that gives an interval")
        check_count(self, "first_seed", least=0)
        check_number(self, "level", above=0.0, below=1.0, hint=f"{DEFAULT_LEVEL} is usual")


# --- words ----------------------------------------------------------------------------------------


def _env_word(env: Any) -> Any:
    """Return the word of an environment, or of the function that makes it.

    An environment itself is refused: each run makes its own.
    """
    if isinstance(env, str | Spec | None):
        return env
    if callable(env) and (place := place_of(env, None)) is not None:
        return place
    spec = getattr(env, "spec", None)
    known = getattr(env if spec is None else spec, "id", None)
    remedy = f": write compare({known!r}), with its settings beside it" if known else ""
    raise TypeError(
        "compare takes an environment's id or name, or 'path/to/file.py:make_env' of a function "
        f"that makes one, or that function, got a {type(env).__name__}"
        f"{' that is at the top of no file' if callable(env) else ''}; each run makes its "
        f"own{remedy}"
    )


OF_LENGTH = ("steps", "num_train_epochs")
"""Settings that end a run where no tokens do."""
OF_FOLDERS = ("model", "reward_model", "encoder")
"""Settings that name stored models."""


def _check_places(given: Mapping[str, Any]) -> None:
    """Refuse a model itself where its folder is meant."""
    for name in OF_FOLDERS:
        if not isinstance(value := given.get(name), str | Path | None):
            raise TypeError(
                f"{name} must be a folder or a name, from which each run of a comparison begins "
                f"alike, got a {type(value).__name__}; write it into one by save_pretrained, with "
                "its tokenizer"
            )


def _is_list(value: Any) -> bool:
    """Return whether a value lists others, as Hydra's lists do too."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _listed(given: Any) -> Sequence[Any]:
    """Return what was given as a sequence; a single word or object is one of one."""
    return given if _is_list(given) else (given,)


def _word(given: Any) -> str:
    return given if isinstance(given, str) else word_of(given)


def _agent_word(given: Any) -> str:
    """Return the word of an agent: its learner's name or its place, else one of this process."""
    try:
        return word_of_agent(given)
    except SettingsError:
        return keep(given)


def _plain(value: Any) -> Any:
    """Return a value as settings keep it; an object as the word that stands for it."""
    if not _is_plain(value):
        return word_of(value)
    return tuple(value) if _is_list(value) else value


def _is_plain(value: Any) -> bool:
    """Return whether a value is of numbers and texts alone; a dataclass may be a scorer."""
    if _is_list(value) or isinstance(value, Mapping):
        return all(map(_is_plain, value.values() if isinstance(value, Mapping) else value))
    return value is None or isinstance(value, str | Path | Number)


# --- a comparison ---------------------------------------------------------------------------------


class _Decisions:
    """Everything that the runs of a comparison depend on: each fact is decided once, by its name.

    Args:
        asked: What was given.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked, self.given = asked, asked.settings
        self.words = [LEARNERS.parse(word) for word in asked.agents]
        self.learners = [LEARNERS.find(word) for word in self.words]
        how: dict[str, Any] = {"sources": self.given, "compares": asked.compares}
        self.known = [keywords_of(groups_of(learner, **how)) for learner in self.learners]
        """Keywords that have an effect on runs of each learner, with group and field."""
        of_all = keywords_of({"training": common_settings()}) if asked.compares else {}
        self.of_all = {keyword: leaf.path[-1] for keyword, (_, leaf) in of_all.items()}
        """Keywords of what the learners have in common, with the names of the settings."""
        names = {*self.of_all}.union(*self.known)
        for name in filter(lambda name: name not in names, self.given):
            _refuse(name, self.given[name], self.words[0], self.known)
        self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        """Refuse settings that another one leaves without an effect."""
        fields = {k: leaf.path[-1] for of in self.known for k, (_, leaf) in of.items()}
        fields |= self.of_all
        given = {k: v for k, v in self.given.items() if v is not None}
        tokens = given.get("tokens")
        if tokens is not None and not any(learner.is_frozen for learner in self.learners):
            for name in given:
                if fields.get(name) in OF_LENGTH:
                    raise SettingsError(
                        f"{name}={given[name]!r} has no effect beside tokens={tokens}, which end "
                        "each run; leave one of the two out"
                    )

    def _given_of(self, index: int, group: str) -> dict[str, Any]:
        """Return what was given of one group that a learner's runs have, by keyword."""
        known = self.known[index]
        return {k: v for k, v in self.given.items() if k in known and known[k][0] == group}

    # --- the task ---------------------------------------------------------------------------------

    @cached_property
    def stated_task(self) -> TaskSettings:
        """Settings of the task as they were given."""
        given: dict[str, Any] = {}
        for index in range(len(self.words)):
            given |= self._given_of(index, "task")
        made: TaskSettings = filled({"task": Chosen(TaskSettings())}, given)["task"]
        return made

    @cached_property
    def decision(self) -> Decision:
        """The environment that was named, or follows from the rest, and why."""
        first, task = next(iter(self.asked.rewards), None), self.stated_task
        return decide_env(self.asked.env or None, task.bundle, task.sources(first))

    @cached_property
    def env(self) -> Spec:
        """The environment's word: its full id, or the file that makes it."""
        found = self.decision.env
        word = env_word(found) if isinstance(found, str) else found
        if word.file is not None:
            return word
        return env_word(resolve_env(word))

    @cached_property
    def rewards(self) -> dict[str, Spec]:
        """The rewards' words taken apart, by their texts; the task's where none was given."""
        words = self.asked.rewards or default_rewards(resolve_env(self.env))
        if not self.asked.rewards and (self.asked.compares or self.asked.trains):
            words = words[:1]
        if len({*words}) < len(words):
            twice = next(word for word in words if words.count(word) > 1)
            raise ValueError(f"rewards names {twice!r} twice; leave one out, seeds repeats it")
        found = {word: REWARDS.parse(word) for word in words}
        for word in found.values():
            check_word(word)
        return found

    @cached_property
    def layers(self) -> list[Layer]:
        """Settings of the task and the bundle."""
        return layers_of(resolve_env(self.env), self.stated_task.bundle)

    # --- training ---------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> list[LearnerSettings]:
        """Each learner's own settings, before what is common decides the rest."""
        return [self._settings(index) for index in range(len(self.words))]

    def _settings(self, index: int) -> LearnerSettings:
        learner, word, known = self.learners[index], self.words[index], self.known[index]
        _check_options(learner, word)
        given = self._given_of(index, "training")
        names = {known[keyword][1].path[-1]: keyword for keyword in given}
        if len(names) < len(given):
            twice = next(k for k in names.values() if known[k][1].keywords[0] != k)
            raise TypeError(f"got {twice!r} twice, by two of its names; leave one out")
        values = {known[keyword][1].path[-1]: value for keyword, value in given.items()}
        values, layers = self._with_own_prompts(learner, {**values, **word.options})
        with naming_agent(word.text, one_of=len(self.words)), as_given(names):
            try:
                made = settings_of(learner, layers, values)
            except TypeError as error:
                raise SettingsError(f"agent {word.text!r}: {error}{_beside(word)}") from None
        if self.asked.compares and has_own_prompts(made.training):
            raise SettingsError(
                f"own_prompts=True of {word.text!r} would measure it on other prompts than the "
                "learners that it is compared with; leave it out, or train it alone"
            )
        return made

    def _with_own_prompts(
        self, learner: Learner, given: dict[str, Any]
    ) -> tuple[dict[str, Any], Sequence[Layer]]:
        """Return what is given of a learner, and the layers below it.

        One run is measured on the prompts of its own pairs, where it has its own model alone.
        Responses end there as those of the pairs do, whatever the task forbids.
        """
        if given.get("pairs") is None or "own_prompts" not in learner.default_values():
            return given, self.layers
        task = self.stated_task
        others = (task.prompts, task.dataset, task.bundle)
        is_own = task.model is not None and all(other is None for other in others)
        if self.asked.trains:
            given = {"own_prompts": is_own, **given}
        if not given.get("own_prompts"):
            return given, self.layers
        return given, [*self.layers, ("its own prompts", {"fixed_length": False})]

    @cached_property
    def common(self) -> dict[str, Any]:
        """Settings that all runs have, whichever learner: as given, else as the task has them."""
        of_task = {name: value for name, (_, value) in strongest(self.layers).items()}
        given = {self.of_all[k]: v for k, v in self.given.items() if k in self.of_all}
        return {name: getattr(TrainingSettings, name) for name in COMMON} | of_task | given

    @cached_property
    def budget(self) -> dict[str, int]:
        """Tokens of each run where learners are compared; {} where rewards are.

        They are those of the updates, if all responses were of full length.
        """
        if not self.asked.compares:
            return {}
        return {"tokens": self.given.get("tokens") or prod(self.common[name] for name in OF_BUDGET)}

    @cached_property
    def prompt_column(self) -> str | int | None:
        """Column of prompts that is named for the data set or for pairs alone, and means both."""
        task, learners = self.stated_task, [one.training.learner for one in self.settings]
        of_pairs = [getattr(learner, "pairs_prompt_column", None) for learner in learners]
        named = next((one for one in of_pairs if one is not None), None)
        is_open = task.dataset is not None and not task.prompt_column
        column: str | int | None = named if is_open and named is not None else task.prompt_column
        return column

    @cached_property
    def task(self) -> TaskSettings:
        """Settings of the task."""
        return replace(self.stated_task, prompt_column=self.prompt_column)

    @cached_property
    def trainings(self) -> list[TrainingSettings]:
        """The settings of each learner's training."""
        return [
            self._complete(one.training, word)
            for one, word in zip(self.settings, self.words, strict=True)
        ]

    def _complete(self, training: TrainingSettings, word: Spec) -> TrainingSettings:
        """Return settings with the length, the budget and the prompts that all runs share."""
        learner, column = training.learner, self.task.prompt_column
        is_open = getattr(learner, "pairs", None) and learner.pairs_prompt_column is None
        if is_open and isinstance(column, str):
            learner = replace(learner, pairs_prompt_column=column)
        shared: dict[str, Any] = dict(self.budget)
        if self.asked.compares and training.declaration.is_frozen:
            shared["steps"] = self.common["steps"]  # where the others' curves end
        shared |= {"learner": learner, "max_new_tokens": self._length(training)}
        return _within_budget(
            replace(training, **shared), word.options if self.asked.compares else {}
        )

    def _length(self, training: TrainingSettings) -> int:
        """Return the longest response: as set, as in the data, or as the task has it.

        Behind the prompts of pairs it is no longer than the model reads.
        """
        own, length = own_texts(training, self.task), training.max_new_tokens
        if own is None:
            return self.common["max_new_tokens"] if length is None else length
        length, limit = length or own.longest_response, positions_of(self.task.model)
        return length if limit is None else max(min(length, limit - own.longest_prompt), 1)

    # --- measuring --------------------------------------------------------------------------------

    @cached_property
    def evaluation(self) -> EvaluationSettings:
        """Settings of evaluation, the rest of which the budget of a run decides."""
        usual = evaluation_of(self.stated_task.bundle, trains=self.asked.trains)
        groups = {"evaluation": Chosen(usual)}
        stated = filled(groups, self._given_of(0, "evaluation"))["evaluation"]
        learners, basis = [one.declaration for one in self.trainings], self.trainings[0]
        if self.asked.compares and any(one.uses_credit and not one.is_frozen for one in learners):
            common = {name: self.common[name] for name in OF_BUDGET} | self.budget
            basis = replace(TrainingSettings(), **common)
        return amounts(stated, basis, is_alone=self.asked.trains)

    @cached_property
    def choices(self) -> dict[str, RewardChoice]:
        """What the rewards stand for, by their texts; one of the user's own file is made."""
        return {text: RewardChoice.of(word) for text, word in self.rewards.items()}

    @cached_property
    def by_gold(self) -> bool:
        """Whether rewards are scored by different scorers, none of which can judge them all.

        They are then measured by the task's gold score, where it has one.
        """
        return len({self._scorer(text) for text in self.rewards}) > 1

    def _scorer(self, text: str) -> tuple[object, ...]:
        """Return whether a reward's scorer is its own or the task's, and which one that is."""
        choice = self.choices[text]
        if isinstance(choice.made, Reward):
            scorer = choice.made.raw_scorer
            if isinstance(scorer, FunctionScorer):  # two functions of one name score otherwise
                return "own", scorer.name, scorer.function
            return "own", scorer.name
        if choice.undivided is None:
            return "own", text  # options may change what it says
        return "task", choice.undivided if self.task.scorer is None else "scorer"

    # --- runs -------------------------------------------------------------------------------------

    @cached_property
    def whole(self) -> RunSpec:
        """What draws the reference samples, without the files that settings name."""
        asked = self.asked
        compared = {
            "agents": [word.text for word in self.words] if asked.compares else [],
            **{name: getattr(asked, name) for name in ("seeds", "first_seed", "level")},
        }
        return RunSpec(
            name=REFERENCE,
            title=REFERENCE,
            seed=self.evaluation.seed,
            env=self.env,
            agent=self.words[0],
            reward=next(iter(self.rewards.values())),
            rewards=tuple(self.rewards.values()),
            groups=RunSettings.of(self.trainings[0], self.evaluation, self.task),
            compared=to_json({**compared, "arms": {}}),
            by_gold=self.by_gold,
            command=self.command,
            choices=self.choices,
        )

    def _arms(self) -> Iterator[RunSpec]:
        """Yield the first run of each arm: every learner with every reward that it sees."""
        compares = self.asked.compares
        for word, training in zip(self.words, self.trainings, strict=True):
            sees = training.declaration.uses_credit
            for text, credit in self.rewards.items() if sees else [*self.rewards.items()][:1]:
                name, title = word.text, short(word.text)
                title += " (frozen)" if training.declaration.is_frozen else ""
                if sees and not compares:
                    name, title = text, display_name(credit)
                elif sees and len(self.rewards) > 1:
                    name, title = f"{name} {text}", f"{title} {display_name(credit)}"
                # Where learners are compared under one reward, none of them is a control.
                varies = sees and not (compares and len(self.rewards) == 1)
                yield replace(
                    self.whole,
                    name=name,
                    title=title,
                    seed=self.asked.first_seed,
                    agent=word,
                    reward=credit,
                    groups=RunSettings.of(training, self.evaluation, self.task),
                    is_control=varies and self.choices[text].is_control,
                )

    @cached_property
    def comparison(self) -> Comparison:
        """The runs, with the hashes of the code and data that their settings name."""
        runs = list(self._arms())
        _check_runs(runs, self.whole, compares=self.asked.compares)
        compared = {**self.whole.compared, "arms": {run.name: run.title for run in runs}}
        leaves = [leaf for run in (self.whole, *runs) for leaf in _leaves(run)]
        words = [self.env.text, *self.rewards, *(word.text for word in self.words)]
        code = code_hashes([*words, *(leaf.value for leaf in leaves)])
        data = data_hashes(_data_named(leaves, words), known={})
        return Comparison(
            runs=tuple(replace(_with_files(r, code, data), compared=compared) for r in runs),
            reference=replace(self.whole, code=code, data=data, compared=compared),
            said=tuple(filter(None, self._said(runs))),
        )

    def _said(self, runs: Sequence[RunSpec]) -> Iterator[str]:
        """Yield what was chosen, a sentence each; what measures the runs is the evaluator's."""
        training, asked = self.trainings[0], self.settings[0].training.max_new_tokens
        ends = _ends(training, self.task)
        if asked is not None and asked > training.lengths()["max_new_tokens"]:
            ends += ", all that the model reads behind the longest prompt"
        yield f"task {task_name(self.env)} ({self.decision.why}); {ends}"
        for one, word in zip(self.settings, self.words, strict=True):
            yield _chosen(one, word)
        yield in_words(self.evaluation, [run.training for run in runs], self.asked.seeds)

    @property
    def command(self) -> str:
        """The command that asks for the same, by what was given."""
        asked = self.asked
        flags = {k: leaf.flag for of in self.known for k, (_, leaf) in of.items()}
        env = self.env.text if self.env.file else task_name(self.env)
        parts = [f"tokengym {'train' if asked.trains else 'compare'} --env {shlex.quote(env)}"]
        parts.append(f"--reward{'' if asked.trains else 's'} {shlex.join(self.rewards)}")
        parts += [] if asked.trains else [f"--seeds {asked.seeds}"]
        if asked.compares:
            parts.append(f"--agents {shlex.join(asked.agents)}")
        elif asked.agents[0] != AGENT:
            parts.append(f"--agent {shlex.quote(asked.agents[0])}")
        if asked.first_seed:
            parts.append(f"--{'' if asked.trains else 'first-'}seed {asked.first_seed}")
        if asked.level != DEFAULT_LEVEL:
            parts.append(f"--level {asked.level}")
        for name, value in self.given.items():
            values = value if isinstance(value, tuple) else (value,)
            if flag := flags.get(name, name.replace("_", "-")):
                parts.append(f"--{flag} {shlex.join(map(str, values))}")
        return " ".join(parts)


def _refuse(name: str, value: Any, agent: Spec, known: Sequence[Mapping[str, Any]]) -> NoReturn:
    """Refuse a setting that no learner here has."""
    own = ("env", "rewards", "agent", "agents", "seeds", "first_seed", "out", "jobs", "executor")
    of_compare = (
        *own,
        "checkpoint_every",
        "retry_failed",
        "track",
        "console",
        "level",
        "trust_code",
    )
    words = [*of_compare, *known[0]]
    if name in of_compare:
        raise TypeError(
            f"decide() got an unexpected keyword argument {name!r}, which says how runs are done; "
            "pass it to compare()"
        )
    said = answer(name, words, value, is_option=False)
    own_name = [k for k, (_, leaf) in known[0].items() if leaf.path[-1] == name]
    if own_name and not said:  # as the learner itself calls it
        raise TypeError(
            f"compare() got an unexpected keyword argument {name!r}; write {own_name[0]}={value!r}"
        )
    owners = [one for one in LEARNERS.names() if name in find_learner(one).default_values()]
    if agent.name in owners:
        raise TypeError(
            f"compare() has no argument {name!r}, which the learner alone has; write it in its "
            f"word: agent='{agent.name}:{name}={value}'"
        )
    if owners:
        more = f"; {said}" if said else ""
        raise TypeError(
            f"{name} has no effect on {agent}; it is a setting of {', '.join(owners)}{more}"
        )
    hint = f"{said}; " if said else did_you_mean(name, words, shown={word: word for word in words})
    raise TypeError(
        f"compare() got an unexpected keyword argument {name!r}; {hint}the arguments are "
        "the options of tokengym compare --help-all, with _ for -"
    )


def _beside(word: Spec) -> str:
    """Return where several options of an option's value go, "" of a word without such a value."""
    for name, value in word.options.items():
        if isinstance(value, str) and "=" in value.partition(":")[2]:
            flag = name.replace("_", "-")
            return (
                f"; a comma parts the options of {word.name}: those of {value.partition(':')[0]} "
                f"go beside it, as --{flag} {value},... or {name}="
            )
    return ""


def _check_options(learner: Learner, word: Spec) -> None:
    """Refuse options of a learner's word that it cannot have."""
    if word.options and learner.settings is NoSettings:
        raise SettingsError(
            f"agent {word.text!r} has options, which an agent with predict does not take; "
            "make them defaults of its constructor, or write an EpisodicAlgorithm with settings"
        )
    if learner.has_own_defaults and "batch_size" in word.options:
        raise SettingsError(
            f"agent {word.text!r}: batch_size is the number of episodes per update, which all "
            "learners share; write minibatch_size for the steps in one gradient step"
        )


def _within_budget(training: TrainingSettings, options: Mapping[str, Any]) -> TrainingSettings:
    """Return settings with which collecting data takes half of the tokens, learning the rest."""
    name = training.declaration.prompts_setting
    if not name or training.tokens is None or getattr(training.learner, "pairs", None):
        return training
    values = values_by_name(training.learner)
    per_prompt = values["n"] * training.lengths()["max_new_tokens"]
    if name in options:
        if (most := values[name] * per_prompt) >= training.tokens:
            raise SettingsError(
                f"{name}={values[name]} with n={values['n']} may take {most} tokens of "
                f"tokens={training.tokens}; lower it, or raise tokens"
            )
        return training
    # Every iteration writes n candidates to each prompt; all of them have half of the tokens.
    rounds = values.get("iterations", 1)
    affordable = max(training.tokens // (2 * rounds * per_prompt), 1)
    learner = changed(training.learner, **{name: min(affordable, values[name])})
    return replace(training, learner=learner)


def _check_runs(runs: Sequence[RunSpec], whole: RunSpec, *, compares: bool) -> None:
    """Refuse runs that are the same, would have one folder, or cannot be compared."""
    learner = whole.training.declaration
    if not compares and not learner.uses_credit and len(whole.rewards) > 1:
        raise SettingsError(
            f"{learner.name} learns from the scorer alone, so that rewards "
            f"{whole.rewards[0].text!r} and {whole.rewards[1].text!r} are the same to it; name one "
            "reward"
        )
    if whole.training.fixed_length and whole.task.min_new_tokens is not None:
        raise SettingsError(
            f"min_new_tokens={whole.task.min_new_tokens} has no effect on responses of fixed "
            "length; leave it out, or pass fixed_length=False"
        )
    # Two names that differ in a space or a slash would have one folder.
    slugs = [slug(run.name) for run in runs]
    for index, name in enumerate(slugs):
        if name in slugs[:index]:
            what = "agents" if compares else "rewards"
            raise ValueError(
                f"{what} names {runs[index].name!r} twice; leave one out, seeds repeats it"
            )


# --- files that settings name ---------------------------------------------------------------------


def _leaves(run: RunSpec) -> list[FieldPath]:
    return [leaf for part in (run.training, run.evaluation, run.task) for leaf in field_paths(part)]


def _data_named(leaves: Sequence[FieldPath], words: Sequence[object]) -> list[object]:
    """Return what fields, and the options of words in these and others, may name files by."""
    in_options = texts_of_options([*words, *(leaf.value for leaf in leaves)])
    return [*(leaf.value for leaf in leaves if leaf.is_data), *in_options]


def _with_files(run: RunSpec, code: Mapping[str, str], data: Mapping[str, str]) -> RunSpec:
    """Return a run with the hashes of the code and data that its own settings name."""
    leaves = [leaf for part in (run.training, run.task) for leaf in field_paths(part)]
    words = [run.env, run.rewards, run.evaluation.toxicity]
    named = {*map(str, _data_named(leaves, words))}
    return replace(
        run,
        code={path: code[path] for path in run.used_code if path in code},
        data={path: digest for path, digest in data.items() if path in named},
    )


# --- what was chosen, in words --------------------------------------------------------------------


def _ends(training: TrainingSettings, task: TaskSettings) -> str:
    if training.fixed_length:
        return f"every response has {training.max_new_tokens} tokens, since EOS is forbidden"
    least = f" and {task.min_new_tokens} at least" if task.min_new_tokens else ""
    return f"texts may end by themselves, after {training.max_new_tokens} tokens at most{least}"


def _chosen(settings: LearnerSettings, word: Spec) -> str:
    """Return the settings of a learner that task, bundle or learner decided."""
    values, by = settings.training.values, settings.by
    parts = [
        f"{', '.join(f'{name} {values[name]}' for name in by if by[name] == who)} by {who}"
        for who in dict.fromkeys(by.values())
    ]
    return f"{short(word.text)}: {'; '.join(parts)}" if parts else ""
