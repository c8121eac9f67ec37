"""Texts that models read, counted: by the model's forward, and by a stream that does without it."""

import pytest
import torch

from tests.suite.agents.conftest import make_model
from tokengym.agents import counted_texts
from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.streams import ModelStream, make_stream

IDS = torch.tensor([[3, 4], [5, 6], [7, 3]])


def test_each_outermost_forward_counts_its_rows() -> None:
    model = make_model()
    with counted_texts() as texts, torch.no_grad():
        model(input_ids=IDS)
        model(IDS[:1])
    model(IDS)
    assert texts == [3, 1]


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_a_stream_counts_the_prompts_that_it_reads_without_the_model(shape: str) -> None:
    stream = make_stream(LanguageModel(make_model(shape).eval()), 8)
    assert not isinstance(stream, ModelStream)
    with counted_texts() as outer, torch.no_grad():
        with counted_texts() as texts:
            stream.start(IDS, torch.ones_like(IDS))
            stream.step(torch.tensor([3, 4, 5]))
        stream.start(IDS[:2], torch.ones_like(IDS[:2]))
    stream.start(IDS, torch.ones_like(IDS))
    assert (texts, outer) == ([3], [3, 2])
