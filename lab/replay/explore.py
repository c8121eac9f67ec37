"""Exploration of one response: the credit of its tokens, their alternatives, and forks from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokengym.agents import CausalLMPolicy
from tokengym.agents.rollouts import GivenPrompts, as_sampler, at_temperature
from tokengym.envs import (
    UNPLAYED,
    Episode,
    PromptError,
    TokenGenerationVectorEnv,
    token_texts,
    tokenize,
)
from tokengym.evaluation.measure import Evaluator, check_reads, resolve_env
from tokengym.lab.replay.agreement import Array, forked_worth
from tokengym.lab.replay.executed import Forks, written_places
from tokengym.lab.replay.replay import Replay, measured_truth, replay, scores_of
from tokengym.rewards.models import longest_input

AGENT = "agent"
"""Name of the folder in which ``tokengym train`` saves the agent."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """A sampled response with its scores and every rule's credit."""

    replay: Replay
    """Its token rewards under every rule; holds this one episode."""
    score: float
    """Score by the task's own scorer."""
    gold_score: float | None
    """None if the task has none, or it does not know the prompt."""
    unknown: tuple[str, ...]
    """Words that the tokenizer does not know, of the prompt and of the response."""
    stored_score: float | None = None
    """Score that a stored response came with; None for a sampled one, or where there was none."""

    @property
    def episode(self) -> Episode:
        """The response."""
        return self.replay.episodes[0]

    @property
    def tokens(self) -> tuple[str, ...]:
        """Text of each token."""
        return self.replay.tokens[0]


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A token that the policy could have chosen."""

    token_id: int
    """Its id."""
    text: str
    """Its text."""
    probability: float
    """Probability of being sampled there."""
    is_taken: bool
    """Whether it is the token of the response."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Continuations of a response from one token on."""

    token_id: int
    """The token that they have in common after the part that is kept."""
    episodes: tuple[Episode, ...]
    """The whole responses, scored."""
    tokens: tuple[tuple[str, ...], ...]
    """Per episode the text of each token."""
    gold_scores: Array | None
    """(episodes,), None if the task has no gold score."""

    @property
    def scores(self) -> Array:
        """(episodes,), NaN where the scorer gave none."""
        return scores_of(self.episodes)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Mean of a score with the token that was taken and with another, and their difference.

    The means are of the pairs of continuations that both have a score.
    """

    taken: float
    """Mean with the token of the response."""
    other: float
    """Mean with the other token."""
    error: float | None
    """Standard error of the difference, None for fewer than two pairs."""
    pairs: int
    """Number of pairs; without any the means are NaN."""

    @property
    def difference(self) -> float:
        """The other token's mean minus that of the token taken."""
        return self.other - self.taken


@dataclass(frozen=True, kw_only=True)
class Fork:
    """A response continued from one token on, with the token it has there and with another."""

    time: int
    """Index of the token."""
    taken: Branch
    """With the token of the response."""
    other: Branch
    """With the other token."""
    without: Array
    """(continuations,) scores where the policy chooses the token itself; NaN where the scorer gave
    none."""

    @property
    def worth(self) -> tuple[float, float, float]:
        """Executed worth of the token taken, and the ends of its interval.

        Continuations without a score are left out; NaN where all with the token, or all without
        it, have none.
        """
        without, taken = _known(self.without), _known(self.taken.scores)
        if not (without.size and taken.size):
            return math.nan, math.nan, math.nan
        every = np.concatenate([without, taken, _known(self.other.scores)])
        bounds = (float(every.min()), float(every.max()))
        return forked_worth(without, taken, bounds=bounds)

    @property
    def score(self) -> Change:
        """Change of the score."""
        return _change(self.taken.scores, self.other.scores)

    @property
    def gold_score(self) -> Change | None:
        """Change of the gold score, None if the task has none."""
        if self.taken.gold_scores is None or self.other.gold_scores is None:
            return None
        return _change(self.taken.gold_scores, self.other.gold_scores)


class Explorer:
    """Samples responses of one policy in one task, and changes single tokens of them.

    Args:
        env: Environment id, or a task's bare name.
        env_kwargs: Further arguments of ``gym.make_vec``, such as ``bundle`` or ``scorer``.
        agent: Anything `tokengym.agents.collect` plays; None takes the policy that training starts
            from.
        model: Folder or hub name of that policy's language model; None takes the task's.
    """

    def __init__(
        self,
        env: str,
        env_kwargs: Mapping[str, Any] | None = None,
        agent: Any | None = None,
        *,
        model: str | None = None,
    ) -> None:
        self.env, self.env_kwargs = resolve_env(env), dict(env_kwargs or {})
        evaluator = Evaluator(self.env, self.env_kwargs, num_episodes=1)
        if agent is not None:
            check_reads(agent, evaluator.envs)
        self.agent = evaluator.untrained(model) if agent is None else agent
        task = evaluator.envs.unwrapped
        assert isinstance(task, TokenGenerationVectorEnv)
        self.task = task
        """The bare environment."""
        self.tokenizer = task.tokenizer
        """The tokenizer whose ids are the actions."""
        self._chosen = GivenPrompts(evaluator.envs)
        (self._reward,) = evaluator.paid.rewards
        self._gold = evaluator.gold
        self._prompt_ids = {prompt.text: id for id, prompt in enumerate(self._chosen.prompts)}

    @property
    def temperature(self) -> float | None:
        """The policy's own temperature; None for an agent that has none."""
        return getattr(getattr(self.agent, "policy", self.agent), "temperature", None)

    @property
    def longest_prompt(self) -> int | None:
        """Most tokens that the model reads before a response; None if it names no limit."""
        policy = self._policy
        limit = None if policy is None else longest_input(policy.language_model.model)
        return None if limit is None else limit - self._chosen.settings.max_new_tokens

    @property
    def _policy(self) -> CausalLMPolicy | None:
        """The policy that is played, where it tells its probabilities."""
        policy = getattr(self.agent, "policy", self.agent)
        return policy if isinstance(policy, CausalLMPolicy) else None

    def _telling_policy(self) -> CausalLMPolicy:
        """Return the policy that is played; an agent without one is refused."""
        if (policy := self._policy) is None:
            raise ValueError(
                f"{type(self.agent).__name__} does not tell its probabilities; explore an agent "
                "whose policy is a CausalLMPolicy"
            )
        return policy

    def draw_prompt(self, seed: int) -> str:
        """Return the text of one of the task's held-out prompts."""
        prompts = self._chosen.prompts
        return prompts[int(np.random.default_rng(seed).integers(len(prompts)))].text

    def sample(
        self,
        prompt: str,
        rewards: Sequence[str],
        *,
        seed: int = 0,
        temperature: float | None = None,
        greedy: bool = False,
    ) -> Response:
        """Return one response with its scores and the credit of every rule.

        Args:
            prompt: Text of the prompt; one of the task's brings its reference along.
            rewards: Rules by name, options after a colon.
            seed: Seed of the sampling, which agents without generator ignore.
            temperature: Temperature of the sampling; None takes the policy's own.
            greedy: Take the likeliest tokens instead.
        """
        known = self._prompt_ids.get(prompt)
        begun = self._encoded(prompt) if known is None else known
        with at_temperature(self.agent, temperature):
            player = as_sampler(self.agent, seed=seed)
            (episode,) = self._chosen.play(player, [begun], deterministic=greedy)
        return self.shown(episode, rewards)

    def shown(self, episode: Episode, rewards: Sequence[str], *, paid_by: str = "") -> Response:
        """Return a finished response, whoever wrote it, as `sample` does.

        Args:
            episode: The response.
            rewards: Rules by name, options after a colon.
            paid_by: Name under which the token rewards that it came with are shown; empty shows
                none.
        """
        (scored,), gold = self._scored([episode])
        result = replay(
            [replace(scored, token_rewards=episode.token_rewards) if paid_by else scored],
            rewards,
            env=self.env,
            env_kwargs=self.env_kwargs,
            policy=self._policy,
            paid_by=paid_by,
        )
        return Response(
            replay=result,
            score=math.nan if scored.score is None else scored.score,
            gold_score=None if gold is None else float(gold[0]),
            unknown=self._unknown_words(scored),
        )

    def measured(
        self, response: Response, *, k: int = 8, temperature: float | None = None
    ) -> Response:
        """Return a response whose truth is the executed worth of each of its tokens.

        Args:
            response: Returned by `sample` or `shown`.
            k: Continuations of every beginning of the response, an even number.
            temperature: As of `sample`.
        """
        policy, episodes = self._telling_policy(), response.replay.episodes
        with at_temperature(policy, temperature):
            truth = measured_truth(self.env, self.env_kwargs, episodes, policy, Forks(k=k))
        return replace(response, replay=response.replay.with_truth(truth))

    def longest_measurement(self, response: Response, k: int) -> int:
        """Return the most tokens that `measured` may sample."""
        longest = self._chosen.settings.max_new_tokens
        return k * sum(max(longest - place, 0) for place in written_places(response.episode))

    def _unknown_words(self, episode: Episode) -> tuple[str, ...]:
        """Return the words of a text that the tokenizer has no tokens for, each once."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown not in (*episode.prompt_ids, *episode.response_ids):
            return ()
        words = dict.fromkeys(f"{episode.prompt} {episode.response}".split())
        read = tokenize(self.tokenizer, [*words])
        return tuple(word for word, one in zip(words, read, strict=True) if unknown in one.ids)

    def alternatives(
        self, response: Response, time: int, *, temperature: float | None = None, count: int = 8
    ) -> list[Alternative]:
        """Return the likeliest tokens at a place of a response, the one taken among them.

        The probabilities are those of sampling: after temperature, action mask, top-k and top-p.

        Args:
            response: Returned by `sample`.
            time: Index of the token.
            temperature: As of `sample`.
            count: Number of tokens; the one taken is added if it is less likely.
        """
        policy = self._telling_policy()
        _, observation, infos = self._before(response, time)
        text = observation["input_ids"][0][observation["attention_mask"][0] == 1].tolist()
        with at_temperature(policy, temperature), torch.inference_mode():
            logits = policy.next_logits([text], infos["action_mask"])[0]
        probabilities = logits.double().softmax(-1).cpu().numpy()
        before, taken = response.episode.response_ids[:time], response.episode.response_ids[time]
        likeliest = np.argsort(-probabilities, kind="stable")[:count]
        shown = dict.fromkeys([*likeliest[probabilities[likeliest] > 0].tolist(), int(taken)])
        return [
            Alternative(
                token_id=token_id,
                text=token_texts(self.tokenizer, [*before, token_id])[-1],
                probability=float(probabilities[token_id]),
                is_taken=token_id == taken,
            )
            for token_id in shown
        ]

    def fork(
        self,
        response: Response,
        time: int,
        token_id: int,
        *,
        n: int = 16,
        greedy: bool = False,
        seed: int = 0,
        temperature: float | None = None,
    ) -> Fork:
        """Continue a response from one token on, with the token it has there and with another.

        Both continue with the same random numbers, so that their difference varies less.

        Args:
            response: Returned by `sample`.
            time: Index of the token.
            token_id: The other token.
            n: Number of continuations of each.
            greedy: Take the likeliest tokens instead; one continuation of each.
            seed: Seed of the continuations.
            temperature: As of `sample`.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1 continuation, got {n}")
        generator = torch.Generator()
        before, branches = _beginning(response.episode, time), []
        with at_temperature(self.agent, temperature):
            for chosen in (int(response.episode.response_ids[time]), token_id):
                player = as_sampler(self.agent, generator.manual_seed(seed))
                branches.append(self._branch(response, time, chosen, player, n, greedy))
            player = as_sampler(self.agent, generator.manual_seed(seed + 1))
            continuations = self._continued(response, before, player, n, greedy)
        without = scores_of(self._scored(continuations)[0])
        return Fork(time=time, taken=branches[0], other=branches[1], without=without)

    def _continued(
        self, response: Response, begun: Episode, player: Any, n: int, greedy: bool
    ) -> list[Episode]:
        """Return the responses that the player makes of a beginning, unscored."""
        episode = replace(response.episode, **UNPLAYED, written=None)
        count = 1 if greedy else n
        played = self._chosen.play(
            player, [episode] * count, beginnings=[begun] * count, deterministic=greedy
        )
        names = ("response", "response_ids", "finish_reason", "turns", "written")
        return [replace(episode, **{name: getattr(p, name) for name in names}) for p in played]

    def _branch(
        self, response: Response, time: int, token_id: int, player: Any, n: int, greedy: bool
    ) -> Branch:
        """Return continuations of a response after another token."""
        one, _, infos = self._before(response, time)
        (mask,) = infos["action_mask"]
        if not (0 <= token_id < len(mask) and mask[token_id]):
            raise ValueError(
                f"token {token_id} is not allowed at position {time}; choose an alternative of "
                "positive probability"
            )
        _, _, terminated, truncated, infos = one.step(np.array([token_id]))
        if terminated[0] or truncated[0]:  # every continuation is the same
            ends = {name: infos[name][0] for name in ("response", "response_ids", "finish_reason")}
            if response.episode.written is not None:
                written = infos["written"][0][: len(ends["response_ids"])]
                ends |= {"turns": infos["turns"][0], "written": written}
            episode = replace(response.episode, **UNPLAYED, written=None)
            played = [replace(episode, **ends)] * (1 if greedy else n)
        else:
            (begun,) = one.unfinished_episodes([0])
            played = self._continued(response, begun, player, n, greedy)
        scored, gold = self._scored(played)
        return Branch(
            token_id=token_id,
            episodes=tuple(scored),
            tokens=tuple(tuple(token_texts(self.tokenizer, e.response_ids)) for e in scored),
            gold_scores=gold,
        )

    def _before(
        self, response: Response, time: int
    ) -> tuple[TokenGenerationVectorEnv, Any, dict[str, Any]]:
        """Return an environment before a token of a response, its observation and infos."""
        episode = response.episode
        if not 0 <= time < len(episode.response_ids):
            raise ValueError(
                f"time must be the index of one of {len(episode.response_ids)} tokens, got {time}"
            )
        if episode.written is not None and not episode.written[time]:
            role = next(turn.role for turn in episode.turns if turn.span[1] > time)
            raise ValueError(
                f"token {time} is of a reply (role {role!r}), which the policy did not write; "
                "choose one of the policy's"
            )
        one, options = self._chosen.begin([episode], [_beginning(episode, time)])
        return one, *one.reset(options=options)

    def _encoded(self, text: str) -> Any:
        """Return a prompt that is not one of the task's."""
        typed, limit = self._chosen.encode(text), self.longest_prompt
        if limit is not None and len(typed.ids) > limit:
            raise PromptError(
                f"the prompt has {len(typed.ids)} tokens, the model reads {limit} before a "
                f"response of {self._chosen.settings.max_new_tokens}; shorten the prompt"
            )
        return typed

    def _scored(self, episodes: Sequence[Episode]) -> tuple[list[Episode], Array | None]:
        """Return the episodes with their scores, and their gold scores."""
        scored = self._reward.evaluate(list(episodes))
        if self._gold is None:
            return scored, None
        try:
            return scored, np.asarray(self._gold.score(scored).values, dtype=np.float64)
        except ValueError:  # a score of answers knows its own questions only
            if scored[0].prompt in self._prompt_ids:
                raise
            return scored, None


def _beginning(episode: Episode, time: int) -> Episode:
    """Return an episode as it was before one of its written tokens."""
    return replace(
        episode,
        response_ids=episode.response_ids[:time],
        turns=tuple(turn for turn in episode.turns if turn.span[1] <= time),
        written=None if episode.written is None else episode.written[:time],
        **UNPLAYED,
        finish_reason=None,
    )


def saved_agents(folder: Path) -> list[Path]:
    """Return the folders of the agents that were saved below a folder, or in it."""
    agent_folders = (path.parent for path in folder.glob(f"**/{AGENT}/*.json"))
    return sorted({path for path in agent_folders if "unfinished" not in path.parts})


def agent_folder(path: Path) -> Path:
    """Return the folder of a saved agent, given itself or the folder of its run."""
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; name one that tokengym train or agent.save wrote")
    return path / AGENT if (path / AGENT).is_dir() else path


def _change(taken: Array, other: Array) -> Change:
    """Return the means and the standard error of the paired difference; see `Change`."""
    both = ~np.isnan(other - taken)
    taken, other, count, error = taken[both], other[both], int(both.sum()), None
    if not count:
        return Change(taken=math.nan, other=math.nan, error=None, pairs=0)
    if count > 1:
        error = float(np.std(other - taken, ddof=1) / np.sqrt(count))
    return Change(taken=float(taken.mean()), other=float(other.mean()), error=error, pairs=count)


def _known(scores: Array) -> Array:
    """Return the scores that there are."""
    return scores[~np.isnan(scores)]
