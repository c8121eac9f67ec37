"""Figures of response tokens are the same whatever the chunks that they are computed in."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.agents.chunks import TEXTS, masks_of
from tests.support.agents.common import VOCABULARY, lora_config, make_model
from tests.support.agents.policy import shake
from tokengym.agents import PPO, losses
from tokengym.agents.policy import head, sampling
from tokengym.agents.policy.sampling import packed
from tokengym.agents.policy.sequences import ActionMasks, Sequences, few_forbidden


def plain(agent: PPO, sequences: Sequences, masks: ActionMasks | None) -> dict[str, Tensor]:
    """Log-probs, entropy and KL by the formulas on the whole model's masked logits."""
    rows, times, columns = sequences.response_positions
    inputs: Any = {"input_ids": sequences.input_ids}

    def log_softmax(model: Any) -> Tensor:
        logits = model(**inputs).logits[rows, columns - 1, :VOCABULARY] / 0.7
        if masks is not None:
            logits = logits.masked_fill(~masks.at(rows, times), -1e30)
        return logits.log_softmax(-1)

    policy = agent.policy
    log_p = log_softmax(policy.language_model.model)
    with torch.no_grad(), policy.weights(True) as reference:
        log_q = log_softmax(reference.model)
    p = log_p.exp()
    tokens = sequences.input_ids[rows, columns]
    return {
        "log_probs": log_p[torch.arange(len(tokens)), tokens],
        "entropy": -(p * log_p).sum(-1),
        "kl": (p * (log_p - log_q)).sum(-1),
    }


@pytest.mark.parametrize("kind", ["none", "one", "several", "packed"])
@pytest.mark.parametrize("shape", ["gpt2", "llama", "adapters", "padded"])
def test_chunks_change_neither_figures_nor_gradients(make_ppo, monkeypatch, shape, kind):
    model = make_model("llama" if shape == "llama" else "gpt2")
    if shape == "padded":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.resize_token_embeddings(64)
    lora = lora_config() if shape == "adapters" else None
    agent = make_ppo(model=model.double(), lora=lora, temperature=0.7)
    agent.policy.language_model.double()
    if agent.policy.reference is not None:
        agent.policy.reference.double()
    shake(agent)
    parameters = [p for p in agent.policy.language_model.parameters() if p.requires_grad]
    sequences, masks = Sequences.from_ids(*TEXTS), masks_of(kind)
    rows, times, _ = sequences.response_positions
    weights = torch.randn(3, len(rows), generator=torch.Generator().manual_seed(0)).double()
    expected = plain(agent, sequences, masks)
    total = sum((w * expected[name]).sum() for w, name in zip(weights, expected, strict=True))
    gradients = torch.autograd.grad(total, parameters)
    chunks: list[int] = []
    own = head.product

    def product(states: Tensor, weight: Tensor, *library: Any) -> Tensor:
        chunks.append(len(states))
        return own(states, weight, *library)

    monkeypatch.setattr(head, "product", product)
    for tokens in (100, 4, 1):  # of a chunk; there are 11
        monkeypatch.setattr(sampling, "MAX_LOGITS", tokens * VOCABULARY)
        chunks.clear()
        found = agent.policy.evaluate(sequences, masks, with_entropy=True, with_kl=True)
        loss: Any = 0.0
        for w, name in zip(weights, expected, strict=True):
            figure = getattr(found, name)[rows, times]
            torch.testing.assert_close(figure, expected[name], atol=1e-9, rtol=1e-9)
            loss = loss + (w * figure).sum()
        for gradient, value in zip(torch.autograd.grad(loss, parameters), gradients, strict=True):
            torch.testing.assert_close(gradient, value, atol=1e-9, rtol=1e-6)
        # Each chunk's logits twice, of both models; one that holds all is left to autograd.
        assert sorted(chunks) == sorted(
            [] if tokens == 100 else 4 * [min(tokens, 11 - i) for i in range(0, 11, tokens)]
        )


def test_stored_reference_states_and_log_probs_without_gradient_in_chunks(make_ppo, monkeypatch):
    agent = make_ppo()
    shake(agent)
    sequences, masks = Sequences.from_ids(*TEXTS), masks_of("several")
    states = agent.policy.token_stats(sequences, max_size=1, name="ref_states")

    def figures() -> list[Tensor]:
        kl = agent.policy.token_stats(sequences, masks, name="kl")
        same = agent.policy.token_stats(sequences, masks, ref_states=states, max_size=1, name="kl")
        torch.testing.assert_close(same, kl, atol=1e-6, rtol=1e-5)
        policy = agent.policy
        own = [
            policy.token_stats(sequences, masks, name="ref_log_probs" if r else "log_probs")
            for r in (False, True)
        ]
        same = policy.token_stats(sequences, masks, ref_states=states, name="ref_log_probs")
        torch.testing.assert_close(same, own[1], atol=1e-6, rtol=1e-5)
        return [kl, *own]

    whole = figures()
    heads: list[int] = []
    agent.policy.language_model.model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, logits: heads.append(len(logits))
    )
    for name in ("MAX_LOGITS", "MAX_LOGITS_WITHOUT_GRADIENT"):
        heads.clear()
        with monkeypatch.context() as patch:
            patch.setattr(sampling, name, 2 * VOCABULARY)
            for found, expected in zip(figures(), whole, strict=True):
                torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        assert max(heads) == 2


def test_forbidding_tokens_writes_in_place_and_leaves_their_gradients_zero():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 32, generator=generator)
    one, each = torch.ones(1, 32).bool(), torch.rand(5, 32, generator=generator) < 0.5
    one[0, 3] = each[:, 3] = False
    rows, times = torch.arange(5), torch.zeros(5, dtype=torch.int64)
    index = torch.stack([torch.arange(5)], dim=1)
    for masks, allowed in (
        (ActionMasks(table=one, index=0 * index, columns=few_forbidden(one)), one),
        (ActionMasks(table=one, index=0 * index), one),
        (ActionMasks(table=each, index=index), each),
        (ActionMasks(table=packed(each), index=index, vocab_size=32), each),
    ):
        leaf = logits.clone().requires_grad_()
        given = 1.0 * leaf
        result = masks.forbid_(given, rows, times)
        assert result.tolist() == logits.masked_fill(~allowed, -torch.inf).tolist()
        assert result.data_ptr() == given.data_ptr()
        losses.entropy(result).sum().backward()
        assert not leaf.grad[~allowed.expand(5, -1)].any()
        assert leaf.grad.isfinite().all()
    assert few_forbidden(each) is None
    assert few_forbidden(torch.zeros(1, 32).bool()) is None
