"""Prompts out of every kind of data set, read from files written here."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import gymnasium as gym
import pandas
import pytest

import tokengym  # noqa: F401
from tokengym.base.prompt import Prompt, PromptSet
from tokengym.envs import DatasetError, Episode, SettingsError, load_prompts
from tokengym.envs.prompts.loading import first_tokens

ROWS = [
    {"question": f"what is {i} ?", "answer": f"it is {i}", "kind": "CONSTRAINED" if i % 2 else ""}
    for i in range(20)
]
COLUMNS = {"prompt_column": "question", "reference_column": "answer", "query_type_column": "kind"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write(path: Path) -> Path:
    table = datasets.Dataset.from_list(ROWS)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        table.to_parquet(path)
        return path
    lines = {
        ".csv": ["question,answer,kind", *(",".join(row.values()) for row in ROWS)],
        ".tsv": ["question\tanswer\tkind", *("\t".join(row.values()) for row in ROWS)],
        ".jsonl": [json.dumps(row) for row in ROWS],
        ".json": [json.dumps(ROWS)],
    }[Path(name).suffix]
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "a.jsonl.gz", "a.csv.gz"]
)
def test_every_kind_of_file(name, tmp_path):
    prompts = load_prompts(write(tmp_path / name), **COLUMNS, split="all")  # type: ignore[arg-type]
    assert prompts.texts == tuple(row["question"] for row in ROWS)
    assert prompts[3] == Prompt("what is 3 ?", "it is 3", "CONSTRAINED")
    assert prompts[4].query_type is None


def test_further_columns_reach_the_episode(tmp_path):
    rows = [{"prompt": f"what is {i} ?", "item": {"digits": [i, i]}, "level": i} for i in range(20)]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = gym.make(
        "tokengym/QuestionAnswer-v0",
        dataset=path,
        metadata_columns=["item", "level"],
        split="all",
        prompt_tokens=4,
        max_new_tokens=1,
        reward="uniform",
        scorer=lambda prompt, response: 0.0,
    )
    env.reset(options={"prompt_id": 3})
    episode = Episode.from_info(env.step(5)[4])
    assert episode.metadata == {"item": {"digits": [3, 3]}, "level": 3}
    with pytest.raises(SettingsError, match=r"metadata_columns=\('level',\)"):
        gym.make("tokengym/QuestionAnswer-v0", metadata_columns=["level"])


def test_dataset_objects_and_saved_folders(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    assert load_prompts(table, prompt_column=0, split="all").texts[0] == "what is 0 ?"
    table.save_to_disk(tmp_path / "saved")
    saved = load_prompts(str(tmp_path / "saved"), prompt_column="question", split="all")
    assert len(saved) == 20


def test_headerless_files_take_positions(tmp_path):
    path = tmp_path / "reviews.tsv"
    path.write_text('a lone " quote\t1\nnil\t0\nNA\t1\n', encoding="utf-8")
    prompts = load_prompts(path, prompt_column=0, split="all")
    assert prompts.texts == ('a lone " quote', "nil", "NA")


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_a_tsv_is_read_as_a_csv_is(tmp_path, suffix, separator):
    path = tmp_path / f"a.{suffix}"
    texts = ("a\nb", 'the "good" film', "plain")
    frame = pandas.DataFrame({"prompt": texts, "answer": ["1", "2", "3"]})
    frame.to_csv(path, sep=separator, index=False)
    assert load_prompts(path, split="all").texts == texts
    path.write_text(f'prompt{separator}n\n"lone{separator}1\nnil{separator}0\n')
    with pytest.raises(DatasetError, match=r"line 3: .*; put a text that begins"):
        load_prompts(path, split="all")


def test_lines_of_text(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffonce upon\na time\n", encoding="utf-8")  # a byte order mark
    assert load_prompts(path, split="all").texts == ("once upon", "a time")


def test_the_split_is_fixed_disjoint_and_blind_to_order():
    texts = [f"text {i % 30}" for i in range(60)]

    def split(order: list[str], name: Any) -> set[str]:
        return set(load_prompts(datasets.Dataset.from_dict({"x": order}), split=name).texts)

    train, test = split(texts, "train"), split(texts, "test")
    assert (len(train), len(test)) == (27, 3)
    assert not train & test
    assert split(texts[::-1], "test") == test
    assert split(texts, "all") == train | test


def test_splits_of_its_own_are_kept():
    def table(*texts: str) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"prompt": texts})

    own = datasets.DatasetDict(train=table("a", "b"), validation=table("c"), test=table("d"))
    assert load_prompts(own, split="test").texts == ("d",)
    assert load_prompts(own).texts == ("a", "b")
    assert load_prompts(own, split="all").texts == ("a", "b", "c", "d")
    del own["test"]
    assert load_prompts(own, split="test").texts == ("c",)
    del own["validation"]
    own["extra"] = table("e")
    with pytest.raises(DatasetError, match=r"'test'.*'train', 'extra'.*split="):
        load_prompts(own, split="test")


def test_first_tokens_cut_the_text_itself(tokenizer):
    prompts = PromptSet(["a  b c d", Prompt("d", reference="r"), "e e e e e e"])
    assert first_tokens(prompts, 2, tokenizer).texts == ("a  b", "d", "e e")
    assert first_tokens(prompts, 2, tokenizer)[1].reference == "r"
    drawn = first_tokens(PromptSet(["a b c d e"] * 200), (2, 4), tokenizer)
    assert {len(text.split()) for text in drawn.texts} == {2, 3, 4}
    assert drawn == first_tokens(PromptSet(["a b c d e"] * 200), (2, 4), tokenizer)
    for bad in (0, (3, 2), (1, 2, 3)):
        with pytest.raises(SettingsError, match=r"1 <= low <= high, got"):
            first_tokens(prompts, bad, tokenizer)


def test_cutting_comes_before_splitting(tokenizer):
    texts = [f"{a} {b} {c}" for a in "abcde" for b in "abcde" for c in "abcde"]
    table = datasets.Dataset.from_dict({"prompt": texts})
    cut = {
        split: set(load_prompts(table, split=split, prompt_tokens=2, tokenizer=tokenizer).texts)
        for split in ("train", "test")
    }
    assert (len(cut["train"]), len(cut["test"])) == (23, 2)
    assert not cut["train"] & cut["test"]


def table(**columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("source", "columns", "message"),
    [
        (ROWS, {}, "'question', 'answer'.* by prompt_column="),
        (
            ROWS,
            {"prompt_column": "text"},
            "prompt_column='text' is no column of the data set; .*'question', 'answer'",
        ),
        (ROWS, {"prompt_column": 3}, "prompt_column=3 is no position of a column of the data set"),
        (ROWS, {"prompt_column": 0, "reference_column": "gold"}, "reference_column='gold'"),
        (ROWS, {"prompt_column": 0, "query_type_column": "answer"}, "0.*query_type.*'it.*0'"),
        (ROWS, {"prompt_column": 0, "metadata_columns": ["lvl"]}, "metadata_columns='lvl'"),
        (table(x=[1, 2]), {}, r"row 0 .*'x' must be a text, got int 1; .*columns 'x'"),
        (table(x=[["a"], ["b"]]), {}, r"row 0 .*'x' must be a text, got list \['a'\]"),
        (table(x=["a", None]), {}, "1.*'x'.*got None"),
        (table(x=["a", " "]), {}, "1.*'x'.*got ' '"),
        (table(x=[]), {}, "has 0 rows"),
        (table(x=["a", "a"]), {}, r"1 distinct prompt.*split="),
        ("none.csv", {}, r"'none\.csv' does not exist"),
        ("nobody/nothing", {}, "'nobody/nothing' cannot"),
        (["a"], {}, r"got list.*Dataset\.from_list.*prompts="),
        ([{}], {}, "1 rows and no columns"),
        ({"train": "a.csv"}, {}, "got str"),
    ],
)
def test_bad_columns_and_rows(source, columns, message):
    with pytest.raises(DatasetError, match=message):
        load_prompts(source, **columns)


@pytest.mark.parametrize("options", [{"split": "dev"}, {"prompt_tokens": 2}])
def test_bad_options(options):
    ((name, value),) = options.items()
    with pytest.raises(SettingsError, match=rf"{name}.*{value}"):
        load_prompts(ROWS, prompt_column=0, **options)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "it is empty, 0 bytes"),
        ("a.csv", b"prompt\n", "it has a header and no rows"),
        (
            "a.csv",
            "prompt\na\ncaf\u00e9\n".encode("latin-1"),
            r"line 3: byte 12, 0xe9, is not UTF-8",
        ),
        ("a.csv", "prompt\na b\n".encode("utf-16"), "it is UTF-16"),
        ("a.json", b'[{"prompt": "a"}, {"prompt": ]', "line 1, byte 29: Expecting value"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "b"\n', "line 2, byte 30: Expecting"),
        (
            "a.csv",
            b"prompt,answer\n\nHello, world,2\nGood, day,4\n",
            "line 3 has 3 fields, its header 2",
        ),
        ("a.csv", b"prompt,answer\na,1,\nb,2,\n", "line 2 has 3 fields, its header 2"),
        ("a.tsv", b"prompt\tanswer\nHello\tworld\t2\n", "line 2 has 3 fields, its header 2"),
        (
            "a.csv",
            b"prompt,answer\nOne,1\n\nTwo\nlines,2\n",
            "line 4 has 1 fields, its header 2",
        ),
        ("a.json", b"[{}]", "1 rows and no columns"),
        ("a.csv", b"prompt;answer\na;1\nc;2\n", "by ',', not by ';'"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_with_its_place(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=rf"{name}' cannot be read .*{message}") as caught:
        load_prompts(tmp_path / name, split="all")
    assert "\n" not in str(caught.value)


def test_rows_with_empty_fields_are_as_wide_as_the_header(tmp_path):
    long = "a" * 140_000  # more than the csv module reads by default
    (tmp_path / "a.csv").write_text(f'prompt,answer\n{long},1\n\n  \n"Two\nlines",\n')
    assert load_prompts(tmp_path / "a.csv", split="all").texts == (long, "Two\nlines")


@pytest.mark.parametrize("word", ["NaN", "None", "null"])
def test_words_for_a_missing_value_are_no_prompts(tmp_path, word):
    (tmp_path / "a.csv").write_text(f"prompt\na\n{word}\n", encoding="utf-8")
    with pytest.raises(
        DatasetError, match=f"row 1 of the data set: 'prompt' is '{word}', which stands for"
    ):
        load_prompts(tmp_path / "a.csv", split="all")
    (tmp_path / "a.jsonl").write_text(f'{{"prompt": "{word}"}}\n', encoding="utf-8")
    assert load_prompts(tmp_path / "a.jsonl", split="all").texts == (word,)


def test_a_number_among_texts_of_a_long_file_stays_too(tmp_path):
    """pandas itself reads a long file in parts, whose columns have types of their own."""
    rows = [f"q{i},{'word' if i < 70_000 else '007'}{',x' * 6}" for i in range(140_000)]
    (tmp_path / "long.csv").write_text("\n".join(["prompt,answer,a,b,c,d,e,f", *rows]))
    prompts = load_prompts(
        tmp_path / "long.csv", prompt_column="prompt", reference_column="answer", split="all"
    )
    assert {prompt.reference for prompt in prompts[70_000:]} == {"007"}


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("prompt,reference,level", {"named_columns": [("reference", True)]}),
        ("asked,answer,level", {"prompt_column": "asked", "reference_column": "answer"}),
        (None, {"prompt_column": 0, "reference_column": 1}),
    ],
)
def test_numbers_of_a_csv_file_are_texts_in_columns_of_texts(tmp_path, header, columns):
    """Answers to sums: they were read as numbers and refused, and 007 would have been 7."""
    rows = ["12,007,1", "13,1.50,2", "1e3,3,3"]
    (tmp_path / "a.csv").write_text("\n".join([*([header] if header else []), *rows]))
    level: Any = "level" if header else 2
    prompts = load_prompts(tmp_path / "a.csv", metadata_columns=[level], split="all", **columns)
    assert prompts.texts == ("12", "13", "1e3")
    assert [prompt.reference for prompt in prompts] == ["007", "1.50", "3"]
    assert [[*prompt.metadata.values()] for prompt in prompts] == [[1], [2], [3]]


def test_an_only_column_and_integers_of_more_than_64_bits_stay_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("question\n12\n013\n")
    assert load_prompts(tmp_path / "a.csv", split="all").texts == ("12", "013")
    (tmp_path / "a.csv").write_text("prompt,id\na,12345678901234567890123\nb,7\n")
    prompts = load_prompts(tmp_path / "a.csv", metadata_columns=["id"], split="all")
    assert [prompt.metadata["id"] for prompt in prompts] == ["12345678901234567890123", "7"]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_values_of_json_stay_as_they_are_written(tmp_path, suffix):
    mixed: list[Any] = [7, "007", None, True, {"y": 1}, {"z": "2"}, [1, "2"], 0.5]
    rows = [
        {"prompt": f"q{i}", "date": f"2020-01-0{i + 1}", "x": x, "deep": {"x": [x]}}
        for i, x in enumerate(mixed)
    ]
    rows[0]["first"] = "2020-01-01T00:00:00"
    text = json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows))
    path = tmp_path / f"a.{suffix}"
    path.write_text(text)
    columns = [*rows[0]]
    prompts = load_prompts(
        path, prompt_column="prompt", reference_column="date", metadata_columns=columns, split="all"
    )
    assert [dict(prompt.metadata) for prompt in prompts] == [{"first": None} | row for row in rows]
    assert [prompt.reference for prompt in prompts] == [row["date"] for row in rows]
    path.write_text(json.dumps({"prompt": "a", "x": 2**70}))
    (large,) = load_prompts(path, metadata_columns=["x"], split="all")
    assert large.metadata["x"] == 2**70  # more than the 64 bits of a table's integers


def test_a_table_keeps_its_users_choice_of_columns():
    chosen = table(prompt=["a", "b"], x=["c", "d"]).with_format("numpy", columns=["prompt"])
    assert sorted(load_prompts(chosen, split="all").texts) == ["a", "b"]


@pytest.mark.parametrize("form", ["numpy", "torch", "pandas", "arrow"])
def test_a_table_s_format_has_no_effect(form):
    chats = [[{"role": "user", "content": text}] for text in "ab"]
    table = datasets.Dataset.from_dict({"prompt": chats, "answer": ["x", None], "n": [[1, 2], [3]]})
    options: dict[str, Any] = {"reference_column": "answer", "metadata_columns": ["n"]}
    expected = load_prompts(table, **options, split="all")
    prompts = load_prompts(table.with_format(form), **options, split="all")
    assert list(prompts) == list(expected)
    assert [dict(prompt.metadata) for prompt in prompts] == [{"n": [1, 2]}, {"n": [3]}]


def test_a_table_s_transform_is_applied():
    table = datasets.Dataset.from_dict({"prompt": ["a", "b"]})
    table = table.with_transform(lambda rows: {"prompt": [text + "!" for text in rows["prompt"]]})
    assert sorted(load_prompts(table, split="all").texts) == ["a!", "b!"]


def test_a_folder_of_several_kinds_says_that_one_is_read(tmp_path, caplog):
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("rows.csv", "README.txt", "dataset_infos.json"):
        (folder / name).write_text("{}" if name.endswith("json") else "prompt\nof csv\nof it\n")
    assert len(load_prompts(folder, split="all")) == 2
    assert not caplog.messages
    (folder / "rows.jsonl").write_text('{"prompt": "of jsonl"}\n')
    load_prompts(folder, split="all")
    (said,) = caplog.messages
    assert (
        "1 of its 2 files are not read, rows.csv, since one kind alone is read, here .jsonl" in said
    )


@pytest.mark.parametrize(
    ("names", "read", "said"),
    [
        (("part1", "part2"), 2, None),
        (("train", "test"), 2, None),
        (("train", "extra"), 1, "1 of its 2 files are not read, extra.jsonl, since"),
        (("train", "test", "hard"), 2, "1 of its 3 files are not read, hard.jsonl, since"),
    ],
)
def test_files_of_a_folder_that_are_left_out_are_named(tmp_path, caplog, names, read, said):
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in names:
        (folder / f"{name}.jsonl").write_text(f'{{"prompt": "of {name}"}}\n')
    assert len(load_prompts(folder, split="all")) == read
    assert len(caplog.messages) == (said is not None)
    assert said is None or said in caplog.messages[0]
    # A README that says what is read leaves the rest out on purpose.
    front = '---\nconfigs:\n- config_name: a\n  data_files: "*.jsonl"\n---\n'
    (folder / "README.md").write_text(front)
    caplog.clear()
    assert len(load_prompts(folder, split="all")) == len(names)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("files", "read", "said"),
    [
        (
            {"train.jsonl": '{"prompt": "a"}', "extra.jsonl.gz": '{"prompt": "b"}'},
            "a",
            "1 of its 2 files are not read, extra.jsonl.gz, since others have a split",
        ),
        (
            {"a.CSV": "prompt\na", "b.csv": "prompt\nb"},
            "b",
            "1 of its 2 files are not read, a.CSV, since their suffix is in capitals",
        ),
        (
            {"a.jsonl": '{"prompt": "a"}', "b.ndjson": '{"prompt": "b"}'},
            "ab",
            None,
        ),
        ({"a.jsonl": '{"prompt": "a"}', "b.jsonl.gz": '{"prompt": "b"}'}, "ab", None),
        ({"a.json": '[{"prompt": "a"}]', "b.jsonl": '{"prompt": "b"}'}, "ab", None),
        (
            {"a.jsonl": '{"prompt": "a"}', "b.csv.gz": "prompt\nb"},
            "a",
            "1 of its 2 files are not read, b.csv.gz, since one kind alone is read, here .jsonl",
        ),
        (
            {"a.tsv": "prompt\na", "b.csv": "prompt\nb"},
            "ab",
            "its .csv and .tsv files are all split at ','; keep one kind",
        ),
    ],
)
def test_what_is_said_of_a_folder_is_what_is_read(tmp_path, caplog, files, read, said):
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, text in files.items():
        whole = f"{text}\n".encode()
        (folder / name).write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)
    assert "".join(sorted(load_prompts(folder, split="all").texts)) == read
    assert len(caplog.messages) == (said is not None), caplog.messages
    assert said is None or said in caplog.messages[0]


def test_hidden_files_of_a_folder_are_none_of_its_data(tmp_path, caplog):
    """A notebook's checkpoints and settings beside rows are left out in silence, as they should."""
    folder = tmp_path / ".cache" / "rows"
    for name in ("train.csv", ".ipynb_checkpoints/old.jsonl", "__made/old.csv", "config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("prompt\nof rows\n")
    assert [prompt.text for prompt in load_prompts(folder, split="all")] == ["of rows"]
    assert not caplog.messages
    (folder / "train.csv").unlink()
    with pytest.raises(DatasetError, match="rows"):
        load_prompts(folder, split="all")
