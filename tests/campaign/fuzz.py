"""Random environments over five kinds of tokenizer, whose contracts are checked at every step."""

import functools
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.campaign.outcome import LostError, Outcome, try_cases
from tokengym.envs import (
    Episode,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    TokenGymError,
    episodes_from_infos,
)
from tokengym.rewards import CreditReward

TEXTS = [
    "the cat sat",
    "naïve 😀 text",
    "a dog ran off",
    "it rained",
    "漢字 and dots ...",
    "the end",
]
SPECIAL = ["<pad>", "<eos>", "<unk>"]
KINDS = ("words", "bpe", "bytes", "unigram", "characters")
AnyEnv = gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]
MODES = ("NextStep", "SameStep", "Disabled")


@functools.cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Train a tokenizer of the kind on the texts."""
    common: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False}
    if kind == "words":
        backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer: Any = trainers.WordLevelTrainer(**common)
    elif kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", **common)
    else:
        backend = Tokenizer(models.BPE(unk_token=None if kind == "bytes" else "<unk>"))
        trainer = trainers.BpeTrainer(vocab_size={"bpe": 60, "bytes": 280}.get(kind, 3), **common)
        if kind == "bytes":
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            trainer.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace()
            backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def random_settings(random: np.random.Generator) -> dict[str, Any]:
    """Return the arguments of a random environment."""
    tokenizer = tokenizer_of(str(random.choice(KINDS)))
    longest = int(random.integers(1, 9))
    return {
        "tokenizer": tokenizer,
        "prompts": [TEXTS[i] for i in random.integers(len(TEXTS), size=random.integers(1, 6))],
        "max_prompt_tokens": int(random.integers(1, 12)),
        "overlong": "left",
        "max_new_tokens": longest,
        "min_new_tokens": int(random.integers(0, longest + 1)),
        "forbidden_token_ids": [
            i for i in random.integers(len(tokenizer), size=3).tolist() if i != 1
        ],
        "stop_strings": [[], ["a"], ["the", " "], ["😀"]][random.integers(4)],
        "horizon": str(random.choice(["terminated", "truncated"])),
        "prompt_sampling": str(random.choice(["uniform", "epoch", "sequential"])),
    }


def score(prompt: str, response: str) -> float:
    """Return a score that depends on every character."""
    return float(np.sin(sum(map(ord, response)) + len(prompt)))


def require(holds: Any, what: str) -> None:
    """Lose the case unless the contract holds."""
    if not holds:
        raise LostError(what)


def check_episode(episode: Any, paid: float, chosen: dict[str, Any]) -> None:
    """Check what an episode that ended says of itself against what was paid for it."""
    expected = score(episode.prompt, episode.response)
    require(np.isclose(paid, expected, atol=1e-4), f"paid {paid}, the score is {expected}")
    total = float(np.sum(episode.token_rewards))
    require(np.isclose(total, expected, atol=1e-4), f"token rewards sum to {total}, not {expected}")
    length = len(episode.response_ids)
    require(0 < length <= chosen["max_new_tokens"], f"{length} tokens in a response")
    early = episode.finish_reason != "length" and length < chosen["min_new_tokens"]
    require(not early, f"ended by {episode.finish_reason} after {length} tokens")


def build(chosen: dict[str, Any], random: np.random.Generator, scorer: Any = score) -> AnyEnv:
    """Return a random environment, single or a batch in a random autoreset mode."""
    credit = str(random.choice(["sparse", "uniform"]))
    if random.integers(2):
        return CreditReward(TokenGenerationEnv(**chosen), scorer=scorer, credit=credit)
    rows, mode = int(random.integers(1, 5)), str(random.choice(MODES))
    batch = TokenGenerationVectorEnv(num_envs=rows, autoreset_mode=mode, **chosen)
    return CreditReward(batch, scorer=scorer, credit=credit)


def play(env: AnyEnv, chosen: dict[str, Any], random: np.random.Generator) -> None:
    """Play an environment by its action masks."""
    if isinstance(env, VectorEnv):
        play_batch(env, chosen, random)
    else:
        play_one(env, chosen, random)


def play_one(env: Any, chosen: dict[str, Any], random: np.random.Generator) -> None:
    """Play a single environment by its action masks."""
    observation, info = env.reset(seed=int(random.integers(1000)))
    paid, length = 0.0, 0
    for _ in range(3 * chosen["max_new_tokens"]):
        mask = info["action_mask"].astype(bool)
        require(observation in env.observation_space, "observation outside its space")
        require(mask.any(), "no action is legal")
        require(not mask[chosen["forbidden_token_ids"]].any(), "a forbidden token is legal")
        eos_early = mask[1] and length < chosen["min_new_tokens"]
        require(not eos_early, "EOS is legal before min_new_tokens")
        action = int(random.choice(np.flatnonzero(mask)))
        observation, reward, terminated, truncated, info = env.step(action)
        require(np.isfinite(reward), f"reward {reward}")
        require(not (terminated and truncated), "terminated and truncated")
        paid, length = paid + float(reward), length + 1
        if terminated or truncated:
            episode = Episode.from_info(info)
            by_length = episode.finish_reason == "length"
            require(
                truncated == (by_length and chosen["horizon"] == "truncated"),
                f"truncated is {truncated} at {episode.finish_reason}",
            )
            check_episode(episode, paid, chosen)
            observation, info = env.reset()
            paid, length = 0.0, 0


def play_batch(envs: Any, chosen: dict[str, Any], random: np.random.Generator) -> None:
    """Play a batch by its action masks."""
    observations, infos = envs.reset(seed=int(random.integers(1000)))
    mode = envs.metadata["autoreset_mode"]
    masks, paid = infos["action_mask"].astype(bool), np.zeros(envs.num_envs)
    for _ in range(3 * chosen["max_new_tokens"]):
        require(observations in envs.observation_space, "observation outside its space")
        require(masks.any(axis=1).all(), "no action is legal")
        actions = np.array([random.choice(np.flatnonzero(mask)) for mask in masks])
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        require(np.isfinite(rewards).all(), f"rewards {rewards}")
        require(not (terminated & truncated).any(), "terminated and truncated")
        paid += rewards
        ended = episodes_from_infos(infos)
        for row, episode in ended.items():
            require(terminated[row] or truncated[row], "an episode of a row that did not end")
            check_episode(episode, paid[row], chosen)
            paid[row] = 0.0
        masks = infos["action_mask"].astype(bool)
        over = terminated | truncated
        if mode is AutoresetMode.DISABLED and over.any():
            observations, infos = envs.reset(options={"reset_mask": over})
            masks[over] = infos["action_mask"][over]  # the infos hold the rows that were reset


def one_environment(random: np.random.Generator) -> None:
    """Build and play one random environment."""
    chosen = random_settings(random)
    try:
        play(build(chosen, random), chosen, random)
    except TokenGymError as error:
        require("\n" not in str(error), f"an error of several lines: {error}")


def fuzz(count: int, seed: int) -> Outcome:
    """Try ``count`` environments."""
    return try_cases("fuzz", one_environment, count, seed)
