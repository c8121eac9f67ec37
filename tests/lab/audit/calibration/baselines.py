"""Estimators that differ in what they take off a return, and in whom they train."""

import torch

from tests.lab.audit.calibration.common import (
    alive_mean,
    column,
    earlier,
    family,
    group_mean,
    group_std,
    lengths,
    mean_over,
    others,
    others_mean,
    own_mean,
    same,
    so_far,
    to_go,
)


def median_of_others(scores, group_ids):
    """Leave-one-out median, as outliers ask for."""
    which = others(group_ids).bool()
    middles = [scores[row].median() if row.any() else scores.new_zeros(()) for row in which]
    return scores - torch.stack(middles)


def loop_over_prompts(scores, group_ids):
    """verl's dictionary of lists."""
    by_prompt: dict[int, list[int]] = {}
    for row, prompt in enumerate(group_ids.tolist()):
        by_prompt.setdefault(prompt, []).append(row)
    advantages = torch.zeros_like(scores)
    for rows in by_prompt.values():
        advantages[rows] = scores[rows] - scores[rows].mean()
    return advantages


def regressed_on_length(scores, response_mask):
    """A straight line through scores and lengths of the whole batch, taken off."""
    length = lengths(response_mask)
    apart = length - length.mean()
    slope = (apart * scores).sum() / (apart * apart).sum().clamp(min=1e-6)
    return scores - scores.mean() - slope * apart


def every_second(group_ids):
    """(batch,): whether a prompt's row is its second, fourth, ..."""
    return earlier(group_ids).sum(1) % 2 == 1


def half_for_the_other(scores, group_ids):
    odd = every_second(group_ids)
    which = same(group_ids) * (odd[:, None] != odd)
    return scores - mean_over(which, scores)


def next_row(scores):
    return scores - torch.cat([scores[1:], scores.new_zeros(1)])


def in_pairs(scores, group_ids):
    """(batch,): the score of the other row of a pair; 0 of a row that is left over."""
    number = earlier(group_ids).sum(1)
    partner = number + 1 - 2 * (number % 2)
    which = same(group_ids) * (partner[:, None] == number)
    return which @ scores


def running_best(scores, group_ids, own):
    """(batch,): the largest score among a prompt's earlier rows, with or without the row itself."""
    which = earlier(group_ids) + (torch.eye(len(scores)) if own else 0)
    known = torch.where(which.bool(), scores, torch.full_like(scores, -torch.inf)).amax(1)
    return torch.where(known.isinf(), torch.zeros_like(known), known)


ESTIMATORS = [
    *family(
        "baselines",
        right=[
            (
                "leave-one-out mean",
                lambda scores, group_ids: scores - others_mean(scores, group_ids),
            ),
            ("a constant of one half", lambda scores: scores - 0.5),
            ("leave-one-out median", median_of_others),
            (
                "half of the row's whole score",
                lambda token_rewards, scores: to_go(token_rewards) - 0.5 * column(scores),
            ),
            (
                "leave-one-out mean in the column, finished rows as 0",
                lambda token_rewards, response_mask, group_ids: (
                    to_go(token_rewards)
                    - others_mean(to_go(token_rewards * response_mask), group_ids)
                ),
            ),
            (
                "nine tenths of the value before the token",
                lambda token_rewards, values: to_go(token_rewards) - 0.9 * values,
            ),
        ],
        wrong=[
            (
                "own mean over the response's tokens",
                lambda token_rewards, response_mask: (
                    to_go(token_rewards) - own_mean(to_go(token_rewards), response_mask)
                ),
            ),
            (
                "mean of all token rewards off every token, then sums",
                lambda token_rewards, response_mask: to_go(
                    (token_rewards - (token_rewards * response_mask).sum() / response_mask.sum())
                    * response_mask
                ),
            ),
            (
                "mean of a column's rewards off every token, then sums",
                lambda token_rewards, response_mask, group_ids: to_go(
                    (token_rewards - alive_mean(token_rewards, response_mask, same(group_ids)))
                    * response_mask
                ),
            ),
            (
                "own reward to go at the next token",
                lambda token_rewards: (
                    to_go(token_rewards) - 0.8 * (to_go(token_rewards) - token_rewards)
                ),
            ),
            (
                "the group's mean as a divisor",
                lambda scores, group_ids: scores / (group_mean(scores, group_ids) + 1e-6),
            ),
            (
                "own reward to go at the first token, half of it at later tokens of own",
                lambda token_rewards: (
                    to_go(token_rewards)
                    - 0.5 * torch.relu(to_go(token_rewards)).sum(1, keepdim=True)
                ),
            ),
        ],
    ),
    *family(
        "order of rows",
        right=[
            (
                "mean of the prompt's earlier rows",
                lambda scores, group_ids: scores - mean_over(earlier(group_ids), scores),
            ),
            (
                "mean of the prompt's later rows",
                lambda scores, group_ids: scores - mean_over(earlier(group_ids).T, scores),
            ),
            (
                "the row's number as the baseline",
                lambda scores: scores - 0.1 * torch.arange(len(scores)),
            ),
            (
                "the other row of a pair",
                lambda scores, group_ids: scores - in_pairs(scores, group_ids),
            ),
            ("each half of a group for the other", half_for_the_other),
            ("the next row of the batch", next_row),
            (
                "best of the prompt's earlier rows",
                lambda scores, group_ids: scores - running_best(scores, group_ids, own=False),
            ),
        ],
        wrong=[
            (
                "difference of squares within a pair",
                lambda scores, group_ids: (
                    (scores - in_pairs(scores, group_ids)) * (scores + in_pairs(scores, group_ids))
                ),
            ),
            (
                "the better of a pair gets 1, the other -1",
                lambda scores, group_ids: torch.sign(scores - in_pairs(scores, group_ids)),
            ),
            ("the neighbour's score less own", lambda scores: torch.roll(scores, 1) - scores),
            (
                "the advantage of the row before",
                lambda scores, group_ids: torch.roll(scores - others_mean(scores, group_ids), 1),
            ),
            (
                "returned in the order of scores",
                lambda scores: scores.sort().values - scores.mean(),
            ),
            (
                "the first row's advantage for all",
                lambda scores: (scores - scores.mean())[:1].expand(len(scores)),
            ),
            (
                "the larger of a pair as the baseline",
                lambda scores, group_ids: (
                    scores - torch.maximum(scores, in_pairs(scores, group_ids))
                ),
            ),
        ],
        pays="outcome",
    ),
    *family(
        "groups",
        right=[
            ("a loop over a dictionary of prompts", loop_over_prompts),
            (
                "a view by the group's size",
                lambda scores, group_size: (
                    scores.view(-1, group_size) - scores.view(-1, group_size).mean(1, keepdim=True)
                ).view(-1),
            ),
            ("the mean of the whole batch", lambda scores: scores - scores.mean()),
            (
                "the mean of the other prompts alone",
                lambda scores, group_ids: scores - mean_over(1 - same(group_ids), scores),
            ),
            (
                "prompts weighed by what the other rows leave to learn",
                lambda scores, group_ids: (
                    (scores - others_mean(scores, group_ids))
                    * (1 + torch.exp(-others_mean(scores, group_ids).abs()))
                ),
            ),
            (
                "each row gets the group's mean score",
                lambda scores, group_ids: group_mean(scores, group_ids) - 0.2,
            ),
        ],
        wrong=[
            (
                "each row gets its group's mean advantage",
                lambda scores, group_ids: group_mean(
                    scores - group_mean(scores, group_ids), group_ids
                ),
            ),
            (
                "1 for the best of the group, else 0",
                lambda scores, group_ids: (
                    scores >= torch.where(same(group_ids).bool(), scores, -torch.inf).amax(1)
                ).float(),
            ),
            (
                "a score counts once, however many rows have it",
                lambda scores, group_ids: (
                    (scores - group_mean(scores, group_ids))
                    / (same(group_ids) * (scores[:, None] == scores)).sum(1)
                ),
            ),
            (
                "place in the group, from -1 to 1",
                lambda scores, group_ids: (
                    (same(group_ids) * torch.sign(column(scores) - scores)).sum(1)
                    / same(group_ids).sum(1)
                ),
            ),
            (
                "rows above the group's mean alone",
                lambda scores, group_ids: torch.relu(scores - group_mean(scores, group_ids)),
            ),
            (
                "rows below the group's mean alone",
                lambda scores, group_ids: -torch.relu(group_mean(scores, group_ids) - scores),
            ),
        ],
        pays="outcome",
    ),
    *family(
        "leaks",
        right=[
            (
                "own rewards before the token",
                lambda token_rewards: to_go(token_rewards) - 0.7 * so_far(token_rewards),
            ),
            (
                "the token before",
                lambda token_rewards, response_ids: (
                    to_go(token_rewards)
                    - 0.2 * torch.cat([response_ids[:, :1] * 0, response_ids[:, :-1]], 1)
                ),
            ),
            (
                "length of the prompt's other responses",
                lambda scores, response_mask, group_ids: (
                    scores - 0.1 * others_mean(lengths(response_mask), group_ids)
                ),
            ),
            (
                "the number of the column",
                lambda token_rewards: (
                    to_go(token_rewards) - 0.1 * torch.arange(token_rewards.shape[1])
                ),
            ),
            (
                "own score in a mean of the group's",
                lambda token_rewards, scores, group_ids: (
                    to_go(token_rewards) - 0.5 * column(group_mean(scores, group_ids))
                ),
            ),
        ],
        wrong=[
            (
                "own length",
                lambda scores, response_mask, group_ids: (
                    scores - others_mean(scores, group_ids) - 0.05 * lengths(response_mask)
                ),
            ),
            (
                "the token itself",
                lambda token_rewards, response_ids: to_go(token_rewards) - 0.1 * response_ids,
            ),
            (
                "the value after the token",
                lambda token_rewards, values, response_mask: (
                    to_go(token_rewards)
                    - torch.cat([values[:, 1:], values[:, :1] * 0], 1) * response_mask
                ),
            ),
            ("a line through lengths of the batch", regressed_on_length, {"pays": "outcome"}),
            (
                "a hundredth more for every further token, capped at 5",
                lambda scores, response_mask, group_ids: (
                    scores
                    - others_mean(scores, group_ids)
                    + 0.04 * lengths(response_mask).clamp(max=5)
                ),
            ),
            (
                "spread of the row's own rewards",
                lambda token_rewards, response_mask: (
                    to_go(token_rewards)
                    - column(((token_rewards**2).sum(1) / lengths(response_mask)).sqrt())
                ),
            ),
            (
                "half of own reward at the token itself",
                lambda token_rewards: to_go(token_rewards) - 0.5 * token_rewards,
            ),
        ],
    ),
    *family(
        "selection",
        right=[
            (
                "groups whose other rows all agree count twice",
                lambda scores, group_ids: (
                    (scores - others_mean(scores, group_ids))
                    * (
                        1
                        + (
                            (
                                others_mean(scores**2, group_ids)
                                - others_mean(scores, group_ids) ** 2
                            )
                            < 1e-4
                        )
                    )
                ),
            ),
            (
                "every second row of a prompt alone is trained",
                lambda scores, group_ids: (
                    (scores - others_mean(scores, group_ids)) * every_second(group_ids)
                ),
            ),
            (
                "groups of equal scores are dropped",
                lambda scores, group_ids: torch.where(
                    group_std(scores, group_ids) > 1e-4, scores - group_mean(scores, group_ids), 0.0
                ),
            ),
            (
                "the first row is the baseline and is not trained",
                lambda scores, group_ids: (
                    (scores - scores[(group_ids[:, None] == group_ids).float().argmax(1)])
                    * (earlier(group_ids).sum(1) > 0)
                ),
            ),
        ],
        wrong=[
            (
                "1 for the best, -1 for the worst of the group, 0 for others",
                lambda scores, group_ids: (
                    (
                        scores >= torch.where(same(group_ids).bool(), scores, -torch.inf).amax(1)
                    ).float()
                    - (
                        scores <= torch.where(same(group_ids).bool(), scores, torch.inf).amin(1)
                    ).float()
                ),
            ),
            (
                "gains count twice, losses once",
                lambda scores, group_ids: (
                    (scores - group_mean(scores, group_ids))
                    * (1 + (scores > group_mean(scores, group_ids)))
                ),
            ),
            (
                "losses count double",
                lambda scores, group_ids: (
                    (scores - group_mean(scores, group_ids))
                    * (1 + (scores < group_mean(scores, group_ids)))
                ),
            ),
            ("rows that succeed alone", lambda scores: scores * (scores > 0.5)),
            ("rows that fail get -1, others 0", lambda scores: -(scores <= 0.5).float()),
        ],
        pays="outcome",
    ),
]
