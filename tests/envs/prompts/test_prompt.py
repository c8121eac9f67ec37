import pickle

import pytest

from tokengym.envs import Prompt, PromptError, PromptSet


def test_a_prompt_set_is_an_immutable_sequence() -> None:
    prompts = PromptSet(["a", Prompt("b", reference="r", query_type="CONSTRAINED")])
    assert [prompt.text for prompt in prompts] == ["a", "b"]
    assert prompts.texts == ("a", "b")
    assert prompts[1].reference == "r"
    assert prompts[-1:] == PromptSet([prompts[1]])
    assert prompts != PromptSet(["a"])
    assert (prompts == ["a"]) is False
    assert hash(PromptSet(["a"])) == hash(PromptSet(["a"]))
    assert pickle.loads(pickle.dumps(prompts)) == prompts
    assert repr(prompts) == "PromptSet(2 prompts, the first 'a')"
    with pytest.raises(TypeError):
        prompts[0] = "c"  # type: ignore[index]


def test_bad_prompts() -> None:
    with pytest.raises(PromptError, match=r"must not be empty, got ''"):
        Prompt("")
    with pytest.raises(TypeError, match=r"text must be a str, got 3; convert it first"):
        Prompt(3)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"'CONSTRAINED' or None, got 'OPEN'; None reads as"):
        Prompt("a", query_type="OPEN")  # type: ignore[arg-type]
