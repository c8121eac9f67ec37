"""Runs of learners that play batches of episodes: what each update of a run yields."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tokengym.agents.algorithm import NONE_LEFT, EpisodicAlgorithm
from tokengym.agents.contract import TrainingRun, Update, make_own_agent
from tokengym.agents.errors import CheckpointError
from tokengym.agents.processes import launched
from tokengym.agents.rollouts.playing import collect
from tokengym.base.errors import SettingsError
from tokengym.base.objects import own
from tokengym.base.saved_code import code_paths

logger = logging.getLogger(__name__)


def updates(run: TrainingRun, algorithm: type[EpisodicAlgorithm]) -> Iterator[Update]:
    """Train an agent, or continue from the run's checkpoint to the same numbers.

    Args:
        run: The run, which ends the training.
        algorithm: Class of the agent.

    Yields:
        The training before its first update here, and after each.
    """
    training, settings = run.training, vars(run.settings)
    # A checkpoint's word for code of the user's counts only where the run's settings say it too.
    code = {name: value for name, value in settings.items() if code_paths([value])}
    resumed = run.resume(
        lambda folder: algorithm.load(folder, env=_make_envs(run), device=training.device, **code)
    )
    agent = resumed
    if agent is None:
        agent = algorithm(
            "CausalLMPolicy",
            _make_envs(run),
            **settings,
            policy_kwargs=run.policy_kwargs(),
            seed=run.seed,
            device=training.device,
        )
    elif (products := agent.policy.language_model.products) != training.products:
        raise CheckpointError(
            f"the unfinished training was begun with products={products!r}, got "
            f"{training.products!r}; name another folder"
        )
    count = agent.num_timesteps
    first = Update(step=run.updates, tokens=count, agent=agent, settled=agent.settled)
    yield first
    agent.remaining = training.remaining(first.step, agent.num_timesteps)
    for update in agent.updates(reset_num_timesteps=resumed is None):
        step = first.step + update.step
        yield replace(update, step=step)
        agent.remaining = training.remaining(step, agent.num_timesteps)


def train_own_agent(run: TrainingRun, name: str, made: Any) -> Iterator[Update]:
    """Train an agent of the user's: it plays a batch of episodes and learns from them, and again.

    The agent or its class has ``predict`` and ``learn``, which takes the episodes with a score.

    Raises:
        ValueError: if none of a batch has one.
    """
    if launched() > 1:
        raise SettingsError(f"agent {name} trains in one process; start it without a launcher")
    envs = _make_envs(run)
    agent = make_own_agent(name, own(made), envs, seed=run.seed)
    step = tokens = 0
    yield Update(step=0, tokens=0, agent=agent)
    try:
        while True:
            seed = None if step else run.seed
            played = collect(agent, envs, run.training.batch_size, seed=seed)
            episodes = [episode for episode in played if episode.score is not None]
            if not episodes:
                raise ValueError(f"none of {len(played)} episodes has a score, {NONE_LEFT}")
            agent.learn(episodes)
            step += 1
            tokens += sum(episode.num_written for episode in played)
            scores = [e.raw_score for e in episodes if e.raw_score is not None]
            figures = {"rollout/score": sum(scores) / len(scores)}
            if missing := len(played) - len(episodes):
                figures["rollout/unscored"] = missing
            yield Update(step=step, tokens=tokens, agent=agent, figures=figures)
    finally:
        envs.close()


def play_own_agent(run: TrainingRun, name: str, made: Any) -> Iterator[Update]:
    """Yield an agent with ``predict`` that does not learn, for both ends of its curve."""
    logger.warning(
        "agent %s is frozen: it is played as it is, and its line moves by what is drawn alone; "
        "one that learns is a class with learn(episodes), or a class of Stable-Baselines3",
        name,
    )
    envs = run.make_envs(1, normalize=False)
    agent = make_own_agent(name, made, envs, seed=run.seed)
    yield Update(step=0, tokens=0, agent=agent)
    yield Update(step=run.training.steps, tokens=run.training.tokens or 0, agent=agent)
    envs.close()


def _make_envs(run: TrainingRun) -> Any:
    rows = run.training.batch_size // launched()
    return run.make_envs(rows, normalize=True)
