import json
import math
import sys
from typing import Any

import gymnasium as gym
import pytest

from tokengym.lab.makers import build_models
from tokengym.lab.makers.build_models import Options
from tokengym.lab.makers.options import BuildError


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.csv"
    rows = [f"row {index} is {'fine' if index % 2 else 'bad'},{index % 2}" for index in range(300)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


def refused(message, **options):
    with pytest.raises(BuildError, match=message):
        build_models.main(Options(threads=1, **options))


def test_a_folder_of_something_else_is_refused_before_any_work(corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    refused(r"mine exists and is not a bundle", out=tmp_path / "mine", corpus=corpus)


@pytest.mark.parametrize("bad", [{"threads": 0}, {"seed": -1}])
def test_impossible_numbers_are_refused(bad, corpus, tmp_path):
    with pytest.raises(BuildError, match=r"--threads.*>= 1.*--seed >= 0, got"):
        build_models.main(Options(corpus=corpus, out=tmp_path / "out", **bad))


def test_bad_input_is_refused_before_any_work(corpus, tmp_path):
    out = tmp_path / "out"
    refused(r"nowhere\.csv is not a file", out=out, corpus=tmp_path / "nowhere.csv")
    refused(r"no column 'review'", out=out, corpus=corpus, text_column="review")
    refused(r"must hold two labels, got 300", out=out, corpus=corpus, label_column="text")
    refused(r"heads must divide width", out=out, corpus=corpus, heads=5)
    refused(r"vocab_size must be >= 258", out=out, corpus=corpus, vocab_size=10)
    refused(r"no\.tsv is not a file", out=out, corpus=corpus, eval_corpus=tmp_path / "no.tsv")
    assert not out.exists()


def test_a_corpus_becomes_a_bundle_and_its_figures_are_shown(corpus, tmp_path, capsys):
    options = Options(
        corpus=corpus,
        out=tmp_path / "out",
        threads=1,
        vocab_size=300,
        layers=1,
        width=16,
        heads=2,
        language_steps=2,
        reward_steps=2,
    )
    build_models.main(options)
    assert options.out is not None
    assert {path.name for path in options.out.iterdir()} >= {"policy", "gold_model", "bundle.json"}
    shown = capsys.readouterr().out
    assert "MB" in shown
    assert "pair_accuracy" in shown


def test_the_command_says_what_is_wrong_in_one_line(monkeypatch, corpus, tmp_path):
    words = ["--corpus", str(corpus), "--out", str(tmp_path / "out"), "--text-column", "review"]
    monkeypatch.setattr(sys, "argv", ["build_models.py", *words])
    with pytest.raises(SystemExit) as exit_info:
        build_models.run()
    assert str(exit_info.value).startswith("error: ")
    assert "no column 'review'" in str(exit_info.value)


def test_a_bundle_of_ones_own_trains_under_every_kind_of_rule(tmp_path):
    """Tokenizer, policy, reward model and encoder of a corpus: what a task of one's own needs."""
    path = tmp_path / "corpus.jsonl"
    lines = [
        {"text": f"take {at}: a film whose plot , cast and score are all {word} to the end ."}
        | {"label": word}
        for at in range(110)
        for word in ("superb", "dreadful")
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    small: Any = {"vocab_size": 300, "layers": 1, "width": 16, "heads": 2}
    steps: Any = {"language_steps": 5, "reward_steps": 5, "encoder_steps": 5}
    build_models.main(Options(corpus=path, out=tmp_path / "own", threads=1, **small, **steps))
    for rule in ("sparse", "abc", "r3"):
        env = gym.make(
            "tokengym/MovieReview-v0", reward=rule, bundle=tmp_path / "own", max_new_tokens=4
        )
        env.reset(seed=0)
        while not (end := env.step(env.action_space.sample()))[2]:
            continue
        assert math.isfinite(end[-1]["score"])
