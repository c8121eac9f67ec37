"""Train the classifier of query types, and state how often it is right on held-out queries.

    python lab/makers/bundles/query_types.py --real alpacafarm_val.json

The file is the release of Kim et al. 2024: a list of {"input", "output", "qtype"}.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from tokengym.envs import BUCKETS, bundled, features
from tokengym.lab.tables import wilson_interval

HELD_OUT = 400
"""Queries of the file that are not trained on."""
DECAY = 0.002
"""L2 penalty on the weights: of .0005, .002, .01 and .03 the one that is right most often in
four-fold cross-validation of the queries that are trained on."""
Annotated = Sequence[tuple[str, bool]]
"""(query, whether it is constrained)."""


def fit(queries: Annotated, *, decay: float = DECAY) -> NDArray[np.float16]:
    """Return the weights of a logistic regression, (BUCKETS + 1,), the bias last.

    loss = mean cross-entropy + decay / 2 * sum_i w_i^2

    Args:
        queries: Training data.
        decay: L2 penalty on all weights but the bias.
    """
    inputs = torch.zeros(len(queries), BUCKETS)
    for row, (text, _) in enumerate(queries):
        inputs[row, features(text)] = 1.0
    targets = torch.tensor([float(constrained) for _, constrained in queries])
    weights = torch.zeros(BUCKETS + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = inputs @ weights[:-1] + weights[-1]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        value = value + decay / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach().numpy().astype(np.float16)


def right(weights: NDArray[np.float16], queries: Annotated) -> int:
    """Return how many queries get the type they are annotated with."""
    exact = weights.astype(np.float32)
    return sum(
        bool(exact[features(text)].sum() + exact[-1] > 0) == constrained
        for text, constrained in queries
    )


def main(real: Path, out: Path = Path("envs/prompts/query_types.npy")) -> None:
    """Train, print the accuracy and write the weights.

    Args:
        real: Annotated real queries.
        out: File of the weights.
    """
    rows = json.loads(real.read_text(encoding="utf-8"))
    order = np.random.default_rng(0).permutation(len(rows))
    queries = [(rows[i]["input"], rows[i]["qtype"] == "CONSTRAINED") for i in order]
    bundle = bundled("question_answer")
    bundled_queries = {
        split: [
            (prompt.text, prompt.query_type == "CONSTRAINED") for prompt in bundle.prompts(split)
        ]
        for split in ("train", "test")
    }
    weights = fit(queries[HELD_OUT:] + bundled_queries["train"])
    for name, held_out in {"real": queries[:HELD_OUT], "bundled": bundled_queries["test"]}.items():
        count = right(weights, held_out)
        low, high = wilson_interval(count / len(held_out), len(held_out))
        print(f"{name}: {count} of {len(held_out)} right, {low:.3f} to {high:.3f}")
    np.save(out, weights)


if __name__ == "__main__":
    tyro.cli(main)
