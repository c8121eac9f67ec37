"""Credit in conversations: only what the policy wrote is paid, and all of the score."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.support.chats import make_tokenizer
from tests.support.partners import teacher
from tests.support.rules import rule_of
from tokengym.envs import Episode, Reply, Turn, decode
from tokengym.rewards import (
    CreditReward,
    FunctionScorer,
    LengthPenalty,
    Probe,
    Scorer,
    ScorerError,
    Scores,
    check_reward,
)
from tokengym.rewards.attribution.alignment import Retokenizer
from tokengym.rewards.credits.inputs import Inputs
from tokengym.rewards.credits.words import SHIPPED
from tokengym.rewards.errors import CreditError
from tokengym.rewards.registry import make_reward
from tokengym.rewards.reward import Reward
from tokengym.rewards.scorers import find_scorer

TALK = {"partner": teacher, "max_turns": 3, "max_turn_tokens": 3, "max_new_tokens": 14}
RULES = ["sparse", "uniform", "random", "recency", "red"]


def talk(**changes: Any) -> Episode:
    """Return turns of 2 and 1 tokens with a reply of 2 between them."""
    turns = [
        Turn("assistant", "a", (0, 2), 0.25),
        Turn("user", "d e", (2, 4)),
        Turn("assistant", "", (4, 5), 0.5),
    ]
    given: dict[str, Any] = {
        "prompt": "c",
        "response": "a d e",
        "prompt_ids": [5],
        "response_ids": [3, 1, 6, 7, 1],
        "turns": turns,
        "written": [1, 1, 0, 0, 1],
        "finish_reason": "eos",
    }
    return Episode(**given | changes)


class Attributed(FunctionScorer):
    """Attributes 1, 2, 4, 8 and 16 to the five tokens."""

    def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
        return Scores([31.0] * len(episodes), attributions=[[1, 2, 4, 8, 16]] * len(episodes))


def test_uniform_pays_the_written_tokens_alone():
    reward = Reward(FunctionScorer(lambda prompt, response: 6.0), rule_of("uniform"))
    plain = talk(turns=(), written=None)
    paid, all_paid = reward.evaluate([talk(), plain])
    assert paid.token_rewards.tolist() == [2.0, 2.0, 0.0, 0.0, 2.0]
    assert all_paid.token_rewards.tolist() == pytest.approx([1.2] * 5)


def test_a_first_token_that_the_policy_did_not_write_is_refused():
    reward = Reward(FunctionScorer(lambda prompt, response: 6.0), rule_of("uniform"))
    with pytest.raises(CreditError, match=r"first response token of episode 1.*into prompt_ids"):
        reward.evaluate([talk(), talk(turns=(), written=[0, 1, 0, 0, 1])])


def test_characters_that_the_policy_wrote_are_known_by_turns_or_by_tokens(tokenizer):
    penalty = LengthPenalty(1.0)
    assert penalty.score([talk()]).values.tolist() == [-1.0]  # of the turns' "a" and ""
    masked = talk(turns=())
    with pytest.raises(ScorerError, match=r"bind\(tokenizer\), or take unit=tokens"):
        penalty.score([masked])
    told = decode(tokenizer, [[3, 1], [1]])
    values = penalty.bind(tokenizer).score([masked, talk()]).values
    assert values.tolist() == [-len("".join(told)), -1.0]
    assert 0 < len("".join(told)) < len(decode(tokenizer, [masked.response_ids])[0])


def test_what_a_reply_is_given_belongs_to_the_step_that_appended_it():
    attributed = Attributed(lambda prompt, response: 0.0)
    attributed.attribution_kinds = frozenset({"relevance"})
    (paid,) = Reward(attributed, rule_of("r3-dense")).evaluate([talk()])
    assert paid.token_rewards.tolist() == [1.0, 14.0, 0.0, 0.0, 16.0]


def test_segments_are_of_written_tokens_and_end_with_the_reply():
    """Three written tokens in two pieces: a turn with its reply, and the token after them."""
    asked: list[int] = []

    class Lengths(Scorer):
        reads_text = False

        def score(self, episodes: Sequence[Episode], *, attribution: str | None = None) -> Scores:
            asked.extend(len(episode.response_ids) for episode in episodes)
            return Scores([float(len(episode.response_ids) ** 2) for episode in episodes])

    rule: Any = make_reward("red:segments=2", scorer=Lengths())
    assert rule.pieces([talk()]) == [[range(4), range(4, 5)]]
    (paid,) = rule.evaluate([talk()])
    assert sorted(asked) == [0, 1, 4, 5, 5]
    assert paid.token_rewards.tolist() == [0.0, 16.0, 0.0, 0.0, 9.0]


@pytest.mark.parametrize(
    ("of", "expected"), [("sum", [0, 0, 0.25, 0.75]), ("last", [0, 0, 0.25, 0.5])]
)
def test_a_partner_has_given_a_beginning_the_scores_of_its_turns(of, expected):
    scorer = find_scorer(f"partner:of={of}")
    assert scorer.score([talk()]).values.tolist() == expected[-1:]
    probe = Probe(scorer)
    texts = [probe.restrict(talk(), range(size)) for size in (0, 1, 2, 5)]
    assert probe.values(texts).tolist() == expected


def said(episode: Episode) -> list[tuple[Any, ...]]:
    return [(turn.role, turn.text, turn.span, turn.score) for turn in episode.turns]


def test_each_turn_keeps_the_text_that_is_left_of_it(tokenizer):
    """Turns "a b" and "b a e" of which the second breaks off or has a hole, by hand."""
    whole = talk(
        response_ids=[3, 4, 6, 7, 4, 3, 7],
        written=[1, 1, 0, 0, 1, 1, 1],
        turns=[
            Turn("assistant", "a b", (0, 2), 0.25),
            Turn("user", "so", (2, 4)),
            Turn("assistant", "b a e", (4, 7), 0.5),
            Turn("user", "bye", (7, 7)),  # not appended
        ],
    )
    probe = Probe(find_scorer("length-penalty:rate=-1"), tokenizer)
    first, reply = ("assistant", "a b", (0, 2), 0.25), ("user", "so", (2, 4), None)
    expected: dict[tuple[int, ...], list[Any]] = {
        (): [],
        (0,): [("assistant", "a", (0, 1), None)],
        (0, 1, 2, 3): [first, reply],
        (0, 1, 2, 3, 4, 5): [first, reply, ("assistant", "b a", (4, 6), None)],
        (*range(7),): said(whole),
        # A hole: no turn was seen by the partner. The last token has the reply behind it.
        (1, 2, 3, 4, 6): [
            ("assistant", "b", (0, 1), None),
            ("user", "so", (1, 3), None),
            ("assistant", "b e", (3, 5), None),
            ("user", "bye", (5, 5), None),
        ],
        (0, 4, 5): [("assistant", "a", (0, 1), None), ("assistant", "b a", (1, 3), None)],
        (4, 5, 6): [("assistant", "b a e", (0, 3), None), ("user", "bye", (3, 3), None)],
    }
    texts = [probe.restrict(whole, positions) for positions in expected]
    assert [said(text) for text in texts] == list(expected.values())
    assert probe.values(texts).tolist() == [0, 1, 3, 6, 8, 4, 4, 5]
    assert [text.written_text for text in texts[3:6]] == ["a b\nb a", "a b\nb a e", "b\nb e"]
    # An environment lists the turns that are over.
    broken_off = talk(
        response_ids=[3, 4, 6, 7, 4, 3], written=[1, 1, 0, 0, 1, 1], turns=whole.turns[:2]
    )
    assert said(probe.restrict(broken_off, range(6))) == said(texts[3])


def test_what_the_policy_continues_is_no_turn_yet(tokenizer):
    class Recorded:
        def finish(self, prefixes: Sequence[Episode], seeds: Any) -> list[Episode]:
            begun.extend(prefixes)
            return [*prefixes]

    begun: list[Episode] = []
    probe = Probe(find_scorer("length-penalty"), tokenizer, Recorded())
    texts = [probe.restrict(talk(turns=talk().turns[:2]), range(size)) for size in (1, 4, 5)]
    probe.finish(texts, [[size] for size in (1, 4, 5)])
    assert [said(text) for text in begun] == [[], said(talk())[:2], said(talk())[:2]]


def test_prefixes_inside_a_turn_are_scored_with_their_beginning(make_env, tokenizer):
    """Length of the policy's turns, by hand: a token adds its own character, and a space."""
    env = CreditReward(make_env(**TALK), "length-penalty:rate=-1", "red")
    rng, later = np.random.default_rng(5), 0
    for seed in range(14):
        env.reset(seed=seed)
        paid, over = [], False
        while not over:
            _, reward, terminated, truncated, info = env.step(rng.choice([1, 3, 4, 5]))
            over = terminated or truncated
            paid.append(reward)
        expected = np.zeros(len(info["response_ids"]))
        for turn in info["turns"]:
            if turn.role == "assistant":
                later += turn.span[0] > 0 and turn.span[1] - turn.span[0] > 1
                ids = info["response_ids"][slice(*turn.span)]
                lengths = [len(tokenizer.decode(ids[:n], True)) for n in range(len(ids) + 1)]
                expected[slice(*turn.span)] = np.diff(lengths)
        np.testing.assert_allclose(info["token_rewards"], expected, atol=1e-5)
        np.testing.assert_allclose(paid, expected[info["written"] > 0], atol=1e-5)
    assert later > 6


@pytest.mark.parametrize("ended", [True, False])
def test_turns_of_a_text_that_is_being_written_are_numbered(tokenizer, ended):
    written = talk(turns=talk().turns[: 3 if ended else 2])
    scorer = find_scorer("length-penalty:rate=-1")
    inputs = Inputs([written], scorer=scorer, tokenizer=tokenizer, ended=ended)
    assert inputs["turn_ids"].tolist() == [[0, 0, 1]]


def test_a_text_without_a_token_is_as_long_as_what_the_policy_wrote(tokenizer):
    """Turns "a b" and "b", 4 characters, without each own token."""
    several = talk(
        response_ids=[3, 4, 6, 7, 4],
        turns=[
            Turn("assistant", "a b", (0, 2)),
            *talk().turns[1:2],
            Turn("assistant", "b", (4, 5)),
        ],
    )
    scorer = find_scorer("length-penalty:rate=-1")
    inputs = Inputs([several], scorer=scorer, tokenizer=tokenizer)
    assert inputs["score_without"](torch.eye(3, dtype=torch.bool)[None]).tolist() == [[2, 2, 3]]


def test_two_turns_without_the_reply_between_them_are_one_message():
    """A template that refuses two messages of one role in a row reads what is left."""
    model = make_tokenizer("words", "alternating")
    ids = model("me good why film", add_special_tokens=False)["input_ids"]
    turns = [
        Turn("assistant", "me good", (0, 2)),
        Turn("user", "why", (2, 3)),
        Turn("assistant", "film", (3, 4)),
    ]
    asked = [{"role": "user", "content": "who"}]
    whole = talk(response_ids=ids, written=[1, 1, 0, 1], turns=turns, messages=asked)
    left = Probe(find_scorer("length-penalty"), model).restrict(whole, [0, 3])
    read = Retokenizer(model, model, form="chat")([left])[0]
    alone = talk(response_ids=[ids[0], ids[3]], written=None, turns=(), messages=asked)
    assert read.ids == Retokenizer(model, model, form="chat")([alone])[0].ids


@pytest.mark.parametrize("rule", RULES)
def test_rewards_in_conversations_keep_the_contract(make_env, rule):
    check_reward(CreditReward(make_env(**TALK), lambda prompt, text: len(text), rule), episodes=6)


@pytest.mark.parametrize("rule", RULES)
def test_batch_and_single_are_paid_the_same(make_env, make_envs, rule):
    def scored(prompt: str, response: str) -> float:
        return float(len(response))

    settings = {**TALK, "prompt_sampling": "sequential"}
    envs = CreditReward(make_envs(**settings), scored, rule)
    rows = [
        lambda row=row: CreditReward(make_env(prompt_shard=(row, 3), **settings), scored, rule)
        for row in range(3)
    ]
    copies = gymnasium.vector.SyncVectorEnv(rows, autoreset_mode="NextStep")
    envs.reset(seed=4), copies.reset(seed=4)
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.choice([1, 3, 4, 5], 3)
        native, sync = envs.step(actions), copies.step(actions)
        np.testing.assert_array_equal(native[1], sync[1])
        if "token_rewards" in native[4]:
            np.testing.assert_array_equal(native[4]["token_rewards"], sync[4]["token_rewards"])


def test_a_partner_that_never_scored():
    scorer = find_scorer("partner")
    silent = talk(turns=[Turn("assistant", "a", (0, 5))])
    with pytest.raises(ScorerError, match=r"no score in the 1.*episode 0"):
        scorer.score([silent])
    failed = talk(turns=[Turn("assistant", "a", (0, 5))], finish_reason="error")
    assert scorer.score([failed]).measured.tolist() == [False]  # 0 would be a score


def test_a_step_that_ends_a_turn_is_paid_for_the_reply(make_env):
    """By hand: red is paid what the text is worth after the step, less what it was before."""
    env = CreditReward(make_env(**TALK), lambda _, text: len(text) ** 1.5, "red")
    task: Any = env.unwrapped
    rng, replies = np.random.default_rng(1), 0
    for seed in range(6):
        env.reset(seed=seed)
        worth, paid, over = 0.0, [], False
        while not over:
            before = len(task.unfinished_episode().response_ids)
            _, reward, terminated, truncated, info = env.step(rng.choice([1, 3, 4, 5]))
            over = terminated or truncated
            text = task.unfinished_episode()
            replies += len(text.response_ids) > before + 1
            now = info["score"] if over else len(text.response) ** 1.5
            assert reward == pytest.approx(now - worth, abs=1e-4)
            worth = now
            paid.append(reward)
        np.testing.assert_allclose(info["token_rewards"][info["written"] > 0], paid, atol=1e-4)
    assert replies > 6


def test_step_rewards_go_on_after_a_fork(make_env):
    """Inside a turn and between turns, in an environment that paid nothing before."""
    rule = "red"
    one, other = (CreditReward(make_env(**TALK), lambda _, t: len(t) ** 1.5, rule) for _ in "ab")
    rng = np.random.default_rng(2)
    for seed in range(4):
        one.reset(seed=seed), other.reset(seed=seed + 50)
        over = False
        while not over:
            task: Any = other.unwrapped
            task.set_state(one.unwrapped.get_state())
            action = rng.choice([1, 3, 4, 5])
            (_, first, *flags, _), (_, second, *_, _) = one.step(action), other.step(action)
            assert first == pytest.approx(second, abs=1e-4)
            over = any(flags)


@pytest.mark.parametrize("rule", SHIPPED)
def test_every_rule_pays_all_of_the_score_to_the_policy(rule):
    """Over random conversations of the bundled models, of any length, with every rule by name."""
    words = ["and", "the", "film", "is", "good", "dull", "plot"]

    def says(conversation: Any, metadata: Any, rng: np.random.Generator) -> Reply:
        said = " ".join(rng.choice(words, size=rng.integers(1, 5)))
        return Reply(said, score=float(rng.normal()), done=bool(rng.random() < 0.2))

    talk: Any = {"partner": says, "max_turns": 3, "max_turn_tokens": 4, "max_new_tokens": 30}
    envs = gymnasium.make_vec("tokengym/MovieReview-v0", num_envs=6, reward=rule, **talk)
    _, infos = envs.reset(seed=3)
    rng = np.random.default_rng(3)
    paid, ended = np.zeros(6), 0
    for _ in range(40):
        masks = np.broadcast_to(infos["action_mask"], (6, infos["action_mask"].shape[-1]))
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        _, rewards, terminated, truncated, infos = envs.step(actions)
        paid += rewards
        for row in np.flatnonzero(terminated | truncated):
            ended += 1
            score, size = infos["score"][row], len(infos["response_ids"][row])
            written, tokens = infos["written"][row][:size], infos["token_rewards"][row][:size]
            assert float(tokens.sum(dtype=np.float64)) == pytest.approx(score, rel=1e-4, abs=1e-4)
            assert paid[row] == pytest.approx(score, rel=1e-4, abs=1e-4)
            assert not tokens[written == 0].any()
            paid[row] = 0.0
    assert ended > 12
