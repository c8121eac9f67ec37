"""Text with each token's reward as its background colour; replies of a partner are in italics.

Red is negative, blue positive, white zero: colours that colour-blind readers can distinguish. The
largest absolute reward has the full colour. Pure functions, independent of environments.
"""

import html
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokengym.base.text import printable

_RED, _WHITE, _BLUE = (214, 96, 77), (255, 255, 255), (67, 147, 195)
_RESET = "\x1b[0m"
_BOLD = "\x1b[1m"
_REPLY = "\x1b[2;3m"  # faint italics
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def reward_colours(
    token_rewards: ArrayLike, *, scale: float | None = None
) -> list[tuple[int, int, int]]:
    """Return one RGB colour per reward.

    colour = white + |r| / scale * (end - white), end = blue for r > 0 and red for r < 0

    Args:
        token_rewards: (n,), any unit.
        scale: The reward that has the full colour; None takes max |r|. Texts that are to be
            compared should share one.

    Raises:
        ValueError: if a reward is not finite, or they are not one-dimensional.
    """
    rewards = np.asarray(token_rewards, dtype=np.float64)
    if rewards.ndim != 1 or not np.isfinite(rewards).all():
        raise ValueError(
            f"token_rewards must be one-dimensional and finite, got {rewards!r}; mask padding first"
        )
    largest = scale if scale is not None else float(np.abs(rewards).max(initial=0.0))
    strength = np.clip(rewards / largest, -1, 1) if largest > 0 else np.zeros_like(rewards)
    colours = []
    for share in strength.tolist():
        end = _BLUE if share > 0 else _RED
        red, green, blue = (
            round(w + abs(share) * (e - w)) for w, e in zip(_WHITE, end, strict=True)
        )
        colours.append((red, green, blue))
    return colours


def render_ansi(
    prompt: str,
    tokens: Sequence[str],
    rewards: ArrayLike | None = None,
    *,
    written: ArrayLike | None = None,
) -> str:
    """Return prompt (bold) and tokens for a terminal with 24-bit colour.

    The text passes through `printable`, so that it cannot control the terminal.

    Args:
        prompt: The prompt's text.
        tokens: (n,) the response's pieces of text, see `tokenization.token_texts`.
        rewards: (n,) one per token; None shows plain tokens.
        written: (n,) non-zero where the policy wrote the token; None where it wrote all.
    """
    head = f"{_BOLD}{printable(prompt)}{_RESET}" if prompt else ""
    is_policys = _checked(tokens, np.ones(len(tokens)) if written is None else written) != 0
    if rewards is None:
        pieces = [printable(token) for token in tokens]
    else:
        values = _checked(tokens, rewards)
        pieces = [
            f"\x1b[48;2;{r};{g};{b}m\x1b[38;2;0;0;0m{printable(token)}{_RESET}"
            for token, (r, g, b) in zip(tokens, reward_colours(values), strict=True)
        ]
    for place in np.flatnonzero(~is_policys).tolist():
        pieces[place] = f"{_REPLY}{printable(tokens[place])}{_RESET}"
    return head + "".join(pieces)


def without_styles(text: str) -> str:
    """Return what `render_ansi` returned as plain text, for files and pipes."""
    return _STYLES.sub("", text)


def render_html(
    prompt: str,
    tokens: Sequence[str],
    rewards: ArrayLike | None = None,
    *,
    written: ArrayLike | None = None,
) -> str:
    """Return prompt and tokens as one escaped ``<div>``; a token's title is its reward (n,).

    Arguments, errors and the treatment of control characters are those of `render_ansi`. All styles
    are inline, so that the result can be embedded in any page.
    """
    head = f"<b>{html.escape(printable(prompt))}</b>"
    is_policys = _checked(tokens, np.ones(len(tokens)) if written is None else written) != 0
    texts = [html.escape(printable(token)) for token in tokens]
    if rewards is None:
        spans = [f"<span>{text}</span>" for text in texts]
    else:
        values = _checked(tokens, rewards)
        spans = [
            f'<span style="background:rgb({r},{g},{b});color:#000" title="{value:+.4g}">'
            f"{text}</span>"
            for text, value, (r, g, b) in zip(texts, values, reward_colours(values), strict=True)
        ]
    for place in np.flatnonzero(~is_policys).tolist():
        spans[place] = f'<i style="opacity:0.6" title="reply">{texts[place]}</i>'
    body = "".join(spans)
    return f'<div class="tokengym-text" style="white-space:pre-wrap">{head}{body}</div>'


def _checked(tokens: Sequence[str], rewards: ArrayLike) -> NDArray[np.float64]:
    """Return the rewards as an array (n,), one for each token."""
    values = np.asarray(rewards, dtype=np.float64)
    if values.shape != (len(tokens),):
        raise ValueError(
            f"rewards must have shape ({len(tokens)},), one per token, got {values.shape}"
        )
    return values
