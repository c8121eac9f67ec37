"""What the runs of a comparison have in common, read off their specs; nothing is decided here.

That is its seeds, names, price and files, and whether they may stand together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.base.errors import SettingsError
from tokengym.base.objects import short
from tokengym.base.saved_code import changed_files, texts_in
from tokengym.evaluation.runs.spec import (
    NO_NUMBERS,
    REFERENCE,
    RunSpec,
    flat,
    run_folder,
    slug,
    titles_of,
)
from tokengym.rewards.errors import CreditError

if TYPE_CHECKING:
    from tokengym.evaluation.measure.evaluate import Evaluator


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs that are compared, as `decide` returns them: plain data, which can be pickled.

    Two comparisons with equal runs have equal numbers. Its folder, its number of processes and what
    it prints are no part of it.
    """

    runs: tuple[RunSpec, ...]
    """The first run of each arm; those of other seeds differ from them in the seed alone."""
    reference: RunSpec
    """What draws the reference samples, with the code and data of all arms."""
    said: tuple[str, ...] = field(default=(), compare=False)
    """What was chosen where nothing was given, a sentence each."""

    @cached_property
    def seeds(self) -> range:
        """The seeds of every arm's runs."""
        first, count = (self.reference.compared[name] for name in ("first_seed", "seeds"))
        return range(first, first + count)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arms: of the learner, the reward or both, whichever vary."""
        return tuple(run.name for run in self.runs)

    @property
    def titles(self) -> dict[str, str]:
        """The arms' titles by their names."""
        return titles_of((run.name, run.title) for run in self.runs)

    @property
    def compares_agents(self) -> bool:
        """Whether learners are compared, at equal tokens."""
        return bool(self.reference.compared["agents"])

    @property
    def price(self) -> float | None:
        """Price of a nat of KL; None where learners have none, or different ones."""
        return price_of(run.training.values for run in self.runs)

    @property
    def texts(self) -> list[str]:
        """Every text that its settings hold, such as the names of objects of this process."""
        settings = [run.as_dict() for run in (self.reference, *self.runs)]
        return [str(text) for text in texts_in(settings)]

    # --- its runs ---------------------------------------------------------------------------------

    def spec(self, name: str, seed: int, out: Path | None = None) -> RunSpec:
        """Return the spec of a run.

        Args:
            name: Name of its arm.
            seed: Its seed.
            out: The comparison's folder; None writes nothing.

        Raises:
            SettingsError: if there is no arm of that name.
        """
        run = next((run for run in self.runs if run.name == name), None)
        if run is None:
            raise SettingsError(f"no run is named {name!r}; known: {', '.join(self.names)}")
        return replace(run, seed=seed, folder=None if out is None else run_folder(out, name, seed))

    def specs(self, out: Path) -> list[RunSpec]:
        """Return the specs of all runs, seed by seed so that all arms advance alike."""
        return [self.spec(name, seed, out) for seed in self.seeds for name in self.names]

    def reference_spec(self, out: Path) -> RunSpec:
        """Return the spec of the one run that draws the reference samples."""
        return replace(self.reference, folder=out / slug(REFERENCE))

    def evaluator(self) -> "Evaluator":
        """Return what measures every run alike: the first reward's scorer, and the gold score.

        That alone measures them where the rewards are scored by different scorers.
        """
        return self.reference.evaluator()


@contextmanager
def naming_agent(word: str, *, one_of: int) -> Iterator[None]:
    """Have refused settings name the agent that has them, where it is one of several."""
    try:
        yield
    except (SettingsError, CreditError) as error:
        if one_of < 2 or str(error).startswith("agent "):
            raise
        raise type(error)(f"agent {short(word)!r}: {error}") from error


def price_of(settings: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the price of a nat of KL that learners have in common; None where they have none.

    Learners at prices of their own have no one objective.
    """
    prices = {one["kl_coef"] for one in settings if "kl_coef" in one}
    return prices.pop() if len(prices) == 1 else None


# --- runs that are stored -------------------------------------------------------------------------


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return which settings of two mappings differ, in words; files differ by their contents."""
    files = ("code", "data")
    left, right = (flat({k: v for k, v in side.items() if k not in files}) for side in (old, new))
    changed = (changed_files(old.get(name, {}), new.get(name, {})) for name in files)
    return [*chain(*changed)] + [
        f"{name} {left.get(name)!r} there, {right.get(name)!r} here"
        for name in {**left, **right}
        if left.get(name) != right.get(name) and name not in NO_NUMBERS
    ]


def check_together(specs: Iterable[RunSpec], out: Path) -> None:
    """Refuse runs of one folder that cannot be those of one comparison.

    Args:
        specs: Specs of the runs that have begun.
        out: The comparison's folder.

    Raises:
        ValueError: if a run is in the place of another, two runs of an arm differ in more than
            their seed, or two arms were not measured alike.
    """
    arms: dict[str, RunSpec] = {}
    for spec in specs:
        if (place := run_folder(out, *spec.key)) != spec.folder:
            raise ValueError(
                f"{spec.folder} holds the run of {spec.name}, seed {spec.seed}; move it to "
                f"{place}, or delete it"
            )
        first = arms.setdefault(spec.name, spec)
        differ = differences(first.numbers(), spec.numbers())
        if not differ:
            alike = [_measured(one) for one in (next(iter(arms.values())), spec)]
            differ = differences(*alike)
        if differ:
            raise ValueError(
                f"{spec.folder} holds a run of other settings than the runs beside it: "
                f"{'; '.join(differ)}; delete it, or move it to a folder of its own"
            )


def _measured(spec: RunSpec) -> dict[str, Any]:
    """Return what all runs of a comparison are measured by."""
    evaluation = flat({"evaluation": spec.plain["evaluation"]})
    return {"env": spec.env.text, "judge": spec.judge, **spec.plain["task"], **evaluation}


def largest(specs: Iterable[RunSpec]) -> RunSpec:
    """Return the spec of the run that began when its comparison was largest: it may have grown."""

    def size(spec: RunSpec) -> int:
        compared = spec.compared
        return len(spec.rewards) + len(compared["agents"]) + int(compared["seeds"])

    return max(specs, key=size)


def shared_settings(specs: Sequence[RunSpec]) -> dict[str, Any]:
    """Return the settings of a comparison by name: those that all of its arms have alike.

    An arm may lack a setting, as that of another learner.
    """
    shared = flat(largest(specs).settings())
    for spec in specs:
        shared |= {**spec.code, **spec.data}
    trainings = [flat(spec.plain["training"]) for spec in specs]
    for name in dict.fromkeys(chain(*trainings)):
        values = [training[name] for training in trainings if name in training]
        shared[name] = values[0]
        if any(value != values[0] for value in values):
            del shared[name]
    return shared


def varying_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names on which settings (`shared_settings`) differ.

    A setting that only some of them have, as that of one learner, differs where those do. A file of
    code is a setting by its path.

    Example:
        >>> varying_names([{"agent": "ppo", "clip_range": 0.2}, {"agent": "dpo", "beta": 0.1}])
        ['agent']
    """
    names = dict.fromkeys(name for each in settings for name in each if name not in NO_NUMBERS)
    values = {name: [each[name] for each in settings if name in each] for name in names}
    return [name for name, known in values.items() if any(one != known[0] for one in known)]
