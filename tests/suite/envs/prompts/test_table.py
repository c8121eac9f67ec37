"""Prompt sets as columns, and their token ids in one array."""

import pickle
from typing import Any

import numpy as np
import pytest

from tokengym.base.prompt import PromptColumns
from tokengym.envs import Prompt, PromptError, PromptSet, TokenizerError
from tokengym.envs.prompts.table import PromptTable, TokenRows, _say_dropped
from tokengym.envs.prompts.tokenization import encode

TEXTS = ("a b c", "d", "a a", "e d c b a")


def table(tokenizer: Any, width: int | None = None, overlong: Any = "error") -> PromptTable:
    return PromptTable(
        PromptSet(TEXTS), tokenizer, max_prompt_tokens=width, overlong=overlong, chat_template=False
    )


def test_an_encoded_prompt_with_other_annotations_is_another_prompt(tokenizer):
    rows = table(tokenizer)
    assert rows.encode(rows[1]) == rows[1]
    other = rows.encode(rows[1]._replace(reference="r", metadata={"k": 1}))
    assert (other.prompt_id, other.reference, other.metadata) == (-1, "r", {"k": 1})
    assert other.ids == rows[1].ids
    arrays = rows[1]._replace(metadata={"k": np.arange(2)})
    assert rows.encode(arrays).prompt_id == -1


def test_columns_are_the_prompts_that_they_stand_for():
    types: list[Any]
    references, types, levels = ["r", None], ["OPENENDED", None], [{"deep": [1]}, {"deep": []}]
    built = PromptSet(
        Prompt(text, reference, query_type, {"level": level})
        for text, reference, query_type, level in zip("ab", references, types, levels, strict=True)
    )
    columns = PromptColumns(
        texts=("a", "b"), references=references, query_types=types, metadata={"level": levels}
    )
    lazily = PromptSet.of_columns(columns)
    assert lazily == built
    assert hash(lazily) == hash(built)
    assert pickle.loads(pickle.dumps(lazily)) == built
    assert lazily.select([1]) == built.select([1]) == built[1:] == lazily[-1:]
    assert lazily.with_texts(["c", "d"]) == built.with_texts(["c", "d"]) != built
    assert lazily.num_conversations == built.num_conversations == 0
    for prompts in (lazily, built):
        with pytest.raises(PromptError, match="got ' '"):
            prompts.with_texts(["c", " "])
        for texts in (["c"], ["c", "d", "e"]):
            with pytest.raises(PromptError, match=rf"must be 2.*got {len(texts)}"):
                prompts.with_texts(texts)
        with pytest.raises(PromptError, match="0 prompts"):
            prompts.select([])


def test_rows_of_ids_pad_to_the_left():
    rows = TokenRows.of([[[1, 2, 3], [4]], [[5, 6]]])
    ids, mask = rows.padded([2, 0, -1, 1], 3, 9)
    assert ids.tolist() == [[9, 5, 6], [1, 2, 3], [9, 5, 6], [9, 9, 4]]
    assert mask.tolist() == [[False, True, True], [True] * 3, [False, True, True], [0, 0, 1]]
    kept = rows.select(np.array([0, 2]))
    assert (len(kept), kept.lengths.tolist(), kept[1].tolist()) == (2, [3, 2], [5, 6])


def test_prompts_are_those_of_the_tokenizer(tokenizer):
    whole = [tuple(ids) for ids in encode(tokenizer, TEXTS)]
    assert [entry.ids for entry in table(tokenizer).take([0, 1, 2, 3, -1])] == [*whole, whole[3]]
    assert table(tokenizer)[-1].prompt_id == 3
    assert table(tokenizer).find(whole[2]) == table(tokenizer)[2]
    assert table(tokenizer).find([1, 2, 3, 1, 2]) is None
    left = table(tokenizer, 2, "left")
    assert [left[i].ids for i in range(4)] == [ids[-2:] for ids in whole]
    drop = table(tokenizer, 2, "drop")
    assert [drop[i].text for i in range(len(drop))] == ["d", "a a"]
    assert drop.padded([1])[0].tolist() == [list(whole[2])]
    with pytest.raises(PromptError, match=r"0.*3.*max_prompt_tokens=2"):
        table(tokenizer, 2)


def test_it_is_said_once_how_many_prompts_are_dropped(tokenizer, caplog):
    _say_dropped.cache_clear()
    for _ in range(2):  # an environment is made several times
        table(tokenizer, 2, "drop")
    (said,) = caplog.messages
    assert said.startswith("2 of 4 prompts are longer than max_prompt_tokens=2")


def test_the_first_faulty_prompt_is_named(tokenizer, monkeypatch):
    faulty = {"d": [], "a a": [10**6], "e d c b a": []}

    def encoded(_: Any, texts: Any) -> list[list[int]]:
        return [faulty.get(text, [1]) for text in texts]

    monkeypatch.setattr("tokengym.envs.prompts.table.encode", encoded)
    with pytest.raises(PromptError, match=r"prompt 1 \('d'\) has no"):
        table(tokenizer)
    faulty["d"] = [1]
    with pytest.raises(TokenizerError, match=r"prompt 2 \('a a'\).*1000000"):
        table(tokenizer)
