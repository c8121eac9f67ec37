"""Conversations: a partner answers each turn, and its tokens are appended to the policy's."""

import json
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from tests.support.partners import Several, teacher
from tokengym.base.waiting import TookTooLongError
from tokengym.envs import (
    Episode,
    EpisodeOverError,
    Partner,
    PartnerError,
    PromptError,
    Reply,
    SettingsError,
    StateError,
    TokenizerError,
    Turn,
    episodes_from_infos,
)
from tokengym.envs.turns import conversation
from tokengym.envs.turns.partner import as_partner

EOS, A, B, C, D, E = 1, 3, 4, 5, 6, 7
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
FORGETFUL = (  # drops what was reasoned in all but the last answer, as Qwen3's template does
    "{% for m in messages %}{{ m.role }} {{ m.content.split('</think>')[-1] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
COUNTING = (  # numbers the turns
    "{% for m in messages %}{{ loop.index }} {{ m.content }} <eos> {% endfor %}assistant "
)
REFUSING = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.role }} {{ m.content }} <eos> {% endfor %}assistant "
)


class Script(Partner):
    """Gives its replies in order, and notes what it was asked."""

    name = "script"

    def __init__(self, *replies: Any) -> None:
        self.given = replies
        self.asked: list[Any] = []

    def reply(self, conversation: Any, metadata: Any, rng: Any) -> Any:
        self.asked.append((conversation, dict(metadata)))
        reply = self.given[sum(m["role"] == "assistant" for m in conversation) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply


class Silent(Partner):
    """Has the policy's role."""

    role = "assistant"


def play(env: Any, tokens: list[int]) -> list[Any]:
    return [env.step(token) for token in tokens]


def test_four_turns_by_hand(make_env):
    script = Script(Reply("d"), Reply("d e", score=0.5), "c", Reply("e", score=1.0))
    env = make_env(
        partner=script, max_turns=4, max_turn_tokens=3, max_new_tokens=20, prompts=["a b"]
    )
    env.reset(seed=0)
    steps = play(env, [A, EOS, B, B, B, EOS, C, A])
    # EOS ends turn 1; the budget of three tokens ends turn 2; EOS alone is turn 3.
    assert steps[1][0]["input_ids"].tolist()[:7] == [A, B, A, EOS, D, 0, 0]
    assert steps[1][0]["attention_mask"].tolist()[:7] == [1, 1, 1, 1, 1, 0, 0]
    assert steps[4][0]["input_ids"].tolist()[:11] == [A, B, A, EOS, D, B, B, B, D, E, 0]
    assert not any(step[2] or step[3] for step in steps)
    observation, reward, terminated, truncated, info = env.step(EOS)
    assert (reward, terminated, truncated) == (0.0, True, False)
    written = [1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1]
    assert info["written"].tolist() == written
    assert info["written"].dtype == np.int8
    assert info["response_ids"] == (A, EOS, D, B, B, B, D, E, EOS, C, C, A, EOS)
    assert info["token_rewards"].shape == (13,)
    assert observation["input_ids"].tolist()[2:15] == list(info["response_ids"])
    assert info["finish_reason"] == "eos"
    assert info["turns"] == (
        Turn("assistant", "a", (0, 2), None),
        Turn("user", "d", (2, 3), None),
        Turn("assistant", "b b b", (3, 6), 0.5),
        Turn("user", "d e", (6, 8), None),
        Turn("assistant", "", (8, 9), None),
        Turn("user", "c", (9, 10), None),
        Turn("assistant", "c a", (10, 13), 1.0),
        Turn("user", "e", (13, 13), None),  # the conversation was over: not appended
    )
    said, _ = script.asked[1]
    assert said == [
        {"role": "user", "content": "a b"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "b b b"},
    ]


def test_the_legal_tokens_of_a_whole_text_are_those_that_its_steps_showed(make_envs):
    """Counted from the first token of each turn, also where a KL is measured afterwards."""
    rules = {"min_new_tokens": 1, "allowed_token_ids": ((A,), (B, C)), "max_turn_tokens": 3}
    partner = Script("d", "d e", "c")
    envs = make_envs(num_envs=1, partner=partner, max_turns=3, max_new_tokens=20, **rules)
    _, infos = envs.reset(seed=0)
    shown = []
    for token in (A, B, A, A, EOS, A, C, EOS):  # the first turn ends by its length
        shown.append(infos["action_mask"][0].copy())
        assert shown[-1][token]
        infos = envs.step(np.array([token]))[4]
    episode = episodes_from_infos(infos)[0]
    assert episode.written is not None
    assert [turn.span for turn in episode.turns[::2]] == [(0, 3), (4, 6), (8, 11)]
    found = envs.response_masks(len(episode.response_ids), episode.turns)
    np.testing.assert_array_equal(found[episode.written > 0], shown)


def test_a_turn_has_room_for_the_tokens_before_its_end(make_env):
    talk = {"partner": Script("d"), "max_turns": 2, "max_turn_tokens": 3, "max_new_tokens": 20}
    env = make_env(min_new_tokens=3, **talk)
    env.reset(seed=0)
    can_end = [info["action_mask"][EOS] for *_, info in play(env, [A, A, A])]
    assert can_end == [0, 0, 0]  # the third token ends the turn, and the next begins
    with pytest.raises(SettingsError, match=r"min_new_tokens .*max_turn_tokens=3, got 4; .*lower"):
        make_env(min_new_tokens=4, **talk)


def test_the_partner_ends_the_conversation(make_env):
    env = make_env(partner=Script("d", Reply("", 2.0, done=True)), max_turns=9, max_new_tokens=20)
    env.reset(seed=0)
    *_, last = play(env, [A, EOS, B, EOS])
    assert last[2]
    assert last[4]["turns"][-1] == Turn("assistant", "b", (3, 5), 2.0)


@pytest.mark.parametrize(
    ("reply", "options", "truncated"),
    [
        (Reply("", 1.0, done=True), {"max_turns": 3, "max_turn_tokens": 3}, False),
        (Reply("d"), {"max_turns": 1, "max_turn_tokens": 3}, False),  # the number of turns says so
        (Reply("", 1.0, done=True), {"max_turns": 3}, True),  # the horizon cut the turn itself
        (Reply("d"), {"max_turns": 1}, True),
    ],
)
def test_only_want_of_room_truncates(make_env, make_envs, reply, options, truncated):
    room = 64 if "max_turn_tokens" in options else 3
    options = {**options, "max_new_tokens": room, "horizon": "truncated", "partner": Script(reply)}
    env, envs = make_env(**options), make_envs(num_envs=2, **options)
    env.reset(seed=0)
    envs.reset(seed=0)
    *_, last = play(env, [A, B, C])
    *_, vector_last = [envs.step(np.full(2, token)) for token in (A, B, C)]
    assert last[2:4] == (not truncated, truncated)
    assert last[4]["finish_reason"] == "length"
    assert [flags.tolist() for flags in vector_last[2:4]] == [[not truncated] * 2, [truncated] * 2]


@pytest.mark.parametrize("horizon", ["terminated", "truncated"])
def test_no_room_for_the_reply_is_the_horizon(make_env, horizon):
    env = make_env(partner=lambda *asked: "d e", max_turns=3, max_new_tokens=4, horizon=horizon)
    env.reset(seed=0)
    *_, last = play(env, [A, EOS])
    assert last[2:4] == (horizon == "terminated", horizon == "truncated")
    assert last[4]["finish_reason"] == "length"
    assert last[4]["response_ids"] == (A, EOS)
    assert last[4]["turns"][-1] == Turn("user", "d e", (2, 2), None)


def test_the_horizon_ends_a_turn_before_eos_is_legal_in_it(make_env):
    env = make_env(partner=Script("d", "d"), max_turns=2, max_new_tokens=7, min_new_tokens=3)
    env.reset(seed=0)
    steps = play(env, [A, A, A, EOS, B, B])  # the reply is the fifth token
    assert [step[2] for step in steps] == [False] * 5 + [True]
    assert steps[-1][4]["finish_reason"] == "length"
    assert steps[-1][4]["response_ids"] == (A, A, A, EOS, D, B, B)


def test_one_turn_is_the_mdp_without_a_partner(make_env):
    """Bit for bit: observations, flags, masks, prompts and infos but for the turns themselves."""
    settings = {"min_new_tokens": 1, "prompt_sampling": "uniform"}
    alone, talks = make_env(**settings), make_env(**settings, partner=teacher)
    rng = np.random.default_rng(0)
    for episode in range(30):
        seed = 5 if episode == 0 else None
        pair = [alone.reset(seed=seed), talks.reset(seed=seed)]
        over = False
        while True:
            for left, right in zip(*pair, strict=True):
                for info in (left, right):
                    if isinstance(info, dict):
                        info.pop("turns", None), info.pop("written", None)
                np.testing.assert_equal(right, left)
            if over:
                break
            token = int(rng.integers(0, 6))
            pair = [alone.step(token), talks.step(token)]
            over = pair[0][2] or pair[0][3]


def test_prompts_are_drawn_whatever_is_said(make_env):
    def prompts(tokens: list[int], **settings: Any) -> list[str]:
        env, drawn = make_env(max_new_tokens=12, **settings), []
        rng = np.random.default_rng(1)
        for episode in range(12):
            _, info = env.reset(seed=3 if episode == 0 else None)
            drawn.append(info["prompt"])
            while not any(env.step(int(rng.choice(tokens)))[2:4]):
                pass
        return drawn

    talk = {"partner": teacher, "max_turns": 4}
    assert prompts([A, B, EOS], **talk) == prompts([C, EOS], **talk) == prompts([C, EOS])


@pytest.mark.parametrize("size", range(9))
def test_forks_inside_and_between_turns(make_env, size):
    settings = {"partner": teacher, "max_turns": 4, "max_turn_tokens": 3, "max_new_tokens": 16}
    env, other = make_env(**settings), make_env(**settings)
    rng = np.random.default_rng(0)
    tokens = rng.choice([EOS, A, B, C], 40).tolist()
    env.reset(seed=11)
    for token in tokens[:size]:
        if any(env.step(token)[2:4]):
            env.reset()
    state = json.loads(json.dumps(env.get_state()))
    np.testing.assert_equal(other.set_state(state)[0], env.set_state(state)[0])
    for token in tokens[size:]:
        steps = env.step(token), other.step(token)
        np.testing.assert_equal(steps[1], steps[0])
        if any(steps[0][2:4]):
            np.testing.assert_equal(other.reset(), env.reset())


def test_forks_of_a_batch(make_envs):
    settings = {"partner": teacher, "max_turns": 4, "max_turn_tokens": 3, "max_new_tokens": 16}
    envs, other = make_envs(**settings), make_envs(**settings)
    rng = np.random.default_rng(0)
    envs.reset(seed=11)
    for _ in range(5):
        envs.step(rng.choice([EOS, A, B, C], 3))
    states = envs.get_state()
    assert any(state["turns"] for state in states)
    other.set_state(states)
    for _ in range(30):
        tokens = rng.choice([EOS, A, B, C], 3)
        np.testing.assert_equal(other.step(tokens), envs.step(tokens))


def test_a_partner_draws_anew_in_every_turn_and_episode(make_env):
    def drawing(said: Any, metadata: Any, rng: np.random.Generator) -> Reply:
        drawn.append(rng.random())
        return Reply("a")

    drawn: list[float] = []
    env = make_env(partner=drawing, max_turns=3, max_new_tokens=20)
    for seed in (0, None, 0, None):
        env.reset(seed=seed)
        play(env, [EOS, EOS, EOS])
    assert drawn[:6] == drawn[6:]
    assert len({*drawn}) == 6


def test_an_episode_begins_with_an_unfinished_one(make_env, make_envs):
    """Inside a turn and between turns, as a single one and in a batch."""
    talk: Any = {"partner": teacher, "max_turns": 3, "max_turn_tokens": 3, "max_new_tokens": 14}
    env, other, envs = make_env(**talk), make_env(**talk), make_envs(**talk)
    rng, between = np.random.default_rng(0), 0
    for seed in range(6):
        env.reset(seed=seed)
        over = False
        while not over:
            observation, _, terminated, truncated, _ = env.step(rng.choice([1, 3, 4, 5]))
            over = terminated or truncated
            if over:
                continue
            text = env.unfinished_episode()
            between += bool(text.written[-1] == 0)
            prompt = other.find_prompt(text.prompt_ids, text.prompt)
            again, _ = other.reset(options={"prompt": prompt, "response": text})
            batch, _ = envs.reset(options={"prompts": [prompt] * 3, "responses": [text] * 3})
            for name, array in observation.items():
                np.testing.assert_array_equal(again[name], array)
                np.testing.assert_array_equal(batch[name][1], array)
            begun = other.unfinished_episode()
            assert (begun.turns, begun.written.tolist()) == (text.turns, text.written.tolist())
            assert envs.unfinished_episodes([2])[0].turns == text.turns
    assert between > 5
    with pytest.raises(SettingsError, match="no partner"):
        make_env().reset(options={"prompt": prompt, "response": text})


def test_a_state_needs_its_turns(make_env):
    env = make_env(partner=teacher)
    env.reset(seed=0)
    state = env.get_state()
    with pytest.raises(StateError, match="do not edit its keys"):
        make_env().set_state(state)
    for change in (
        *({"turns": [turn]} for turn in (["user", "a", 3, None], ["user", 3, [0, 1], None])),
        *({"partner_seed": None}, {"partner_seed": -1}, {"episode": -1}, {"episode": "x"}),
    ):
        with pytest.raises(StateError, match="another kind"):
            env.set_state(state | change)


def test_a_batch_is_asked_together(make_envs):
    several = Several()
    envs = make_envs(num_envs=4, partner=several, max_turns=3, max_new_tokens=20)
    envs.reset(seed=0)
    envs.step(np.array([A, EOS, B, EOS]))
    envs.step(np.array([EOS, C, EOS, C]))
    assert several.calls == [2, 2]


FAULTS: dict[str, tuple[Any, str]] = {
    "raises": (ConnectionError("no route\nto host"), "ConnectionError: no route"),
    "none": (None, r"Reply\(text, .*got None"),
    "empty": (Reply("  "), "gave no text, got '  '"),
    "no_text": (Reply(3), "must return Reply"),  # type: ignore[arg-type]
    "long": (Reply("a b c d"), r"4 tokens.*max_reply_tokens=3"),
    "nan": (Reply("a", float("nan")), "score nan"),
    "surrogate": (Reply("a \ud800"), "surrogate at character 2"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_failing_partner_stops_or_loses_the_episode(make_envs, name):
    reply, message = FAULTS[name]
    settings = {"max_turns": 3, "max_reply_tokens": 3, "max_new_tokens": 20}
    envs = make_envs(partner=Script("a", reply), **settings)
    envs.reset(seed=0)
    envs.step(np.array([A, EOS, A]))
    with pytest.raises(PartnerError, match=message) as caught:
        envs.step(np.array([A, EOS, A]))
    assert "partner 'script'" in str(caught.value)
    assert "(row 1, turn 2)" in str(caught.value)
    assert "\n" not in str(caught.value)
    envs = make_envs(partner=Script("a", reply), on_partner_error="skip", **settings)
    envs.reset(seed=0)
    envs.step(np.array([A, EOS, A]))
    _, _, terminated, truncated, infos = envs.step(np.array([A, EOS, A]))
    assert truncated.tolist() == [False, True, False]
    assert not terminated.any()
    (row,) = (episodes := episodes_from_infos(infos))
    assert (row, episodes[1].finish_reason) == (1, "error")
    assert episodes[1].turns[-1] == Turn("assistant", "", (2, 3), None)
    np.testing.assert_array_equal(episodes[1].written, [1, 0, 1])
    envs.step(np.array([A, EOS, A]))  # the run goes on


@pytest.mark.parametrize("num_envs", [None, 2])
def test_a_turn_whose_partner_failed_is_over_until_a_reset(make_env, make_envs, num_envs):
    """A step after the error was caught wrote past the row's end."""
    partner = Script(ConnectionError("away"), Reply("a"))
    settings = {"partner": partner, "max_turns": 2, "max_new_tokens": 2}
    env = make_env(**settings) if num_envs is None else make_envs(num_envs=num_envs, **settings)
    env.reset(seed=0)
    action: Any = A if num_envs is None else np.array([A, A])
    env.step(action)
    with pytest.raises(PartnerError, match="away"):
        env.step(action)
    with pytest.raises(EpisodeOverError):
        env.step(action)


@pytest.mark.parametrize("answers", [1, 3])
def test_a_partner_for_many_has_the_time_of_each_answer(make_envs, monkeypatch, answers):
    waits: list[float | None] = []

    def too_long(call: Any, seconds: float | None, name: str) -> None:
        waits.append(seconds)
        raise TookTooLongError

    monkeypatch.setattr(conversation, "call_within", too_long)
    envs = make_envs(partner=Several(), max_turns=2, partner_timeout=0.2)
    envs.reset(seed=0)
    with pytest.raises(PartnerError, match=r"partner_timeout=0\.2"):
        envs.step(np.array([EOS] * answers + [A] * (3 - answers)))
    assert waits == [pytest.approx(0.2 * answers)]


def test_a_partner_for_many_must_answer_all(make_envs):
    class Short(Several):
        def replies(self, conversations: Any, metadatas: Any, rngs: Any) -> list[Reply]:
            return super().replies(conversations, metadatas, rngs)[:1]

    envs = make_envs(partner=Short(), max_turns=2)
    envs.reset(seed=0)
    with pytest.raises(PartnerError, match="1 replies to 2"):
        envs.step(np.array([EOS, A, EOS]))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_turns": 2}, SettingsError, "max_turns=2"),
        ({"max_reply_tokens": 9}, SettingsError, "max_reply_tokens=9"),
        ({"partner": teacher, "partner_timeout": 0}, SettingsError, "a finite number > 0"),
        (
            {"partner": teacher, "max_turn_tokens": 2, "min_new_tokens": 3},
            SettingsError,
            "min_new_tokens.*max_turn_tokens=2, got 3",
        ),
        ({"partner": "techer"}, SettingsError, "unknown partner 'techer'"),
        ({"partner": Silent()}, SettingsError, "role='assistant'"),
        ({"partner": 5}, TypeError, r"partner.*reply\(conversation"),
        ({"partner": Several}, TypeError, "Partner, a function"),
        (
            {"partner": teacher, "prompts": ["a", [{"role": "user", "content": "b"}]]},
            PromptError,
            "1 of 2 prompts",
        ),
    ],
)
def test_settings_that_cannot_work(make_env, build_tokenizer, settings, error, message):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    with pytest.raises(error, match=message):
        make_env(**{"tokenizer": tokenizer} | settings)


def test_a_beginning_must_not_end_the_turn(make_env):
    env = make_env(partner=teacher, max_turns=2, max_turn_tokens=2, max_new_tokens=9)
    env.reset(options={"response": [A]})
    with pytest.raises(SettingsError, match="2 of at most 2"):
        env.reset(options={"response": [A, B]})


WORDS = ("<pad>", "<eos>", "<unk>", "a", "b", "c", "user", "tool", "assistant")


@pytest.mark.parametrize("ended", [True, False])
def test_replies_in_a_chat_template(make_env, build_tokenizer, ended):
    """The tokens are those of the template's text; the sampled ones stay what they are."""
    tokenizer = build_tokenizer(WORDS)
    tokenizer.chat_template = CHAT_TEMPLATE
    partner = Script("c c", "a")
    partner.role = "tool"
    env = make_env(
        tokenizer=tokenizer,
        prompts=[[{"role": "user", "content": "b"}]],
        partner=partner,
        max_turns=2,
        max_turn_tokens=2,
        max_new_tokens=20,
    )
    env.reset(seed=0)
    *_, step = play(env, [A, EOS] if ended else [A, A])
    text = "user b <eos> assistant a <eos> tool c c <eos> assistant"
    if not ended:  # cut by its budget: the template's end of the turn is the reply's first token
        text = text.replace("a <eos> tool", "a a <eos> tool")
    shown = step[0]["input_ids"][step[0]["attention_mask"] > 0]
    assert tokenizer.decode(shown) == text
    info = play(env, [2, EOS])[-1][4]  # an unknown word would never be encoded as it was sampled
    assert info["written"].tolist() == [1, 1, *[0] * (5 if ended else 6), 1, 1]
    assert info["response_ids"][-2:] == (2, EOS)
    assert partner.asked[0][0][0] == {"role": "user", "content": "b"}


@pytest.mark.parametrize(
    ("template", "role", "message"),
    [
        ("{{ messages[-1].content }} <eos> assistant ", "user", "writes no answer before a reply"),
        (COUNTING, "user", "no one form of a reply: behind an answer it writes"),
        (REFUSING, "tool", "no tools"),
    ],
)
def test_templates_without_a_form_of_replies(make_env, build_tokenizer, template, role, message):
    tokenizer, partner = build_tokenizer(WORDS), Script()
    tokenizer.chat_template, partner.role = template, role
    make_env(tokenizer=tokenizer, chat_template=True)  # harmless in one turn
    with pytest.raises(TokenizerError, match=message):
        make_env(tokenizer=tokenizer, chat_template=True, partner=partner, max_turns=2)


def test_thoughts_that_the_template_drops_stay_in_the_conversation(
    make_env, build_tokenizer, caplog
):
    """The policy reads what it sampled, and one line says that the template writes it otherwise."""
    tokenizer = build_tokenizer((*WORDS, "<think>", "</think>"))
    tokenizer.chat_template = FORGETFUL
    talk = {"partner": Script("c", "c"), "max_turns": 3, "max_new_tokens": 20}
    with caplog.at_level("WARNING"):
        for _ in range(2):
            env = make_env(tokenizer=tokenizer, chat_template=True, prompts=["b"], **talk)
    (line,) = [m for m in caplog.messages if "leaves thoughts out of earlier answers" in m]
    assert "ratios are of that text" in line
    env.reset(seed=0)
    thinking = [*tokenizer.convert_tokens_to_ids(["<think>", "b", "</think>", "a"]), EOS]
    *_, step = play(env, thinking * 2)
    shown = step[0]["input_ids"][step[0]["attention_mask"] > 0]
    answered = "<think> b </think> a <eos> user c <eos> assistant"
    assert tokenizer.decode(shown) == f"user b <eos> assistant {answered} {answered}"


def test_metadata_reaches_the_partner(make_env):
    from tokengym.envs import Prompt

    script = Script("a")
    env = make_env(partner=script, prompts=[Prompt("b", metadata={"answer": 7})])
    env.reset(seed=0)
    env.step(EOS)
    assert script.asked == [
        ([{"role": "user", "content": "b"}, {"role": "assistant", "content": ""}], {"answer": 7})
    ]


def test_official_checkers(make_env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*spec")  # it is registered in test_checkers
        env = make_env(partner=teacher, max_turns=3, max_new_tokens=9)
        check_env(env, skip_render_check=True)
        sb3_check_env(env)


def test_render_shows_who_wrote_what(make_env, make_envs, capsys):
    settings = {"partner": Script("d e", "c"), "max_turns": 2, "max_new_tokens": 9}

    def finished(mode: str) -> Any:
        env = make_env(**settings, prompts=["a b"], render_mode=mode)
        env.reset(seed=0)
        play(env, [A, EOS, B])
        return env

    ansi = finished("ansi")
    reply = "\x1b[2;3m d\x1b[0m\x1b[2;3m e\x1b[0m"
    assert ansi.render() == f"\x1b[1ma b\x1b[0m a<eos>{reply} b"
    html = finished("html").render()
    assert '<span>&lt;eos&gt;</span><i style="opacity:0.6" title="reply"> d</i>' in html
    assert html.count('title="reply"') == 2
    finished("human")  # into a pipe
    assert capsys.readouterr().out == "\na b a<eos> d e b"
    envs = make_envs(num_envs=1, prompts=["a b"], render_mode="ansi", **settings)
    envs.reset(seed=0)
    for token in (A, EOS, B):
        envs.step(np.array([token]))
    assert envs.render() == (ansi.render(),)


def test_episodes_hold_their_turns(make_env):
    env = make_env(partner=Script("d", Reply("c", 1.0)), max_turns=2, max_new_tokens=9)
    env.reset(seed=0)
    episode = Episode.from_info(play(env, [A, EOS, EOS])[-1][4])
    assert episode.written.tolist() == [1, 1, 0, 1]
    assert not episode.written.flags.writeable
    read = Episode.from_record(json.loads(json.dumps(episode.to_record())))
    assert read == episode
    assert read.turns == episode.turns
    np.testing.assert_array_equal(read.written, episode.written)
    plain = Episode(prompt="a", response="b", prompt_ids=[3], response_ids=[4])
    assert not {"turns", "written"} & plain.to_record().keys()
    with pytest.raises(ValueError, match=r"written.*\(1,\)"):
        Episode(
            prompt="a", response="b", prompt_ids=[3], response_ids=[4], written=np.ones(2, np.int8)
        )


@pytest.mark.parametrize(
    ("partner", "said"),
    [
        (lambda conversation: Reply("a"), r"'<lambda>' must take \(conversation, metadata, rng\)"),
        (lambda conversation, metadata, rng, more: Reply("a"), r"got \(.*more\); add"),
    ],
)
def test_a_partner_that_cannot_be_asked_is_refused_as_it_is_made(partner, said):
    with pytest.raises(SettingsError, match=said):
        as_partner(partner)


def test_partners_with_further_defaults_are_taken():
    def answers(conversation: Any, metadata: Any, rng: Any, more: int = 0) -> Reply:
        return Reply("a")

    assert as_partner(answers).role == "user"
    assert as_partner(lambda *all_of_it: Reply("a")).role == "user"
