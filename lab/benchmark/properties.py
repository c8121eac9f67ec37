"""Properties of a subject that no training is needed for, as plain data: task -> figures."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from tokengym.agents import RandomAgent, bind_policy, noting_reads
from tokengym.base import markdown
from tokengym.envs import SettingsError, TokenizerError
from tokengym.evaluation.measure import Evaluator, resolve_env, task_reward
from tokengym.evaluation.report import number
from tokengym.evaluation.runs import training_settings
from tokengym.lab.audit import (
    Audit,
    AuditError,
    check_estimator,
    registered_loss,
    registered_weights,
)
from tokengym.lab.benchmark.subject import Kind, bare, without_kind
from tokengym.lab.envs.oracle.env import PROMPT
from tokengym.lab.gradients.best_response import best_departure, best_play, token_rewards
from tokengym.lab.gradients.exact import response_probs
from tokengym.lab.gradients.oracle import (
    SmallOracle,
    gradient_of,
    policies_along,
    rule_of,
)
from tokengym.lab.replay.agreement import agreement
from tokengym.lab.tables import markdown_table
from tokengym.rewards import RewardChoice, RewardError, Rule, check_reward

REFUSALS = (RewardError, TokenizerError)
"""Why a rule cannot be measured on a task, as by a model of its own that reads other tokens."""
TRUTH_TASKS = ("MovieReview", "Oracle")
"""Tasks that know the true worth of each token."""
FORKED_TASK = "Forks"
"""Task on which it is measured, where the score is far from a sum of its tokens."""
ENCODER_TASK = "QuestionAnswer"
"""Task of a rule that scores with an encoder, and so needs a reference or a question."""
NO_TRUTH = "the rule scores with {}, and the truth of {} is that of another score"
ANSWER_TASK = "Forks"
"""Task of a rule that asks for the prompt's reference answer."""
NO_ANSWER = "the rule asks for the reference answer, and the prompts of {} have none"
TIMINGS = 5
"""Timings of which the shortest counts: a busy machine only adds to it."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Amounts that properties are measured from."""

    responses: int = 64
    """Responses whose credit is held against the truth, and that are timed."""
    shares: tuple[float, ...] = (0.0, 0.5, 0.9)
    """Policies of the gradient check; see `policies_along`."""
    forked: int = 32
    """Responses whose tokens' worth is executed."""
    continuations: int = 32
    """Continuations of each of their prefixes."""
    seed: int = 0
    """Seed of prompts and sampling."""


QUICK = Amounts(responses=8, shares=(0.0,), forked=8, continuations=8)
"""Amounts that take seconds."""
Part = Callable[[str, Amounts], dict[str, Any]]
"""(subject, amounts) -> plain data."""


def contract(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return per task whether `check_reward` passes, or what it says."""

    def check(task: str) -> dict[str, Any]:
        env = gym.make(resolve_env(task), reward=subject)
        bind_policy(env, RandomAgent(env, seed=amounts.seed))  # for rules that continue responses
        try:
            check_reward(env, seed=amounts.seed)
        except RewardError as error:
            return {"passed": False, "message": str(error)}
        return {"passed": True}

    return _per_task(subject, _usable(subject, TRUTH_TASKS), check)


def identification(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return per task the agreement of the rule's credit with the true worth of each token."""
    from tokengym.lab.replay.replay import replay

    def agreement_on(task: str) -> dict[str, Any]:
        episodes, policy, kwargs = _played(task, amounts.responses, amounts.seed)
        result = replay(episodes, [subject], env=task, env_kwargs=kwargs, policy=policy)
        return asdict(result.agreements[subject])

    return _per_task(subject, TRUTH_TASKS, agreement_on)


def executed(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return the agreement of the rule's credit with executed forks of the policy."""

    def agreement_on(task: str) -> dict[str, Any]:
        held = held_to_forks(task, [subject], amounts.forked, amounts.continuations, amounts.seed)
        return {**held.pop("rules").get(subject, {}), **held}

    return _per_task(subject, (FORKED_TASK,), agreement_on)


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


def best_response(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return what a token of the Oracle's best response gains at most by being exchanged."""
    del amounts

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


def gradient(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return a rule's expected gradient under `loo` beside the true one, with and without EOS."""
    task, reason = _own_task(subject)
    if task is not None:
        return {"refused": reason.format("the Oracle")}
    try:
        return _gradients([(subject, "loo")], amounts)
    except REFUSALS as error:
        return {"refused": str(error)}


def estimator_gradient(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return an estimator's expected gradient under three rules beside the true one."""
    return _gradients([(r, subject) for r in ("sparse", "red", "uniform")], amounts)


def weight_verdict(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return whether advantages times a weight go along the gradients of random small trees."""
    return _audited(lambda: check_estimator(registered_weights(subject)))


def loss_verdict(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return whether a policy loss descends along the gradients of random small trees."""
    return _audited(lambda: check_estimator(registered_loss(subject), place="loss", name=subject))


def _audited(check: Callable[[], Audit]) -> dict[str, Any]:
    """Return the verdict of an audit as a table, or why there is none."""
    try:
        audit = check()
    except (AuditError, SettingsError) as error:
        return {"refused": str(error)}
    return {"rows": [{"verdict": audit.verdict, "largest fault": audit.size, "says": audit.says}]}


def weight_gradient(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return the expected gradient of `rloo` under sparse, weighted, beside the true one."""
    return _gradients([("sparse", "rloo")], amounts, weight=subject)


def cost(subject: str, amounts: Amounts) -> dict[str, Any]:
    """Return what scoring a response costs: texts that models read, and seconds."""

    def price(task: str) -> dict[str, Any]:
        episodes, policy, kwargs = _played(task, amounts.responses, amounts.seed)
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


PARTS: Mapping[Kind, Mapping[str, Part]] = {
    "rule": {
        "contract": contract,
        "identification": identification,
        "executed": executed,
        "best-response": best_response,
        "gradient": gradient,
        "cost": cost,
    },
    "estimator": {"gradient": estimator_gradient},
    "weight": {"audit": weight_verdict, "gradient": weight_gradient},
    "loss": {"audit": loss_verdict},
    "function": {},
}
"""What is measured of each kind of subject."""


def measured_parts(
    subject: str, kind: Kind, wanted: Sequence[str], amounts: Amounts
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part's name and figures.

    Args:
        subject: The subject.
        kind: What it is.
        wanted: Parts; none is all that the kind has.
        amounts: How much is played.
    """
    parts = PARTS[kind]
    for part in wanted:
        if part not in parts:
            raise ValueError(f"unknown part {part!r} of {kind}s; known: {', '.join(parts)}")
    for name, measure in parts.items():
        if name in (wanted or parts):
            yield name, measure(without_kind(subject), amounts)


def broken(contract: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what the checker says, by task on which the contract is broken."""
    return {
        task: str(checked["message"])
        for task, checked in contract.items()
        if checked.get("passed") is False
    }


def table(figures: Mapping[str, Any]) -> str:
    """Return a part's figures as a Markdown table."""
    if "refused" in figures:
        return f"Refused: {markdown(figures['refused'])}"
    if "rows" in figures:
        rows = [[_cell(value) for value in row.values()] for row in figures["rows"]]
        return markdown_table([*figures["rows"][0]], rows)
    lines = [
        [task, name, _cell(value)]
        for task, of_task in figures.items()
        for name, value in _flat(of_task).items()
    ]
    return markdown_table(["task", "figure", "value"], lines)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}: ")
        else:
            flat[prefix + name] = value
    return flat


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else markdown(str(value))


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
    if isinstance(choice.made, Rule) and "references" in choice.made.reads:
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
    pairs: list[tuple[str, str]], amounts: Amounts, weight: str | None = None
) -> dict[str, Any]:
    rows = []
    for ends in (True, False):
        small = SmallOracle.make(ends=ends)
        policies = policies_along(small, small.true_scores(), shares=amounts.shares)
        for share, probs in zip(amounts.shares, policies, strict=True):
            for rule, estimator in pairs:
                chances = response_probs(probs, small.responses)
                rewards, scores = small.rewarded(rule_of(rule), centre=chances, probs=probs)
                try:
                    check = gradient_of(
                        small, probs, rewards, scores, estimator, weights=weight, seed=amounts.seed
                    )
                except SettingsError as error:
                    return {"refused": str(error)}
                figures = ("cosine", "scale", "relative_error", "noise", "standard_error")
                rows.append(
                    {
                        "eos": ends,
                        "share": share,
                        "rule": bare(rule),
                        "estimator": bare(estimator),
                        **{name: getattr(check, name) for name in figures},
                    }
                )
    return {"rows": rows}


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
