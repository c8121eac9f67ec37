"""Rounds of episodes whose figures depend on one episode alone, for functions of named inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.support.rewards.alone import Steady, drawn, reader
from tokengym.agents.ppo import PPOSettings, RoundFunction, RoundInputs
from tokengym.envs import Episode

GROUP = 4
"""Responses to each prompt."""
SETTINGS = PPOSettings(group_size=GROUP, gamma=0.97, gae_lambda=0.9, gae_lambda_vf=0.95)
OF_TOKENS = ("token_rewards", "values", "log_probs", "entropy", "ref_log_probs", "kl", "advantages")
"""Names of a number for each token."""


def round_of(episodes: Sequence[Episode], tokenizer: Any = None) -> RoundInputs:
    """Return the names of a round in the layout of a learner, where replies have columns."""
    time = max(len(one.response_ids) for one in episodes)
    mask = torch.zeros(len(episodes), time, dtype=torch.bool)
    tables = {name: torch.zeros(len(episodes), time) for name in OF_TOKENS}
    tables["hidden_states"] = torch.zeros(len(episodes), time, 3)
    tables["top_log_probs"] = torch.zeros(len(episodes), time, 4)
    for row, episode in enumerate(episodes):
        size = len(episode.response_ids)
        written = np.ones(size) if episode.written is None else episode.written
        mask[row, :size] = torch.as_tensor(written > 0)
        for number, table in enumerate(tables.values()):
            values = drawn(episode, number).normal(size=(size, *table.shape[2:]))
            table[row, :size] = torch.from_numpy(values)
    for name in ("entropy", "kl"):
        tables[name] = tables[name].abs()
    for name in ("log_probs", "ref_log_probs", "top_log_probs"):
        tables[name] = -tables[name].abs()
    of_rows = {
        "scores": torch.tensor([drawn(one, 20).normal() for one in episodes]).float(),
        "final_values": torch.tensor([drawn(one, 21).normal() for one in episodes]).float(),
    }
    inputs = RoundInputs(
        mask,
        {**tables, **of_rows, "generator": torch.Generator().manual_seed(0)},
        settings=SETTINGS,
        episodes=episodes,
        scorer=Steady(),
        tokenizer=tokenizer,
    )
    counts = [int(row.sum()) for row in mask]
    attention = torch.zeros(len(episodes), max(counts), max(counts))
    for row, (episode, count) in enumerate(zip(episodes, counts, strict=True)):
        values = np.abs(drawn(episode, 30).normal(size=(count, count)))
        attention[row, :count, :count] = torch.from_numpy(values).tril()
    inputs.give("policy_attention", attention, is_own=True)

    def after(texts: Sequence[str]) -> Tensor:
        rows = [-np.abs(drawn(one, 31).normal(size=len(one.response_ids))) for one in episodes]
        own = [row[places] for row, places in zip(rows, inputs.places, strict=True)]
        return inputs.padded(own)

    inputs.give("log_probs_after", lambda: after)
    return inputs


def results(function: RoundFunction, episodes: Sequence[Episode], tokenizer: Any) -> list[Any]:
    """Return what a function makes of each episode, and its returns: rows of the own length."""
    bound = function.with_reference(reader()).bind(tokenizer)
    inputs = round_of(episodes, tokenizer)
    made, figures = bound.call(inputs)
    tables = [inputs.spread(one) for one in (made, *figures.values())]
    return [
        np.stack([table[row, : len(one.response_ids)].numpy() for table in tables])
        for row, one in enumerate(episodes)
    ]


def check_rows(function: RoundFunction, episodes: Sequence[Episode], tokenizer: Any) -> None:
    """Assert that what a function makes of a row depends on what its fact ``by_row`` says.

    By itself a row has the same numbers, to float32's last bits. One that depends on others, which
    are its group's where the function reads groups, does so, and a group by itself has the same.
    """
    together = results(function, episodes, tokenizer)
    if function.by_row:
        for row, one in enumerate(episodes):
            alone = results(function, [one], tokenizer)[0]
            np.testing.assert_allclose(alone, together[row], rtol=2e-6, atol=1e-6)
        return
    others = [*episodes[1:GROUP], episodes[-1]]  # in place of the first of the group
    changed = results(function, [others[-1], *others[:-1]], tokenizer)[1:]
    pairs = zip(changed, together[1:GROUP], strict=True)
    assert any(not np.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in pairs), (
        "no row depends on another"
    )
    if {"group_size", "group_ids"}.isdisjoint(function.reads):
        return
    for first in range(0, len(episodes), GROUP):
        alone = results(function, episodes[first : first + GROUP], tokenizer)
        for one, other in zip(alone, together[first : first + GROUP], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
