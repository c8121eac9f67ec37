"""Classifiers as the hub has them: bidirectional ones, pairs, reward models of conversations."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.suite.rewards.stand_ins import TEXTS, gpt2_tokenizer, make, qwen_tokenizer, save
from tests.support.rewards.common import make_episode
from tests.support.rewards.hub_classifiers import PROMPT, RESPONSES, spoken
from tests.support.rules import rule_of
from tokengym.envs import Chat, TokenGenerationEnv, TokenizerError, bundled
from tokengym.rewards import CreditReward, RewardModel, check_reward
from tokengym.rewards.errors import RewardError, ScorerError
from tokengym.rewards.scorers import find_scorer


def logits(model: Any, tokenizer: Any, *texts: str) -> Any:
    """Return a model's logits as its card says to call it."""
    with torch.no_grad():
        return model(**tokenizer(*texts, return_tensors="pt")).logits[0].numpy()


def judge(kind: str = "distilbert", **options: Any) -> RewardModel:
    model, own = make(kind)
    return RewardModel(model, **{"tokenizer": own, **options})


@pytest.mark.parametrize(
    ("labels", "weights"),
    [
        ("POSITIVE", (0, 1)),
        (0, (1, 0)),
        ("NEGATIVE+POSITIVE", (1, -1)),
        (("POSITIVE", "NEGATIVE"), (-1, 1)),
        (None, (-1, 1)),
    ],
)
def test_a_bidirectional_model_scores_the_text_as_its_card_says(labels, weights):
    policy = gpt2_tokenizer()
    model, own = make("distilbert")
    scorer = RewardModel(model, tokenizer=own, labels=labels).bind(policy)
    episodes = [spoken(policy, response, eos=i == 1) for i, response in enumerate(RESPONSES)]
    expected = [logits(model, own, PROMPT + response) @ weights for response in RESPONSES]
    np.testing.assert_allclose(scorer.score(episodes).values, expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3


def test_a_pair_is_read_as_two_texts():
    policy = qwen_tokenizer()
    model, own = make("deberta")
    scorer = RewardModel(model, tokenizer=own, form="pair").bind(policy)
    episodes = [spoken(policy, response.strip(), eos=True) for response in RESPONSES]
    expected = [logits(model, own, PROMPT, response.strip())[0] for response in RESPONSES]
    np.testing.assert_allclose(scorer.score(episodes).values, expected, atol=1e-5)
    joined = RewardModel(model, tokenizer=own).bind(policy).score(episodes).values
    assert np.abs(joined - expected).min() > 1e-4


def test_the_second_text_of_a_pair_has_its_own_type():
    from transformers import BertConfig, BertForSequenceClassification

    policy = gpt2_tokenizer()
    own = make("distilbert")[1]
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "num_labels": 1, "initializer_range": 0.5}
    config = BertConfig(vocab_size=len(own), **sizes)
    model = BertForSequenceClassification(config).eval()
    scorer = RewardModel(model, tokenizer=own, form="pair").bind(policy)
    episodes = [spoken(policy, response) for response in RESPONSES]
    expected = []
    for response in RESPONSES:
        tokens = own(PROMPT, response, return_tensors="pt", return_token_type_ids=True)
        assert tokens["token_type_ids"].sum() > 1
        with torch.no_grad():
            expected.append(model(**tokens).logits[0, 0].item())
    np.testing.assert_allclose(scorer.score(episodes).values, expected, atol=1e-5)


@pytest.mark.parametrize("prompt", [PROMPT, "Human: Why?\n\nAssistant: So.\n\nHuman: But why?"])
def test_a_conversation_is_scored_in_the_models_template(prompt):
    policy = qwen_tokenizer()
    model, own = make("qwen3")
    scorer = RewardModel(model, tokenizer=own, form="chat").bind(policy)
    episodes = [spoken(policy, text.strip(), prompt=prompt, eos=True) for text in RESPONSES]
    turns = [{"role": "user", "content": prompt}]
    if prompt != PROMPT:
        turns = [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So."},
            {"role": "user", "content": "But why?"},
        ]
    expected = []
    for response in RESPONSES:
        chat = [*turns, {"role": "assistant", "content": response.strip()}]
        text: Any = own.apply_chat_template(chat, tokenize=False)
        expected.append(logits(model, own, text)[0])
    np.testing.assert_allclose(scorer.score(episodes).values, expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("form", [None, "chat"])
@pytest.mark.parametrize("words", [(), ("zzzq",)])
def test_a_conversation_has_one_number_whoever_wrote_it(tmp_path, words, form, ended):
    """Of a stored judge, that of the template's text; a policy may have the judge's tokenizer."""
    policy, model, own = qwen_tokenizer(*words), *make("qwen3")
    scorer = RewardModel.from_pretrained(save("qwen3", tmp_path / "judge"), form=form)
    turns = [{"role": "user", "content": PROMPT}]
    episodes, expected = [], []
    for response in (text.strip() for text in RESPONSES):
        said = spoken(policy, response, eos=ended)
        start: Any = policy.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
        episodes.append(replace(said, messages=Chat(turns), prompt_ids=start))
        chat = [*turns, {"role": "assistant", "content": response}]
        expected.append(logits(model, own, str(own.apply_chat_template(chat, tokenize=False)))[0])
    scores = scorer.bind(policy).score(episodes).values
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3


def test_a_bundles_judge_reads_what_its_policy_sampled():
    """Dialogue's has the policy's tokenizer and template, which ends answers by no token."""
    bundle = bundled("dialogue")
    scorer = RewardModel.from_pretrained(bundle.reward_model).bind(bundle.tokenizer)
    ids = bundle.tokenizer("<user> how do i cook ? <assistant>", add_special_tokens=False).input_ids
    said = [*bundle.tokenizer("slowly .", add_special_tokens=False).input_ids, 1]
    chat = Chat([{"role": "user", "content": "how do i cook ?"}])
    episode = make_episode(ids, said, prompt=chat.text, response="slowly .")
    (value,) = scorer.score([replace(episode, messages=chat)], attribution="prefix").values
    with torch.no_grad():
        read = scorer.model(torch.tensor([[*ids, *said]])).logits[0, 0].item()
    assert value == pytest.approx(read, abs=1e-5)


@pytest.mark.parametrize("form", ["text", "chat"])
def test_a_judge_whose_padding_is_eos_is_read_at_the_token_before(form):
    """As transformers reads it; the EOS has no share of the score."""
    model, own = copy.deepcopy(make("qwen3"))
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = own.eos_token_id
    own.pad_token = own.eos_token
    own.chat_template = own.chat_template.replace("<|im_end|>\n", "<|im_end|>")
    scorer = RewardModel(model, tokenizer=own, form=form).bind(own)
    episodes = [spoken(own, text.strip(), eos=True) for text in RESPONSES]
    episodes.append(spoken(own, "so", eos=False))
    ids = [[*e.prompt_ids, *e.response_ids] for e in episodes]
    if form == "chat":
        for row, episode in enumerate(episodes):
            talk = [
                {"role": "user", "content": PROMPT},
                {"role": "assistant", "content": episode.response},
            ]
            text = str(own.apply_chat_template(talk, tokenize=False))
            ids[row] = own(text, add_special_tokens=False)["input_ids"]
            assert ids[row][-1] == own.eos_token_id
    with torch.no_grad():
        expected = [model(torch.tensor([row])).logits[0, 0].item() for row in ids]
        whole = [model(torch.tensor([[*row, 0]])).logits[0, 0].item() for row in ids]
    scores = scorer.score(episodes, attribution="attention")
    np.testing.assert_allclose(scores.values, expected, atol=1e-5)
    assert np.abs(scores.values - whole).min() > 1e-4  # read at the EOS it would be another number
    for episode, shares in zip(episodes[:3], scores.attributions or (), strict=False):
        assert len(shares) == len(episode.response_ids)
        assert shares[-1] == 0
        assert shares.sum() == pytest.approx(1)


def test_abc_reads_the_row_of_the_first_token():
    """Weights by hand: the last layer's first row over the response's pieces, scaled to sum 1."""
    policy = gpt2_tokenizer()
    model, own = make("distilbert")
    scorer = RewardModel(model, tokenizer=own).bind(policy)
    episode = spoken(policy, RESPONSES[1], eos=True)
    given = scorer.score([episode], attribution="attention").attributions
    model.set_attn_implementation("eager")
    tokens = own(PROMPT + RESPONSES[1], return_tensors="pt", return_offsets_mapping=True)
    offsets = tokens.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        row = model(**tokens, output_attentions=True).attentions[-1][0].mean(dim=0)[0]
    # The policy's own tokens, by characters of the response.
    characters = np.zeros(len(RESPONSES[1]))
    for (start, end), weight in zip(offsets, row.tolist(), strict=True):
        if end > len(PROMPT):
            first = max(start - len(PROMPT), 0)
            characters[first : end - len(PROMPT)] = weight / (end - len(PROMPT) - first)
    place, expected = 0, []
    for token_id in episode.response_ids[:-1]:
        size = len(policy.decode([token_id]))
        expected.append(characters[place : place + size].sum())
        place += size
    expected = np.array([*expected, 0.0]) / np.sum(expected)
    np.testing.assert_allclose(given[0], expected, atol=1e-5)


def test_chat_credit_falls_on_the_response_and_its_end():
    policy = qwen_tokenizer()
    model, own = make("qwen3")
    scorer = RewardModel(model, tokenizer=own, form="chat").bind(policy)
    episode = spoken(policy, RESPONSES[0].strip(), eos=True)
    read = scorer._retokenizer([episode])[0]
    words = own.convert_ids_to_tokens(read.ids)
    assert read.closed
    assert words[-1 - read.after] == "<|im_end|>"
    assert own.decode(read.ids[-read.after - read.size : -read.after - 1]) == "is wonderful"
    weights = scorer.score([episode], attribution="attention").attributions
    assert weights[0].shape == (len(episode.response_ids),)
    assert weights[0][-1] > 0
    cut = spoken(policy, RESPONSES[0].strip())
    assert not scorer._retokenizer([cut])[0].closed


@pytest.mark.parametrize("credit", [rule_of("abc")])
@pytest.mark.parametrize(
    ("kind", "form"), [("distilbert", "text"), ("deberta", "pair"), ("qwen3", "chat")]
)
def test_the_contract_of_rewards(kind, form, credit):
    env = TokenGenerationEnv(
        tokenizer=qwen_tokenizer(), prompts=TEXTS[2:], max_new_tokens=5, chat_template=True
    )
    check_reward(CreditReward(env, judge(kind, form=form), credit))


def test_by_name_with_options(tmp_path):
    path = save("distilbert", tmp_path / "sentiment")
    scorer = find_scorer(f"reward-model:path={path},labels=POSITIVE")
    assert isinstance(scorer, RewardModel)
    policy = gpt2_tokenizer()
    value = scorer.bind(policy).score([spoken(policy, RESPONSES[0])]).values[0]
    model, own = make("distilbert")
    assert value == pytest.approx(logits(model, own, PROMPT + RESPONSES[0])[1], abs=1e-5)
    # Training and evaluation share the weights; other options are another scorer.
    assert find_scorer(f"reward-model:path={path},labels=POSITIVE") is scorer
    assert find_scorer(f"reward-model:path={path},labels=NEGATIVE") is not scorer
    with pytest.raises(RewardError, match=r"'reward-model'.*'label'"):
        find_scorer(f"reward-model:path={path},label=POSITIVE")


LONG = spoken(gpt2_tokenizer(), " fine" * 200)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: judge(labels="FINE"), ScorerError, "labels.*got 'FINE'"),
        (lambda: judge(form="xml"), ScorerError, "form.*got 'xml'"),
        (lambda: judge(tokenizer=None), ScorerError, "got tokenizer=None"),
        (lambda: judge().score([LONG]), ScorerError, "policy's tokenizer.*bind"),
        (lambda: judge(form="chat").bind(gpt2_tokenizer()), TokenizerError, "form='chat'"),
        (lambda: judge().bind(gpt2_tokenizer()).score([LONG]), ScorerError, "128.*max_prompt"),
    ],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
