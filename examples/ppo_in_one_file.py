"""PPO for a language model in one file: rollout, credit, advantages, update.

    python examples/ppo_in_one_file.py --reward abc-signed --gae-lambda 0.5

tokengym gives the Gymnasium environment and the rewards of its tokens, and transformers the two
models. Sampling, advantages and losses are all written out here. A test holds the updates equal to
those of `tokengym.agents.PPO` with the same seed. docs/agents/how_ppo_works.md explains this file
section by section.

This is PPO (Schulman et al. 2017, arXiv:1707.06347) as language models use it (Ziegler et al. 2019,
arXiv:1909.08593). An action is a token and an episode is a response. Choices to know about:

- A token earns what the credit rule pays for it, minus the price of the KL divergence from the
  frozen reference at that token. The KL is exact: a sum over the vocabulary, not over samples.
- The exact KL depends on the policy's weights, so its gradient is a term of the loss as well.
- The value function has a network of its own: the policy's hidden states know next to nothing of
  the score that is still to come. The learning rate falls to 0 over the training.
- Advantages are whitened over the whole batch. A minibatch consists of whole responses.
- Dropout stays off, so that rollout and update agree about every log-probability.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache

from tokengym.envs import TokenGenerationVectorEnv  # importing tokengym registers its ids


@dataclass(frozen=True)
class Args:
    """Settings, with the defaults of `tokengym.agents.PPO`."""

    env: str = "tokengym/MovieReview-v0"
    """Id of the environment, whose bundled language model is trained."""
    reward: str = "sparse"
    """Credit rule, which turns the score of a response into token rewards."""
    max_new_tokens: int = 48
    """Most tokens of a response."""
    num_envs: int = 64
    """Responses per update, one from each row of the batch."""
    updates: int = 20
    """Rounds of one rollout and one update."""
    seed: int = 0
    """Seed of the prompts, the sampled tokens and the minibatches."""
    learning_rate: float = 3e-4
    """Learning rate of AdamW, which falls in a straight line to 0 at the end."""
    n_epochs: int = 2
    """Passes over a batch."""
    n_minibatches: int = 4
    """Gradient steps per pass; no more than there are responses."""
    gamma: float = 1.0
    """Discount per token."""
    gae_lambda: float = 0.95
    """1 waits for the whole return, 0 trusts the value of the next state."""
    clip_range: float = 0.2
    """Largest move of the probability ratio before its gradient stops."""
    vf_coef: float = 1.0
    """Weight of the value loss."""
    kl_coef: float = 0.05
    """Price of a nat of KL to the reference, reward units."""
    kl_estimator: Literal["exact", "k1"] = "exact"
    """KL that is paid: "exact" over the vocabulary, or "k1" of the sampled tokens alone."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm."""


class Policy(nn.Module):
    """A causal language model from a folder or the hub."""

    def __init__(self, model: str | Path) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(model)  # in eval mode: without dropout
        self.logit_head = self.model.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        action_mask: Tensor,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Return the logits of the next token at the last columns, (batch, time, vocab).

        Args:
            input_ids: (batch, new), the columns that the cache does not hold yet.
            attention_mask: (batch, length), 1 on texts and 0 on padding, at cached columns too.
            action_mask: (batch, time, vocab) bool, True where a token is legal after a column; its
                time is the number of last columns that are wanted. Others get -inf.
            cache: Keys and values of the columns read so far; None reads whole texts.
        """
        hidden = hidden_states(self.model, input_ids, attention_mask, cache)
        hidden = hidden[:, -action_mask.shape[1] :]  # (batch, new, hidden) -> (batch, time, hidden)
        return self.logit_head(hidden).masked_fill(~action_mask, -torch.inf)


class ValueFunction(nn.Module):
    """The score to come of a text, in reward units: a copy of the model whose head starts at 0."""

    def __init__(self, model: str | Path) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(model)
        self.head = nn.Linear(self.model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, time: int) -> Tensor:
        """Return the values of the texts up to each of the last columns, (batch, time)."""
        hidden = hidden_states(self.model, input_ids, attention_mask)
        return self.head(hidden[:, -time:]).squeeze(-1)  # (batch, time, 1) -> (batch, time)


def hidden_states(
    model: Any, input_ids: Tensor, attention_mask: Tensor, cache: DynamicCache | None = None
) -> Tensor:
    """Return a model's last hidden states of the new columns, (batch, new, hidden)."""
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)  # padding does not count
    states: Tensor = model.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions[:, -input_ids.shape[1] :],
        past_key_values=cache,
        use_cache=cache is not None,
    )[0]
    return states


def log_probs_of(tokens: Tensor, logits: Tensor) -> Tensor:
    """Return log softmax(logits)[token] in nats: (batch, time, vocab) -> (batch, time)."""
    return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one token per row by inverse transform sampling: (batch, vocab) -> (batch,).

    token = min {v : p_0 + ... + p_v > u},  u uniform in [0, 1)

    Every row takes a number at every step, even when its response has ended, so that what a row
    samples does not depend on the lengths of the others.
    """
    cumulated = logits.double().softmax(-1).cumsum(-1)  # float64: the last entry exceeds every u
    uniforms = torch.rand(len(logits), generator=generator, dtype=torch.float32).double()
    return torch.searchsorted(cumulated, uniforms[:, None], right=True).squeeze(1)


@dataclass(frozen=True)
class Rollout:
    """One response per row as it was sampled; what `response_mask` hides has no meaning."""

    input_ids: Tensor  # (batch, length): prompts, padded on the left, then responses
    attention_mask: Tensor  # (batch, length): 1 on prompt and response, 0 on padding
    action_mask: Tensor  # (batch, time, vocab) bool: legal tokens
    logits: Tensor  # (batch, time, vocab): what the tokens were drawn from
    token_rewards: Tensor  # (batch, time), reward units, from the credit rule
    scores: Tensor  # (batch,), reward units, of whole responses

    @property
    def tokens(self) -> Tensor:
        """(batch, time): the responses, which are the last columns of the texts."""
        return self.input_ids[:, -self.logits.shape[1] :]

    @property
    def response_mask(self) -> Tensor:
        """(batch, time) bool: True on a response's own tokens."""
        return self.attention_mask[:, -self.logits.shape[1] :].bool()


@torch.no_grad()
def play(
    envs: VectorEnv[Any, Any, Any],
    policy: Policy,
    generator: torch.Generator,
    seed: int | None,
    args: Args,
) -> Rollout:
    """Play one episode in every row; each step reads one new token per row."""
    observation, info = envs.reset(seed=seed)
    length = observation["input_ids"].shape[1] - args.max_new_tokens  # columns written so far
    token_rewards = np.zeros((args.num_envs, args.max_new_tokens), dtype=np.float32)
    scores = np.zeros(args.num_envs, dtype=np.float32)
    is_over = np.zeros(args.num_envs, dtype=bool)
    cache, steps = DynamicCache(config=policy.model.config), []
    while not is_over.all():
        unread = torch.from_numpy(observation["input_ids"][:, cache.get_seq_length() : length])
        attention_mask = torch.from_numpy(observation["attention_mask"][:, :length])
        # (batch, vocab) -> (batch, 1, vocab): of all columns that are read only the last one counts
        action_mask = torch.from_numpy(info["action_mask"][:, None].astype(bool))
        logits = policy(unread, attention_mask, action_mask, cache)
        steps.append((action_mask, logits))
        tokens = sample(logits[:, 0], generator)  # (batch, 1, vocab) -> (batch,)
        # A row that is over ignores its token and keeps its flags until the next reset.
        observation, _, terminated, truncated, info = envs.step(tokens.numpy())
        is_over = terminated | truncated
        length += 1
        if "token_rewards" in info:  # of the rows that this token ended
            ended = info["_token_rewards"]
            token_rewards[ended] = info["token_rewards"][ended]
            scores[ended] = info["score"][ended]
    # (batch, 1, ...) per step -> (batch, time, ...)
    action_mask, logits = (torch.cat(parts, dim=1) for parts in zip(*steps, strict=True))
    return Rollout(
        input_ids=torch.from_numpy(observation["input_ids"][:, :length]),
        attention_mask=torch.from_numpy(observation["attention_mask"][:, :length]),
        action_mask=action_mask,
        logits=logits,
        token_rewards=torch.from_numpy(token_rewards[:, : len(steps)]),
        scores=torch.from_numpy(scores),
    )


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return the advantages of all tokens and the returns that their values should learn.

    delta_t = r_t + gamma * V_{t+1} - V_t
    A_t     = delta_t + gamma * gae_lambda * A_{t+1},  return_t = A_t + V_t

    Rewards, values and both results are (batch, time), reward units. Past the end of a response
    nothing is paid and nothing expected: there V and A are 0.
    """
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])  # (batch,)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = next_advantage = delta + gamma * gae_lambda * next_advantage
        next_value = values[:, t]
    return advantages, advantages + values


def whiten(advantages: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return advantages of mean 0 and variance 1 over the batch's tokens, and their old scale."""
    mean, variance = advantages[mask].mean(), advantages[mask].var(correction=0)
    scale = (variance + 1e-8).sqrt()
    return ((advantages - mean) / scale).masked_fill(~mask, 0.0), scale


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_range: float
) -> Tensor:
    """Return PPO's clipped loss of some tokens; all three tensors are (tokens,).

    ratio = p_new / p_old,  L = -mean(min(ratio * A, clip(ratio, 1 - c, 1 + c) * A))
    """
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Return KL(policy || reference) in nats: (batch, time, vocab) twice -> (batch, time).

    KL = sum over the vocabulary of p_v * (log p_v - log q_v)
    """
    log_p, log_q = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    # Of a forbidden token both are -inf, and their difference would be nan; it adds 0.
    difference = (log_p - log_q).masked_fill(log_p.isneginf(), 0.0)
    return (log_p.exp() * difference).sum(-1)


def sampled_kl(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Return the estimate k1 of `exact_kl`: log p - log q of the sampled tokens alone, in nats.

    It needs no logits of other tokens. Its mean over samples is the exact KL; that of one token is
    noisy, and may be negative.
    """
    return log_probs - ref_log_probs


@dataclass(frozen=True)
class Targets:
    """Targets of the gradient steps on one rollout."""

    old_log_probs: Tensor  # (batch, time), nats, of the sampled tokens when they were sampled
    ref_logits: Tensor  # (batch, time, vocab), of the frozen reference
    kl: Tensor  # (batch, time), nats, that the tokens paid for
    advantages: Tensor  # (batch, time), whitened
    advantage_scale: Tensor  # (), reward units, the deviation that whitening divided by
    returns: Tensor  # (batch, time), reward units, that the values are to predict


@torch.no_grad()
def assign(rollout: Rollout, critic: ValueFunction, reference: Policy, args: Args) -> Targets:
    """Turn token rewards into advantages: subtract the price of the KL, estimate, whiten."""
    mask = rollout.response_mask
    # A column predicts the token of the next one, so the last column is not read.
    texts = rollout.input_ids[:, :-1], rollout.attention_mask[:, :-1]
    values = critic(*texts, time=mask.shape[1])
    ref_logits = reference(*texts, rollout.action_mask)
    old_log_probs = log_probs_of(rollout.tokens, rollout.logits)
    if args.kl_estimator == "exact":
        kl = exact_kl(rollout.logits, ref_logits).clamp(min=0.0)  # rounding may leave -1e-8
    else:
        kl = sampled_kl(old_log_probs, log_probs_of(rollout.tokens, ref_logits))
    kl = kl.masked_fill(~mask, 0.0)
    rewards = rollout.token_rewards - args.kl_coef * kl
    advantages, returns = gae(rewards, values, mask, args.gamma, args.gae_lambda)
    advantages, scale = whiten(advantages, mask)
    return Targets(old_log_probs, ref_logits, kl, advantages, scale, returns)


def loss_of(
    policy: Policy,
    critic: ValueFunction,
    rollout: Rollout,
    targets: Targets,
    rows: Tensor,
    args: Args,
) -> Tensor:
    """Return the loss of some rows, each term a mean over their tokens.

    loss = L_policy + vf_coef * mean((V - return)^2) / 2 + kl_coef / advantage_scale * mean(KL)

    The last term is the direct gradient of the exact KL. Whitening divided the advantages by their
    scale. The price of the KL is divided by it too, and so keeps the unit of the rewards.
    """
    mask = rollout.response_mask[rows]
    texts = rollout.input_ids[rows, :-1], rollout.attention_mask[rows, :-1]
    logits = policy(*texts, rollout.action_mask[rows])
    loss = policy_loss(
        log_probs_of(rollout.tokens[rows], logits)[mask],
        targets.old_log_probs[rows][mask],
        targets.advantages[rows][mask],
        args.clip_range,
    )
    values = critic(*texts, time=mask.shape[1])
    loss = loss + args.vf_coef * (values - targets.returns[rows])[mask].square().mean() / 2
    if args.kl_estimator == "exact":
        kl = exact_kl(logits, targets.ref_logits[rows])[mask].mean()
        loss = loss + args.kl_coef / targets.advantage_scale * kl
    return loss


def train(args: Args) -> tuple[Policy, ValueFunction]:
    """Train the environment's language model; print the score and the KL of each rollout."""
    envs = gym.make_vec(
        args.env,
        num_envs=args.num_envs,
        reward=args.reward,
        max_new_tokens=args.max_new_tokens,
        autoreset_mode="Disabled",  # rows that are over wait for the others
    )
    assert isinstance(envs.unwrapped, TokenGenerationVectorEnv)
    assert envs.unwrapped.bundle is not None
    model = envs.unwrapped.bundle.policy
    policy, critic = Policy(model), ValueFunction(model)
    reference = copy.deepcopy(policy).requires_grad_(False)
    weights = [*policy.parameters(), *critic.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=args.updates)
    # The seeds that PPO draws: of new adapters' weights (none here), of sampling, of minibatches.
    _, *seeds = np.random.SeedSequence(args.seed).generate_state(3).tolist()
    sampler, shuffler = (torch.Generator().manual_seed(seed) for seed in seeds)
    for update in range(args.updates):
        seed = args.seed if update == 0 else None  # None continues the environment's own stream
        rollout = play(envs, policy, sampler, seed, args)
        targets = assign(rollout, critic, reference, args)
        for _ in range(args.n_epochs):
            order = torch.randperm(args.num_envs, generator=shuffler)
            for rows in order.tensor_split(min(args.n_minibatches, args.num_envs)):
                optimizer.zero_grad()
                loss_of(policy, critic, rollout, targets, rows, args).backward()
                nn.utils.clip_grad_norm_(weights, args.max_grad_norm)
                optimizer.step()
        schedule.step()
        score, kl = rollout.scores.mean().item(), targets.kl.sum(1).mean().item()
        figures = f"score {score:6.3f}  KL {kl:6.3f}  score - c KL {score - args.kl_coef * kl:6.3f}"
        print(f"update {update:3d}  {figures}", flush=True)
    return policy, critic


if __name__ == "__main__":
    train(tyro.cli(Args))
