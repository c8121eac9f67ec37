"""Models and texts that ship are those of the manifest, which says the commit that built them."""

import hashlib
import re
from pathlib import Path

BASE = Path(__file__).parents[2] / "base"
MANIFEST = BASE / "assets.sha256"


def test_every_shipped_file_has_the_hash_of_the_manifest() -> None:
    lines = MANIFEST.read_text(encoding="utf-8").splitlines()
    assert re.search(r"at commit [0-9a-f]{40}", lines[0])
    listed = {
        name: digest
        for digest, _, name in (line.partition("  ") for line in lines if line[0] != "#")
    }
    shipped = {
        path.relative_to(BASE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (BASE / "assets").rglob("*")
        if path.is_file()
    }
    assert listed == shipped
