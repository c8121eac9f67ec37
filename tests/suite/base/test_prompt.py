import pickle

import numpy as np
import pytest
import torch

from tokengym.envs import Prompt, PromptError, PromptSet, TokenGenerationEnv, bundled


def test_a_prompt_set_is_an_immutable_sequence():
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


@pytest.mark.parametrize("pack", [np.array, torch.tensor])
def test_prompts_whose_metadata_do_not_compare_are_unlike(pack):
    one, other = (PromptSet([Prompt("a", metadata={"x": pack([1, 2])})]) for _ in range(2))
    assert one == one
    assert one != other


def test_bad_prompts():
    with pytest.raises(PromptError, match="empty, got ''"):
        Prompt("")
    with pytest.raises(TypeError, match=r"text.*got 3"):
        Prompt(3)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"'CONSTRAINED'.*got 'OPEN'"):
        Prompt("a", query_type="OPEN")  # type: ignore[arg-type]


def test_prompts_that_the_tokenizer_does_not_know_are_refused():
    tokenizer = bundled("movie_review").tokenizer
    foreign = [f"zzyzx{i} qwfpg{i} the film" for i in range(40)]
    with pytest.raises(PromptError, match=r"5\d% of the prompts'.*tokenizer="):
        TokenGenerationEnv(tokenizer=tokenizer, prompts=foreign)
    TokenGenerationEnv(tokenizer=tokenizer, prompts=foreign[:2])  # too few to say


def test_lone_surrogates_are_refused_where_they_stand():
    for build in (
        lambda: Prompt("a \udc80"),
        lambda: Prompt("a", reference="\ud800"),
        lambda: Prompt.from_messages([{"role": "user", "content": "a \udc80"}]),
    ):
        with pytest.raises(PromptError, match="lone surrogate"):
            build()
    with pytest.raises(PromptError, match=r"prompt 1.*Unicode"):
        PromptSet(["a", "\udc80"])


def test_what_is_no_list_of_prompts_is_refused():
    with pytest.raises(TypeError, match="got NoneType None"):
        PromptSet(None)
    with pytest.raises(TypeError, match=r"got set \{'a', 'b'\}"):
        PromptSet({"a", "b"})  # whose order is another in each process
