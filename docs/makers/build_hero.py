"""Draws docs/images/hero.svg: one review coloured by the truth and by three rules.

python -m docs.makers.build_hero
"""

import html
from pathlib import Path

import gymnasium as gym
import numpy as np

from tokengym.envs import Episode, TokenGenerationEnv
from tokengym.evaluation.statistics import Array
from tokengym.lab.replay.replay import replay

FILE = Path(__file__).resolve().parents[1] / "images" / "hero.svg"
PROMPT = "the mystery felt"
RESPONSE = "shallow . the pacing is awful . the acting was superb and i adored the photography ."
RULES = {
    "truth": "what each word is worth",
    "sparse": "all at the last token",
    "abc": "by the reward model's attention",
    "abc-signed": "and the direction of each token",
}
"""Rows and what stands below their names."""
LEFT, TOP, ROW, GAP = 246, 70, 58, 9
WIDTHS = dict.fromkeys("mw", 12.5) | dict.fromkeys("iljtfr.", 5.0)
"""Pixels of letters; the others have 8.2."""
STYLE = """
.ground { fill: #fff } .name { fill: #1d2329; font-weight: 650 } .note { fill: #59636e; font-size: 13px }
.word { fill: #1d2329 } .gain { fill: #2178be } .loss { fill: #d65828 }
@media (prefers-color-scheme: dark) {
  .ground { fill: #14171b } .name, .word { fill: #e7eaed } .note { fill: #a2abb5 }
  .gain { fill: #3a86d6 } .loss { fill: #d66830 }
}"""  # noqa: E501


def rows() -> tuple[list[str], dict[str, Array], float]:
    """Return the response's tokens, what each earns under every rule, and its score."""
    env = gym.make("tokengym/MovieReview-v0", reward=None)
    task = env.unwrapped
    assert isinstance(task, TokenGenerationEnv)
    prompt_ids, ids = (
        task.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (PROMPT, RESPONSE)
    )
    episode = Episode(prompt=PROMPT, response=RESPONSE, prompt_ids=prompt_ids, response_ids=ids)
    rules = [name for name in RULES if name != "truth"]
    replayed = replay([episode], rules, env="MovieReview")
    return list(replayed.tokens[0]), replayed.columns(0), float(replayed.scores["sparse"][0])


def picture() -> str:
    """Return the SVG."""
    tokens, columns, score = rows()
    lengths = [sum(WIDTHS.get(letter, 8.2) for letter in token.strip()) for token in tokens]
    places = [LEFT]
    for length in lengths:
        places.append(round(places[-1] + length + GAP + 4))
    width, height = places[-1] + 24, TOP + ROW * len(RULES) + 34
    parts = [
        f'<text class="note" x="24" y="36">A review, with score {score:.2f}:</text>',
        f'<text class="word" x="{LEFT + 4}" y="36">{html.escape(PROMPT)} \u2026</text>',
    ]
    for row, (name, note) in enumerate(RULES.items()):
        y, values = TOP + ROW * row, columns[name]
        parts.append(f'<text class="name" x="24" y="{y + 16}">{name}</text>')
        parts.append(f'<text class="note" x="24" y="{y + 34}">{html.escape(note)}</text>')
        strength = np.abs(values) / np.abs(values).max()
        for x, token, length, value, share in zip(
            places, tokens, lengths, values, strength, strict=False
        ):
            word = html.escape(token.strip())
            if share >= 0.01:
                tone = "gain" if value > 0 else "loss"
                parts.append(
                    f'<rect class="{tone}" opacity="{0.75 * share:.2f}" x="{x}" y="{y}" '
                    f'width="{length + GAP:.0f}" height="26" rx="4"/>'
                )
            parts.append(
                f'<text class="word" x="{x + GAP / 2:g}" y="{y + 18}" '
                f'textLength="{length:g}" lengthAdjust="spacingAndGlyphs">{word}</text>'
            )
    y = height - 20
    parts.append(
        f'<rect class="loss" opacity=".75" x="{LEFT}" y="{y - 11}" width="14" height="14" rx="3"/>'
        f'<text class="note" x="{LEFT + 20}" y="{y}">blamed</text>'
        f'<rect class="gain" opacity=".75" x="{LEFT + 82}" y="{y - 11}" width="14" height="14" '
        f'rx="3"/><text class="note" x="{LEFT + 102}" y="{y}">paid</text>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="system-ui, sans-serif" font-size="15" role="img" aria-label="One review '
            "whose words are coloured by what they are worth and by what three rules pay them: "
            "sparse pays the last full stop alone, abc all praise and all blame, abc-signed "
            'charges for blame">',
            f"<style>{STYLE}</style>",
            f'<rect class="ground" width="{width}" height="{height}" rx="10"/>',
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    FILE.write_text(picture(), encoding="utf-8")
    print(FILE)
