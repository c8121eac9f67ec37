"""``tokengym replay``: one set of responses under every credit."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokengym.scripts.commands import takes_settings, task_settings

if TYPE_CHECKING:
    from tokengym.envs import UntrustedCodeError
    from tokengym.evaluation.runs import TaskSettings
    from tokengym.lab.replay.executed import Forks
    from tokengym.lab.replay.replay import Replay


TRAINER = "trainer"
"""Name under which is shown what another trainer paid."""
MOST_LINES = 5
"""Most lines about rows that were left out."""


@takes_settings(task_settings)
def replay(
    episodes: Path | None = None,
    rewards: tuple[str, ...] = (),
    env: str | None = None,
    agent: Path | None = None,
    num_episodes: int = 64,
    seed: int | None = None,
    show: int = 1,
    samples: int = 12,
    out: Path | None = None,
    trust_code: bool = False,
    device: str = "auto",
    truth: str | None = None,
    *,
    task: "TaskSettings",
) -> None:
    """Score one set of responses under every credit, token by token.

    Writes replay.html (the heat maps and figures), credit.csv (every token's numbers) and
    scores.csv (every response's). Where the task knows the true worth of each token, rules are
    compared with it. Scores that differ from those that were stored, or among scorers, are compared
    on the same responses.

    For example:
      tokengym replay --episodes runs/x --rewards sparse abc-signed red scar gradient
      tokengym replay --env MovieReview --num-episodes 64 --seed 0      the bundled policy's
      tokengym replay --agent runs/one/agent --rewards abc abc-signed   those of a trained one
      tokengym replay --env Forks --truth forks:k=32                    held to executed forks
      tokengym replay --episodes x.jsonl --tokenizer policy --rewards v.py:old v.py:new

    Args:
        episodes: A folder that tokengym compare or train wrote, a file of agents.EpisodeLog, or
            what TRL, verl, SkyRL, verifiers, prime-rl, NeMo Gym or OpenEnv wrote (jsonl, parquet),
            whose own token rewards are then shown beside the rules'; without one a policy plays.
        rewards: Rules by name, options after a colon, or scorers, path/to/file.py:function
            (default: the rules that the task's scorer allows).
        env: Environment id, or a task's bare name (default: that of the episodes, or MovieReview).
        agent: Folder of the saved agent that plays, or played (default: the untrained policy).
        num_episodes: Largest number of responses.
        seed: Seed of prompts and sampling, where a policy plays (default: 0).
        show: Number of responses to print.
        samples: Number of responses in replay.html; the figures are of all.
        out: Folder of the results (default: runs/replay- and the task's name).
        trust_code: Run the files of code that the agent and the run name, which your command does
            not. Stored episodes whose environment or scorer is such code are shown without it, by
            the rules that divide the score alone.
        device: Device of the models: "cpu", "cuda" or "cuda:1" (default: a GPU if there is one).
        truth: "forks:k=32" measures the worth of every token: the mean score of 32 continuations
            with it minus that of 32 without, by the policy that plays (default: what the task
            knows).
        task: Settings of the environment.
    """
    import torch

    from tokengym.base import preferred_device, write_text
    from tokengym.envs import UntrustedCodeError
    from tokengym.evaluation.runs import TaskSettings, task_name
    from tokengym.lab.commands.show import show_replay
    from tokengym.lab.replay.executed import TRUTHS
    from tokengym.lab.replay.page import render_replay
    from tokengym.lab.replay.replay import write_credit
    from tokengym.lab.replay.rescoring import write_scores
    from tokengym.scripts.commands import terminal

    torch.set_num_threads(1)
    counts = (("num-episodes", num_episodes, 1), ("show", show, 0), ("samples", samples, 0))
    for name, value, least in counts:
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if episodes is not None and seed is not None:
        raise ValueError(f"--seed {seed} has no effect on --episodes {episodes}; leave one out")
    seed = seed or 0
    with preferred_device(device):
        forks = None if truth is None else TRUTHS.make(truth)
        try:
            result = _replay(
                episodes, rewards, env, agent, num_episodes, seed, task, trust_code, forks
            )
        except UntrustedCodeError as error:
            wants_more = agent is not None or forks is not None or task != TaskSettings()
            if episodes is None or wants_more:
                raise
            result = _replay_stored(episodes, rewards, env, num_episodes, error)
    out = out or Path("runs") / f"replay-{task_name(result.env)}"
    write_text(out / "replay.html", render_replay(result, num_episodes=samples))
    write_credit(out / "credit.csv", result)
    write_scores(out / "scores.csv", result)
    show_replay(terminal(), result, show, out)


def _replay(
    episodes: Path | None,
    rewards: tuple[str, ...],
    env: str | None,
    agent: Path | None,
    num_episodes: int,
    seed: int,
    task: "TaskSettings",
    trust_code: bool,
    forks: "Forks | None",
) -> "Replay":
    """Return the replay of episodes that are read, or played here."""
    from tokengym.evaluation.measure import Evaluator, reading
    from tokengym.evaluation.runs import load_agent
    from tokengym.lab.replay.replay import (
        CONTROL,
        is_foreign,
        load_episodes,
        replay,
        usual_rewards,
    )

    for path, what in ((episodes, "episodes"), (agent, "agent")):
        if path is not None and not path.exists():
            raise ValueError(f"--{what}: there is no {path}; name what tokengym train wrote")
    if is_others := episodes is not None and is_foreign(episodes):
        env, kwargs = others_task(episodes, env, rewards, task=task, trust_code=trust_code)
    else:
        saved = agent.parent if episodes is None and agent is not None else episodes
        below = saved is not None and saved is episodes and saved.is_dir()
        own: Any = {"below": below, "task": task, "trust_code": trust_code, "limit": num_episodes}
        env, kwargs = _own_task(saved, env, rewards, **own)
    policy, paid_by = None, ""
    if agent is not None:
        # Without an environment: none of its random state is wanted.
        policy = load_agent(agent, trust_code=trust_code).policy
    if episodes is None:
        evaluator = Evaluator(env, reading(kwargs, rewards), num_episodes=num_episodes, seed=seed)
        policy = policy or evaluator.untrained(task.model)
        played = list(evaluator(policy).episodes)
        evaluator.close()
        source = f"Played by {agent or 'the untrained policy'}, seed {seed}"
    else:
        most = num_episodes + 1  # one more tells whether there are more
        played, left_out = load_episodes(episodes, env=env, env_kwargs=kwargs, limit=most)
        source = f"Stored in {episodes}"
        say_left_out(left_out)
        if len(played) > num_episodes:
            played = played[:num_episodes]
            say_left_out([f"all after the first {num_episodes}; --num-episodes N takes more"])
            source += f", the first {num_episodes}"
        source += _unread(left_out, is_others)
        unpaid = sum(episode.token_rewards is None for episode in played)
        if is_others and not unpaid:
            paid_by = TRAINER
        elif is_others and unpaid < len(played):
            say_left_out([f"what the trainer paid: {unpaid} of {len(played)} rows have no rewards"])
    names = rewards or (*usual_rewards(env, kwargs), *([CONTROL] if is_others else []))
    result = replay(
        played,
        names,
        env=env,
        env_kwargs=kwargs,
        policy=policy,
        source=source,
        forks=forks,
        paid_by=paid_by,
    )
    say_left_out(
        f"the credit of response {row}, to which a scorer gave no score"
        for row in sorted({*range(len(played))} - {*result.numbers})
    )
    return result


def _unread(lines: Sequence[str], is_others: bool) -> str:
    """Return what `load_episodes` left out, to follow the source's name."""
    if is_others and lines:
        return f"; {len(lines)} rows could not be read"
    return "".join(f"; left out: {line}" for line in lines)


def _replay_stored(
    episodes: Path,
    rewards: tuple[str, ...],
    env: str | None,
    num_episodes: int,
    error: "UntrustedCodeError",
) -> "Replay":
    """Return the replay of a run's episodes whose environment or scorer is code that is not run.

    Raises:
        UntrustedCodeError: if a rule needs that code.
    """
    from tokengym.evaluation.runs import stored_settings
    from tokengym.lab.replay.replay import is_by_score, replay_stored

    if more := ", ".join(rule for rule in rewards if not is_by_score(rule)):
        raise type(error)(f"{more} cannot be paid by the scores that are stored: {error}")
    found = stored_settings(episodes, below=episodes.is_dir())
    assert found is not None  # it is what names the code
    env = env or str(found[1]["env"])
    return replay_stored(episodes, rewards, env=env, limit=num_episodes)


def say_left_out(lines: Iterable[str]) -> None:
    """Print the first few lines about rows that were left out."""
    from tokengym.scripts.commands import say, terminal

    lines = [*lines]
    for line in lines[:MOST_LINES]:
        say(terminal(), f"left out: {line}")
    if (left := len(lines) - MOST_LINES) > 0:
        say(terminal(), f"left out: {left} more rows")


def _own_task(
    saved: Path | None,
    env: str | None,
    rewards: Sequence[str],
    *,
    below: bool,
    task: "TaskSettings",
    trust_code: bool,
    limit: int,
) -> tuple[str, dict[str, Any]]:
    """Return environment and arguments of what a run has left.

    Where all rewards are scorers, the run's own scorer is not called, and need not be trusted.
    Without a run its prompts are those of the first ``limit`` episodes.
    """
    from tokengym.envs import UntrustedCodeError
    from tokengym.evaluation.runs import TaskSettings, known_task, stored_settings
    from tokengym.lab.replay.replay import stored_prompts

    how: Any = {"below": below, "trust_code": trust_code}
    is_named = env is not None
    others_score = task.scorer is None and _are_scorers(rewards)
    try:
        env, kwargs = known_task(saved, env, task=task, **how)
    except UntrustedCodeError:
        if not others_score:
            raise
        env, kwargs = known_task(saved, env, task=replace(task, scorer=rewards[0]), **how)
    if others_score:
        kwargs.pop("scorer", None)
        names_task = task != TaskSettings() or is_named
        if saved is not None and not names_task and stored_settings(saved, below=below) is None:
            kwargs["prompts"] = stored_prompts(saved, limit=limit)
    return env, kwargs


def _are_scorers(rewards: Sequence[str]) -> bool:
    """Return whether there are rewards, and all score the texts themselves."""
    from tokengym.rewards import RewardChoice

    return bool(rewards) and all(RewardChoice.of(one).kind is None for one in rewards)


def others_task(
    episodes: Path,
    env: str | None,
    rewards: Sequence[str] = (),
    *,
    task: "TaskSettings",
    trust_code: bool,
) -> tuple[str, dict[str, Any]]:
    """Return the id and arguments of the environment for another trainer's texts.

    Its files name no task of ours. Beside a tokenizer or model of the caller's its prompts are the
    environment's, with the columns that a scoring function may name. With a scorer of the caller's
    own besides, or with rewards that are scorers, there is nothing left of a task, and none is
    named.
    """
    from tokengym.evaluation.runs import known_task
    from tokengym.lab.traces.reading import read_prompts

    if env is None and (task.tokenizer or task.model) is not None:
        if task.scorer is not None or _are_scorers(rewards):
            env = "TokenGeneration"
    env, kwargs = known_task(None, env, task=task, trust_code=trust_code)
    if {"tokenizer", "model"} & kwargs.keys() and not {"dataset", "prompts"} & kwargs.keys():
        kwargs["prompts"] = read_prompts(episodes)
    return env, kwargs
