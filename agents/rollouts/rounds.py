"""Any environment as a learner plays it: rounds of one episode per row, scored at their end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from tokengym.agents.policy.sampler import Observation
from tokengym.agents.rollouts.layers import (
    READERS,
    REWARD_WRAPPERS,
    SCALING,
    TRANSPARENT,
    Environments,
    are_plain,
    ask_first_row,
    check_limits,
    layers,
    outermost_reward,
    row_attributes,
    row_states,
)
from tokengym.agents.sb3.vec_env import GymVecEnv, as_vector_env
from tokengym.envs import Episode, SettingsError, episodes_from_infos
from tokengym.envs.episode import RAW_SCORE
from tokengym.envs.prompts.vocabulary import Vocabulary
from tokengym.rewards import (
    Reward,
    RewardError,
    RewardWrapper,
    Scorer,
    VectorRewardWrapper,
)
from tokengym.rewards.maths.redistribution import through_layers
from tokengym.rewards.reward import RewardTraits
from tokengym.rewards.wrappers import Delivery

Options: TypeAlias = dict[str, Any]
"""Options of an environment's reset, such as ``{"prompt_ids": [...]}`` or ``{"group_size": n}``."""
Begin: TypeAlias = Callable[..., tuple[Any, dict[str, Any]]]
"""Gymnasium's ``reset(*, seed, options)``, which returns observations and infos."""
HOLD = "hold_after_end"
"""Method of environments whose rows can stay at the end of an episode."""
PER_ROW = {"prompts": "prompt", "prompt_ids": "prompt_id", "responses": "response"}
"""Options with one entry per row of a batch, and their names in a single environment."""


def environment_attribute(envs: Environments, name: str, default: Any = None) -> Any:
    """Return an attribute of the environment (of the first row), or the default."""
    if (of_rows := row_attributes(envs, name)) is not None:
        return of_rows[0]
    inner = getattr(envs.unwrapped, "envs", None)  # that of `GymVecEnv` is a batch
    return getattr((inner if isinstance(inner, VectorEnv) else envs).unwrapped, name, default)


class RoundReward:
    """An environment's reward, taken out of its `step` for as long as a round is played.

    The wrapper leaves the episodes of the round unscored, and `evaluate` scores them in one batch:
    that is cheaper, and statistics such as `Normalize`'s see the round as one. A reward wrapper
    inside another layer that may read what it pays (``RecordEpisodeStatistics``, ``VecNormalize``,
    one of the user's own) keeps paying in `step`, and so do rows in other processes: what the
    outermost layer then pays is what is learned from (`take_paid_rewards`).
    """

    def __init__(self, envs: Environments) -> None:
        shared, *rows = layers(envs)
        wrappers = [
            [layer for layer in chain if isinstance(layer, REWARD_WRAPPERS)]
            for chain in (shared, *rows)
        ]
        self.rewards: list[Reward] = [layer.reward for chain in wrappers for layer in chain]
        """Rewards of all wrappers, the outermost first, those of single rows row by row."""
        self.reward = self.rewards[0] if self.rewards else None
        """The reward that decides: the outermost, the first row's if each has its own."""
        asked = [one.traits for one in self.rewards] or row_attributes(envs, "reward_traits")
        self.traits: RewardTraits | None = asked[0] if asked else None
        """What is asked of the reward that decides, also where it is in another process."""
        self._ask_first = partial(ask_first_row, envs)
        if self.traits is not None and self.traits.needs_policy and not self.rewards:
            raise SettingsError(
                f"credit {self.traits.credit!r} continues responses with the policy, which rows in "
                "other processes do not have; make the batch with gym.make_vec(id, num_envs=...)"
            )
        self.of_policy = [reward for reward in self.rewards if reward.credit.needs_policy]
        """The rewards whose credit continues responses with a policy."""
        self._of_all: VectorRewardWrapper | None = None
        self._of_rows: dict[int, RewardWrapper] = {}
        if wrappers[0]:
            self._of_all = outermost_reward(shared)
        else:
            payers = {number: outermost_reward([*shared, *row]) for number, row in enumerate(rows)}
            self._of_rows = {number: payer for number, payer in payers.items() if payer is not None}
        # Those inside another are deferred with it: what they pay is replaced.
        chains = wrappers if self._of_all else [wrappers[number + 1] for number in self._of_rows]
        self.deferred = [layer for chain in chains for layer in chain]
        """Wrappers that leave the episodes of a round unscored."""
        num_rows = getattr(envs, "num_envs", 1)
        self.unscored: Container[int] = range(num_rows) if self._of_all else self._of_rows
        """Rows whose episodes come without score from a round's steps."""
        self.is_plain = are_plain([shared, *rows])
        """Whether nothing but this package decides what is read, written and paid."""
        self.carried: tuple[str, ...] = () if self.traits is None else self.traits.carried
        """Names that the rule reads of the policy that writes the episodes."""
        paid_in_steps = [row for row in range(num_rows) if row not in self.unscored]
        if self.traits is not None and self.carried and paid_in_steps:
            raise SettingsError(
                f"credit {self.traits.credit!r} reads {self.carried[0]!r} of the policy, which is "
                "not known where a step pays, as in other processes and inside a layer that may "
                "read rewards; make the batch with gym.make_vec(id, num_envs=...) and leave its "
                "reward the outermost layer"
            )
        place = type((rows[0] if rows else shared)[-1]).__module__
        self.is_only_scaled = are_plain([shared, *rows], (*TRANSPARENT, *READERS, *SCALING))
        """Whether layers that change rewards are known to scale or bound them."""
        self.pays_nothing = (
            self.is_only_scaled and not self.rewards and place.startswith("tokengym.envs.")
        )
        """Whether it is an environment of this package without a layer that pays."""
        is_heard = not self.is_plain and any(row not in self.unscored for row in range(num_rows))
        self.reads_step_rewards = is_heard
        """Whether rewards of steps are listened to."""
        of_all = wrappers[0][0].delivery if wrappers[0] else None
        of_rows = row_attributes(envs, "delivery") if is_heard and of_all is None else None
        self._deliveries: list[Delivery | None] = of_rows or [of_all] * num_rows

    @property
    def scorer(self) -> Scorer | None:
        """The scorer of the reward without normalisation, None without a reward."""
        return None if self.reward is None else self.reward.raw_scorer

    @property
    def gae_lambda(self) -> float | None:
        """The lambda that the credit rule declares, None if it declares none."""
        if self.traits is None or (declared := self.traits.gae_lambda) is None:
            return None
        if not 0.0 <= declared <= 1.0:
            raise SettingsError(
                f"credit {self.traits.credit!r} declares gae_lambda={declared}, which must be "
                "within [0, 1], or None to leave it to the learner"
            )
        return declared

    @property
    def seconds(self) -> float:
        """Seconds that scoring has taken so far."""
        distinct = {id(reward): reward for reward in self.rewards}  # rows may share one
        return sum(reward.seconds for reward in distinct.values())

    def evaluate(self, episodes: dict[int, Episode]) -> None:
        """Give a round's episodes, by row, their scores and token rewards, in place."""
        # In the order in which they ended, as a running mean would have met them step by step.
        try:
            if self._of_all is not None:
                paid = self._of_all.reward.evaluate(list(episodes.values()))
                episodes.update(zip(episodes, paid, strict=True))
            for row in episodes:
                if row in self._of_rows:
                    (episodes[row],) = self._of_rows[row].reward.evaluate([episodes[row]])
        except RewardError as error:
            error.episodes = ()
            raise

    def take_paid_rewards(
        self, episodes: dict[int, Episode], paid: Mapping[int, NDArray[np.floating]]
    ) -> None:
        """Give a round's episodes the rewards that its steps paid, where a layer changed them.

        The credit stays where it can, see `through_layers`. The scorer's own value is then in the
        part "raw_score".

        Args:
            episodes: The episodes by row, with score and token rewards; replaced in place.
            paid: By row (steps,), what the outermost layer paid at each step of the round.
        """
        rows = [
            row
            for row, episode in episodes.items()
            if row not in self.unscored and episode.token_rewards is not None
        ]
        by_steps = [_episode_steps(episodes[row], paid[row], self._deliveries[row]) for row in rows]
        changed = [not _agree(steps.given, steps.paid) for steps in by_steps]
        if not any(changed):
            return
        rewards_of_rows = through_layers(
            [steps.earned for steps in by_steps],
            [steps.given for steps in by_steps],
            [steps.paid for steps in by_steps],
            only_scaled=self.is_only_scaled,
        )
        for row, steps, rewards in zip(rows, by_steps, rewards_of_rows, strict=True):
            episode = episodes[row]
            assert episode.token_rewards is not None
            tokens = episode.token_rewards.copy()
            tokens[steps.places] = rewards
            assert episode.score is not None  # as it has token rewards
            parts = {RAW_SCORE: episode.score, **episode.score_parts}
            episodes[row] = episode.with_rewards(float(steps.paid.sum()), parts, tokens)

    def segment_ends(self, episodes: Sequence[Episode], time: int) -> NDArray[np.int64]:
        """Return the last token of each token's segment, as the credit rule pays them.

        (episodes, time) positions; past a response's end and without a rule, each its own.
        """
        ends = np.tile(np.arange(time), (len(episodes), 1))
        if self.reward is not None:
            cuts = self.reward.pieces(episodes)
        else:
            cuts = self._ask_first("reward_pieces", episodes) or []
        for row, pieces in enumerate(cuts):
            for piece in pieces:
                ends[row, piece.start : piece.stop] = piece.stop - 1
        return ends

    def share(self, gather: Callable[[Any], list[Any]]) -> None:
        """Take running statistics over all processes' values, which ``gather`` returns."""
        if self.traits is not None and self.traits.statistics and not self.deferred:
            raise SettingsError(
                f"several processes share the statistics of {self.traits.statistics[0]!r}, which "
                "needs its reward as the environment's outermost wrapper; put other wrappers "
                "inside it"
            )
        for statistics in (one for reward in self.rewards for one in reward.statistics):
            statistics.gather = gather


class _EpisodeSteps(NamedTuple):
    """One episode by its steps, (steps,) each: those that wrote its tokens."""

    places: NDArray[np.integer]
    """Positions of the tokens in the response."""
    earned: NDArray[np.floating]
    """Token rewards."""
    given: NDArray[np.floating]
    """What the reward layer paid."""
    paid: NDArray[np.floating]
    """What the outermost layer paid."""


def _episode_steps(
    episode: Episode, paid: NDArray[np.floating], delivery: Delivery | None
) -> _EpisodeSteps:
    """Return an episode by its steps.

    ``paid``, (steps,), is what the outermost layer paid at the steps of the round; a response that
    was begun has tokens before them, for which no layer was asked. ``delivery`` is when the reward
    layer pays; None where there is none in sight.
    """
    assert episode.token_rewards is not None
    written = np.ones(len(episode.response_ids)) if episode.written is None else episode.written
    places = np.flatnonzero(written)
    earned = episode.token_rewards[places].astype(np.float64)
    at_end = np.zeros_like(earned)
    at_end[-1] = episode.score
    heard = earned.copy()
    heard[len(heard) - len(paid) :] = paid
    in_steps = delivery == "step" or (delivery is None and _agree(earned, heard))
    given = earned if in_steps else at_end
    heard = given.copy()
    heard[len(heard) - len(paid) :] = paid
    return _EpisodeSteps(places, earned, given, heard)


def _agree(given: NDArray[np.floating], paid: NDArray[np.floating]) -> bool:
    """Return whether two streams of rewards, (steps,), are the same, but for rounding."""
    return bool(np.allclose(given, paid, rtol=0.0, atol=1e-5 * float(np.abs(given).max())))


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Outcome of one step of every row."""

    observation: Observation
    """Arrays of (num_envs, length)."""
    action_masks: NDArray[np.generic] | None
    """(num_envs, vocab), non-zero where the next token is allowed; None if not given."""
    rewards: NDArray[np.floating]
    """(num_envs,), as the environment returned them."""
    terminated: NDArray[np.bool_]
    """(num_envs,): the text is finished."""
    truncated: NDArray[np.bool_]
    """(num_envs,): a budget ran out."""
    episodes: Mapping[int, Episode]
    """The episodes that ended in this step, by row; their scores come when the round has ended."""
    successes: Mapping[int, bool] = field(default_factory=dict)
    """What infos say in ``is_success``, SB3's, of episodes that ended in this step, by row."""


class _Beginning(NamedTuple):
    """Episodes that a reset outside of the rounds has begun."""

    observation: Observation
    infos: dict[str, Any]
    states: list[Any]
    """Those of the rows, as `row_states` returns them."""


class RoundEnvironment(ABC):
    """A batch of environments that are reset together and each play one episode.

    Rows that end stay where they are until the next round, where the environment can hold them:
    they draw no prompt and play no episode, in any autoreset mode. Those of environments without
    ``hold_after_end`` (other than this package's) reset and play while they wait.

    Args:
        envs: The batch.
        begin: Begins an episode in every row.
        hold: Holds rows that end, given True, or gives them back to the autoreset mode.
        sb3: The ``VecEnv`` that Stable-Baselines3 resets and seeds, innermost; None without one.
        is_one_batch: Whether its rows are one environment, not copies that are reset apart.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any] | VecEnv,
        begin: Begin,
        hold: Callable[[bool], Any] | None,
        *,
        sb3: VecEnv | None,
        is_one_batch: bool,
    ) -> None:
        self.is_one_batch = is_one_batch
        self.num_envs = envs.num_envs
        tokenizer = environment_attribute(envs, "tokenizer")
        self.pad_action = 0 if tokenizer is None else Vocabulary.of(tokenizer).filler
        """Action of rows that wait for the end of the round: a token that ends no text."""
        self.reward = RoundReward(envs)
        """Reward of the episodes of a round."""
        self.attribute = partial(environment_attribute, envs)
        """Function of a name that returns the environment's attribute; None without one."""
        self._longest = partial(environment_attribute, envs, "max_new_tokens", 0)
        self.max_new_tokens: int = self._longest()
        """Tokens of the longest response, as the latest round began; 0 where it is unknown."""
        self._begin = begin
        self._hold = hold or (lambda held: None)
        self._states = None if hold is None else partial(row_states, envs)
        self._sb3 = sb3
        self._begun: _Beginning | None = None
        check_limits(envs)

    def reset(
        self, seed: int | None = None, options: Options | None = None
    ) -> tuple[Observation, NDArray[np.generic] | None]:
        """Begin an episode in every row; return observation and action masks, (num_envs, ...).

        Without a seed the environment's random state continues. With neither a seed nor options,
        episodes that a reset of Stable-Baselines3's has begun are these, see `keep_reset`.
        """
        self.check_options(options)
        self.max_new_tokens = self._longest()
        for wrapper in self.reward.deferred:
            wrapper.deferred = True
        begun, self._begun = self._begun if self.keeps_reset() else None, None
        if begun is None or seed is not None or options is not None:
            observation, infos = self._begin(seed=seed, options=options)
        else:
            observation, infos = begun.observation, begun.infos
        self._hold(True)
        return observation, infos.get("action_mask")

    def keep_reset(self, observation: Observation, infos: dict[str, Any] | None = None) -> None:
        """Let the next round play episodes that were just begun, so that none is begun in vain.

        Environments without ``hold_after_end`` begin others all the same: they cannot tell whether
        these have been played meanwhile.

        Args:
            observation: Observations at their beginning.
            infos: Infos in Gymnasium's form; None takes those of the ``VecEnv``'s last reset.
        """
        infos = self._infos_of_reset() if infos is None else infos
        if self._states is not None:
            self._begun = _Beginning(observation, infos, self._states())

    def keeps_reset(self) -> bool:
        """Return whether there are such episodes, and nobody has played or seeded since."""
        if self._begun is None or self._states is None:
            return False
        is_seeded = self._sb3 is not None and self._sb3._seeds[0] is not None
        return not is_seeded and self._begun.states == self._states()

    @abstractmethod
    def _infos_of_reset(self) -> dict[str, Any]:
        """Return the infos of the ``VecEnv``'s last reset, in Gymnasium's form."""

    def check_options(self, options: Options | None) -> None:
        """Refuse groups where rows draw their prompts apart."""
        if options and "group_size" in options and not self.is_one_batch:
            raise SettingsError(
                f"group_size={options['group_size']} needs a VectorEnv of one batch, whose rows "
                "can share a prompt, and these are separate environments; make one with "
                "gym.make_vec(id, num_envs=...), without vectorization_mode"
            )

    @abstractmethod
    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Append a token to every row, (num_envs,); what rows that ended return is not read."""

    def finish(self) -> None:
        """End the round: the environment pays episodes and resets rows as before it."""
        self._hold(False)
        for wrapper in self.reward.deferred:
            wrapper.deferred = False


class GymRounds(RoundEnvironment):
    """Rounds on a Gymnasium ``VectorEnv`` in any autoreset mode."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], adapter: GymVecEnv | None = None) -> None:
        self.envs, self._adapter = envs, adapter
        bare: Any = envs.unwrapped
        is_copies = _is_copies(envs)
        hold = getattr(bare, HOLD, None)
        if is_copies and all(bare.call("has_wrapper_attr", HOLD)):
            hold = partial(bare.call, HOLD)
        begin: Begin = envs.reset if adapter is None else adapter.begin
        super().__init__(envs, begin, hold, sb3=adapter, is_one_batch=not is_copies)
        # Gymnasium's own batches refuse to step a row that ended and was not reset.
        mode = envs.metadata.get("autoreset_mode")
        self._must_reset = is_copies and mode == AutoresetMode.DISABLED

    def _infos_of_reset(self) -> dict[str, Any]:
        return {} if self._adapter is None else self._adapter.infos_of_reset

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """See `RoundEnvironment.step`."""
        observation, rewards, terminated, truncated, infos = self.envs.step(actions)
        result = StepResult(
            observation=observation,
            action_masks=infos.get("action_mask"),
            rewards=rewards,
            terminated=terminated,
            truncated=truncated & ~terminated,  # a TimeLimit at the horizon cuts nothing
            episodes=episodes_from_infos(infos, unscored=self.reward.unscored),
            successes=_successes(infos, terminated | truncated),
        )
        if self._must_reset and (ended := terminated | truncated).any():
            self.envs.reset(options={"reset_mask": ended})
        return result


class VecEnvRounds(RoundEnvironment):
    """Rounds on a Stable-Baselines3 ``VecEnv``."""

    def __init__(self, envs: VecEnv) -> None:
        self.envs = envs
        can_hold = envs.has_attr(HOLD)
        hold = partial(envs.env_method, HOLD) if can_hold else None
        inner = envs.unwrapped
        is_one = isinstance(inner, GymVecEnv) and not _is_copies(inner.envs)
        super().__init__(envs, self._reset, hold, sb3=inner, is_one_batch=is_one)

    def _reset(self, seed: int | None, options: Options | None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.envs.seed(seed)
        if options is not None:
            whole = [options] * self.num_envs  # which `GymVecEnv` hands on to its batch
            rows = whole if self.is_one_batch else _row_options(options, self.num_envs)
            self.envs.set_options(rows)
        observation = self.envs.reset()
        return observation, self._infos_of_reset()

    def _infos_of_reset(self) -> dict[str, Any]:
        # A wrapper has a list of its own, which stays empty.
        inner: Any = self.envs.unwrapped
        return {"action_mask": _stacked_masks(inner.reset_infos)}

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """See `RoundEnvironment.step`."""
        observation: Any
        observation, rewards, dones, infos = self.envs.step(actions)
        cut = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
        truncated = dones & np.array(cut)
        return StepResult(
            observation=observation,
            action_masks=_stacked_masks(infos),
            rewards=rewards,
            terminated=dones & ~truncated,
            truncated=truncated,
            episodes={
                row: Episode.from_info(infos[row], scored=row not in self.reward.unscored)
                for row in np.flatnonzero(dones).tolist()
                if "finish_reason" in infos[row]
            },
            successes={
                row: bool(infos[row]["is_success"])
                for row in np.flatnonzero(dones).tolist()
                if infos[row].get("is_success") is not None
            },
        )


def as_rounds(envs: Environments) -> RoundEnvironment:
    """Return any supported environment as a `RoundEnvironment`.

    Args:
        envs: A Gymnasium ``VectorEnv`` or ``Env``, or a Stable-Baselines3 ``VecEnv``.
    """
    if isinstance(envs, GymVecEnv):  # our own adapter: the batch below it is faster
        return GymRounds(envs.envs, envs)
    if isinstance(envs, VecEnv):
        return VecEnvRounds(envs)
    return GymRounds(as_vector_env(envs))


def _successes(infos: Mapping[str, Any], ended: NDArray[np.bool_]) -> dict[int, bool]:
    """Return ``is_success`` of the rows of a Gymnasium batch that ended, where infos have it."""
    source = infos.get("final_info", infos)
    told = source.get("_is_success", ())
    rows = np.flatnonzero(ended & told).tolist() if len(told) else []
    return {row: bool(source["is_success"][row]) for row in rows}


def _is_copies(envs: VectorEnv[Any, Any, Any]) -> bool:
    """Return whether the rows of a batch are separate environments."""
    return isinstance(envs.unwrapped, SyncVectorEnv | AsyncVectorEnv)


def _row_options(options: Options, num_envs: int) -> list[Options]:
    """Return a batch's options row by row, as a stock ``VecEnv`` takes them."""
    shared = {key: value for key, value in options.items() if key not in PER_ROW}
    rows = [dict(shared) for _ in range(num_envs)]
    for many, one in PER_ROW.items():
        if many in options:
            if len(options[many]) != num_envs:
                raise SettingsError(
                    f"options[{many!r}] must have one entry for each of the {num_envs} rows, got "
                    f"{len(options[many])}"
                )
            for row, value in zip(rows, options[many], strict=True):
                row[one] = value
    return rows


def _stacked_masks(infos: Any) -> NDArray[np.generic] | None:
    """Return the rows' action masks as (num_envs, vocab), if every row has one."""
    masks = [info.get("action_mask") for info in infos]
    return None if any(mask is None for mask in masks) else np.stack(masks)
