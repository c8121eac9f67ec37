# mypy: no-check-untyped-defs
"""R3 against numbers worked by hand from an encoder whose states are known."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    RobertaModel,
)

from tests.support.forked import forked
from tests.support.rewards.common import WORDS, LengthScorer, make_episode
from tests.support.rewards.relevance import ROBERTA, SIZES
from tokengym.envs import Task, TokenizerError
from tokengym.rewards import Cached, Relevance, make_reward
from tokengym.rewards.errors import RewardError, ScorerError
from tokengym.rewards.maths import relevance as R3
from tokengym.rewards.scorers.relevance import PARTS


class TableEncoder(torch.nn.Module):
    """Hidden state of a token = a row of a table: relevance is a matter of counting."""

    def __init__(self, table, longest=None):
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(torch.tensor(table, dtype=torch.float32))
        config = SimpleNamespace(
            hidden_size=len(table[0]), max_position_embeddings=longest, num_hidden_layers=1
        )
        config.get_text_config = lambda: config
        self.config = config

    @property
    def device(self):
        return self.table.weight.device

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids, attention_mask):
        hidden = self.table(input_ids)
        # What stands at padding must not matter.
        hidden = torch.where(attention_mask[..., None] == 1, hidden, torch.nan)
        return SimpleNamespace(last_hidden_state=hidden)


@pytest.fixture
def table():
    """Return one vector per word: a = (1, 0), b = (0, 2), c = (-1, 1), everything else 0."""
    table = np.zeros((len(WORDS), 2))
    table[3], table[4], table[5] = (1, 0), (0, 2), (-1, 1)
    return table.tolist()


@pytest.fixture
def relevance(table, tokenizer):
    return Relevance(TableEncoder(table), tokenizer, max_len=50, full_relevance=3.5).bind(tokenizer)


def words(text, tokenizer, **fields):
    ids = tokenizer.encode(fields.get("response", text))
    return make_episode(response_ids=[*ids, 1], **{"prompt": text} | fields)


PLAIN = make_episode(prompt="a", response="a")
ASKED = make_episode(prompt="a b", response="a", query_type="CONSTRAINED")
ANSWERED = make_episode(prompt="a b", response="a", query_type="CONSTRAINED", reference="c")


def test_open_ended_by_hand(relevance, tokenizer):
    # M(x) = mean(a, b) = (.5, 1); M(y) = mean(a, a, b, c) = (.25, .75); r_x = .875
    # LI = 4 / 100; trigrams a-a-b, a-b-c: RP = 1
    episode = words("a b", tokenizer, response="a a b c")
    scores = relevance.score([episode])
    assert scores.values[0] == pytest.approx(0.875 * 0.04)
    assert [*scores.parts] == [*PARTS]
    assert [part[0] for part in scores.parts.values()] == pytest.approx([0.875, 0.0, 0.04, 1.0])


def test_constrained_by_hand(relevance, tokenizer):
    # M(y*) = c = (-1, 1); M(y) = (.25, .75): r_y = .5; F = r_y / 3.5 * 50 / 100
    episode = words("a b", tokenizer, response="a a b c", reference="c", query_type="CONSTRAINED")
    scores = relevance.score([episode])
    assert scores.values[0] == pytest.approx(0.5 / 3.5 * 0.5)
    assert scores.parts["relevance_reference"][0] == pytest.approx(0.5)
    assert scores.parts["relevance_query"][0] == pytest.approx(0.875)


@pytest.mark.parametrize(
    ("components", "open_ended", "constrained"),
    [
        # r_x = M(a b) . M(a a a a a) = .5; LI = .05; RP = 1/3; r_y = c . a = -1;
        # F(r_y) = -1 / 3.5 * 50 / 100 = -1/7
        ({}, 0.5 * 0.05 / 3, -1 / 7 / 3),
        ({"length_incentive": False}, 0.5 / 3, -1 / 7 / 3),
        ({"repetition_penalty": False}, 0.5 * 0.05, -1 / 7),
        ({"reward_branching": False}, 0.5 * 0.05 / 3, 0.5 * 0.05 / 3),
        ({"length_incentive": False, "repetition_penalty": False}, 0.5, -1 / 7),
        (dict.fromkeys(R3.COMPONENTS, False), 0.5, 0.5),
    ],
)
def test_components_by_hand(relevance, tokenizer, components, open_ended, constrained):
    episodes = [
        words("a b", tokenizer, response="a a a a a", reference="c", query_type=query_type)
        for query_type in ("OPENENDED", "CONSTRAINED")
    ]
    scores = relevance.with_components(**components).score(episodes, attribution="relevance")
    assert scores.values == pytest.approx([open_ended, constrained])
    for row in range(2):  # the tokens' parts follow
        assert scores.attributions[row].sum() == pytest.approx(scores.values[row], rel=1e-6)
    # What does not count is still measured.
    assert scores.parts["length_incentive"] == pytest.approx([0.05, 0.05])
    assert scores.parts["repetition_penalty"] == pytest.approx([1 / 3, 1 / 3])
    options = ",".join(f"{name}={str(value).lower()}" for name, value in components.items())
    reward = make_reward(f"r3:{options}", scorer=relevance)
    assert [paid.score for paid in reward.evaluate(episodes)] == pytest.approx(scores.values)
    # ... and the scorer that was passed is as it was.
    assert relevance.score(episodes).values == pytest.approx([0.5 * 0.05 / 3, -1 / 7 / 3])


def test_components_come_back(relevance, tokenizer):
    episode = words("a b", tokenizer, response="a a b c")
    bare = relevance.with_components(length_incentive=False)
    assert bare.score([episode]).values == pytest.approx([0.875])
    assert bare.with_components(repetition_penalty=True).length_incentive is False
    again = bare.with_components(length_incentive=True)
    assert again.score([episode]).values == pytest.approx([0.875 * 0.04])
    # Without branching no reference is needed.
    asked = words("a b", tokenizer, response="a a b c", query_type="CONSTRAINED")
    scorer = relevance.with_components(reward_branching=False)
    assert scorer.score([asked]).values == pytest.approx([0.875 * 0.04])


def test_bad_components(relevance):
    with pytest.raises(ScorerError, match=r"length_incentive.*got 'off'"):
        make_reward("r3:length_incentive=off", scorer=relevance)
    with pytest.raises(RewardError, match=r"'r3'.*'factors'.*length_incentive"):
        make_reward("r3:factors=none", scorer=relevance)
    for scorer in (LengthScorer(), Cached(relevance)):
        with pytest.raises(RewardError, match=r"length_incentive.*scorer=rewards\.Relevance"):
            make_reward("r3:length_incentive=false", scorer=scorer)


@pytest.mark.parametrize("query_type", ["OPENENDED", "CONSTRAINED"])
def test_shares_by_hand(relevance, tokenizer, query_type):
    episode = words("a b", tokenizer, response="a b c", reference="c", query_type=query_type)
    scores = relevance.score([episode], attribution="relevance")
    # per token M . h / 3: open M = (.5, 1), constrained M = (-1, 1); EOS shows no text
    shares = {
        "OPENENDED": np.array([0.5, 2.0, 0.5, 0.0]) / 3 * 0.03,
        "CONSTRAINED": np.array([-1.0, 2.0, 2.0, 0.0]) / 3 * 0.5 / 3.5,
    }[query_type]
    np.testing.assert_allclose(scores.attributions[0], shares, rtol=1e-6)
    assert scores.additive
    assert scores.attributions[0].sum() == pytest.approx(scores.values[0], rel=1e-6)


@pytest.mark.parametrize("before", [" ", "\n\n\n\n"])
def test_white_space_before_a_given_text_moves_no_share(relevance, tokenizer, before):
    episode = words("a b", tokenizer, response="a b c")
    given = replace(episode, response=f"{before}a b c")
    plain, spaced = relevance.score([episode, given], attribution="relevance").attributions
    np.testing.assert_allclose(plain, spaced, rtol=1e-6)


def test_role_tags_and_blank_lines_are_left_out(relevance, tokenizer):
    plain = words("a b", tokenizer, response="a a b")
    tagged = words("a b", tokenizer, prompt="q\nHuman: a b\nAssistant:", response="a a b")
    cut = make_episode(prompt="a b", response="a a b\n\n\n\nc", response_ids=[3])
    values = relevance.score([plain, tagged, cut])
    assert values.values[1] == pytest.approx(values.values[0])
    assert values.parts["length_incentive"].tolist() == pytest.approx([0.03] * 3)
    # ... for LI and RP only: M reads the whole response
    assert values.parts["relevance_query"][2] != pytest.approx(values.parts["relevance_query"][0])


def test_an_empty_response_scores_zero(relevance, tokenizer):
    empty = make_episode(prompt="a", response="", response_ids=[1])
    scores = relevance.score([empty], attribution="relevance")
    assert scores.values.tolist() == scores.attributions[0].tolist() == [0.0]


def test_queries_keep_their_last_512_tokens(relevance, tokenizer):
    query = " ".join(["b"] * 88 + ["a"] * 512)
    scores = relevance.score([words(query, tokenizer, response="a b")])
    assert scores.parts["relevance_query"][0] == pytest.approx(0.5)  # M(x) = a
    scores = relevance.score([words(f"{query} b", tokenizer, response="a b")])
    # M(x) = (511 a + b) / 512 = (511, 2) / 512; M(y) = (.5, 1)
    assert scores.parts["relevance_query"][0] == pytest.approx((511 * 0.5 + 2) / 512)
    assert tokenizer.truncation_side == "right"  # the environment's, which it was made with


def test_encoders_that_count_positions_from_the_padding_id_on(tokenizer):
    torch.manual_seed(0)
    scorer = Relevance(RobertaModel(ROBERTA), tokenizer)
    long, kept = "a b c d e f g h i", "c d e f g h i"
    (cut,), (whole,) = scorer.encode([long]), scorer.encode([kept])
    np.testing.assert_allclose(cut.hidden, whole.hidden, atol=1e-6)
    assert cut.spans == [(start + 4, end + 4) for start, end in whole.spans]


def word_piece_tokenizer():
    """Return a tokenizer of Contriever's kind: lower case, word pieces, [CLS] and [SEP]."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cap", "##ital", "of", "france", "?"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def test_a_contriever_from_a_folder(tmp_path, tokenizer):
    config = BertConfig(vocab_size=10, num_hidden_layers=2, max_position_embeddings=8, **SIZES)
    torch.manual_seed(0)
    encoder = BertModel(config, add_pooling_layer=False).eval()  # stored so, as Contriever is
    encoder.save_pretrained(tmp_path)
    word_piece_tokenizer().save_pretrained(tmp_path)
    scorer = Relevance.from_pretrained(tmp_path, device="cpu").bind(tokenizer)

    def pooled(*ids):
        """Return M by its definition: [CLS] and [SEP] are tokens of the mean too."""
        with torch.no_grad():
            return encoder(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)

    episode = make_episode(
        prompt="User: The capital of France? Assistant:", response="a b", response_ids=[3, 4, 1]
    )
    scores = scorer.score([episode], attribution="relevance")
    expected = pooled(2, 4, 5, 6, 7, 8, 9, 3) @ pooled(2, 1, 1, 3)
    assert scores.parts["relevance_query"][0] == pytest.approx(float(expected), rel=1e-5)
    # What [CLS] and [SEP] are worth belongs to no character, and is not lost.
    assert scores.attributions[0].sum() == pytest.approx(float(scores.values[0]), rel=1e-5)
    # Too long for 8 positions: the last six pieces stay, between [CLS] and [SEP].
    (long,) = scorer.encode(["of the the capital of France?"])
    expected = pooled(2, 4, 5, 6, 7, 8, 9, 3)
    np.testing.assert_allclose(long.hidden.mean(axis=0), expected, atol=1e-6)


def test_special_tokens_alone_are_relevant_to_nothing(table, tokenizer):
    table[2] = table[3] = (1, 1)  # [CLS] and [SEP]
    table[4] = (1, 0)  # the
    scorer = Relevance(TableEncoder(table), word_piece_tokenizer()).bind(tokenizer)
    episodes = [
        make_episode(prompt="the", response=response, response_ids=[1], reference=reference)
        for response, reference in (("the", None), ("the", ""), ("", "the"), (" ", "the"))
    ]
    scores = scorer.score(episodes, attribution="relevance")
    assert scores.parts["relevance_reference"].tolist() == [0.0] * 4
    assert scores.parts["relevance_query"] == pytest.approx([13 / 9, 13 / 9, 0.0, 0.0])
    assert [row.sum() for row in scores.attributions] == pytest.approx(scores.values.tolist())


def tiny_encoder(shape):
    torch.manual_seed(0)
    if shape == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
        return GPT2Model(GPT2Config(vocab_size=len(WORDS), **sizes)).eval()
    return BertModel(BertConfig(vocab_size=len(WORDS), num_hidden_layers=2, **SIZES)).eval()


@pytest.mark.parametrize("shape", ["bert", "gpt2"])
def test_batches_and_padding_change_nothing_for_real_encoders(shape, tokenizer):
    encoder = tiny_encoder(shape)
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(15):
        drawn = [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 12))) for _ in range(3)]
        kind = "CONSTRAINED" if rng.random() < 0.5 else None
        episodes.append(
            words(drawn[0], tokenizer, response=drawn[1], reference=drawn[2], query_type=kind)
        )
    scorer = Relevance(encoder, tokenizer).bind(tokenizer)
    together = scorer.score(episodes, attribution="relevance")
    scorer.batch_size = 1
    for row, episode in enumerate(episodes):
        alone = scorer.score([episode], attribution="relevance")
        np.testing.assert_allclose(alone.values[0], together.values[row], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(
            alone.attributions[0], together.attributions[row], atol=1e-5, rtol=1e-5
        )
        assert together.attributions[row].sum() == pytest.approx(together.values[row], rel=1e-5)
        # Independent: the definition, unpadded.
        with torch.no_grad():
            query, response, reference = (
                encoder(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0].mean(dim=0)
                for text in (episode.prompt, episode.response, episode.reference)
            )
        for part, other in (("relevance_query", query), ("relevance_reference", reference)):
            assert together.parts[part][row] == pytest.approx(
                float(other @ response), rel=1e-4, abs=1e-4
            )


def test_queries_and_references_are_encoded_once(relevance, tokenizer, monkeypatch):
    monkeypatch.setattr("tokengym.rewards.scorers.relevance.REMEMBERED", 2)
    seen = []
    encode = relevance._encode

    def seeing(texts, **options):
        seen.append(list(texts))
        return encode(texts, **options)

    monkeypatch.setattr(relevance, "_encode", seeing)
    episode = words("a b", tokenizer, response="a a b c", reference="c")
    first = relevance.score([episode])
    again = relevance.score([episode])
    # Apart from responses, whose padding is then the same at first sight and later.
    assert seen == [["a b", "c"], ["a a b c"], [], ["a a b c"]]
    assert again.parts["relevance_query"] == pytest.approx(first.parts["relevance_query"])
    assert again.parts["relevance_reference"].tolist() == pytest.approx([0.5])
    relevance.score([words("b", tokenizer, response="a", reference="c")])  # "a b" makes room
    relevance.score([episode])
    assert seen[4:] == [["b"], ["a"], ["a b"], ["a a b c"]]


def test_from_pretrained(tmp_path, tokenizer):
    encoder = tiny_encoder("gpt2")
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(TokenizerError, match="save it there"):
        Relevance.from_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    loaded = Relevance.from_pretrained(tmp_path / "encoder", device="cpu")
    episode = words("a b", tokenizer, response="a b c")
    assert loaded.score([episode]).values == pytest.approx(
        Relevance(encoder, tokenizer).score([episode]).values
    )
    assert loaded.name == "Relevance(encoder)"
    assert copy.deepcopy(loaded) is loaded
    given = Relevance.from_pretrained(tmp_path / "encoder", device="cpu", full_relevance=2.0)
    assert (loaded.full_relevance, given.full_relevance) == (3.5, 2.0)


@pytest.mark.parametrize("scale", [0.25, 11.0])
def test_r3_is_linear_in_the_encoders_scale(table, tokenizer, scale):
    """Relevance to query and reference both are, so that neither type of query gains on the other.

    Source: r_y / 3.5 in the official code of Kim et al. 2024, under any encoder.
    """
    longer = (np.sqrt(scale) * np.array(table)).tolist()
    episodes = [
        words("a b", tokenizer, response="a b b c", reference="b c", query_type=query_type)
        for query_type in ("OPENENDED", "CONSTRAINED")
    ]
    of_one, of_other = (
        Relevance(TableEncoder(rows), tokenizer, max_len=48)
        .bind(tokenizer)
        .score(episodes, attribution="relevance")
        for rows in (table, longer)
    )
    # r_x = (.5, 1) . (0, 1.25) LI .04; r_y = (-.5, 1.5) . (0, 1.25) / 3.5 * .48
    assert of_one.values == pytest.approx([1.25 * 0.04, 1.875 / 3.5 * 0.48])
    assert of_other.values == pytest.approx(scale * of_one.values)
    for shares, longer_shares in zip(of_one.attributions, of_other.attributions, strict=True):
        np.testing.assert_allclose(longer_shares, scale * shares, rtol=1e-6)


def test_the_query_is_what_the_users_messages_say(table, tokenizer):
    scorer = Relevance(TableEncoder(table), tokenizer)

    def query(prompt, *messages):
        chat = [{"role": role, "content": content} for role, content in messages]
        seen = words(prompt, tokenizer, response="a", messages=chat)
        scorer._pooled.clear()
        scorer.score([seen])
        return [text for text in scorer._pooled if text]  # beside the empty reference

    system = ("system", "b b b")
    assert query("c", system, ("user", "a\n\n### Input:\nb")) == ["a b"]
    # No regular expression is asked: tags in a message are words.
    assert query("c", ("user", "a\nSystem: b")) == ["a System: b"]
    turns = (("user", "a"), ("assistant", "c"), ("user", "b"))
    assert query("x", *turns) == ["a b"]
    # A message that frames the prompt is for the policy, and one without a user asks nothing.
    assert query("a", ("user", "b : a")) == ["a"]
    assert query("Human: a\n\nAssistant:", system) == ["a"]


def test_a_text_scores_alike_at_first_and_at_second_sight(tokenizer):
    encoder = tiny_encoder("bert")
    rng = np.random.default_rng(1)
    for _ in range(20):
        query, response, reference = (
            " ".join(rng.choice(list("abcdefgh"), rng.integers(1, 30))) for _ in range(3)
        )
        scorer = Relevance(encoder, tokenizer)
        episode = words(query, tokenizer, response=response, reference=reference)
        first, second = scorer.score([episode]), scorer.score([episode])
        assert first.values.tolist() == second.values.tolist()
        assert {n: p.tolist() for n, p in first.parts.items()} == {
            n: p.tolist() for n, p in second.parts.items()
        }


def random_texts(rng, number):
    return [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 30))) for _ in range(number)]


def test_what_is_remembered_does_not_depend_on_what_was_read_beside_it(tokenizer):
    encoder = tiny_encoder("bert")
    rng = np.random.default_rng(2)
    queries, responses, references = (random_texts(rng, 24) for _ in range(3))
    episodes = [
        words(query, tokenizer, response=response, reference=reference)
        for query, response, reference in zip(queries, responses, references, strict=True)
    ]
    fresh = Relevance(encoder, tokenizer)
    fresh.score(episodes)
    for sizes in ([1] * 24, [5, 19], [23, 1]):  # one by one, and in uneven calls before
        used = Relevance(encoder, tokenizer)
        first = 0
        for size in sizes:
            used.score(episodes[first : first + size][::-1])
            first += size
        assert {t: m.tobytes() for t, m in used._pooled.items()} == {
            t: m.tobytes() for t, m in fresh._pooled.items()
        }
        once, again = fresh.score(episodes), used.score(episodes)
        assert once.values.tobytes() == again.values.tobytes()
        assert all(once.parts[name].tobytes() == again.parts[name].tobytes() for name in PARTS)


def print_scores(*sizes: int) -> None:
    """Score batches of these sizes, and print what all texts are scored then."""
    encoder = Task.of("tokengym/QuestionAnswer-v0").own_bundle().encoder
    scorer = Relevance.from_pretrained(encoder, device="cpu")
    rng, known = np.random.default_rng(3), sorted(filter(str.isalpha, scorer.tokenizer.get_vocab()))
    texts = [" ".join(rng.choice(known, rng.integers(3, 40))) for _ in range(96)]
    episodes = [
        make_episode(prompt=prompt, response=response, reference=reference)
        for prompt, response, reference in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    ]
    for size in sizes:
        scorer.score(episodes[:size])
    print(scorer.score(episodes).values.tobytes().hex())


def test_scores_do_not_depend_on_what_a_process_did_before():
    once = forked(print_scores)
    assert once.strip()
    assert forked(print_scores, *range(1, 9)) == once


@pytest.mark.parametrize(
    ("score", "error", "words"),
    [
        (lambda of: of().score([ASKED]), ScorerError, "'a b'.*reference.*reference_"),
        (lambda of: of().score([PLAIN], attribution="relevance"), ScorerError, "bind"),
        (lambda of: of().score([PLAIN], attribution="attention"), ScorerError, "'attention'"),
        (lambda of: of(full_relevance=0.0), ScorerError, "full_relevance.*got 0"),
        (lambda of: of(max_tokens=0), ScorerError, "max_tokens.*got 0"),
        (lambda of: of(max_len=0), ScorerError, "max_len.*got 0"),
        (lambda of: of([[0.0, 0.0]] * 5), TokenizerError, "23 ids.*'Relevance' 5"),
    ],
)
def test_bad_input(table, tokenizer, score, error, words):
    with pytest.raises(error, match=words):
        score(lambda rows=table, **options: Relevance(TableEncoder(rows), tokenizer, **options))


def test_a_slow_tokenizer_is_refused(table):
    with pytest.raises(TokenizerError, match="fast tokenizer"):
        Relevance(TableEncoder(table), SimpleNamespace(is_fast=False))


def declare(folder, **files):
    """Write the files of Sentence Transformers beside an encoder."""
    names = {
        "pooling": "1_Pooling/config.json",
        "modules": "modules.json",
        "length": "sentence_bert_config.json",
        "prompts": "config_sentence_transformers.json",
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / names[name]).write_text(json.dumps(content))


def modules(*kinds):
    return [{"idx": n, "path": "", "type": f"s_t.models.{kind}"} for n, kind in enumerate(kinds)]


@pytest.fixture
def stored(tmp_path, tokenizer):
    encoder = tiny_encoder("bert")
    encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


MEAN = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"pooling": MEAN | {"pooling_mode_cls_token": True}}, "json: mean and cls"),
        ({"pooling": {"pooling_mode_cls_token": True}}, "1_Pooling/config.json: cls"),
        ({"pooling": {"pooling_mode_lasttoken": True}}, "json: lasttoken"),
        ({"pooling": {"pooling_mode_mean_sqrt_len_tokens": True}}, "json: mean_sqrt_len"),
        ({"pooling": {"pooling_mode": "cls"}}, "json: cls"),
        ({"pooling": MEAN, "modules": modules("Transformer", "Pooling", "Dense")}, "json: Dense"),
    ],
)
def test_an_encoder_of_other_vectors_is_refused(stored, files, named):
    declare(stored, **files)
    with pytest.raises(ScorerError, match=rf"{named}.*mean pooling, such as") as refused:
        Relevance.from_pretrained(stored, device="cpu")
    assert "\n" not in str(refused.value)


def test_what_an_encoder_declares_is_read_or_named(stored, tokenizer, caplog):
    text = "a b c d e f g h"
    with caplog.at_level("WARNING"):
        declare(stored, pooling=MEAN, modules=modules("Transformer", "Pooling"))
        declare(stored, prompts={"prompts": {"query": "", "document": ""}})
        (whole,) = Relevance.from_pretrained(stored, device="cpu").encode([text])
    assert not caplog.records
    declare(stored, modules=modules("Transformer", "Pooling", "Normalize"))
    declare(stored, length={"max_seq_length": 3, "do_lower_case": True})
    declare(stored, prompts={"prompts": {"query": "query: "}})
    with caplog.at_level("WARNING"):
        scorer = Relevance.from_pretrained(stored, device="cpu")
    (line,) = (record.getMessage() for record in caplog.records)
    assert "unit length, the prompt 'query: ', lower case, which R3 leaves out" in line
    (cut,) = scorer.encode([text])
    assert (len(whole.hidden), len(cut.hidden)) == (8, 3)
    (last,) = scorer.encode(["f g h"])
    np.testing.assert_allclose(cut.hidden, last.hidden, atol=1e-6)
    (stored / "modules.json").write_text("{")
    with pytest.raises(ScorerError, match=r"modules\.json is damaged"):
        Relevance.from_pretrained(stored, device="cpu")
