"""The results of comparisons, by what is stored of their runs.

All but the wall-clock column of curves.csv are a function of the settings and the versions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

from tokengym.base.files import json_hash
from tokengym.base.registry import Spec, split_file_word
from tokengym.base.saved_code import display_name
from tokengym.envs import printable
from tokengym.evaluation.measure.environments import task_name
from tokengym.evaluation.measure.judges import (
    JudgedRuns,
    files_of_judge,
    judge_of_all,
    settle_judges,
)
from tokengym.evaluation.measure.references import SAMPLES, common_samples, read_references
from tokengym.evaluation.report.compared import RunWords, compared
from tokengym.evaluation.report.curves import TASK, group_label, on_axis
from tokengym.evaluation.report.facts import LostRun, Summary
from tokengym.evaluation.report.figures import Paper
from tokengym.evaluation.report.learning import Log, by_epoch
from tokengym.evaluation.report.sentences import measured_by_gold
from tokengym.evaluation.report.summary import SummarySettings
from tokengym.evaluation.runs.comparison import (
    Comparison,
    largest,
    price_of,
    shared_settings,
    varying_names,
)
from tokengym.evaluation.runs.files import (
    CURVES,
    PICTURE,
    axis_of,
    rows_of,
    summary_beside,
    write_results,
)
from tokengym.evaluation.runs.folder import in_order, no_runs, stored_runs
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.spec import REFERENCE, RunSpec, slug, titles_of
from tokengym.evaluation.statistics.curve import Curve, GroupKey
from tokengym.rewards.registry import RewardChoice

APART = ("rewards", "seeds", "first_seed", "level")
"""Settings in which comparisons that are merged may differ."""
OF_TASK = ("dataset", "prompts", "prompt_column", "task_options")
"""Settings that make a task another one, which is compared with none."""
OPEN = {"gae_lambda": None, "loss_mean": "auto"}
"""Settings that a learner decides where they are left at these values."""


def write_comparison(comparison: Comparison, out: Path, *, picture: str = PICTURE) -> Summary:
    """Gather a comparison's runs, write its results beside them, and return their summary.

    ``picture`` is the name of the picture of its curves.

    Raises:
        ValueError: if no run finished.
    """
    specs = [*comparison.specs(out)]
    level = float(specs[0].compared["level"])  # of runs that were done before it may be another
    stored = _StoredComparison(in_order([*map(Run, specs)]), out)
    return _Results([stored]).write(out, picture=picture, level=level)


def read_comparison(folder: Path) -> tuple[Summary, list[Curve]]:
    """Return the summary and the curves of the runs that have finished in a folder.

    Raises:
        ValueError: if there are none, or a file is damaged.
    """
    gathered = _Results([_StoredComparison(stored_runs(folder), folder)])
    return gathered.write(None), gathered.as_stepped


def merge_comparisons(
    folders: Sequence[Path],
    out: Path | None,
    *,
    baseline: str | None,
    level: float | None = None,
    paper: Paper | None = None,
) -> Summary:
    """Write one report of comparisons made apart, such as on several machines; no code is run.

    Runs with equal settings are merged; runs are grouped by their task, and those of one task by
    the settings that differ. Where all of a task have the same single reward, such as at several
    prices of the KL, the settings are compared.
    Where folders were measured by different scorers, the gold score measures all. ``baseline`` is
    the title of an arm, ``level`` the confidence level of the intervals; None takes
    that of the report that is there, else the one that was asked for when the runs were begun.
    ``out`` and ``paper`` are `write_results`'s.

    Raises:
        ValueError: if a folder holds no comparison, a run is there twice, runs to compare were
            measured by different scorers and not all have one gold score, or the comparisons have
            several levels and none is given.
    """
    stored = [(stored_runs(Path(folder)), Path(folder)) for folder in folders]
    for runs, folder in stored:
        if not runs:
            raise ValueError(
                f"{no_runs(folder)}; name a folder that tokengym compare or train wrote"
            )
    settings = [shared_settings([run.spec for run in runs]) for runs, _ in stored]
    tasks = _tasks(settings)
    arms = [tuple(dict.fromkeys(run.arm for run in runs)) for runs, _ in stored]
    parts = []
    for (runs, folder), known, task in zip(stored, settings, tasks, strict=True):
        of_task = [index for index, name in enumerate(tasks) if name == task]
        names = _varying([settings[index] for index in of_task])
        # One reward at several settings: the settings are what is compared, not groups of one each.
        single = bool(names) and len({arms[i] for i in of_task}) == len(arms[of_task[0]]) == 1
        # Learners have settings that others lack.
        group = tuple((name, str(known[name])) for name in names if name in known)
        label = f"{runs[0].arm} ({group_label(group)})" if single else None
        of_all = ((TASK, task),) if len({*tasks}) > 1 else ()
        parts.append(_StoredComparison(runs, folder, of_all + (() if single else group), label))
    varying = _varying(settings)
    return _Results(parts).write(
        out,
        baseline=baseline,
        level=level,
        has_baseline=not any(part.label for part in parts),
        left_out=() if len(parts) == 1 else (*APART, *(("env",) if len({*tasks}) > 1 else ())),
        differing={name: _each(name, settings, tasks) for name in varying},
        with_episodes=not varying,
        paper=paper,
    )


def _varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings that comparisons have unlike."""
    return [name for name in varying_names(settings) if name not in APART]


def _tasks(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the title of the task of each comparison; prompts are known by their contents."""
    titles = []
    for known in settings:
        own = [(value, known.get(str(value))) for name in OF_TASK if (value := known.get(name))]
        said = ", ".join(Path(str(value)).name for value, _ in own)
        # A path says little of its contents, whose hash is that of the file wherever it lies.
        of = json_hash([digest or value for value, digest in own])[:8]
        titles.append(task_name(str(known["env"])) + (f" ({said}, {of})" if said else ""))
    return titles


def _each(name: str, settings: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """Return what comparisons have of a setting, in words."""
    is_task = len({*tasks}) > 1
    said = [
        f"{known[name]} ({task})" if is_task else str(known[name])
        for known, task in zip(settings, tasks, strict=True)
        if name in known
    ]
    return ", ".join(dict.fromkeys(said))


class _StoredComparison:
    """One comparison among those that are shown together, as its folder holds it.

    ``runs`` are those that are wanted or have begun, in order; ``group`` sets them apart; ``label``
    is the name of their arms in place of their own.
    """

    def __init__(
        self, runs: Sequence[Run], folder: Path, group: GroupKey = (), label: str | None = None
    ) -> None:
        self.runs, self.folder, self.group, self.label = list(runs), folder, group, label
        self.results: dict[Run, dict[str, Any]] = {}
        """Its runs, each with its run.json, {} if it has not ended."""
        for run in self.runs:
            run.arm, run.group = label or run.arm, group
            self.results[run] = run.result
        reference = Run(folder / slug(REFERENCE))
        result, self.drawn, self.cautions = reference.result, None, []
        if result.get("status") == "finished":
            self.drawn = read_references(reference.folder / SAMPLES)
        elif result:
            self.cautions = [f"No best-of-n: its responses failed ({_error(result)})."]

    @cached_property
    def spec(self) -> RunSpec:
        """The spec of its first run, which says what all have in common."""
        return self.runs[0].spec

    @property
    def wanted(self) -> Iterator[tuple[str, int, GroupKey]]:
        """The keys of all runs that it asks for, arm by arm."""
        asked = [run.spec.compared for run in self.runs]
        first, end = asked[0]["first_seed"], max(one["first_seed"] + one["seeds"] for one in asked)
        arms = titles_of(chain(*(one["arms"].items() for one in asked)))
        shown = dict.fromkeys(run.arm for run in self.runs) | dict.fromkeys(arms.values())
        for arm, seed in product([self.label] if self.label else shown, range(first, end)):
            yield arm, seed, self.group

    @property
    def draws_by_seed(self) -> bool:
        """Whether each seed is measured on its own random subset of the held-out prompts."""
        return bool(self.spec.plain["evaluation"].get("stream", "shared") == "run")

    @property
    def level(self) -> float:
        """Confidence level of the intervals, which the last report there has.

        Without a report it is the one that was asked for when the runs were begun.
        """
        kept = summary_beside(self.folder / CURVES).get("level")
        asked = largest(run.spec for run in self.runs).compared["level"]
        return float(kept if isinstance(kept, float) else asked)

    @cached_property
    def judged(self) -> JudgedRuns:
        """Its finished runs, and the scorers that their scores are of."""
        finished = _finished(self.results)
        return JudgedRuns(
            folder=self.folder,
            group=self.group,
            has_rivals=self.spec.by_gold,
            curves=[run.curve for run in finished],
            measured_by=[by for run in finished if (by := self.results[run].get("measured_by"))],
            files=files_of_judge(shared_settings([run.spec for run in self.runs])),
        )


class _Results:
    """Comparisons that are shown together, by what is stored of them; no code is run."""

    def __init__(self, parts: Sequence[_StoredComparison]) -> None:
        self.parts = parts
        self.results = {run: result for part in parts for run, result in part.results.items()}
        self.finished = _finished(self.results)
        if not self.finished:
            self._refuse_none()
        self.judged = [
            part.judged for part in parts if not all(c.invalid() for c in part.judged.curves)
        ]
        self.as_stepped, self.rivals = settle_judges(
            self.judged, [run.curve for run in self.finished]
        )
        """The curves, by their steps; and two folders with judges that differ, for which the gold
        score measures all, if it does."""
        of_learners = any(part.spec.compared["agents"] for part in parts)
        self.axis = axis_of(self.as_stepped, of_learners=of_learners)
        self.curves = on_axis(self.as_stepped, self.axis)

    def write(
        self,
        out: Path | None,
        *,
        baseline: str | None = None,
        level: float | None = None,
        has_baseline: bool = True,
        left_out: Sequence[str] = (),
        differing: Mapping[str, str] = {},
        with_episodes: bool = True,
        paper: Paper | None = None,
        picture: str = PICTURE,
    ) -> Summary:
        """Write the results of all runs, compared with a baseline; see `write_results`.

        Args:
            out: Folder of the results; None writes none.
            baseline: Arm that the others are compared with; None takes the first.
            level: Confidence level of the intervals; None takes that of the comparisons.
            has_baseline: Whether the first is meant as a baseline, and not only shown first.
            left_out: Settings that are not told.
            differing: Settings that the runs do not share, with what each has.
            with_episodes: Whether responses are shown.
            paper: Figure and table for a paper.
            picture: Name of the picture of the curves.
        """
        first = self.parts[0].runs[0].arm if has_baseline else None
        known = shared_settings([run.spec for run in self.parts[0].runs])
        level = self._level(level)
        asked = {**known, **differing, "level": level}
        shared = {name: value for name, value in asked.items() if name not in left_out}
        return write_results(
            out,
            self.curves,
            self._summary_settings(baseline or first, level),
            about={
                "settings": {**shared, **self._settled(shared)},
                "versions": {name: ", ".join(met) for name, met in self._met("versions").items()},
                "made": {n: " and ".join(map(str, v)) for n, v in self._met("made").items() if v},
                "measured_by": judge_of_all(self.judged, settled=self.rivals is not None),
                "compared": compared(map(_words, self.specs)),
                **self._asked,
            },
            episodes=_episodes(self.finished) if with_episodes and out is not None else (),
            logs=_logs(self.finished),
            paper=paper,
            picture=picture,
            rows=rows_of(self.as_stepped),
        )

    @property
    def specs(self) -> list[RunSpec]:
        """The specs of all runs."""
        return [run.spec for part in self.parts for run in part.runs]

    @property
    def _asked(self) -> dict[str, str]:
        """The command that asks for the one comparison, or how many there are."""
        if len(self.parts) == 1:
            return {"command": largest(self.specs).command}
        return {"source": f"{len(self.parts)} comparisons"}

    def _refuse_none(self) -> NoReturn:
        """Refuse to write results of no run."""
        fault = f"no run of {self.parts[0].folder} has finished"
        failed = [result for result in self.results.values() if result]
        if not failed:
            raise ValueError(f"{fault}; the same command resumes them")
        raise ValueError(
            f"{fault} ({len(failed)} failed, the first: {_error(failed[0])}); the runs' "
            "run.json has the whole error, and --retry-failed repeats them"
        )

    def _met(self, part: str) -> dict[str, list[str]]:
        """Return what the runs' ``versions``, or ``made``, name, in the order of the runs."""
        met: dict[str, dict[str, None]] = {}
        for result in self.results.values():
            for key, value in (result.get(part) or {}).items():
                met.setdefault(key, {}).update({value: None} if value else {})
        return {key: list(values) for key, values in met.items()}

    def _settled(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return what the runs of each arm decided of a setting that was left open, in words."""
        told = {}
        for name, value in OPEN.items():
            arms = {
                run.arm: f"{known:g}" if isinstance(known, float) else known
                for run, result in self.results.items()
                if (known := result.get(name)) is not None
            }
            if arms and settings.get(name, value) == value:  # which arms may have unlike
                alike, *others = {*arms.values()}
                each = ", ".join(f"{arm} {known}" for arm, known in arms.items())
                told[name] = each if others else alike
        return told

    def _level(self, given: float | None) -> float:
        """Return the level of the intervals: as given, or the one that the comparisons have."""
        if given is not None:
            return given
        levels = list(dict.fromkeys(part.level for part in self.parts))
        if len(levels) > 1:
            raise ValueError(
                f"the comparisons have intervals of level {', '.join(map(str, levels))}; name one: "
                f"--level {levels[0]}"
            )
        return levels[0]

    def _summary_settings(self, baseline: str | None, level: float) -> SummarySettings:
        """Return what the figures of the curves depend on besides them."""
        # Runs may have been shared out: what one folder lacks, or failed in, another may have.
        here = set(map(_key, self.finished))
        failed = _others({run: result for run, result in self.results.items() if result}, here)
        known = here | set(failed)
        missing = dict.fromkeys(key for part in self.parts for key in part.wanted)
        by_gold = self.rivals is not None or all(runs.by_gold for runs in self.judged)
        by_group: dict[GroupKey, list[_StoredComparison]] = {}
        for part in self.parts:
            by_group.setdefault(part.group, []).append(part)
        common = {
            group: common_samples([part.drawn for part in parts], by_gold=by_gold)
            for group, parts in by_group.items()
        }
        runs = [run for part in self.parts for run in part.runs]
        optima = [self.results[run].get("optimum") or {} for run in self.finished]
        return SummarySettings(
            kl_coef=price_of(run.spec.learner for run in runs),
            anchors=_anchors(self.curves),
            optimum=optima[0] if all(one == optima[0] for one in optima) else {},
            episodes=min(part.spec.plain["evaluation"]["episodes"] or 0 for part in self.parts),
            own_prompts=all(part.draws_by_seed for part in self.parts),
            references={group: drawn for group, drawn in common.items() if drawn is not None},
            level=level,
            baseline=baseline,
            failed=list(failed.values()),
            missing=[_lost(*key) for key in missing if key not in known],
            cautions=list(self._cautions(by_group.values(), by_gold=by_gold)),
            controls=list(dict.fromkeys(run.arm for run in runs if run.spec.is_control)),
            axis=self.axis,
            by_gold=by_gold,
        )

    def _cautions(
        self, groups: Iterable[Sequence[_StoredComparison]], *, by_gold: bool
    ) -> Iterator[str]:
        """Yield what to be careful of: versions, samples, blind learners, judges."""
        made = self._met("made").get("commit", [])
        commits = [commit[:12] + "-dirty" * commit.endswith("-dirty") for commit in made]
        met_of = {**self._met("versions"), "commit": commits}
        if mixed := {name: met for name, met in met_of.items() if len(met) > 1}:
            said = ", ".join(f"{name} {' and '.join(met)}" for name, met in mixed.items())
            yield f"The runs were made with different versions: {said}."
        yield from (text for part in self.parts for text in part.cautions)
        unseen = [
            _unseen_credit([run.spec for part in parts for run in part.runs]) for parts in groups
        ]
        yield from dict.fromkeys(chain(*unseen))
        if self.rivals is not None:
            yield measured_by_gold(self.rivals)
        elif not by_gold and any(runs.has_rivals for runs in self.judged):
            yield (
                "The rewards have different scorers, and no gold score judges them: "
                f"{self.parts[0].spec.rewards[0].text}'s scorer measures all, which favours the "
                "rewards that train by it."
            )


def _finished(results: Mapping[Run, Mapping[str, Any]]) -> list[Run]:
    """Return the runs that ended without a fault."""
    return [run for run, result in results.items() if result.get("status") == "finished"]


def _words(spec: RunSpec) -> RunWords:
    """Return the words that a run was asked for by."""
    advantage = str(spec.learner.get("advantage"))
    parts = split_file_word(advantage)
    estimator = None if parts is None else Spec(advantage, parts[1], file=parts[0])
    return RunWords(spec.env, spec.reward, spec.agent, estimator)


def _episodes(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Return the responses that runs kept, by their arms."""
    return [row | {"credit": run.arm} for run in runs for row in run.samples]


def _logs(runs: Iterable[Run]) -> list[Log]:
    """Return the logs of the runs that learned from given data."""
    logs = [Log(credit=run.arm, seed=run.seed, group=run.group, rows=run.log) for run in runs]
    return [log for log in logs if by_epoch(log.rows)]


def _error(result: Mapping[str, Any]) -> str:
    """Return the error of a run that failed, in one printable line."""
    return printable(str(result.get("error", "unknown")))


def _key(run: Run) -> tuple[str, int, GroupKey]:
    return run.arm, run.seed, run.group


def _others(
    results: Mapping[Run, Mapping[str, Any]], known: Set[tuple[str, int, GroupKey]]
) -> dict[tuple[str, int, GroupKey], LostRun]:
    """Return the runs that are not known, each once, as a summary lists them."""
    others: dict[tuple[str, int, GroupKey], LostRun] = {}
    for run, result in results.items():
        if _key(run) not in known:
            others.setdefault(_key(run), _lost(*_key(run), error=_error(result)))
    return others


def _lost(arm: str, seed: int, group: GroupKey, error: str | None = None) -> LostRun:
    """Return which run it is, as a summary lists it."""
    return LostRun(credit=arm, seed=seed, group=dict(group), error=error)


def _unseen_credit(specs: Sequence[RunSpec]) -> list[str]:
    """Return a caution for each learner, of runs that are compared, that sees the score alone.

    Its curves under the rules that share sparse's score must equal those of sparse. Estimators and
    rules of the user's files, which would have to be run, are left out.
    """
    from tokengym.agents.ppo.advantages import find_advantage

    names = dict.fromkeys(spec.learner.get("advantage") for spec in specs)
    ours = [name for name in names if name and split_file_word(name) is None]
    blind = [name for name in ours if not find_advantage(name).uses_token_rewards]
    words = {word.text: word.file for spec in specs for word in spec.rewards}
    if not blind or "sparse" not in words:
        return []
    same_score = [
        display_name(text)
        for text, file in words.items()
        if text != "sparse" and file is None and _kind_of(text) in ("any", "reward_model")
    ]
    return [
        f"{name} sees only the score of a whole response, not the credit of its tokens: where the "
        f"score is the same, the curves of {', '.join(same_score)} must equal sparse's."
        for name in (blind if same_score else ())
    ]


def _kind_of(text: str) -> str | None:
    """Return what a bundled rule divides the score of; None of all else."""
    with suppress(ValueError):  # its package is not here, or it is an object of another process
        return RewardChoice.of(text).kind
    return None


def _anchors(curves: Sequence[Curve]) -> dict[str, float]:
    """Return the reference policy's scores and toxicity, measured before the first update.

    Runs of one seed measure the same policy there, on the same prompts with the same random
    numbers; the mean over the seeds is returned. A measurement on which runs of a seed differ, as
    those of several comparisons or of agents that start apart may, is left out.
    """
    anchors: dict[str, float] = {}
    for name in ("score", "gold_score", "toxicity"):
        firsts: dict[int, set[float]] = {}
        for curve in curves:
            if curve.steps[0] == 0 and curve.has(name):
                firsts.setdefault(curve.seed, set()).add(float(curve.values[name][0]))
        if firsts and all(len(of_seed) == 1 for of_seed in firsts.values()):
            anchors[name] = fmean(value for of_seed in firsts.values() for value in of_seed)
    return anchors
