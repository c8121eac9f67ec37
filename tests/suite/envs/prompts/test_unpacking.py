"""Small files that become large: refused with the limit before they are read."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokengym.envs import DatasetError, load_prompts
from tokengym.envs.prompts import datasets
from tokengym.envs.prompts.datasets import check_parquet
from tokengym.rewards import read_pairs

SAME = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), ["x" * 4000])
ONE = [{"role": "user", "content": "x" * 40_000}]


@pytest.fixture(autouse=True)
def ten_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_UNPACKED_BYTES", 10**7)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (SAME, {}),
        (SAME.cast(pa.string()), {"use_dictionary": False, "compression": "zstd"}),
        (
            SAME.cast(pa.string()),
            {"use_dictionary": False, "column_encoding": {"prompt": "DELTA_BYTE_ARRAY"}},
        ),
        (pa.array([ONE] * 400), {}),
        (pa.array([1] * 2_000_000, pa.int8()), {}),
        (pa.array([None] * 2_000_000), {}),
        (pa.array([b"x" * 1000] * 20_000, pa.binary(1000)), {}),
        (pa.array([[("a", "x" * 1000)]] * 20_000, pa.map_(pa.string(), pa.string())), {}),
    ],
    ids=["dictionary", "zeros", "prefixes", "nested", "numbers", "nothing", "fixed", "map"],
)
def test_a_parquet_file_is_measured_before_it_is_read(tmp_path, values, options, monkeypatch):
    path = tmp_path / "small.parquet"
    pq.write_table(pa.table({"prompt": values}), path, **options)
    assert path.stat().st_size < 300_000
    monkeypatch.setattr("datasets.load_dataset", pytest.fail)
    monkeypatch.setattr(pq, "read_table", pytest.fail)
    message = rf"small\.parquet', {path.stat().st_size} bytes.*10000000 bytes"
    for read in (load_prompts, read_pairs):
        with pytest.raises(DatasetError, match=rf"{message}.*yourself"):
            read(path)


def test_what_is_within_the_limit_passes(tmp_path, monkeypatch):
    table = pa.table({"prompt": SAME.slice(0, 1000), "n": range(1000), "chat": [ONE[:0]] * 1000})
    pq.write_table(table, tmp_path / "a.parquet")
    check_parquet(tmp_path / "a.parquet")
    encodings = {"prompt": "DELTA_LENGTH_BYTE_ARRAY", "other": "DELTA_BYTE_ARRAY"}
    texts = pa.table({"prompt": [f"x{i}" for i in range(1000)], "other": ["y"] * 1000})
    path = tmp_path / "b.parquet"
    pq.write_table(texts, path, use_dictionary=False, column_encoding=encodings)
    check_parquet(tmp_path / "b.parquet")
    monkeypatch.setattr(datasets, "MAX_UNPACKED_BYTES", 10)
    check_parquet(tmp_path / "b.parquet")  # no more than 20 times its size


def test_a_gzipped_file_is_read_to_the_limit_only(tmp_path):
    path = tmp_path / "small.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "' + b"x" * 11_000_000 + b'"}\n'))
    with pytest.raises(DatasetError, match=r"10000000 bytes.*gunzip"):
        load_prompts(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv.xz", b"", r"unpack.*\.csv"),
        ("a.zip", b"", "unpack"),
        ("a.csv", b"PK\3\4 all of it is text", "zip archive"),
        ("a.csv.gz", gzip.compress(b"prompt\na\n", mtime=0)[:-9] + b"\0" * 9, "cannot be read"),
    ],
)
def test_other_archives_are_refused_here(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        load_prompts(tmp_path / name)
