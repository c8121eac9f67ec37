"""The one loop that plays agents through environments: rounds of one episode per row.

A round begins with a reset of all rows and ends when each has finished one episode. Rows that end
early wait, so that every prompt has an equal chance whatever the length of its response; taking
episodes as they finish would prefer short ones.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokengym.agents.policy.sampler import Observation, SampledTokens, Sampler
from tokengym.agents.policy.sampling import Draws
from tokengym.agents.policy.sequences import ActionMasks, MaskRecorder, Sequences, sent
from tokengym.agents.rollouts.rounds import (
    Environments,
    Options,
    RoundEnvironment,
    StepResult,
    as_rounds,
)
from tokengym.agents.sb3.entropy import entropy_of
from tokengym.base.errors import ActionError, SettingsError
from tokengym.envs import Episode
from tokengym.rewards import RewardError
from tokengym.rewards.credits.names import CARRIED, SUPPLIERS


class Agent(Protocol):
    """Anything that plays: ``predict(observation, state, episode_start, deterministic)``."""

    @property
    def predict(self) -> Callable[..., Any]:
        """Method that chooses tokens for a batch of observations."""


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """One episode per row, as it was played; 0 past a response's end."""

    episodes: tuple[Episode, ...]
    """(batch,), in the order of the rows."""
    truncated: NDArray[np.bool_]
    """(batch,): ended by a budget, not by the text."""
    action_masks: ActionMasks | None
    """Tokens that could be sampled at each step: those allowed by the environment's action mask,
    among the agent's own top-k or top-p; None if every token could."""
    log_probs: Tensor | None
    """(batch, time), nats, as sampled."""
    values: Tensor | None
    """(batch, time), reward units, as sampled."""
    entropy: Tensor | None
    """(batch, time), nats, as sampled."""
    env_seconds: float = 0.0
    """Time that the environment took, scoring included."""

    def scored(self, *, group_size: int | None = None) -> "RolloutBatch":
        """Return the round without episodes that have no score: here they are left out for good.

        Args:
            group_size: Responses to each prompt, which are left out together: a baseline of fewer
                would be another. None has no groups.
        """
        kept = np.array([episode.score is not None for episode in self.episodes])
        if group_size is not None:
            kept = kept.reshape(-1, group_size).all(1).repeat(group_size)
        return self if kept.all() else self.select(np.flatnonzero(kept))

    def select(self, rows: NDArray[np.integer]) -> "RolloutBatch":
        """Return (kept,) rows, with no more padding than they need."""
        episodes = tuple(self.episodes[row] for row in rows.tolist())
        time = max((len(episode.response_ids) for episode in episodes), default=0)
        kept: dict[str, Any] = {"episodes": episodes, "truncated": self.truncated[rows]}
        for name in TENSORS:
            if (figures := getattr(self, name)) is not None:
                kept[name] = figures[sent(torch.from_numpy(rows), figures.device), :time]
        if self.action_masks is not None:
            kept["action_masks"] = self.action_masks.select(torch.from_numpy(rows))
        return replace(self, **kept)

    def sequences(self, device: torch.device | str) -> Sequences:
        """Return prompts and responses as one batch of tensors on a device."""
        return Sequences.from_ids(
            [episode.prompt_ids for episode in self.episodes],
            [episode.response_ids for episode in self.episodes],
            device,
            written=[episode.written for episode in self.episodes],
        )


TENSORS = ("log_probs", "values", "entropy")
"""Fields of `RolloutBatch` of shape (batch, time)."""
OnStep = Callable[[NDArray[np.integer], SampledTokens, StepResult], bool]
"""Called after each step with (active rows, choice, result); False abandons the round."""


def collect(
    agent: Agent,
    envs: Environments,
    num_episodes: int,
    *,
    seed: int | None = None,
    deterministic: bool = False,
) -> list[Episode]:
    """Play episodes and return them, with ``log_probs`` where the agent knows them.

    Args:
        agent: Anything with ``predict(observation, state, episode_start, deterministic)`` over
            batches, and ``action_masks`` if it takes them; this package's agents play
            faster, with a cache.
        envs: A Gymnasium ``VectorEnv`` or ``Env``, or a Stable-Baselines3 ``VecEnv``.
        num_episodes: How many; rounds are played to their end, and surplus episodes are dropped.
        seed: Seeds the environments' first reset, and our policies' sampling, which then leaves
            the training's random state alone.
        deterministic: The likeliest token instead of a sampled one.

    Returns:
        Episodes round by round, in the order of the rows.

    Raises:
        ValueError: if ``num_episodes`` is negative.
        TypeError: if the agent cannot be played or ``envs`` is no environment.
        RewardError: if the scorer fails; its ``episodes`` are all that were finished.
    """
    if num_episodes < 0:
        raise ValueError(f"num_episodes must be >= 0, got {num_episodes}; pass how many to play")
    batches = play_rounds(agent, envs, num_episodes, seed=seed, deterministic=deterministic)
    return [episode for played in batches for episode in played.episodes][:num_episodes]


def play_rounds(
    agent: Agent,
    envs: Environments,
    num_episodes: int,
    *,
    seed: int | None = None,
    deterministic: bool = False,
    with_entropy: bool = False,
    prompt_ids: Sequence[int] | None = None,
) -> Iterator[RolloutBatch]:
    """Yield the rounds of `collect`, surplus episodes included.

    ``with_entropy`` asks stock agents for their distribution too, which costs a pass for each step.
    ``prompt_ids`` are the prompts in order, begun again where there are fewer than episodes; None
    leaves them to the environment.
    """
    rounds = as_rounds(envs)
    sampler = as_sampler(agent, seed=seed)
    if isinstance(sampler, PredictingSampler):
        sampler.with_entropy = with_entropy
    episodes: list[Episode] = []
    while len(episodes) < num_episodes:
        options: Options | None = None
        if prompt_ids is not None:
            rows = range(len(episodes), len(episodes) + rounds.num_envs)
            options = {"prompt_ids": [prompt_ids[row % len(prompt_ids)] for row in rows]}
        try:
            played = play_round(
                sampler,
                rounds,
                seed=None if episodes else seed,
                options=options,
                deterministic=deterministic,
            )
        except RewardError as error:
            error.keep(episodes)
            raise
        assert played is not None  # only on_step abandons rounds
        episodes += played.episodes
        yield played


def play_round(
    sampler: Sampler,
    envs: RoundEnvironment,
    *,
    seed: int | None = None,
    options: Options | None = None,
    deterministic: bool = False,
    on_step: OnStep | None = None,
    keep_round: Callable[[bool], bool] | None = None,
) -> RolloutBatch | None:
    """Reset every row and play each to the end of one episode.

    Args:
        sampler: Chooses the tokens; see `as_sampler`.
        envs: The environment; see `tokengym.agents.rollouts.rounds.as_rounds`.
        seed: Seed of the reset; None continues with the environment's random state.
        options: Options of the reset, such as ``{"prompt_ids": [...]}``, one per row, or
            ``{"group_size": n}``.
        deterministic: The likeliest token instead of a sampled one.
        on_step: Called after each step; where it returns False the round is abandoned.
        keep_round: Called once with whether the round was played to its end; where it returns
            False the round is abandoned. For processes that play together.

    Returns:
        The round, or None if it was abandoned.
    """
    recorder = RoundRecorder(envs.num_envs)
    active, is_playing = np.arange(envs.num_envs), True
    started = perf_counter()
    try:
        observation, masks = envs.reset(seed, options)
        recorder.env_seconds += perf_counter() - started
        sampler.begin(observation)
        if not envs.reward.is_plain:
            recorder.beginning = {name: np.array(array) for name, array in observation.items()}
        while is_playing and len(active):
            choice = sampler.act(active, observation, masks, deterministic=deterministic)
            recorder.check_first(choice, envs)
            # (num_envs,): rows that have ended are stepped too, with a token that says nothing.
            actions = np.full(envs.num_envs, envs.pad_action, dtype=np.int64)
            actions[active] = choice.actions
            started = perf_counter()
            result = envs.step(actions)
            recorder.env_seconds += perf_counter() - started
            recorder.steps.append((active, choice))
            if envs.reward.reads_step_rewards:
                recorder.paid.append(np.asarray(result.rewards, dtype=np.float64)[active])
            if choice.allowed_tokens is None and masks is not None:
                is_one = masks.strides[0] == 0  # broadcast over the rows: not copied
                recorder.masks.add(masks[: len(active)] if is_one else masks[active])
            # Rows that have ended wait for the others: the next step is of those that write on.
            is_over = (result.terminated | result.truncated)[active]  # (active,)
            for row in active[is_over].tolist():
                if row not in result.episodes:
                    raise SettingsError(
                        f"a layer around the environment cut row {row} after {len(recorder.steps)} "
                        "tokens, before its score was paid; lower max_new_tokens instead"
                    )
                recorder.episodes[row] = result.episodes[row]
                recorder.truncated[row] = result.truncated[row]
            is_playing = on_step is None or on_step(active, choice, result)
            active = active[~is_over]
            observation, masks = result.observation, result.action_masks
        if not (is_playing if keep_round is None else keep_round(is_playing)):
            return None
        recorder.check_tokens()
        played = recorder.finish()
        # All episodes at once: one batch for the scorer, and its statistics see the whole round.
        started = perf_counter()
        envs.reward.evaluate(recorder.episodes)
        if envs.reward.reads_step_rewards:
            envs.reward.take_paid_rewards(recorder.episodes, recorder.paid_by_row())
        recorder.env_seconds += perf_counter() - started
    except RewardError as error:
        error.keep(recorder.ended())
        raise
    finally:
        envs.finish()
    return replace(
        played,
        episodes=tuple(recorder.episodes[row] for row in range(envs.num_envs)),
        env_seconds=recorder.env_seconds,
    )


class RoundRecorder:
    """Steps of a round, which it arranges as (batch, time) arrays at its end."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.steps: list[tuple[NDArray[np.integer], SampledTokens]] = []
        """Rows that chose a token at each step, and their choice."""
        self.paid: list[NDArray[np.floating]] = []
        """What the outermost layer paid these rows at each step, where that is listened to."""
        self.beginning: Observation | None = None
        """Observations of the reset, where layers around the environment may have changed them."""
        self.masks = MaskRecorder()
        self.episodes: dict[int, Episode] = {}
        """Those that have ended by row, in the order in which they ended."""
        self.truncated = np.zeros(num_envs, dtype=bool)
        self.env_seconds = 0.0
        """Time that the environment took."""

    def paid_by_row(self) -> dict[int, NDArray[np.floating]]:
        """Return what each row that has ended was paid at its steps, (steps,)."""
        rows = np.concatenate([rows for rows, _ in self.steps])
        paid = np.concatenate(self.paid)
        return {row: paid[rows == row] for row in self.episodes}

    def check_first(self, choice: SampledTokens, envs: RoundEnvironment) -> None:
        """Refuse, before a token is written, a rule that reads what the agent does not say."""
        lacks = [name for name in envs.reward.carried if getattr(choice, name) is None]
        if lacks and not self.steps:
            assert envs.reward.traits is not None
            raise SettingsError(
                f"credit {envs.reward.traits.credit!r} reads {lacks[0]!r} of the policy, which "
                f"this agent does not give; it comes from {SUPPLIERS['policy']}"
            )

    def check_tokens(self) -> None:
        """Refuse a round in which a layer changed the tokens that the policy read or chose.

        An agent of unknown log-probs may read what it likes.
        """
        if self.beginning is not None and self.steps[0][1].log_probs is not None:
            self._compare_tokens(self.beginning)

    def _compare_tokens(self, beginning: Observation) -> None:
        """Refuse other tokens than those that were read, at the beginning, or chosen."""
        rows = np.concatenate([rows for rows, _ in self.steps])
        actions = np.concatenate([choice.actions for _, choice in self.steps])
        for row, episode in self.episodes.items():
            wrote = np.array(episode.response_ids)
            if episode.written is not None:
                wrote = wrote[episode.written > 0]
            choices = actions[rows == row]
            prompt = beginning["input_ids"][row][beginning["attention_mask"][row] > 0]
            text = np.array((*episode.prompt_ids, *episode.response_ids))[: len(prompt)]
            what = None
            if len(wrote) < len(choices) or not np.array_equal(wrote[-len(choices) :], choices):
                what = "wrote other tokens than the policy chose"
            elif len(prompt) < len(episode.prompt_ids) or not np.array_equal(prompt, text):
                what = "showed the policy another prompt than it answered"
            if what is not None:
                raise SettingsError(
                    f"a layer around the environment {what} (row {row}); leave layers that change "
                    "observations or actions out"
                )

    def ended(self) -> Sequence[Episode]:
        """Return the episodes that have ended so far, in the order of the rows."""
        return self.finish().episodes if self.episodes else ()

    def finish(self) -> RolloutBatch:
        """Return the round; one that was not played to its end lacks episodes."""
        # Choices come step after step, (choices,), one for each token that a row wrote. First it is
        # found where each of them goes in (batch, time).
        rows = np.concatenate([rows for rows, _ in self.steps])
        times = np.zeros_like(rows)  # of rows that have not ended nothing is read
        for row, episode in self.episodes.items():
            # A choice wrote one token, and in a conversation replies stand between them. A row's
            # choices wrote its last tokens: a beginning that it was given comes before.
            mine, written = np.flatnonzero(rows == row), episode.written
            tokens = (
                np.arange(len(episode.response_ids)) if written is None else written.nonzero()[0]
            )
            times[mine] = tokens[-len(mine) :]
        time = max(len(episode.response_ids) for episode in self.episodes.values())
        places = torch.from_numpy(rows), torch.from_numpy(times)

        def placed(figures: Tensor) -> Tensor:
            """Return figures, (choices,), at their places of (batch, time)."""
            # One scatter in place of one write per step: a GPU is not waited for.
            at_places = figures.new_zeros((self.num_envs, time))
            at_places[places] = figures
            return at_places

        choices = [choice for _, choice in self.steps]
        columns = {name: [getattr(choice, name) for choice in choices] for name in TENSORS}
        tensors = {k: None if v[0] is None else placed(torch.cat(v)) for k, v in columns.items()}
        for name in CARRIED:
            if (figures := tensors[name]) is not None:
                of_rows = figures.cpu().numpy()
                for row, episode in self.episodes.items():
                    own: Any = {name: of_rows[row, : len(episode.response_ids)]}
                    self.episodes[row] = replace(episode, **own)
        if choices[0].allowed_tokens is None:
            device = "cpu" if choices[0].log_probs is None else choices[0].log_probs.device
            masks = self.masks.finish(placed, device)
        else:  # what was sampled among, which stays on the device
            supports: list[Any] = [choice.allowed_tokens for choice in choices]
            bits = torch.cat(supports)
            index = placed(torch.arange(len(bits))).to(bits.device)  # one mask per choice
            masks = ActionMasks(table=bits, index=index, vocab_size=choices[0].vocab_size)
        return RolloutBatch(
            episodes=tuple(self.episodes[row] for row in sorted(self.episodes)),
            truncated=self.truncated,
            action_masks=masks,
            env_seconds=self.env_seconds,
            **tensors,
        )


class PredictingSampler:
    """Plays any agent through its ``predict``, on the whole batch at each step."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.with_entropy = False
        signature = inspect.signature(agent.predict)
        self._takes_masks = "action_masks" in signature.parameters
        self._reads: Collection[str] | None = None
        """Names of what ``predict`` reads beside the observation; None reads all, in order."""
        try:
            signature.bind(*range(4))
        except TypeError:
            self._reads = signature.parameters
        self._state: Any = None
        self._episode_start = np.zeros(0, dtype=bool)

    def begin(self, observation: Observation) -> None:
        """See `Sampler.begin`."""
        self._state = None
        self._episode_start = np.ones(len(next(iter(observation.values()))), dtype=bool)

    def act(
        self,
        rows: NDArray[np.integer],
        observation: Observation,
        action_masks: NDArray[np.generic] | None,
        *,
        deterministic: bool,
    ) -> SampledTokens:
        """See `Sampler.act`."""
        named: dict[str, Any] = {}
        if self._takes_masks and action_masks is not None:
            named["action_masks"] = action_masks
        told = {"state": self._state, "episode_start": self._episode_start}
        told["deterministic"] = deterministic
        if self._reads is not None:
            named |= {name: value for name, value in told.items() if name in self._reads}
        in_order = told.values() if self._reads is None else ()
        answer: Any = self.agent.predict(observation, *in_order, **named)
        actions, self._state = answer if isinstance(answer, tuple) else (answer, None)
        self._episode_start = np.zeros_like(self._episode_start)
        actions, rows_of_batch = np.asarray(actions), self._episode_start.shape
        if actions.shape != rows_of_batch or not np.issubdtype(actions.dtype, np.integer):
            raise ActionError(
                f"{type(self.agent).__name__}.predict must return integers of shape "
                f"{rows_of_batch}, got {actions.dtype} of shape {actions.shape}; return one "
                "token id per row"
            )
        entropy = None
        if self.with_entropy:
            entropy = entropy_of(self.agent, observation, action_masks)
        return SampledTokens(
            actions=actions.astype(np.int64)[rows],
            entropy=None if entropy is None else entropy[torch.from_numpy(rows)],
        )


def as_sampler(agent: Agent, draws: Draws | None = None, *, seed: int | None = None) -> Sampler:
    """Return the sampler of an agent: its own if it has one, else one that calls ``predict``.

    Args:
        agent: See `collect`.
        draws: Source of the sampling of agents with a sampler of their own; None continues with
            its random state, or with that of a seed.
        seed: Seed of a new generator.

    Raises:
        TypeError: if the agent has no ``predict``.
    """
    if (make := getattr(agent, "sampler", None)) is not None:
        sampler: Sampler = make(draws if seed is None else torch.Generator().manual_seed(seed))
        return sampler
    if not callable(getattr(agent, "predict", None)):
        raise TypeError(
            f"an agent must have predict(observation, state, episode_start, deterministic), got "
            f"{type(agent).__name__}"
        )
    return PredictingSampler(agent)
