"""The result files of comparisons, or of curves made elsewhere: tables, summary, pictures, report.

All but the wall-clock column of curves.csv are a function of the settings and the versions.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn, get_args

import numpy as np

from tokengym.base.files import json_hash, read_json, write_json, write_text
from tokengym.base.registry import Spec, split_file_word
from tokengym.base.saved_code import display_name
from tokengym.base.settings import check_number
from tokengym.base.text import listed
from tokengym.envs import printable
from tokengym.evaluation.measure.environments import task_name
from tokengym.evaluation.measure.judges import (
    JudgedRuns,
    files_of_judge,
    judge_of_all,
    settle_judges,
    words_of,
)
from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.measure.references import SAMPLES, common_samples, read_references
from tokengym.evaluation.report import sentences
from tokengym.evaluation.report.compared import RunWords, compared
from tokengym.evaluation.report.curves import (
    TASK,
    Curve,
    Group,
    columns_of,
    counts_tokens,
    curves_of,
    group_label,
    on_axis,
    write_curves,
)
from tokengym.evaluation.report.figures import Paper, save_figure
from tokengym.evaluation.report.learning import Log, by_epoch, final_figures
from tokengym.evaluation.report.reading import (
    TRL_KL,
    Source,
    Table,
    by_column,
    files_of,
    read_table,
)
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.runs.comparison import (
    Comparison,
    largest,
    price_of,
    shared_settings,
    titles_of,
    varying_names,
)
from tokengym.evaluation.runs.folder import in_order, no_runs, stored_runs
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.spec import REFERENCE, RunSpec, slug
from tokengym.evaluation.statistics import DEFAULT_LEVEL
from tokengym.evaluation.statistics.curve import scored_alike
from tokengym.rewards.registry import RewardChoice

CURVES = "curves.csv"
"""Name of the table of a comparison's curves."""
PICTURE = "curves.png"
"""Name of the picture of a comparison's curves."""
COUNTS = ("step", "tokens", "episodes")
"""Columns of curves.csv that hold whole numbers."""
APART = ("rewards", "seeds", "first_seed", "level")
"""Settings in which comparisons that are merged may differ."""
OF_TASK = ("dataset", "prompts", "prompt_column", "task_options")
"""Settings that make a task another one, which is compared with none."""


def write_comparison(
    comparison: Comparison, out: Path, *, picture: str = PICTURE
) -> dict[str, Any]:
    """Gather a comparison's runs, write its results beside them, and return their summary.

    ``picture`` is the name of the picture of its curves.

    Raises:
        ValueError: if no run finished.
    """
    specs = [*comparison.specs(out)]
    level = float(specs[0].compared["level"])  # of runs that were done before it may be another
    stored = _StoredComparison(in_order([*map(Run, specs)]), out)
    return _Results([stored]).write(out, picture=picture, level=level)


def read_comparison(folder: Path) -> tuple[dict[str, Any], list[Curve]]:
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
) -> dict[str, Any]:
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


def write_results(
    out: Path | None,
    curves: Sequence[Curve],
    settings: SummarySettings,
    *,
    about: Mapping[str, Any],
    episodes: Sequence[Mapping[str, Any]] = (),
    logs: Sequence[Log] = (),
    paper: Paper | None = None,
    picture: str = PICTURE,
    rows: Iterable[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write the result files of curves, and return their summary.

    An ``out`` of None writes none. The summary repeats what is ``about`` the runs: their settings,
    versions and origin. ``episodes`` are responses with the credit of their tokens, ``logs`` those
    of the runs that learned from given data; ``paper`` is a figure and a table to write beside.
    ``rows`` are those of curves.csv; None leaves the file there as it is.
    """
    summary = {**summarize(curves, settings), **about}
    if logs:
        summary["learning"] = final_figures(logs)
    if paper is not None:
        paper.write(summary, curves)
    if out is not None:
        if rows is not None:
            write_curves(out / CURVES, rows)
        if (out / CURVES).exists():
            summary["curves_hash"] = curves_hash(out / CURVES)
        write_json(out / "summary.json", summary)
        save_figure(out / picture, summary, curves)
        write_text(out / "report.html", render_report(summary, curves, episodes, logs))
    return summary


def _rows(curves: Iterable[Curve]) -> Iterator[dict[str, Any]]:
    """Yield the rows of curves.csv, by steps; what was not measured is left empty."""
    for curve in curves:
        named = {"credit": curve.credit, "seed": curve.seed, **columns_of(curve.group)}
        columns = {**curve.values, "step": curve.steps}
        for index in range(len(curve.steps)):
            values = {name: float(column[index]) for name, column in columns.items()}
            known = {name: value for name, value in values.items() if math.isfinite(value)}
            # Of a number of nine digits a cell would show eight.
            counts = {n: int(v) for n, v in known.items() if n in COUNTS and v.is_integer()}
            yield {**known, **counts, **named}


def axis_of(curves: Iterable[Curve], *, of_learners: bool, given: Axis | None = None) -> Axis:
    """Return what runs are compared at equal amounts of: learners tokens, rewards updates.

    Runs that count nothing but tokens, as those of Stable-Baselines3, are compared at these.
    """
    return given or ("tokens" if of_learners or any(map(counts_tokens, curves)) else "step")


def baseline_of(
    arms: Iterable[str], *, given: str | None = None, first: str | None = None
) -> str | None:
    """Return the arm that the others are compared with: as given, or the first that was asked for.

    Of arms that nobody has put in order it is sparse; without it None, which takes their first.
    """
    return given or first or next((arm for arm in arms if arm == "sparse"), None)


def curves_hash(file: Path) -> str:
    """Return a digest of a table of curves, by which its summary knows it; the clock is left out.

    Raises:
        ValueError: if it is no table.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except csv.Error as error:
        raise ValueError(f"{file} cannot be read ({error})") from None
    return json_hash([{k: v for k, v in row.items() if k != "wall_s"} for row in rows])


class _StoredComparison:
    """One comparison among those that are shown together, as its folder holds it.

    ``runs`` are those that are wanted or have begun, in order; ``group`` sets them apart; ``label``
    is the name of their arms in place of their own.
    """

    def __init__(
        self, runs: Sequence[Run], folder: Path, group: Group = (), label: str | None = None
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
            self.cautions = [sentences.failed_references(_error(result))]

    @cached_property
    def spec(self) -> RunSpec:
        """The spec of its first run, which says what all have in common."""
        return self.runs[0].spec

    @property
    def wanted(self) -> Iterator[tuple[str, int, Group]]:
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
        kept = _summary_beside(self.folder / CURVES).get("level")
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
    ) -> dict[str, Any]:
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
            self._summary_settings(baseline_of((), given=baseline, first=first), level),
            about={
                "settings": self._with_lambdas(shared),
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
            rows=_rows(self.as_stepped),
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

    def _with_lambdas(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return settings with the lambda that each rule's runs had, where the rules decided it."""
        lambdas = {
            run.arm: known
            for run, result in self.results.items()
            if (known := result.get("gae_lambda")) is not None
        }
        if not lambdas or settings.get("gae_lambda", 0) is not None:
            return settings
        return {**settings, "gae_lambda": ", ".join(f"{n} {v:g}" for n, v in lambdas.items())}

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
        by_group: dict[Group, list[_StoredComparison]] = {}
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
            missing=[_about(*key) for key in missing if key not in known],
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
            yield sentences.unlike_versions(mixed)
        yield from (text for part in self.parts for text in part.cautions)
        unseen = [
            _unseen_credit([run.spec for part in parts for run in part.runs]) for parts in groups
        ]
        yield from dict.fromkeys(chain(*unseen))
        if self.rivals is not None:
            yield sentences.measured_by_gold(self.rivals)
        elif not by_gold and any(runs.has_rivals for runs in self.judged):
            first = self.parts[0].spec.rewards[0].text
            yield sentences.measured_by_first(first)


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


def _key(run: Run) -> tuple[str, int, Group]:
    return run.arm, run.seed, run.group


def _others(
    results: Mapping[Run, Mapping[str, Any]], known: Set[tuple[str, int, Group]]
) -> dict[tuple[str, int, Group], dict[str, Any]]:
    """Return the runs that are not known, each once, as a summary lists them."""
    others: dict[tuple[str, int, Group], dict[str, Any]] = {}
    for run, result in results.items():
        if _key(run) not in known:
            others.setdefault(_key(run), {**_about(*_key(run)), "error": _error(result)})
    return others


def _about(arm: str, seed: int, group: Group) -> dict[str, Any]:
    """Return which run it is, as a summary lists it."""
    return {"credit": arm, "seed": seed, "group": dict(group)}


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
    return [sentences.unseen_credit(name, same_score) for name in (blind if same_score else ())]


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


# --- curves that were made elsewhere --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """How learning curves that were made elsewhere are read and compared.

    Raises:
        ValueError: if a value is out of range.
    """

    baseline: str | None = None
    """Arm that the others are compared with; None takes sparse if present, else the first."""
    axis: Axis | None = None
    """What runs are compared at equal amounts of; None takes that of the summary of the curves, as
    of learners, tokens for runs that count nothing else, as those of Stable-Baselines3, and updates
    where there is neither."""
    group_by: Sequence[str] | None = None
    """Columns of our own tables to group by; None takes all that are no measurement."""
    score: str | None = None
    """Column with the score; None takes score, or the one that is known of other tools."""
    level: float = DEFAULT_LEVEL
    """Confidence level of the intervals, in (0, 1)."""
    kl_coef: float | None = None
    """Price of a nat of KL, for the score minus its penalty."""

    def __post_init__(self) -> None:
        if self.kl_coef is not None and not 0.0 <= self.kl_coef < math.inf:
            raise ValueError(f"kl_coef must be a finite number >= 0, got {self.kl_coef:g}")
        if self.axis not in (None, *get_args(Axis)):
            names = " or ".join(map(repr, get_args(Axis)))
            raise ValueError(f"axis must be {names}, got {self.axis!r}")
        check_number(self, "level", above=0.0, below=1.0, hint=f"{DEFAULT_LEVEL} is usual")


@dataclass(frozen=True)
class Given:
    """Learning curves as they were given to be read."""

    source: Source
    name: str | None = None
    """Name of their runs; None takes that of their folder."""
    summary: Mapping[str, Any] | None = None
    """Their summary; None takes the summary.json beside the file that is read, if there is one."""
    folder: Path | None = None
    """Where they are, for messages; None takes that of the file."""

    @property
    def file(self) -> Path | None:
        """The file that is read, that of a folder too; None for a table."""
        return files_of(self.source)[0] if isinstance(self.source, Path) else None

    @cached_property
    def known(self) -> Mapping[str, Any]:
        """Their summary, {} if there is none."""
        if self.summary is not None:
            return self.summary
        return {} if self.file is None else _summary_beside(self.file)

    def judged(self, curves: list[Curve], score: str) -> JudgedRuns | None:
        """Return its curves with what measured a column of theirs; None where that is not known."""
        words = self.known.get("measured_by")
        if not isinstance(words, str) or not (words := words_of(score, words)):
            return None
        folder = self.folder or (self.file and self.file.absolute().parent)
        return JudgedRuns(
            folder=folder or Path(self.name or "curves"),
            group=(),
            has_rivals=self.known.get("by_gold") is True,
            curves=curves,
            measured_by=[words],
            files="" if score == "gold_score" else files_of_judge(self.known.get("settings") or {}),
        )


def report_curves(
    path: Path | Sequence[Path],
    out: Path | None,
    how: CurveSettings = CurveSettings(),
    *,
    paper: Paper | None = None,
) -> dict[str, Any]:
    """Write the report of learning curves made elsewhere, several of which are shown together.

    ``out`` and ``paper`` are `write_results`'s, the rest is `gather_curves`'s, as are the errors.
    """
    sources = [Given(one) for one in ([path] if isinstance(path, Path) else path)]
    curves, settings, about = gather_curves(sources, how)
    files = [one.file.resolve() for one in sources if one.file is not None]
    is_source = out is not None and (out / CURVES).resolve() in files
    if is_source and (len(files) > 1 or how.score not in (None, "score")):
        raise ValueError(
            f"the report of {f'{len(files)} files' if len(files) > 1 else repr(how.score)} cannot "
            f"stand in {out}, whose {CURVES} is read: it has other curves; name another out"
        )
    return write_results(
        out,
        on_axis(curves, settings.axis),
        settings,
        about=about,
        paper=paper,
        rows=None if is_source else _rows(curves),
    )


def gather_curves(
    sources: Sequence[Given], how: CurveSettings = CurveSettings()
) -> tuple[list[Curve], SummarySettings, dict[str, Any]]:
    """Read learning curves that were made elsewhere, and decide how they are compared.

    Returns:
        The curves, by their steps; what their figures depend on besides; and what a summary says
        ``about`` them: source, scorer, and the columns of their scores with the arms of each.

    Raises:
        ValueError: if a source cannot be read, lacks tokens to compare at, the baseline is
            unknown, the scores are of different columns and all have one in common, or the
            summaries of several sources name different scorers and not all runs have one gold
            score.
    """
    if not sources:
        raise ValueError("there are no curves to read; pass a file, a folder, a frame or rows")
    kl_coef, score = how.kl_coef, how.score or "score"
    tables = [read_table(one.source, score=how.score, name=one.name) for one in sources]
    read = [curves_of(table, group_by=how.group_by) for table in tables]
    known = [one.known for one in sources]
    curves = [curve for found in read for curve in found]
    parts = zip(tables, read, known, strict=True)
    columns = by_column(one for part in parts for one in _scores_of(*part, score))
    judged = [
        runs
        for one, found in zip(sources, read, strict=True)
        if (runs := one.judged(found, score)) is not None
    ]
    all_judged = len(judged) == len(sources)
    curves, rivals = settle_judges(judged, curves)
    cautions = [] if rivals is None else [sentences.measured_by_gold(rivals)]
    cautions += [sentences.unlike_scores(columns)] if len(columns) > 1 else []
    # An agent that cannot tell its KL takes no price from the others.
    priced = [curve for curve in curves if np.isfinite(curve.values.get("kl", np.nan)).any()]
    for curve in scored_alike(priced or curves) if kl_coef is not None else ():
        if (step := curve.nan_step("kl")) is not None:
            raise ValueError(
                f"kl_coef={kl_coef:g} prices the KL, which {curve.credit}, seed {curve.seed} has "
                f"not at step {step:.10g}; fill in the column kl, or leave kl_coef out"
            )
    axes = [summary.get("axis") for summary in known]
    kept: Axis | None = "step" if all(axis == "step" for axis in axes) else None
    names = dict.fromkeys(one.source.name for one in sources if isinstance(one.source, Path))
    files = dict.fromkeys(one.file.name for one in sources if one.file is not None)
    settings = SummarySettings(
        kl_coef=kl_coef,
        level=how.level,
        baseline=baseline_of((curve.credit for curve in curves), given=how.baseline),
        axis=axis_of(curves, of_learners="tokens" in axes, given=how.axis or kept),
        cautions=cautions,
        by_gold=rivals is not None or (all_judged and all(runs.by_gold for runs in judged)),
        logged=_logged(tables, known, columns, ", ".join(files) or "curves"),
        of_tools=any(table.of_tools for table in tables) or any(s.get("of_tools") for s in known),
    )
    about = {
        "source": ", ".join(names) or "curves",
        "measured_by": judge_of_all(judged, settled=rivals is not None) if all_judged else "",
        "score_columns": columns,
    }
    return curves, settings, about


def _logged(
    tables: Sequence[Table],
    known: Sequence[Mapping[str, Any]],
    scores: Iterable[str],
    files: str,
) -> dict[str, str]:
    """Return what measurements were read from, see `SummarySettings.logged`.

    Of a table like ours that is the score alone, unless its summary knows more.
    """
    logged = {name: what for summary in known for name, what in summary.get("logged", {}).items()}
    columns: dict[str, dict[str, None]] = {"score": dict.fromkeys(scores)}
    for table in tables:
        for name, column in table.names.items() if table.of_tools else ():
            if name != "score":
                columns.setdefault(name, {})[column] = None
    for name, taken in columns.items():
        word = sentences.plural(len(taken), "column")
        logged[name] = f"{word} {listed([*taken])} of {files}"
    if columns.get("kl", {}).keys() & {*TRL_KL}:
        logged["kl"] += ", in TRL a mean over tokens of the training batches"
    return logged


def _scores_of(
    table: Table, curves: Iterable[Curve], known: Mapping[str, Any], score: str
) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the arms of a table, each with its columns that are a score; see `by_column`.

    A table of ours has one, ``score``, but may be of what other tools logged, as its summary knows.
    """
    yield from table.scores
    logged = known.get("score_columns") if score == "score" else None
    columns = logged if isinstance(logged, Mapping) else {}
    of_arms = {arm: column for column, arms in columns.items() for arm in arms}
    for curve in () if table.scores else curves:
        yield curve.credit, [of_arms.get(curve.credit, score)]


def _summary_beside(path: Path) -> dict[str, Any]:
    """Return the summary beside a file of curves, {} if there is none."""
    try:
        summary = read_json(path.with_name("summary.json"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
