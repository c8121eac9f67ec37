"""The page on wrappers names every one of Gymnasium's and SB3's, where its kind says."""

import re
from pathlib import Path

from tests.suite.agents.rollouts.test_layers import HARMLESS, HEARD, SOURCES, UNFIT

PAGE = (Path(__file__).parents[3] / "docs/agents/wrappers.md").read_text(encoding="utf-8")
(TABLE,) = re.findall(r"## Every wrapper\n(.*?)\n\n[^|]", PAGE, re.DOTALL)
ROWS = [line.split("|")[1:3] for line in TABLE.strip().splitlines()[2:]]


def verdicts(name: str) -> set[str]:
    """Return how the lines begin that name a wrapper."""
    said = {text.strip() for names, text in ROWS if re.search(rf"`{name}[`(]", names)}
    return {re.split(r"[:,;]| at ", text)[0] for text in said}


def test_every_wrapper_is_in_the_table() -> None:
    for _, kinds in SOURCES.values():
        for kind, names in kinds.items():
            for name in names:
                found = verdicts(name)
                works = kind in (HEARD, HARMLESS) or name == "VecNormalize"
                if name == "NormalizeObservation":  # a batch's takes dictionaries
                    assert found == {"refused"}
                elif kind is UNFIT:
                    assert any(text.startswith("refused by Gymnasium") for text in found), name
                elif works:
                    assert found <= {"**work**", "**works**"}, name
                    assert found, name
                else:
                    assert found == {"refused"}, name


def test_the_examples_run(capsys) -> None:
    code = "".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    exec(compile(code, "wrappers.md", "exec"), {})
    paid, raw = map(float, capsys.readouterr().out.split())
    assert abs(paid - 0.1 * raw) < 1e-6
