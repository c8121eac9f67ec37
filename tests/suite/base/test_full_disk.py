"""A disk that takes no more is one line, and what was complete stays."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from tokengym.base.errors import StorageError
from tokengym.base.files import replacing, write_text, writing
from tokengym.base.folders import locked

resource = pytest.importorskip("resource")  # which Windows lacks


@contextmanager
def most_bytes(limit: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def by_safetensors(path):
    save_file({"weight": torch.zeros(100_000)}, path)


def by_torch(path):
    torch.save(torch.zeros(100_000), path)


def by_python(path):
    path.write_bytes(bytes(400_000))


@pytest.mark.parametrize("write", [by_safetensors, by_torch, by_python])
def test_full_disk_is_one_line_with_path_and_remedy(tmp_path, write):
    file = tmp_path / "weights"
    write_text(file, "before")
    with pytest.raises(StorageError) as caught, most_bytes(100_000), replacing(file) as part:
        write(part)
    assert str(caught.value).startswith(f"cannot write {file}: ")
    assert "free some space" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_a_full_disk_takes_no_lock_and_keeps_no_trace(tmp_path):
    with (
        pytest.raises(StorageError, match=r"cannot write.*space"),
        most_bytes(0),
        locked(tmp_path / "new"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_other_faults_pass(tmp_path):
    for fault in (FileNotFoundError(2, "gone"), RuntimeError("shape"), ValueError("value")):
        with pytest.raises(type(fault)) as caught, writing(tmp_path):
            raise fault
        assert caught.value is fault
