"""Rows that every door pays: three words and two, a point a word."""

from tokengym import TokenCredit
from tokengym.envs import bundled

TOKENIZER = bundled("movie_review").tokenizer
PROMPT, LONG, SHORT = (TOKENIZER(text)["input_ids"] for text in ("i saw", "a dull film", "a film"))
# A point a word is 3, 2, 1 and 2, 1 to go; the third token has no other row to be compared with.
ADVANTAGES = ([1.0, 1.0, 1.0], [-1.0, -1.0])


def by_length(prompt: str, response: str) -> float:
    """Return a point for each word."""
    del prompt
    return float(len(response.split()))


def credit(rule: str = "uniform") -> TokenCredit:
    """Return what pays a point a word."""
    return TokenCredit(by_length, rule, tokenizer=TOKENIZER)
