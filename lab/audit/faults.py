"""Names of known mistakes, found by moving one reward and watching whose advantage moves.

W[t, s] is how far the advantage of token t of a response moves with the reward of its token s. The
reward to go has W = 1 where s >= t; a score that is the same at every token has W = 1 everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokengym.lab.audit.decisions import Batch
from tokengym.lab.audit.signatures import Adapted, AuditError

LENGTHS = (4, 4, 3, 4, 2, 4, 3, 4)
"""Tokens of the probe's responses."""
STEP = 0.01
"""How far a reward is moved, reward units."""
SMALL = 0.2
"""Share of the largest movement that counts as none."""

OWN_ALONE = "no reward to go: a token or turn is credited with its own reward alone"
OFF_BY_ONE = "off by one: a token is not credited with its own reward"
BACKWARDS = "sums the wrong way: a token is credited with the rewards before it"
SIGN = "has the sign reversed: a reward makes its own token less likely"
PER_LENGTH = "divides by the length of the response"
CENTRED = "takes a mean off every token or turn before summing, so that their number is charged"
REPEATED = "repeats a reward at every token before summing, so that their number is paid"
OTHER_TURNS = "the baseline of a turn is made of other turns of the same response"
LATE_VALUE = "off by one: the baseline is the value after the token, which knows the token"
PADDING = "counts padded positions"
MASKED_VALUES = "reads values where the mask is False"


def named_faults(estimator: Adapted, pays: str = "tokens") -> tuple[str, ...]:
    """Return the names of known mistakes that an estimator's answers look like.

    Args:
        estimator: The estimator.
        pays: What it is promised of token rewards; where it is not each token's own, which token
            is credited with which cannot be told.
    """
    names: list[str] = []
    probe = _probe()
    rows = _influence(estimator, probe)
    if rows is not None and "token_rewards" in estimator.reads and pays == "tokens":
        names += _timing(rows)
    if rows is not None:
        names += _lengths(rows)
    turns = _influence(estimator, _conversation())
    if turns is not None and {"turn_ids", "response_mask"} & estimator.reads:
        names += _turns(turns)
    if "values" in estimator.reads:
        late, bootstraps = _values(estimator, probe)
        names = [LATE_VALUE] if late else names
        # What follows is in the next value.
        names = [name for name in names if not (bootstraps and name == OWN_ALONE)]
    leak = reads_masked(estimator)
    names += [name for name in (PADDING, MASKED_VALUES) if name in leak]
    return tuple(dict.fromkeys(names))


def reads_masked(estimator: Adapted) -> str:
    """Return what is read where the mask is False, or nothing."""
    probe = _probe()
    plain = _asked(estimator, probe)
    if plain is None:
        return ""
    wider = _padded(probe, 3)
    wide = _asked(estimator, wider)
    if wide is not None and not _close(plain, wide[:, : plain.shape[1]]):
        return PADDING
    if "values" in estimator.reads:
        noise = torch.where(probe.response_mask, probe.values, 3.0)
        moved = _asked(estimator, replace(probe, values=noise))
        if moved is not None and not _close(plain, moved):
            return MASKED_VALUES
    return ""


def order_matters(estimator: Adapted) -> str:
    """Return what changes when rows come in another order, or nothing."""
    order = torch.tensor([3, 0, 4, 1, 5, 2, 7, 6])
    # Who reads blocks of one size may refuse groups of unlike size.
    for groups in ([0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1]):
        probe = replace(_probe(), group_ids=torch.tensor(groups))
        plain, mixed = _asked(estimator, probe), _asked(estimator, probe.take(order))
        if plain is not None and mixed is not None and not _close(plain[order], mixed):
            return "gives a response another advantage when the rows of two prompts are interleaved"
    return ""


def heeds_gamma(estimator: Adapted) -> bool:
    """Return whether an estimator's answer depends on the discount, per token or per turn."""
    for probe in (_probe(), _conversation()):
        plain, discounted = _asked(estimator, probe), _asked(estimator, replace(probe, gamma=0.5))
        if plain is not None and discounted is not None and not _close(plain, discounted):
            return True
    return False


# --- probes ---------------------------------------------------------------------------------------


def _probe() -> Batch:
    """Return responses of unlike length to one prompt, of one turn each."""
    return _made([[0] * size for size in LENGTHS], time=5)


def _conversation() -> Batch:
    """Return conversations of one or two turns of two tokens, with a reply between."""
    return _made([[0, 0, -1, 1, 1], [0, 0, -1, 1, 1], [0, 0], [0, 0, -1, 1, 1]] * 2, time=6)


def _made(turns: Sequence[Sequence[int]], time: int) -> Batch:
    """Return a batch with given turns; rewards and values are unlike everywhere.

    Args:
        turns: Per row the number of each token's turn, -1 where a reply stands.
        time: Columns.
    """
    shape = (len(turns), time)
    ids = torch.full(shape, -1)
    for row, own in enumerate(turns):
        ids[row, : len(own)] = torch.tensor(own)
    mask = ids >= 0
    places = torch.arange(shape[0] * time, dtype=torch.float32).view(shape)
    rewards = (1.5 + torch.sin(places * places)).masked_fill(~mask, 0.0)
    size = torch.tensor([len(own) for own in turns])[:, None]
    exists = torch.arange(time)[None] < size
    return Batch(
        token_rewards=rewards,
        response_mask=mask,
        values=torch.cos(places * 1.7).masked_fill(~mask, 0.0),
        turn_ids=ids,
        response_ids=(1 + (places.long() * 7) % 5).masked_fill(~exists, 0),
        scores=rewards.sum(1),
        group_ids=torch.zeros(len(turns), dtype=torch.long),
        log_probs=torch.full(shape, math.log(0.5)).masked_fill(~mask, 0.0),
        sum_pi_squared=torch.full(shape, 0.5).masked_fill(~mask, 0.0),
        greedy_scores=torch.zeros(len(turns)),
        gamma=1.0,
    )


def _padded(batch: Batch, columns: int) -> Batch:
    """Return a batch with more padding."""
    rows = len(batch.scores)
    tensors: dict[str, Any] = {
        name: torch.cat(
            [value, value.new_full((rows, columns), -1 if name == "turn_ids" else 0)], 1
        )
        for name, value in vars(batch).items()
        if isinstance(value, Tensor) and value.ndim == 2
    }
    return replace(batch, **tensors)


def _asked(estimator: Adapted, batch: Batch) -> Tensor | None:
    """Return advantages, or None where the function refuses the probe."""
    try:
        return estimator.estimate(batch.take(torch.arange(len(batch.scores))))
    except AuditError:
        raise
    except Exception:
        return None


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether advantages are the same up to rounding."""
    largest = max(float(one.abs().max()), 1e-6)
    return bool(((one - other).abs() <= 1e-3 * largest).all())


def _influence(estimator: Adapted, probe: Batch) -> "_Influence | None":
    """Return how far each advantage moves with each reward; None where the probe is refused."""
    rows, time = probe.token_rewards.shape
    plain = _asked(estimator, probe)
    if plain is None:
        return None
    moved = torch.zeros(rows, time, rows, time, dtype=torch.float64)
    for row, column in probe.response_mask.nonzero().tolist():
        ends = []
        for sign in (1.0, -1.0):
            rewards = probe.token_rewards.clone()
            rewards[row, column] += sign * STEP
            moved_probe = replace(probe, token_rewards=rewards, scores=rewards.sum(1))
            answer = _asked(estimator, moved_probe)
            if answer is None or not bool(answer.isfinite().all()):
                return None
            ends.append(answer * _undivided(plain, answer, row, probe))
        moved[:, :, row, column] = (ends[0] - ends[1]) / (2.0 * STEP)
    largest = float(moved.abs().max())
    return _Influence(moved / largest, probe) if largest > 1e-9 else None


def _undivided(plain: Tensor, answer: Tensor, moved: int, probe: Batch) -> Tensor:
    """Return the factor by which a division of advantages changed when a reward was moved, (time,).

    A deviation moves with every reward, and all advantages that it divides with it, which is no
    credit of theirs. It is told by two responses as long as each other whose rewards stayed.

    Args:
        plain: (batch, time) advantages before.
        answer: (batch, time) advantages after.
        moved: Row whose reward was moved.
        probe: The batch.
    """
    sizes = (probe.response_ids > 0).sum(1)
    stayed = sizes == sizes.max()
    stayed[moved] = False
    plain, answer = plain[stayed], answer[stayed]
    high, low = plain.max(0), plain.min(0)
    before = high.values - low.values
    after = answer.gather(0, high.indices[None])[0] - answer.gather(0, low.indices[None])[0]
    return torch.where((before > 1e-6) & (after > 1e-6), before / after, 1.0)


class _Influence:
    """How far each advantage moves with each reward, in shares of the largest movement."""

    def __init__(self, moved: Tensor, probe: Batch) -> None:
        self.moved = moved
        self.mask = probe.response_mask
        self.turn_ids = probe.turn_ids
        self.sizes = (probe.response_ids > 0).sum(1).tolist()

    def own(self, size: int) -> Tensor:
        """Return W (size, size) of responses of a length, a mean over them."""
        rows = [row for row, length in enumerate(self.sizes) if length == size]
        return torch.stack([self.moved[row, :size, row, :size] for row in rows]).mean(0)

    def other(self, size: int, source: int) -> Tensor:
        """Return how responses of a length move with others' token ``source``, (size,)."""
        targets = [row for row, length in enumerate(self.sizes) if length == size]
        longest = max(self.sizes)
        sources = [row for row, length in enumerate(self.sizes) if length == longest]
        pairs = [(i, j) for i in targets for j in sources if i != j]
        return torch.stack([self.moved[i, :size, j, source] for i, j in pairs]).mean(0)


def _timing(rows: _Influence) -> list[str]:
    """Return mistakes in which token is credited with which reward."""
    own = rows.own(max(rows.sizes))
    same = float(own.diagonal().mean())
    after, before = float(own.diagonal(1).mean()), float(own.diagonal(-1).mean())
    later, earlier = float(own.triu(1).sum() / 6.0), float(own.tril(-1).sum() / 6.0)
    if same < -SMALL:
        return [SIGN]
    if abs(same) < SMALL < max(after, before):
        return [OFF_BY_ONE]
    if abs(later) < SMALL < same:
        return [BACKWARDS if earlier > SMALL else OWN_ALONE]
    return []


def _lengths(rows: _Influence) -> list[str]:
    """Return mistakes by which the number of tokens is paid or charged."""
    names = []
    long, short = max(rows.sizes), min(rows.sizes)
    of_long, of_short = (float(rows.own(size).diagonal().mean()) for size in (long, short))
    if abs(of_long) > SMALL / 2 and abs(of_short / of_long - long / short) < 0.3:
        names.append(PER_LENGTH)
    own = rows.own(long).diagonal()
    if float(own[0]) > 2.5 * abs(float(own[-1])) and float(own[-1]) > 0.0:
        names.append(REPEATED)
    elif _charges(rows, long, short):
        names.append(CENTRED)
    return names


def _charges(rows: _Influence, long: int, short: int) -> bool:
    """Return whether another response's last reward is taken off as often as there are tokens.

    A baseline takes it off once: from every token alike, and from short responses too.
    """
    from_long, from_short = rows.other(long, long - 1), rows.other(short, long - 1)
    first, last = float(from_long[0]), float(from_long[-1])
    return first < -0.02 and (first < 2.0 * last or float(from_short[0]) > 0.2 * first)


def _turns(talks: _Influence) -> list[str]:
    """Return mistakes in which turn is credited with which reward."""
    long, short = max(talks.sizes), min(talks.sizes)
    own = talks.own(long)
    early, late = slice(0, 2), slice(3, 5)
    same = min(float(own[part, part].diagonal().mean()) for part in (early, late))
    later, earlier = float(own[early, late].mean()), float(own[late, early].mean())
    if same < 0:
        return []
    if min(later, earlier) < -0.15:
        return [OTHER_TURNS]
    if same > SMALL and abs(later) < 0.05 and abs(earlier) < 0.05:
        return [OWN_ALONE]
    return [CENTRED] if _charges(talks, long, short) else []


def _values(estimator: Adapted, probe: Batch) -> tuple[bool, bool]:
    """Return whether a token is held against the value after it, and whether that is credited."""
    row, size = 0, LENGTHS[0]
    moved = torch.zeros(size, size, dtype=torch.float64)
    plain = _asked(estimator, probe)
    for column in range(size):
        values = probe.values.clone()
        values[row, column] += STEP
        answer = _asked(estimator, replace(probe, values=values))
        if plain is None or answer is None:
            return False, False
        moved[:, column] = (answer - plain)[row, :size]
    moved /= max(float(moved.abs().max()), 1e-9)
    before, after = float(moved.diagonal().mean()), float(moved.diagonal(1).mean())
    return abs(before) < SMALL and after < -SMALL, after > SMALL
