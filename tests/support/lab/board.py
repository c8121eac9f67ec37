"""The benchmark at its smallest."""

from pathlib import Path
from typing import Any

from tokengym.lab.benchmark.definition import V2, Definition, Setting
from tokengym.lab.benchmark.runs import Bench

SMALL = Definition(
    name="miniature 2",
    settings=(
        Setting(task="MovieReview", label="A", unlike="", tokens=4, fixed=True, rates=(1e-3,)),
        Setting(task="MovieReview", label="B", unlike="", tokens=3, fixed=True, rates=(1e-3,)),
    ),
    models={"movie_review": V2.models["movie_review"]},
    updates=1,
    rows=4,
    prompts=4,
    lambdas=("0.5", "1"),
    seeds=(0, 1),
)


def bench(out: Path, **changes: Any) -> Bench:
    settings: dict[str, Any] = {"definition": SMALL, "rule": "uniform", "track": "scores"}
    return Bench(**{**settings, "out": out, **changes})
