"""Evaluation of a frozen policy on held-out prompts, by the raw score of the task's scorer."""

import copy
import functools
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from tokengym.base.bundle import Bundle
from tokengym.base.registry import Spec
from tokengym.base.settings import answers_keywords
from tokengym.base.text import number
from tokengym.envs import Episode, SettingsError, TokenGenerationVectorEnv, bundled
from tokengym.evaluation.measure.environments import brings_prompts, is_own_task, resolve_env
from tokengym.evaluation.measure.judges import measured_by
from tokengym.evaluation.measure.measures import (
    EPISODES,
    response_metrics,
    text_metrics,
)
from tokengym.evaluation.statistics.series import error_of_mean
from tokengym.rewards import (
    Reward,
    Rule,
    ScorerError,
    Toxicity,
    VectorRewardWrapper,
    gold_scorer,
)
from tokengym.rewards.gold.rules import rude_words
from tokengym.rewards.registry import Payer, RewardChoice, gold_oov_fraction
from tokengym.rewards.reward import MAX_UNREAD_SHARE, warn_unread
from tokengym.rewards.scorers.base import Scorer, score_finished
from tokengym.rewards.scorers.toxicity import RUDE_WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokengym.agents import CausalLMPolicy
    from tokengym.agents.rollouts.playing import Agent, RolloutBatch
    from tokengym.agents.rollouts.rounds import Environments, RoundReward

logger = logging.getLogger(__name__)

ROWS = 128
"""Most environment rows played and scored at once."""
OF_BATCH = ("task", "num_envs", "vectorization_mode", "autoreset_mode", "render_mode")
"""Arguments in an environment's spec that another one over the same prompts has of its own."""
OF_LIST = "prompts (a list of which none is held out from training)"
MAX_UNREAD_GOLD_SHARE = 0.2
"""Largest share of texts that the gold score does not know and is still a number."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """Measurements of a policy on held-out prompts, of the responses that have a score."""

    metrics: dict[str, float]
    """``score``, ``gold_score`` if the task has one that knows the words, ``kl`` and ``entropy``,
    both exact, if the agent's policy is a language model, ``entropy`` alone of on-policy algorithms
    of Stable-Baselines3, and those of
    `tokengym.evaluation.measure.measures.text_metrics`. Means over the responses; a measurement
    that none has is absent."""
    episodes: tuple[Episode, ...]
    """The responses, with their raw score."""
    gold_scores: NDArray[np.float32] | None
    """(episodes,); None without a gold scorer."""
    kls: NDArray[np.float64] | None = None
    """(episodes,) nats by which each response left the reference; None where ``metrics`` has no
    ``kl``."""
    places: tuple[int, ...]
    """(episodes,) number of each among the responses that were asked for."""
    asked: int
    """Responses that were asked for, those without a score included."""
    prompt_ids: tuple[int, ...] = ()
    """(asked,) places of the prompts in the held-out split; () where they are in its order."""
    by_gold: bool = False
    """Whether the score is the gold score."""

    @property
    def unscored(self) -> int:
        """Number of responses without a score, which are nowhere here: partner or judge failed."""
        return self.asked - len(self.episodes)

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors over the responses, of each measurement of single ones, by name.

        Their unit is that of the measurement; absent where fewer than two responses have a value.
        """
        sizes = {name: error_of_mean(values) for name, values in self.responses.items()}
        return {name: size for name, size in sizes.items() if size is not None}

    def __repr__(self) -> str:
        """Each measurement with its standard error, where one is known; no arrays."""
        errors, kept = self.errors, len(self.episodes)
        shown = [
            f"{name} {number(value)}"
            + (f" \u00b1 {number(errors[name])}" if name in errors else "")
            for name, value in self.metrics.items()
        ]
        lost = f", {self.unscored} without a score" if self.unscored else ""
        return f"Evaluation({kept} responses{lost}: {', '.join(shown)})"

    @property
    def responses(self) -> dict[str, NDArray[np.float64]]:
        """Each measurement of single responses, (asked,), NaN where one has no value.

        The one table in which a response without a score has a place: arms are paired in it.
        """
        scores: Any = self.gold_scores if self.by_gold else [e.raw_score for e in self.episodes]
        known = {"score": scores, "gold_score": self.gold_scores, "kl": self.kls}
        known |= response_metrics(self.episodes)
        table = {n: np.full(self.asked, np.nan) for n, v in known.items() if v is not None}
        for name, values in table.items():
            values[list(self.places)] = known[name]
        return table


class Evaluator:
    """Measures policies on held-out prompts, with the same random numbers for the same draws.

    Args:
        env: Environment id or a task's bare name.
        env_kwargs: Arguments of ``gym.make_vec``. Reward and normalisation are replaced, so that
            the score is the scorer's own.
        num_episodes: Number of prompts, in the order of the split; a shorter split is repeated.
        seed: Seed of the prompts' order and the sampling.
        toxicity: Measure of toxicity: folder or hub name of a classifier, or "words" for the
            bundled list: mild insults, and the rude words of Detox and Dialogue. None leaves it
            out.
        by_gold: Take the gold score as the score too, where the task has one: for policies whose
            rewards are scored by different scorers, none of which may be the judge of all.
        warns: Whether a warning names a judge that cannot read the texts.

    Raises:
        ValueError: if ``num_episodes`` is not positive, or the environment or the measure of
            toxicity cannot be made.
    """

    def __init__(
        self,
        env: str,
        env_kwargs: Mapping[str, Any] | None = None,
        *,
        num_episodes: int = EPISODES,
        seed: int = 0,
        toxicity: str | None = None,
        by_gold: bool = False,
        warns: bool = True,
    ) -> None:
        if num_episodes < 1:
            raise ValueError(f"num_episodes must be at least 1, got {num_episodes}")
        self.env = env
        self.num_episodes = num_episodes
        self.seed = seed
        self.envs = make_eval_envs(env, env_kwargs or {}, num_envs=min(num_episodes, ROWS))
        task = _task(self.envs)
        held_out = (env_kwargs or {}).get("prompts") is None  # a list of prompts has no splits
        if 1 < len(task.prompts) < num_episodes:  # a task of one prompt is all about that one
            _say_fewer(len(task.prompts), num_episodes, "held-out prompts" if held_out else OF_LIST)
        self._is_own = is_own_task(env_kwargs or {})
        gold = None if self._is_own else gold_scorer(task.bundle)
        self._had_gold = gold is not None
        if gold is not None and brings_prompts(env_kwargs or {}):
            first = [task.prompts[row].text for row in range(min(ROWS, len(task.prompts)))]
            texts = [Episode(prompt=t, response="", prompt_ids=(), response_ids=()) for t in first]
            gold = self._knowing(gold, task.bundle, texts, warns=warns)
        self.gold = None if gold is None else gold.bind(task.tokenizer)
        """Scorer of the gold score, None if the task has none."""
        self.by_gold = by_gold and gold is not None
        """Whether the score is the gold score."""
        self._has_rivals = by_gold
        self._toxicity: Toxicity | None = None
        if toxicity == "words":
            bundles = (bundled("detox"), bundled("dialogue"))
            rude = [word for bundle in bundles for word in rude_words(bundle.gold)]
            self._toxicity = Toxicity.from_words((*RUDE_WORDS, *rude))
        elif toxicity is not None:
            self._toxicity = Toxicity.from_pretrained(toxicity)
        self._warns = warns
        self._is_checked = False
        self.reads_little = False
        """Whether the scorer cannot read many of the words that it scores; see `check_reading`."""

    @property
    def paid(self) -> "RoundReward":
        """What the environments pay: the raw score."""
        from tokengym.agents.rollouts.rounds import RoundReward

        return RoundReward(self.envs)

    @property
    def measured_by(self) -> str:
        """The scorer of ``score``, and that of ``gold_score`` if there is one, in words."""
        scorer = self.paid.scorer
        return measured_by(
            None if scorer is None else scorer.title,
            None if self.gold is None else self.gold.title,
            by_gold=self.by_gold,
            has_rivals=self._has_rivals,
            is_own=self._is_own,
            has_dropped=self._had_gold and self.gold is None,
        )

    def __call__(
        self,
        agent: "Agent",
        *,
        deterministic: bool = False,
        draws: tuple[int, int] | None = None,
    ) -> Evaluation:
        """Play, score and measure.

        Args:
            agent: Anything `tokengym.agents.collect` plays.
            deterministic: Choose the likeliest token instead of sampling.
            draws: Seed of the run and step of the evaluation: a random subset of the prompts by the
                seed, and sampling by both. None takes the first prompts, and one sampling always.
        """
        from tokengym.agents.rollouts.playing import play_rounds

        check_reads(agent, self.envs)
        episodes: list[Episode] = []
        places: list[int] = []
        asked = 0
        of_rounds: list[torch.Tensor | None] = []
        entropies: list[torch.Tensor | None] = []
        seed, prompt_ids = self._drawn(draws)
        with _global_seed(seed), unmoved(self.paid.rewards):
            how: Any = {"seed": seed, "deterministic": deterministic, "with_entropy": True}
            how["prompt_ids"] = prompt_ids
            for played in play_rounds(agent, self.envs, self.num_episodes, **how):
                # The masks of a round may be a gigabyte: it is measured before the next is played.
                size = min(len(played.episodes), self.num_episodes - asked)
                rows = [n for n in range(size) if played.episodes[n].score is not None]
                places += [asked + row for row in rows]
                asked += size
                if rows:
                    scored = played.select(np.array(rows))
                    episodes += scored.episodes
                    of_rounds.append(_response_kls(agent, scored))
                    entropies.append(_response_entropies(scored))
        if not episodes:
            raise ScorerError(
                f"none of {asked} held-out responses has a score; pass on_error='raise' of the "
                "judge, or on_partner_error='raise', to see why"
            )
        self.check_reading(episodes)
        metrics, gold = self._score_metrics(episodes)
        metrics |= text_metrics(episodes)
        metrics |= self._toxicity_metrics(episodes)
        if (kls := _whole(of_rounds)) is not None:
            metrics["kl"] = float(kls.mean())
        if (sums := _whole(entropies)) is not None:  # of the tokens that could be drawn, exact too
            metrics["entropy"] = float(sums.sum()) / sum(e.num_written for e in episodes)
        return Evaluation(
            metrics=metrics,
            episodes=tuple(episodes),
            gold_scores=gold,
            kls=kls,
            places=tuple(places),
            asked=asked,
            prompt_ids=tuple(prompt_ids or ()),
            by_gold=self.by_gold,
        )

    def _score_metrics(
        self, episodes: Sequence[Episode]
    ) -> tuple[dict[str, float], NDArray[np.float32] | None]:
        """Return the means of score and gold score, and the gold scores (episodes,)."""
        # The scorer's own value, whatever layers of a batch of the user's own pay for it.
        scores: Any = [episode.raw_score for episode in episodes]
        gold = None if self.gold is None else score_finished(self.gold, episodes).values
        found = {"score": gold if self.by_gold else scores, "gold_score": gold}
        return {k: float(np.mean(v)) for k, v in found.items() if v is not None}, gold

    def _toxicity_metrics(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Return the mean toxicity of what the policy wrote; {} if it is not measured."""
        if self._toxicity is None:
            return {}
        # A partner's rudeness is not the policy's.
        own = [replace(e, response=e.written_text) if e.turns else e for e in episodes]
        return {"toxicity": float(np.mean(self._toxicity.score(own).parts["toxicity"]))}

    def _drawn(self, draws: tuple[int, int] | None) -> tuple[int, list[int] | None]:
        """Return the seed of an evaluation, and its prompts; see `__call__`."""
        if draws is None:
            return self.seed, None
        run_seed, step = draws
        # The seed is that of a run: every step of it, and both arms, have the same prompts.
        of_run = np.random.default_rng([self.seed, run_seed])
        count = len(_task(self.envs).prompts)
        orders = [of_run.permutation(count) for _ in range(-(-self.num_episodes // count))]
        seed = np.random.SeedSequence([self.seed, run_seed, step]).generate_state(1)
        return int(seed[0]), np.concatenate(orders)[: self.num_episodes].tolist()

    def check_reading(self, episodes: Sequence[Episode]) -> None:
        """Warn once of judges that cannot read texts; a gold score that knows few words is dropped.

        Args:
            episodes: The first that are measured; what they decide holds for all.
        """
        if self._is_checked:
            return
        self._is_checked = True
        scorer = self.paid.scorer
        share = 0.0 if scorer is None else float(np.mean(scorer.oov_fraction(episodes)))
        self.reads_little = share > MAX_UNREAD_SHARE
        reward = self.paid.reward
        has_said = reward is not None and reward.unread_share is not None
        if scorer is not None and self.reads_little and self._warns and not has_said:
            warn_unread(scorer, share)
        if self.gold is None:
            return
        bundle = _task(self.envs).bundle
        self.gold = self._knowing(self.gold, bundle, episodes, warns=self._warns)
        self.by_gold = self.by_gold and self.gold is not None

    @staticmethod
    def _knowing(
        gold: Scorer, bundle: Bundle | None, episodes: Sequence[Episode], *, warns: bool
    ) -> Scorer | None:
        """Return a gold score, or None, with a warning, if it does not know the texts' words."""
        assert bundle is not None
        if (share := gold_oov_fraction(bundle, gold, episodes)) <= MAX_UNREAD_GOLD_SHARE:
            return gold
        if warns:
            logger.warning(
                "the gold score, %s, does not know %.0f %% of the words, and is left out",
                gold.name,
                100 * share,
            )
        return None

    def resume_reading(self, *, has_gold: bool) -> None:
        """Take over what an earlier evaluator of the same run decided in `check_reading`.

        Args:
            has_gold: Whether it measured the gold score.
        """
        self._is_checked = True
        if not has_gold:
            self.gold, self.by_gold = None, False

    def untrained(
        self,
        model: str | None = None,
        *,
        seed: int = 0,
        device: str = "auto",
        **policy_kwargs: Any,
    ) -> "CausalLMPolicy":
        """Return the policy that training starts from.

        Args:
            model: Folder or hub name of the language model; None takes the task's.
            seed: Seed of its sampling.
            device: Device of the model.
            policy_kwargs: Further arguments of the policy, such as ``lora``.
        """
        from tokengym.agents import PPO
        from tokengym.agents.processes import alone

        if model is not None:
            policy_kwargs["model"] = model
        with alone():  # of processes that train together one measures, and the others may be gone
            # By a learner it has the rows of added tokens and shares the backbone of adapters.
            learner = PPO(
                "CausalLMPolicy",
                self.envs,
                advantage="reinforce",
                n_minibatches=1,
                policy_kwargs=policy_kwargs,
                seed=seed,
                device=device,
            )
        return learner.policy

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()


def _response_kls(agent: "Agent", played: "RolloutBatch") -> torch.Tensor | None:
    """Return the exact KL to the reference of each response, (episodes,) nats; None if unknown.

    KL = sum over the states s_t of a response of KL(pi(.|s_t) || pi_ref(.|s_t))

    Policy and reference are both renormalised over the tokens that could be drawn, by the
    environment's masks and the policy's own top-k, top-p or mask.
    """
    from tokengym.agents import CausalLMPolicy

    policy = policy_of(agent)
    drawn_elsewhere = any(episode.log_probs is None for episode in played.episodes)
    if not isinstance(policy, CausalLMPolicy) or drawn_elsewhere:
        return None
    masks = played.action_masks
    if masks is not None:
        masks = masks.to(policy.device)
    sequences = played.sequences(policy.device)
    of_tokens = policy.token_stats(sequences, masks, name="kl")
    return of_tokens.masked_fill(~sequences.response_mask, 0.0).sum(1, dtype=torch.float64).cpu()


def _response_entropies(played: "RolloutBatch") -> torch.Tensor | None:
    """Return the sum of the entropies of a response's states, (episodes,) nats; None if unknown."""
    if played.entropy is None:
        return None
    own = played.sequences(played.entropy.device).response_mask
    return played.entropy.masked_fill(~own, 0.0).sum(1)


def _whole(rounds: Sequence[torch.Tensor | None]) -> NDArray[np.float64] | None:
    """Return a figure of all responses, (episodes,), if every round has it."""
    known = [one for one in rounds if one is not None]
    return None if len(known) < len(rounds) else torch.cat(known).double().cpu().numpy()


@answers_keywords
def evaluate(
    agent: "Agent",
    env: "str | Environments",
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    num_episodes: int = EPISODES,
    seed: int = 0,
    deterministic: bool = False,
    draws: tuple[int, int] | None = None,
) -> Evaluation:
    """Measure an agent on held-out prompts of a task.

    Args:
        agent: Anything with ``predict``.
        env: Environment id, a task's bare name, or an environment that ``gym.make`` or
            ``gym.make_vec`` made, wrapped or not: another is made like it over the held-out
            prompts, with its scorer, and it stays as it is.
        env_kwargs: Further arguments of ``gym.make_vec``, such as ``bundle`` or ``dataset``.
        num_episodes: Number of prompts.
        seed: The same seed gives the same prompts and the same random numbers; those of an agent
            with a generator of its own are the agent's.
        deterministic: Choose the likeliest token instead of sampling.
        draws: Seed of a run and step of its evaluation: prompts and random numbers are those of
            that row of its curve, where ``seed`` and ``num_episodes`` are the comparison's
            evaluation settings ``seed`` and ``episodes``. None takes the first prompts.

    Returns:
        Means over the episodes, and the episodes.

    Raises:
        ValueError: if a value is out of range or the environment cannot be made.
    """
    if not isinstance(env, str):
        env, made_with = made_like(env)
        env_kwargs = {**made_with, **(env_kwargs or {})}
    evaluator = Evaluator(env, env_kwargs, num_episodes=num_episodes, seed=seed)
    try:
        return evaluator(agent, deterministic=deterministic, draws=draws)
    finally:
        evaluator.close()


def made_like(envs: "Environments") -> tuple[str, dict[str, Any]]:
    """Return the id of an environment, and the arguments that make one like it with its scorer."""
    from tokengym.agents.rollouts.rounds import as_rounds, environment_attribute

    scorer = as_rounds(envs).reward.scorer
    spec = environment_attribute(envs, "spec")
    if spec is None or spec.namespace not in ("tokengym", "own"):
        raise SettingsError(
            "evaluate makes another environment like the one that it is given, which must come "
            "from gym.make or gym.make_vec of a task of tokengym; name a task instead, with its "
            "arguments as env_kwargs, or play this one with tokengym.collect"
        )
    kwargs = {name: value for name, value in spec.kwargs.items() if name not in OF_BATCH}
    if kwargs.get("split") == "train":
        del kwargs["split"]
    if "reward" in kwargs and kwargs["reward"] is None:  # a wrapper pays
        kwargs |= {} if scorer is None else {"reward": "sparse", "scorer": scorer}
    return spec.id, kwargs


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed the global random state for agents that draw from it, and restore it afterwards.

    Those of Stable-Baselines3 do: without it one of their policies had other scores each time.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def unmoved(payers: Iterable[Reward | Scorer]) -> Iterator[None]:
    """Give scorers and rules that learn while they score their states back afterwards.

    They may be those of a training, see `made_like`.
    """
    learning: list[Scorer | Rule] = []
    for payer in payers:
        learning += [payer.scorer, payer.credit] if isinstance(payer, Reward) else [payer]
    states = [copy.deepcopy(one.state_dict()) for one in learning]
    try:
        yield
    finally:
        for one, state in zip(learning, states, strict=True):
            one.load_state_dict(state)


def make_eval_envs(env: str, env_kwargs: Mapping[str, Any], *, num_envs: int) -> VectorEnv:
    """Make environments over the held-out prompts, in order, whose score is the raw one."""
    kwargs = {"split": "test", **env_kwargs}
    # Only the scorer matters here: r3 has another one than the other rewards, some bring their own.
    choice = RewardChoice.of(kwargs.get("reward") or "sparse")
    if (word := choice.undivided) is not None:
        # The rule may credit the episodes later, by columns that the scorer does not read.
        columns = choice.columns
        kwargs["reward"] = RewardChoice.of(word).reading(columns) if columns else word
    kwargs |= {"normalize": None, "prompt_sampling": "sequential"}
    return gym.make_vec(
        resolve_env(env), num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED, **kwargs
    )


def reading(env_kwargs: Mapping[str, Any], rewards: Iterable[str | Spec | Payer]) -> dict[str, Any]:
    """Return arguments of environments that read the columns of further rewards too.

    Args:
        env_kwargs: Arguments of ``gym.make_vec``, as those of `make_eval_envs`.
        rewards: Rewards by which the episodes are credited later.
    """
    if env_kwargs.get("dataset") is None:
        return dict(env_kwargs)
    choice = RewardChoice.of(env_kwargs.get("reward") or "sparse")
    columns = [name for reward in rewards for name in RewardChoice.of(reward).columns]
    return {**env_kwargs, **({"reward": choice.reading(columns)} if columns else {})}


def task_reward(
    env: str,
    env_kwargs: Mapping[str, Any],
    agent: "Agent | None" = None,
    *,
    seed: int = 0,
    num_envs: int = 1,
) -> tuple[Reward, "PreTrainedTokenizerBase"]:
    """Return the reward that a task pays under these arguments, and the policy's tokenizer.

    It scores any episodes, whoever played them.

    Args:
        env: Environment id, or a task's bare name.
        env_kwargs: Arguments of ``gym.make_vec``, ``reward`` among them.
        agent: Continues responses for credit that needs a policy, which is refused without one.
        seed: Seed of the continuations.
        num_envs: Rows of the batch, by whose scores ``normalize="batch"`` centres.

    Raises:
        ValueError: if the environment cannot be made.
    """
    envs: Any = gym.make_vec(resolve_env(env), num_envs=num_envs, **env_kwargs)
    tokenizer = _task(envs).tokenizer
    if agent is not None:
        from tokengym.agents import bind_policy

        bind_policy(envs, agent, seed=seed)
    while not isinstance(envs, VectorRewardWrapper):
        envs = envs.env
    return envs.reward, tokenizer


def check_reads(agent: object, envs: VectorEnv) -> None:
    """Refuse an agent whose policy has another vocabulary, or is too short for the longest text.

    Args:
        agent: A policy, or an agent that may have one.
        envs: The environment.

    Raises:
        ValueError: if it cannot read the prompts.
    """
    from tokengym.agents import CausalLMPolicy
    from tokengym.agents.policy.language_model import check_length, check_vocabulary

    policy = policy_of(agent)
    if isinstance(policy, CausalLMPolicy):
        spaces: Any = envs
        check_vocabulary(policy.language_model, int(spaces.single_action_space.n))
        (length,) = spaces.single_observation_space["input_ids"].shape
        check_length(policy.language_model, length)


def policy_of(agent: object) -> object:
    """Return the policy of an agent, or the agent itself if it is one."""
    return getattr(agent, "policy", agent)


@functools.cache
def _say_fewer(num_prompts: int, num_episodes: int, kind: str) -> None:
    """Log, once, that an evaluation has more episodes than prompts of a kind."""
    logger.warning(
        "there are %d %s for the %d episodes of an evaluation: some prompts are played more than "
        "once",
        num_prompts,
        kind,
        num_episodes,
    )


def _task(envs: VectorEnv) -> TokenGenerationVectorEnv:
    task = envs.unwrapped
    assert isinstance(task, TokenGenerationVectorEnv)
    return task
