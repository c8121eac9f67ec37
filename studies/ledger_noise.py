"""How noisy and how biased is each rule's gradient, on the real policy at its full length?

Responses of a fixed policy of MovieReview are drawn and every prefix of them is continued: executed
forks, which give each token's advantage without bias. What a rule pays gives, for each lambda, a
gradient per response. Its mean is compared with the gradient that the forks give (bias), and its
variance is counted in responses: how many it takes until the noise of their mean is as long as its
signal. There is no critic, no price on the KL, and the scores are centred.

    python -m studies.ledger_noise --out runs/ledger    # 20 minutes a policy
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from studies.ledger_cells import ENV, FOLDER, ROWS, RULES, config, make_cell, register_words
from tokengym.agents import Sequences, losses
from tokengym.envs import Episode
from tokengym.evaluation import run as run_one
from tokengym.evaluation.measure import Evaluator, task_reward
from tokengym.evaluation.runs import load_agent
from tokengym.lab.study import DOCS, Docs, Out, Row, command_line, read_rows, write_rows

Array = NDArray[np.float64]
RESPONSES, BLOCKS, SEED = 1024, 8, 3
K = 4
"""Continuations of a prefix, twice: independent estimates whose product has no noise of its own."""
LAMBDAS = (0.5, 0.95, 1 - 1 / 48, 1.0)
POLICIES = {"untrained": 0, "after 8 updates": 8}
"""By name: updates under `sparse` that a policy has had."""
EXACT = "exact advantage"
PERFECT = "sparse, perfect critic"
CONTINUED = f"mc, k={K}"
"""The advantages of one estimate, with their noise."""
NOISE = "noise.csv"
"""Published figures of all policies."""
TOLD = 0.25
"""Largest standard error of a cosine that is shown."""
NAMES = ("cosine", "noise", "cosine_error", "noise_error")
Kind = tuple[str, float, int]
"""Rule, lambda and which of two estimates."""


# --- what is measured -----------------------------------------------------------------------------


def played(
    updates: int, out: Path, *, responses: int = RESPONSES
) -> tuple[list[Episode], Any, dict[str, Any]]:
    """Return responses to held-out prompts, their policy, and the environment's arguments."""
    cell = make_cell(rule="sparse", rate=1e-3)
    kwargs = {**config(cell, out).training.lengths(), "normalize": "batch"}
    evaluator = Evaluator(ENV, kwargs, num_episodes=responses, seed=SEED)
    policy: Any = evaluator.untrained()
    if updates:
        folder = out / f"policy-{updates}"
        if not folder.exists():
            run_one(config(cell.but(updates=updates), out), cell.rule, SEED, save=folder)
        policy = load_agent(str(folder)).policy
    return list(evaluator(policy).episodes), policy, kwargs


def token_rewards(reward: Any, episodes: Sequence[Episode]) -> Tensor:
    """Return what a reward pays each token, (episodes, time)."""
    paid = reward.evaluate(list(episodes))
    return torch.tensor(np.stack([episode.token_rewards for episode in paid]), dtype=torch.float32)


def paid_by(rule: str, env: str, kwargs: Mapping[str, Any], policy: Any = None) -> Any:
    """Return the reward of a rule, which may continue responses with a policy."""
    return task_reward(env, {**kwargs, "reward": rule}, policy, seed=SEED, num_envs=ROWS)[0]


def without_critic(rewards: Tensor, gae_lambda: float) -> Tensor:
    """Return the advantages of token rewards where all values are 0, like the rewards."""
    mask = torch.ones_like(rewards, dtype=torch.bool)
    values = torch.zeros_like(rewards)
    return losses.gae(rewards, values, mask, gamma=1.0, gae_lambda=gae_lambda)[0]


def paid_advantages(
    rules: Sequence[str],
    lambdas: Sequence[float],
    episodes: Sequence[Episode],
    env: str,
    kwargs: Mapping[str, Any],
) -> dict[Kind, Tensor]:
    """Return the advantages of what each rule pays, by each lambda."""
    advantages = {}
    for rule in rules:
        rewards = token_rewards(paid_by(rule, env, kwargs), episodes)
        for gae_lambda in lambdas:
            advantages[rule, gae_lambda, 0] = without_critic(rewards, gae_lambda)
    return advantages


def forked_advantages(
    lambdas: Sequence[float],
    episodes: Sequence[Episode],
    policy: Any,
    env: str,
    kwargs: Mapping[str, Any],
) -> dict[Kind, Tensor]:
    """Return the advantages of continued prefixes, in two estimates.

    The increments of exact values, summed by lambda, are what GAE makes of `sparse` with a perfect
    critic; at lambda 0 they are the advantages themselves.

    Args:
        lambdas: Those of the perfect critic.
        episodes: The responses.
        policy: Continues their prefixes.
        env: Environment id.
        kwargs: Arguments of the environment.
    """
    advantages = {}
    forks = paid_by(f"mc:k={K}", env, kwargs, policy)
    for estimate in range(2):
        rewards = token_rewards(forks, episodes)
        for gae_lambda in lambdas:
            advantages[PERFECT, gae_lambda, estimate] = without_critic(rewards, gae_lambda)
        advantages[EXACT, 0.0, estimate] = rewards
    advantages[CONTINUED, 0.0, 0] = advantages[EXACT, 0.0, 0]
    return advantages


def legal_tokens(policy: Any, length: int) -> Tensor:
    """Return which tokens may be sampled in responses of a fixed length, (length, vocab) bool."""
    legal = torch.ones(length, policy.num_actions, dtype=torch.bool)
    legal[:, policy.language_model.model.config.eos_token_id] = False
    return legal


def gradients(
    episodes: Sequence[Episode], policy: Any, advantages: Tensor, legal: Tensor
) -> Iterator[Tensor]:
    """Yield each response's gradients of sum_t A_t log pi(y_t), (kinds, parameters).

    Args:
        episodes: The responses, all of the same length.
        policy: Their policy.
        advantages: (kinds, episodes, time).
        legal: (time, vocab) bool, the tokens that could be sampled.
    """
    parameters = list(policy.language_model.parameters())
    for index, episode in enumerate(episodes):
        sequences = Sequences.from_ids([episode.prompt_ids], [episode.response_ids])
        logits = policy.shaped_logits(policy.states(sequences), None)
        logits = logits.masked_fill(~legal, -torch.inf)
        tokens = torch.tensor(episode.response_ids)
        log_probs = -cross_entropy(logits, tokens, reduction="none")
        by_parameter = torch.autograd.grad(
            log_probs, parameters, advantages[:, index], is_grads_batched=True, allow_unused=True
        )
        yield torch.cat([part.flatten(1) for part in by_parameter if part is not None], dim=1)


def gram(
    episodes: Sequence[Episode], policy: Any, advantages: Tensor, legal: Tensor
) -> tuple[Array, Array]:
    """Return the products of gradients that all figures are made of; arguments of `gradients`.

    Returns:
        (blocks, kinds, blocks, kinds): products of the mean gradients of blocks of responses, and
        (blocks, kinds, kinds): the mean product of two kinds' gradients of one response.
    """
    size, kinds = len(episodes) // BLOCKS, len(advantages)
    sums: list[Tensor] = []
    products = torch.zeros(BLOCKS, kinds, kinds, dtype=torch.float64)
    for index, response_gradients in enumerate(gradients(episodes, policy, advantages, legal)):
        if index % size == 0:
            sums.append(torch.zeros_like(response_gradients))
        sums[-1] += response_gradients / size
        products[index // size] += (response_gradients @ response_gradients.T).double() / size
    flat = torch.stack(sums).flatten(0, 1)
    between = (flat @ flat.T).double().reshape((BLOCKS, kinds) * 2)
    return between.numpy(), products.numpy()


def figures(between: Array, products: Array, kind: Sequence[int], true: Sequence[int]) -> Array:
    """Return cosine and noise of a kind's gradient, without bias by the noise of the estimates.

    cosine = <g, G> / (|g| |G|);  noise = tr Cov(g) |G|^2 / <g, G>^2

    Products of means are taken between blocks of responses, never within one; where a kind has two
    independent estimates, between these.

    Args:
        between: (blocks, kinds, blocks, kinds), from `gram`.
        products: (blocks, kinds, kinds), from `gram`.
        kind: Place of the kind's estimates, one or two.
        true: Places of the two estimates of the true gradient.
    """
    blocks = len(between)
    apart = ~np.eye(blocks, dtype=bool)

    def mean_product(one: int, other: int) -> float:
        return float(between[:, one, :, other][apart].mean())

    along = np.mean([mean_product(i, j) for i in kind for j in true])
    length, true_length = mean_product(kind[0], kind[-1]), mean_product(*true)
    variance = products[:, kind[0], kind[-1]].mean() - length
    signal = length * true_length
    cosine = along / np.sqrt(signal) if signal > 0 else np.nan  # below 0 is all noise
    return np.array([cosine, variance * true_length / along**2])


def with_errors(
    between: Array, products: Array, kind: Sequence[int], true: Sequence[int]
) -> tuple[Array, Array]:
    """Return the figures, and their standard errors by the jackknife over blocks."""
    left = []
    for block in range(len(between)):
        rest = np.arange(len(between)) != block
        left.append(figures(between[rest][:, :, rest], products[rest], kind, true))
    spread = np.sqrt((len(left) - 1) * np.var(left, axis=0))
    return figures(between, products, kind, true), spread


def rows_of(
    advantages: Mapping[Kind, Tensor],
    episodes: Sequence[Episode],
    policy: Any,
    legal: Tensor,
    about: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return a row of figures per rule and lambda.

    Args:
        advantages: (episodes, time) each; the truth is `EXACT` at lambda 0, in two estimates.
        episodes: The responses, all of the same length.
        policy: Their policy.
        legal: (time, vocab) bool, the tokens that could be sampled.
        about: First columns of every row.
    """
    between, products = gram(episodes, policy, torch.stack(list(advantages.values())), legal)
    rows_of: dict[tuple[str, float], list[int]] = {}
    for index, (rule, gae_lambda, _) in enumerate(advantages):
        rows_of.setdefault((rule, gae_lambda), []).append(index)
    rows = []
    for (rule, gae_lambda), kind in rows_of.items():
        values, errors = with_errors(between, products, kind, rows_of[EXACT, 0.0])
        shown = dict(zip(NAMES, [*values, *errors], strict=True))
        row = {**about, "rule": rule, "gae_lambda": round(gae_lambda, 4)}
        rows.append({**row, **{name: f"{value:.4g}" for name, value in shown.items()}})
    return rows


def of_gradient(row: Mapping[str, Any]) -> str:
    """Return cosine, responses and their standard error; "?" for a cosine not known to 0.25."""
    cosine = row["cosine"]
    known = cosine is not None and np.isfinite(cosine) and row["cosine_error"] < TOLD
    responses = " \u00b1 ".join(
        f"{float(format(row[name], '.3g')):,.0f}"
        for name in ("noise", "noise_error")
        if row.get(name) is not None and np.isfinite(row[name])
    )
    return f"{cosine:.2f} / {responses}" if known else f"? / {responses}"


def measure_missing(
    file: Path, about: Sequence[str], names: Iterable[str], rows: Callable[[str], Sequence[Row]]
) -> None:
    """Add to a file the rows of what it does not hold yet, those of one name at a time.

    Args:
        file: Published figures.
        about: Columns before `rule`; the first has the name.
        names: What is to be measured.
        rows: Measures what is named.
    """
    text = (*about, "rule", "gae_lambda", *NAMES)  # what is published stays to the digit
    for name in names:
        known = read_rows(file, text=text) if file.exists() else []
        if name not in {row[about[0]] for row in known}:
            write_rows(file, [*known, *rows(name)])
            print(name, flush=True)


def measure(out: Out, docs: Docs = DOCS) -> None:
    """Measure the policies that are not measured yet, and write a row per rule and lambda."""

    def rows(policy: str) -> Sequence[Row]:
        register_words()
        episodes, model, kwargs = played(POLICIES[policy], out)
        advantages = {
            **paid_advantages(RULES, LAMBDAS, episodes, ENV, kwargs),
            **forked_advantages(LAMBDAS[:-1], episodes, model, ENV, kwargs),
        }
        legal = legal_tokens(model, len(episodes[0].response_ids))
        return rows_of(advantages, episodes, model, legal, {"policy": policy})

    measure_missing(docs / FOLDER / NOISE, ("policy",), POLICIES, rows)


if __name__ == "__main__":
    command_line(__doc__, measure)
