"""The attention row of classifiers without a ``score`` head: at the token that they pool at."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from tests.support.chats import make_tokenizer
from tests.support.rewards.common import make_episode, scale_weights
from tokengym.rewards import RewardModel
from tokengym.rewards.attribution.alignment import Retokenizer
from tokengym.rewards.errors import ScorerError

TEXTS = [("who why", "me"), ("the film", "is good so me"), ("why", "me me good film film why")]
SIZE: dict[str, Any] = {"num_labels": 1, "pad_token_id": 3, "vocab_size": 300}
SHAPE = SIZE | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = SHAPE | {"intermediate_size": 32}
XLNET = SIZE | {"d_model": 16, "d_inner": 32, "n_layer": 2, "n_head": 2}
XLM = SIZE | {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "pad_index": 3}
MODERN = WIDE | {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
FIRST: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertConfig(**WIDE),
    "roberta": lambda: hf.RobertaConfig(**WIDE, max_position_embeddings=64),
    "deberta-v2": lambda: hf.DebertaV2Config(
        **WIDE, relative_attention=True, pos_att_type=["c2p", "p2c"]
    ),
    "modernbert": lambda: hf.ModernBertConfig(**MODERN),
    "distilbert": lambda: hf.DistilBertConfig(**SIZE, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "xlnet-first": lambda: hf.XLNetConfig(**XLNET, summary_type="first"),
    "xlm": lambda: hf.XLMConfig(**XLM),
}
LAST: dict[str, Callable[[], Any]] = {
    "modernbert-decoder": lambda: hf.ModernBertDecoderConfig(**MODERN),
    "ctrl": lambda: hf.CTRLConfig(**SIZE, n_embd=16, dff=32, n_layer=2, n_head=2),
    "xlnet": lambda: hf.XLNetConfig(**XLNET),
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "longformer": (
        lambda: hf.LongformerConfig(**WIDE, attention_window=[4, 4]),
        r"LongformerFor.* has attention of shape .* for \d+ tokens.*'uniform'",
    ),
    "a window as wide as the text": (
        lambda: hf.LongformerConfig(**WIDE, attention_window=[10, 10]),
        r"LongformerFor.* does not sum to 1 over the text's tokens.*'uniform'",
    ),
    "xlnet-mean": (lambda: hf.XLNetConfig(**XLNET, summary_type="mean"), "summary_type='mean'"),
    "modernbert-mean": (
        lambda: hf.ModernBertConfig(**MODERN, classifier_pooling="mean"),
        "pools by 'mean'",
    ),
    "bert as a decoder": (
        lambda: hf.BertConfig(**WIDE, is_decoder=True),
        "BertFor.* is causal, and the token that it pools at is not known.*'uniform'",
    ),
    "causal xlm": (
        lambda: hf.XLMConfig(**XLM, causal=True),
        r"no attention falls on the \d+ tokens of episode 0's response.*'uniform'",
    ),
    "fnet": (lambda: hf.FNetConfig(**SIZE, hidden_size=16, num_hidden_layers=1), "attention"),
}


def judged(config: Any) -> tuple[Any, Any, RewardModel]:
    torch.manual_seed(0)
    model = hf.AutoModelForSequenceClassification.from_config(config).eval()
    scale_weights(model, 12.0)
    tokenizer = make_tokenizer("words", "chatml")
    return model, tokenizer, RewardModel(model, tokenizer=tokenizer).bind(tokenizer)


def episode(tokenizer: Any, prompt: str, response: str) -> Any:
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, response)]
    return make_episode(*ids, prompt=prompt, response=response)


@pytest.mark.parametrize("name", [*FIRST, *LAST])
def test_score_and_row_equal_full_attention_of_each_text_alone(name):
    """In one batch, of which the shorter texts are padded."""
    model, tokenizer, scorer = judged((FIRST | LAST)[name]())
    episodes = [episode(tokenizer, *texts) for texts in TEXTS]
    scores = scorer.score(episodes, attribution="attention")
    assert scores.attributions is not None
    model.set_attn_implementation("eager")
    texts = Retokenizer(tokenizer, tokenizer, keeps_end=True)(episodes)
    for row, text in enumerate(texts):
        ids = torch.tensor([text.ids])
        with torch.no_grad():
            output = model(ids, attention_mask=torch.ones_like(ids), output_attentions=True)
        assert scores.values[row] == pytest.approx(output.logits.item(), rel=1e-4, abs=1e-4)
        pooled = output.attentions[-1][0].mean(dim=0)[0 if name in FIRST else -1].numpy()
        end = len(text.ids) - text.after
        expected = text.spread(pooled[end - text.size : end])
        np.testing.assert_allclose(scores.attributions[row], expected / expected.sum(), atol=1e-4)
    assert max(np.ptp(weights) * len(weights) for weights in scores.attributions) > 0.2
    assert np.ptp(scores.values) > 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_where_no_row_stands_for_the_score_is_said(name):
    config, said = REFUSED[name]
    _, tokenizer, scorer = judged(config())
    given = episode(tokenizer, *TEXTS[-1])
    if "window" in name:  # five keys on each side, the token itself, and the first one
        given = episode(tokenizer, "who", "why me good film why")
        assert len(Retokenizer(tokenizer, tokenizer, keeps_end=True)([given])[0].ids) == 12
    assert np.isfinite(scorer.score([given]).values).all()
    with pytest.raises(ScorerError, match=said):
        scorer.score([given], attribution="attention")
