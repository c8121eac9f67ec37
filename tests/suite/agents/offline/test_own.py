"""A run on given pairs is measured on their prompts, a tenth of which is held out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.suite.agents.conftest import make_model, make_tokenizer
from tokengym.agents.offline.own import ids_of, read_own, text_encoding
from tokengym.agents.offline.settings import DPOSettings, SFTSettings
from tokengym.base.errors import DatasetError, SettingsError
from tokengym.evaluation.runs.config import ComparisonConfig, command_line
from tokengym.evaluation.runs.defaults import TaskSettings, training_settings, with_own_prompts
from tokengym.evaluation.runs.run import run

ROWS = [
    {"question": f"{a} {b}", "chosen": "d", "rejected": f"e {c}", "source": a}
    for a in "abcd"
    for b in "abcde"
    for c in "ab"
]


def write(folder: Path, rows: Any = ROWS, name: str = "pairs.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def read(settings: SFTSettings, **how: Any) -> Any:
    return read_own(settings, make_tokenizer(), text_encoding(settings, **how), max_positions=32)


def test_a_tenth_of_the_prompts_is_held_out(tmp_path):
    settings = DPOSettings(pairs=write(tmp_path), pairs_prompt_column="question")
    own = read(settings)
    assert (len(own.train.rows), len(own.held_out.rows)) == (36, 4)
    assert (len(own.train_prompts), len(own.test_prompts)) == (18, 2)
    assert not {*own.train_prompts.texts} & {*own.test_prompts.texts}
    assert own.test_prompts[0].reference == "d"
    assert dict(own.test_prompts[0].metadata) == {"source": own.test_prompts[0].text[0]}
    assert (own.longest_prompt, own.longest_response) == (2, 3)
    other = DPOSettings(pairs=write(tmp_path, ROWS[::-1]), pairs_prompt_column="question")
    assert {*read(other).test_prompts.texts} == {*own.test_prompts.texts}  # whatever the order
    row = ids_of(own.held_out, ("chosen_ids", "rejected_ids"))[0]
    assert len(row["prompt_ids"]) == 2


def test_conversations_dialogues_and_responses_have_prompts_too(tmp_path):
    talks = [
        [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": "d"}]
        for row in ROWS
    ]
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    settings = SFTSettings(pairs=write(tmp_path, [{"completion": talk} for talk in talks]))
    own = read_own(settings, tokenizer, text_encoding(settings), max_positions=None)
    assert own.test_prompts[0].messages[0]["role"] == "user"
    said = "\n\nHuman: {}\n\nAssistant:"
    rows = [
        {
            "chosen": said.format(row["question"]) + " d",
            "rejected": said.format(row["question"]) + " e",
        }
        for row in ROWS
    ]
    dialogues = read(DPOSettings(pairs=write(tmp_path, rows)))
    assert dialogues.test_prompts[0].text.endswith("Assistant:")
    ids = [{"prompt_ids": [n], "chosen_ids": [4], "rejected_ids": [5]} for n in (3, 4, 5)]
    assert read(DPOSettings(pairs=write(tmp_path, ids))) is None
    collected = [
        {**row, "prompt": word, "chosen": "b"} for row, word in zip(ids, "abc", strict=True)
    ]
    own = read(DPOSettings(pairs=write(tmp_path, collected)))
    assert len(own.train_prompts) == 2
    assert (own.test_prompts[0].reference, len(own.test_prompts[0].metadata)) == ("b", 0)


def test_held_out_pairs_of_ones_own_are_those(tmp_path):
    held = write(tmp_path, ROWS[:3], "held.jsonl")
    settings = DPOSettings(
        pairs=write(tmp_path, ROWS[4:]), eval_pairs=held, pairs_prompt_column="question"
    )
    own = read(settings)
    assert (len(own.train.rows), len(own.held_out.rows)) == (36, 3)
    assert own.test_prompts.texts == ("a a", "a b")
    faulty = write(tmp_path, [*ROWS[:3], {"question": "c c", "chosen": "", "rejected": "e"}])
    settings = replace(settings, pairs=write(tmp_path, ROWS, "all.jsonl"), eval_pairs=faulty)
    own = read(replace(settings, on_error="skip"))
    assert [row.row for row in own.held_out.skipped] == [3]
    assert own.train.report() == "40 rows, 36 kept, 4 with prompts of eval_pairs"
    assert own.train.skipped[0].reason == (
        "row 0 of the data has the prompt 'a a', which eval_pairs holds out"
    )
    assert not {*own.train_prompts.texts} & {*own.test_prompts.texts}
    with pytest.raises(DatasetError, match=r"3.*0.*eval_pairs"):
        read(replace(settings, pairs=held, eval_pairs=held))
    ids = write(
        tmp_path, [{"prompt_ids": [3], "chosen_ids": [4], "rejected_ids": [5]}], "ids.jsonl"
    )
    plain = [{"prompt": row["question"], "chosen": "d", "rejected": "e"} for row in ROWS]
    settings = DPOSettings(pairs=write(tmp_path, plain, "plain.jsonl"), eval_pairs=ids)
    with pytest.raises(DatasetError, match=r"eval_pairs='.*'.*texts.*own_pro"):
        read(settings)
    one = DPOSettings(pairs=write(tmp_path, ROWS[:2]), pairs_prompt_column="question")
    with pytest.raises(DatasetError, match="1 distinct prompt, so that none can be held out"):
        read(one)


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def config_of(task: TaskSettings, **changes: Any) -> ComparisonConfig:
    training = training_settings("tokengym/MovieReview-v0", "dpo", **changes)
    return ComparisonConfig(
        env="MovieReview",
        rewards=("sparse",),
        seeds=1,
        training=with_own_prompts(training, task),
        task=task,
    )


def test_a_run_on_pairs_asks_for_no_prompts_and_lengths(model, tmp_path):
    task = TaskSettings(model=model, scorer="length-penalty")
    given: Any = {"pairs": write(tmp_path), "pairs_prompt_column": "question"}
    config = config_of(task, **given)
    kwargs = config.env_kwargs("sparse", train=False)
    assert (kwargs["min_new_tokens"], kwargs["max_new_tokens"]) == (0, 3)
    assert len(kwargs["prompts"]) == 2
    assert (
        config_of(task, max_new_tokens=5, **given).env_kwargs("sparse", train=True)[
            "max_new_tokens"
        ]
        == 5
    )  # one that was set
    usual = training_settings("tokengym/MovieReview-v0").max_new_tokens
    assert usual == config_of(task, max_new_tokens=usual, **given).training.max_new_tokens
    assert config.training.max_new_tokens == 3
    assert "--max-new-tokens 3" in command_line(config)
    written = command_line(config_of(task, max_new_tokens=usual, **given))
    assert f"--max-new-tokens {usual}" in written
    learned = config_of(task, own_prompts=False, **given)
    assert learned.training.max_new_tokens == usual
    assert "--max-new-tokens" not in command_line(learned)
    assert (
        config_of(task, max_new_tokens=500, **given).env_kwargs("sparse", train=True)[
            "max_new_tokens"
        ]
        == 30
    )  # what the model reads behind the longest prompt
    for other in ({"own_prompts": False}, {"pairs": None, "pairs_prompt_column": None}):
        assert "prompts" not in config_of(task, **{**given, **other}).env_kwargs(
            "sparse", train=True
        )
    bundled = TaskSettings()  # whose model has prompts of its own
    assert "prompts" not in config_of(bundled, **given).env_kwargs("sparse", train=True)


@pytest.mark.parametrize("is_given", [False, True])
def test_a_run_on_pairs_learns_and_is_measured(model, tmp_path, is_given, caplog):
    task = TaskSettings(model=model, scorer="length-penalty")
    faulty = {"question": "c c", "chosen": "", "rejected": "e"}
    held_out = write(tmp_path, [*ROWS[:3], faulty], "held.jsonl") if is_given else None
    config = config_of(
        task,
        pairs=write(tmp_path),
        eval_pairs=held_out,
        on_error="skip" if is_given else None,
        pairs_prompt_column="question",
        num_train_epochs=1.0,
    )
    record = run(config, "dpo", 0)
    said = [line for line in caplog.messages if "rows, " in line]
    wanted = ["40 rows, 36 kept, 4 with", "4 rows, 3 kept, 1 empty"] if is_given else []
    assert [line[: len(one)] for line, one in zip(said, wanted, strict=True)] == wanted
    assert [point["step"] for point in record.points] == [0, 1]
    names = [name for row in record.log for name in row if name.startswith("eval")]
    assert names, record.log


def test_learners_that_are_compared_are_not_measured_on_their_own_prompts(tmp_path):
    config = ComparisonConfig(env="MovieReview", rewards=("sparse",), seeds=1)
    learner = f"dpo:pairs={write(tmp_path)},pairs_prompt_column=question"
    replace(config, agents=("ppo", learner))
    with pytest.raises(SettingsError, match=r"own_prompts=True.*'dpo.*'"):
        replace(config, agents=("ppo", f"{learner},own_prompts=True"))


def test_a_column_of_prompts_is_the_data_sets_too(tmp_path):
    path = write(tmp_path)
    task = TaskSettings(dataset=path)
    config = config_of(task, pairs=path, pairs_prompt_column="question")
    assert config.task.prompt_column == "question"
    with pytest.raises(SettingsError, match="pairs_prompt_column='q'"):
        DPOSettings(pairs_prompt_column="q")
