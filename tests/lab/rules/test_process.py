"""Process models: forms and figures by hand, training, labels by forks, exact labels of Forks."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tokenizers import AddedToken

import tokengym  # noqa: F401  (registers the ids)
from tests.support.rewards.common import FixedScorer, make_classifier, make_episode
from tokengym.agents import bind_policy
from tokengym.base.errors import DatasetError
from tokengym.envs import Episode, episodes_from_infos
from tokengym.lab.envs.enumerated import word_tokenizer
from tokengym.lab.rules.prm import prm
from tokengym.lab.tables import wilson_interval
from tokengym.lab.training import RewardTraining, read_steps, rows_of_forks, train_process_model
from tokengym.lab.training.process import StepRow, _divided, first_error, first_error_f1
from tokengym.rewards import Reward, RewardModel, Rule
from tokengym.rewards.credits.pieces import _step_starts
from tokengym.rewards.errors import CreditError, RewardError
from tokengym.rewards.maths.signed_parts import split_evenly
from tokengym.scripts.cli import main

EPISODE = make_episode(response_ids=[5, 6, 7, 8, 1])


def by_hand(model: Any, episode: Episode, ends: list[int]) -> list[float]:
    """Return the score after the prompt and after each end, each from a pass of its own."""
    found = []
    for end in (0, *ends):
        ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids[:end]]])
        with torch.no_grad():
            hidden = model.transformer(ids).last_hidden_state[0, -1]
            found.append(float(model.score(hidden)[0]))
    return found


@pytest.mark.parametrize("form", ["sum", "min", "last", "delta"])
@pytest.mark.parametrize("trained", [False, True])
def test_steps_are_paid_by_the_values_at_their_ends(form: Any, trained: bool, tokenizer: Any):
    model = make_classifier(seed=4)
    if trained:
        model.config.update({"step_separator": "\n"})
    credit = Rule(prm, model=RewardModel(model), form=form, segments=2, temperature=0.5)
    (paid,) = Reward(FixedScorer([3.0]), credit).bind(tokenizer).evaluate([EPISODE])
    values = np.array(by_hand(model, EPISODE, [3, 5]))
    if trained:
        values = 1 / (1 + np.exp(-values))
    weights = np.exp(-values[1:] / 0.5) / np.exp(-values[1:] / 0.5).sum()
    first, last = {
        "sum": values[1:],
        "min": weights * values[1:],
        "last": [0.0, values[2]],
        "delta": [values[1] - values[0], 3.0 - (values[1] - values[0])],
    }[form]
    assert paid.token_rewards is not None
    np.testing.assert_allclose(paid.token_rewards, [0, 0, first, 0, last], atol=2e-5)
    assert paid.score == 3.0


def test_a_token_that_its_file_flags_as_special_ends_no_step():
    tokenizer: Any = word_tokenizer(("a", ".", "b"))
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<end.", special=True)])
    end, flagged, others = tokenizer.convert_tokens_to_ids([".", "<end.", "a"])
    assert "<end." not in tokenizer.all_special_tokens
    rule = Rule(prm, model=RewardModel(make_classifier(seed=4)), cut="sentence")
    episode = make_episode(response_ids=[others, flagged, others, end, others])
    assert rule.pieces([episode], tokenizer=tokenizer) == [[range(4), range(4, 5)]]


def test_step_rewards_by_hand():
    places = torch.tensor([[0, 1]])

    def steps(form: Any, ends: Any = places, temperature: float = 0.1) -> Any:
        scores = torch.tensor([[0.25, 0.5, -1.0]])
        return prm(places >= 0, places, ends, scores, {}, form, temperature).tolist()

    assert steps("sum") == [[0.5, -1.0]]
    assert steps("last") == [[0.0, -1.0]]
    assert steps("delta") == [[0.25, -1.5]]
    assert steps("min", temperature=0.01) == pytest.approx(np.array([[0.0, -1.0]]), abs=5e-7)
    one = torch.tensor([[1, 1]])
    assert steps("sum", one) == [[0.0, -1.0]]
    assert steps("delta", one) == [[0.0, -1.25]]


def test_the_f1_of_first_errors_by_hand():
    true = [1, 1, 0, None, None]
    found = [1, 0, 0, None, 2]  # 2 of 3 wrong ones found exactly, 1 of 2 right ones left alone
    assert first_error_f1(found, true) == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert first_error_f1(true, true) == 1.0
    assert first_error_f1([0, 0], [1, None]) == 0.0
    assert np.isnan(first_error_f1([1], [1]))
    assert first_error([0.5, 0.49, 0.1]) == 1


def test_lines_and_sentences_end_steps():
    texts = ["a", " b", "\n", "\n", "c", ".", " d", "!", " ", ""]
    assert _step_starts(texts, "line") == [4]
    assert _step_starts(texts, "sentence") == [6]
    assert _step_starts(["a", "."], "sentence") == []


def test_the_lines_of_a_reply_are_no_steps_of_the_policy():
    words = word_tokenizer(["<pad>", "<eos>", "<unk>", "a", "b", "."])
    model = RewardModel(make_classifier(seed=4))
    rule = Rule(prm, model=model, form="sum", cut="sentence").bind(words)
    # "a ." "a" | "b . b ." | "a . b <eos>"
    ids, written = [3, 5, 3, 4, 5, 4, 5, 3, 5, 4, 1], [1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]
    episode = make_episode(response_ids=ids)
    talk = replace(episode, written=np.array(written, np.int8))
    assert rule.pieces([talk], tokenizer=words) == [
        [range(2), range(2, 7), range(7, 9), range(9, 11)]
    ]
    (paid,) = Reward(FixedScorer([3.0]), rule).bind(words).evaluate([talk])
    values = by_hand(make_classifier(seed=4), episode, [2, 7, 9, 11])[1:]
    expected = np.zeros(11)
    expected[[1, 2, 8, 10]] = values  # what a reply tells is paid to the turn that it answers
    assert paid.token_rewards is not None
    np.testing.assert_allclose(paid.token_rewards, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "x", "form": "mean"}, "form must be"),
        ({"model": "x", "cut": "word"}, "cut must be"),
        ({"model": "x", "cut": "line", "segments": 3}, "segments=3 has no effect with cut='line'"),
        ({"steps": "segment"}, "'steps'; write cut=line, cut=sentence or segments="),
        ({"model": "x", "temperature": 0}, "temperature must be"),
        ({}, "'prm' needs model; write 'prm:model=PATH'"),
    ],
)
def test_options_that_make_no_rule_are_refused(options: Any, message: str, tokenizer: Any):
    with pytest.raises(CreditError, match=message):
        Rule(prm, **options).bind(tokenizer)


def rows_of_words(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of a prompt each, whose steps are right until the letter "t" was written."""
    rng = np.random.default_rng(seed)
    rows = []
    prompts = [" ".join(("e", one, two)) for one in "efghijklmnopqrs" for two in "efghijklmnopqrs"]
    for prompt in prompts[:count]:
        steps = [" ".join(rng.choice([*"abcdt"], 2)) for _ in range(3)]
        right = np.cumsum(["t" in step for step in steps]) == 0
        rows.append({"prompt": prompt, "completions": steps, "labels": right.tolist()})
    return rows


def test_a_process_model_learns_labels_and_pays_by_name(tmp_path: Path, tokenizer: Any):
    training = RewardTraining(learning_rate=3e-3, epochs=12, batch_size=16, warmup=0.1)
    rows = rows_of_words(96)
    folder = tmp_path / "model"
    trained = train_process_model(
        make_classifier(seed=1), rows, output_dir=folder, tokenizer=tokenizer, training=training
    )
    assert trained.metrics.accuracy > 0.9
    assert trained.metrics.first_error_f1 > 0.8
    assert trained.losses[-1] < 0.5 * trained.losses[0]
    stored = json.loads((folder / "measures.json").read_text())
    assert stored["held_out"]["rows"] == trained.metrics.rows == 10
    low, high = trained.metrics.accuracy_interval
    assert (low, high) == wilson_interval(trained.metrics.accuracy, 10)  # responses, not steps
    right = np.mean([label for row in rows[-10:] for label in row["labels"]])
    assert trained.metrics.majority_accuracy == pytest.approx(max(right, 1 - right))
    credit = Rule(prm, model=folder, form="sum", segments=3)
    ids = tokenizer("a b t a c c")["input_ids"]
    episode = make_episode(tokenizer("e")["input_ids"], ids)
    (paid,) = Reward(FixedScorer([0.0]), credit).bind(tokenizer).evaluate([episode])
    assert paid.token_rewards is not None
    good, bad, spoilt = paid.token_rewards[[1, 3, 5]]
    assert good > 0.7
    assert max(bad, spoilt) < 0.3


def test_no_prompt_is_learned_from_and_held_out():
    rows = [StepRow(prompt=text, completions=("a",), labels=(1,)) for text in "abcdeabcde"]
    train, held = _divided(rows, 0.1)
    assert [row.prompt for row in train] == [*"abcdabcd"]
    assert [row.prompt for row in held] == [*"ee"]
    unnamed = [replace(row, prompt="") for row in rows]
    assert [len(side) for side in _divided(unnamed, 0.1)] == [9, 1]  # each has one of its own
    for one_sided, share in (([rows[0]] * 4, 0.25), (rows, math.inf), (rows, math.nan)):
        with pytest.raises(DatasetError, match="nothing on one side"):
            _divided(one_sided, share)


def test_a_stopped_training_of_steps_is_resumed_number_for_number(tmp_path: Path, tokenizer: Any):
    training = RewardTraining(learning_rate=3e-3, epochs=2, batch_size=8, checkpoint_seconds=0)
    rows = [*rows_of_words(20), {"prompt": "e", "completions": ["a"], "labels": [True]}]

    def train(name: str, report: Any = None, **changes: Any) -> Any:
        how = replace(training, **changes)
        options: Any = {"tokenizer": tokenizer, "report": report, "held_out": rows[:8]}
        model = make_classifier(seed=1)
        return train_process_model(model, rows, output_dir=tmp_path / name, training=how, **options)

    def stop(done: int, total: int, loss: float) -> None:
        assert total == 6
        if done == 3:
            raise KeyboardInterrupt

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("parts", stop)
    with pytest.raises(RewardError, match=r"learning_rate = 0\.003"):
        train("parts", learning_rate=1e-3)
    heard: list[int] = []
    parts = train("parts", lambda done, *_: heard.append(done))
    assert heard[0] == 3  # from the checkpoint after step 2
    assert (parts.losses, parts.metrics) == (whole.losses, whole.metrics)
    # Each step of a batch weighs the same, however the batch is taken apart.
    assert train("single", micro_batch_size=1).losses == pytest.approx(whole.losses, rel=1e-3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completions": ["a"]}, r"row 0.*completions.*labels"),
        ({"completions": ["a"], "labels": []}, "got 0 for 1"),
        ({"completions": ["a"], "labels": [2.0]}, r"numbers in \[0, 1\], got \[2.0\]"),
        ({"completions": [], "labels": []}, "got 0 for 0"),
    ],
)
def test_damaged_rows_are_named(row: dict[str, Any], message: str):
    with pytest.raises(DatasetError, match=message):
        read_steps([{"prompt": "e", **row}])


def test_long_rows_and_empty_sides_are_refused(tmp_path: Path, tokenizer: Any):
    own: Any = {"output_dir": tmp_path / "model", "tokenizer": tokenizer}
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (DatasetError, {"training": RewardTraining(max_tokens=5)}, r"9.*5.*max_tokens"),
        (DatasetError, {"held_out": 1.0}, r"held_out=1\.0.*4"),
        (RewardError, {"training": RewardTraining(overlong="drop")}, "overlong='drop'"),
    ]
    for error, options, message in cases:
        with pytest.raises(error, match=message):
            train_process_model(make_classifier(), rows_of_words(4), **own, **options)


@pytest.mark.parametrize("option", ["--lora-rank=4", "--margin-column=m", "--on-error=skip"])
def test_options_of_pairs_are_refused(option: str, capsys: Any):
    assert main(["train-reward", "--kind=process", "--pairs=x.jsonl", option]) == 2
    assert f"{option.split('=')[0]} " in (shown := capsys.readouterr().err)
    assert "effect with --kind process" in shown


KNOBS: dict[str, Any] = {"decisions": 2, "distractors": 1, "fillers": 1, "family": "countdown"}


@pytest.fixture(scope="module")
def forked() -> tuple[Any, list[Episode]]:
    """Return Forks and some responses of random play, paid by continuations of random play."""
    envs: Any = gym.make_vec("tokengym/Forks-v0", num_envs=8, reward="mc:k=8,segments=3", **KNOBS)
    from tokengym.agents import RandomAgent

    bind_policy(envs, RandomAgent(envs, seed=0), seed=1)
    _, infos = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(envs.unwrapped.max_new_tokens):
        mask = np.broadcast_to(infos["action_mask"], (8, len(infos["action_mask"][0])))
        actions = [int(rng.choice(np.flatnonzero(row))) for row in mask]
        *_, infos = envs.step(np.array(actions))
    return envs.unwrapped, list(episodes_from_infos(infos).values())


def test_labels_by_forks_are_shares_of_continuations_that_solve_it(forked: Any):
    env, episodes = forked
    pieces = [split_evenly(len(e.response_ids), 3) for e in episodes]
    soft = rows_of_forks(episodes, env.tokenizer, pieces)
    hard = rows_of_forks(episodes, env.tokenizer, pieces, hard=True)
    for episode, one, other in zip(episodes, soft, hard, strict=True):
        assert " ".join(one.completions) == episode.response
        assert one.labels[-1] == episode.score
        assert other.labels == tuple(float(label > 0) for label in one.labels)
        assert all(label * 8 == round(label * 8) for label in one.labels)
        exact = env.optimal_values(episode.prompt).values
        for label, end in zip(one.labels, (2, 4, 6), strict=True):
            assert label == 0 or exact[episode.response_ids[:end]] == 1  # what is lost stays lost
    assert {label for row in soft for label in row.labels} - {0.0, 1.0}
    with pytest.raises(DatasetError, match="reward='mc:k=8,segments=4'"):
        rows_of_forks([replace(episodes[0], token_rewards=None)], env.tokenizer, pieces[:1])


@pytest.mark.parametrize("hard", [False, True])
def test_labels_by_forks_of_scores_that_are_no_shares_are_refused(forked: Any, hard: bool):
    env, episodes = forked
    paid = np.zeros(len(episodes[0].response_ids))
    paid[[0, -1]] = -0.5, 1.5  # one of four right, where wrong is -1
    episode = replace(episodes[0], token_rewards=paid)
    pieces = split_evenly(len(paid), 2)
    with pytest.raises(DatasetError, match=r"in \[0, 1\], got .*-0.5, 1.0"):
        rows_of_forks([episode], env.tokenizer, [pieces], hard=hard)


def test_the_command_trains_on_exact_labels_of_forks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    env: Any = gym.make("tokengym/Forks-v0", **KNOBS).unwrapped
    rng, lines = np.random.default_rng(0), []
    for number in range(60):
        prompt = env.prompts[number % len(env.prompts)].text
        legal = env.prefixes(prompt).legal
        ids = [int(rng.choice(np.flatnonzero(row))) for row in legal]
        exact = env.optimal_values(prompt).values
        row = {
            "prompt": prompt,
            "completions": [env.tokenizer.decode(ids[i : i + 2]) for i in (0, 2, 4)],
            "labels": [bool(exact[tuple(ids[:end])]) for end in (2, 4, 6)],
        }
        lines.append(json.dumps(row))
    file = tmp_path / "steps.jsonl"
    file.write_text("\n".join(lines) + "\n")
    out = tmp_path / "model"
    command = ["train-reward", "--kind", "process", "--env", "Forks"]
    command += ["--pairs", str(file), "--out", str(out), "--epochs", "2"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    measures = json.loads((out / "measures.json").read_text())
    held = measures["held_out"]["rows"]
    # A tenth, and more where the last prompts have more rows: no prompt is on both sides.
    prompts = [json.loads(line)["prompt"] for line in lines]
    repeats = [prompts.count(prompt) for prompt in dict.fromkeys(prompts)]
    assert held == next(size for size in np.cumsum(repeats[::-1]) if size >= 6)
    assert f"held out; trained on {60 - held}" in shown
    assert f"of {3 * held} steps" in shown
    made: Any = gym.make("tokengym/Forks-v0", reward=f"prm:model={out},segments=3", **KNOBS)
    _, info = made.reset(seed=0)
    while "score" not in info:
        *_, info = made.step(int(np.argmax(info["action_mask"])))
    assert info["token_rewards"].sum() == pytest.approx(info["score"], abs=1e-5)
    assert np.flatnonzero(info["token_rewards"]).tolist() == [1, 3, 5]
