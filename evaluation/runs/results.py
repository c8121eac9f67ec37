"""The result files of a comparison: curves.csv, summary.json, curves.png and report.html.

All but the wall-clock column of curves.csv are a function of the settings and the versions.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tokengym.base.errors import SettingsError, UntrustedCodeError
from tokengym.base.files import (
    read_json,
    write_bytes,
    write_json,
    write_text,
)
from tokengym.base.registry import split_file_word
from tokengym.base.saved_code import CODE, display_name
from tokengym.envs import Task, printable
from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.measure.references import (
    SAMPLES,
    ReferenceSamples,
    common_samples,
    read_references,
)
from tokengym.evaluation.report.curves import (
    Curve,
    Group,
    columns_of,
    counts_tokens,
    curve_of,
    group_label,
    on_axis,
    read_curves,
    write_curves,
)
from tokengym.evaluation.report.figures import Paper, save_figure
from tokengym.evaluation.report.learning import Log, by_epoch, final_figures
from tokengym.evaluation.report.reading import Source
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.runs.compared import compared
from tokengym.evaluation.runs.config import (
    ComparisonConfig,
    command_line,
)
from tokengym.evaluation.runs.folder import stored_comparison, stored_runs
from tokengym.evaluation.runs.judging import (
    JudgedRuns,
    caution,
    check_gold,
    find_dispute,
    measured_by_gold,
)
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.spec import NO_NUMBERS, REFERENCE, SPEC_FILE, slug

PICTURE = "curves.png"
"""Name of the picture of a comparison's curves."""
ABOUT = ("settings", "versions", "made", "measured_by", "compared", "command")
"""Entries of a summary that are no figures."""


def write_comparison(
    config: ComparisonConfig, out: Path, *, command: str | None = None, picture: str = PICTURE
) -> dict[str, Any]:
    """Gather a comparison's runs and write its results beside them.

    Args:
        config: The comparison, which may be of one run.
        out: Its folder.
        command: The command that made it; None takes that of ``tokengym compare``.
        picture: Name of the picture of its curves.

    Returns:
        The summary.

    Raises:
        ValueError: if no run finished.
    """
    runs = _StoredRuns()
    runs.add(config, out)
    return runs.write(
        out,
        settings=config.flat(),
        about={"command": command or command_line(config)},
        baseline=config.titles[config.names[0]],
        picture=picture,
    )


def merge_comparisons(
    folders: Sequence[Path],
    out: Path | None,
    *,
    baseline: str | None,
    trust_code: bool = False,
    paper: Paper | None = None,
) -> dict[str, Any]:
    """Write one report of comparisons made apart, such as on several machines.

    Those of one comparison are made of the results in its folder where it names code that is not
    trusted, see `report_stored`.

    Runs with equal settings are merged; runs are grouped by the settings that differ. Where all
    have the same single reward, such as at several prices of the KL, the settings are compared.
    Where folders were measured by different scorers, the gold score measures all.
    ``trust_code`` lets the folders name files of code, which are run. ``out`` and ``paper`` are
    `write_results`'s.

    Raises:
        UntrustedCodeError: if a folder names code of its own.
        ValueError: if a folder holds no comparison, a run is there twice, or runs to compare were
            measured by different scorers and not all have one gold score.
    """
    configs = []
    for folder in folders:
        found = stored_comparison(Path(folder))
        if found is None:
            raise ValueError(
                f"{folder} holds no comparison (no run there has a {SPEC_FILE}); name a folder "
                "that tokengym compare or train wrote"
            )
        file, stored = found
        gone = [path for path in stored.get("code", ()) if not Path(path).is_file()]
        if trust_code and gone:
            raise ValueError(
                f"{folder} names code that cannot be found from here: {', '.join(gone)}; run the "
                "command in the folder in which the comparison was started, or put the copies of "
                f"{Path(folder) / CODE} there"
            )
        try:
            configs.append(ComparisonConfig.from_dict(stored, file, trust_code=trust_code))
        except UntrustedCodeError:
            has_results = all((Path(folder) / n).exists() for n in ("curves.csv", "summary.json"))
            if len(folders) == 1 and has_results:
                return report_stored(Path(folder), out, baseline=baseline, paper=paper)
            raise
    first, titles = configs[0], {n: title for c in configs for n, title in c.titles.items()}
    flat_settings = [config.flat() for config in configs]
    apart = ("rewards", "seeds", "first_seed")
    varying = [name for name in varying_names(flat_settings) if name not in apart]
    # One reward at several settings: the settings are what is compared, not groups of one each.
    single = bool(varying) and len({c.names for c in configs}) == len(first.names) == 1
    runs = _StoredRuns()
    for config, folder, settings in zip(configs, folders, flat_settings, strict=True):
        # Learners have settings that others lack.
        group = tuple((name, str(settings[name])) for name in varying if name in settings)
        if single:
            label = f"{titles[config.names[0]]} ({group_label(group)})"
            runs.add(config, Path(folder), label=label)
        else:
            runs.add(config, Path(folder), group)
    default_baseline = None if single else titles[first.names[0]]
    shared = {n: v for n, v in flat_settings[0].items() if n not in (*varying, *apart)}
    return runs.write(
        out,
        settings=shared,
        about={"source": f"{len(folders)} comparisons"},
        baseline=titles.get(baseline or "", baseline) or default_baseline,
        with_episodes=not varying,
        paper=paper,
    )


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


def report_stored(
    folder: Path,
    out: Path | None,
    *,
    baseline: str | None = None,
    paper: Paper | None = None,
) -> dict[str, Any]:
    """Write the results of a comparison anew by those in its folder, running no code.

    Args:
        folder: Its folder, with curves.csv and summary.json.
        out: Folder for them; None writes no report.
        baseline: Reward that the others are compared with; None takes the comparison's.
        paper: Figure and table to write.

    Returns:
        The summary.

    Raises:
        ValueError: if a file is missing, damaged or was changed.
    """
    file = folder / "summary.json"
    try:
        stored = read_json(file)
        group, axis = stored["groups"][0], stored["axis"]
        curves = read_curves(folder / "curves.csv", group_by=())
        samples = folder / slug(REFERENCE) / SAMPLES
        settings = SummarySettings(
            kl_coef=stored["kl_coef"],
            anchors=stored["anchors"]["reference"] or {},
            optimum=stored["anchors"]["optimum"] or {},
            references={(): read_references(samples)} if samples.exists() else {},
            level=stored["level"],
            baseline=display_name(baseline) if baseline else group["wanted_baseline"],
            failed=stored["failed"],
            missing=stored["missing"],
            controls=group["controls"],
            axis=axis,
            by_gold=stored["by_gold"],
        )
    except (OSError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{file} is damaged or of another version ({error!r}); pass --trust-code, or the "
            f"curves alone: --curves {folder / 'curves.csv'}"
        ) from None
    runs = [run for run in stored_runs(folder) if run.is_finished]
    known = {(curve.credit, curve.seed) for curve in curves}
    if any((run.arm, run.seed) not in known for run in runs):
        raise ValueError(
            f"{file} is older than runs of {folder} that have finished; run its command again, or "
            "pass --trust-code"
        )
    episodes: list[dict[str, Any]] = []
    logs = []
    for run in runs if out is not None else ():
        episodes += [row | {"credit": run.arm} for row in run.samples]
        logs.append(Log(credit=run.arm, seed=run.seed, rows=run.log))
    if out is not None and out.resolve() != folder.resolve():
        write_bytes(out / "curves.csv", (folder / "curves.csv").read_bytes())
    return write_results(
        out,
        on_axis(curves, axis),
        settings,
        about={name: stored[name] for name in ABOUT if name in stored},
        episodes=episodes,
        logs=[log for log in logs if by_epoch(log.rows)],
        paper=paper,
    )


def report_curves(
    path: Path | Sequence[Path],
    out: Path | None,
    *,
    baseline: str | None = None,
    group_by: Sequence[str] | None = None,
    level: float = 0.95,
    kl_coef: float | None = None,
    axis: Axis | None = None,
    score: str | None = None,
    paper: Paper | None = None,
) -> dict[str, Any]:
    """Write the report of learning curves made elsewhere.

    Args:
        path: Files or runs' folders, see `tokengym.evaluation.report.reading`; several are shown
            together.
        out: Folder for the results; None writes none.
        baseline: As for `gather_curves`.
        group_by: As for `gather_curves`.
        level: Confidence level of the intervals.
        kl_coef: As for `gather_curves`.
        axis: As for `gather_curves`.
        score: As for `gather_curves`.
        paper: Figure and table to write.

    Returns:
        The summary.

    Raises:
        ValueError: as of `gather_curves`.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    curves, settings = gather_curves(
        [(one, None) for one in paths],
        baseline=baseline,
        group_by=group_by,
        level=level,
        kl_coef=kl_coef,
        axis=axis,
        score=score,
    )
    about = {"source": ", ".join(dict.fromkeys(one.name for one in paths))}
    return write_results(out, on_axis(curves, settings.axis), settings, about=about, paper=paper)


def gather_curves(
    sources: Sequence[tuple[Source, str | None]],
    *,
    baseline: str | None = None,
    group_by: Sequence[str] | None = None,
    level: float = 0.95,
    kl_coef: float | None = None,
    axis: Axis | None = None,
    score: str | None = None,
) -> tuple[list[Curve], SummarySettings]:
    """Read learning curves that were made elsewhere, and decide how they are compared.

    Args:
        sources: Each with a name for its runs, if it is another tool's; None takes that of their
            folder. See `tokengym.evaluation.report.reading`.
        baseline: Credit that the others are compared with; None takes sparse if present, else the
            first.
        group_by: Columns to group by; None takes all that are no known measurement.
        level: Confidence level of the intervals.
        kl_coef: Price of a nat of KL, for the score minus its penalty.
        axis: What runs are compared at equal amounts of, "step" or "tokens"; None takes that of
            the summary.json beside the curves, as of learners, tokens for runs that count nothing
            else, as those of Stable-Baselines3, and updates where there is neither.
        score: Column with the score; None takes score, or the one that is known of other tools.

    Returns:
        The curves by their steps, and what their figures depend on besides.

    Raises:
        ValueError: if a source cannot be read, lacks tokens to compare at, the baseline is
            unknown, or the summaries beside several files name different scorers and not all runs
            have one gold score.
    """
    if kl_coef is not None and not 0.0 <= kl_coef < math.inf:
        raise ValueError(f"kl_coef must be a finite number >= 0, got {kl_coef:g}")
    read = [
        (one, read_curves(one, group_by=group_by, name=name, score=score)) for one, name in sources
    ]
    curves = [curve for _, found in read for curve in found]
    files = {one: found for one, found in read if isinstance(one, Path)}
    judged = [runs for one, found in files.items() if (runs := _judged_beside(one, found))]
    dispute = find_dispute(judged)
    if dispute is not None:
        check_gold(judged, dispute)
        curves = measured_by_gold(curves)
    # An agent that cannot tell its KL takes no price from the others.
    known = [curve for curve in curves if np.isfinite(curve.values.get("kl", np.nan)).any()]
    for curve in known or curves if kl_coef is not None else ():
        if not curve.fault() and (step := curve.hole("kl")) is not None:
            raise ValueError(
                f"kl_coef={kl_coef:g} prices the KL, which {curve.credit}, seed {curve.seed} has "
                f"not at step {step:g}; fill in the column kl, or leave kl_coef out"
            )
    if baseline is None and any(curve.credit == "sparse" for curve in curves):
        baseline = "sparse"
    if axis is None:
        by_tokens = any(map(_is_over_tokens, files)) or any(map(counts_tokens, curves))
        axis = "tokens" if by_tokens else "step"
    settings = SummarySettings(
        kl_coef=kl_coef,
        level=level,
        baseline=baseline,
        axis=axis,
        cautions=[] if dispute is None else [caution(dispute)],
        by_gold=dispute is not None,
    )
    return curves, settings


def _is_over_tokens(path: Path) -> bool:
    """Say whether curves lie beside a summary of runs at equal tokens."""
    return _summary_beside(path).get("axis") == "tokens"


def _judged_beside(path: Path, curves: Sequence[Curve]) -> JudgedRuns | None:
    """Return the curves of a comparison with what measured them, by the summary beside them."""
    summary = _summary_beside(path)
    words = summary.get("measured_by")
    if not words or not isinstance(words, str):
        return None  # curves made elsewhere do not tell
    return JudgedRuns(
        folder=path.absolute().parent,
        group=(),
        has_rivals=summary.get("by_gold") is True,
        curves=list(curves),
        measured_by=[words],
    )


def _summary_beside(path: Path) -> dict[str, Any]:
    """Return the summary beside a file of curves, {} if there is none."""
    try:
        summary = read_json(path.with_name("summary.json"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


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
) -> dict[str, Any]:
    """Write summary.json, curves.png and report.html of curves, and return their summary.

    Args:
        out: Folder for them; None writes none.
        curves: The runs.
        settings: What the figures depend on besides.
        about: Settings, versions and origin of the runs, which the summary repeats.
        episodes: Responses with the credit of their tokens.
        logs: Logs of the runs that learned from given data.
        paper: Figure and table to write.
        picture: Name of the picture.
    """
    summary = {**summarize(curves, settings), **about}
    if logs:
        summary["learning"] = final_figures(logs)
    if paper is not None:
        paper.write(summary, curves)
    if out is not None:
        write_json(out / "summary.json", summary)
        save_figure(out / picture, summary, curves)
        write_text(out / "report.html", render_report(summary, curves, episodes, logs))
    return summary


@dataclass
class _StoredRuns:
    """Runs of one or more comparisons, as their folders hold them."""

    configs: list[ComparisonConfig] = field(default_factory=list)
    compared: dict[Group, list[ComparisonConfig]] = field(default_factory=dict)
    """Those whose runs are compared with one another."""
    folders: list[Path] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The curves' rows of curves.csv."""
    episodes: list[dict[str, Any]] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    """Logs of the runs that learned from given data."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    """Runs that have not ended."""
    versions: dict[str, list[str]] = field(default_factory=dict)
    """Versions met of each package, in the order of the runs."""
    judged: list[JudgedRuns] = field(default_factory=list)
    """The runs of each folder that has sound ones, with the scorers that their scores are of."""
    lambdas: dict[str, float] = field(default_factory=dict)
    """Lambda that each rule's runs had, where the rule decides it."""
    made: dict[str, list[str]] = field(default_factory=dict)
    """Commits and machines of the runs, likewise."""
    references: dict[Group, list[ReferenceSamples | None]] = field(default_factory=dict)
    """Each comparison's reference samples, if it has them."""
    lost_references: list[str] = field(default_factory=list)
    """Cautions for those that could not be drawn."""

    def add(
        self, config: ComparisonConfig, out: Path, group: Group = (), label: str | None = None
    ) -> None:
        """Add the runs of a comparison, as of ``group``; ``label`` replaces their names."""
        self.configs.append(config)
        self.compared.setdefault(group, []).append(config)
        self.folders.append(out)
        drawn, reference = None, Run(config.reference_spec(out))
        result = reference.result
        error = printable(str(result.get("error", "unknown")))
        if result.get("status") == "finished":
            drawn = read_references(reference.folder / SAMPLES)
        elif result:
            self.lost_references.append(f"No best-of-n: its responses failed ({error}).")
        self.references.setdefault(group, []).append(drawn)
        judged = JudgedRuns(folder=out, group=group, has_rivals=config.by_gold)
        for name, seed in product(config.names, config.all_seeds):
            done, credit = Run(config.spec(name, seed, out)), label or config.titles[name]
            run: dict[str, Any] = {"credit": credit, "seed": seed}
            result = done.result
            if not result:
                self.missing.append({**run, "group": dict(group)})
                continue
            for kept, met in ((self.versions, "versions"), (self.made, "made")):
                for key, value in (result.get(met) or {}).items():
                    listed = kept.setdefault(key, [])
                    listed += [value] if value and value not in listed else []
            if (known := result.get("gae_lambda")) is not None:
                self.lambdas[credit] = known
            if result["status"] == "finished":
                judged.curves.append(self._add_finished(done, credit, seed, group))
                judged.measured_by += [by] if (by := result.get("measured_by")) else []
            else:
                error = printable(str(result.get("error", "unknown")))
                self.failed.append({**run, "group": dict(group), "error": error})
        self.judged += [] if all(curve.fault() for curve in judged.curves) else [judged]

    def _add_finished(self, done: Run, credit: str, seed: int, group: Group) -> Curve:
        """Add the measurements of a run and return its curve."""
        run: dict[str, Any] = {"credit": credit, "seed": seed}
        points = done.points
        self.curves.append(curve := curve_of(points, **run, group=group))
        self.rows += [point | run | columns_of(group) for point in points]
        log = Log(**run, group=group, rows=done.log)
        if by_epoch(log.rows):
            self.logs.append(log)
        self.episodes += [row | {"credit": credit} for row in done.samples]
        return curve

    def write(
        self,
        out: Path | None,
        *,
        settings: Mapping[str, Any],
        about: Mapping[str, Any],
        baseline: str | None,
        with_episodes: bool = True,
        paper: Paper | None = None,
        picture: str = PICTURE,
    ) -> dict[str, Any]:
        """Write the results of all runs, see `write_results`.

        Args:
            out: Folder for them; None writes no report.
            settings: Settings of the runs.
            about: What the summary says of them besides.
            baseline: Reward that the others are compared with.
            with_episodes: Whether to show responses.
            paper: Figure and table to write.
            picture: Name of the picture.

        Raises:
            ValueError: if no run has finished.
        """
        if not self.curves:
            self._refuse_none()
        if self.dispute is not None:
            check_gold(self.judged, self.dispute)
            self._measure_by_gold()
        if self.lambdas and settings.get("gae_lambda", 0) is None:  # the rules decided it
            shown = ", ".join(f"{name} {value:g}" for name, value in self.lambdas.items())
            settings = {**settings, "gae_lambda": shown}
        curves = on_axis(self.curves, "tokens" if self.by_tokens else "step")
        summary = self._summary_settings(curves, baseline)
        if out is not None:
            write_curves(out / "curves.csv", self.rows)
        return write_results(
            out,
            curves,
            summary,
            about={
                "settings": settings,
                "versions": {name: ", ".join(values) for name, values in self.versions.items()},
                "made": {n: " and ".join(map(str, v)) for n, v in self.made.items() if v},
                "measured_by": self.measured_by,
                "compared": compared(self.configs),
                **about,
            },
            episodes=self.episodes if with_episodes else [],
            logs=self.logs,
            paper=paper,
            picture=picture,
        )

    def _refuse_none(self) -> NoReturn:
        """Refuse to write results of no run."""
        fault = f"no run of {self.folders[0]} has finished"
        if not self.failed:
            raise ValueError(f"{fault}; the same command resumes them")
        raise ValueError(
            f"{fault} ({len(self.failed)} failed, the first: {self.failed[0]['error']}); the runs' "
            "run.json has the whole error, and --retry-failed repeats them"
        )

    def _measure_by_gold(self) -> None:
        """Take the gold score as the score of every run, also in its rows."""
        self.curves = measured_by_gold(self.curves)
        self.rows = [
            row if row.get("gold_score") is None else row | {"score": row["gold_score"]}
            for row in self.rows
        ]

    @cached_property
    def dispute(self) -> tuple[JudgedRuns, JudgedRuns] | None:
        """Two folders whose scores are those of different judges, None if there are none."""
        return find_dispute(self.judged)

    @property
    def measured_by(self) -> str:
        """The scorers that the runs' scores are of, in words."""
        if self.dispute is not None:
            golds = sorted({gold for runs in self.judged for gold in runs.gold_scorers})
            return f"the gold score, {'; '.join(golds)}" if golds else "the gold score"
        return "; ".join(dict.fromkeys(words for runs in self.judged for words in runs.measured_by))

    @property
    def by_tokens(self) -> bool:
        """Whether learners are compared, at equal tokens; rewards are at equal updates."""
        return any(config.agents for config in self.configs)

    def _summary_settings(self, curves: Sequence[Curve], baseline: str | None) -> SummarySettings:
        """Return what the figures of curves depend on besides them; see `write`."""
        # Runs may have been shared out: what one folder lacks, or failed in, another may have.
        here = {(curve.credit, curve.seed, curve.group) for curve in self.curves}
        failed = _others(self.failed, here)
        missing = _others(self.missing, here | set(failed))
        by_gold = self.dispute is not None or all(runs.by_gold for runs in self.judged)
        common = {
            group: common_samples(drawn, by_gold=by_gold)
            for group, drawn in self.references.items()
        }
        mixed = [f"{name} {' and '.join(v)}" for name, v in self.versions.items() if len(v) > 1]
        unseen = [_unseen_credit(configs) for configs in self.compared.values()]
        all_cautions = [*self.lost_references, *dict.fromkeys(chain(*unseen))]
        if mixed:
            made_with = f"The runs were made with different versions: {', '.join(mixed)}."
            all_cautions.insert(0, made_with)
        prices = {config.kl_coef for config in self.configs}
        controls = [config.titles[name] for config in self.configs for name in config.controls()]
        optima = [known_optimum(config) for config in self.configs]
        if self.dispute is not None:
            all_cautions.append(caution(self.dispute))
        elif not by_gold and any(runs.has_rivals for runs in self.judged):
            first = self.configs[0].rewards[0]
            all_cautions.append(
                f"The rewards have different scorers, and no gold score judges them: {first}'s "
                "scorer measures all, which favours the rewards that train by it."
            )
        return SummarySettings(
            # Learners at prices of their own have no one objective.
            kl_coef=prices.pop() if len(prices) == 1 else None,
            anchors=_anchors(curves),
            optimum=optima[0] if all(one == optima[0] for one in optima) else {},
            episodes=min(config.evaluation.episodes or 0 for config in self.configs),
            references={group: drawn for group, drawn in common.items() if drawn is not None},
            level=self.configs[0].level,
            baseline=baseline,
            failed=list(failed.values()),
            missing=list(missing.values()),
            cautions=all_cautions,
            controls=controls,
            axis="tokens" if self.by_tokens else "step",
            by_gold=by_gold,
        )


RunKey = tuple[str, int, Group]
"""Credit, seed and group of a run."""


def _others(runs: Sequence[dict[str, Any]], known: Set[RunKey]) -> dict[RunKey, dict[str, Any]]:
    """Return the runs that are not known, each once."""
    others: dict[RunKey, dict[str, Any]] = {}
    for run in runs:
        key = run["credit"], run["seed"], tuple(run["group"].items())
        if key not in known:
            others.setdefault(key, run)
    return others


def _unseen_credit(configs: Sequence[ComparisonConfig]) -> list[str]:
    """Return a caution for each learner that sees only the sum of the token rewards.

    Args:
        configs: Comparisons whose runs are compared with one another.
    """
    from tokengym.agents.ppo.advantages import find_advantage

    learners = [training.learner for config in configs for training in config.trainings.values()]
    names = dict.fromkeys(
        learner.advantage for learner in learners if hasattr(learner, "advantage")
    )
    blind = [name for name in names if not find_advantage(name).uses_token_rewards]
    has_sparse = any("sparse" in config.rewards for config in configs)
    return _equal_to_sparse(configs, blind) if blind and has_sparse else []


def _equal_to_sparse(configs: Sequence[ComparisonConfig], blind: Sequence[str]) -> list[str]:
    """Return a caution for each of these learners, whose curves must equal those of sparse."""
    same_score = dict.fromkeys(
        reward
        for config in configs
        for reward in config.rewards
        if reward != "sparse"
        and split_file_word(reward) is None
        and config.choice(reward).kind in ("any", "reward_model")
    )
    if not same_score:
        return []
    named = ", ".join(map(display_name, same_score))
    return [
        f"{name} sees only the score of a whole response, not the credit of its tokens: where the "
        f"score is the same, the curves of {named} must equal sparse's."
        for name in blind
    ]


def _anchors(curves: Sequence[Curve]) -> dict[str, float]:
    """Return the reference policy's scores and toxicity, measured before the first update.

    Every run of a comparison measures the same policy there, on the same prompts and random
    numbers; a measurement on which runs differ, as those of several comparisons may, is left out.
    """
    anchors: dict[str, float] = {}
    for name in ("score", "gold_score", "toxicity"):
        first = {
            float(curve.values[name][0])
            for curve in curves
            if curve.steps[0] == 0 and curve.has(name)
        }
        if len(first) == 1:
            anchors[name] = first.pop()
    return anchors


def known_optimum(config: ComparisonConfig) -> dict[str, float]:
    """Return the best expected gold score, V* of the empty text, where a task can compute it."""
    task = Task.of(config.env)
    computes = task is not None and hasattr(task.vector_class, "optimal_values")
    return _computed_optimum(config) if computes else {}


def _computed_optimum(config: ComparisonConfig) -> dict[str, float]:
    """Return V* of the empty text; {} where there are too many responses to enumerate."""
    from tokengym.evaluation.measure.evaluate import make_eval_envs

    envs: Any = make_eval_envs(
        config.env, config.env_kwargs(config.rewards[0], train=False), num_envs=1
    )
    try:
        values, _ = envs.unwrapped.optimal_values()
    except SettingsError:
        return {}
    finally:
        envs.close()
    return {"gold_score": float(values[()])}
