"""The page on wrappers names every one of Gymnasium's and SB3's, where its kind says."""

import re
from pathlib import Path

import gymnasium.wrappers as single
import gymnasium.wrappers.vector as batched
import pytest
from stable_baselines3.common import vec_env as sb3

PAGE = (Path(__file__).parents[3] / "docs/agents/wrappers.md").read_text(encoding="utf-8")
(TABLE,) = re.findall(r"## Every wrapper\n(.*?)\n\n[^|]", PAGE, re.DOTALL)
ROWS = [line.split("|")[1:3] for line in TABLE.strip().splitlines()[2:]]


def verdicts(name: str) -> set[str]:
    """Return how the lines begin that name a wrapper."""
    said = {text.strip() for names, text in ROWS if re.search(rf"`{name}[`(]", names)}
    return {re.split(r"[:,;]| at ", text)[0] for text in said}


OF_SB3 = [
    name
    for name in sb3.__all__
    if isinstance(getattr(sb3, name), type)
    and issubclass(getattr(sb3, name), sb3.VecEnvWrapper)
    and name not in ("VecEnvWrapper", "VecVideoRecorder")  # which needs frames
]
NAMES = sorted({*single.__all__, *batched.__all__, *OF_SB3} - {"vector"})


@pytest.mark.parametrize("name", NAMES)
def test_every_wrapper_is_in_the_table(name: str) -> None:
    """One that a later version brings fails here until its kind is known."""
    found = {word.strip("*").split()[0] for word in verdicts(name)}
    assert found
    assert found <= {"work", "works", "refused"}


def test_the_examples_run(capsys) -> None:
    code = "".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    exec(compile(code, "wrappers.md", "exec"), {})
    paid, raw = map(float, capsys.readouterr().out.split())
    assert abs(paid - 0.1 * raw) < 1e-6
