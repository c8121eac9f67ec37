"""No source takes 0 for a measurement that is missing."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.checkout import house
from tokengym.evaluation.measure.measures import MEASURES

ROOT = Path(__file__).parents[2]
NO_MEASUREMENTS = {
    *("chosen.index or 0", "device.index or 0"),  # devices
    *("seed or 0", "self.seed or 0"),
    *("pad_id or 0", "self.tokenizer.pad_token_id or 0", "self.model.config.pad_token_id or 0"),
    *("self.max_new_tokens or 0", "self.task.min_new_tokens or 0"),  # limits that are not set
    *("least or above or 0", "window or 0", "getattr(self, name) or 0"),
    *(
        "self.reference_samples or 0",
        "reference.evaluation.reference_samples or 0",
    ),  # none is asked
    *("spec.evaluation.reference_samples or 0", "evaluation.reference_samples or 0"),
    *("self.evaluation.episodes or 0", "evaluation.episodes or 0"),
    *("part.spec.plain['evaluation']['episodes'] or 0", "run.training.tokens or 0"),
    *("_responses(training) or 0", "count or 0"),  # of a learner that trains on none
    *("schema.column(i).length or 0", "pc.sum(lengths.take(array.indices)).as_py() or 0"),  # bytes
    *("command(**values) or 0", "s.word or 0"),  # a status; an order of rows
    "', '.join(scales) or 0",  # a text of figures, of which there are none at a gradient of 0
    "reward or 0.0",  # in the notation of a case, where what is not written is paid nothing
}
"""Numbers that are set, counted or numbered, and 0 where they are left out."""
NAMES = {*MEASURES, "raw_score", "reward", "rewards", "token_rewards", "returns"} - {"loss"}
"""Names under which measurements are kept; a loss is a sum of terms, which begins with none."""


def zeros(text: str) -> Iterator[str]:
    """Yield what is 0 where something is missing, such as ``x or 0`` or ``d.get("score", 0)``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            if _is_zero(node.values[-1]):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and len(node.args) > 1 and _is_zero(node.args[-1]):
            named = [a.value for a in node.args if isinstance(a, ast.Constant)]
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("get", "pop", "getattr", "fillna") and NAMES.intersection(named):
                yield ast.unparse(node)
        elif isinstance(node, ast.Attribute) and node.attr == "fillna":
            yield ast.unparse(node)


def _is_zero(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == 0


def test_missing_is_not_0_in_the_sources():
    found = {
        f"{file.relative_to(ROOT)}: {expression}"
        for file in house.module_files(ROOT).values()
        for expression in zeros(file.read_text(encoding="utf-8"))
        if expression not in NO_MEASUREMENTS
    }
    assert found == set()
