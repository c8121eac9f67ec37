import pytest
import torch

from tokengym.lab.makers.models import (
    ModelSize,
    held_out_nats,
    language_model_loss,
    new_language_model,
    sample_texts,
    train_language_model,
)
from tokengym.lab.makers.options import BuildError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def nats_one_by_one(model, sequences):
    total, count = 0.0, 0
    for sequence in sequences:
        log_probs = model(torch.tensor([sequence])).logits[0].log_softmax(-1)
        for position, token in enumerate(sequence[1:]):
            total -= log_probs[position, token].item()
            count += 1
    return total / count


@torch.no_grad()
def test_losses_average_over_tokens_and_ignore_padding(language_model):
    sequences = [[5, 6, 7, 8, 1], [9, 10], [11, 3, 4]]
    expected = nats_one_by_one(language_model, sequences)
    assert language_model_loss(language_model, sequences).item() == pytest.approx(expected)
    assert held_out_nats(language_model, sequences, batch_size=2) == pytest.approx(expected)


def test_training_lowers_the_loss(language_model, tokenizer, reviews):
    sequences = tokenizer(reviews).input_ids
    before = held_out_nats(language_model, sequences[:50])
    train_language_model(language_model, sequences, steps=15, generator=generator())
    assert held_out_nats(language_model, sequences[:50]) < before - 0.2


def test_a_seed_gives_the_same_weights_and_leaves_the_global_state(tokenizer):
    state = torch.random.get_rng_state()
    size = ModelSize(layers=1, width=8, heads=2, positions=16)
    first, second, other = (new_language_model(tokenizer, size, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert torch.equal(state, torch.random.get_rng_state())


def test_models_have_no_dropout_and_know_their_special_tokens(language_model, tokenizer):
    config = language_model.config
    assert config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0.0
    assert (config.pad_token_id, config.eos_token_id) == (0, 1)
    assert config.vocab_size == len(tokenizer)


def test_samples_continue_their_prompts_and_end_at_the_first_eos(language_model):
    with torch.no_grad():  # make EOS and padding likely
        language_model.lm_head.weight[:2] *= 0
        language_model.transformer.ln_f.bias.normal_(generator=generator())
        direction = language_model.transformer.ln_f.bias
        language_model.lm_head.weight[:2] = direction / direction.norm() ** 2 * 3
    prompts = [[5, 6], [7, 8, 9], [10, 11]] * 20
    texts = sample_texts(
        language_model, prompts, max_tokens=12, temperature=1.0, generator=generator(), batch_size=7
    )
    for prompt, text in zip(prompts, texts, strict=True):
        assert text[: len(prompt)] == prompt
        assert len(prompt) < len(text) <= 12
        assert 1 not in text[:-1]
        assert 0 not in text
        assert text[-1] == 1 or len(text) == 12
    assert any(len(text) < 12 for text in texts)


def test_samples_follow_the_softmax_at_the_temperature(language_model):
    prompt = [5, 6, 7]
    with torch.no_grad():
        language_model.lm_head.weight *= 20
        logits = language_model(torch.tensor([prompt])).logits[0, -1]
    logits[0] = -torch.inf
    expected = torch.softmax(logits / 2.0, -1)
    texts = sample_texts(
        language_model, [prompt] * 4000, max_tokens=4, temperature=2.0, generator=generator()
    )
    counts = torch.bincount(torch.tensor([text[3] for text in texts]), minlength=len(expected))
    likely = expected.topk(5).indices
    assert torch.allclose(counts[likely] / 4000, expected[likely], atol=0.03)


def test_samples_repeat_under_a_seed(language_model):
    def draw(seed):
        return sample_texts(
            language_model, [[5, 6]] * 4, max_tokens=20, temperature=1.0, generator=generator(seed)
        )

    assert draw(1) == draw(1) != draw(2)


@pytest.mark.parametrize("size", [{"heads": 5}, {"layers": 0}])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(BuildError, match=r"heads.*got \d, 96.*256"):
        ModelSize(**size)
