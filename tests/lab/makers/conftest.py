import numpy as np
import pytest

from tokengym.lab.makers.models import ModelSize, new_language_model
from tokengym.lab.makers.tokenizers import byte_tokenizer


@pytest.fixture(scope="session")
def reviews():
    rng = np.random.default_rng(0)
    nouns, ends = ["plot", "cast", "score", "ending"], ["soars", "drags", "charms", "fails"]
    return [f"the {rng.choice(nouns)} of this film {rng.choice(ends)} ." for _ in range(300)]


@pytest.fixture(scope="session")
def tokenizer(reviews):
    return byte_tokenizer(reviews, 300)


@pytest.fixture
def language_model(tokenizer):
    size = ModelSize(layers=2, width=16, heads=2, positions=128)
    return new_language_model(tokenizer, size, seed=0)
