import numpy as np
import pytest
import torch

from tokengym.lab.makers.building.tokenizers import add_roles, word_tokenizer
from tokengym.lab.makers.bundles import detox, dialogue, encoder, summarize
from tokengym.lab.makers.bundles.rated import RESPONSE_TOKENS, Rated, _drawer, prefix_drawer
from tokengym.lab.makers.corpora.dialogue_world import RULES
from tokengym.lab.makers.corpora.dialogues import all_requests, write_dialogues

SMALL = {
    dialogue: {"DIALOGUES": 60, "HELD_OUT": 20, "TEST_REQUESTS": 1380},
    summarize: {"POSTS": 60, "TRAIN_PROMPTS": 10, "TEST_PROMPTS": 12},
    detox: {"QUARRELS": 60, "HELD_OUT": 40, "TRAIN_PROMPTS": 10, "TEST_PROMPTS": 12},
}
BUILDERS = {
    "dialogue": dialogue.build_dialogue,
    "summarize": summarize.build_summarize,
    "detox": detox.build_detox,
}


@pytest.fixture(scope="module")
def build():
    """Return the builders with corpora of 60 texts."""
    with pytest.MonkeyPatch.context() as patch:
        for module, sizes in SMALL.items():
            for name, value in sizes.items():
                patch.setattr(module, name, value)
        patch.setattr(encoder, "PAIR_STEPS", 1)
        yield lambda task: BUILDERS[task](seed=3, language_steps=1, reward_steps=1)


@pytest.fixture(scope="module")
def bundles(build):
    return {task: build(task) for task in BUILDERS}


@pytest.mark.parametrize("task", BUILDERS)
def test_bundles_hold_what_their_task_needs(bundles, task):
    built = bundles[task]
    assert built.task == task
    assert set(built.models) == {"policy", "reward_model", "encoder"}
    assert set(built.figures["encoder"]) == {"relevant", "irrelevant", "accuracy"}
    assert built.figures["vocabulary"] == len(built.tokenizer)
    assert set(built.figures["reward_model"]["samples"]) == {
        *("pair_accuracy", "correlation", "deviation", "attention_entropy")
    }
    splits = {s: {r.prompt for r in built.prompts if r.split == s} for s in ("train", "test")}
    assert splits["train"]
    assert splits["test"]
    assert not splits["train"] & splits["test"]
    assert bool(built.tokenizer.chat_template) == (task == "dialogue")


@pytest.mark.parametrize("task", ["dialogue", "summarize"])
def test_references_are_worth_the_most_there_is(bundles, task):
    golds = bundles[task].figures["gold"]
    assert golds["reference"]["score"] == {"dialogue": 2.0, "summarize": 1.0}[task]
    assert golds["policy"]["score"] < golds["reference"]["score"]
    assert "reference" not in bundles["detox"].figures["gold"]


def test_a_seed_gives_the_same_models(build, bundles):
    again = build("detox")
    for name, model in bundles["detox"].models.items():
        other = again.models[name].state_dict()
        for key, value in model.state_dict().items():
            assert torch.allclose(value, other[key], atol=1e-6), (name, key)
    assert again.prompts == bundles["detox"].prompts


@pytest.fixture(scope="module")
def pairs():
    return write_dialogues(all_requests(), 200, np.random.default_rng(0))


@pytest.fixture(scope="module")
def rated(pairs):
    tokenizer = word_tokenizer(map(" ".join, pairs))
    add_roles(tokenizer)
    return Rated(tokenizer, RULES, chat=True)


def test_gold_of_ids_is_gold_of_words_whatever_the_template_adds(rated, pairs):
    starts = rated.encode([prompt for prompt, _ in pairs])
    texts = rated.texts(pairs)
    for (prompt, response), start, text in zip(pairs, starts, texts, strict=True):
        assert rated.tokenizer.decode(start) == f"<user> {prompt} <assistant>"
        assert text[: len(start)] == start
        assert text[-1] == rated.tokenizer.eos_token_id
        words = RULES.parts(prompt.split(), response.split())
        assert rated.parts(start, text[len(start) :]) == words
        assert rated.gold(start, text[len(start) :]) == pytest.approx(sum(words.values()))


def test_batches_mix_whole_and_cut_responses(rated, pairs):
    starts = rated.encode([prompt for prompt, _ in pairs])
    texts = rated.texts(pairs)
    ids = [(start, text[len(start) :]) for start, text in zip(starts, texts, strict=True)]
    long = [(start, (response * 9)[:RESPONSE_TOKENS]) for start, response in ids[100:]]
    draw = _drawer(ids[:100], long, rated, torch.Generator().manual_seed(0))
    batch, gold = draw()
    eos, assistant = rated.tokenizer.convert_tokens_to_ids(["<eos>", "<assistant>"])
    responses = [text[text.index(assistant) + 1 :] for text in batch]
    assert len(batch) == len(gold) == 64
    assert max(map(len, responses)) == RESPONSE_TOKENS
    ended = sum(response[-1] == eos for response in responses[:32])
    assert 20 < ended < 32
    for text, response, value in zip(batch, responses, gold.tolist(), strict=True):
        start = text[: len(text) - len(response)]
        assert rated.gold(start, response) == pytest.approx(value)


def test_chat_templates_refuse_other_roles(rated):
    messages = [{"role": "system", "content": "x"}]
    with pytest.raises(Exception, match=r"roles.*got system"):
        rated.tokenizer.apply_chat_template(messages)


def test_prefixes_have_the_gold_of_what_is_there_so_far(rated, pairs):
    starts = rated.encode([prompt for prompt, _ in pairs])
    ids = [(s, t[len(s) :]) for s, t in zip(starts, rated.texts(pairs), strict=True)]
    draw = prefix_drawer(ids[:100], ids[100:], rated, torch.Generator().manual_seed(0), 8)
    texts, gold = draw()
    assert len(texts) == len(gold) == 8
    for place, (text, scores) in enumerate(zip(texts, gold, strict=True)):
        source = ids[:100] if place < 6 else ids[100:]
        (start,) = {tuple(s) for s, response in source if [*s, *response] == text}
        assert len(scores) == len(text)
        known = ~np.isnan(scores)
        assert known.tolist() == [i >= len(start) - 1 for i in range(len(text))]
        for end in range(len(start), len(text) + 1):
            assert scores[end - 1] == rated.gold(start, text[len(start) : end])
