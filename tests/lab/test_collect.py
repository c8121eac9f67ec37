"""A collection can be stopped anywhere and ends with the same file."""

import math
from typing import Any

import pytest

from tokengym.evaluation.runs.config import TaskSettings
from tokengym.evaluation.runs.saved import load_agent
from tokengym.lab import collect
from tokengym.lab.collect import CollectionConfig, collect_to_file
from tokengym.rewards.pairs.store import load_pairs, load_responses


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(collect, "CHUNK", 4)


def config(**settings):
    defaults: dict[str, Any] = {
        "env": "MovieReview",
        "num_prompts": 10,
        "n": 4,
        "task": TaskSettings(max_new_tokens=8),
    }
    return CollectionConfig(**defaults | settings)


def test_stopped_collection_ends_with_the_same_file(tmp_path):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    found = collect_to_file(config(), whole)

    def stop(done):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_to_file(config(), stopped, report=stop)
    assert not stopped.exists()
    with pytest.raises(ValueError, match=r"other settings.*seed 0 there, 1 here.*delete it"):
        collect_to_file(config(seed=1), stopped)
    assert collect_to_file(config(), stopped) == found
    assert stopped.read_bytes() == whole.read_bytes()
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["stopped.jsonl", "whole.jsonl"]
    assert (found.prompts, found.responses, found.tokens) == (10, 40, 320)
    assert found.kept_score > found.score
    pairs = load_pairs(whole)
    assert len(pairs) == found.rows
    assert all(row["chosen_score"] > row["rejected_score"] for row in pairs)
    with pytest.raises(ValueError, match="is there already"):
        collect_to_file(config(), whole)


def test_all_responses_or_the_best(tmp_path):
    found = collect_to_file(config(keep="all", num_prompts=2, n=2), tmp_path / "all.parquet")
    rows = load_responses(tmp_path / "all.parquet")
    assert len(rows) == found.rows == 4
    assert found.kept_score == pytest.approx(found.score, abs=1e-6)
    assert not math.isnan(found.score)
    best = collect_to_file(config(keep="best", num_prompts=2, n=2), tmp_path / "best.jsonl")
    assert best.rows == 2
    expected = [max(rows["score"][:2]), max(rows["score"][2:])]
    assert load_responses(tmp_path / "best.jsonl")["score"] == expected


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_prompts": 0}, "num_prompts must be an integer >= 1, got 0"),
        ({"n": 1}, "n must be an integer >= 2, got 1; one response makes no pair"),
        ({"keep": "some"}, "keep must be 'pairs', 'best' or 'all', got 'some'"),
        ({"temperatures": (1.0, 0.7), "n": 3}, "n=3"),
        ({"env": "MovieRevew"}, "did you mean tokengym/MovieReview-v0"),
    ],
)
def test_bad_settings_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        config(**settings)


def test_other_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"out must end in .jsonl or .parquet, got 'pairs.csv'"):
        collect_to_file(config(), tmp_path / "pairs.csv")


def test_folder_without_agent_is_named(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no saved agent"):
        load_agent(tmp_path)


def test_other_contents_and_damaged_parts_are_refused(tmp_path):
    data, out = tmp_path / "prompts.jsonl", tmp_path / "pairs.jsonl"
    data.write_text("".join(f'{{"prompt": "the movie {i}"}}\n' for i in range(9)))
    own = config(num_prompts=8, task=TaskSettings(dataset=str(data), max_new_tokens=8), split="all")

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_to_file(own, out, report=stop)
    before = data.read_text()
    data.write_text(before.replace("movie", "film"))
    with pytest.raises(ValueError, match=r"other settings \(contents of dataset '.*delete it"):
        collect_to_file(own, out)
    data.write_text(before)
    part = tmp_path / "pairs.jsonl.parts" / "000000.json"
    for damaged in ("{}", "null", "[1]"):
        part.write_text(damaged)
        with pytest.raises(ValueError, match=r"000000.json is damaged; delete"):
            collect_to_file(own, out)
    part.unlink()
    assert collect_to_file(own, out).prompts == 8
