"""The bridge to stock Stable-Baselines3: its ``VecEnv`` over a Gymnasium ``VectorEnv``."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from tokengym.agents.errors import ModelError
from tokengym.base.errors import SettingsError


def as_vector_env(
    envs: VectorEnv[Any, Any, Any] | gym.Env[Any, Any] | VecEnv,
) -> VectorEnv[Any, Any, Any]:
    """Return a Gymnasium ``VectorEnv``: the given one, or one over a single ``Env``."""
    if isinstance(envs, VectorEnv):
        return envs
    if isinstance(envs, gym.Env):
        return SyncVectorEnv([lambda: envs])
    raise TypeError(
        f"envs must be a gymnasium VectorEnv or Env or a stable_baselines3 VecEnv, got "
        f"{type(envs).__name__}; make one with gym.make_vec(id, num_envs=...)"
    )


def as_vec_env(envs: VectorEnv[Any, Any, Any] | gym.Env[Any, Any] | VecEnv) -> VecEnv:
    """Return the environment as Stable-Baselines3 wants it.

    Args:
        envs: A Gymnasium ``VectorEnv`` (any autoreset mode) or ``Env``; a ``VecEnv`` stays itself.

    Raises:
        TypeError: if it is none of these.
    """
    return envs if isinstance(envs, VecEnv) else GymVecEnv(as_vector_env(envs))


class GymVecEnv(VecEnv):
    """A Gymnasium ``VectorEnv`` with Stable-Baselines3's conventions.

    A row that ends is reset in the same step: the observation returned is the next episode's
    first, the last one is ``info["terminal_observation"]``, ``info["TimeLimit.truncated"]`` tells a
    budget from an end, and the next episode's reset info is in ``reset_infos``. ``action_masks``
    serves sb3-contrib's MaskablePPO.

    Args:
        envs: The batch to adapt, in any autoreset mode.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        self.envs = envs
        self._mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.infos_of_reset: dict[str, Any] = {}
        """Infos of the last `reset`, as the batch gave them."""
        self._actions: NDArray[np.int64] = np.zeros(envs.num_envs, dtype=np.int64)
        num_tokens = int(envs.single_action_space.n)  # type: ignore[attr-defined]
        self._action_masks: NDArray[np.bool_] = np.ones((envs.num_envs, num_tokens), np.bool_)
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def begin(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every row, in Gymnasium's form, as this package's learners do.

        Args:
            seed: Seed of the reset; None takes the one that ``seed`` has set for it, if any.
            options: Options of the reset.

        Returns:
            Observations and infos.
        """
        seeds: Any = seed
        if seed is None:
            seeds = None if self._seeds[0] is None else list(self._seeds)
            self._reset_seeds()
        return self.envs.reset(seed=seeds, options=options)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every row and return the observations; see `begin`.

        Options that were set for all rows alike, as ``set_options(options)`` does, are the batch's.

        Raises:
            SettingsError: if rows have options of their own.
        """
        first, *others = self._options
        if any(other is not first and other != first for other in others):
            raise SettingsError(
                "the rows of a batch are reset together, got options of their own; set those of "
                "the batch for all: set_options({'prompts': [...]})"
            )
        observation, infos = self.begin(options=first or None)
        self.infos_of_reset = infos
        self.reset_infos = [self._row_info(infos, row) for row in range(self.num_envs)]
        if "action_mask" in infos:
            self._action_masks[:] = infos["action_mask"]
        self._reset_options()
        return observation

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Step every row; return observations, rewards, dones, and one info per row."""
        observation, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        # SB3's convention: what ended is in the infos, what is returned has begun anew. Only one of
        # Gymnasium's modes, SAME_STEP, does that by itself; in the others the rows are reset below.
        dones = terminated | truncated
        final_infos, final_observation, reset_infos = infos, observation, infos
        if self._mode == AutoresetMode.SAME_STEP:
            final_infos, final_observation = infos.get("final_info", {}), infos.get("final_obs")
        row_infos = [
            self._row_info(final_infos if dones[row] else infos, row)
            for row in range(self.num_envs)
        ]
        for row, info in enumerate(row_infos):
            info["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
            if dones[row]:
                info["terminal_observation"] = self._row_of(final_observation, row)
        if "action_mask" in infos:
            self._action_masks[~dones] = infos["action_mask"][~dones]
        if dones.any():
            if self._mode != AutoresetMode.SAME_STEP:
                observation, reset_infos = self.envs.reset(options={"reset_mask": dones})
            if "action_mask" in reset_infos:
                self._action_masks[dones] = reset_infos["action_mask"][dones]
            for row in np.flatnonzero(dones).tolist():
                self.reset_infos[row] = self._row_info(reset_infos, row)
        return observation, np.array(rewards, dtype=np.float32), dones, row_infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the tokens allowed next, (num_envs, vocab)."""
        return self._action_masks.copy()

    def restore_masks(self, action_masks: NDArray[np.bool_]) -> None:
        """Take the masks that `action_masks` returned, of episodes that continue."""
        self._action_masks[:] = action_masks

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def _envs_of(self, indices: VecEnvIndices) -> list[Any]:
        """Return the environment of each row asked for; a native batch is that of all."""
        bare, rows = self.envs.unwrapped, self._get_indices(indices)
        if isinstance(bare, SyncVectorEnv):
            return [bare.envs[row] for row in rows]
        return [bare for _ in rows]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the innermost environments, one per row asked for."""
        return [
            env.get_wrapper_attr(attr_name)
            if isinstance(env, gym.Env)
            else getattr(self.envs if hasattr(self.envs, attr_name) else env, attr_name)
            for env in self._envs_of(indices)
        ]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the innermost environments; a native batch has one for all rows.

        Raises:
            ValueError: if some rows only are asked for, of a batch whose rows share the attribute.
        """
        for env in self._envs_of(indices):
            if isinstance(env, gym.Env):
                env.set_wrapper_attr(attr_name, value)
            elif indices is None:
                setattr(env, attr_name, value)
            else:
                raise ValueError(
                    f"the rows of {type(env).__name__} share {attr_name!r}, got indices={indices}; "
                    "omit indices to set it for all"
                )

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the environments and return its result for each row asked for."""
        if method_name == "action_masks":
            return [self._action_masks[row] for row in self._get_indices(indices)]
        methods = self.get_attr(method_name, indices)
        return [method(*method_args, **method_kwargs) for method in methods]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Say whether each row asked for is wrapped in ``wrapper_class``."""
        return [is_wrapped(env, wrapper_class) for env in self._envs_of(indices)]

    def has_attr(self, attr_name: str) -> bool:
        """Say whether every row has the attribute."""
        return attr_name == "action_masks" or super().has_attr(attr_name)

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return no images: texts are rendered as text."""
        return [None] * self.num_envs

    @staticmethod
    def _row_info(infos: dict[str, Any], row: int) -> dict[str, Any]:
        """Return one row of vector infos: the keys whose ``_key`` mask is set for it."""
        info: dict[str, Any] = {}
        for key, values in infos.items():
            present = infos.get(f"_{key}")
            if key in ("final_obs", "final_info") or present is None or not present[row]:
                continue
            value = GymVecEnv._row_info(values, row) if isinstance(values, dict) else values[row]
            info[key] = value.item() if isinstance(value, np.generic) else value
        for key in ("token_rewards", "written"):
            if key in info and "response_ids" in info:  # a batch pads them to the horizon
                info[key] = info[key][: len(info["response_ids"])]
        return info

    @staticmethod
    def _row_of(observation: Any, row: int) -> Any:
        """Return a copy of one row's observation."""
        if isinstance(observation, dict):
            return {key: np.array(values[row]) for key, values in observation.items()}
        return observation[row]  # SAME_STEP keeps final observations as an array of objects


class NoEnvironment(VecEnv):
    """Stands in for the environment of an agent that was loaded only to predict.

    Args:
        num_envs: Rows.
        num_tokens: Words of the vocabulary.
        length: Columns of an observation.
    """

    tokenizer: Any = None
    """The agent's tokenizer, if it is known."""

    def __init__(self, *, num_envs: int, num_tokens: int, length: int) -> None:
        observation_space = gym.spaces.Dict(
            input_ids=gym.spaces.Box(0, num_tokens - 1, (length,), np.int64),
            attention_mask=gym.spaces.Box(0, 1, (length,), np.int8),
        )
        super().__init__(num_envs, observation_space, gym.spaces.Discrete(num_tokens))

    def _refuse(self, *arguments: Any, **options: Any) -> Any:
        raise ModelError("this agent was loaded without an environment; give it set_env(envs)")

    reset = step_async = step_wait = set_attr = env_method = _refuse

    def close(self) -> None:
        """Close nothing."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the tokenizer, or the render mode, None; there is no other attribute."""
        if attr_name not in ("render_mode", "tokenizer"):
            raise AttributeError(attr_name)
        return [self.tokenizer if attr_name == "tokenizer" else None] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return False for every row."""
        return [False] * self.num_envs
