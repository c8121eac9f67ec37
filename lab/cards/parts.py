"""Parts of a card: each measures one property of a rule or an estimator and returns plain data."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from tokengym import ComparisonConfig, __version__, compare
from tokengym.agents import RandomAgent, bind_policy, noting_reads
from tokengym.base import auto_device, read_json
from tokengym.envs import SettingsError, TokenizerError
from tokengym.evaluation.measure import Evaluator, resolve_env, task_reward
from tokengym.evaluation.report import SummarySettings, read_curves, summarize
from tokengym.evaluation.runs import EvaluationSettings, training_settings
from tokengym.lab.envs.oracle.env import PROMPT
from tokengym.lab.gradients.best_response import best_departure, best_play, token_rewards
from tokengym.lab.gradients.exact import response_probs
from tokengym.lab.gradients.oracle import (
    SmallOracle,
    find_estimator,
    gradient_of,
    policies_along,
    rule_of,
    weights_of,
)
from tokengym.lab.replay.agreement import agreement
from tokengym.rewards import Credit, RewardChoice, RewardError, check_reward

REFUSALS = (RewardError, TokenizerError)
"""Why a rule cannot be measured on a task, as by a model of its own that reads other tokens."""
TRUTH_TASKS = ("MovieReview", "Oracle")
"""Tasks that know the true worth of each token."""
EXECUTED_TASKS = ("Forks",)
"""Tasks on which it is measured, where the score is far from a sum of its tokens."""
TASKS = ("MovieReview", "Dialogue", "Oracle")
"""Tasks of the convergence part, unless fewer are asked for."""
BASELINES = "baselines"
"""Folder beside those of the cards, whose cards share the runs of `sparse` there."""
ENCODER_TASK = "QuestionAnswer"
"""Task of a rule that scores with an encoder, and so needs a reference or a question."""
NO_TRUTH = "the rule scores with {}, and the truth of {} is that of another score"
ANSWER_TASK = "Forks"
"""Task of a rule that asks for the prompt's reference answer."""
NO_ANSWER = "the rule asks for the reference answer, and the prompts of {} have none"
TIMINGS = 5
"""Timings of which the shortest counts: a busy machine only adds to it."""
GROUP_SIZE = 8
"""Responses to each prompt where an estimator needs groups."""
RATE = 1e-3
"""Learning rate of all runs: the best of `sparse` on a spare seed (docs/results/film_reviews.md),
and not tuned for the others, which would take five runs a row."""
MEASURES = ("net_score", "score", "gold_score", "kl")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Amounts that a card is measured from."""

    responses: int
    """Responses whose credit is held against the truth, and that are timed."""
    seeds: int
    """Training runs per rule and task, paired by seed."""
    steps: int | None
    """Updates per run; None takes the task's."""
    tasks: tuple[str, ...] = TASKS
    """Tasks of the convergence part."""
    shares: tuple[float, ...]
    """Policies of the gradient check; see `policies_along`."""
    tokens: int | None = None
    """Longest response of the training runs; None takes the task's."""
    batch_size: int | None = None
    """Rows of the training runs; None takes the task's."""
    forked: int = 32
    """Responses whose tokens' worth is executed."""
    continuations: int = 32
    """Continuations of each of their prefixes."""


Part = Callable[[str, Size, int, Path], dict[str, Any]]
"""(subject, size, seed, folder of the card) -> plain data."""


def contract(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return per task whether `check_reward` passes, or what it says."""
    del size, out

    def check(task: str) -> dict[str, Any]:
        return keeps_contract(gym.make(resolve_env(task), reward=subject), seed)

    return _per_task(subject, _usable(subject, TRUTH_TASKS), check)


def keeps_contract(env: gym.Env[Any, Any], seed: int) -> dict[str, Any]:
    """Return whether `check_reward` passes an environment, and what it says if not."""
    bind_policy(env, RandomAgent(env, seed=seed))  # for rules that continue responses
    try:
        check_reward(env, seed=seed)
    except RewardError as error:
        return {"passed": False, "message": str(error)}
    return {"passed": True}


def identification(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return per task the agreement of the rule's credit with the true worth of each token."""
    from tokengym.lab.replay.replay import replay

    del out

    def agreement_on(task: str) -> dict[str, Any]:
        episodes, policy, kwargs = _played(task, size.responses, seed)
        result = replay(episodes, [subject], env=task, env_kwargs=kwargs, policy=policy)
        return asdict(result.agreements[subject])

    return _per_task(subject, TRUTH_TASKS, agreement_on)


def executed(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return per task the agreement of the rule's credit with executed forks of the policy."""
    del out

    def agreement_on(task: str) -> dict[str, Any]:
        agreement = held_to_forks(task, [subject], size.forked, size.continuations, seed)
        figures = agreement.pop("rules").get(subject, {})
        return {**figures, **agreement}

    return _per_task(subject, EXECUTED_TASKS, agreement_on)


def held_to_forks(
    task: str, rules: Sequence[str], count: int, k: int, seed: int = 0, **kwargs: Any
) -> dict[str, Any]:
    """Return the agreement of rules with executed forks of the bundled policy.

    Args:
        task: Where it plays.
        rules: By name.
        count: Responses.
        k: Continuations of each prefix.
        seed: Seed of prompts and sampling.
        kwargs: Arguments of the environment.

    Returns:
        Share of tokens that matter, ceiling and chance, and per rule its correlation, if any token
        had a worth.
    """
    from tokengym.lab.replay.executed import Forks
    from tokengym.lab.replay.replay import replay

    episodes, policy, kwargs = _played(task, count, seed, **kwargs)
    result = replay(episodes, rules, env=task, env_kwargs=kwargs, policy=policy, forks=Forks(k=k))
    assert result.truth is not None
    assert result.truth.executed is not None
    truth = result.truth.executed
    known = {"share": truth.share, "ceiling": truth.ceiling, "chance": truth.chance}
    if not any(np.ptp(worth) > 0 for worth in result.truth.values):
        return {**known, "rules": {}}
    agreed = {rule: agreement(result.credits[rule], result.truth.values) for rule in rules}
    names = ("correlation", "low", "high", "responses")
    figures = {r: {n: getattr(a, n) for n in names} for r, a in agreed.items()}
    return {**known, "rules": figures}


def best_response(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return what a token of the Oracle's best response gains at most by being exchanged."""
    del size, seed, out

    def depart(task: str) -> dict[str, Any]:
        oracle: Any = gym.make(resolve_env(task), reward=None).unwrapped
        best, others = best_play(oracle)
        responses = [best, *(ids for leaving in others.values() for ids in leaving)]
        top = float(oracle.optimal_values().values[()])
        departures = {}
        for name, centre in (("centred", top), ("not centred", 0.0)):
            paid = token_rewards(rule_of(subject), responses, PROMPT, centre)
            gain, response = best_departure(best, others, paid)
            text = oracle.tokenizer.decode(response)
            departures[name] = {"gain": gain, "by": text, "stays": gain <= 0.0}
        return departures

    return _per_task(subject, ("Oracle",), depart)


def gradient(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return a rule's expected gradient under `loo` beside the true one, with and without EOS."""
    del out
    task, reason = _own_task(subject)
    if task is not None:
        return {"refused": reason.format("the Oracle")}
    try:
        return _gradients([(subject, "loo")], size, seed)
    except REFUSALS as error:
        return {"refused": str(error)}


def estimator_gradient(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return an estimator's expected gradient under three rules beside the true one."""
    del out
    return _gradients([(r, subject) for r in ("sparse", "red:delivery=end", "uniform")], size, seed)


def weight_gradient(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return the expected gradient of `rloo` under sparse, weighted, beside the true one."""
    del out
    return _gradients([("sparse", "rloo")], size, seed, weight=subject)


def convergence(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return per task how the rule ends against sparse: paired seeds, equal updates.

    Responses have a fixed length, so that every run spends the same tokens, save on continuations.
    """

    def together(task: str) -> dict[str, Any]:
        trained = _trained(task, ("sparse", subject), size, seed, out / "runs")
        return _ends([trained], "sparse", subject)

    if RewardChoice.of(subject).kind == "encoder":  # one comparison measures both by gold
        return _per_task(subject, (ENCODER_TASK,), together)
    return _learned({"sparse": {}, subject: {}}, subject, size, seed, out, rule=subject)


def estimator_convergence(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return per task how PPO with the estimator ends against gae, both under sparse."""
    groups = GROUP_SIZE if find_estimator(subject).needs_groups else None
    learners: dict[str, dict[str, Any]] = {"gae": {"advantage": "gae"}}
    learners[subject] = {"advantage": subject, "group_size": groups}
    return _learned(learners, subject, size, seed, out)


def weight_convergence(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return per task how PPO with the weight ends against PPO without, both under sparse."""
    learners: dict[str, dict[str, Any]] = {
        "unweighted": {},
        subject: {"agent": "weighted-ppo", "advantage_weight": subject},
    }
    return _learned(learners, subject, size, seed, out)


def _learned(
    learners: Mapping[str, Mapping[str, Any]],
    subject: str,
    size: Size,
    seed: int,
    out: Path,
    rule: str = "sparse",
) -> dict[str, Any]:
    """Return per task how the subject ends against the first of some learners.

    Args:
        learners: Settings of PPO by name; the first is the baseline, whose runs other cards share.
        subject: The one that the card is of.
        size: Seeds, updates and tasks.
        seed: Lowest seed.
        out: Folder of the card.
        rule: Credit rule of the subject; the baseline's is sparse.
    """
    baseline = next(iter(learners))

    def train(task: str) -> dict[str, Any]:
        trainings: list[_Trained] = []
        for name, settings in [*learners.items()][::-1]:  # a refusal costs no baseline
            is_baseline = name == baseline
            folder = out.parent / BASELINES if is_baseline else out / "runs"
            rewards = ("sparse" if is_baseline else rule,)
            trained = _trained(task, rewards, size, seed, folder, **settings)
            curves = [replace(curve, credit=name) for curve in trained.curves]
            trainings.insert(0, replace(trained, curves=curves))
        return _ends(trainings, baseline, subject)

    return _per_task(rule, size.tasks, train)


def trained_by(task: str, size: Size, **learner: Any) -> Any:
    """Return the settings of the runs on a task: the default learner, and the card's size.

    Lambda is the rule's own, and the rate that of all cards.

    Args:
        task: The task.
        size: Updates, rows and tokens.
        learner: Settings that the subject changes.
    """
    return training_settings(
        resolve_env(task),
        steps=size.steps,
        batch_size=size.batch_size,
        max_new_tokens=None if task == "Oracle" else size.tokens,
        fixed_length=True,
        learning_rate=RATE,
        **learner,
    )


@dataclass(frozen=True)
class _Trained:
    """Runs of a comparison."""

    curves: list[Any]
    training: Any
    cpu_s: float
    """CPU seconds of the processes of all runs."""


def _trained(
    task: str, rewards: tuple[str, ...], size: Size, seed: int, folder: Path, **learner: Any
) -> _Trained:
    """Return the runs of a comparison, which resumes where its folder is."""
    training = trained_by(task, size, device=auto_device(), **learner)
    every = max(training.steps // 5, 1)
    config = ComparisonConfig(
        env=resolve_env(task),
        rewards=rewards,
        seeds=size.seeds,
        first_seed=seed,
        training=training,
        evaluation=EvaluationSettings(every=every, samples=0, reference_samples=0),
    )
    settings = {**config.as_dict(), "seeds": None, "tokengym": __version__}  # seeds may be added
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    out = folder / f"{task}-{digest[:8]}"
    compare(config, out, checkpoint_every=0)
    folders = [plan.folder for plan in config.plans(out)]
    made = [read_json(folder / "run.json") for folder in folders if folder is not None]
    curves = read_curves(out / "curves.csv", group_by=())
    return _Trained(curves, training, sum(run.get("cpu_s", 0.0) for run in made))


def cost(subject: str, size: Size, seed: int, out: Path) -> dict[str, Any]:
    """Return what scoring a response costs: texts that models read, and seconds."""
    del out

    def price(task: str) -> dict[str, Any]:
        episodes, policy, kwargs = _played(task, size.responses, seed)
        costs = {}
        for name in dict.fromkeys((subject, "sparse")):
            reward, _ = task_reward(task, {**kwargs, "reward": name}, policy)
            reward.evaluate(episodes[:2])  # loads what is loaded at first use
            with _counted_texts() as texts:
                reward.evaluate(episodes)
            times = []
            for _ in range(TIMINGS):
                started = time.perf_counter()
                reward.evaluate(episodes)
                times.append(time.perf_counter() - started)
            costs[name] = {
                "passes": sum(texts) / len(episodes),
                "seconds": min(times) / len(episodes),
            }
        ratio = costs[subject]["seconds"] / costs["sparse"]["seconds"]
        return {**costs[subject], "times_sparse": ratio}

    return _per_task(subject, _usable(subject, ("MovieReview",)), price)


PARTS: Mapping[str, Part] = {
    "contract": contract,
    "identification": identification,
    "executed": executed,
    "best-response": best_response,
    "gradient": gradient,
    "cost": cost,
    "convergence": convergence,
}
"""Parts of the card of a credit rule."""
ESTIMATOR_PARTS: Mapping[str, Part] = {
    "gradient": estimator_gradient,
    "convergence": estimator_convergence,
}
"""Parts of the card of an advantage estimator."""
WEIGHT_PARTS: Mapping[str, Part] = {
    "gradient": weight_gradient,
    "convergence": weight_convergence,
}
"""Parts of the card of a weight on the advantage."""


def bare(subject: str) -> str:
    """Return a subject without the folders of its file and of the paths among its options.

    Example:
        >>> bare("mine/rules.py:Half"), bare("rto:policy=runs/dpo,beta=1")
        ('rules.py:Half', 'rto:policy=dpo,beta=1')
    """
    return re.sub(r"[^:=,]*/", "", subject)


def unsettled(card: Mapping[str, Any]) -> list[str]:
    """Return the parts that do not say with which settings they were measured: those of old."""
    made = card.get("made", {})
    return [part for part in card["parts"] if made.get(part, {}).get("settings") is None]


def _per_task(
    subject: str, tasks: tuple[str, ...], measure: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """Return a measurement per task; one whose scorer the rule cannot use says why."""
    by_task: dict[str, Any] = {}
    only_task, reason = _own_task(subject)
    for task in tasks:
        if task != (only_task or task):
            by_task[task] = {"refused": reason.format(task)}
            continue
        try:
            by_task[task] = measure(task)
        except REFUSALS as error:
            by_task[task] = {"refused": str(error)}
    return by_task


def _usable(subject: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tasks, or the only one that a rule can be used on."""
    task, _ = _own_task(subject)
    return (task,) if task else tasks


def _own_task(subject: str) -> tuple[str | None, str]:
    """Return the only task that a rule can be used on and why not on others; None for all."""
    choice = RewardChoice.of(subject)
    if choice.kind == "encoder":
        return ENCODER_TASK, NO_TRUTH.format("an encoder", "{}")
    if isinstance(choice.made, Credit) and choice.made.needs_answer:
        return ANSWER_TASK, NO_ANSWER
    return None, ""


def _played(
    task: str, count: int, seed: int, **env_kwargs: Any
) -> tuple[list[Any], Any, dict[str, Any]]:
    """Return responses of the bundled policy, the policy and the environment's arguments."""
    training = training_settings(
        resolve_env(task),
        bundle=env_kwargs.get("bundle"),
        max_new_tokens=env_kwargs.get("max_new_tokens"),
    )
    kwargs: dict[str, Any] = {**env_kwargs, **training.lengths()}
    evaluator = Evaluator(task, kwargs, num_episodes=count, seed=seed)
    policy = evaluator.untrained()
    episodes = list(evaluator(policy).episodes)
    evaluator.close()
    return episodes, policy, kwargs


def _gradients(
    pairs: list[tuple[str, str]], size: Size, seed: int, weight: str | None = None
) -> dict[str, Any]:
    rows = []
    for ends in (True, False):
        small = SmallOracle.make(ends=ends)
        policies = policies_along(small, small.true_scores(), shares=size.shares)
        for share, probs in zip(size.shares, policies, strict=True):
            try:
                weights = None if weight is None else weights_of(small, probs, weight)
            except SettingsError as error:
                return {"refused": str(error)}
            for rule, estimator in pairs:
                chances = response_probs(probs, small.responses)
                rewards, scores = small.rewarded(rule_of(rule), centre=chances)
                check = gradient_of(
                    small, probs, rewards, scores, estimator, weights=weights, seed=seed
                )
                figures = ("cosine", "scale", "relative_error", "noise", "standard_error")
                rows.append(
                    {
                        "eos": ends,
                        "share": share,
                        "rule": bare(rule),
                        "estimator": estimator,
                        **{name: getattr(check, name) for name in figures},
                    }
                )
    return {"rows": rows}


def _ends(trained: Sequence[_Trained], baseline: str, subject: str) -> dict[str, Any]:
    """Return the measures of the subject's runs, and their paired differences."""
    curves = [curve for runs in trained for curve in runs.curves]
    training = trained[-1].training
    price = training.learner.kl_coef
    (group,) = summarize(curves, SummarySettings(baseline=baseline, kl_coef=price))["groups"]
    entry = group["rewards"][subject]
    differences = (entry.get("versus_baseline") or {}).get("differences", {})
    ends: dict[str, Any] = {
        "tokens": max(int(c.values["tokens"][-1]) for c in curves if c.credit == subject),
        "updates": training.steps,
        "runs": entry["runs"],
        "failed": group["failed"],
        "baseline": baseline,
        "cpu_s": round(sum(runs.cpu_s for runs in trained), 1),
    }
    for measure in MEASURES:
        if measure not in group["measures"]:
            continue
        kinds = [kind for kind in ("auc", "final") if kind in entry["figures"][measure]]
        ends[measure] = {kind: entry["figures"][measure][kind] for kind in kinds}
        versus = differences.get(measure, {})
        ends[measure]["versus_baseline"] = {kind: versus.get(kind) for kind in kinds}
    return ends


@contextmanager
def _counted_texts() -> Iterator[list[int]]:
    """Count the texts that models read: rows of each outermost forward, and those continued."""
    from transformers import PreTrainedModel

    texts: list[int] = []
    depth = 0

    def before(module: torch.nn.Module, args: Any) -> None:
        nonlocal depth
        depth += isinstance(module, PreTrainedModel)

    def after(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        nonlocal depth
        if isinstance(module, PreTrainedModel):
            depth -= 1
            if depth == 0:  # a model inside a model reads the same text
                tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
                texts.append(len(tensors[0]) if tensors else 0)

    hooks = torch.nn.modules.module
    handles = [
        hooks.register_module_forward_pre_hook(before),
        hooks.register_module_forward_hook(after, with_kwargs=True, always_call=True),
    ]
    try:
        with noting_reads(texts.append):  # of streams that read without a model's forward
            yield texts
    finally:
        for handle in handles:
            handle.remove()
