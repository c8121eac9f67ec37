"""Token credit in slime and rLLM, trainers without a door: the few lines that each takes.

    --custom-reward-post-process-path slime_and_rllm.slime_rewards  (slime)
    --custom-advantage-function-path slime_and_rllm.slime_advantages

rLLM reads the advantages that `rllm_advantages` sets under ``use_precomputed_advantage: true``. Put
your reward model and tokenizer in the place of the bundle.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tokengym import TokenCredit, bundled
from tokengym.bridges import join_calls
from tokengym.bridges.rows import Row, credit_rows

bundle = bundled("movie_review")
credit = TokenCredit(bundle.reward_model, "abc-signed", tokenizer=bundle.tokenizer)


def slime_rewards(args: Any, samples: Sequence[Any]) -> tuple[list[float], list[list[float]]]:
    """Return slime's scores, 0 of a sample that nobody scored, and each token's advantage."""
    del args
    rows = []
    for sample in samples:
        start = len(sample.tokens) - sample.response_length
        unwritten = [0] * sample.response_length
        rows.append(
            Row(
                prompt_ids=sample.tokens[:start],
                response_ids=sample.tokens[start:],
                group=sample.group_index,
                written=unwritten if sample.remove_sample else sample.loss_mask,
            )
        )
    credited = credit_rows(rows, credit)
    return np.nan_to_num(credited.scores).tolist(), [row.tolist() for row in credited.advantages]


def slime_advantages(args: Any, data: dict[str, Any]) -> None:
    """Set the advantages of a rank's rows; ``context_parallel_size`` is 1."""
    del args
    rows = [
        torch.tensor(row, device=kl.device)
        for row, kl in zip(data["rewards"], data["kl"], strict=True)
    ]
    data["advantages"] = data["returns"] = rows


def rllm_advantages(trajectories: Sequence[Any], tasks: Sequence[str]) -> None:
    """Set the advantages of all trajectories of each task, whose steps are one conversation."""
    talks = [
        join_calls((step.prompt_ids, step.response_ids) for step in trajectory.steps)
        for trajectory in trajectories
    ]
    rows = [Row(**talk._asdict(), group=task) for (talk, _), task in zip(talks, tasks, strict=True)]
    advantages = credit_rows(rows, credit).advantages
    for trajectory, (_, places), paid in zip(trajectories, talks, advantages, strict=True):
        for step, place in zip(trajectory.steps, places, strict=True):
            step.advantage = paid[place].tolist()
