"""Token ids of large prompt sets: encoded once, in a process and in a comparison's folder."""

import copy
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest

from tokengym.envs import PromptSet, TokenGenerationEnv
from tokengym.envs.prompts import rows as rows_module
from tokengym.envs.prompts.rows import TokenRows, rows_stored_in, shared_rows

TEXTS = ("a b", "c", "d e a")
ROWS = [[2, 3], [4], [5, 6, 2]]


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[TokenRows]:
    """Share the ids of three texts, and say how often they were encoded."""
    monkeypatch.setattr(rows_module, "FEWEST_SHARED", 3)
    monkeypatch.setattr(rows_module, "_known", WeakValueDictionary())
    return []


def shared(tokenizer: Any, encodings: list[TokenRows], texts: Any = TEXTS, frame: str = "") -> Any:
    def encoded() -> TokenRows:
        encodings.append(TokenRows.of([ROWS]))
        return encodings[-1]

    return shared_rows(texts, tokenizer, frame, encoded)


def test_the_same_texts_are_encoded_once(tokenizer, encodings):
    first = shared(tokenizer, encodings)
    assert shared(tokenizer, encodings, list(TEXTS)) is first
    for texts, frame in ((("a b", "c", "d e"), ""), (("a ", "bc", "d e a"), ""), (TEXTS, "x")):
        assert shared(tokenizer, encodings, texts, frame) is not first
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["d e"])
    assert shared(tokenizer, encodings) is not first
    assert len(encodings) == 5
    assert shared(tokenizer, encodings, TEXTS[:2]) is encodings[-1]  # few: not shared
    assert shared(tokenizer, encodings, TEXTS[:2]) is encodings[-1]
    assert len(encodings) == 7


def test_processes_read_what_one_stored(tokenizer, encodings, tmp_path, monkeypatch):
    def in_another_process() -> list[list[int]]:
        monkeypatch.setattr(rows_module, "_known", WeakValueDictionary())
        with rows_stored_in(tmp_path / "encoded"):
            rows = shared(tokenizer, encodings)
        assert not rows.flat.flags.writeable
        return [rows[i].tolist() for i in range(len(rows))]

    assert in_another_process() == in_another_process() == ROWS
    assert len(encodings) == 1
    (file,) = (tmp_path / "encoded").iterdir()
    for damage in (file.read_bytes()[:-4], b"", b"other"):
        file.write_bytes(damage)
        assert in_another_process() == ROWS
    np.save(file, np.array([1, 2], np.int32))
    assert in_another_process() == ROWS
    assert len(encodings) == 5
    with rows_stored_in(None):
        shared(tokenizer, encodings, ("x", "y", "z"))
    assert [*(tmp_path / "encoded").iterdir()] == [file]


@pytest.mark.usefixtures("encodings")
def test_environments_share_the_ids_of_a_tokenizer_of_ones_own(tokenizer):
    prompts, tokenizer = PromptSet(TEXTS), copy.deepcopy(tokenizer)
    envs = [TokenGenerationEnv(tokenizer=tokenizer, prompts=prompts) for _ in range(2)]
    tokenizer.add_tokens(["zebra"])
    envs.append(TokenGenerationEnv(tokenizer=tokenizer, prompts=prompts))
    first, second, other = (env._mdp.table.rows[0] for env in envs)
    assert envs[0]._mdp is not envs[1]._mdp
    assert np.shares_memory(first, second)
    assert not np.shares_memory(first, other)
