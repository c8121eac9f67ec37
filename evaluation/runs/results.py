"""The result files of a comparison: curves.csv, summary.json, curves.png and report.html.

All but the wall-clock column of curves.csv are a function of the settings and the versions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import Any, NoReturn

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
    common_samples,
    read_references,
)
from tokengym.evaluation.report.curves import (
    Curve,
    Group,
    columns_of,
    group_label,
    on_axis,
    read_curves,
    write_curves,
)
from tokengym.evaluation.report.figures import Paper, save_figure
from tokengym.evaluation.report.learning import Log, by_epoch, final_figures
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
    return _Gathered([_Part(config, out)]).write(
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
    try:
        configs = [_stored_config(Path(folder), trust_code=trust_code) for folder in folders]
    except UntrustedCodeError:
        only = Path(folders[0])
        has_results = all((only / name).exists() for name in ("curves.csv", "summary.json"))
        if len(folders) > 1 or not has_results:
            raise
        return report_stored(only, out, baseline=baseline, paper=paper)
    first, titles = configs[0], {n: title for c in configs for n, title in c.titles.items()}
    flat_settings = [config.flat() for config in configs]
    apart = ("rewards", "seeds", "first_seed")
    varying = [name for name in varying_names(flat_settings) if name not in apart]
    # One reward at several settings: the settings are what is compared, not groups of one each.
    single = bool(varying) and len({c.names for c in configs}) == len(first.names) == 1
    parts = []
    for config, folder, settings in zip(configs, folders, flat_settings, strict=True):
        # Learners have settings that others lack.
        group = tuple((name, str(settings[name])) for name in varying if name in settings)
        label = f"{titles[config.names[0]]} ({group_label(group)})" if single else None
        parts.append(_Part(config, Path(folder), () if single else group, label))
    default_baseline = None if single else titles[first.names[0]]
    shared = {n: v for n, v in flat_settings[0].items() if n not in (*varying, *apart)}
    return _Gathered(parts).write(
        out,
        settings=shared,
        about={"source": f"{len(folders)} comparisons"},
        baseline=titles.get(baseline or "", baseline) or default_baseline,
        with_episodes=not varying,
        paper=paper,
    )


def _stored_config(folder: Path, *, trust_code: bool) -> ComparisonConfig:
    """Return the comparison of a folder, as the specs of its runs say."""
    found = stored_comparison(folder)
    if found is None:
        raise ValueError(
            f"{folder} holds no comparison (no run there has a {SPEC_FILE}); name a folder that "
            "tokengym compare or train wrote"
        )
    file, stored = found
    gone = [path for path in stored.get("code", ()) if not Path(path).is_file()]
    if trust_code and gone:
        raise ValueError(
            f"{folder} names code that cannot be found from here: {', '.join(gone)}; run the "
            "command in the folder in which the comparison was started, or put the copies of "
            f"{folder / CODE} there"
        )
    return ComparisonConfig.from_dict(stored, file, trust_code=trust_code)


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
    if out is None:  # no page shows them
        runs = []
    if out is not None and out.resolve() != folder.resolve():
        write_bytes(out / "curves.csv", (folder / "curves.csv").read_bytes())
    return write_results(
        out,
        on_axis(curves, axis),
        settings,
        about={name: stored[name] for name in ABOUT if name in stored},
        episodes=[row | {"credit": run.arm} for run in runs for row in run.samples],
        logs=_logs(runs),
        paper=paper,
    )


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


class _Part:
    """One comparison among those that are shown together, as its folder holds it.

    Args:
        config: The comparison.
        folder: Its folder.
        group: Settings that set its runs apart.
        label: Name of its runs in place of their own.
    """

    def __init__(
        self, config: ComparisonConfig, folder: Path, group: Group = (), label: str | None = None
    ) -> None:
        self.config, self.folder, self.group = config, folder, group
        self.results: dict[Run, dict[str, Any]] = {}
        """Its runs, each with its run.json, {} if it has not ended."""
        for name, seed in product(config.names, config.all_seeds):
            run = Run(config.spec(name, seed, folder))
            run.arm, run.group = label or config.titles[name], group
            self.results[run] = run.result
        reference = Run(config.reference_spec(folder))
        result, self.drawn, self.cautions = reference.result, None, []
        if result.get("status") == "finished":
            self.drawn = read_references(reference.folder / SAMPLES)
        elif result:
            self.cautions = [f"No best-of-n: its responses failed ({_error(result)})."]

    @cached_property
    def judged(self) -> JudgedRuns:
        """Its finished runs, and the scorers that their scores are of."""
        finished = _finished(self.results)
        return JudgedRuns(
            folder=self.folder,
            group=self.group,
            has_rivals=self.config.by_gold,
            curves=[run.curve for run in finished],
            measured_by=[by for run in finished if (by := self.results[run].get("measured_by"))],
        )


class _Gathered:
    """Comparisons that are shown together."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.parts = parts
        self.configs = [part.config for part in parts]
        self.results = {run: result for part in parts for run, result in part.results.items()}
        self.finished = _finished(self.results)
        self.judged = [
            part.judged for part in parts if not all(c.invalid() for c in part.judged.curves)
        ]
        self.dispute = find_dispute(self.judged)
        """Two folders whose scores are those of different judges, None if there are none."""

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
        """Write the results of all runs, compared with a baseline; see `write_results`.

        Raises:
            ValueError: if no run has finished.
        """
        if not self.finished:
            self._refuse_none()
        curves = [run.curve for run in self.finished]
        rows = [row for run in self.finished for row in _rows(run)]
        if self.dispute is not None:
            check_gold(self.judged, self.dispute)
            curves = measured_by_gold(curves)
            golds = [row.get("gold_score") for row in rows]
            rows = [
                row if gold is None else row | {"score": gold}
                for row, gold in zip(rows, golds, strict=True)
            ]
        curves = on_axis(curves, self.axis)
        if out is not None:
            write_curves(out / "curves.csv", rows)
        shows_samples = with_episodes and out is not None
        samples = chain.from_iterable(
            [row | {"credit": run.arm} for row in run.samples]
            for run in (self.finished if shows_samples else ())
        )
        return write_results(
            out,
            curves,
            self._summary_settings(curves, baseline),
            about={
                "settings": self._with_lambdas(settings),
                "versions": {name: ", ".join(met) for name, met in self._met("versions").items()},
                "made": {n: " and ".join(map(str, v)) for n, v in self._met("made").items() if v},
                "measured_by": self.measured_by,
                "compared": compared(self.configs),
                **about,
            },
            episodes=list(samples),
            logs=_logs(self.finished),
            paper=paper,
            picture=picture,
        )

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

    @property
    def measured_by(self) -> str:
        """The scorers that the runs' scores are of, in words."""
        if self.dispute is not None:
            golds = sorted({gold for runs in self.judged for gold in runs.gold_scorers})
            return f"the gold score, {'; '.join(golds)}" if golds else "the gold score"
        return "; ".join(dict.fromkeys(words for runs in self.judged for words in runs.measured_by))

    @property
    def axis(self) -> Axis:
        """What runs are compared at equal amounts of: learners tokens, rewards updates."""
        return "tokens" if any(config.agents for config in self.configs) else "step"

    def _summary_settings(self, curves: Sequence[Curve], baseline: str | None) -> SummarySettings:
        """Return what the figures of curves depend on besides them; see `write`."""
        # Runs may have been shared out: what one folder lacks, or failed in, another may have.
        here = set(map(_key, self.finished))
        failed = _others({run: result for run, result in self.results.items() if result}, here)
        missing = _others(self.results, here | set(failed))
        by_gold = self.dispute is not None or all(runs.by_gold for runs in self.judged)
        by_group: dict[Group, list[_Part]] = {}
        for part in self.parts:
            by_group.setdefault(part.group, []).append(part)
        common = {
            group: common_samples([part.drawn for part in parts], by_gold=by_gold)
            for group, parts in by_group.items()
        }
        prices = {config.kl_coef for config in self.configs}
        controls = [config.titles[name] for config in self.configs for name in config.controls()]
        optima = [known_optimum(config) for config in self.configs]
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
            cautions=list(self._cautions(by_group.values(), by_gold=by_gold)),
            controls=controls,
            axis=self.axis,
            by_gold=by_gold,
        )

    def _cautions(self, groups: Iterable[Sequence[_Part]], *, by_gold: bool) -> Iterator[str]:
        """Yield what to be careful of: versions, samples, blind learners, judges."""
        mixed = [f"{n} {' and '.join(v)}" for n, v in self._met("versions").items() if len(v) > 1]
        if mixed:
            yield f"The runs were made with different versions: {', '.join(mixed)}."
        yield from (text for part in self.parts for text in part.cautions)
        unseen = [_unseen_credit([part.config for part in parts]) for parts in groups]
        yield from dict.fromkeys(chain(*unseen))
        if self.dispute is not None:
            yield caution(self.dispute)
        elif not by_gold and any(runs.has_rivals for runs in self.judged):
            first = self.configs[0].rewards[0]
            yield (
                f"The rewards have different scorers, and no gold score judges them: {first}'s "
                "scorer measures all, which favours the rewards that train by it."
            )


def _finished(results: Mapping[Run, Mapping[str, Any]]) -> list[Run]:
    """Return the runs that ended without a fault."""
    return [run for run, result in results.items() if result.get("status") == "finished"]


def _rows(run: Run) -> list[dict[str, Any]]:
    """Return a run's rows of curves.csv."""
    named = {"credit": run.arm, "seed": run.seed} | columns_of(run.group)
    return [point | named for point in run.points]


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
            about = {"credit": run.arm, "seed": run.seed, "group": dict(run.group)}
            error = {"error": _error(result)} if result else {}
            others.setdefault(_key(run), about | error)
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
