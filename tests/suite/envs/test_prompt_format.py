"""The frame of prompts, and bundles by name."""

import copy

import pytest

from tokengym.envs import Prompt, SettingsError, bundled


def test_the_policy_reads_the_frame_and_scorers_do_not(make_env):
    env = make_env(prompts=[Prompt("b", reference="r")], prompt_format="e {prompt} d")
    _, info = env.reset()
    assert info["prompt"] == "b"
    assert env.encoded_prompt(0).ids == (7, 4, 6)
    _, info = env.reset(options={"prompt": "c"})
    assert env.get_state()["prompt_ids"] == [7, 5, 6]
    assert info["prompt"] == "c"


def test_a_frame_around_no_prompt_is_said(make_env, caplog):
    tokenizer = copy.deepcopy(make_env().tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    talk = [{"role": "user", "content": "b"}]
    for prompts in ([talk, "b"], [talk]):
        make_env(tokenizer=tokenizer, prompts=prompts, prompt_format="a {prompt} d")
    (said,) = caplog.messages
    assert "prompt_format='a {prompt} d' is the frame of texts" in said


@pytest.mark.parametrize("frame", ["Continue this film review:", "{prompt} {prompt}", "{Prompt}"])
def test_a_frame_has_one_place(frame, make_env):
    with pytest.raises(SettingsError, match=r"prompt_format.*\{prompt\}"):
        make_env(prompt_format=frame)


def test_no_entity_of_a_held_out_question_is_in_another():
    bundle = bundled("smollm2-answers")
    train, test = (list(bundle.prompts(split)) for split in ("train", "test"))
    assert (len(train), len(test)) == (96, 24)
    texts = " ".join(f"{p.text} {p.reference}" for p in train).lower()
    entities = {str(p.metadata["entity"]).lower() for p in test}
    assert len(entities) == 6
    for entity in entities:
        assert entity.removeprefix("the ").removesuffix("s") not in texts
    kinds = [p.query_type for p in (*train, *test)]
    assert kinds.count("OPENENDED") == kinds.count("CONSTRAINED") == 60
    assert len({p.text for p in (*train, *test)}) == 120
    assert all(p.reference for p in (*train, *test))
    assert bundle.model_name("encoder") == "minilm"
