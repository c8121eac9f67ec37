"""Best-of-n: the best of several responses by a scorer, without training anything."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.agents import TrainingRun, Update, takes_no_policy_name
from tokengym.agents.offline import Candidates, ResponseCollector, best_episode, make_policy
from tokengym.agents.rollouts import Environments, SampledTokens
from tokengym.base import accepts_settings, from_keywords
from tokengym.envs import Vocabulary
from tokengym.rewards import Scorer

Plan = tuple[int, ...]
"""The ids of a whole response."""


class BestOfN:
    """Writes n responses to each prompt, scores them, and gives the best one token by token.

    An agent acts token by token and is judged by whole responses, so at the start of an episode
    this one plays n candidates to their end, in a private copy of the environment, and replays the
    best. It costs n times the tokens at every use (`num_tokens` counts them); nothing is trained.

    Args:
        agent: Writes the candidates: anything `tokengym.agents.collect` plays, or the path, name or
            object of a language model; None takes the environment's bundled one.
        env: The environment: its rules, and its reward's scorer unless one is given. It is not
            stepped, and may be the one that the agent is then played in.
        n: Candidates per prompt.
        scorer: Ranks the candidates; None takes the environment's scorer, not normalised.
        max_rows: Most candidates written at a time.
        seed: Seed of the candidates, if ``agent`` is a model; an agent has its own.
        candidates: Other fields of `Candidates`: ``temperatures`` and ``length_penalty``.

    Source: Stiennon et al. 2020, arXiv:2009.01325; Nakano et al. 2021, arXiv:2112.09332.
    """

    @takes_no_policy_name("(None, envs): the environment's model writes the candidates")
    @accepts_settings(Candidates)
    def __init__(
        self,
        agent: Any,
        env: Environments,
        *,
        n: int = 16,
        scorer: Scorer | None = None,
        max_rows: int = 256,
        seed: int = 0,
        **candidates: Any,
    ) -> None:
        sampling = from_keywords(Candidates, {"n": n, **candidates}, owner="BestOfN")
        self.collector = ResponseCollector(env, scorer=scorer, sampling=sampling, max_rows=max_rows)
        given: Any = agent
        plays = callable(getattr(given, "predict", None))
        self.agent: Any = given if plays else make_policy(env, given, seed=seed)

    @property
    def n(self) -> int:
        """Candidates per prompt."""
        return self.collector.sampling.n

    @property
    def kl_bound(self) -> float | None:
        """Largest KL of its responses to the agent's own: log n - (n - 1) / n, nats.

        None where ``temperatures`` has another than the agent's: the bound is to what the
        candidates are drawn from.
        """
        return self.collector.kl_bound(self.agent)

    @property
    def num_tokens(self) -> int:
        """Response tokens sampled so far, those of the candidates that lost included."""
        return self.collector.num_tokens

    def plan(
        self, observation: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> list[Plan]:
        """Return the best response to the prompt of each row.

        Args:
            observation: ``input_ids`` and ``attention_mask``, (rows, length), responses empty.
            generator: Source of the candidates; None continues the agent's own.

        Returns:
            (rows,) token ids, EOS included where it was sampled.
        """
        prompts = self.collector.chosen.recognise(observation)
        plans = []
        groups = self.collector.write(self.agent, prompts, generator)
        for group, scored in zip(groups, self.collector.score(groups), strict=True):
            # A row needs an answer, also where no candidate has a score.
            penalty = self.collector.sampling.length_penalty
            best = best_episode(scored, penalty) if scored else group[0]
            plans.append(tuple(best.response_ids))
        return plans

    def sampler(self, generator: torch.Generator | None = None) -> Any:
        """Return the player of whole rounds; see `tokengym.agents.collect`.

        Args:
            generator: Source of the candidates; None continues the agent's own.
        """
        return _Replay(self, generator)

    def predict(
        self,
        observation: Any,
        state: list[Plan] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.generic] | None = None,
    ) -> tuple[NDArray[np.int64], list[Plan]]:
        """Return the next token of one observation or of a batch.

        Args:
            observation: ``input_ids`` and ``attention_mask``, (length,) or (batch, length).
            state: Second result of the last call: the rest of each row's response.
            episode_start: (batch,) True where an episode begins and a response must be found;
                without ``state`` all begin.
            deterministic: Ignored: candidates must differ.
            action_masks: Ignored: the environment's rules are known.

        Returns:
            Token ids, () or (batch,), and the rest of each row's response. A row whose response is
            over gets EOS.
        """
        del deterministic, action_masks
        single = np.ndim(observation["input_ids"]) == 1
        rows = {name: np.atleast_2d(observation[name]) for name in ("input_ids", "attention_mask")}
        count = len(rows["input_ids"])
        begins = np.ones(count, dtype=bool)
        rest: list[Plan] = [()] * count
        if state is not None:
            rest = list(state)
            begins = np.zeros(count, dtype=bool)
            if episode_start is not None:
                begins |= np.atleast_1d(np.asarray(episode_start, dtype=bool))
        if begins.any():
            places = np.flatnonzero(begins)
            plans = self.plan({name: value[places] for name, value in rows.items()})
            for index, plan in zip(places.tolist(), plans, strict=True):
                rest[index] = plan
        eos = Vocabulary.of(self.collector.chosen.tokenizer).end_ids[0]
        actions = np.array([row[0] if row else eos for row in rest], dtype=np.int64)
        return (actions[0] if single else actions), [row[1:] for row in rest]


class _Replay:
    """Plays a round of `BestOfN`."""

    def __init__(self, agent: BestOfN, generator: torch.Generator | None) -> None:
        self._agent = agent
        self._generator = generator
        self._plans: list[Plan] = []
        self._time = 0

    def begin(self, observation: Mapping[str, Any]) -> None:
        """See `Sampler.begin`."""
        self._plans = self._agent.plan(observation, self._generator)
        self._time = 0

    def act(
        self,
        rows: NDArray[np.integer],
        observation: Mapping[str, Any],
        action_masks: NDArray[np.generic] | None,
        *,
        deterministic: bool,
    ) -> SampledTokens:
        """See `Sampler.act`."""
        del observation, action_masks, deterministic
        plans = [self._plans[row] for row in rows.tolist()]
        if any(self._time >= len(plan) for plan in plans):
            raise ValueError(
                f"the environment continues after {self._time} tokens, where BestOfN's own ends "
                "the response; build it with an environment of the same lengths and stop strings"
            )
        self._time += 1
        return SampledTokens(
            actions=np.array([plan[self._time - 1] for plan in plans], dtype=np.int64)
        )


def updates(run: TrainingRun) -> Iterator[Update]:
    """Yield the best of 1, 2, 4, ... up to n; tokens are those of all candidates.

    With several temperatures the numbers begin with theirs and double: 3, 6, ... of three.
    """
    envs, settings = run.make_envs(1, normalize=False), run.settings
    policy = make_policy(envs, **run.policy_kwargs(), seed=run.seed, device=run.training.device)
    yield Update(step=0, tokens=0, agent=policy)
    parts = len(settings.temperatures)
    sizes = (parts * 2**power for power in range(settings.n.bit_length()))
    for n in (*(size for size in sizes if 1 < size < settings.n), settings.n):
        shared = {"temperatures": settings.temperatures, "length_penalty": settings.length_penalty}
        agent = BestOfN(policy, envs, n=n, **shared)
        yield Update(step=n, tokens=partial(getattr, agent, "num_tokens"), agent=agent)
    envs.close()
