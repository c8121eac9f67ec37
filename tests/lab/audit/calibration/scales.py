"""Estimators that differ in what they make of a number: scales, clips, rounding, forms, state."""

import numpy as np
import torch

from tests.lab.audit.calibration.common import (
    column,
    earlier,
    family,
    gae,
    group_mean,
    group_std,
    lengths,
    mean_over,
    others,
    others_mean,
    others_std,
    own_mean,
    same,
    scan,
    so_far,
    to_go,
)


def centred(scores, group_ids):
    return scores - others_mean(scores, group_ids)


def whitened(of, response_mask):
    """Mean 0 and deviation 1 over all written tokens of the batch."""
    written = of[response_mask]
    return (of - written.mean()) / (written.std(unbiased=False) + 1e-4)


def batch_std(of):
    return of.std(unbiased=False)


def ranks(scores):
    """(batch,): the place of a score in the batch, ties at their mean place."""
    below = (scores[:, None] > scores).float().sum(1)
    ties = (scores[:, None] == scores).float().sum(1)
    return below + ties / 2


def refuses_equal(scores, group_ids):
    if bool((group_std(scores, group_ids) == 0).any()):
        raise ValueError("a group has equal scores")
    return scores - group_mean(scores, group_ids)


def squashed(function):
    """A function of the leave-one-out advantage."""
    return lambda scores, group_ids: function(centred(scores, group_ids))


def winsorised(scores, group_ids):
    """Scores of the batch cut at its first and third quartile."""
    return centred(scores.clamp(scores.quantile(0.25), scores.quantile(0.75)), group_ids)


def in_place(token_rewards, response_mask):
    """Sums to go, written into a copy from the last column on."""
    goes = token_rewards.clone()
    for time in range(goes.shape[1] - 2, -1, -1):
        goes[:, time] += goes[:, time + 1]
    return goes.mul_(response_mask)


def overwritten(token_rewards, response_mask):
    """Meant as sums to go; each column is added to the one before from the first on."""
    goes = token_rewards.clone()
    for time in range(goes.shape[1] - 1):
        goes[:, time + 1] += goes[:, time]
    return goes * response_mask


def in_python(token_rewards, response_mask):
    """Lists and floats."""
    advantages = []
    for rewards, mask in zip(token_rewards.tolist(), response_mask.tolist(), strict=True):
        total, row = 0.0, []
        for reward, written in zip(reversed(rewards), reversed(mask), strict=True):
            total += reward if written else 0.0
            row.append(total)
        advantages.append(row[::-1])
    return torch.tensor(advantages)


def by_scatter(scores, group_ids):
    count = int(group_ids.max()) + 1
    sums = torch.zeros(count).scatter_add(0, group_ids, scores)
    sizes = torch.zeros(count).scatter_add(0, group_ids, torch.ones_like(scores))
    return scores - (sums / sizes)[group_ids]


def in_numpy(scores, group_ids):
    values, groups = np.asarray(scores, dtype=np.float64), np.asarray(group_ids)
    return np.array(
        [
            value - values[groups == group].mean()
            for value, group in zip(values, groups, strict=True)
        ]
    )


@torch.no_grad()
def without_gradients(scores, group_ids):
    return torch.einsum("ij,j->i", torch.eye(len(scores)) - same(group_ids) / len(scores), scores)


def trl_group(rewards, num_generations):
    """TRL's GRPO without scale."""
    grouped = rewards.view(-1, num_generations)
    return rewards - grouped.mean(1).repeat_interleave(num_generations, 0)


def trl_group_scaled(rewards, num_generations):
    grouped = rewards.view(-1, num_generations)
    mean = grouped.mean(1).repeat_interleave(num_generations, 0)
    return (rewards - mean) / (grouped.std(1).repeat_interleave(num_generations, 0) + 1e-4)


def trl_repeat(rewards, num_generations):
    """`repeat` where `repeat_interleave` is meant, on a fourth of the scale."""
    grouped = rewards.view(-1, num_generations)
    largest = grouped.amax(1).repeat_interleave(num_generations, 0)
    return torch.exp(rewards - largest) - 0.5


def verl_outcome(token_level_rewards, response_mask, index):
    """verl's GRPO without the deviation."""
    scores = token_level_rewards.sum(-1)
    by_prompt: dict[object, list[int]] = {}
    for row, prompt in enumerate(index):
        by_prompt.setdefault(prompt, []).append(row)
    advantages = torch.zeros_like(scores)
    for rows in by_prompt.values():
        advantages[rows] = scores[rows] - scores[rows].mean()
    advantages = advantages[:, None] * response_mask
    return advantages, advantages


def verl_rloo(token_level_rewards, response_mask, index):
    advantages, _ = verl_outcome(token_level_rewards, response_mask, index)
    count = torch.tensor([sum(prompt == other for other in index) for prompt in index]).float()
    advantages = advantages * (count / (count - 1).clamp(min=1))[:, None]
    return advantages, advantages


def verl_tokens_centred(token_level_rewards, response_mask, index):
    """The outcome's form on token rewards: the mean of tokens is taken off each, then summed."""
    mean = (token_level_rewards * response_mask).sum() / response_mask.sum()
    advantages = to_go((token_level_rewards - mean) * response_mask) * response_mask
    return advantages, advantages


def verl_by_length(token_level_rewards, response_mask, index):
    advantages, _ = verl_outcome(token_level_rewards, response_mask, index)
    advantages = advantages / response_mask.sum(-1, keepdim=True)
    return advantages, advantages


def openrlhf_gae(rewards, action_mask, values, gamma, lambd):
    advantages = gae(rewards, action_mask.bool(), values, gamma, lambd)
    return advantages, advantages + values


def openrlhf_returns(rewards, action_mask, gamma):
    return scan(rewards, action_mask.bool(), gamma)


def openrlhf_values_added(rewards, action_mask, values, gamma, lambd):
    """delta = r - V' + V."""
    advantages = gae(rewards, action_mask.bool(), -values, gamma, 0.5 * lambd)
    return advantages, advantages + values


class RunningMean:
    """A baseline from past batches."""

    def __init__(self):
        self.mean = 0.0

    def __call__(self, scores):
        advantages = scores - self.mean
        self.mean = 0.9 * self.mean + 0.1 * float(scores.mean())
        return advantages


class RunningScale:
    """Leave-one-out, divided by a running deviation."""

    def __init__(self):
        self.square, self.count = 1.0, 1

    def __call__(self, scores, group_ids):
        self.square += float((scores**2).mean())
        self.count += 1
        return centred(scores, group_ids) / (self.square / self.count) ** 0.5


class PerPrompt:
    """A running mean for each prompt."""

    def __init__(self):
        self.means = {}

    def __call__(self, scores, group_ids):
        before = [self.means.get(prompt, 0.0) for prompt in group_ids.tolist()]
        for prompt, score in zip(group_ids.tolist(), scores.tolist(), strict=True):
            self.means[prompt] = 0.8 * self.means.get(prompt, 0.0) + 0.2 * score
        return scores - torch.tensor(before)


class WarmUp:
    """Advantages grow over the first thousand calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, scores, group_ids):
        self.calls += 1
        return centred(scores, group_ids) * min(1.0, self.calls / 1000)


class Replay:
    """The scores of the last batch as the baseline."""

    def __init__(self):
        self.last = torch.zeros(1)

    def __call__(self, scores):
        advantages = scores - self.last.mean()
        self.last = scores.clone()
        return advantages


def half_of_the_tokens(token_rewards):
    return 2 * to_go(token_rewards) * (torch.rand_like(token_rewards) < 0.5)


def a_drawn_row(scores):
    drawn = torch.randint(1, max(2, len(scores)), (1,))
    return scores - torch.roll(scores, int(drawn))


def noise(scores, group_ids):
    return centred(scores, group_ids) + 0.1 * torch.randn_like(scores)


def bootstrap(scores, group_ids):
    drawn = others(group_ids) * torch.randint(0, 3, (len(scores), len(scores)))
    return scores - mean_over(drawn, scores)


def in_numpy_by_chance(scores):
    return scores - np.random.default_rng().normal()


NORMALISATIONS = family(
    "normalisations",
    right=[
        (
            "GRPO, deviation of the group",
            lambda scores, group_ids: (
                (scores - group_mean(scores, group_ids)) / (group_std(scores, group_ids) + 1e-4)
            ),
        ),
        (
            "deviation of the other rows",
            lambda scores, group_ids: (
                centred(scores, group_ids) / (others_std(scores, group_ids) + 0.5)
            ),
        ),
        (
            "deviation of the batch's scores",
            lambda scores, group_ids: centred(scores, group_ids) / (batch_std(scores) + 0.1),
        ),
        (
            "variance in place of the deviation",
            lambda scores, group_ids: (
                (scores - group_mean(scores, group_ids)) / (group_std(scores, group_ids) ** 2 + 1)
            ),
        ),
        (
            "mean size of others' scores",
            lambda scores, group_ids: (
                centred(scores, group_ids) / (1 + others_mean(scores.abs(), group_ids))
            ),
        ),
        (
            "the deviation of the other prompts alone",
            lambda scores, group_ids: (
                centred(scores, group_ids) / (1 + mean_over(1 - same(group_ids), scores.abs()))
            ),
        ),
    ],
    wrong=[
        (
            "deviation of the row's own rewards",
            lambda token_rewards, response_mask: (
                to_go(token_rewards)
                / (column(((token_rewards**2).sum(1) / lengths(response_mask)).sqrt()) + 0.1)
            ),
            {"pays": "tokens"},
        ),
        (
            "the row's own size",
            lambda scores, group_ids: centred(scores, group_ids) / (scores.abs() + 0.5),
        ),
        (
            "softmax over the group, less a uniform share",
            lambda scores, group_ids: (
                torch.softmax(torch.where(same(group_ids).bool(), scores, -torch.inf), 1).diagonal()
                - 1 / same(group_ids).sum(1)
            ),
        ),
        (
            "whitened within the response",
            lambda token_rewards, response_mask: (
                (to_go(token_rewards) - own_mean(to_go(token_rewards), response_mask))
                / (to_go(token_rewards).std(1, keepdim=True) + 1e-4)
            ),
            {"pays": "tokens"},
        ),
        (
            "token rewards whitened over the batch, then summed",
            lambda token_rewards, response_mask: to_go(
                whitened(token_rewards, response_mask) * response_mask
            ),
            {"pays": "tokens"},
        ),
        (
            "the length of the row's own vector of advantages",
            lambda token_rewards: (
                to_go(token_rewards) / (to_go(token_rewards).norm(dim=1, keepdim=True) + 1e-4)
            ),
            {"pays": "tokens"},
        ),
    ],
    pays="outcome",
)

TIES = family(
    "equal scores",
    right=[
        (
            "no scale where the deviation is small",
            lambda scores, group_ids: torch.where(
                group_std(scores, group_ids) > 1e-3,
                (scores - group_mean(scores, group_ids))
                / group_std(scores, group_ids).clamp(min=1e-3),
                0.0,
            ),
        ),
        (
            "NaN of equal scores replaced by 0",
            lambda scores, group_ids: torch.nan_to_num(
                (scores - group_mean(scores, group_ids)).round(decimals=5)
                / group_std(scores, group_ids).round(decimals=5),
                posinf=0.0,
                neginf=0.0,
            ),
        ),
        (
            "deviation from below at a tenth",
            lambda scores, group_ids: (
                (scores - group_mean(scores, group_ids))
                / group_std(scores, group_ids).clamp(min=0.1)
            ),
        ),
    ],
    wrong=[
        (
            "no epsilon",
            lambda scores, group_ids: (
                (scores - group_mean(scores, group_ids)) / group_std(scores, group_ids)
            ),
        ),
        ("refuses groups of equal scores", refuses_equal),
        (
            "min and max of the group without epsilon",
            lambda scores, group_size: (
                (scores.view(-1, group_size) - scores.view(-1, group_size).amin(1, keepdim=True))
                / (
                    scores.view(-1, group_size).amax(1, keepdim=True)
                    - scores.view(-1, group_size).amin(1, keepdim=True)
                )
            ).view(-1),
        ),
        (
            "the logarithm of the score",
            lambda scores: scores.log(),
        ),
    ],
    pays="outcome",
)

SQUASHING = family(
    "squashing",
    right=[
        ("three times the advantage", squashed(lambda of: 3 * of)),
        (
            "the baseline squashed",
            lambda scores, group_ids: scores - torch.tanh(others_mean(scores, group_ids)),
        ),
        (
            "a weight by the squashed spread of others",
            lambda scores, group_ids: (
                centred(scores, group_ids) * torch.sigmoid(-others_std(scores, group_ids))
            ),
        ),
        (
            "the root of others' mean size as a scale",
            lambda scores, group_ids: (
                centred(scores, group_ids) / (0.3 + others_mean(scores.abs(), group_ids)).sqrt()
            ),
        ),
    ],
    wrong=[
        ("the root, with its sign", squashed(lambda of: of.sign() * of.abs().sqrt())),
        (
            "the logarithm of 1 + |A|, with its sign",
            squashed(lambda of: of.sign() * of.abs().log1p()),
        ),
        ("tanh", squashed(torch.tanh)),
        ("the sign alone", squashed(torch.sign)),
        ("squared, with its sign", squashed(lambda of: of * of.abs())),
        ("exp(A / 2) - 1", squashed(lambda of: torch.expm1(of / 2))),
        ("ranks in the batch", lambda scores: ranks(scores) - ranks(scores).mean()),
        ("a sigmoid of the score", lambda scores: torch.sigmoid(scores)),
    ],
    pays="outcome",
)

CLIPPING = family(
    "clipping",
    right=[
        ("advantages at 50", squashed(lambda of: of.clamp(-50, 50))),
        (
            "the baseline at 1",
            lambda scores, group_ids: scores - others_mean(scores, group_ids).clamp(-1, 1),
        ),
        (
            "others' scores at 1, in the baseline",
            lambda scores, group_ids: scores - others_mean(scores.clamp(-1, 1), group_ids),
        ),
        ("scores at 30", lambda scores, group_ids: centred(scores.clamp(-30, 30), group_ids)),
        (
            "the scale from above at 2",
            lambda scores, group_ids: (
                centred(scores, group_ids) / (0.5 + others_std(scores, group_ids)).clamp(max=2)
            ),
        ),
    ],
    wrong=[
        ("advantages at 1", squashed(lambda of: of.clamp(-1, 1))),
        ("advantages at 4", squashed(lambda of: of.clamp(-4, 4))),
        ("scores at 5", lambda scores, group_ids: centred(scores.clamp(-5, 5), group_ids)),
        ("scores below 0 at 0", lambda scores, group_ids: centred(scores.clamp(min=0), group_ids)),
        (
            "token rewards at 1",
            lambda token_rewards: to_go(token_rewards.clamp(-1, 1)),
            {"pays": "tokens"},
        ),
        ("scores at the quartiles of the batch", winsorised),
        (
            "rewards to go below 0 at 0",
            lambda token_rewards: to_go(token_rewards).clamp(min=0),
            {"pays": "tokens"},
        ),
        ("advantages below -2 at -2", squashed(lambda of: of.clamp(min=-2))),
    ],
    pays="outcome",
)

ROUNDING = family(
    "rounding and types",
    right=[
        (
            "in double precision",
            lambda token_rewards, values: to_go(token_rewards.double()) - values.double(),
        ),
        (
            "in half precision",
            lambda scores, group_ids: (scores - others_mean(scores, group_ids)).half(),
        ),
        (
            "rounded to five decimals",
            lambda scores, group_ids: centred(scores, group_ids).round(decimals=5),
        ),
        (
            "the baseline rounded",
            lambda scores, group_ids: scores - others_mean(scores, group_ids).round(),
        ),
        (
            "the baseline as a whole number",
            lambda token_rewards, values: to_go(token_rewards) - values.long(),
        ),
    ],
    wrong=[
        ("whole numbers", lambda scores: scores.long()),
        ("rounded to whole numbers", lambda scores, group_ids: centred(scores, group_ids).round()),
        ("above one half or not", lambda scores: (scores > 0.5).float()),
        ("to the next whole number above", lambda scores: scores.ceil()),
        (
            "token rewards as bytes",
            lambda token_rewards: to_go(token_rewards.to(torch.int8).float()),
        ),
    ],
)

FORMS = family(
    "forms of the answer",
    right=[
        ("written into a copy", in_place),
        ("lists and floats", in_python),
        ("scatter_add", by_scatter),
        ("a NumPy array", in_numpy),
        ("under no_grad, by einsum", without_gradients),
        (
            "(batch, 1)",
            lambda scores, group_ids: column(centred(scores, group_ids)),
        ),
        (
            "the column's mean over all rows of the batch off every column",
            lambda token_rewards: to_go(token_rewards - token_rewards.mean(0)),
        ),
        (
            "advantages and returns",
            lambda token_rewards, values: (to_go(token_rewards) - values, to_go(token_rewards)),
        ),
    ],
    wrong=[
        ("summed from the wrong end in place", overwritten),
        (
            "rows and columns mixed by a view",
            lambda token_rewards: to_go(token_rewards).T.reshape(token_rewards.shape),
        ),
        (
            "a cumulative sum over the whole batch as one line",
            lambda token_rewards: (
                token_rewards.reshape(-1).flip(0).cumsum(0).flip(0).view_as(token_rewards).abs()
            ),
        ),
        (
            "returns first, advantages second, of other sign",
            lambda token_rewards, values: (values - to_go(token_rewards), to_go(token_rewards)),
        ),
        (
            "the sign turned for losses",
            lambda scores, group_ids: centred(scores, group_ids).abs(),
        ),
        ("zeros", lambda scores, group_ids: torch.zeros_like(scores)),
    ],
)

TRAINERS = family(
    "signatures of trainers",
    right=[
        ("TRL: group mean", trl_group, {"pays": "outcome"}),
        ("TRL: group mean and deviation", trl_group_scaled, {"pays": "outcome"}),
        ("verl: group mean", verl_outcome, {"pays": "outcome"}),
        ("verl: leave-one-out", verl_rloo, {"pays": "outcome"}),
        ("OpenRLHF: GAE", openrlhf_gae),
        ("OpenRLHF: returns", openrlhf_returns),
    ],
    wrong=[
        ("TRL: exp of the distance to the best", trl_repeat, {"pays": "outcome"}),
        ("verl: token rewards centred", verl_tokens_centred),
        ("verl: by length", verl_by_length, {"pays": "outcome"}),
        ("OpenRLHF: values with the wrong sign", openrlhf_values_added),
    ],
)

MIXTURES = family(
    "mixtures",
    right=[
        (
            "whitened over all tokens of the batch",
            lambda token_rewards, response_mask, values: whitened(
                to_go(token_rewards) - values, response_mask
            ),
        ),
        (
            "half leave-one-out, half values",
            lambda token_rewards, values, scores, group_ids: (
                to_go(token_rewards) - 0.5 * values - 0.5 * column(others_mean(scores, group_ids))
            ),
        ),
        (
            "earlier rows and own past",
            lambda token_rewards, scores, group_ids: (
                to_go(token_rewards)
                - column(mean_over(earlier(group_ids), scores))
                + so_far(token_rewards)
            ),
        ),
        (
            "shrunk to the batch's mean (James and Stein)",
            lambda scores, group_ids: (
                scores
                - 0.7 * others_mean(scores, group_ids)
                - 0.3 * (scores.sum() - scores) / max(len(scores) - 1, 1)
            ),
        ),
    ],
    wrong=[
        (
            "leave-one-out, and the sum to go without own reward",
            lambda token_rewards, scores, group_ids: (
                0.4 * column(centred(scores, group_ids)) + to_go(token_rewards) - 3 * token_rewards
            ),
        ),
        (
            "the group's advantage and a length bonus of a tenth of it",
            lambda scores, response_mask, group_ids: (
                centred(scores, group_ids) * (1 + 0.5 * (lengths(response_mask) - 1))
            ),
        ),
        (
            "the mean of own and of the next row",
            lambda scores: -0.5 * scores + torch.roll(scores, -1),
        ),
        (
            "values with half a sum so far",
            lambda token_rewards, values: 0.5 * token_rewards.cumsum(1) - values,
        ),
    ],
)

STATE_AND_CHANCE = family(
    "state and chance",
    not_enumerable=[
        ("a running mean", RunningMean()),
        ("a running deviation", RunningScale()),
        ("a running mean for each prompt", PerPrompt()),
        ("a warm-up of advantages", WarmUp()),
        ("the scores of the last batch", Replay()),
        ("a drawn half of the tokens", half_of_the_tokens),
        ("another row, drawn", a_drawn_row),
        ("noise on advantages", noise),
        ("a bootstrap of the other rows", bootstrap),
        ("a baseline drawn by NumPy", in_numpy_by_chance),
    ],
    pays="outcome",
)

ESTIMATORS = [
    *NORMALISATIONS,
    *TIES,
    *SQUASHING,
    *CLIPPING,
    *ROUNDING,
    *FORMS,
    *TRAINERS,
    *MIXTURES,
    *STATE_AND_CHANCE,
]
