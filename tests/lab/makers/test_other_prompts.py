"""A bundle with other prompts: what was written is read."""

import json

from tokengym.lab.makers.other_prompts import read_prompts, with_prompts


def test_prompts_may_hold_any_end_of_line(tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    rows = [{"prompt": text, "split": "train"} for text in ("a\u2028b", "c\x85d", "e\x0bf")]
    lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (bundle / "prompts.jsonl").write_text(lines, encoding="utf-8")
    assert read_prompts(bundle) == rows
    assert read_prompts(with_prompts(bundle, rows[1:], tmp_path / "other")) == rows[1:]
