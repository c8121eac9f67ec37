"""Stock algorithms of Stable-Baselines3 and sb3-contrib as learners of a run, by tokens."""

import inspect
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from tokengym.agents.contract import TrainingRun, Update
from tokengym.agents.sb3.hindsight import (
    HindsightReplayBuffer,
    HindsightRolloutBuffer,
    TokenFeatures,
)
from tokengym.agents.sb3.vec_env import as_vec_env
from tokengym.agents.stepwise import hand_over, stepwise
from tokengym.base.errors import SettingsError

STOCK = ("stable_baselines3.", "sb3_contrib.")


def updates(run: TrainingRun, *, name: str, made: type[BaseAlgorithm]) -> Iterator[Update]:
    """Train an algorithm, and yield after each ``batch_size * max_new_tokens`` tokens.

    It has its class's own settings, but for what texts need: a network that embeds tokens, buffers
    that pay each token what the credit rule gives it, and rollouts of whole episodes. Rewards are
    raw scores: what ends in one step is too little to centre by.

    Args:
        run: The run.
        name: What the user wrote.
        made: The class.

    Raises:
        SettingsError: if it cannot be made for texts.
    """
    with closing(stepwise(lambda: _train(run, name, made))) as steps:
        yield from steps


def check_reads_texts(name: str, made: type[BaseAlgorithm]) -> None:
    """Refuse an algorithm whose policies read no dictionaries of arrays.

    Raises:
        SettingsError: naming the policies that it has.
    """
    if "policy" in inspect.signature(made).parameters and _policy_of(made) is None:
        raise SettingsError(
            f"agent {name} cannot read texts: {made.__name__} has no policy for dictionaries, but "
            f"{', '.join(made.policy_aliases)}; name one with MultiInputPolicy, such as A2C or DQN"
        )


def _policy_of(made: type[BaseAlgorithm]) -> str | None:
    return next((alias for alias in made.policy_aliases if alias.startswith("MultiInput")), None)


def _train(run: TrainingRun, name: str, made: type[BaseAlgorithm]) -> None:
    training = run.training
    per_update = training.batch_size * training.max_new_tokens
    budget = training.steps * per_update if training.tokens is None else training.tokens
    envs = as_vec_env(run.make_envs(training.batch_size))
    agent = _made(run, name, made, envs)
    hand_over(Update(step=0, tokens=0, agent=agent))
    try:
        agent.learn(budget, callback=_HandOver(per_update))
        last = training.steps if training.tokens is None else _step(agent, per_update)
        hand_over(Update(step=last, tokens=agent.num_timesteps, agent=agent))
    finally:
        envs.close()


def _made(run: TrainingRun, name: str, made: type[BaseAlgorithm], envs: Any) -> BaseAlgorithm:
    """Return the algorithm, with what texts need wherever its class leaves that to its caller."""
    given, rows = inspect.signature(made).parameters, run.training.batch_size
    stock = next(base for base in made.__mro__ if base.__module__.startswith(STOCK))
    usual = inspect.signature(stock).parameters
    per_update = rows * run.training.max_new_tokens
    wanted: dict[str, Any] = {
        "policy": _policy_of(made),
        "env": envs,
        "seed": run.seed,
        "device": run.training.device,
        "policy_kwargs": {"features_extractor_class": TokenFeatures},
        "rollout_buffer_class": HindsightRolloutBuffer,
        "replay_buffer_class": HindsightReplayBuffer,
        "buffer_size": max(50_000, 8 * per_update),
        "learning_starts": per_update,  # every row has ended an episode by then
    }
    if issubclass(made, OnPolicyAlgorithm):
        wanted["n_steps"] = run.training.max_new_tokens
    settings = {
        key: value
        for key, value in wanted.items()
        if key in given and given[key].default == usual[key].default
    }
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in given.values()):
        settings["seed"] = run.seed
    try:
        return made(**settings)
    except (AssertionError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise SettingsError(
            f"agent {name} cannot be made with {', '.join(settings)}: {type(error).__name__}: "
            f"{line}; it must choose among discrete actions and read dictionaries"
        ) from error


def _step(agent: BaseAlgorithm, per_update: int) -> int:
    """Return the number of the update that ends at the tokens so far, rounded up."""
    return -(-agent.num_timesteps // per_update)


class _HandOver(BaseCallback):
    """Hands the training over between two rollouts, whenever an update's tokens were played."""

    def __init__(self, per_update: int) -> None:
        super().__init__()
        self.per_update, self.due = per_update, per_update

    def _on_rollout_start(self) -> None:
        tokens = self.model.num_timesteps
        if tokens >= self.due:
            self.due = tokens + self.per_update
            hand_over(Update(step=tokens // self.per_update, tokens=tokens, agent=self.model))

    def _on_step(self) -> bool:
        return True
