# mypy: no-check-untyped-defs
"""A scoring function gets what its parameters name, or is refused when it is given."""

import copy
import functools
import inspect
import json
import re

import gymnasium as gym
import pytest
from tokenizers import AddedToken

from tests.support.rewards.common import make_episode
from tokengym.agents.offline.collecting import ResponseCollector
from tokengym.envs import Prompt
from tokengym.envs.prompts.datasets import DatasetError
from tokengym.rewards import (
    Cached,
    CreditReward,
    FunctionScorer,
    Normalize,
    ScorerError,
    WithAttribution,
)
from tokengym.rewards.arguments import FIELDS
from tokengym.rewards.scorers.base import Scorer, _say_hidden

EPISODE = make_episode(
    prompt="P", response="R", reference="G", metadata={"level": 3, "answer": "A", "empty": None}
)


def given(function):
    """Return what a function is called with for `EPISODE`."""
    seen = {}

    def spy(*by_place, **by_name):
        seen.update(by_name, by_place=by_place)
        return 1.0

    spy.__signature__ = inspect.signature(function)
    FunctionScorer(spy).score([EPISODE])
    return seen.pop("by_place"), seen


class Method:
    def score_it(self, response, answer): ...


def decorated(function):
    @functools.wraps(function)
    def inner(*arguments, **options):
        return function(*arguments, **options)

    return inner


PAIR = ("P", "R")


@pytest.mark.parametrize(
    ("function", "by_place", "by_name"),
    [
        (lambda p, r: 0, PAIR, {}),
        (lambda _, text: 0, PAIR, {}),
        (lambda prompt, text: 0, PAIR, {}),
        (lambda response, prompt: 0, (), {"prompt": "P", "response": "R"}),
        (lambda response, reference: 0, (), {"response": "R", "reference": "G"}),
        (lambda p, r, reference: 0, PAIR, {"reference": "G"}),
        (lambda p, r, /, answer: 0, PAIR, {"answer": "A"}),
        (lambda response, query_type: 0, (), {"response": "R", "query_type": None}),
        (lambda response, empty: 0, (), {"response": "R", "empty": None}),
        (lambda p, r, *, level=1: 0, PAIR, {"level": 3}),
        (lambda p, r, lacking=1, empty=2, query_type="X": 0, PAIR, {}),
        (lambda *texts: 0, PAIR, {}),
        (lambda *arguments, **options: 0, PAIR, {}),  # hands on what it gets
        (functools.partial(lambda weight, p, r: 0, 2.0), PAIR, {}),
        (Method().score_it, (), {"response": "R", "answer": "A"}),
        (decorated(lambda response, level: 0), (), {"response": "R", "level": 3}),
        (lambda response_ids: 0, (), {"response_ids": EPISODE.response_ids}),
    ],
)
def test_parameters_get_what_they_name(function, by_place, by_name):
    assert given(function) == (by_place, by_name)


def test_the_rest_gets_everything_that_no_parameter_names():
    place, named = given(lambda p, r, level, **rest: 0)
    assert place == PAIR
    assert named.keys() == {"level", "answer", "empty", *FIELDS} - {"prompt", "response"}
    _, named = given(lambda **columns: 0)
    assert named.keys() == {"level", "answer", "empty", *FIELDS}


def test_what_a_partial_has_fixed_stays():
    fixed = functools.partial(lambda p, r, level: level, level=9)
    assert FunctionScorer(fixed).score([EPISODE]).values.tolist() == [9.0]
    assert FunctionScorer(fixed).data_columns == {"p": False, "r": False}  # where there are such


@pytest.mark.parametrize(
    "function",
    [
        lambda text: 0,
        lambda prompt: 0,
        lambda reference, text: 0,
        lambda text, prompt: 0,
        lambda: 0,
        functools.partial(lambda p, r: 0, 1.0),
    ],
)
def test_a_function_without_the_response_is_refused_when_it_is_given(function):
    with pytest.raises(TypeError, match=r"none.*parameter 'resp"):
        FunctionScorer(function)


def wants_answer(response, answer):
    return float(answer in response)


class Explainer(Scorer):
    attribution_kinds = frozenset({"attention"})

    def score(self, episodes, *, attribution=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    "scorer",
    [
        FunctionScorer(wants_answer),
        Normalize(wants_answer),
        Cached(wants_answer),
        FunctionScorer(wants_answer) + 1.0,
        FunctionScorer(lambda p, r: 0) * FunctionScorer(wants_answer),
        WithAttribution(wants_answer, Explainer()),
    ],
)
def test_a_column_that_the_data_lack_is_named_before_anything_is_played(make_envs, scorer):
    envs = make_envs(prompts=[Prompt("a b", "c", metadata={"level": 1})])
    for play in (CreditReward, lambda envs, scorer: ResponseCollector(envs, scorer=scorer)):
        with pytest.raises(ScorerError, match=r"'answer'.*prompt, .*level, reference"):
            play(envs, scorer)
    CreditReward(make_envs(prompts=[Prompt("a b", metadata={"answer": "c"})]), scorer)


def test_a_prompt_of_a_reset_that_lacks_the_column_is_named(make_env):
    env = CreditReward(make_env(prompts=[Prompt("a", metadata={"answer": "c"})]), wants_answer)
    env.reset(options={"prompt": "b"})
    with pytest.raises(ScorerError, match=r"'answer'.*'b'"):
        env.step(1)


OPTIONS = {"prompt_column": "question", "split": "all", "prompt_tokens": 4, "max_new_tokens": 1}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "questions.jsonl"
    row = {"question": "what is 1 ?", "reference": "it", "level": 2, "topic": None}
    path.write_text("".join(f"{json.dumps({**row, 'item': i})}\n" for i in range(4)))
    (tmp_path / "mine.py").write_text(
        "def leveled(response, level): return float(level)\n"
        "def lacking(response, levle): return 0.0\n"
        "def make(factor): return lambda response, level: factor * level\n"
    )
    return path


@pytest.mark.parametrize(
    ("function", "columns", "reference"),
    [
        (lambda response, level: level, {"level"}, None),
        (lambda response, reference: len(reference), set(), "it"),
        (lambda response, level=0, lacking=0: level, {"level"}, None),
        (lambda p, r, **rest: rest["item"] * 0, {"question", "level", "topic", "item"}, "it"),
    ],
)
def test_columns_are_read_from_the_data_because_a_function_names_them(
    table, function, columns, reference
):
    env = gym.make("tokengym/QuestionAnswer-v0", dataset=table, reward=function, **OPTIONS)
    env.reset(options={"prompt_id": 0})
    info = env.step(5)[4]
    assert set(info["metadata"]) == columns
    assert info["reference"] == reference


def test_functions_of_files_name_columns_too(table, tmp_path):
    def score(word):
        pays = {"reward": "sparse", "scorer": f"{tmp_path / 'mine.py'}:{word}"}
        env = gym.make("tokengym/QuestionAnswer-v0", dataset=table, **OPTIONS, **pays)
        env.reset(seed=0)
        return env.step(5)[1]

    assert score("leveled") == 2.0
    assert score("make:factor=3") == 6.0
    message = r"'levle'.*'question', 'reference', 'level'"
    with pytest.raises(DatasetError, match=message):
        score("lacking")


def test_a_column_of_references_under_another_name_is_asked_for(table):
    path = table.with_suffix(".csv")
    path.write_text("prompt,gold\nwhat is 1 ?,it\nwhat is 2 ?,it\n")
    options = {"dataset": path, "split": "all", "reward": lambda response, reference: 0.0}
    with pytest.raises(DatasetError, match=r"'reference', .*'gold'.*reference_column="):
        gym.make("tokengym/QuestionAnswer-v0", **options)
    gym.make("tokengym/QuestionAnswer-v0", reference_column="gold", **options)


@pytest.mark.parametrize(
    "function",
    [
        lambda completion, answer: float(answer in completion),
        lambda completion, answer, **rest: float(answer in completion and "prompt" in rest),
        lambda _, response, answer: float(answer in response and _ == "P"),
    ],
)
def test_a_completion_is_the_response_as_other_trainers_call_it(function):
    one = make_episode(prompt="P", response="it is red", metadata={"answer": "red"})
    assert FunctionScorer(function).score([one]).values.tolist() == [1.0]


def test_beside_the_response_a_completion_is_a_column():
    scorer = FunctionScorer(lambda response, completion: float(completion == "gold"))
    assert scorer.data_columns == {"completion": True}
    one = make_episode(prompt="P", response="R", metadata={"completion": "gold"})
    assert scorer.score([one]).values.tolist() == [1.0]


def test_a_pair_by_place_is_no_column_of_the_data():
    scorer = FunctionScorer(lambda text, answer: float(answer in text))
    assert scorer.data_columns == {"text": False, "answer": False}
    scorer.score([make_episode(prompt="P", response="R")])  # as prompt and response
    with pytest.raises(ScorerError, match=r"by their places.*'answer'"):
        scorer.score([make_episode(prompt="P", response="R", metadata={"answer": "red"})])
    with pytest.raises(TypeError, match=r"'completions'.*one episode"):
        FunctionScorer(lambda completions, **kwargs: 1.0)


THINKS = re.compile(r"<think>.*</think>")
OPENED = "<think>"


def by_constant(response):
    return float("<think>" in response)


def by_pattern(prompt, completion):
    """Look for <other> in vain."""
    return float(bool(THINKS.search(completion)))


def within(response):
    return sum(OPENED in line for line in response.split())


def by_default(response, opened="<think>"):
    return float(response.startswith(opened))


def made(tag):
    return lambda p, r: float(tag in r)


class Called:
    def __call__(self, response):
        return float(re.match(r"\<think\>", response) is not None)


def by_id(response, response_ids):
    return float(7 in response_ids and "<think>" not in response)


def of_other(response):
    """<think> stands here alone."""
    return float("<answer>" in response)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        *((f, True) for f in (by_constant, by_pattern, within, by_default, made("<think>"))),
        (Called(), True),
        (functools.partial(by_default, opened="a <think> b"), True),
        *((f, False) for f in (by_id, of_other, made("<b>"), lambda **rest: "<think>", len)),
    ],
)
def test_a_function_that_looks_for_what_no_text_shows_is_named(function, told, caplog, tokenizer):
    _say_hidden.cache_clear()
    flagged = copy.deepcopy(tokenizer)
    flagged.backend_tokenizer.add_special_tokens([AddedToken("<think>", special=True)])
    assert "<think>" not in flagged.all_special_tokens  # the file alone knows that it is special
    if function is len:
        function = lambda response, sized=len: sized(response)  # noqa: E731 (no code of its own)
    scorer = FunctionScorer(function)
    with caplog.at_level("WARNING"):
        assert scorer.bind(tokenizer) is scorer
        assert not caplog.records
        for _ in range(2):
            scorer.bind(flagged)
    assert [r.getMessage().count("'<think>', a special token") for r in caplog.records] == [
        1
    ] * told


def test_what_a_function_changes_is_as_it_was_for_the_next_episode():
    def by_name(response, tests, known):
        tests.append(len(tests))
        known["cases"].append(1)
        return len(tests) + len(known["cases"])

    def of_all(response, **rest):
        rest["tests"].append(0)
        rest["metadata"]["known"]["cases"].append(0)
        return len(rest["tests"]) + len(rest["known"]["cases"])

    columns = {"tests": [1, 2], "known": {"cases": [3]}}
    episodes = [make_episode(metadata=columns)] * 3
    assert FunctionScorer(by_name).score(episodes).values.tolist() == [5, 5, 5]
    # One copy for an episode: what is named twice is one list.
    assert FunctionScorer(of_all).score(episodes).values.tolist() == [5, 5, 5]
    assert columns == {"tests": [1, 2], "known": {"cases": [3]}}


class Costly(list[str]):
    """A column that counts its copies."""

    copies = 0

    def __deepcopy__(self, memo: object) -> "Costly":
        type(self).copies += 1
        return Costly(self)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda response: 1.0, 0),
        (lambda response, level: 1.0, 0),
        (lambda response, tests: 1.0, 1),
        (lambda response, metadata: 1.0, 1),
        (lambda response, **rest: 1.0, 1),
    ],
)
def test_a_column_is_copied_where_it_is_read(function, expected, monkeypatch):
    episode = make_episode(metadata={"level": 3, "tests": Costly(["a"])})
    scorer = FunctionScorer(function, name="mine")
    monkeypatch.setattr(Costly, "copies", 0)
    scorer.score([episode])
    assert Costly.copies == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda scores, response_mask: scores,
        lambda scores, attention: scores,
        lambda response_ids, response_mask: 0.0,
    ],
)
def test_a_rule_that_is_not_marked_is_told_how(function):
    """It was called as a scorer, with a prompt in the place of the scores."""
    with pytest.raises(ScorerError, match=r"as a rule of credit does.*@tokengym.token_credit"):
        gym.make("tokengym/MovieReview-v0", reward=function)


def test_a_column_called_scores_is_a_scorers():
    def near(response, scores):
        return len(response) - scores

    assert FunctionScorer(near).data_columns == {"scores": True}
