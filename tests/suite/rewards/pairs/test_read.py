# mypy: no-check-untyped-defs
"""Preference pairs: what is read, how dialogues are split, which rows are refused and why."""

from typing import Any

import datasets
import pytest

from tests.support.rewards.read import DIALOGUE, PROMPT, ROW
from tokengym.envs import DatasetError
from tokengym.rewards import PreferencePair, read_labels, read_pairs
from tokengym.rewards.pairs.encode import TextEncoding, pair_rows

SPLIT = PreferencePair(prompt=PROMPT, chosen=" Yes, yes", rejected=" Yes, no")
PAIR = PreferencePair(prompt="a", chosen=" b", rejected=" c", margin=0.5)


def test_pairs_with_and_without_a_prompt():
    assert read_pairs([ROW]).pairs == (PAIR,)
    assert read_pairs([DIALOGUE]).pairs == (SPLIT,)
    plain = PreferencePair(prompt="", chosen="b c", rejected="b d")
    assert read_pairs([{"chosen": "b c", "rejected": "b d"}]).pairs == (plain,)
    assert read_pairs([PAIR, plain]).pairs == (PAIR, plain)
    pairs = read_pairs(datasets.Dataset.from_list([ROW]))
    assert pairs.pairs == (PAIR,)
    assert read_pairs(pairs) is pairs


def test_columns_by_other_names():
    rows = [{"question": "a", "prompt": "p", "yes": " b", "no": " c", "by": 2}]
    (pair,) = read_pairs(
        rows,
        prompt_column="question",
        chosen_column="yes",
        rejected_column="no",
        margin_column="by",
    )
    assert pair == PreferencePair(prompt="a", chosen=" b", rejected=" c", margin=2.0)


def test_a_csv_file_with_a_gap(tmp_path):
    datasets.Dataset.from_list([ROW, {**ROW, "margin": None}]).to_csv(tmp_path / "pairs.csv")
    without = PreferencePair(prompt="a", chosen=" b", rejected=" c")
    assert read_pairs(tmp_path / "pairs.csv").pairs == (PAIR, without)


def test_numbers_of_a_csv_file_are_texts(tmp_path):
    (tmp_path / "a.csv").write_text(
        "prompt,chosen,rejected,margin\n2 + 2 =,04,5,1\n1 + 1 =,2,3,2\n"
    )
    pairs = read_pairs(tmp_path / "a.csv")
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("04", "5"), ("2", "3")]
    assert [pair.margin for pair in pairs] == [1.0, 2.0]


def test_a_data_set_with_splits():
    table = datasets.Dataset.from_list([ROW])
    both = datasets.DatasetDict(train=table, test=datasets.Dataset.from_list([DIALOGUE]))
    assert read_pairs(both, split="test").pairs == (SPLIT,)
    assert read_pairs(datasets.DatasetDict(train=table)).pairs == (PAIR,)
    for split in (None, "dev"):
        with pytest.raises(DatasetError, match=rf"split={split!r}.*'train', 'test'"):
            read_pairs(both, split=split)


BAD_ROWS: dict[str, list[Any]] = {
    "empty": [
        ({**ROW, "chosen": None}, r"'chosen' is empty, got None"),
        ({**ROW, "rejected": " "}, "'rejected' is empty, got ' '"),
        ({**ROW, "prompt": None}, r"'prompt' is empty, got None"),
        ({"chosen": PROMPT, "rejected": DIALOGUE["rejected"]}, "'chosen' is empty, got ''"),
    ],
    "not text": [
        ({**ROW, "chosen": [{"role": "user"}]}, r"text, got list.*first row"),
        ({**ROW, "chosen": "a\ud800"}, r"'chosen'.*surrogate.*character 1"),
    ],
    "equal": [({**ROW, "rejected": " b "}, r"'chosen' and 'rejected' are both ' b'")],
    "no shared prompt": [
        (
            {"chosen": DIALOGUE["chosen"], "rejected": "\n\nHuman: Ho\n\nAssistant: No"},
            r"character 10, .*'Assistant:' \(characters 50 and 23\)",
        ),
        ({"chosen": DIALOGUE["chosen"], "rejected": "No"}, "part at character 0"),
    ],
    "margin": [
        ({**ROW, "margin": -1.0}, r"'margin'.*got -1\.0"),
        ({**ROW, "margin": float("nan")}, "1,000,000, got nan"),
        ({**ROW, "margin": "much"}, r"'margin'.*got 'much'"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [(kind, row, message) for kind, rows in BAD_ROWS.items() for row, message in rows],
)
def test_a_bad_row_is_named_or_skipped(kind, row, message):
    good = ROW if "prompt" in row else DIALOGUE
    with pytest.raises(DatasetError, match=rf"row 1.*{message}.*on_error='skip'"):
        read_pairs([good, row])
    pairs = read_pairs([row, good], on_error="skip")
    assert (len(pairs), pairs.rows, pairs.skip_counts()) == (1, (1,), {kind: 1})
    assert pairs.skipped[0].row == 0
    assert pairs.report() == f"2 rows, 1 pairs, 1 skipped (1 {kind})"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "have 0 rows"),
        ([{"chosen": "a"}], {}, "rejected_column='rejected'.*'chosen'"),
        ([ROW], {"prompt_column": "x"}, "prompt_column='x'.*'prompt', 'chosen'"),
        ([ROW], {"margin_column": "x"}, "margin_column='x'"),
        ([ROW], {"on_error": "ignore"}, r"on_error.*got 'ignore'"),
        ([{**ROW, "chosen": ""}], {"on_error": "skip"}, r"1 rows, 0 pairs.*row 0"),
    ],
)
def test_what_makes_no_pairs(source, options, message):
    with pytest.raises(DatasetError, match=message):
        read_pairs(source, **options)


@pytest.mark.parametrize("row", ["[1]", '{"chosen": "a \\ud800"}', "[" * 5000])
@pytest.mark.parametrize("place", [0, 1])
def test_json_that_is_no_row_is_named(tmp_path, row, place):
    rows = ['{"chosen": "a", "rejected": "b"}', '{"chosen": "c", "rejected": "d"}']
    rows.insert(place, row)
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(rows) + "\n")
    where = rf"row {place} of the pairs|line 2, byte 4: Extra data|maximum recursion depth"
    with pytest.raises(DatasetError, match=where):
        read_pairs(file)


def test_what_is_marked_is_not_read_and_counted_once():
    rows: list[dict[str, Any]] = [{"text": text, "label": 1} for text in ("a", "", "b")]
    rows[1]["train"] = False
    for on_error in ("raise", "skip"):
        labels = read_labels(rows, on_error=on_error)
        assert [skipped.kind for skipped in labels.skipped] == ["marked"]
    pairs = [{"prompt": "p", "chosen": c, "rejected": "b", "margin": 1.0} for c in ("x", "y")]
    pairs[1] |= {"margin": "none", "train": 0}
    assert [one.kind for one in read_pairs(pairs).skipped] == ["marked"]


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"train": False}, {"trainable": 0}, {"loss_mask": 0}, {"loss": False}]
)
def test_pairs_that_are_marked_are_left_out_and_counted(mark):
    """By an entry of the row, or of a message of either response; a prompt's is of its history."""
    (name,) = mark
    texts = [{"prompt": "a", "chosen": text, "rejected": "b", name: 1} for text in ("x", "y", "z")]
    texts[1] |= mark
    pairs = read_pairs(texts)
    assert [pair.chosen for pair in pairs] == ["x", "z"]
    assert pairs.report() == "3 rows, 2 pairs, 1 skipped (1 marked)"
    assert "row 1 of the pairs is marked as not to be learned" in pairs.skipped[0].reason
    ids = [{"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7], **mark}]
    ids.append({**ids[0], name: 1})
    assert [example.row for example in pair_rows(ids, TextEncoding())[0]] == [1]
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **mark}]
    asked.append({"role": "user", "content": "c"})
    good, bad = ([{"role": "assistant", "content": text}] for text in ("good", "bad"))
    rows = [
        {"prompt": asked, "chosen": good, "rejected": bad},
        {"prompt": asked, "chosen": [{**good[0], **mark}], "rejected": bad},
        {"prompt": asked, "chosen": good, "rejected": [{**bad[0], **mark}]},
        {"chosen": [*asked, {**good[0], name: 1}], "rejected": [*asked, *bad], "prompt": None},
    ]
    pairs = read_pairs(rows)
    assert pairs.rows == (0, 3)
    for pair in pairs:  # no template is given a mark
        assert all(name not in m for chat in (pair.messages, *pair.replies) for m in chat)
        assert [m["content"] for m in pair.messages] == ["a", "b", "c"]
    labels = read_labels([{"text": "x", "label": 0}, {"text": "y", "label": 1, **mark}])
    assert [pair.rejected for pair in labels] == ["x"]


def test_a_column_that_is_named_for_something_else_is_no_mark():
    row = {"prompt": "a", "chosen": "x", "rejected": "y", "weight": 0.5}
    (pair,) = read_pairs([row], margin_column="weight")
    assert pair.margin == 0.5
    with pytest.raises(DatasetError, match="'weight' must be 0 or 1, got"):
        read_pairs([row])
    assert len(read_labels([{"text": "x", "train": False}], label_column="train")) == 1


def test_pairs_that_repeat_or_contradict_others_are_counted(caplog):
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    read_pairs([row, row, row, {"prompt": "a", "chosen": "c", "rejected": "b"}])
    assert "of 4 pairs 2 repeat another and 2 have the responses of another" in caplog.text


def test_a_column_that_a_file_has_twice_is_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected,chosen\na,b,c,d\n")
    with pytest.raises(DatasetError, match="the column 'chosen' twice"):
        read_pairs(tmp_path / "pairs.csv")
