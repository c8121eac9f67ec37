"""Responses continued by the policy that learns, for credit by Monte Carlo."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tokengym.agents.online.collecting import ChosenPrompts
from tokengym.agents.rollouts.environments import Environments, bare_envs, environment_rewards
from tokengym.agents.rollouts.playing import as_player
from tokengym.envs import Episode
from tokengym.envs.prompts.table import EncodedPrompt

ROWS = 256
"""Most responses continued at once."""


class PolicyContinuations:
    """Finishes responses with an agent's policy, by the rules of an environment.

    The environment is not stepped, and neither its random state nor the agent's is touched.

    Args:
        envs: A token-generation environment, single or batched, wrapped or not.
        agent: See `tokengym.agents.collect`.
        seed: Seed of the sampling.
    """

    def __init__(self, envs: Environments, agent: Any, *, seed: int) -> None:
        self._player = as_player(agent, seed=seed)
        self._envs = envs
        self._rules: Any = None
        self._uncounted = 0

    def finish(self, prefixes: Sequence[Episode]) -> list[Episode]:
        """Return each response continued to its end; see `tokengym.rewards.reward.Reward`."""
        if self._rules is None:  # one prompt stands for the set, which would be encoded again
            prompts = [prefixes[0].prompt]
            self._rules = bare_envs(
                self._envs, 1, prompts=prompts, overlong="left", chat_template=False
            )
        # Responses of similar length end together, and need the least padding.
        order = sorted(range(len(prefixes)), key=lambda place: len(prefixes[place].response_ids))
        begun = [prefixes[place] for place in order]
        ended = ChosenPrompts(self._rules, max_rows=ROWS).play(
            self._player,
            [EncodedPrompt(episode.prompt, tuple(episode.prompt_ids), -1) for episode in begun],
            beginnings=[episode.response_ids for episode in begun],
        )
        found = list(prefixes)
        for place, episode in zip(order, ended, strict=True):
            self._uncounted += len(episode.response_ids) - len(prefixes[place].response_ids)
            found[place] = replace(
                prefixes[place],
                response=episode.response,
                response_ids=episode.response_ids,
                finish_reason=episode.finish_reason,
            )
        return found

    def count_tokens(self) -> int:
        """Return the tokens that were sampled since the last call."""
        count, self._uncounted = self._uncounted, 0
        return count


def bind_policy(envs: Environments, agent: Any, *, seed: int = 0) -> PolicyContinuations | None:
    """Let an environment's credit continue responses with an agent's policy.

    Rules such as ``mc`` need it. Learners of this package bind themselves at the start of every
    round; for any other agent, call it before the environment is stepped.

    Args:
        envs: The environment, with its reward; not one whose rows are in other processes.
        agent: Anything that `tokengym.agents.collect` plays; its policy of the moment is used.
        seed: Seed of the continuations.

    Returns:
        What was bound; None if no credit of the environment needs a policy.
    """
    rewards = [reward for reward in environment_rewards(envs) if reward.credit.needs_policy]
    if not rewards:
        return None
    continuations = PolicyContinuations(envs, agent, seed=seed)
    for reward in rewards:
        reward.continuations = continuations
    return continuations
