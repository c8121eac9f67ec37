"""Whether a query is open-ended or has a right answer, guessed where nobody annotated it."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tokengym.base.prompt import PromptSet, QueryType
from tokengym.base.words import words

WEIGHTS = Path(__file__).with_name("query_types.npy")
"""Weight of each feature and, last, the bias; positive speaks for CONSTRAINED."""
BUCKETS = 8192
"""Number of hashed features of a question."""
_WORDS = 60
_WORD = re.compile(r"\w+|[^\w\s]")


def features(text: str) -> list[int]:
    """Return the places of a query's features in the weights: words, pairs of words, the beginning.

    They are found by a hash, so that the classifier needs no vocabulary.

    Args:
        text: The query; its first 60 words and signs are read.
    """
    first = words(text.lower(), _WORD)[:_WORDS]
    names = {*first, *map(" ".join, pairwise(first))}
    names |= {f"{number}: {word}" for number, word in enumerate(first[:3])}
    names.add("begin: " + " ".join(first[:2]))
    return sorted({zlib.crc32(name.encode()) % BUCKETS for name in names})


def predict_query_types(texts: Sequence[str]) -> list[QueryType]:
    """Return the likelier type of each query.

    A logistic regression on words and pairs of words, trained on queries of AlpacaFarm as the
    authors of R3 annotated them and on the bundled questions. It agrees with the annotation of 333
    of 400 held-out queries of AlpacaFarm (83 %, 79 to 87) and of all 260 held-out bundled ones; the
    paper found GPT-4 right on 83 % of about a hundred.

    Args:
        texts: Queries, without system prompt or role tags.

    Source: the annotation of Kim et al. 2024, arXiv:2402.03469.

    Example:
        >>> predict_query_types(["Write a poem about the sea.", "What is the capital of France?"])
        ['OPENENDED', 'CONSTRAINED']
    """
    weights = _weights()
    scores = [weights[features(text)].sum() + weights[-1] for text in texts]
    return ["CONSTRAINED" if score > 0 else "OPENENDED" for score in scores]


def fill_query_types(prompts: PromptSet) -> PromptSet:
    """Return the prompts, those without a query type with a predicted one.

    One without a reference is OPENENDED: R3 scores a constrained answer by its reference.
    """
    lacking = [index for index, prompt in enumerate(prompts) if prompt.query_type is None]
    filled = list(prompts)
    query_types = predict_query_types([prompts[index].text for index in lacking])
    for index, predicted in zip(lacking, query_types, strict=True):
        has_answer = prompts[index].reference is not None
        filled[index] = replace(prompts[index], query_type=predicted if has_answer else "OPENENDED")
    return PromptSet(filled)


@cache
def _weights() -> NDArray[np.float32]:
    return cast(NDArray[np.float32], np.load(WEIGHTS).astype(np.float32))
