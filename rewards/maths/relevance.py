"""R3, the regularised relevance reward, term by term: pure functions of texts and arrays.

A text is first cut to what answers the query; its length, repetition and relevance are terms of
their own. Hidden states come from whatever encoder the scorer has.

Source: Kim et al. 2024, arXiv:2402.03469, and its official code.
"""

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.base.words import words

FloatArray = NDArray[np.float64]

RELEVANCE_SCALE = 3.5
"""R3's F divides by this, whatever the encoder: about the relevance of a reference to itself in
Contriever (Kim et al. 2024, official code). r_x and r_y are both linear in an encoder's scale, so
that with one constant R3 is too, for both types of queries alike."""

COMPONENTS = ("length_incentive", "repetition_penalty", "reward_branching")
"""What can be left out of R3, as in the paper's ablations."""

_HEADING = r"(?=:|[ \t]*$)"  # "### User stories" is none of a turn
_OF_USER = (
    rf"(?:Human|User|HUMAN|USER):|### (?:Human|User|Instruction){_HEADING}|<\|user\|>|\[INST\]"
)
_OF_ANSWER = (
    r"(?:Assistant|ASSISTANT):|<\|assistant\|>|\[/INST\]"
    rf"|### (?:Assistant|Response){_HEADING}"
)
_OF_SYSTEM = r"(?:System|SYSTEM):|<\|system\|>"
_TURN = re.compile(rf"^[ \t]*(?:({_OF_USER})|{_OF_SYSTEM}|{_OF_ANSWER})", re.MULTILINE)
"""Opening of a turn at the beginning of a line; its group holds a user's."""
_WITHIN = re.compile(rf"(?<=[\s>])(?:({_OF_USER})|{_OF_ANSWER})", re.MULTILINE)
_OPENED_ANSWER = re.compile(rf"\s(?:{_OF_ANSWER})[:\s]*\Z", re.MULTILINE)
_END = re.compile(
    rf"\n(?:[ \t]*\n){{3}}|\n\n--|\n\n____|{_TURN.pattern}|^### Input{_HEADING}", re.MULTILINE
)
"""End of a response: three blank lines, a line that is drawn after one, or another turn."""


def cut_at_turn(text: str) -> str:
    r"""Return a response up to where its writer stops answering.

    It ends at a role tag at the beginning of a line, at three blank lines, or at a blank line
    before "--" or "____", as in R3's official code.

    Example:
        >>> cut_at_turn("It is Paris.\n\nHuman: And of Spain?")
        'It is Paris.'
    """
    stripped = text.strip("\n ")
    end = _END.search(stripped)
    return stripped[: end.start()].strip("\n ") if end else stripped


def query_of_turns(turns: Iterable[str]) -> str:
    r"""Return the query that turns of a user make.

    R3's data have an instruction, a line "### Input:" and what it is about in one turn, all of
    which was asked.

    Example:
        >>> query_of_turns(["Translate into French.\n\n### Input:\nA cat."])
        'Translate into French. A cat.'
    """
    whole = []
    for turn in turns:
        for mark in ("### Input:\n", "### Input\n", " : ", "</s>"):
            turn = turn.replace(mark, " ")
        whole += turn.strip("\n: ").split()
    return " ".join(whole)


def strip_query(prompt: str) -> str:
    r"""Return what the user asked in a prompt of text: no system prompt, role tags and answers.

    Role tags count at the beginning of a line. Only where the prompt ends by opening the answer
    within a line, as Vicuna's template has all its turns in one, do they count within lines. Text
    before the first tag of a user is a system prompt; a prompt without tags is all query.

    Example:
        >>> strip_query("Be brief.\n\nHuman: Who wrote Emma?\n\nAssistant:")
        'Who wrote Emma?'
    """
    opened = _OPENED_ANSWER.search(prompt)
    prompt = prompt[: opened.start()] if opened else prompt
    before, asked = _turns_of_user(_TURN, prompt)
    if not asked and opened and not opened[0].startswith("\n"):
        before, asked = _turns_of_user(_WITHIN, prompt)
    return query_of_turns(asked or [before])


def _turns_of_user(tags: re.Pattern[str], prompt: str) -> tuple[str, list[str]]:
    """Return the text before the first tag, and the user's turns."""
    # A pattern with a group keeps its matches: text before, then tag and text by turns.
    before, *turns = tags.split(prompt)
    return before, [text for tag, text in zip(turns[::2], turns[1::2], strict=True) if tag]


def length_incentive(text: str) -> float:
    """Return R3's length incentive.

    LI(y) = N / 100,   N = number of words and runs of punctuation, see `words`

    Args:
        text: The response, already cut by `cut_at_turn`.

    Source: Kim et al. 2024, arXiv:2402.03469, section 4.1, and its official code.

    Example:
        >>> length_incentive("Yes, it is.")
        0.05
    """
    return len(words(text)) / 100


def repetition_penalty(text: str) -> float:
    """Return R3's repetition penalty: 1 without repeated trigrams, towards 0 with many.

    RP(y) = unique trigrams / trigrams of words, see `words`; 1 below 3 words

    Args:
        text: The response, already cut by `cut_at_turn`.

    Source: Kim et al. 2024, arXiv:2402.03469, section 4.1.

    Example:
        >>> repetition_penalty("no no no no")
        0.5
    """
    found = words(text)
    trigrams = list(zip(found, found[1:], found[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


def constrained_factor(max_len: float, *, full_relevance: float = RELEVANCE_SCALE) -> float:
    """Return what R3's F multiplies the relevance to the reference by.

    F(r_y) = (r_y / r_full) * (max_len / 100): linear, and full relevance earns what the length
    incentive gives the longest answer.

    Args:
        max_len: Longest response, tokens; > 0.
        full_relevance: r_full, the relevance that counts as full; > 0. R3 has 3.5.

    Source: Kim et al. 2024, arXiv:2402.03469, section 4.2.
    """
    if not max_len > 0:
        raise ValueError(f"max_len must be a number of tokens > 0, got {max_len}")
    if not full_relevance > 0:
        raise ValueError(
            f"full_relevance must be > 0, got {full_relevance}; R3 has {RELEVANCE_SCALE}"
        )
    return max_len / 100 / full_relevance


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
