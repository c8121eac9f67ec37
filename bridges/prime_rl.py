"""Token credit in prime-rl, never run inside it: advantages of the sampled tokens of traces.

prime-rl takes algorithms of its own repository alone. There, a subclass of ``Algorithm`` has

    async def score_group(self, episodes):
        traces = [trace for _, trace in iter_trainable_traces(episodes)]
        for trace, advantages in zip(traces, trace_advantages(traces, self.credit)):
            assign_advantages(trace, advantages)

with ``self.credit = TokenCredit(scorer, "abc-signed", tokenizer=...)``. Written from prime-rl at
559b447 (August 2026), whose ``assign_advantages`` was run on traces of verifiers 0.4.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokengym.base.errors import SettingsError
from tokengym.bridges.conversations import join_messages
from tokengym.bridges.functions import Advantage
from tokengym.bridges.rows import Row, credit_rows
from tokengym.credit import TokenCredit


def trace_advantages(
    traces: Sequence[Any],
    credit: TokenCredit,
    *,
    references: Sequence[Any] | None = None,
    advantage: Advantage = "loo",
) -> list[list[float]]:
    """Return the advantages of each trace's sampled tokens, in the order of its nodes.

    Args:
        traces: verifiers' traces of one group, each one path of nodes with ``token_ids`` and
            ``mask``.
        credit: Scorer, rule and tokenizer.
        references: (traces,) ground truths; None where there are none.
        advantage: "loo", "reinforce", or a function of named inputs, see `Advantage`.

    Raises:
        SettingsError: if a trace branches: its rows share tokens, which have one advantage.
    """
    truths = [None] * len(traces) if references is None else references
    rows = []
    for trace, truth in zip(traces, truths, strict=True):
        if len(trace.branches) > 1:
            raise SettingsError(
                f"trace {trace.id!r} has {len(trace.branches)} branches, whose common tokens would "
                "have several advantages; score them as traces of their own"
            )
        said = join_messages((node.token_ids, node.mask) for node in trace.nodes)
        rows.append(
            Row(
                **said._asdict(),
                group=0,
                log_probs=_log_probs(trace, said.written),
                reference=truth,
            )
        )
    credited = credit_rows(rows, credit, advantage, door="prime-rl")
    return [
        [float(value) for value, own in zip(advantages, row.written or (), strict=True) if own]
        for advantages, row in zip(credited.advantages, rows, strict=True)
    ]


def _log_probs(trace: Any, written: Sequence[int]) -> list[float] | None:
    """Return the sampled tokens' log-probs in the response's places; None where one lacks them."""
    sampled = list[float]()
    for node in trace.nodes:
        own = sum(map(bool, node.mask or ()))
        values = [*(getattr(node, "logprobs", None) or ())]
        if len(values) == len(node.token_ids or ()):  # of all of its tokens
            values = [v for v, is_own in zip(values, node.mask or (), strict=False) if is_own]
        if len(values) != own:
            return None
        sampled += values
    if len(sampled) != sum(written):
        return None
    values_of = iter(sampled)
    return [next(values_of) if own else 0.0 for own in written]
