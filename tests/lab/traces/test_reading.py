"""Other trainers' files as episodes: rows as TRL 1.16, verl 0.9.1, SkyRL 0.3, verifiers 0.4, NeMo
Gym 0.5 and OpenEnv 0.10 write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokengym.envs import bundled
from tokengym.evaluation.runs import TaskSettings
from tokengym.lab.commands.replay import others_task
from tokengym.lab.replay.replay import is_foreign, load_episodes, replay
from tokengym.lab.traces.reading import read_traces
from tokengym.rewards import FunctionScorer

TOKENIZER = bundled("movie_review").tokenizer
PROMPT, ANSWER, REPLY = (
    TOKENIZER(text)["input_ids"] for text in ("i saw", "a dull film", "a film")
)


def nodes(**changes: Any) -> list[dict[str, Any]]:
    return [
        {"parent": None, "token_ids": PROMPT, "mask": []},
        {
            "parent": 0,
            "token_ids": ANSWER,
            "mask": [True] * 3,
            "logprobs": [-1.0, -2.0, -3.0],
            "advantages": [0.5, -0.5, 0.0],
            **changes,
        },
        {"parent": 1, "token_ids": REPLY, "mask": [False] * 2},
        {"parent": 2, "token_ids": REPLY, "mask": [True] * 2, "logprobs": [-4.0, -5.0]},
    ]


def turn(prompt: list[int], answer: list[int]) -> dict[str, Any]:
    return {
        "node_id": str(len(prompt)),
        "prompt_token_ids": prompt,
        "completion_token_ids": answer,
        "per_token_logps": [-1.0] * len(answer),
        "loss_mask": [0] * len(prompt) + [1] * len(answer),
    }


def stored(folder: Path, *rows: Any) -> Path:
    """Return a file of these rows."""
    file = folder / "traces.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


TALK = {"written": [1, 1, 1, 0, 0, 1, 1], "response_ids": (*ANSWER, *REPLY, *REPLY)}


def gym_item(prompt: list[int], answer: list[int]) -> dict[str, Any]:
    """Return an item of a response that a policy server with token ids wrote."""
    tokens = {"prompt_token_ids": prompt, "generation_token_ids": answer}
    return {"type": "message", **tokens, "generation_log_probs": [-1.0] * len(answer)}


def gym_row(*items: Any, **columns: Any) -> dict[str, Any]:
    """Return a row of NeMo Gym."""
    asked = [{"role": "user", "content": "i saw", "type": "message"}]
    row = {"responses_create_params": {"input": asked, "tools": []}, "response": {"output": items}}
    return {**row, "reward": 1.0, "_ng_task_index": 0, **columns}


def said(text: str) -> dict[str, Any]:
    """Return what the assistant said, as NeMo Gym stores it."""
    content = [{"annotations": [], "text": text, "type": "output_text"}]
    return {"type": "message", "role": "assistant", "content": content}


REASON = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
CALL = {"type": "function_call", "name": "look", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "output": "a film"}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (
        {"prompt": "i saw", "response": "a dull film", "score": 2.0, "rewards": [0.0, 1.0, 1.0]},
        {"score": 2.0, "token_rewards": [0.0, 1.0, 1.0], "response_ids": (*ANSWER,)},
    ),
    "verl": (
        {"input": "i saw", "output": "a dull film", "gts": 42, "score": 0.5, "step": 3},
        {"score": 0.5, "reference": "42", "response_ids": (*ANSWER,), "prompt_ids": (*PROMPT,)},
    ),
    "skyrl": (
        {
            "input_prompt": "i saw",
            "output_response": "a dull film",
            "score": [0.0, 0.25, 0.5],
            "env_extras": {"reward_model": {"ground_truth": "4"}},
        },
        {"score": 0.75, "reference": "4", "token_rewards": [0.0, 0.25, 0.5]},
    ),
    "verifiers": (
        {"nodes": nodes(), "rewards": {"a": {"score": 2.0, "weight": 0.5}, "b": 0.5, "c": None}},
        {"score": 1.5, "log_probs": [-1.0, -2.0, -3.0, 0.0, 0.0, -4.0, -5.0], **TALK},
    ),
    "verifiers' results": (
        {
            "example_id": 0,
            "prompt": [{"role": "user", "content": "i saw"}],
            "completion": [
                {"role": "assistant", "content": "a dull film"},
                {"role": "tool", "content": "a film"},
            ],
            "answer": "dull",
            "info": {"year": 1999, "cast": ["b"]},
            "reward": 0.25,
            "metrics": {"has_answer": 1.0},
        },
        {
            **{"score": 0.25, "reference": "dull", "response_ids": (*ANSWER,)},
            "metadata": {"example_id": 0, "answer": "dull", "year": 1999},
        },
    ),
    "nemo gym, texts": (
        gym_row(
            *(REASON, CALL, OUTPUT, said("a dull film")),
            expected_answer=4,
            verifier_metadata={"level": "easy"},
        ),
        {
            **{"score": 1.0, "reference": "4", "response_ids": (*ANSWER,)},
            "metadata": {"level": "easy", "_ng_task_index": 0, "expected_answer": 4},
        },
    ),
    "nemo gym, tokens": (
        gym_row(
            *(REASON, gym_item(PROMPT, ANSWER), OUTPUT),
            gym_item([*PROMPT, *ANSWER, *REPLY], REPLY),
        ),
        {"score": 1.0, "log_probs": [-1.0, -1.0, -1.0, 0.0, 0.0, -1.0, -1.0], **TALK},
    ),
    "openenv": (
        {"turns": [turn(PROMPT, ANSWER), turn([*PROMPT, *ANSWER, *REPLY], REPLY)], "reward": 1.0},
        {"score": 1.0, "log_probs": [-1.0, -1.0, -1.0, 0.0, 0.0, -1.0, -1.0], **TALK},
    ),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_file_is_known_by_its_content(kind: str, tmp_path: Path) -> None:
    row, expected = ROWS[kind]
    (episode,), left_out = read_traces(stored(tmp_path, row), TOKENIZER)
    assert left_out == []
    assert (episode.prompt, episode.prompt_ids) == ("i saw", (*PROMPT,))
    for name, value in expected.items():
        found = getattr(episode, name)
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == value, name
    assert is_foreign(tmp_path)


def test_trls_table_pays_every_token_its_advantage(tmp_path: Path) -> None:
    completion = [{"role": "assistant", "content": "a dull film"}]
    table = {
        "step": [1, 1],
        "prompt": ["i saw", "i saw"],
        "completion": [completion, completion],
        "by_length": [2.0, 2.0],
        "by_words": [1.0, float("nan")],
        "advantage": [0.5, -0.5],
    }
    (tmp_path / "completions").mkdir()
    file = tmp_path / "completions" / "completions_00001.parquet"
    pd.DataFrame(table).to_parquet(file)
    (first, second), _ = read_traces(tmp_path, TOKENIZER)
    assert first.token_rewards is not None
    assert (first.score, first.token_rewards.tolist()) == (3.0, [0.5] * 3)
    assert second.score == 2.0  # a reward function that had nothing to say
    assert is_foreign(tmp_path)


def test_rows_that_cannot_be_read_get_one_line_each(tmp_path: Path) -> None:
    branched = [*nodes(), {"parent": 0, "token_ids": [5], "mask": [True]}]
    torn = {"turns": [turn(PROMPT, ANSWER), turn(REPLY, ANSWER)]}
    rows: list[Any] = [
        ROWS["verl"][0],
        {"question": "i saw"},
        {"nodes": branched},
        torn,
        {"prompt": "i saw", "response": "a dull film", "rewards": [1.0]},
        {"prompt": "i saw", "response": "a dull film", "rewards": [1.0, None, 0.0]},
        {"prompt": "i saw", "response": ""},
        gym_row(gym_item(PROMPT, ANSWER), gym_item(REPLY, ANSWER)),
        gym_row(REASON, CALL),
    ]
    episodes, left_out = read_traces(stored(tmp_path, *rows), TOKENIZER)
    assert len(episodes) == 1
    for line, reason in zip(
        left_out,
        (
            "row 2 of the file traces.jsonl: no known format has the columns 'question'",
            "row 3 of the file traces.jsonl: the trace branches",
            "row 4 of the file traces.jsonl: call 1 does not begin",
            "row 5 of the file traces.jsonl: 1 rewards for 3 response tokens",
            "row 6 of the file traces.jsonl: the reward of response token 1 is no finite number",
            "row 7 of the file traces.jsonl: there is no response",
            "row 8 of the file traces.jsonl: call 1 does not begin",
            "row 9 of the file traces.jsonl: there is no response",
        ),
        strict=True,
    ):
        assert reason in line
    with pytest.raises(ValueError, match=r"no traces.*known"):
        read_traces(stored(tmp_path), TOKENIZER)


def test_a_response_begins_with_the_policys_first_token(tmp_path: Path) -> None:
    """What a trainer forced before it is read as a part of the prompt."""
    row = {
        "prompt": "i saw",
        "prompt_ids": PROMPT,
        "response_ids": [*REPLY, *ANSWER],
        "response_mask": [0, 0, 1, 1, 1],
        "rewards": [9.0, 9.0, 0.0, 1.0, 2.0],
        "reward": 3.0,
    }
    none = {**row, "response_mask": [0] * 5}
    (episode,), (reason,) = read_traces(stored(tmp_path, row, none), TOKENIZER)
    assert (episode.prompt, episode.response) == ("i saw a film", "a dull film")
    assert episode.prompt_ids == (*PROMPT, *REPLY)
    assert (episode.response_ids, episode.written) == ((*ANSWER,), None)
    assert episode.token_rewards is not None
    assert episode.token_rewards.tolist() == [0.0, 1.0, 2.0]
    assert "the policy wrote none of its tokens" in reason


def test_a_replay_shows_what_the_trainer_paid_beside_the_rules(tmp_path: Path) -> None:
    row: dict[str, Any] = {"nodes": nodes(), "reward": 1.0}
    row["nodes"][3]["advantages"] = [0.25, 0.25]
    episodes, _ = load_episodes(stored(tmp_path, row), env="MovieReview")
    result = replay(episodes, ["sparse", "uniform"], env="MovieReview", paid_by="trainer")
    assert list(result.credits) == ["sparse", "uniform", "trainer"]
    assert result.credits["trainer"][0].tolist() == [0.5, -0.5, 0.0, 0.0, 0.0, 0.25, 0.25]
    assert result.scores["trainer"].tolist() == [1.0]
    assert not result.credits["uniform"][0][3:5].any()  # what the policy did not write


def test_rewards_that_did_not_run_are_no_score(tmp_path: Path) -> None:
    row = {"nodes": nodes(), "rewards": {"a": None}}
    ((episode,), _) = read_traces(stored(tmp_path, row), TOKENIZER)
    assert episode.score is None


def test_own_prompts_and_scorer_have_no_truth_of_the_tasks(tmp_path: Path) -> None:
    episodes, _ = load_episodes(stored(tmp_path, ROWS["plain"][0]), env="MovieReview")
    own = {"prompts": ["i saw"], "scorer": FunctionScorer(lambda response: float(len(response)))}
    result = replay(episodes, ["uniform"], env="MovieReview", env_kwargs=own, paid_by="trainer")
    assert (result.truth, result.agreements) == (None, {})
    assert replay(episodes, ["uniform"], env="MovieReview").truth is not None


def test_texts_with_a_model_and_a_scorer_of_their_own_need_no_task(tmp_path: Path) -> None:
    file = stored(tmp_path, ROWS["plain"][0])
    own = TaskSettings(tokenizer=str(bundled("movie_review").path / "policy"), scorer="vader")
    env, kwargs = others_task(file, None, task=own, trust_code=False)
    assert env == "tokengym/TokenGeneration-v0"
    assert [prompt.text for prompt in kwargs["prompts"]] == ["i saw"]
    env, kwargs = others_task(file, None, task=TaskSettings(), trust_code=False)
    assert (env, "prompts" in kwargs) == ("tokengym/MovieReview-v0", False)


def test_rows_with_ids_are_another_trainers_too(tmp_path: Path) -> None:
    """Without what `Episode.to_record` writes: its mask and rewards are read."""
    ids = [*ANSWER, *REPLY]
    row = {"prompt": "i saw", "response": "x", "prompt_ids": PROMPT, "response_ids": ids}
    file = stored(tmp_path, {**row, "mask": [1, 1, 1, 0, 0], "rewards": [1.0] * 5})
    assert is_foreign(file)
    ((episode,), _) = load_episodes(file, env="MovieReview")
    assert episode.written is not None
    assert episode.written.tolist() == [1, 1, 1, 0, 0]
    stored(tmp_path, {**row, "response_ids": [10**6]})
    with pytest.raises(ValueError, match=r"1000000.*tokenizer"):
        load_episodes(file, env="MovieReview")
    for wrong in ({"nodes": nodes(), "rewards": [1]}, {**ROWS["skyrl"][0], "env_extras": "none"}):
        assert len(read_traces(stored(tmp_path, ROWS["verl"][0], wrong), TOKENIZER)[1]) == 1


def test_what_else_a_row_has_reaches_a_scoring_function(tmp_path: Path) -> None:
    row = {"prompt": "i saw", "response": "a dull film", "answer": "dull"}
    ((episode,), _) = read_traces(stored(tmp_path, row), TOKENIZER)
    scorer = FunctionScorer(lambda response, answer: float(answer in response))
    assert scorer.score([episode]).values.tolist() == [1.0]
