"""Draws docs/images/episodes: one episode of each environment, written token by token.

Each picture is an episode that the bundled policy wrote: the best scored of sixteen. The tokens
appear as they were written, then the score, and then what the rule pays each token.

    python -m docs.makers.build_episodes [TASK ...]
"""

import argparse
import html
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from tokengym.agents import PPO, collect
from tokengym.envs import Episode
from tokengym.envs.prompts.tokenization import token_texts

FOLDER = Path(__file__).resolve().parents[1] / "images" / "episodes"
RULES = {
    "Detox": "abc-signed",
    "Dialogue": "abc-signed",
    "Forks": "abc-signed",
    "MovieReview": "abc-signed",
    "Oracle": "abc-signed",
    "QuestionAnswer": "r3-dense",
    "ReasoningGym": "abc-signed",
    "Summarize": "abc-signed",
}
"""Tasks with a policy of their own, and the rule whose credit colours the tokens."""
DRAWN, SEED = 16, 0
LETTER, LINE, SIZE = 8.4, 30, 14
"""Width of a letter, height of a line and size of the type, pixels."""
COLUMNS, LEFT, TOP = 68, 20, 48
TOKEN_S, COLOUR_S, REST_S = 0.22, 0.06, 4.0
"""Seconds for each token, for each colour, and before it begins anew."""
STYLE = """
.ground { fill: #fff } .name { fill: #1d2329; font-weight: 650 } .note { fill: #59636e }
.word { fill: #1d2329 } .gain { fill: #2178be } .loss { fill: #d65828 }
@media (prefers-color-scheme: dark) {
  .ground { fill: #14171b } .name, .word { fill: #e7eaed } .note { fill: #a2abb5 }
  .gain { fill: #3a86d6 } .loss { fill: #d66830 }
}
@media (prefers-reduced-motion: reduce) { * { animation: none !important } }"""


class Piece(NamedTuple):
    """A piece of text and where it stands."""

    text: str
    column: int
    line: int


def file_of(task: str) -> Path:
    """Return the file of a task's picture."""
    return FOLDER / f"{task.lower()}.svg"


def played(task: str, rule: str) -> tuple[Episode, list[str]]:
    """Return the best scored of the episodes that the bundled policy writes, and its tokens."""
    envs: Any = gym.make_vec(f"tokengym/{task}-v0", num_envs=DRAWN, reward=rule)
    agent = PPO("CausalLMPolicy", envs, n_minibatches=1, seed=SEED)
    episodes = collect(agent, envs, DRAWN, seed=SEED)
    best = max(episodes, key=lambda episode: float(episode.score or 0.0))
    tokens = token_texts(envs.unwrapped.tokenizer, best.response_ids)
    return best, [token.replace("\n", " ") for token in tokens]


def laid_out(texts: list[str], column: int, line: int) -> list[Piece]:
    """Return texts one behind the other, in lines of `COLUMNS` letters."""
    pieces = []
    for text in texts:
        if column and column + len(text.strip()) > COLUMNS:
            text, column, line = text.lstrip(), 0, line + 1
        pieces.append(Piece(text, column, line))
        column += len(text)
    return pieces


def words_of(text: str) -> list[str]:
    """Return the words of a text, each with the space behind it."""
    return [f"{word} " for word in text.split()]


def picture(task: str) -> str:
    """Return the SVG of a task's episode."""
    rule = RULES[task]
    episode, tokens = played(task, rule)
    credit = np.asarray(episode.token_rewards, dtype=float)
    prompt = laid_out(words_of(episode.prompt), 0, 0)
    end = prompt[-1]
    written = laid_out(tokens, end.column + len(end.text), end.line)
    count = len(tokens)
    lasts = TOKEN_S * count + 1.0 + COLOUR_S * count + REST_S
    width = round(2 * LEFT + LETTER * COLUMNS)
    height = TOP + LINE * (written[-1].line + 1) + 36
    strength = np.abs(credit) / max(float(np.abs(credit).max()), 1e-9)
    styles, parts = [STYLE], []

    def shown(name: str, begin_s: float, opacity: float = 1.0) -> str:
        """Have what has this class appear at a time, and return the attribute."""
        begin = 100 * begin_s / lasts
        styles.append(
            f"@keyframes {name} {{ 0%, {begin:.2f}% {{ opacity: 0 }} "
            f"{begin + 0.6:.2f}%, 100% {{ opacity: {opacity:.2f} }} }} "
            f".{name} {{ opacity: {opacity:.2f}; animation: {name} {lasts:.1f}s infinite }}"
        )
        return name

    def text(piece: Piece, kind: str) -> str:
        x = LEFT + LETTER * (piece.column + len(piece.text) - len(piece.text.lstrip()))
        word = html.escape(piece.text.strip())
        return f'<text class="{kind}" x="{x:g}" y="{TOP + LINE * piece.line + 19}">{word}</text>'

    parts += [text(piece, "note") for piece in prompt]
    for index, piece in enumerate(written):
        if not piece.text.strip():
            continue
        if strength[index] >= 0.02:
            begin = TOKEN_S * count + 1.0 + COLOUR_S * index
            name = shown(f"c{index}", begin, 0.7 * float(strength[index]))
            tone = "gain" if credit[index] > 0 else "loss"
            x = LEFT + LETTER * (piece.column + len(piece.text) - len(piece.text.lstrip())) - 3
            parts.append(
                f'<rect class="{tone} {name}" x="{x:g}" y="{TOP + LINE * piece.line + 2}" '
                f'width="{LETTER * len(piece.text.strip()) + 6:g}" height="24" rx="4"/>'
            )
        parts.append(text(piece, f"word {shown(f't{index}', TOKEN_S * index)}"))
    known = shown("score", TOKEN_S * count + 0.5)
    score = float(episode.score or 0.0)
    parts.append(
        f'<text class="name" x="{LEFT}" y="28">{task}</text>'
        f'<text class="note {known}" x="{LEFT}" y="{height - 16}">score {score:.2f}, credit by '
        f"{rule}: blue is paid, orange is blamed</text>"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="{SIZE}" '
            f'role="img" aria-label="An episode of {task}, written token by token and coloured by '
            f'the credit of {rule}">',
            f"<style>{chr(10).join(styles)}</style>",
            f'<rect class="ground" width="{width}" height="{height}" rx="10"/>',
            *parts,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Draw the pictures of the tasks that are named, or of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", help="tasks (default: all)")
    for task in parser.parse_args().tasks or RULES:
        FOLDER.mkdir(parents=True, exist_ok=True)
        file_of(task).write_text(picture(task), encoding="utf-8")
        print(file_of(task))


if __name__ == "__main__":
    main()
