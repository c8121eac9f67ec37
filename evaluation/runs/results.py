"""The result files of a comparison: curves.csv, summary.json, curves.png and report.html.

All but the wall-clock column of curves.csv are a function of the settings and the versions.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

from tokengym.base.errors import SettingsError, TokenGymError, UntrustedCodeError
from tokengym.base.files import json_hash, read_json, write_json, write_text
from tokengym.base.registry import Spec, split_file_word
from tokengym.base.saved_code import CODE, display_name
from tokengym.envs import Task, printable
from tokengym.evaluation.measure.judges import Judges
from tokengym.evaluation.measure.measures import Axis
from tokengym.evaluation.measure.references import SAMPLES, common_samples, read_references
from tokengym.evaluation.report.curves import (
    Curve,
    Group,
    columns_of,
    group_label,
    on_axis,
    write_curves,
)
from tokengym.evaluation.report.figures import Paper, save_figure
from tokengym.evaluation.report.learning import Log, by_epoch, final_figures
from tokengym.evaluation.report.report import render_report
from tokengym.evaluation.report.summary import SummarySettings, summarize
from tokengym.evaluation.runs.compared import compared
from tokengym.evaluation.runs.config import ComparisonConfig, command_line
from tokengym.evaluation.runs.folder import stored_comparison, stored_runs
from tokengym.evaluation.runs.judging import JudgedRuns, settle_judges
from tokengym.evaluation.runs.run import Run
from tokengym.evaluation.runs.spec import NO_NUMBERS, REFERENCE, SPEC_FILE, slug
from tokengym.rewards.registry import RewardChoice

CURVES = "curves.csv"
"""Name of the table of a comparison's curves."""
PICTURE = "curves.png"
"""Name of the picture of a comparison's curves."""
ABOUT = ("settings", "versions", "made", "measured_by", "compared", "command")
"""Entries of a summary that are no figures."""


def write_comparison(
    config: ComparisonConfig, out: Path, *, command: str | None = None, picture: str = PICTURE
) -> dict[str, Any]:
    """Gather a comparison's runs, write its results beside them, and return their summary.

    ``command`` is the one that made it, None that of ``tokengym compare``; ``picture`` is the name
    of the picture of its curves.

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

    Runs with equal settings are merged; runs are grouped by the settings that differ. Where all
    have the same single reward, such as at several prices of the KL, the settings are compared.
    Where folders were measured by different scorers, the gold score measures all. A single folder
    that names code which is not trusted is reported by its files alone.
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
        if len(folders) > 1 or not (Path(folders[0]) / "summary.json").exists():
            raise
        return _report_untrusted(Path(folders[0]), out, baseline, paper)
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


def _report_untrusted(
    folder: Path, out: Path | None, baseline: str | None, paper: Paper | None
) -> dict[str, Any]:
    """Write the results of a comparison anew by the files in its folder, running no code.

    What its rules' code decides is taken from its summary.json.
    """
    file = folder / "summary.json"
    results = {run: run.result for run in stored_runs(folder)}
    finished = _finished(results)
    settings = settings_of_files(results, folder)
    curves = on_axis([run.curve for run in finished], settings.axis)
    try:
        stored = read_json(file)
        group = stored["groups"][0]
        settings = replace(
            settings,
            anchors=_anchors(curves),
            optimum=stored["anchors"]["optimum"] or {},
            baseline=display_name(baseline) if baseline else group["wanted_baseline"],
            controls=group["controls"],
            by_gold=stored["by_gold"],
        )
    except (OSError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{file} is damaged or of another version ({error!r}); pass --trust-code, or the "
            f"curves alone: --curves {folder / 'curves.csv'}"
        ) from None
    return write_results(
        out,
        curves,
        settings,
        about={name: stored[name] for name in ABOUT if name in stored},
        episodes=_episodes(finished) if out is not None else (),
        logs=_logs(finished),
        paper=paper,
        rows=[row for run in finished for row in _rows(run)],
    )


def settings_of_files(results: Mapping[Run, Mapping[str, Any]], folder: Path) -> SummarySettings:
    """Return what the figures of a comparison's runs depend on besides, by their files alone.

    ``results`` are its runs that have begun, each with its `Run.result`.
    """
    runs = list(results)
    first, began = runs[0], {(run.arm, run.seed) for run in runs}
    compared = first.stored["compared"]
    learners = [run.stored["training"]["learner"] for run in runs]
    # As `ComparisonConfig.controls`: under one reward the arms are learners, and none is a control.
    are_learners = compared["agents"] and len(first.stored["rewards"]) == 1
    prices = {learner["kl_coef"] for learner in learners if "kl_coef" in learner}
    seeds = range(compared["first_seed"], compared["first_seed"] + compared["seeds"])
    measured_by = [results[run].get("measured_by") or "" for run in _finished(results)]
    samples = folder / slug(REFERENCE) / SAMPLES
    ended = {run: result for run, result in results.items() if result}
    missing = [(run.arm, run.seed) for run in runs if not results[run]]
    missing += [
        key for key in product(dict.fromkeys(r.arm for r in runs), seeds) if key not in began
    ]
    return SummarySettings(
        kl_coef=prices.pop() if len(prices) == 1 else None,
        episodes=first.stored["evaluation"]["episodes"],
        references={(): read_references(samples)} if samples.exists() else {},
        level=compared["level"],
        baseline=first.arm,
        failed=list(_others(ended, set(map(_key, _finished(results)))).values()),
        missing=[{"credit": arm, "seed": seed, "group": {}} for arm, seed in missing],
        controls=[] if are_learners else [run.arm for run in runs if _is_control(run)],
        axis="tokens" if compared["agents"] else "step",
        by_gold=all(judges.score == judges.gold for judges in map(Judges.parse, measured_by)),
    )


def _is_control(run: Run) -> bool:
    """Return whether a run's rule does not read the text; one of the user's files is not run."""
    word = run.stored["reward"]
    if word["file"] is not None:
        return False
    with suppress(TokenGymError):  # its package is not installed any more
        return RewardChoice.of(Spec(word["text"], word["name"], word["options"])).is_control
    return False


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


def curves_hash(file: Path) -> str:
    """Return a digest of a table of curves, by which its summary knows it; the clock is left out.

    Raises:
        ValueError: if it is no table.
    """
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [
                {k: v for k, v in row.items() if k != "wall_s"} for row in csv.DictReader(lines)
            ]
    except csv.Error as error:
        raise ValueError(f"{file} cannot be read ({error})") from None
    return json_hash([{k: v for k, v in row.items() if k != "wall_s"} for row in rows])


class _Part:
    """One comparison among those that are shown together, as its folder holds it.

    ``group`` sets its runs apart; ``label`` is their name in place of their own.
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
        if not self.finished:
            self._refuse_none()
        self.judged = [
            part.judged for part in parts if not all(c.invalid() for c in part.judged.curves)
        ]
        curves, self.caution = settle_judges(self.judged, [run.curve for run in self.finished])
        self.axis: Axis = "tokens" if any(config.agents for config in self.configs) else "step"
        """What runs are compared at equal amounts of: learners tokens, rewards updates."""
        self.curves = on_axis(curves, self.axis)

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
        """Write the results of all runs, compared with a baseline; see `write_results`."""
        rows = [row for run in self.finished for row in _rows(run)]
        if self.caution is not None:
            golds = [row.get("gold_score") for row in rows]
            rows = [
                row if gold is None else row | {"score": gold}
                for row, gold in zip(rows, golds, strict=True)
            ]
        return write_results(
            out,
            self.curves,
            self._summary_settings(baseline),
            about={
                "settings": self._with_lambdas(settings),
                "versions": {name: ", ".join(met) for name, met in self._met("versions").items()},
                "made": {n: " and ".join(map(str, v)) for n, v in self._met("made").items() if v},
                "measured_by": self.measured_by,
                "compared": compared(self.configs),
                **about,
            },
            episodes=_episodes(self.finished) if with_episodes and out is not None else (),
            logs=_logs(self.finished),
            paper=paper,
            picture=picture,
            rows=rows,
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
        if self.caution is not None:
            golds = sorted({gold for runs in self.judged for gold in runs.gold_scorers})
            return f"the gold score, {'; '.join(golds)}" if golds else "the gold score"
        return "; ".join(dict.fromkeys(words for runs in self.judged for words in runs.measured_by))

    def _summary_settings(self, baseline: str | None) -> SummarySettings:
        """Return what the figures of the curves depend on besides them."""
        # Runs may have been shared out: what one folder lacks, or failed in, another may have.
        here = set(map(_key, self.finished))
        failed = _others({run: result for run, result in self.results.items() if result}, here)
        missing = _others(self.results, here | set(failed))
        by_gold = self.caution is not None or all(runs.by_gold for runs in self.judged)
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
            anchors=_anchors(self.curves),
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
        if self.caution is not None:
            yield self.caution
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
            about = {"credit": run.arm, "seed": run.seed, "group": dict(run.group)}
            error = {"error": _error(result)} if result else {}
            others.setdefault(_key(run), about | error)
    return others


def _unseen_credit(configs: Sequence[ComparisonConfig]) -> list[str]:
    """Return a caution for each learner, of runs that are compared, that sees the score alone.

    Its curves under the rules that share sparse's score must equal those of sparse.
    """
    from tokengym.agents.ppo.advantages import find_advantage

    learners = [training.learner for config in configs for training in config.trainings.values()]
    names = dict.fromkeys(
        learner.advantage for learner in learners if hasattr(learner, "advantage")
    )
    blind = [name for name in names if not find_advantage(name).uses_token_rewards]
    if not blind or not any("sparse" in config.rewards for config in configs):
        return []
    same_score = dict.fromkeys(
        display_name(reward)
        for config in configs
        for reward in config.rewards
        if reward != "sparse"
        and split_file_word(reward) is None
        and RewardChoice.of(reward).kind in ("any", "reward_model")
    )
    return [
        f"{name} sees only the score of a whole response, not the credit of its tokens: where the "
        f"score is the same, the curves of {', '.join(same_score)} must equal sparse's."
        for name in (blind if same_score else ())
    ]


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


def known_optimum(config: ComparisonConfig) -> dict[str, float]:
    """Return the best expected gold score, V* of the empty text, where a task can compute it."""
    task = Task.of(config.env)
    computes = task is not None and hasattr(task.vector_class, "optimal_values")
    return _computed_optimum(config) if computes else {}


def _computed_optimum(config: ComparisonConfig) -> dict[str, float]:
    """Return V* of the empty text; {} where there are too many responses to enumerate."""
    from tokengym.evaluation.measure.evaluate import make_eval_envs

    kwargs = config.env_kwargs(config.rewards[0], train=False)
    envs: Any = make_eval_envs(config.env, kwargs, num_envs=1)
    try:
        values, _ = envs.unwrapped.optimal_values()
    except SettingsError:
        return {}
    finally:
        envs.close()
    return {"gold_score": float(values[()])}
