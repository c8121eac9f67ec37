import numpy as np
import pytest

from tokengym.lab.makers.building.language_model import ModelSize, new_language_model
from tokengym.lab.makers.building.tokenizers import word_tokenizer
from tokengym.lab.makers.corpora.movie_reviews import write_reviews


@pytest.fixture(scope="session")
def reviews():
    return write_reviews(300, np.random.default_rng(0))


@pytest.fixture(scope="session")
def tokenizer(reviews):
    return word_tokenizer(reviews)


@pytest.fixture
def language_model(tokenizer):
    size = ModelSize(layers=2, width=16, heads=2, positions=128)
    return new_language_model(tokenizer, size, seed=0)
