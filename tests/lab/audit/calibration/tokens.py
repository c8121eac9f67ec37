"""Estimators that differ in how they credit tokens: sums, values, discounts, lengths, turns."""

import torch

from tests.lab.audit.calibration.common import (
    alive_mean,
    column,
    family,
    gae,
    group_mean,
    group_std,
    has_turn,
    left,
    lengths,
    mean_over,
    next_values,
    on_tokens,
    others,
    others_mean,
    own_mean,
    same,
    scan,
    so_far,
    to_go,
    turn_rewards,
)


def shifted(of, by):
    """(batch, time): columns moved to the right, or to the left below 0; 0 where none is left."""
    moved = torch.roll(of, by, dims=1)
    places = torch.arange(of.shape[1])
    kept = places >= by if by > 0 else places < of.shape[1] + by
    return torch.where(kept, moved, torch.zeros_like(moved))


def by_triangle(token_rewards):
    """Sums to go as a product with a triangle of ones."""
    return token_rewards @ torch.tril(torch.ones(token_rewards.shape[1], token_rewards.shape[1]))


def two_steps(token_rewards, response_mask, values):
    """Two rewards, then the value: an exact value makes it exact."""
    one = token_rewards + next_values(values, response_mask) - values
    return (
        one
        + scan(one, response_mask, 1.0)
        - to_go(one)
        + shifted(one, -1) * shifted(response_mask, -1)
    )


def own_lambda(token_rewards, response_mask, values):
    """VAPO's lambda, 1 - 1 / (a n), for a response of n tokens."""
    lam = 1 - 1 / (0.5 * lengths(response_mask) + 1)
    ahead = torch.zeros(len(values))
    after = torch.zeros(len(values))
    seen = torch.zeros_like(values)
    for time in range(values.shape[1] - 1, -1, -1):
        written = response_mask[:, time]
        delta = token_rewards[:, time] + after - values[:, time]
        ahead = torch.where(written, delta + lam * ahead, ahead)
        after = torch.where(written, values[:, time], after)
        seen[:, time] = ahead
    return seen


def endless(token_rewards, response_mask, values):
    """Bootstraps from its own last value where the response has ended."""
    after = next_values(values, response_mask)
    last = left(response_mask) == 1
    return scan(token_rewards + torch.where(last, values, after) - values, response_mask, 0.9)


def over_columns(token_rewards, values):
    """GAE over all columns of the batch, padding and replies too."""
    ahead = torch.zeros(len(values))
    after = torch.zeros(len(values))
    seen = torch.zeros_like(values)
    for time in range(values.shape[1] - 1, -1, -1):
        ahead = token_rewards[:, time] + after - values[:, time] + 0.9 * ahead
        after = values[:, time]
        seen[:, time] = ahead
    return seen


def discounted_from_the_start(token_rewards, response_mask, gamma):
    """The whole return from the first token on, at every token."""
    return scan(token_rewards, response_mask, gamma)[:, :1]


def at_last_token(of, response_mask):
    return torch.where((left(response_mask) == 1) & response_mask, of, torch.zeros_like(of))


def turn_to_go(token_rewards, turn_ids):
    return on_tokens(to_go(turn_rewards(token_rewards, turn_ids)), turn_ids)


def alive_turns(token_rewards, turn_ids, group_ids):
    """Reward to go of a turn less that of the prompt's other rows that have the turn."""
    goes = to_go(turn_rewards(token_rewards, turn_ids))
    has = has_turn(turn_ids)
    which = others(group_ids)
    mean = (which @ (goes * has)) / (which @ has).clamp(min=1)
    return on_tokens(goes - mean, turn_ids)


def turns_centred_then_summed(token_rewards, turn_ids, group_ids):
    """MT-GRPO: each turn's reward is centred over the rows that have the turn, then summed."""
    paid = turn_rewards(token_rewards, turn_ids)
    has = has_turn(turn_ids)
    mean = (same(group_ids) @ paid) / (same(group_ids) @ has).clamp(min=1)
    return on_tokens(to_go((paid - mean) * has), turn_ids)


def best_turn(token_rewards, turn_ids):
    paid = turn_rewards(token_rewards, turn_ids)
    paid = torch.where(has_turn(turn_ids) > 0, paid, -torch.inf)
    return on_tokens(paid.amax(1, keepdim=True).expand_as(paid).contiguous(), turn_ids)


def value_of_turn(values, turn_ids):
    """(batch, time): the value before a turn's first token, at all of its tokens."""
    first = torch.zeros(len(values), int(turn_ids.max()) + 1)
    for turn in range(first.shape[1]):
        is_turn = turn_ids == turn
        place = is_turn.float().argmax(1, keepdim=True)
        first[:, turn] = torch.where(is_turn.any(1), values.gather(1, place)[:, 0], 0.0)
    return on_tokens(first, turn_ids)


REWARD_TO_GO = family(
    "reward to go",
    right=[
        ("plain", lambda token_rewards: to_go(token_rewards)),
        ("the whole score at every token", lambda token_rewards, scores: column(scores)),
        ("a product with a triangle", by_triangle),
        (
            "a quarter of what was paid before",
            lambda token_rewards: to_go(token_rewards) + 0.25 * so_far(token_rewards),
        ),
        (
            "less the mean of others in the column that are alive",
            lambda token_rewards, response_mask, group_ids: (
                to_go(token_rewards)
                - alive_mean(to_go(token_rewards), response_mask, others(group_ids))
            ),
        ),
    ],
    wrong=[
        ("the token's own reward alone", lambda token_rewards: token_rewards),
        ("the sum so far", lambda token_rewards: token_rewards.cumsum(1)),
        ("the sum after the token", lambda token_rewards: to_go(token_rewards) - token_rewards),
        (
            "a window of two tokens",
            lambda token_rewards: token_rewards + shifted(token_rewards, -1),
        ),
        (
            "a discount of .8 that nobody asked for",
            lambda token_rewards, response_mask: scan(token_rewards, response_mask, 0.8),
        ),
        (
            "the largest reward to come",
            lambda token_rewards: token_rewards.flip(1).cummax(1).values.flip(1),
        ),
    ],
)

VALUES = family(
    "values",
    right=[
        (
            "GAE, lambda .95",
            lambda token_rewards, response_mask, values: gae(token_rewards, response_mask, values),
        ),
        (
            "GAE, lambda 0",
            lambda token_rewards, response_mask, values: gae(
                token_rewards, response_mask, values, lam=0.0
            ),
        ),
        (
            "reward to go minus value",
            lambda token_rewards, values: to_go(token_rewards) - values,
        ),
        (
            "returns in place of advantages",
            lambda token_rewards, response_mask, values: (
                gae(token_rewards, response_mask, values, lam=0.5) + values
            ),
        ),
        (
            "lambda 1.1",
            lambda token_rewards, response_mask, values: gae(
                token_rewards, response_mask, values, lam=1.1
            ),
        ),
        (
            "the mean of lambda 0 and lambda 1",
            lambda token_rewards, response_mask, values: (
                (
                    gae(token_rewards, response_mask, values, lam=0.0)
                    + gae(token_rewards, response_mask, values, lam=1.0)
                )
                / 2
            ),
        ),
    ],
    wrong=[
        ("VAPO's lambda of the row's own length", own_lambda),
        ("bootstraps past the end", endless),
        ("GAE over padding and replies", over_columns),
        (
            "no value after the token",
            lambda token_rewards, response_mask, values: scan(
                token_rewards - values, response_mask, 0.9
            ),
        ),
        (
            "plus the value after the token, none taken off",
            lambda token_rewards, response_mask, values: scan(
                token_rewards + next_values(values, response_mask), response_mask, 0.5
            ),
        ),
        (
            "lambda on rewards without values",
            lambda token_rewards, response_mask, values: (
                scan(token_rewards, response_mask, 0.9) - values
            ),
        ),
        (
            "values clipped to 0 and 1",
            lambda token_rewards, response_mask, values: gae(
                token_rewards, response_mask, values.clamp(0, 1), lam=0.5
            ),
        ),
    ],
)

DISCOUNTS = family(
    "discounts",
    right=[
        (
            "discounted reward to go",
            lambda token_rewards, response_mask, gamma: scan(token_rewards, response_mask, gamma),
        ),
        (
            "discounted, then weighed by gamma^t as well",
            lambda token_rewards, response_mask, gamma: (
                scan(token_rewards, response_mask, gamma)
                * gamma ** (response_mask.cumsum(1) - 1).clamp(min=0)
            ),
        ),
        ("the return from the first token at every token", discounted_from_the_start),
        (
            "GAE",
            lambda token_rewards, response_mask, values, gamma: gae(
                token_rewards, response_mask, values, gamma
            ),
        ),
        (
            "less that of others that are alive",
            lambda token_rewards, response_mask, group_ids, gamma: (
                scan(token_rewards, response_mask, gamma)
                - alive_mean(
                    scan(token_rewards, response_mask, gamma), response_mask, others(group_ids)
                )
            ),
        ),
        (
            "one factor of gamma too many on all",
            lambda token_rewards, response_mask, gamma: (
                gamma * scan(token_rewards, response_mask, gamma)
            ),
        ),
    ],
    wrong=[
        (
            "takes gamma and sums without it",
            lambda token_rewards, gamma: to_go(token_rewards),
        ),
        (
            "gamma twice",
            lambda token_rewards, response_mask, gamma: scan(
                token_rewards, response_mask, gamma**2
            ),
        ),
        (
            "columns of replies take time",
            lambda token_rewards, response_mask, gamma: scan(
                token_rewards, response_mask, gamma, skip=False
            ),
        ),
        (
            "1 / gamma",
            lambda token_rewards, response_mask, gamma: scan(
                token_rewards, response_mask, 1 / gamma
            ),
        ),
        (
            "the score, discounted by the token's place from the start",
            lambda scores, response_mask, gamma: column(scores) * gamma ** response_mask.cumsum(1),
        ),
        (
            "gamma once for all that comes later",
            lambda token_rewards, gamma: (
                token_rewards + gamma * (to_go(token_rewards) - token_rewards)
            ),
        ),
    ],
)

LENGTHS = family(
    "lengths",
    right=[
        (
            "divided by a horizon of 16",
            lambda scores, response_mask, group_ids: (scores - others_mean(scores, group_ids)) / 16,
        ),
        (
            "divided by the mean length of others",
            lambda scores, response_mask, group_ids: (
                (scores - others_mean(scores, group_ids))
                / (others_mean(lengths(response_mask), group_ids) + 1)
            ),
        ),
        (
            "divided by all tokens of the batch",
            lambda scores, response_mask, group_ids: (
                (scores - group_mean(scores, group_ids)) / response_mask.sum() * len(scores)
            ),
        ),
        (
            "divided by the place of the token",
            lambda token_rewards, response_mask: (
                to_go(token_rewards) / response_mask.cumsum(1).clamp(min=1)
            ),
        ),
        (
            "others' scores for each of their tokens as the baseline",
            lambda scores, response_mask, group_ids: (
                scores - others_mean(scores / lengths(response_mask), group_ids)
            ),
        ),
    ],
    wrong=[
        (
            "divided by own length",
            lambda scores, response_mask, group_ids: (
                (scores - group_mean(scores, group_ids)) / lengths(response_mask)
            ),
        ),
        (
            "divided by the root of own length",
            lambda scores, response_mask, group_ids: (
                (scores - others_mean(scores, group_ids)) / lengths(response_mask).sqrt()
            ),
        ),
        (
            "the score for each token",
            lambda scores, response_mask: scores / lengths(response_mask),
        ),
        (
            "divided by the tokens that are left",
            lambda token_rewards, response_mask: (
                to_go(token_rewards) / left(response_mask).clamp(min=1)
            ),
        ),
        (
            "a penalty on tokens past the third",
            lambda scores, response_mask, group_ids: (
                scores
                - others_mean(scores, group_ids)
                - 0.1 * torch.relu(lengths(response_mask) - 3)
            ),
        ),
        (
            "responses of one token are left out",
            lambda scores, response_mask, group_ids: (
                (scores - others_mean(scores, group_ids)) * (lengths(response_mask) > 1)
            ),
        ),
        (
            "multiplied by own length over the mean length",
            lambda scores, response_mask, group_ids: (
                (scores - group_mean(scores, group_ids))
                * lengths(response_mask)
                / group_mean(lengths(response_mask), group_ids)
            ),
        ),
    ],
    pays="outcome",
)

MASKS = family(
    "masks and padding",
    right=[
        (
            "anything at all past the end",
            lambda token_rewards, response_mask: torch.where(
                response_mask, to_go(token_rewards), 777.0
            ),
        ),
        (
            "means over the mask of others",
            lambda token_rewards, response_mask, group_ids: (
                to_go(token_rewards)
                - column(
                    (others(group_ids) @ (to_go(token_rewards) * response_mask).sum(1))
                    / (others(group_ids) @ lengths(response_mask)).clamp(min=1)
                )
            ),
        ),
        (
            "the score read at the last written token",
            lambda token_rewards, response_mask: column(
                (at_last_token(token_rewards, response_mask)).sum(1)
            ),
            {"pays": "outcome"},
        ),
        (
            "the mask as numbers",
            lambda token_rewards, response_mask: (
                (token_rewards * response_mask.long()).flip(1).cumsum(1).flip(1)
                * response_mask.float()
            ),
        ),
    ],
    wrong=[
        (
            "divided by the columns of the batch",
            lambda token_rewards, response_mask: (
                to_go(token_rewards) - token_rewards.sum(1, keepdim=True) / token_rewards.shape[1]
            ),
        ),
        (
            "the mean over all columns, padding too",
            lambda token_rewards, response_mask: to_go(token_rewards) - to_go(token_rewards).mean(),
        ),
        (
            "the score read in the last column",
            lambda token_rewards, response_mask: token_rewards[:, -1:] * response_mask,
            {"pays": "outcome"},
        ),
        (
            "the score read at the number of written tokens",
            lambda token_rewards, response_mask: token_rewards.gather(
                1, (response_mask.sum(1, keepdim=True) - 1)
            ),
            {"pays": "outcome"},
        ),
        (
            "the last token, the end of the text, left out",
            lambda token_rewards, response_mask: to_go(token_rewards) * shifted(response_mask, -1),
        ),
        (
            "the first token left out",
            lambda token_rewards, response_mask: (
                to_go(token_rewards) * (response_mask.cumsum(1) > 1)
            ),
        ),
        (
            "the mask upside down",
            lambda token_rewards, response_mask: to_go(token_rewards) * ~response_mask,
        ),
    ],
)

REPLIES = family(
    "replies",
    right=[
        (
            "GAE past replies, lambda .8",
            lambda token_rewards, response_mask, values: gae(
                token_rewards, response_mask, values, lam=0.8
            ),
        ),
        (
            "less the mean of others, over what was written",
            lambda token_rewards, response_mask, scores, group_ids: (
                (to_go(token_rewards) - column(others_mean(scores, group_ids))) * response_mask
            ),
        ),
        (
            "the turn's number as a baseline",
            lambda token_rewards, turn_ids: to_go(token_rewards) - 0.3 * turn_ids,
        ),
        (
            "tokens of replies before the token as a baseline",
            lambda token_rewards, response_mask: (
                to_go(token_rewards) + 0.2 * (~response_mask).cumsum(1) * response_mask
            ),
        ),
    ],
    wrong=[
        (
            "only what was written after the last reply is trained",
            lambda token_rewards, turn_ids: (
                to_go(token_rewards) * (turn_ids == turn_ids.amax(1, keepdim=True))
            ),
        ),
        (
            "only the first turn is trained",
            lambda token_rewards, turn_ids: to_go(token_rewards) * (turn_ids == 0),
        ),
        (
            "the score over the tokens of replies and of own",
            lambda scores, response_ids: scores / (response_ids > 0).sum(1),
            {"pays": "outcome"},
        ),
        (
            "replies counted as own length",
            lambda token_rewards, turn_ids, response_ids: (
                to_go(token_rewards)
                - 0.1 * ((response_ids > 0) & (turn_ids < 0)).sum(1, keepdim=True)
            ),
        ),
        (
            "a discount of .7 at each reply",
            lambda token_rewards, turn_ids: on_tokens(
                scan(turn_rewards(token_rewards, turn_ids), has_turn(turn_ids) > 0, 0.7),
                turn_ids,
            ),
        ),
    ],
)

TURNS = family(
    "turns",
    right=[
        ("the turn's reward to go", turn_to_go),
        ("less that of others that have the turn", alive_turns),
        (
            "the whole score on all turns, less others'",
            lambda token_rewards, turn_ids, scores, group_ids: column(
                scores - others_mean(scores, group_ids)
            ),
        ),
        (
            "reward to go minus the value at the turn's first token",
            lambda token_rewards, turn_ids, values: (
                to_go(token_rewards) - value_of_turn(values, turn_ids)
            ),
        ),
        (
            "later turns weigh more",
            lambda token_rewards, turn_ids: turn_to_go(token_rewards, turn_ids) * (turn_ids + 1),
        ),
        (
            "the turn's and half of the score",
            lambda token_rewards, turn_ids, scores: (
                turn_to_go(token_rewards, turn_ids) + 0.5 * column(scores)
            ),
        ),
    ],
    wrong=[
        (
            "the turn's own reward alone",
            lambda token_rewards, turn_ids: on_tokens(
                turn_rewards(token_rewards, turn_ids), turn_ids
            ),
        ),
        ("centred turn by turn, then summed", turns_centred_then_summed),
        (
            "the turns so far",
            lambda token_rewards, turn_ids: on_tokens(
                turn_rewards(token_rewards, turn_ids).cumsum(1), turn_ids
            ),
        ),
        (
            "the score for each turn",
            lambda token_rewards, turn_ids, scores: column(
                scores / (turn_ids.amax(1) + 1).clamp(min=1)
            ),
        ),
        ("the best of the response's turns", best_turn),
        (
            "the response's other turns as the baseline",
            lambda token_rewards, turn_ids, scores: (
                2 * on_tokens(turn_rewards(token_rewards, turn_ids), turn_ids) - column(scores)
            ),
        ),
        (
            "the turns that follow, without its own",
            lambda token_rewards, turn_ids: on_tokens(
                to_go(turn_rewards(token_rewards, turn_ids))
                - turn_rewards(token_rewards, turn_ids),
                turn_ids,
            ),
        ),
    ],
)

SHIFTS = family(
    "index shifts",
    right=[
        (
            "shifted there and back",
            lambda token_rewards: torch.roll(torch.roll(to_go(token_rewards), 1, 1), -1, 1),
        ),
        (
            "the total minus what came before",
            lambda token_rewards: (
                token_rewards.sum(1, keepdim=True) - token_rewards.cumsum(1) + token_rewards
            ),
        ),
        (
            "rewards put one column later, sums of what is strictly later",
            lambda token_rewards: to_go(torch.cat([token_rewards * 0, token_rewards], 1))[
                :, token_rewards.shape[1] :
            ],
        ),
        (
            "a loop from the last column",
            lambda token_rewards, response_mask: scan(
                token_rewards, response_mask, 1.0, skip=False
            ),
        ),
    ],
    wrong=[
        (
            "advantages one token too early",
            lambda token_rewards: shifted(to_go(token_rewards), -1),
        ),
        (
            "advantages one token too late",
            lambda token_rewards: shifted(to_go(token_rewards), 1),
        ),
        ("rewards turned round", lambda token_rewards: to_go(token_rewards.flip(1))),
        (
            "values one token too late",
            lambda token_rewards, values: to_go(token_rewards) - shifted(values, -1),
        ),
        (
            "sums over rows in place of tokens",
            lambda token_rewards: token_rewards.flip(0).cumsum(0).flip(0),
        ),
        (
            "a reward one row down",
            lambda token_rewards: to_go(
                torch.roll(token_rewards.reshape(-1), 1).view_as(token_rewards)
            ),
        ),
    ],
)

WEIGHTS = family(
    "weights of tokens",
    right=[
        (
            "by the column",
            lambda token_rewards: to_go(token_rewards) * (1 + torch.arange(token_rewards.shape[1])),
        ),
        (
            "by the token before",
            lambda token_rewards, response_ids: (
                to_go(token_rewards) * (1 + (shifted(response_ids, 1) % 2))
            ),
        ),
        (
            "by what was paid before",
            lambda token_rewards: to_go(token_rewards) * (1 + so_far(token_rewards).abs()),
        ),
        (
            "by the size of the value before the token",
            lambda token_rewards, values: (to_go(token_rewards) - values) * (0.5 + values.abs()),
        ),
    ],
    wrong=[
        (
            "by the token itself",
            lambda token_rewards, response_ids: to_go(token_rewards) * (1 + response_ids % 3),
        ),
        (
            "by the row's own score",
            lambda token_rewards, scores: to_go(token_rewards) * (0.5 + column(scores).abs()),
        ),
        (
            "by own rewards, as attention would",
            lambda token_rewards, response_mask, scores: (
                column(scores)
                * torch.softmax(token_rewards.masked_fill(~response_mask, -torch.inf), 1)
                * response_mask
            ),
        ),
        (
            "the last token twice",
            lambda token_rewards, response_mask: (
                to_go(token_rewards) * (1 + 2 * (left(response_mask) == 1))
            ),
        ),
        (
            "the tokens with a reward alone",
            lambda token_rewards: to_go(token_rewards) * (token_rewards != 0),
        ),
    ],
)

PROCESS = family(
    "process rewards",
    right=[
        (
            "steps to go, and the score less others'",
            lambda token_rewards, response_mask, scores, group_ids: (
                to_go(token_rewards) + column(scores - others_mean(scores, group_ids))
            ),
        ),
        (
            "steps to go less values, scaled by others",
            lambda token_rewards, values, scores, group_ids: (
                (to_go(token_rewards) - values) / (1 + column(others_mean(scores.abs(), group_ids)))
            ),
        ),
        (
            "the value as a potential: r + V' - V, summed",
            lambda token_rewards, response_mask, values: to_go(
                (token_rewards + next_values(values, response_mask) - values) * response_mask
            ),
        ),
        (
            "sums to go less others' mean reward a token, once",
            lambda token_rewards, response_mask, group_ids: (
                to_go(token_rewards)
                - column(
                    (others(group_ids) @ token_rewards.sum(1))
                    / (others(group_ids) @ lengths(response_mask)).clamp(min=1)
                )
            ),
        ),
    ],
    wrong=[
        (
            "the smallest step to come",
            lambda token_rewards, response_mask: (
                -(
                    torch.where(response_mask, -token_rewards, -torch.inf)
                    .flip(1)
                    .cummax(1)
                    .values.flip(1)
                    .clamp(min=-9)
                )
            ),
        ),
        (
            "PURE: steps weighed by softmax(-r)",
            lambda token_rewards, response_mask: to_go(
                token_rewards
                * torch.softmax((-4 * token_rewards).masked_fill(~response_mask, -torch.inf), 1)
            ),
        ),
        (
            "DeepSeekMath: steps centred and scaled over the group, then summed",
            lambda token_rewards, response_mask, group_ids: to_go(
                (
                    token_rewards
                    - column(
                        mean_over(same(group_ids), own_mean(token_rewards, response_mask)[:, 0])
                    )
                )
                / (column(group_std(token_rewards.sum(1), group_ids)) + 0.1)
                * response_mask
            ),
        ),
        (
            "the mean of own steps",
            lambda token_rewards, response_mask: own_mean(token_rewards, response_mask),
        ),
        (
            "progress counted from the best step so far",
            lambda token_rewards: to_go(torch.relu(token_rewards - shifted(token_rewards, 1))),
        ),
    ],
)

ESTIMATORS = [
    *REWARD_TO_GO,
    *VALUES,
    *DISCOUNTS,
    *LENGTHS,
    *MASKS,
    *REPLIES,
    *TURNS,
    *SHIFTS,
    *WEIGHTS,
    *PROCESS,
]
