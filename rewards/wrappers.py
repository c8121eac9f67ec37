"""Rewards as Gymnasium wrappers, for one environment and for a batch of them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import gymnasium.wrappers.vector
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from tokengym.base.prompt import Prompt
from tokengym.base.registry import did_you_mean
from tokengym.envs.episode import Episode, episodes_from_infos
from tokengym.rewards.arguments import check_columns, columns_of
from tokengym.rewards.credits.names import NAMES, SUPPLIERS
from tokengym.rewards.credits.rule import Rule
from tokengym.rewards.errors import CreditError, NoScoreError, RewardError
from tokengym.rewards.registry import make_reward
from tokengym.rewards.reward import Reward, RewardTraits
from tokengym.rewards.scorers.base import AnyScorer as AnyScorer
from tokengym.rewards.stock import refuse_unscored, tell_stock_learner

AnyEnv = gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]
CHANGING = (
    *(gymnasium.RewardWrapper, gymnasium.wrappers.NormalizeReward),
    *(gymnasium.vector.VectorRewardWrapper, gymnasium.wrappers.vector.NormalizeReward),
)
"""Gymnasium's layers that change rewards."""
Delivery = Literal["step", "end"]
"""When `step` pays: a token when it is written, or the score at the end."""
NamedScorer = AnyScorer | str | Path


class PaysEpisodes:
    """Payment of a step, as the wrapper of one environment and that of a batch have it.

    A causal rule is called on the text so far, and pays its newest token what it gives for it, and
    the last one what is left of the score. Every step scores the whole text so far again: n passes
    over growing texts for a response of n tokens. Learners of this package do without, they read
    the credit of the finished episode.
    """

    reward: Reward
    """What is paid."""
    delivery: Delivery
    """"step" of a causal rule."""
    deferred: bool = False
    """Whether `step` leaves episodes unscored, for a learner that calls ``reward`` itself."""
    env: Any

    @property
    def reward_traits(self) -> RewardTraits:
        """What learners ask of the reward; see `row_attributes`."""
        return self.reward.traits

    def reward_pieces(self, episodes: Sequence[Episode]) -> list[list[range]]:
        """Return the tokens of each response that are paid in one sum."""
        return self.reward.pieces(episodes)

    def _take(self, reward: Reward) -> None:
        self.reward = _bound(self.env, reward)
        self.delivery = "step" if self.reward.credit.causal else "end"
        self._paid: dict[int, tuple[Episode, float]] = {}
        """Text that each row was last paid for, and all that it was paid."""
        self._prefixes: dict[int, NDArray[np.float64]] = {}
        """Scores of that text's prefixes, where each is scored as a text of its own."""
        self._scale: Any = None
        """Running statistics of the scorer that those scores were made with."""

    def _check_policy(self) -> None:
        """Refuse, before a token is written, a rule that reads what no step says of the policy.

        A learner of tokengym.agents, and what else plays through `tokengym.agents.collect`, scores
        the episodes itself, with what its policy says of them.
        """
        credit = self.reward.credit
        name, remedy = next(iter(credit.carried), ""), "play with its collect(agent, env)"
        if credit.needs_policy and self.reward.continuations is None:
            name, remedy = "continue_from", "call its bind_policy(env, agent)"
        if name:
            raise CreditError(
                f"credit {credit.signature.who} reads {name!r}, which env.step is not told; it "
                f"comes from {SUPPLIERS['policy']}, or {remedy}"
            )

    def _pay(
        self, unfinished: Mapping[int, Episode], ended: Mapping[int, Episode]
    ) -> tuple[dict[int, float], dict[int, Episode]]:
        """Return what a step pays by row, and the episodes that ended with their scores.

        Args:
            unfinished: Texts so far, with a token at least, of the rows that appended a token and
                did not end, where the credit is paid as tokens earn it.
            ended: Episodes that ended, by row.
        """
        paid: dict[int, float] = {}
        episodes = list(ended.values())
        if unfinished:
            # The rows that ended are not scored yet: a failure here must not lose them.
            with self.reward.scoring(len(unfinished), episodes):
                paid = self._pay_newest(unfinished)
        if not ended:
            return paid, {}
        scored = dict(zip(ended, self.reward.evaluate(episodes), strict=True))
        if self.delivery == "end" and any(map(_earned_before, scored.values())):
            tell_stock_learner(self.reward.credit.name)
        if self.reward.scorer.skips or any(one.score is None for one in scored.values()):
            refuse_unscored()
        for row, episode in scored.items():
            if episode.score is None or episode.token_rewards is None:
                paid[row] = 0.0  # nothing more; what its steps were paid stays
            elif self.delivery == "step":
                paid[row] = episode.score - self._paid_before(row, episode, episode.token_rewards)
            else:
                paid[row] = episode.score
            self._paid.pop(row, None)
            self._prefixes.pop(row, None)
        return paid, scored

    def _pay_newest(self, texts: Mapping[int, Episode]) -> dict[int, float]:
        """Return the reward of each row's newest token, with that of a reply to it."""
        # Running statistics, which finished texts move; a scorer of one's own may return its own.
        scale = copy.deepcopy(self.reward.scorer.state_dict())
        if scale != self._scale:
            self._prefixes, self._scale = {}, scale
        paid = {}
        for row, tokens in self._earned(texts).items():
            text = texts[row]
            paid[row] = float(tokens[_newest(text)])
            self._paid[row] = text, self._paid_before(row, text, tokens) + paid[row]
        return paid

    def _earned(self, texts: Mapping[int, Episode]) -> dict[int, NDArray[np.float64]]:
        """Return what a rule gives the tokens of texts so far, (n,) by row.

        A rule asks for all texts at once, and one by one where an answer is missing. Where it asks
        for what has no score nothing is earned yet, and the last token gets what is left.
        """
        reward = self.reward
        known = [
            self._prefixes.get(row, np.zeros(0)) if self._continues(row, text) else np.zeros(0)
            for row, text in texts.items()
        ]
        try:
            with reward.crediting(len(texts)):
                inputs = reward.inputs([*texts.values()], ended=False, prefixes=known)
                rewards = inputs.placed(reward.credit(inputs)[0])
                known = inputs.prefixes or known
        except NoScoreError:
            reward.scorer.load_state_dict(self._scale)
            if len(texts) > 1:
                alone = [self._earned({row: text}) for row, text in texts.items()]
                return {row: tokens for one in alone for row, tokens in one.items()}
            rewards = [np.zeros(len(text.response_ids)) for text in texts.values()]
        reward.scorer.load_state_dict(self._scale)
        self._prefixes.update(zip(texts, known, strict=True))
        return dict(zip(texts, rewards, strict=True))

    def _continues(self, row: int, text: Episode) -> bool:
        """Return whether a text is the one that its row was last paid for, and one token more."""
        last_text, _ = self._paid.get(row, (None, 0.0))
        return (
            last_text is not None
            and (last_text.prompt, last_text.prompt_ids) == (text.prompt, text.prompt_ids)
            and last_text.response_ids == text.response_ids[: _newest(text)]
        )

    def _paid_before(self, row: int, text: Episode, tokens: NDArray[np.floating]) -> float:
        """Return what a row was paid before its newest token: of a fork, what ``tokens`` (n,) say.

        A fork is a text that does not continue the one that the row was last paid for.
        """
        if self._continues(row, text):
            return self._paid[row][1]
        return float(tokens[: _newest(text)].sum(dtype=np.float64))

    def _show(self, *values: Any) -> None:
        """Let an environment that renders show token rewards."""
        show = getattr(self.env.unwrapped, "show_token_rewards", None)
        if show is not None and self.env.render_mode is not None:
            show(*values)


class RewardWrapper(PaysEpisodes, gymnasium.Wrapper):
    """Pays an environment's episodes: the score at the terminal step, the credit in ``info``.

    A credit known in hindsight leaves ``step`` at 0 until the episode ends and returns the whole
    score then, so the environment stays a Markov decision process for any agent;
    ``info["token_rewards"]`` carries the redistribution for agents that train densely. A causal
    credit is returned step by step, and stands in ``info["token_rewards"]`` at the end as well.
    ``score`` and ``score_parts`` of the terminal info are filled too. The rewards that the wrapped
    environment pays itself are replaced.

    Args:
        env: A `TokenGenerationEnv`, or one in wrappers that keep its info.
        reward: What to pay.
        in_spec: Whether ``spec`` records the wrapper. The registered ids make it themselves from
            their ``reward`` argument and leave it out.

    Raises:
        RewardError: if the environment has no tokenizer, or a layer inside changes rewards, which
            this one would replace.
        ScorerError: if the scorer needs columns that the environment's data lack.
        TokenizerError: if the scorer cannot read the environment's token ids.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], reward: Reward, *, in_spec: bool = True
    ) -> None:
        super().__init__(env)
        self._take(reward)
        self._in_spec = in_spec

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The environment's spec."""
        return super().spec if self._in_spec else self.env.spec

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Append one token; the step that ends the episode returns its score, or what is left."""
        if not self.deferred:
            self._check_policy()
        observation, _, terminated, truncated, info = self.env.step(action)
        if self.deferred:
            return observation, 0.0, terminated, truncated, info
        unfinished, ended = {}, {}
        if terminated or truncated:
            ended = {0: Episode.from_info(info, scored=False)}
        elif self.delivery == "step" and "waiting" not in info:
            unfinished = {0: self.env.get_wrapper_attr("unfinished_episode")()}
        paid, scored = self._pay(unfinished, ended)
        for episode in scored.values():
            info["score"] = np.nan if episode.score is None else episode.score
            info["score_parts"] = dict(episode.score_parts)
            if episode.token_rewards is not None:
                info["token_rewards"] = episode.token_rewards.copy()
                self._show(episode.token_rewards)
        return observation, paid.get(0, 0.0), terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the tokens that are legal next, bool (vocab,)."""
        return self.env.get_wrapper_attr("action_masks")()


class VectorRewardWrapper(PaysEpisodes, VectorWrapper):
    """`RewardWrapper` for a batch: every episode that ends in a step is scored in one batch.

    Works in every autoreset mode; the terminal information stays where the mode puts it.

    Args:
        env: A `TokenGenerationVectorEnv`, or a ``SyncVectorEnv`` of single ones.
        reward: What to pay.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], reward: Reward) -> None:
        super().__init__(env)
        self._take(reward)

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Append one token to each row, (num_envs,); those that end return score or rest."""
        if not self.deferred:
            self._check_policy()
        observations, values, terminated, truncated, infos = self.env.step(actions)
        values = np.zeros_like(values)
        if not self.deferred:
            ended = episodes_from_infos(infos, unscored=range(self.num_envs))
            continues = ~(terminated | truncated | infos.get("waiting", np.False_))
            rows = np.flatnonzero(continues).tolist() if self.delivery == "step" else []
            paid, scored = self._pay(self._unfinished(rows), ended)
            values[list(paid)] = list(paid.values())
            if scored:
                self._write(scored, infos)
        return observations, values, terminated, truncated, infos

    def _unfinished(self, rows: list[int]) -> dict[int, Episode]:
        """Return the texts of rows that have a token, those not only just begun, by row."""
        base: Any = self.env.unwrapped
        if not rows:
            return {}
        if hasattr(base, "unfinished_episodes"):
            texts = base.unfinished_episodes(rows)
        else:  # Gymnasium's batches of single environments
            every = base.call("unfinished_episode")
            texts = [every[row] for row in rows]
        return {row: text for row, text in zip(rows, texts, strict=True) if text.response_ids}

    def _write(self, scored: Mapping[int, Episode], infos: dict[str, Any]) -> None:
        """Write scores and token rewards of the rows that ended into a step's infos."""
        written = infos.get("final_info", infos)
        written["score"] = np.array(written["score"], dtype=np.float64)
        written["token_rewards"] = np.array(written["token_rewards"], dtype=np.float32)
        parts: dict[str, NDArray[Any]] = {}
        written["score_parts"] = parts
        for row, episode in scored.items():
            written["score"][row] = np.nan if episode.score is None else episode.score
            written["token_rewards"][row] = 0.0
            if episode.token_rewards is not None:
                written["token_rewards"][row, : len(episode.response_ids)] = episode.token_rewards
            for name, part in episode.score_parts.items():
                parts.setdefault(name, np.zeros(self.num_envs))[row] = part
                parts.setdefault(f"_{name}", np.zeros(self.num_envs, dtype=np.bool_))[row] = True
        if written is infos:  # in SAME_STEP mode the rows are in their next episode already
            self._show(infos["token_rewards"], [*scored])

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the tokens that are legal next, bool (num_envs, vocab)."""
        return self.env.action_masks()


def CreditReward(
    env: AnyEnv,
    scorer: NamedScorer | None = None,
    credit: Rule | Callable[..., Any] | str = "sparse",
) -> Any:
    """Return the environment with a reward: a `RewardWrapper`, or a `VectorRewardWrapper`.

    Args:
        env: An environment or a batch of them.
        scorer: A scorer, a function (see `FunctionScorer`), or a path; None takes the bundle's.
        credit: The name of a reward with its options, or a function that `token_credit` marked.

    Raises:
        RewardError: if there is no scorer, or it lacks what the credit needs.
    """
    if not isinstance(env, VectorEnv | gymnasium.Env):
        raise TypeError(
            f"env must be a Gymnasium Env or VectorEnv, got {env!r}; make it with gym.make"
        )
    if credit is None:
        raise RewardError("credit must be a rule or its name, got None; e.g. credit='uniform'")
    base = _first(env)
    max_len, bundle = getattr(base, "max_new_tokens", None), getattr(base, "bundle", None)
    reward = make_reward(credit, bundle=bundle, scorer=scorer, max_len=max_len)
    wrapper: Any = VectorRewardWrapper if isinstance(env, VectorEnv) else RewardWrapper
    return wrapper(env, reward)


def SparseReward(env: AnyEnv, scorer: NamedScorer | None = None) -> Any:
    """Return the environment with the whole score on the last token; see `CreditReward`."""
    return CreditReward(env, scorer, "sparse")


def UniformReward(env: AnyEnv, scorer: NamedScorer | None = None) -> Any:
    """Return the environment with the score in equal parts; see `CreditReward`."""
    return CreditReward(env, scorer, "uniform")


def ABCReward(env: AnyEnv, scorer: NamedScorer | None = None, *, beta: float = 0.8) -> Any:
    """Return the environment with the score spread by the reward model's attention.

    Args:
        env: An environment or a batch of them.
        scorer: A `RewardModel` or its path; None takes the bundle's.
        beta: Share of the score that is spread.

    Source: Chan et al. 2024, arXiv:2402.00782.
    """
    from tokengym.rewards.credits.abc import abc

    return CreditReward(env, scorer, Rule(abc, beta=beta))


def R3Reward(env: AnyEnv, scorer: NamedScorer | None = None, *, dense: bool = False) -> Any:
    """Return the environment with the regularised relevance reward.

    Args:
        env: An environment or a batch of them.
        scorer: A `Relevance` or the path of an encoder; None takes the bundle's.
        dense: Whether tokens get their exact parts of the score, or the last token all of it.

    Source: Kim et al. 2024, arXiv:2402.03469.
    """
    return CreditReward(env, scorer, "r3-dense" if dense else "r3")


def _first(env: Any) -> Any:
    """Return the environment inside all wrappers; of Gymnasium's batches the first copy."""
    return getattr(env.unwrapped, "envs", [env])[0].unwrapped


def _bound(env: AnyEnv, reward: Reward) -> Reward:
    """Return the reward for this environment's tokens, refusing what cannot be paid."""
    if not isinstance(reward, Reward):
        raise TypeError(
            f"reward must be a Reward, got {reward!r}; build one with make_reward, or use "
            "CreditReward(env, scorer, credit)"
        )
    base = _first(env)
    tokenizer = getattr(base, "tokenizer", None)
    if tokenizer is None:
        raise RewardError(
            f"{env.unwrapped} has no tokenizer, so it is no token-generation environment; "
            "wrap TokenGenerationEnv or TokenGenerationVectorEnv"
        )
    _refuse_replaced(env)
    check_columns(reward.scorer_name, reward.scorer.data_columns, base.prompts)
    _check_rule_columns(reward.credit, base.prompts)
    if "turn_scores" in reward.credit.reads and not has_partner(getattr(base, "settings", None)):
        raise CreditError(
            f"credit {reward.credit.signature.who} reads 'turn_scores', and nobody scores single "
            "turns here; make the environment with partner=..."
        )
    return reward.bind(tokenizer)


def has_partner(settings: Any) -> bool:
    """Return whether an environment of these settings has a partner; True where none are known."""
    return settings is None or getattr(settings, "partner", True) is not None


def _check_rule_columns(rule: Rule, prompts: Sequence[Prompt]) -> None:
    """Refuse a rule that reads what is neither a name of the table nor a column of the prompts."""
    columns = rule.reads_of("data")
    there = columns_of(prompts) if columns else []
    columns_there = f"are {', '.join(there)}" if there else "is none here"
    for column in columns:
        if column not in there:
            raise CreditError(
                f"credit {rule.signature.who} reads {column!r}, which nobody supplies; "
                f"{did_you_mean(column, [*NAMES, *there], n=1)}it could also be a column of the "
                f"data (there {columns_there}), or an option of the rule, which needs a default: "
                f"{column}=1.0"
            )
    if "references" in rule.reads and all(prompt.reference is None for prompt in prompts):
        raise CreditError(
            f"credit {rule.signature.who} reads references, which the prompts lack; pass "
            "reference_column="
        )


def _refuse_replaced(env: Any) -> None:
    """Refuse layers inside a reward layer whose rewards it would replace."""
    while isinstance(env, gymnasium.Wrapper | VectorWrapper):
        if isinstance(env, CHANGING):
            raise RewardError(
                f"{type(env).__name__} is inside the reward layer, which replaces what it pays; "
                "put it around the reward layer"
            )
        env = env.env
    for row in getattr(env, "envs", ()):
        _refuse_replaced(row)


def _earned_before(episode: Episode) -> bool:
    """Return whether a token earned something before the last one, to which `step` pays all."""
    rewards = episode.token_rewards
    return rewards is not None and bool(rewards[: _newest(episode)].any())


def _newest(text: Episode) -> int:
    """Return the place of the token that the policy wrote last."""
    if text.written is None:
        return len(text.response_ids) - 1
    return int(np.flatnonzero(text.written)[-1])
