"""Whether the kernels can be used on a device: they are held against their plain forms there."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GemmaConfig, GemmaModel, LlamaConfig, LlamaModel

from tokengym.agents.errors import ModelError
from tokengym.agents.fast.kernels import layers, trunk, vocabulary
from tokengym.agents.policy import head, sampling
from tokengym.agents.policy.sequences import ActionMasks

FAMILIES: Any = ((LlamaModel, LlamaConfig), (GemmaModel, GemmaConfig))


def check_kernels(device: torch.device) -> None:
    """Raise unless the kernels of vocabulary and trunk give what their plain forms give.

    A machine may lack a compiler, or its version of Triton may translate a kernel wrongly. In
    bfloat16 both forms are held against the plain one in float32, and on average over the figures
    the kernels may be off by half as much again as the plain form.
    """
    try:
        # Wherever a rollout or an update asks first, with gradients and without a graph.
        with torch.inference_mode(False), torch.enable_grad():
            gap = max(_draw_gap(device), _norm_gap(device))
            trunks: Any = (partial(_trunk_figures, *family) for family in FAMILIES)
            for figures in (_vocabulary_figures, *trunks):
                exact = figures(device, torch.float32, False)
                off = _gaps(exact, figures(device, torch.bfloat16, False))
                fused = _gaps(exact, figures(device, torch.bfloat16, True))
                gap = max(gap, *_gaps(exact, figures(device, torch.float32, True)))
                gap = max(gap, (sum(fused) - 1.5 * sum(off)) / len(off))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler may raise
        raise ModelError(f"Triton fails on {device} ({type(error).__name__}: {error})") from error
    if not gap < 0.01:
        raise ModelError(f"Triton's kernels are off by {gap:.3g} on {device}")


def _gap(expected: Tensor, computed: Tensor) -> float:
    """Return how far figures are off, as a share of their size."""
    expected = expected.detach().float()
    return float((computed.detach().float() - expected).norm() / expected.norm())


def _gaps(expected: list[Tensor], computed: list[Tensor]) -> list[float]:
    return [_gap(one, other) for one, other in zip(expected, computed, strict=True)]


def _waves(rows: int, width: int, speed: float, device: torch.device) -> Tensor:
    """Return numbers without a random generator, (rows, width)."""
    return (speed * torch.arange(rows * width, device=device)).sin().view(rows, width)


def _vocabulary_figures(device: torch.device, dtype: torch.dtype, kernels: bool) -> list[Tensor]:
    """Return figures of tokens and gradients, of a vocabulary in several parts with a tail."""
    num, hidden, vocab = 16, 64, 5_000
    given = {speed: _waves(num, hidden, speed, device).to(dtype) for speed in (0.7, 0.9)}
    heads = {speed: _waves(vocab, hidden, speed, device).to(dtype) for speed in (1.3, 1.7)}
    states, weight = given[0.7].requires_grad_(), heads[1.3].requires_grad_()
    numbers = torch.arange(num, device=device)
    allowed = _waves(num, hidden, 0.3, device) @ _waves(vocab, hidden, 1.1, device).t() > -4.0
    allowed[:, :num] = True
    masks = ActionMasks(
        table=sampling.packed(allowed), index=numbers[:, None], vocab_size=vocab - 3
    )
    figures = head.Request(
        tokens=numbers,
        temperature=0.8,
        num_actions=vocab - 3,
        size=num,
        masks=(masks, numbers, torch.zeros_like(numbers)),
        with_entropy=True,
        reference=(given[0.9], heads[1.7]),
    )
    if kernels:  # parts of 2,048, 2,048 and 901 words
        computed = vocabulary.token_figures(states, weight, figures, max_logits=num * 2**11)
    else:
        computed = head.token_figures(states, weight, figures)
    total = torch.zeros((), device=device)
    for i in range(3):
        total = total + (computed[i] * _waves(num, 1, i + 1.0, device)[:, 0]).sum()
    return [*computed, *torch.autograd.grad(total, (states, weight))]


def _draw_gap(device: torch.device) -> float:
    """Return how far tokens, log-probabilities and entropies that are drawn are off.

    The uniform numbers are in the middle of wide steps, so that rounding does not decide.
    """
    vocab = vocabulary.WORDS_PER_PROGRAM + 5_000  # two programs a row
    logits = 4 * _waves(8, vocab, 1.3, device)
    words = 977 * (1 + torch.arange(8, device=device))
    logits[torch.arange(8, device=device), words] = 14.0
    probs = logits.double().softmax(-1)
    steps = probs.gather(1, words[:, None])[:, 0]
    assert steps.min() > 0.1
    uniforms = probs.cumsum(1).gather(1, words[:, None])[:, 0] - 0.5 * steps
    gap = 0.0
    for given in (uniforms.float(), None):
        token, *figures = vocabulary.draw(logits, given)
        expected = sampling.draw(logits, given)
        if not (torch.equal(token, words) and torch.equal(expected[0], words)):
            return 1.0
        gap = max(gap, *_gaps([*expected[1:]], figures))
    return gap


def _norm_gap(device: torch.device) -> float:
    """Return how far a norm's gradient is off where each of its programs adds up several rows."""
    width = 2**11
    x = _waves(layers.FEWEST_PROGRAMS + 40, width, 0.7, device).requires_grad_()
    weight = _waves(1, width, 0.3, device)[0].requires_grad_()
    normed = layers.added_and_normed(x, None, weight, 1e-6, False, torch.float32)[1]
    expected = torch.nn.functional.rms_norm(x, (width,), weight, 1e-6)
    slopes = [torch.autograd.grad((y * y * x).sum(), (x, weight)) for y in (expected, normed)]
    return max(_gaps([expected, *slopes[0]], [normed, *slopes[1]]))


def _trunk_figures(
    model_class: Any, config_class: Any, device: torch.device, dtype: torch.dtype, kernels: bool
) -> list[Tensor]:
    """Return states and gradients of a small model with shared heads."""
    ids = torch.arange(16, device=device).view(2, 8)
    config = config_class(
        vocab_size=16,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).eval().to(device)
    for parameter in model.parameters():
        places = torch.arange(parameter.numel(), device=device)
        parameter.data += 0.2 * (1.3 * places).sin().view_as(parameter)
    model.to(dtype)
    states = trunk.hidden(model, ids) if kernels else model(ids, use_cache=False)[0]
    places = torch.arange(states.numel(), device=device)
    total = (states * (0.7 * places).sin().view_as(states)).sum()
    return [states, *torch.autograd.grad(total, [*model.parameters()])]
