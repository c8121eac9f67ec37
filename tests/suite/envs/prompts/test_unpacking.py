"""Small files that become large: refused with the limit before they are read."""

import gzip
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from tokengym.envs import DatasetError, load_prompts
from tokengym.envs.prompts import datasets

ONE = [{"role": "user", "content": "x" * 40_000}]


@pytest.fixture(autouse=True)
def ten_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_UNPACKED_BYTES", 10**7)


@pytest.mark.parametrize("is_large", [True, False])
@pytest.mark.parametrize("kind", ["texts", "nothing", "nested"])
def test_a_parquet_file_is_measured_before_it_is_read(tmp_path, kind, is_large, monkeypatch):
    kinds: Any = {"texts": ["x" * 40_000], "nothing": [None] * 5_000, "nested": [ONE]}
    path = tmp_path / "small.parquet"
    table = pa.table({"prompt": kinds[kind] * (400 if is_large else 10)})
    pq.write_table(table, path, use_dictionary=False, compression="zstd")
    assert path.stat().st_size < 300_000
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Dataset.from_list([{"a": "b"}]))
    if is_large:
        with pytest.raises(DatasetError, match=r"small\.parquet', .* 10000000 bytes.*yourself"):
            load_prompts(path)
    else:
        assert load_prompts(path, split="all").texts == ("b",)


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
