"""Tinker: a datum of its own classes, with an advantage per token."""

import tinker

from tests.support.paid_words import ADVANTAGES, LONG, PROMPT, SHORT, credit
from tokengym.bridges.rows import Row, credit_rows
from tokengym.bridges.tinker import loss_inputs


def test_a_datum_takes_our_inputs() -> None:
    rows = [Row(prompt_ids=PROMPT, response_ids=ids, group="p") for ids in (LONG, SHORT)]
    credited = credit_rows(rows, credit())
    for row, advantages, expected in zip(rows, credited.advantages, ADVANTAGES, strict=True):
        inputs = loss_inputs(row, advantages, [-1.0] * len(row.response_ids))
        datum = tinker.Datum(
            model_input=tinker.ModelInput.from_ints(inputs.tokens),
            loss_fn_inputs=inputs.loss_fn_inputs,
        )
        assert datum.model_input.length == len(PROMPT) + len(row.response_ids) - 1
        found = datum.loss_fn_inputs["advantages"]
        assert found.dtype == "float32"
        assert [round(one, 5) for one in found.data[-len(expected) :]] == expected
        assert not any(found.data[: -len(expected)])
        assert datum.loss_fn_inputs["target_tokens"].data[-1] == row.response_ids[-1]
