"""The classifier of query types: its features, its accuracy, and what it fills in."""

from tokengym.envs import Prompt, PromptSet, bundled
from tokengym.envs.prompts.query_types import (
    BUCKETS,
    WEIGHTS,
    features,
    fill_query_types,
    predict_query_types,
)
from tokengym.envs.tasks.task import TaskOptions, find_task, task_arguments
from tokengym.lab.makers.bundles.query_types import fit, right


def test_features_are_a_set_of_places() -> None:
    found = features("Why, why?")  # 3 words and signs, 3 pairs, 3 places, the beginning
    assert len(found) == 10
    assert found == sorted(set(found))
    assert 0 <= min(found) <= max(found) < BUCKETS
    assert features("WHY, WHY?") == found
    assert features("") == features("  ")


def test_held_out_bundled_questions() -> None:
    prompts = bundled("question_answer").prompts("test")
    found = predict_query_types([prompt.text for prompt in prompts])
    right = sum(a == b.query_type for a, b in zip(found, prompts, strict=True))
    assert right >= 0.98 * len(prompts) > 200


def test_only_missing_types_are_filled_in() -> None:
    capital = "What is the capital of France?"
    prompts = PromptSet(
        [
            Prompt(capital, "Paris."),
            Prompt(capital),  # without a reference there is nothing to compare an answer with
            Prompt("Write a poem about the sea.", "Waves."),
            Prompt(capital, "Paris.", "OPENENDED"),
        ]
    )
    found = [prompt.query_type for prompt in fill_query_types(prompts)]
    assert found == ["CONSTRAINED", "OPENENDED", "OPENENDED", "OPENENDED"]
    assert [prompt.reference for prompt in fill_query_types(prompts)] == [
        prompt.reference for prompt in prompts
    ]


def test_a_task_fills_in_types_where_told() -> None:
    task, texts = find_task("QuestionAnswer"), ["tell me about the gong ."]
    plain, filled = (
        task_arguments(task, TaskOptions(prompts=texts, predict_query_types=told))["prompts"]
        for told in (False, True)
    )
    assert plain[0].query_type is None
    assert filled[0].query_type == "OPENENDED"


def test_a_fit_separates_words_and_is_counted() -> None:
    queries = [("name the colour", True), ("tell a story", False)] * 4
    weights = fit(queries)
    assert right(weights, queries) == 8
    assert right(weights, [(text, not kind) for text, kind in queries]) == 0
    assert WEIGHTS.stat().st_size < 20_000
