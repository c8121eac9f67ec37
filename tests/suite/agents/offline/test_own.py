"""A run on given pairs is measured on their prompts, a tenth of which is held out."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents.common import make_model
from tests.support.comparisons import comparison
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym.agents.loading import load_agent
from tokengym.agents.offline.own import read_own, text_encoding
from tokengym.agents.offline.settings import DPOSettings, SFTSettings
from tokengym.base.errors import DatasetError, SettingsError
from tokengym.evaluation.measure.evaluate import Evaluator
from tokengym.evaluation.runs.comparison import Comparison
from tokengym.evaluation.runs.defaults import training_settings
from tokengym.evaluation.runs.run import run
from tokengym.evaluation.runs.settings import TaskSettings
from tokengym.evaluation.runs.trusted import known_task

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
    starts = [f"\n\nHuman: {row['question']}\n\nAssistant:" for row in ROWS]
    rows = [{"chosen": f"{start} d", "rejected": f"{start} e"} for start in starts]
    dialogues = read(DPOSettings(pairs=write(tmp_path, rows)))
    assert dialogues.test_prompts[0].text.endswith("Assistant:")
    ids = [{"prompt_ids": [n], "chosen_ids": [4], "rejected_ids": [5]} for n in (3, 4, 5)]
    assert read(DPOSettings(pairs=write(tmp_path, ids))) is None
    collected = [{**row, "prompt": w, "chosen": "b"} for row, w in zip(ids, "abc", strict=True)]
    own = read(DPOSettings(pairs=write(tmp_path, collected)))
    assert len(own.train_prompts) == 2
    assert (own.test_prompts[0].reference, len(own.test_prompts[0].metadata)) == ("b", 0)


def test_answers_of_a_conversation_stay_on_one_side(tmp_path):
    """All that are learned, or the last; the policy is measured on what the last one answers."""

    def said(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    talks = [
        [
            said("user", row["question"]),
            said("assistant", "d"),
            said("user", "e"),
            said("assistant", "b"),
        ]
        for row in ROWS
    ]
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    file = write(tmp_path, [{"messages": talk} for talk in talks])
    for learn_on, each in (("all", 2), ("last", 1)):
        settings = SFTSettings(pairs=file, learn_on=learn_on)  # type: ignore[arg-type]
        own = read_own(settings, tokenizer, text_encoding(settings), max_positions=None)
        assert own is not None
        assert len(own.train.rows) + len(own.held_out.rows) == each * len(ROWS)
        assert not {r.row for r in own.train.rows} & {r.row for r in own.held_out.rows}
        assert {len(prompt.messages) for prompt in own.test_prompts} == {3}
        assert own.train.unlearned_answers == (0 if each == 2 else len(ROWS))
    with pytest.raises(SettingsError, match="learn_on='last' has no effect on data"):
        SFTSettings(learn_on="last")
    with pytest.raises(SettingsError, match="learn_on='last' has no effect on DPO"):
        DPOSettings(pairs=file, learn_on="last")


def test_held_out_pairs_of_ones_own_are_those(tmp_path):
    faulty = {"question": "c c", "chosen": "", "rejected": "e"}
    settings = DPOSettings(
        pairs=write(tmp_path),
        eval_pairs=write(tmp_path, [*ROWS[:3], faulty], "held.jsonl"),
        pairs_prompt_column="question",
        on_error="skip",
    )
    own = read(settings)
    assert own.test_prompts.texts == ("a a", "a b")
    assert (len(own.held_out.rows), [row.row for row in own.held_out.skipped]) == (3, [3])
    assert own.train.report() == "40 rows, 36 kept, 4 skipped (4 with prompts of eval_pairs)"
    assert own.train.skipped[0].reason == (
        "row 0 of the data has the prompt 'a a', which eval_pairs holds out"
    )
    assert not {*own.train_prompts.texts} & {*own.test_prompts.texts}


IDS = [{"prompt_ids": [3], "chosen_ids": [4], "rejected_ids": [5]}]
TEXTS = [{"prompt": row["question"], "chosen": "d", "rejected": "e"} for row in ROWS]


@pytest.mark.parametrize(
    ("pairs", "held_out", "said"),
    [
        (TEXTS[:3], TEXTS[:3], r"3.*0.*eval_pairs"),
        (TEXTS, IDS, r"eval_pairs='.*'.*texts.*own_pro"),
        (TEXTS[:1], None, "1 distinct prompt, so that none can be held out"),
    ],
)
def test_data_of_which_nothing_is_learned_or_measured_is_named(tmp_path, pairs, held_out, said):
    held = None if held_out is None else write(tmp_path, held_out, "held.jsonl")
    with pytest.raises(DatasetError, match=said):
        read(DPOSettings(pairs=write(tmp_path, pairs), eval_pairs=held))


def test_a_row_without_prompt_that_is_left_out_leaves_the_others_theirs(tmp_path):
    rows = [*TEXTS, {"prompt": "", "chosen": "d", "rejected": "e"}]
    own = read(DPOSettings(pairs=write(tmp_path, rows), on_error="skip"))
    assert own.train.report() == "37 rows, 36 kept, 1 skipped (1 no prompt)"


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def config_of(task: TaskSettings, **changes: Any) -> Comparison:
    given = {name.replace("num_train_epochs", "epochs"): one for name, one in changes.items()}
    return comparison(
        "MovieReview", rewards="sparse", seeds=1, agent="dpo", trains=True, task=task, **given
    )


def test_a_run_on_pairs_asks_for_no_prompts_and_lengths(model, tmp_path):
    own = TaskSettings(model=model, scorer="length-penalty")
    given: Any = {"pairs": write(tmp_path), "pairs_prompt_column": "question"}

    def made(task: TaskSettings = own, **changes: Any) -> tuple[Comparison, dict[str, Any]]:
        config = config_of(task, **{**given, **changes})
        return config, config.runs[0].env_kwargs(train=False)

    config, kwargs = made()
    assert (kwargs["min_new_tokens"], kwargs["max_new_tokens"]) == (0, 3)
    assert len(kwargs["prompts"]) == 2
    assert config.reference.training.max_new_tokens == 3
    assert "--max-new-tokens" not in config.reference.command
    usual = training_settings("tokengym/MovieReview-v0").max_new_tokens
    for length in (5, usual, 500):  # set by the user
        config, kwargs = made(max_new_tokens=length)
        # What the model reads behind the longest prompt.
        assert config.reference.training.max_new_tokens == min(length, 30)
        assert kwargs["max_new_tokens"] == min(length, 30)
        is_cut = "all that the model reads behind the longest prompt" in config.said[0]
        assert is_cut == (length > 30)
        assert f"--max-new-tokens {length}" in config.reference.command
    # The task forbids EOS, and the pairs' responses end.
    assert (config.said[1], kwargs["min_new_tokens"]) == (
        "dpo: fixed_length False by its own prompts",
        0,
    )
    fixed, kwargs = made(max_new_tokens=5, fixed_length=True)
    assert (fixed.reference.training.fixed_length, kwargs["min_new_tokens"]) == (True, 5)
    learned, kwargs = made(own_prompts=False)
    assert learned.reference.training.max_new_tokens == usual
    assert "--max-new-tokens" not in learned.reference.command
    bundled = made(TaskSettings())[1]  # whose model has prompts of its own
    for others in (kwargs, bundled, made(pairs=None, pairs_prompt_column=None)[1]):
        assert "prompts" not in others


def test_a_run_on_pairs_is_measured_on_them_afterwards(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given: Any = {"pairs": write(tmp_path), "pairs_prompt_column": "question"}
    task = TaskSettings(model=model, scorer="length-penalty")
    config = config_of(task, num_train_epochs=1.0, **given)
    record = run(config, "dpo", 0, out=tmp_path / "run", save=tmp_path / "run" / "agent")
    env, kwargs = known_task(tmp_path / "run", None)
    assert kwargs["prompts"].texts == config.runs[0].env_kwargs(train=False)["prompts"].texts
    settings, point = config.reference.evaluation, record.points[-1]
    evaluator = Evaluator(env, kwargs, num_episodes=settings.episodes or 0, seed=settings.seed)
    again = evaluator(load_agent(tmp_path / "run" / "agent"), draws=(0, point["step"]))
    assert {name: again.metrics[name] for name in ("score", "kl")} == pytest.approx(
        {name: point[name] for name in ("score", "kl")}, rel=1e-5
    )
    for other in (TaskSettings(bundle="movie_review"), TaskSettings(prompts=["a b", "c d"])):
        assert kwargs["prompts"] != known_task(tmp_path / "run", None, task=other)[1].get("prompts")
    Path(given["pairs"]).unlink()
    with pytest.raises(ValueError, match=r"cannot be found from here.*--dataset"):
        known_task(tmp_path / "run", None)


@pytest.mark.parametrize("is_given", [False, True])
def test_a_run_on_pairs_learns_and_is_measured(model, tmp_path, is_given, caplog):
    task = TaskSettings(model=model, scorer="length-penalty")
    faulty = {"question": "c c", "chosen": "", "rejected": "e"}
    held_out = write(tmp_path, [*ROWS[:3], faulty], "held.jsonl") if is_given else None
    given: Any = {"pairs": write(tmp_path), "eval_pairs": held_out, "num_train_epochs": 1.0}
    on_error = "skip" if is_given else None
    config = config_of(task, pairs_prompt_column="question", on_error=on_error, **given)
    record = run(config, "dpo", 0)
    said = [line for line in caplog.messages if "rows, " in line]
    wanted = ["40 rows, 36 kept, 4 skipped (4", "4 rows, 3 kept, 1 skipped (1"] if is_given else []
    assert [line[: len(one)] for line, one in zip(said, wanted, strict=True)] == wanted
    assert [point["step"] for point in record.points] == [0, 1]
    assert any(name.startswith("eval") for row in record.log for name in row)


def test_learners_that_are_compared_are_not_measured_on_their_own_prompts(tmp_path):
    learner = f"dpo:pairs={write(tmp_path)},pairs_prompt_column=question"
    comparison("MovieReview", rewards="sparse", agents=("ppo", learner))
    with pytest.raises(SettingsError, match=r"own_prompts=True.*'dpo.*'"):
        comparison("MovieReview", rewards="sparse", agents=("ppo", f"{learner},own_prompts=True"))


def test_a_column_of_prompts_is_the_data_sets_too(tmp_path):
    path = write(tmp_path)
    task = TaskSettings(dataset=path)
    config = config_of(task, pairs=path, pairs_prompt_column="question")
    assert config.reference.task.prompt_column == "question"
    with pytest.raises(SettingsError, match="pairs_prompt_column='q'"):
        DPOSettings(pairs_prompt_column="q")
