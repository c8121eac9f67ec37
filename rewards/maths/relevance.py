"""R3, the regularised relevance reward, term by term: pure functions of texts and arrays.

A text is first cut to what answers the query; its length, repetition and relevance are terms of
their own. Hidden states come from whatever encoder the scorer has.

Source: Kim et al. 2024, arXiv:2402.03469, and its official code.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

RELEVANCE_SCALE = 3.5
"""R3's F divides by this where the encoder is Contriever: about the relevance of a reference to
itself, which counts as full (Kim et al. 2024, official code)."""

COMPONENTS = ("length_incentive", "repetition_penalty", "reward_branching")
"""What can be left out of R3, as in the paper's ablations."""

ROLE_TAGS = (
    *("Human:", "Assistant:", "User:", "System:", "HUMAN:", "ASSISTANT:", "USER:", "SYSTEM:"),
    *("### Human", "### User", "### Assistant", "### Instruction", "### Input", "### Response"),
    *("<|user|>", "<|assistant|>", "<|system|>", "[INST]", "[/INST]"),
)
"""Opening of a turn of a dialogue; a response is over where the first of them stands."""

_BLANK_LINES = r"\n(?:[ \t]*\n){2,}"
_WORDS_AND_PUNCTUATION = re.compile(r"\w+|[^\w\s]+")


def cut_at_turn(text: str, role_tags: Sequence[str] = ROLE_TAGS) -> str:
    """Return the text before the first role tag or run of two or more blank lines.

    Args:
        text: A response.
        role_tags: What opens a turn, matched literally.

    Example:
        >>> cut_at_turn("It is Paris. Human: And of Spain?")
        'It is Paris.'
    """
    stops = "|".join([_BLANK_LINES, *map(re.escape, role_tags)])
    return re.split(stops, text.strip("\n "), maxsplit=1)[0].strip("\n ")


def strip_query(prompt: str, role_tags: Sequence[str] = ROLE_TAGS) -> str:
    """Return what the user asked: without system prompt, role tags and earlier answers.

    Text before the first user tag is a system prompt; a prompt without tags is all query.

    Args:
        prompt: The prompt as the policy sees it.
        role_tags: What opens a turn, matched literally; one that names a human, a user, an
            instruction, an input, a question or a query opens a turn of the user.

    Example:
        >>> strip_query("Be brief. Human: Who wrote Emma? Assistant:")
        'Who wrote Emma?'
    """
    if not role_tags:
        return " ".join(prompt.split())
    pieces = re.split(f"({'|'.join(map(re.escape, role_tags))})", prompt)
    # A pattern in brackets keeps its matches: text before, then tag and text by turns.
    turns = list(zip(pieces[1::2], pieces[2::2], strict=True))
    of_user = ("human", "user", "instruction", "input", "[inst]", "question", "query")
    questions = [text for tag, text in turns if any(name in tag.lower() for name in of_user)]
    if not questions:
        # No user tag: the tags that are there close the query ("... Assistant:").
        questions = [pieces[0]]
    return " ".join(" ".join(questions).strip(": \n").split())


def length_incentive(text: str) -> float:
    r"""Return R3's length incentive.

    LI(y) = N / 100,   N = number of matches of `\w+|[^\w\s]+`

    Args:
        text: The response, already cut by `cut_at_turn`.

    Source: Kim et al. 2024, arXiv:2402.03469, section 4.1, and its official code.

    Example:
        >>> length_incentive("Yes, it is.")
        0.05
    """
    return len(_WORDS_AND_PUNCTUATION.findall(text)) / 100


def repetition_penalty(text: str) -> float:
    r"""Return R3's repetition penalty: 1 without repeated trigrams, towards 0 with many.

    RP(y) = unique trigrams / trigrams over the matches of `\w+|[^\w\s]+`; 1 below 3 matches

    Args:
        text: The response, already cut by `cut_at_turn`.

    Source: Kim et al. 2024, arXiv:2402.03469, section 4.1.

    Example:
        >>> repetition_penalty("no no no no")
        0.5
    """
    words = _WORDS_AND_PUNCTUATION.findall(text)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


def constrained_factor(max_len: float, *, full_relevance: float = RELEVANCE_SCALE) -> float:
    """Return what R3's F multiplies the relevance to the reference by.

    F(r_y) = (r_y / r_full) * (max_len / 100): linear, and full relevance earns what the length
    incentive gives the longest answer.

    Args:
        max_len: Longest response, tokens; > 0.
        full_relevance: r_full, the relevance of a reference to itself in the encoder; > 0. 3.5 is
            that of Contriever, which the paper has.

    Source: Kim et al. 2024, arXiv:2402.03469, section 4.2.
    """
    if not max_len > 0:
        raise ValueError(f"max_len must be a number of tokens > 0, got {max_len}")
    if not full_relevance > 0:
        raise ValueError(
            f"full_relevance must be > 0, got {full_relevance}; it is that of a reference to itself"
        )
    return max_len / 100 / full_relevance


def self_relevance(pooled: ArrayLike) -> float:
    """Return the mean relevance of texts to themselves.

    r_full = mean_i M(y_i) . M(y_i)

    Args:
        pooled: (texts, width) of `mean_pool`.

    Example:
        >>> self_relevance([[1.0, 2.0], [0.0, 1.0]])
        3.0
    """
    means = np.asarray(pooled, dtype=np.float64)
    return float((means * means).sum(axis=1).mean())


def r3_factor(
    incentive: float,
    penalty: float,
    *,
    max_len: float,
    constrained: bool,
    full_relevance: float = RELEVANCE_SCALE,
) -> float:
    """Return what R3 multiplies a relevance by.

    R3 = r_x * LI * RP for an open-ended query;  F(r_y) * RP for a constrained one

    Both are linear in the relevance, so that a decomposition of it carries over.

    Args:
        incentive: LI of the response.
        penalty: RP of the response.
        max_len: Longest response, tokens.
        constrained: Whether the query has one right answer.
        full_relevance: As for `constrained_factor`; an open-ended query does not read it.

    Source: Kim et al. 2024, arXiv:2402.03469, eq. 4.
    """
    if not constrained:
        return incentive * penalty
    return constrained_factor(max_len, full_relevance=full_relevance) * penalty


def mean_pool(hidden: ArrayLike) -> FloatArray:
    """Return M, the mean over tokens; 0 without tokens.

    M = (1 / n) * sum_t h_t

    Args:
        hidden: (n, width) hidden states of one text, padding left out.

    Returns:
        (width,).
    """
    hidden = np.asarray(hidden, dtype=np.float64)
    if hidden.ndim != 2:
        raise ValueError(f"hidden must have shape (tokens, width), got {hidden.shape}")
    return hidden.mean(axis=0) if len(hidden) else np.zeros(hidden.shape[1])


def relevance_shares(query: ArrayLike, hidden: ArrayLike) -> FloatArray:
    """Return each token's exact part of the relevance of a response to a query.

    share_t = (q . h_t) / n,   sum_t share_t = q . M(y)

    Args:
        query: (width,) q = M(x), the pooled query (or reference).
        hidden: (n, width) hidden states of the response's tokens, padding left out.

    Returns:
        (n,) signed, sums to the raw dot product.
    """
    query = np.asarray(query, dtype=np.float64)
    hidden = np.asarray(hidden, dtype=np.float64)
    if hidden.ndim != 2 or query.shape != hidden.shape[1:]:
        raise ValueError(
            f"hidden must have shape (tokens, width) of query's width, got {hidden.shape} "
            f"and {query.shape}"
        )
    return hidden @ query / max(len(hidden), 1)
