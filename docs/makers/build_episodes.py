"""Plays one prompt of each environment three times, and draws docs/images/episodes.

Untrained, trained, and the best of sixteen untrained responses, each with its score and with what a
rule pays its tokens, in docs/images/episodes/episodes.json. Pages show them as text; the picture of
an environment is its trained response, finished and coloured first, then written token by token.

    python -m docs.makers.build_episodes [TASK ...]    # trains an agent of each, a minute a task
"""

import argparse
import html
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from tokengym.agents import PPO
from tokengym.envs.prompts.tokenization import token_texts

FOLDER = Path(__file__).resolve().parents[1] / "images" / "episodes"
FILE = FOLDER / "episodes.json"
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
"""Tasks with a policy of their own, and the rule that trains it and colours the tokens."""
PROMPT = 3
"""Position of the prompt in a task's test split, or the last of fewer."""
DRAWN, SEED = 16, 0
STAGES = ("untrained", "trained", f"best of {DRAWN}")
LETTER, LINE, SIZE = 8.4, 26, 14
"""Width of a letter, height of a line and size of the type, pixels."""
COLUMNS, LEFT, TOP = 34, 14, 42
TOKEN_S, COLOUR_S, REST_S = 0.22, 0.06, 4.0
"""Seconds for each token, for each colour, and of the finished episode, which comes first."""
GAIN, LOSS = (33, 120, 190), (214, 88, 40)
"""Red, green and blue of tokens that are paid, and of those that are blamed."""
_LEGEND = "blue is paid, orange is blamed"
STYLE = f"""
.ground {{ fill: #fff }} .name {{ fill: #1d2329; font-weight: 650 }} .note {{ fill: #59636e }}
.word {{ fill: #1d2329 }} .gain {{ fill: rgb{GAIN} }} .loss {{ fill: rgb{LOSS} }}
@media (prefers-color-scheme: dark) {{
  .ground {{ fill: #14171b }} .name, .word {{ fill: #e7eaed }} .note {{ fill: #a2abb5 }}
  .gain {{ fill: #3a86d6 }} .loss {{ fill: #d66830 }}
}}
@media (prefers-reduced-motion: reduce) {{ * {{ animation: none !important }} }}"""


class Piece(NamedTuple):
    """A piece of text and where it stands."""

    text: str
    column: int
    line: int


def file_of(task: str) -> Path:
    """Return the file of a task's picture."""
    return FOLDER / f"{task.lower()}.svg"


# --- playing --------------------------------------------------------------------------------------


def play(task: str, agents: Path) -> dict[str, Any]:
    """Return a task's prompt and its three responses, as `FILE` holds them.

    The trained agent is made in a folder of ``agents``, unless it is there.
    """
    from tokengym.scripts.cli import main as tokengym

    rule, folder = RULES[task], agents / task.lower()
    command = f"--env {task} --reward {rule}"
    if tokengym(["train", *shlex.split(command), "--out", str(folder)]):
        raise SystemExit(f"tokengym train {command} failed")
    name = f"tokengym/{task}-v0"
    envs: Any = gym.make_vec(name, num_envs=DRAWN, reward=rule, split="test")
    untrained = responses(PPO("CausalLMPolicy", envs, n_minibatches=1, seed=SEED), envs)
    trained = responses(PPO.load(folder / "agent"), envs)
    best = max(untrained, key=lambda response: float(response["score"]))
    prompt = begin(envs)[1]["prompt"][0]
    shown = dict(zip(STAGES, (untrained[0], trained[0], best), strict=True))
    return {"rule": rule, "command": f"tokengym train {command}", "prompt": prompt} | shown


def begin(envs: Any) -> Any:
    """Begin an episode of the prompt in every row."""
    number = min(PROMPT, len(envs.unwrapped.prompts) - 1)
    return envs.reset(seed=SEED, options={"prompt_id": number})


def responses(agent: PPO, envs: Any) -> list[dict[str, Any]]:
    """Return `DRAWN` sampled responses to the prompt, each with score, tokens and their rewards."""
    tokenizer = envs.unwrapped.tokenizer
    agent.set_random_seed(SEED)
    observation, infos = begin(envs)
    found: dict[int, dict[str, Any]] = {}
    while len(found) < DRAWN:
        actions, _ = agent.predict(observation, action_masks=infos["action_mask"].astype(bool))
        observation, _, _, _, infos = envs.step(actions)
        for row in np.flatnonzero(infos.get("_score", np.zeros(DRAWN, bool))).tolist():
            if row in found:
                continue
            texts = token_texts(tokenizer, infos["response_ids"][row])
            found[row] = {
                "score": round(float(infos["score"][row]), 2),
                "tokens": [text.replace("\n", " ") for text in texts],
                "credit": [
                    round(float(paid), 3) + 0.0
                    for paid in infos["token_rewards"][row][: len(texts)]
                ],
            }
    return [found[row] for row in range(DRAWN)]


# --- pages ----------------------------------------------------------------------------------------


def read() -> dict[str, Any]:
    """Return the episodes of every task, by its name."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def strengths(credit: Sequence[float]) -> list[float]:
    """Return the depth of each token's colour, from 0 to 0.7."""
    largest = max(map(abs, credit), default=0.0) or 1.0
    return [0.7 * abs(value) / largest for value in credit]


def as_text(task: str) -> str:
    """Return a task's prompt and responses as HTML, which wraps on any screen."""
    episode = read()[task]
    lines = [f'<p class="prompt">{html.escape(episode["prompt"])}</p>']
    for stage in STAGES:
        response = episode[stage]
        words = []
        for text, value, depth in zip(
            response["tokens"], response["credit"], strengths(response["credit"]), strict=True
        ):
            colour = ", ".join(map(str, GAIN if value > 0 else LOSS))
            word = html.escape(text)
            style = f"background:rgba({colour}, {depth:.2f})"
            words.append(word if depth < 0.1 else f'<span style="{style}">{word}</span>')
        lines.append(f"<p><b>{stage}</b>, score {response['score']:.2f}<br>{''.join(words)}</p>")
    return "\n".join(['<div class="episode">', *lines, "</div>"])


# --- pictures -------------------------------------------------------------------------------------


def laid_out(texts: Sequence[str], column: int, line: int) -> list[Piece]:
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


def picture(task: str, title: str) -> str:
    """Return the SVG of a task's trained response."""
    episode = read()[task]
    response = episode["trained"]
    tokens, credit = response["tokens"], response["credit"]
    prompt = laid_out(words_of(episode["prompt"]), 0, 0)
    end = prompt[-1]
    written = laid_out(tokens, end.column + len(end.text), end.line)
    count = len(tokens)
    lasts = REST_S + TOKEN_S * count + 1.0 + COLOUR_S * count
    width = round(2 * LEFT + LETTER * COLUMNS)
    height = TOP + LINE * (written[-1].line + 1) + 46
    styles, parts = [STYLE], []

    def shown(name: str, begin_s: float, opacity: float = 1.0) -> str:
        """Have what has this class go after the rest and return at a time; return the attribute."""
        rest, begin = 100 * REST_S / lasts, 100 * (REST_S + begin_s) / lasts
        there = f"opacity: {opacity:.2f}"
        styles.append(
            f"@keyframes {name} {{ 0%, {rest:.2f}% {{ {there} }} {rest + 0.1:.2f}%, {begin:.2f}% "
            f"{{ opacity: 0 }} {begin + 0.6:.2f}%, 100% {{ {there} }} }} "
            f".{name} {{ {there}; animation: {name} {lasts:.1f}s infinite }}"
        )
        return name

    def place(piece: Piece) -> tuple[float, int]:
        indent = len(piece.text) - len(piece.text.lstrip())
        return LEFT + LETTER * (piece.column + indent), TOP + LINE * piece.line

    def text(piece: Piece, kind: str) -> str:
        x, y = place(piece)
        return (
            f'<text class="{kind}" x="{x:g}" y="{y + 17}">{html.escape(piece.text.strip())}</text>'
        )

    parts += [text(piece, "note") for piece in prompt]
    for index, (piece, depth) in enumerate(zip(written, strengths(credit), strict=True)):
        if not piece.text.strip():
            continue
        if depth >= 0.02:
            name = shown(f"c{index}", TOKEN_S * count + 1.0 + COLOUR_S * index, depth)
            tone = "gain" if credit[index] > 0 else "loss"
            x, y = place(piece)
            parts.append(
                f'<rect class="{tone} {name}" x="{x - 3:g}" y="{y + 1}" '
                f'width="{LETTER * len(piece.text.strip()) + 6:g}" height="22" rx="4"/>'
            )
        parts.append(text(piece, f"word {shown(f't{index}', TOKEN_S * index + 0.01)}"))
    known = shown("score", TOKEN_S * count + 0.5)
    parts += [
        f'<text class="name" x="{LEFT}" y="26">{html.escape(title)}</text>',
        f'<text class="note {known}" x="{LEFT}" y="{height - 30}">score {response["score"]:.2f}, '
        f"credit by {episode['rule']}</text>",
        f'<text class="note {known}" x="{LEFT}" y="{height - 12}">{_LEGEND}</text>',
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" font-size="{SIZE}" '
            f'font-family="ui-monospace, Menlo, Consolas, monospace" '
            f'role="img" aria-label="{html.escape(title)}: a trained response, coloured by the '
            f'credit of {episode["rule"]}">',
            f"<style>{chr(10).join(styles)}</style>",
            f'<rect class="ground" width="{width}" height="{height}" rx="10"/>',
            *parts,
            "</svg>\n",
        ]
    )


def pictures(tasks: Sequence[str]) -> Iterator[Path]:
    """Draw the pictures of tasks, and yield each file."""
    from docs.makers.build_docs import title_of

    for task in tasks:
        file_of(task).write_text(picture(task, title_of(task)), encoding="utf-8")
        yield file_of(task)


def main() -> None:
    """Play and draw the tasks that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", help="tasks (default: all)")
    parser.add_argument("--agents", type=Path, default=Path("agents"), help="folder of the trained")
    options = parser.parse_args()
    tasks = options.tasks or list(RULES)
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = read() if FILE.is_file() else {}
    played = {task: play(task, options.agents) for task in tasks}
    text = json.dumps(kept | played, indent=1, sort_keys=True, ensure_ascii=False)
    FILE.write_text(f"{text}\n", encoding="utf-8")
    print(FILE, *pictures(tasks), sep="\n")


if __name__ == "__main__":
    main()
