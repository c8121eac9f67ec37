"""An episode played, and environments held to be alike."""

# mypy: no-check-untyped-defs
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from tokengym.envs import episodes_from_infos
from tokengym.rewards import check_reward


def play(env, seed=0):
    """Return actions, rewards and the last info of a random episode."""
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    actions, rewards, over = [], [], False
    while not over:
        actions.append(int(rng.choice(np.flatnonzero(info["action_mask"]))))
        _, reward, terminated, truncated, info = env.step(actions[-1])
        rewards.append(reward)
        over = terminated or truncated
    return actions, rewards, info


def check_contract(name, reward, **options):
    check_reward(gymnasium.make(name, reward=reward, **options))
    check_reward(gymnasium.make_vec(name, num_envs=3, reward=reward, **options))


def check_copies(name, mode, way):
    """Compare copies with the native batch, and return the lengths of their responses."""
    rows, options = 4, {"max_new_tokens": 6}
    native = gymnasium.make_vec(name, num_envs=rows, autoreset_mode=mode, **options)
    if way == "make_vec":
        chosen = {"vector_kwargs": {"autoreset_mode": mode}, "vectorization_mode": "sync"}
        copies = gymnasium.make_vec(name, num_envs=rows, **chosen, **options)
    else:
        copies = gymnasium.vector.SyncVectorEnv(
            [lambda: gymnasium.make(name, **options)] * rows, autoreset_mode=mode
        )
    rng, lengths = np.random.default_rng(0), set()
    assert_alike(native.reset(seed=3), copies.reset(seed=3))
    for step in range(24):
        actions = rng.integers(native.single_action_space.n, size=rows)
        actions[(np.arange(rows) + step) % 5 == 0] = native.unwrapped.tokenizer.eos_token_id
        one, other = native.step(actions), copies.step(actions)
        assert_alike(one, other)
        lengths |= {len(e.response_ids) for e in episodes_from_infos(other[4]).values()}
        if mode is AutoresetMode.DISABLED and (over := one[2] | one[3]).any():
            masks = [{"reset_mask": over.copy()} for _ in range(2)]
            assert_alike(native.reset(options=masks[0]), copies.reset(options=masks[1]))
    return lengths


def assert_alike(one, other):
    """Fail unless two nested structures have equal keys, shapes and values, floats nearly."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_alike(one[key], other[key])
    elif isinstance(one, tuple) or (isinstance(one, np.ndarray) and one.dtype.hasobject):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_alike(*pair)
    elif isinstance(one, np.ndarray):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, atol=1e-5)
    else:
        assert one == other
