"""Whether the kernels can be used on a device: they are held against their plain forms there."""

from typing import Any

import torch
from torch import Tensor
from transformers import GemmaConfig, GemmaModel, LlamaConfig, LlamaModel

from tokengym.agents.errors import ModelError
from tokengym.agents.fused import trunk, vocabulary
from tokengym.agents.policy import head, sampling


def check_kernels(device: torch.device) -> None:
    """Raise unless the kernels of vocabulary and trunk give what their plain forms give.

    A machine may lack a compiler, or its version of Triton may translate a kernel wrongly.

    Raises:
        ModelError: naming what failed or differs.
    """
    try:
        # Wherever a rollout or an update asks first, with gradients and without a graph.
        with torch.inference_mode(False), torch.enable_grad():
            gap = max(_vocabulary_gaps(device) + _trunk_gaps(device))
    except Exception as error:  # whatever a compiler may raise
        raise ModelError(f"Triton fails on {device} ({type(error).__name__}: {error})") from error
    if not gap < 0.05:
        raise ModelError(f"Triton's kernels are off by {gap:.3g} on {device}")


def _vocabulary_gaps(device: torch.device) -> list[float]:
    """Return the largest differences of figures, gradients, and what is drawn."""
    num, hidden, vocab = 16, 64, 5_000

    def waves(rows: int, speed: float) -> Tensor:  # numbers without a random generator
        return (speed * torch.arange(rows * hidden, device=device)).sin().view(rows, hidden)

    states, weight = waves(num, 0.7).requires_grad_(), waves(vocab, 1.3).requires_grad_()
    numbers = torch.arange(num, device=device)
    allowed = (waves(num, 0.3) @ waves(vocab, 1.1).t()) > -4.0
    allowed[:, :num] = True
    figures = head.Figures(
        tokens=numbers,
        temperature=0.8,
        num_actions=vocab - 8,
        size=num,
        forbid_=lambda logits, part: logits.masked_fill_(~allowed[part, : vocab - 8], head.LOWEST),
        masks=lambda: (sampling.packed(allowed), numbers),
        with_entropy=True,
        reference=(waves(num, 0.9), waves(vocab, 1.7)),
    )
    both = []
    for token_figures in (head.token_figures, vocabulary.token_figures):
        computed = token_figures(states, weight, figures)
        total = sum((computed[i] * waves(num, i + 1.0)[:, 0]).sum() for i in range(3))
        assert isinstance(total, Tensor)
        both.append([*computed, *torch.autograd.grad(total, (states, weight))])
    logits = (states @ weight.t()).detach()
    for draw in (sampling.draw, vocabulary.draw):
        uniforms = (numbers + 0.5) / num
        both[draw is vocabulary.draw] += [*draw(logits, uniforms), *draw(logits, None)]
    return [
        (one - other).abs().max().item() / (1.0 if one.is_floating_point() else vocab)
        for one, other in zip(*both, strict=True)
    ]


def _trunk_gaps(device: torch.device) -> list[float]:
    """Return the differences of states and gradients, as shares of their size."""
    ids = torch.arange(24, device=device).view(2, 12)
    gaps = []
    families: Any = (LlamaModel, LlamaConfig), (GemmaModel, GemmaConfig)
    for model_class, config_class in families:
        config = config_class(
            vocab_size=24,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
        )
        with torch.random.fork_rng(devices=[]):
            model = model_class(config).eval().to(device)
        for parameter in model.parameters():
            places = torch.arange(parameter.numel(), device=device)
            parameter.data += 0.2 * (1.3 * places).sin().view_as(parameter)
        both = []
        for states in (model(ids, use_cache=False)[0], trunk.hidden(model, ids)):
            places = torch.arange(states.numel(), device=device)
            total = (states * (0.7 * places).sin().view_as(states)).sum()
            both.append([states, *torch.autograd.grad(total, [*model.parameters()])])
        gaps += [float((x - y).norm() / x.norm()) for x, y in zip(*both, strict=True)]
    return gaps
