"""Faults of a comparison that show before its first run: every environment is made once."""

import inspect
from typing import Any

import gymnasium as gym

from tokengym.agents.policy.backend import backend
from tokengym.agents.policy.settings import check_products
from tokengym.base.device import select_device
from tokengym.base.prompt import say_shared
from tokengym.evaluation.measure.references import check_ranks
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.rewards.credits.base import Credit
from tokengym.rewards.errors import CreditError

SOURCES_OF_WORDS = ("model", "tokenizer", "dataset", "prompts")
"""Options by which texts may have other words than the task's."""


def preflight(comparison: Comparison, *, is_here: bool = True) -> str:
    """Make every environment once, so that what cannot work is said before any work is done.

    Where the runs are done ``is_here``, the devices and libraries of this machine count.

    Returns:
        What all runs are measured by, in words.
    """
    reference = comparison.reference
    for training in (run.training for run in comparison.runs):
        if is_here:
            backend().check_products(training.products)
            check_products(training.products, device=select_device(training.device).type)
        training.declaration.check_settings(training.learner, training.batch_size)
    payers: dict[str, str] = {}
    learned: set[str] = set()
    for reward in reference.rewards:
        kwargs = comparison.runs[0].env_kwargs(train=True, reward=reward)
        rows = min(2, reference.training.batch_size)
        envs = gym.make_vec(reference.env_id, num_envs=rows, **kwargs)
        if (paid := getattr(envs, "reward", None)) is not None:
            _check_methods(paid.credit)
            payers[reward.text] = paid.raw_scorer.title
        if reference.task.dataset is not None:
            task: Any = envs.unwrapped
            learned.update(prompt.text for prompt in task.prompts)
        envs.close()
    evaluator = reference.evaluator()
    check_ranks(evaluator, reference.evaluation.reference_samples or 0)
    if learned:
        measured: Any = evaluator.envs.unwrapped
        say_shared(learned, [prompt.text for prompt in measured.prompts])
    evaluator.close()
    measured_by = evaluator.measured_by
    own_words = (getattr(reference.task, name) for name in SOURCES_OF_WORDS)
    if evaluator.gold is not None and any(source is not None for source in own_words):
        measured_by += "; gold is left out where it does not know the words of the texts"
    first = payers.get(reference.rewards[0].text)
    others = [f"{reward} is paid by {payer}" for reward, payer in payers.items() if payer != first]
    return "; ".join([measured_by, *others])


def _check_methods(rule: Credit) -> None:
    """Refuse a rule whose methods cannot be called: its first batch of episodes would fail."""
    methods = ("spread", "assign")
    own = [name for name in methods if getattr(type(rule), name) is not vars(Credit)[name]]
    name = rule.name or type(rule).__name__
    if not own:
        raise CreditError(
            f"rule {name} pays nothing; define spread(self, {', '.join(_arguments('spread'))})"
        )
    for method in own:
        try:
            signature = inspect.signature(getattr(rule, method))
        except ValueError:  # code in C may have none
            continue
        try:
            signature.bind(*_arguments(method))
        except TypeError:
            wanted, taken = ", ".join(_arguments(method)), ", ".join(signature.parameters)
            raise CreditError(
                f"{method} of rule {name} must take (self, {wanted}), got (self, {taken})"
            ) from None


def _arguments(method: str) -> list[str]:
    """Return what a method of a rule is called with."""
    return [*inspect.signature(getattr(Credit, method)).parameters][1:]  # without self
