"""A collection can be stopped anywhere and ends with the same file; pairs survive the disk."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents.collecting import episode
from tests.support.comparisons import comparison
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents.loading import load_agent
from tokengym.agents.offline import Sampling, pair_rows
from tokengym.base import read_json, write_text
from tokengym.envs import DatasetError
from tokengym.evaluation import run
from tokengym.evaluation.measure import resolve_env
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.settings import EvaluationSettings, TaskSettings
from tokengym.lab import collect
from tokengym.lab.collect import (
    CollectionConfig,
    as_texts,
    claim_folder,
    collect_to_file,
    load_pairs,
    save_dataset,
)
from tokengym.lab.constitution import ConstitutionConfig
from tokengym.rewards.pairs import pairs_dataset, read_table, responses_dataset
from tokengym.scripts.cli import main


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
    with pytest.raises(ValueError, match="seed 0 there, 1 here"):
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
    rows = responses_dataset([*read_table(tmp_path / "all.parquet")])
    assert len(rows) == found.rows == 4
    assert found.kept_score == pytest.approx(found.score, abs=1e-6)
    assert not math.isnan(found.score)
    best = collect_to_file(config(keep="best", num_prompts=2, n=2), tmp_path / "best.jsonl")
    assert best.rows == 2
    expected = [max(rows["score"][:2]), max(rows["score"][2:])]
    assert [row["score"] for row in read_table(tmp_path / "best.jsonl")] == expected


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_prompts": 0}, "num_prompts.*>= 1, got 0"),
        ({"seed": -1}, "seed.*>= 0, got -1"),
        ({"n": 1}, "n.*>= 2, got 1"),
        ({"keep": "some"}, r"keep.*got 'some'"),
        ({"temperatures": (1.0, 0.7), "n": 3}, "n=3"),
        ({"env": "MovieRevew"}, "tokengym/MovieReview-v0"),
    ],
)
def test_bad_settings_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        config(**settings)


def test_a_refused_call_leaves_nothing(tmp_path):
    rows = tmp_path / "rows.jsonl"
    write_text(rows, "".join(f'{{"question": "the {n} was", "answer": "a"}}\n' for n in range(12)))
    task = TaskSettings(max_new_tokens=4, dataset=str(rows))
    out, sizes = tmp_path / "p.jsonl", {"num_prompts": 4, "n": 2}
    with pytest.raises(DatasetError, match="prompt_column="):
        collect_to_file(config(task=task, **sizes), out)
    assert [*tmp_path.iterdir()] == [rows]
    named = replace(task, prompt_column="question")
    assert collect_to_file(config(task=named, **sizes), out).prompts == 4


def test_folder_without_agent_is_named(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="no saved agent"):
        load_agent(tmp_path)


@pytest.fixture
def saved(tmp_path):
    """Return the folder of an agent trained on Dialogue with replies of four tokens."""
    env = resolve_env("Dialogue")
    training = training_settings(env, steps=1, batch_size=2, max_new_tokens=4)
    few = EvaluationSettings(every=1, episodes=2, samples=0, reference_samples=0)
    decided = comparison(env=env, rewards=("sparse",), seeds=1, training=training, evaluation=few)
    folder = tmp_path / "run"
    run(decided, "sparse", 0, out=folder, save=folder / "agent")
    return folder / "agent"


def test_an_agent_answers_as_it_was_trained(saved, tmp_path):
    """Its task and lengths are those of its run; a task that it cannot read is refused at once."""
    arguments = ["--agent", str(saved), "--keep", "all", "--n", "1", "--num-prompts", "8"]
    assert main(["collect", *arguments, "--out", str(tmp_path / "all.jsonl")]) == 0
    rows = [*read_table(tmp_path / "all.jsonl")]
    assert max(len(row["response_ids"]) for row in rows) <= 4
    other = config(env="MovieReview", agent=str(saved))
    with pytest.raises(ValueError, match=r"437 tokens.*564"):
        collect_to_file(other, tmp_path / "other.jsonl")


def test_a_setting_is_held_to_the_files_that_it_names_alone(tmp_path, monkeypatch):
    """A chat model beside the task's counts; a folder that only has the name of a word does not."""
    monkeypatch.chdir(tmp_path)
    for name in ("chat", "train", "sparse", "pairs", "words", "rule"):
        write_text(Path(name) / "w", "1")
    collection = config(reward="uniform", agent="chat", task=TaskSettings(scorer="s:path=rule"))
    named = ConstitutionConfig(model="chat", critic="words", task=TaskSettings(model="rule"))
    for settings, files in (
        (collection, {"agent": "chat", "rule": "rule"}),
        (named, {"model": "chat", "task.model": "rule"}),
    ):
        folder = tmp_path / type(settings).__name__
        claim_folder(folder, settings, remedy="delete it")
        stored = read_json(folder / "settings.json")
        assert {name for name in stored if name.startswith("contents of")} == {
            f"contents of {name}" for name in files
        }
        for file in files.values():
            write_text(Path(file) / "w", "2")
            with pytest.raises(ValueError, match="other settings"):
                claim_folder(folder, settings, remedy="delete it")
            write_text(Path(file) / "w", "1")


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
    with pytest.raises(ValueError, match=r"contents of dataset.*delete"):
        collect_to_file(own, out)
    data.write_text(before)
    part = tmp_path / "pairs.jsonl.parts" / "000000.json"
    for damaged in ("{}", "null", "[1]"):
        part.write_text(damaged)
        with pytest.raises(ValueError, match=r"000000\.json.*delete"):
            collect_to_file(own, out)
    part.unlink()
    assert collect_to_file(own, out).prompts == 8


@pytest.mark.parametrize("name", ["pairs.jsonl", "deep/pairs.parquet"])
def test_pairs_survive_the_disk(tmp_path, name):
    groups = [(episode("caf\u00e9\nline", 0.1), episode("", 0.3))]
    dataset = pairs_dataset(pair_rows(groups, Sampling(n=2), [-1]))
    path = save_dataset(dataset, tmp_path / name)
    loaded = load_pairs(path)
    assert loaded.to_list() == dataset.to_list()
    assert loaded.features == dataset.features
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_no_rows_survive_too(tmp_path, suffix):
    path = save_dataset(pairs_dataset([]), tmp_path / f"none{suffix}")
    assert len(load_pairs(path)) == 0


def test_other_files_are_named(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b"}) + "\n")
    (tmp_path / "bad.jsonl").write_text("{")
    for name, said in (
        ("none", "is not there"),
        ("x", r"'rejected'.*read_pairs"),
        ("bad", "cannot be read"),
    ):
        with pytest.raises(DatasetError, match=said):
            load_pairs(tmp_path / f"{name}.jsonl")
    with pytest.raises(DatasetError, match=r"\.jsonl.*\.parquet, got 'x.csv'"):
        save_dataset(pairs_dataset([]), tmp_path / "x.csv")
    with pytest.raises(DatasetError, match=r"row 0.*'chosen'"):
        pairs_dataset([{"prompt": "a"}])


def test_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = save_dataset(pairs_dataset([]), tmp_path / "pairs.jsonl")
    dataset = pairs_dataset([])

    def full(*arguments, **settings):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        save_dataset(dataset, path)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_texts_read_as_the_ids_do():
    tokenizer = make_tokenizer()
    rows = pair_rows([(episode("b c", 1.0, "d e"), episode("a", 0.0, "d e"))], Sampling(n=2), [0])
    ids = {name: tokenizer(text).input_ids for name, text in (("x", "d e"), ("y", "b c"))}
    rows[0] |= {"prompt_ids": ids["x"], "chosen_ids": [*ids["y"], tokenizer.eos_token_id]}
    (text,) = as_texts(pairs_dataset(rows), tokenizer)
    assert tokenizer(text["prompt"] + text["chosen"]).input_ids == ids["x"] + ids["y"]
    assert text["rejected"] == " a"
    rows[0] |= {"prompt": "d e ", "prompt_ids": ids["x"]}  # the space is the prompt's own
    (text,) = as_texts(pairs_dataset(rows), tokenizer)
    assert (text["prompt"], text["chosen"]) == ("d e ", "b c")


def test_an_empty_response_does_not_say_how_texts_are_joined():
    tokenizer = make_tokenizer()
    said = (episode("b c", 1.0, "d e"), episode("a", 0.0, "d e"))
    empty = (episode("", 1.0, "d e"), episode("a", 0.0, "d e"))
    rows = pair_rows([empty, said], Sampling(n=2), [0, 1])
    for row, text in zip(rows, ("", "b c"), strict=True):
        row["prompt_ids"] = tokenizer("d e").input_ids
        row["chosen_ids"] = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    texts = as_texts(pairs_dataset(rows), tokenizer)
    assert [text["chosen"] for text in texts] == [" ", " b c"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (None, "no JSON object"),
        ([1], "no JSON object"),
        ({"chosen_ids": None}, "1 .*'chosen_ids'.*got None"),
        ({"chosen_ids": [1, None]}, r"1 .*'chosen_ids'.*got \[1"),
        ({"chosen_ids": [[1]]}, "1 .*'chosen_ids'"),
        ({"chosen_ids": [10**30]}, "1 .*'chosen_ids'"),
        ({"chosen_ids": [True]}, "1 .*'chosen_ids'"),
        ({"chosen": None}, "1 .*'chosen'.*got None"),
        ({"chosen": "\ud800"}, "row 1 .*'chosen'.*string"),
        ({"chosen_score": "x"}, "1 .*'chosen_score'.*float64, got 'x'"),
        ({"prompt_id": "q"}, "1 .*'prompt_id'.*int64, got 'q'"),
    ],
)
def test_damaged_rows_of_valid_json_are_named(tmp_path, change, match):
    good = {
        **{"prompt": "b", "chosen": "a", "rejected": "c"},
        **{"prompt_ids": [4], "chosen_ids": [3], "rejected_ids": [5]},
        **{"chosen_score": 1.0, "rejected_score": 0.0, "prompt_id": -1},
    }
    bad = good | change if isinstance(change, dict) else change
    file = tmp_path / "pairs.jsonl"
    file.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(DatasetError, match=match):
        load_pairs(file)
