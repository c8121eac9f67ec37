"""Episodes under every credit: stored or played, on a page, in a file, against the truth."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console

from tests.support.lab.replay import replay_of
from tokengym.agents import PPO, RandomAgent, collect
from tokengym.base import files
from tokengym.base.files import write_jsonl
from tokengym.envs import Episode, ForksEnv, OracleEnv
from tokengym.evaluation.runs.settings import TaskSettings
from tokengym.evaluation.runs.trusted import known_task
from tokengym.lab.commands.show import show_replay
from tokengym.lab.learners.oracle import policy_table
from tokengym.lab.replay.agreement import Agreement, rank_correlation
from tokengym.lab.replay.page import (
    figure_columns,
    figure_rows,
    headline,
    render_replay,
    same_scores,
)
from tokengym.lab.replay.replay import (
    Replay,
    Truth,
    is_foreign,
    load_episodes,
    replay,
    replay_stored,
    stored_prompts,
    token_truth,
    usual_rewards,
    write_credit,
)
from tokengym.lab.replay.rescoring import write_scores

ENV = "tokengym/MovieReview-v0"
RULES = ("sparse", "uniform", "abc:beta=1", "red")


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    envs = gym.make_vec(ENV, num_envs=6, split="test", max_new_tokens=12)
    return collect(RandomAgent(envs.single_action_space, seed=0), envs, 6, seed=0)


@pytest.fixture(scope="module")
def replayed(episodes: list[Episode]) -> Replay:
    return replay(episodes, RULES, env="MovieReview", source="Played at random")


def test_every_rule_pays_the_same_score(replayed: Replay, episodes: list[Episode]):
    assert tuple(replayed.credits) == RULES
    for name in RULES:
        played = [float(episode.score or 0.0) for episode in episodes]
        np.testing.assert_allclose(replayed.scores[name], played, rtol=1e-5)
        for row, episode in zip(replayed.credits[name], episodes, strict=True):
            assert row.shape == (len(episode.response_ids),)
            assert row.sum() == pytest.approx(episode.score, rel=1e-4, abs=1e-5)
    for row, score in zip(replayed.credits["uniform"], played, strict=True):
        np.testing.assert_allclose(row, score / len(row), rtol=1e-5)
    assert same_scores(replayed)
    assert figure_columns(replayed)[:2] == ["Score", "Rank corr."]


def test_rules_are_held_to_the_gold_words(replayed: Replay):
    assert replayed.truth is not None
    assert replayed.truth.name == "gold word weights"
    pairs = list(zip(replayed.credits["red"], replayed.truth.values, strict=True))
    expected = np.mean([rank_correlation(*pair) for pair in pairs if np.ptp(pair[1]) > 0])
    assert replayed.agreements["red"].correlation == pytest.approx(expected)
    assert replayed.agreements["red"].correlation > replayed.agreements["uniform"].correlation
    assert headline(replayed).startswith("Closest to the gold word weights: red (0.")


def agreeing(correlation: float, low: float, high: float, responses: int = 9) -> Agreement:
    return Agreement(
        correlation=correlation,
        low=low,
        high=high,
        pooled=0.5,
        share=0.5,
        signs=0.5,
        ceiling=0.9,
        responses=responses,
    )


def test_rules_that_are_not_told_apart_are_level(replayed: Replay):
    def said(**agreements: Agreement) -> str:
        return headline(replace(replayed, agreements=agreements))

    above, tied, below = agreeing(0.6, 0.5, 0.7), agreeing(0.6, 0.5, 0.7), agreeing(0.2, 0.1, 0.3)
    best = "Closest to the gold word weights: a (0.600)"
    assert said(a=above, b=tied, c=below) == f"{best}, level with b (0.600), then c (0.200)."
    assert said(b=agreeing(0.55, 0.45, 0.65), a=above) == f"{best}, level with b (0.550)."
    assert said(a=above, b=below) == f"{best}, then b (0.200)."
    few = replace(above, responses=4), replace(below, responses=4)
    assert said(a=few[0], b=few[1]) == f"{best}, level with b (0.200)."
    page = render_replay(replace(replayed, agreements=dict.fromkeys(RULES, few[0])))
    assert "0.500 to 0.700" not in page


def test_the_figures_fit_a_terminal_of_80_columns(replayed: Replay):
    name = "my_rules_of_credit.py:divide_by_what_the_reader_remembers"
    renamed = {
        part: {name if rule == "red" else rule: one for rule, one in found.items()}
        for part in ("credits", "scores", "scorers", "agreements")
        if (found := getattr(replayed, part))
    }
    changed: Any = renamed
    result = replace(replayed, **changed)
    printed = io.StringIO()
    show_replay(Console(width=80, file=printed, color_system=None), result, 0, Path("out"))
    said = printed.getvalue()
    assert max(map(len, said.splitlines())) <= 80
    for title, cell in zip(figure_columns(result), figure_rows(result)[-1]["cells"], strict=True):
        assert title.lower() in said
        assert f" {cell}" in said


def test_responses_without_a_word_that_counts_have_no_agreement(episodes: list[Episode]):
    the = episodes[0].prompt_ids[0]
    plain = Episode(prompt="a", response="the the", prompt_ids=(5,), response_ids=(the, the))
    result = replay([plain], RULES, env="MovieReview")
    assert result.truth is not None
    assert not result.truth.values[0].any()
    assert result.agreements == {}
    assert headline(result) == "Token rewards of 4 rules for the same 1 responses."
    assert figure_columns(result) == ["Score", "Spread", "Charged"]
    assert render_replay(result).count('<div class="line truth">') == 1


def test_rules_of_different_scorers_are_told_apart():
    envs = gym.make_vec("tokengym/QuestionAnswer-v0", num_envs=2, split="test", max_new_tokens=6)
    answers = collect(RandomAgent(envs.single_action_space, seed=0), envs, 2, seed=0)
    result = replay(answers, ["r3-dense", "uniform"], env="QuestionAnswer")
    assert same_scores(result)  # both by relevance
    changed = replace(result, scores={**result.scores, "uniform": np.array([5.0, 6.0])})
    assert figure_columns(changed)[:2] == ["Score", "Scorer"]
    page = render_replay(changed)
    assert "only the credit differs" not in page
    assert "score 6.00" in page
    assert changed.truth is None
    assert headline(changed) == "Token rewards of 2 rules for the same 2 responses."


def by_hand(credits: dict[str, list[float]], truth: list[float], written: list[int]) -> Replay:
    """Return a replay of one response."""
    ids = tuple(range(3, 3 + len(truth)))
    episode = Episode(
        prompt="a", response="b", prompt_ids=(1,), response_ids=ids, written=np.array(written)
    )
    bare = replay_of(episode, "x" * len(ids), credits, 1.0)
    worth = np.array(truth)
    held_to = Truth(name="truth", values=(worth,), matters=(worth != 0,), meaning="any")
    return bare.with_truth(held_to)


def test_figures_of_a_conversation_are_of_the_written_tokens():
    credits = {"alike": [0.25] * 4 + [0.0] * 6}
    result = by_hand(credits, [1.0, 0.5, *[0.0] * 8], [1] * 4 + [0] * 6)
    page = render_replay(result)
    assert result.agreements["alike"].share == 0.5
    assert "all tokens gives 50%" in page
    assert "the truth 0.00" in page
    assert result.agreements["alike"].correlation == 0.0


def test_what_only_replies_are_worth_is_no_truth_of_the_policy():
    result = by_hand({"alike": [1.0, 0.0]}, [0.0, 1.0], [1, 0])
    assert result.agreements == {}
    assert "On target" not in render_replay(result)


def test_rules_that_do_not_sum_to_the_score_are_named():
    result = by_hand({"sparse": [0.0, 1.0], "pure": [0.5, -0.5]}, [0.0, 0.0], [1, 1])
    assert "other than pure sum" in render_replay(result)


def test_the_page_loads_nothing_and_runs_nothing(replayed: Replay):
    page = render_replay(replayed, num_episodes=4)
    assert page == render_replay(replayed, num_episodes=4)
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page
    assert page.count('class="card episode"') == 4
    assert "2 more responses" in page
    assert page.count('<div class="line truth">') == 4
    for name in RULES:
        assert page.count(f"<b>{name}</b>") == 4


def test_the_heat_map_is_one_call(replayed: Replay):
    figure = replayed.heat_map(1)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["truth", *RULES]
    words = [label.get_text() for label in axes.get_xticklabels()]
    assert words == [text.strip() for text in replayed.tokens[1]]
    shares = np.asarray(axes.images[0].get_array())
    red = replayed.credits["red"][1]
    np.testing.assert_allclose(shares[-1], red / np.abs(red).max())
    assert np.isfinite(shares).all()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_hostile_texts_stay_texts():
    attack = '"><script>alert(1)</script>&\x1b[2J\u202e'
    episode = Episode(prompt=attack, response=attack, prompt_ids=(3,), response_ids=(4, 5))
    hostile = replay_of(episode, (attack, " <i>"), {"<u>": [0.25, -0.5]}, 1.0)
    page = render_replay(hostile)
    assert not re.search(r"<(script|i|u|s|b)>(alert|there|\")", page)
    assert "<u>" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    # The strongest token has the full colour; both carry their numbers.
    assert 'class="token gain" style="--v:0.50" title="+0.250"' in page
    assert 'class="token loss" style="--v:1.00" title="\u22120.500"' in page
    assert headline(hostile) == "Token rewards of 1 rules for the same 1 responses."


def test_credit_csv_has_a_row_per_token(replayed: Replay, tmp_path: Path):
    path = tmp_path / "credit.csv"
    write_credit(path, replayed)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert list(rows[0]) == ["episode", "token", "token_id", "text", "truth", *RULES]
    assert len(rows) == sum(len(episode.response_ids) for episode in replayed.episodes)
    third = [row for row in rows if row["episode"] == "2"]
    assert [int(row["token_id"]) for row in third] == list(replayed.episodes[2].response_ids)
    got = [float(row["abc:beta=1"]) for row in third]
    np.testing.assert_allclose(got, replayed.credits["abc:beta=1"][2], rtol=1e-6)


def test_stored_episodes_are_read_back(episodes: list[Episode], tmp_path: Path):
    records = [episode.to_record() for episode in episodes]
    old = {key: value for key, value in records[0].items() if key != "prompt_ids"}
    folder = tmp_path / "abc" / "seed-0"
    folder.mkdir(parents=True)
    stored(folder / "episodes.jsonl", [old, *records])
    assert load_episodes(tmp_path, env=ENV) == ([episodes[0], *episodes], [])
    assert load_episodes(folder / "episodes.jsonl", env=ENV, limit=2)[0] == [episodes[0]] * 2


def stored(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_responses_that_are_alike_are_each_a_response(episodes: list[Episode], tmp_path: Path):
    often = {**episodes[0].to_record(), "score": 1.0, "reference": "a"}
    other = {**episodes[1].to_record(), "score": 0.0}
    rows = [often, often, often, {**often, "reference": "b"}, other, other]
    path = stored(tmp_path / "rows.jsonl", rows)
    found, left_out = load_episodes(path, env=ENV)
    assert [(e.score, e.reference) for e in found] == [(r["score"], r["reference"]) for r in rows]
    assert left_out == []
    result = replay(found, ["uniform"], env=ENV)
    assert result.read.stored.mean() == pytest.approx(4 / 6)
    # A response without a token has no credit to show; it is said.
    empty = {**often, "response": "", "response_ids": [], "token_rewards": None, "log_probs": None}
    found, left_out = load_episodes(stored(path, [*rows, empty]), env=ENV)
    assert (len(found), left_out) == (6, ["responses without a token: 1"])


def test_a_draw_that_runs_of_a_comparison_share_is_read_once(
    episodes: list[Episode], tmp_path: Path
):
    record = episodes[0].to_record()
    size = len(record["response_ids"])

    def run(name: str, last: float, seed: int = 0) -> None:
        drawn = {**record, "seed": seed, "sample": 0}
        first = {**drawn, "step": 0, "log_probs": [-1.0] * size}
        stored(
            tmp_path / name / f"seed-{seed}" / "episodes.jsonl",
            [first, first, {**drawn, "step": 9, "log_probs": [last] * size}],
        )

    run("abc", -0.5)
    run("sparse", -0.25)
    run("sparse", -0.5, seed=1)
    found, left_out = load_episodes(tmp_path, env=ENV)
    assert [round(float(e.log_probs[0]), 2) for e in found if e.log_probs is not None] == [
        *(-1.0, -1.0, -0.5, -0.25, -1.0, -1.0, -0.5)
    ]
    assert left_out == ["responses that another run of the same seed drew from the same policy: 2"]


def test_no_more_rows_are_read_than_are_wanted(
    episodes: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scored = replace(
        episodes[0], score=1.0, token_rewards=np.ones(len(episodes[0].response_ids), np.float32)
    )
    record = {**scored.to_record(), "tokens": ["a"] * len(scored.response_ids)}
    parsed = list[str]()
    parse = files.parse_json

    def counting(text: str) -> Any:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(files, "parse_json", counting)
    for rows in (50, 100):
        own = stored(tmp_path / "a" / "rows.jsonl", [record] * rows)
        others = stored(tmp_path / "b" / "rows.jsonl", [{"prompt": "a", "response": "b"}] * rows)
        reads: list[tuple[int, Callable[[], object]]] = [
            (1, partial(is_foreign, own)),
            (1, partial(is_foreign, others)),
            (5, partial(load_episodes, own, env=ENV, limit=3)),
            (5, partial(replay_stored, own, ["sparse"], env=ENV, limit=3)),
            (5, partial(load_episodes, others, env=ENV, limit=3)),
            (rows + 1, partial(load_episodes, own, env=ENV)),
            (3, partial(stored_prompts, own, limit=3)),
        ]
        for most, read in reads:
            parsed.clear()
            read()
            assert 0 < len(parsed) <= most


def test_what_is_no_set_of_episodes(episodes: list[Episode], tmp_path: Path):
    with pytest.raises(ValueError, match=r"episodes\.jsonl.*tokengym compare"):
        load_episodes(tmp_path, env=ENV)
    path = tmp_path / "episodes.jsonl"
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(ValueError, match=r"1.*response_ids"):
        load_episodes(path, env=ENV)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"damaged.*remove"):
        load_episodes(path, env=ENV)
    with pytest.raises(ValueError, match="abc, abc"):
        replay(episodes, ["abc", "abc"], env=ENV)
    with pytest.raises(ValueError, match=r"episodes.*got 0"):
        replay([], ["abc"], env=ENV)
    with pytest.raises(ValueError, match=r"unknown reward 'acb'"):
        replay(episodes, ["acb"], env=ENV)
    assert known_task(tmp_path, None)[0] == ENV


@pytest.mark.parametrize(
    ("bundle", "task", "tokens"),
    [("smollm2-reviews", "MovieReview", 24), ("smollm2-answers", "QuestionAnswer", 48)],
)
def test_a_bundle_says_what_it_was_made_for(bundle: str, task: str, tokens: int):
    env, kwargs = known_task(None, None, task=TaskSettings(bundle=bundle))
    assert (env, kwargs["max_new_tokens"]) == (f"tokengym/{task}-v0", tokens)


def test_only_rules_that_the_scorer_allows_are_usual():
    assert usual_rewards(ENV)[:4] == ("sparse", "uniform", "abc", "abc-signed")
    assert "r3-dense" not in usual_rewards(ENV)
    of_answers = usual_rewards("tokengym/QuestionAnswer-v0")
    assert "r3-dense" in of_answers
    assert "abc" not in of_answers


def test_the_oracle_is_its_own_truth():
    env: Any = OracleEnv(max_new_tokens=3)
    film, good = env.tokenizer.convert_tokens_to_ids(["film", "good"])
    episode = Episode(
        prompt="the", response="film good", prompt_ids=(8,), response_ids=(film, good, 1)
    )
    truth = token_truth(env, [episode])
    assert truth is not None
    advantages = env.exact_advantages()
    np.testing.assert_allclose(truth.values[0], advantages.along([film, good, 1]))
    assert truth.name == "exact advantage under random play"
    assert truth.matters[0].tolist() == [True, True, False]  # ending it there changed nothing
    start = env.policy_values().values[()]
    assert truth.values[0].sum() == pytest.approx(1.0 - start)  # the score less what was expected


def test_the_oracle_s_truth_is_of_the_policy_that_played():
    envs: Any = gym.make_vec("tokengym/Oracle-v0", num_envs=4, max_new_tokens=3)
    agent = PPO("CausalLMPolicy", envs, n_minibatches=1, seed=0)
    task = envs.unwrapped
    episodes = collect(agent, envs, 4, seed=0)
    truth: Any = token_truth(task, episodes, agent.policy)
    table = policy_table(agent.policy, task)
    start = task.policy_values(table).values[()]
    for episode, worth, matters in zip(episodes, truth.values, truth.matters, strict=True):
        assert worth.sum() == pytest.approx(episode.score - start, abs=1e-5)
        assert matters.shape == worth.shape
    assert start != pytest.approx(task.policy_values().values[()])  # not that of all tokens alike
    rules = usual_rewards("tokengym/Oracle-v0")
    result: Any = replay(episodes, rules, env="Oracle", policy=agent.policy)
    assert result.truth.name == "exact advantage"
    assert set(result.agreements) == set(rules)


def by_ids(prompt: str, ids: Sequence[int]) -> Episode:
    return Episode(prompt=prompt, response="", prompt_ids=(1,), response_ids=ids)


def test_what_rounding_leaves_is_worth_nothing():
    """Distractors change nothing, but the values on both sides of one are sums of many terms."""
    env: Any = ForksEnv(family="maze", decisions=2, distractors=2, fillers=1, filler_words=3)
    rng, dust = np.random.default_rng(0), 0
    for prompt in [*range(8)] * 5:
        legal = [np.flatnonzero(row) for row in env.prefixes(prompt).legal]
        ids = [int(rng.choice(tokens)) for tokens in legal]
        truth: Any = token_truth(env, [by_ids(env.prompts[prompt].text, ids)])
        (worth,), (matters,) = truth.values, truth.matters
        raw = env.exact_advantages(prompt=prompt).along(ids)
        dust += int(((raw != 0) & (abs(raw) < 1e-9)).sum())
        np.testing.assert_allclose(worth, raw, atol=1e-12)
        assert matters.tolist() == (abs(raw) > 1e-9).tolist()
        assert (worth[~matters] == 0).all()
    assert dust
    oracle: Any = OracleEnv(max_new_tokens=4)
    raw = oracle.exact_advantages()
    ended = np.argwhere((raw.array != 0) & (abs(raw.array) < 1e-9))
    assert len(ended)
    for row, token in ended.tolist():
        truth = token_truth(oracle, [by_ids("the", (*raw.states[row], token))])
        assert truth.values[0][-1] == 0.0


def test_stored_responses_without_a_score_are_left_out_and_said(tmp_path: Path) -> None:
    def row(token: int, score: float | None) -> dict[str, Any]:
        rewards = None if score is None else np.array([score])
        episode = Episode(
            prompt="a",
            response="b",
            prompt_ids=[1],
            response_ids=[token],
            score=score,
            token_rewards=rewards,
        )
        return {**episode.to_record(), "tokens": [str(token)]}

    path = tmp_path / "episodes.jsonl"
    write_jsonl(path, [row(5, 1.0), row(6, None), row(7, 2.0), row(8, 3.0)])
    shown = replay_stored(path, ["sparse"], env="MovieReview", limit=3)
    assert [row.tolist() for row in shown.credits["sparse"]] == [[1.0], [2.0]]
    assert (shown.tokens, shown.numbers) == ((("5",), ("7",)), (0, 2))
    assert shown.source.startswith(
        f"Stored in {path}, the first 3; left out: responses without a score: 1; nothing was scored"
    )
    write_credit(tmp_path / "credit.csv", shown)
    write_scores(tmp_path / "scores.csv", shown)
    credit, scores = (
        [*csv.DictReader((tmp_path / name).read_text().splitlines())]
        for name in ("credit.csv", "scores.csv")
    )
    assert [(row["episode"], row["sparse"]) for row in credit] == [("0", "1"), ("2", "2")]
    found = [(row["episode"], row["the run's scorer"]) for row in scores]
    assert found == [("0", "1"), ("1", ""), ("2", "2")]
    write_jsonl(path, [row(6, None)])
    with pytest.raises(ValueError, match=r"no episode in .* has a score and token_rewards"):
        replay_stored(path, env="MovieReview")
