"""The page of ``tokengym explore``: its parts, what its buttons call, and the page in a browser.

The last needs Playwright and Chromium.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import gymnasium as gym
import numpy as np
import pytest

from tests.campaign.requests import Client
from tests.support import golden
from tests.support.browser import browser_page, complaints, missing_browser
from tests.support.lab.replay import replay_of
from tokengym.agents import PPO
from tokengym.envs import Episode
from tokengym.lab.replay import explore_requests
from tokengym.lab.replay.explore import Alternative, Branch, Explorer, Fork, Response
from tokengym.lab.replay.explore_page import alternative_label, render_fork, render_response
from tokengym.lab.replay.explore_requests import MAX_SHOWN, ExplorePage, check_rule
from tokengym.lab.replay.explore_server import Server
from tokengym.lab.replay.replay import USUAL
from tokengym.rewards.credits.words import REWARDS, RewardEntry
from tokengym.scripts.cli import main

ATTACK = "<img src=x onerror=\"document.title='owned'\"> ${1+1} {{value}}"
LENGTHS: dict[str, Any] = {"min_new_tokens": 8, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def hostile() -> Response:
    episode = Episode(prompt=ATTACK, response=ATTACK, prompt_ids=(3, 4), response_ids=(4, 5))
    result = replay_of(episode, (ATTACK, " fine"), {"abc": [0.25, -0.5]}, -0.25)
    return Response(replay=result, score=-0.25, gold_score=0.5, unknown=("<b>zz",))


def test_what_is_shown_is_escaped_and_says_what_is_stored(hostile: Response):
    def branch(token_id: int, token: str, scores: tuple[float, ...]) -> Branch:
        texts = tuple((ATTACK, token, f" {end}") for end, _ in enumerate(scores))
        episodes = tuple(replace(hostile.episode, score=score) for score in scores)
        gold = np.array(scores) / 10
        return Branch(token_id=token_id, episodes=episodes, tokens=texts, gold_scores=gold)

    taken = branch(5, " fine", (1.0, 2.0, 3.0, 2.0))
    other = branch(6, " <b>", (2.0, 4.0, 3.0, 3.0))
    fork = Fork(time=1, taken=taken, other=other, without=np.array([1.0, 1.0, 2.0, 2.0]))
    taken, other = branch(5, " a", (1.0,)), branch(6, " b", (2.0,))
    greedy = Fork(time=1, taken=taken, other=other, without=np.array([1.0]))
    shown = [
        render_response(hostile),
        render_fork(hostile, fork),
        render_response(replace(hostile, unknown=tuple("abcdefghij"))),
        render_fork(hostile, greedy),
    ]
    labels = [
        alternative_label(Alternative(token_id=5, text=" good", probability=p, is_taken=taken))
        for p, taken in ((0.4649, False), (0.34, True), (0.0004, False))
    ]
    said = golden.words("".join(shown)) + "\n".join(labels) + "\n"
    golden.check(Path(__file__).parent / "stored" / "explore.txt", said)
    for part in shown:
        assert not re.search("<img|<b>zz|<b> ", part)
    assert 'class="token gain" style="--v:0.50" title="+0.250"' in shown[0]
    assert 'class="token loss" style="--v:1.00" title="\u22120.500"' in shown[0]
    assert shown[1].count('class="swapped"') == 6


def test_the_page_loads_nothing_and_runs_its_own_script_alone():
    html = ExplorePage("MovieReview", rewards=("abc",), model=None).html()
    assert "<option>abc</option>" in html
    assert re.search(r"script-src 'sha256-[^']+'; connect-src 'self'; base-uri", html)
    assert html.count("<script>") == 1
    assert not re.search(r"https?:|url\(|@import|onclick|javascript:", html)


def test_the_functions_behind_the_buttons(tmp_path: Path):
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, **LENGTHS)
    agent = PPO("CausalLMPolicy", envs, n_minibatches=1)
    agent.save(tmp_path / "run" / "agent")
    page = ExplorePage("MovieReview", LENGTHS, results=tmp_path, rewards=("sparse", "uniform"))
    folder = str(tmp_path / "run" / "agent")
    assert page.agents == [folder]
    env = "tokengym/MovieReview-v0"
    policy, task, rules, prompt, temperature = page.begin("", env)
    assert (policy, task, rules, temperature) == ("", env, ["sparse", "uniform"], 1.0)
    shown = page.sample(env, "", rules, prompt, 3, 0.7)
    again = page.explorer(env, "").sample(prompt, rules, seed=3, temperature=0.7)
    assert shown.response.episode == again.episode
    assert (shown.temperature, shown.greedy, shown.seed) == (0.7, False, 3)
    assert len(shown.response.tokens) == 8
    greedy = page.sample(env, "", rules, prompt, 3, 0)
    likeliest = page.explorer(env, "").sample(prompt, rules, greedy=True)
    assert greedy.response.episode == likeliest.episode
    assert page.begin(folder, env)[:2] == (folder, env)
    assert page.explorer(env, folder) is not page.explorer(env, "")
    assert page.explorer(env, "") is shown.explorer
    own = ExplorePage("Oracle", agent=None)
    assert own.begin(None, "tokengym/Oracle-v0")[2][:3] == ["sparse", "uniform", "abc"]


def test_a_response_of_a_file_is_taken_apart_beside_what_its_trainer_paid(
    monkeypatch: pytest.MonkeyPatch,
):
    begun = Explorer("MovieReview", LENGTHS)
    written = begun.sample(begun.draw_prompt(0), ["sparse"], seed=2).episode
    size = len(written.response_ids)
    paid = replace(written, token_rewards=np.full(size, 0.5), score=0.5 * size)
    page = ExplorePage(
        "MovieReview", LENGTHS, rewards=("uniform",), stored=[paid, written], paid_by="trainer"
    )
    assert 'name="stored"' in page.html()
    assert page.rules(MOVIE, "") == ["uniform"]
    by_default = ExplorePage("MovieReview", LENGTHS, stored=[paid], paid_by="trainer")
    assert by_default.rules(MOVIE, "")[-1] == "random"  # the control
    of_file = {"env": MOVIE, "agent": "", "rules": ["uniform"]}
    told = page.answer("read", {**of_file, "number": 1})
    assert told["prompt"] == written.prompt
    assert len(told["tokens"]) == size
    credits = page.read(MOVIE, "", ["uniform"], 1).response.replay.credits
    assert credits["trainer"][0] == pytest.approx(np.full(size, 0.5))
    assert credits["uniform"][0].sum() == pytest.approx(begun.shown(written, ["uniform"]).score)
    assert [*page.read(MOVIE, "", ["uniform"], 2).response.replay.credits] == ["uniform", "trainer"]
    chosen = page.answer("choose", {"shown": told["shown"], "index": 1})["alternatives"]
    other = next(each["id"] for each in chosen if not each["taken"])
    forked = {"shown": told["shown"], "index": 1, "token_id": other, "count": 2}
    assert "changes the score by" in page.answer("fork", forked)["html"]
    measured = page.answer("measure", {"shown": told["shown"], "count": 2})["html"]
    assert "executed truth (k = 2)" in measured
    assert f"in the file {0.5 * size:.2f}" in measured
    with pytest.raises(ValueError, match=r"even.*continuations"):
        page.answer("measure", {"shown": told["shown"], "count": 3})
    monkeypatch.setattr(explore_requests, "MAX_MEASURED", 71)
    with pytest.raises(ValueError, match=r"72 tokens.*71"):
        page.answer("measure", {"shown": told["shown"], "count": 2})
    with pytest.raises(ValueError, match=r"number must.*got 3"):
        page.answer("read", {**of_file, "number": 3})
    with pytest.raises(ValueError, match=r"tokengym/MovieReview-v0.*/Oracle-v0"):
        page.answer("read", {**of_file, "env": "tokengym/Oracle-v0", "number": 1})
    assert 'name="stored"' not in ExplorePage("MovieReview", LENGTHS).html()


MOVIE = "tokengym/MovieReview-v0"
OWN = (
    "open(__file__ + '.ran', 'w').close()\n"
    "from tokengym.rewards.credits.uniform import uniform as Mine\n"
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file that leaves another one beside it when it is run."""
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


@pytest.fixture(scope="module")
def page() -> ExplorePage:
    return ExplorePage("MovieReview", LENGTHS, rewards=("sparse",))


def test_own_code_is_run_only_if_the_command_line_names_it(own: Path, page: ExplorePage):
    rule, ran = f"{own}:Mine", own.with_name("own.py.ran")
    with pytest.raises(ValueError, match=r"own\.py:Mine.*page"):
        page.sample(MOVIE, "", [rule], "the film", 0, 1)
    assert not ran.exists()
    offering = ExplorePage("MovieReview", LENGTHS, rewards=(rule,))
    assert offering.rewards[0] == rule
    shown = offering.sample(MOVIE, "", [rule, "uniform"], "the film", 0, 1)
    (mine,), (uniform,) = shown.response.replay.credits.values()
    np.testing.assert_allclose(mine, uniform)
    assert ran.exists()
    with pytest.raises(ValueError, match="is code"):
        offering.sample(MOVIE, "", [f"{own}:Uniform"], "the film", 0, 1)  # another name in it


@pytest.mark.parametrize(
    "name",
    [
        *(rule for group in USUAL for rule in group),
        *("abc:beta=0.5", "mc:k=2,segments=3,cut=entropy", "red:delivery=end", "scar:seed=3"),
        *("r3:length_incentive=false", "abc-d:beta=1", "rto:beta=0"),
    ],
)
def test_rules_with_plain_options_are_named_on_the_page(name: str):
    check_rule(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own.py:Mine", r"own.py:Mine.*tokengym explore"),
        ("abc:beta=own.py:Mine", r"beta.*'own.py:Mine'"),
        ("abc-d:model=models", r"model.*'models'.*tokengym explore"),
        ("abc-d2:beta=1,model=5", r"model.*5"),
        ("rto:policy=gpt2", r"policy.*'gpt2'"),
        ("rto:beta=0.1,reference=true", r"reference.*True"),
        ("abc:beta=models", r"beta.*'models'"),
        ("mc:segments=models", r"segments.*'models'"),
        ("gradient:rescale=models", r"rescale.*'models'"),
        ("red:delivery=1", r"delivery.*1"),
        ("r3:length_incentive=models", r"length_incentive.*'models'"),
        ("abc:gamma=1", "'gamma'"),
        ("acb", r"'acb'.*'abc'"),
        ("", "unknown reward ''"),
    ],
)
def test_rules_that_could_name_a_file_or_a_model_are_refused(name: str, said: str):
    with pytest.raises(ValueError, match=said):
        check_rule(name)


def test_an_option_that_a_rule_does_not_declare_is_not_set(monkeypatch: pytest.MonkeyPatch):
    def loose(**options: Any) -> None:
        raise AssertionError(f"called with {options}")

    monkeypatch.setattr(REWARDS, "_entries", {**REWARDS, "loose": RewardEntry(loose)})
    for option in ("path=models", "options=1"):
        with pytest.raises(ValueError, match=f"may not set {option.partition('=')[0]}"):
            check_rule(f"loose:{option}")


def test_folders_and_tasks_are_those_of_the_command_line(tmp_path: Path, page: ExplorePage):
    for folder in (str(tmp_path), "..", "/", "gpt2"):
        with pytest.raises(ValueError, match=r"not offered.*--agent"):
            page.begin(folder, MOVIE)
        with pytest.raises(ValueError, match="is not offered"):
            page.sample(MOVIE, folder, ["sparse"], "the film", 0, 1)
    for env in ("own.py:make", "os:Env-v0", "CartPole-v1", "MovieReview", ""):
        with pytest.raises(ValueError, match=r"not offered.*--env"):
            page.draw("", env)


def test_what_is_out_of_range_is_refused_before_anything_waits(
    page: ExplorePage, monkeypatch: pytest.MonkeyPatch
):
    """The lock is held all the while, and the tokenizer is not asked."""
    usual: dict[str, Any] = {"rules": ["sparse"], "prompt": "the film"}
    usual |= {"seed": 0, "temperature": 1.0}

    def refused(said: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=said):
            page.sample(MOVIE, "", **(usual | changes))

    monkeypatch.setattr(explore_requests, "WAIT_S", 0.0)
    with page._lock:
        refused("100001.*100000", prompt="x" * 100_001)
        for prompt in (None, "", " \n"):
            refused("^the prompt is empty", prompt=prompt)
        for seed in (None, -1, 2**63, 10**30):
            refused(f"^seed .*{2**63 - 1}{'' if seed is None else f', got {seed}'}$", seed=seed)
        for temperature in (None, -1.0, 1e-300, 1e300):
            refused(r"^temperature .* 0 .*0\.001 to 1000\.0", temperature=temperature)
        for rules in ([], None, ["sparse"] * 25):
            refused(f"24.*got {len(rules or ())}$", rules=rules)
        for prompt in ("the film", "x" * 100_000):
            refused("busy", prompt=prompt)
    assert page.sample(MOVIE, "", **usual).seed == 0  # the lock was left as it was
    shown = page.sample(MOVIE, "", ["sparse"], "the film", 2**63 - 1, 0)
    for count in (None, 0, 65, 10**9):
        with pytest.raises(ValueError, match="continuations"):
            page.fork(shown, 0, 5, count)


def test_a_button_asks_by_name_and_responses_are_kept_for_a_while(page: ExplorePage):
    begun = page.answer("begin", {"agent": None, "env": MOVIE})
    assert list(begun) == ["agent", "env", "rules", "prompt", "temperature"]
    assert page.answer("draw", {"agent": "", "env": MOVIE})["prompt"]
    asked = {"env": MOVIE, "agent": "", "rules": ["sparse"], "prompt": "the film", "seed": 0}
    asked["temperature"] = 1.0
    told = page.answer("sample", asked)
    assert len(told["tokens"]) == 8
    index = {"shown": told["shown"], "index": 2}
    alternatives = page.answer("choose", index)["alternatives"]
    assert sum(each["taken"] for each in alternatives) == 1
    other = next(each["id"] for each in alternatives if not each["taken"])
    assert "finding" in page.answer("fork", {**index, "token_id": other, "count": 2})["html"]
    first = "choose a token of the response and an alternative first"
    for sent in ({}, {**index, "token_id": None, "count": 2}, {"index": 1, "token_id": 5}):
        with pytest.raises(ValueError, match=first):
            page.answer("fork", sent)
    for wrong in (-1, 8, 10**30):
        with pytest.raises(ValueError, match=r"index.*8 tokens"):
            page.answer("choose", {**index, "index": wrong})
    for sent in ({"x": 1}, {"agent": "", "env": MOVIE, "self": 1}):
        with pytest.raises(TypeError, match="argument"):
            page.answer("draw", sent)
    page._shown.update({str(number): page._shown[told["shown"]] for number in range(MAX_SHOWN)})
    page.answer("sample", asked)
    assert len(page._shown) == MAX_SHOWN
    with pytest.raises(ValueError, match="no longer kept"):
        page.answer("choose", index)


def test_a_missing_folder_is_said_in_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["explore", "nowhere"]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    assert main(["explore", "--agent", "nowhere"]) == 2
    assert "tokengym train" in capsys.readouterr().err


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with Server(ExplorePage("MovieReview", LENGTHS, rewards=("uniform", "red")), port=0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.address
        server.shutdown()


def test_the_page_is_used_over_its_port(served: str):
    client = Client(served)
    assert urlsplit(served).hostname == "127.0.0.1"
    output = client.sample(rules=["uniform", "abc:beta=0.5"], prompt="the film " * 90)
    assert output["html"].count('class="token') > 3 * 8  # the truth and two rules
    assert client.sample(prompt="the film " * 900)["detail"] == (
        "the prompt has 1800 tokens, the model reads 248 before a response of 8; shorten the prompt"
    )
    long = client.sample(prompt="x" * 5_000_000)
    assert (long["status"], "shorten the prompt" in long["detail"]) == (413, True)
    assert client.call("fork", {"shown": None, "index": None, "token_id": None, "count": 16}) == {
        "status": 400,
        "detail": "choose a token of the response and an alternative first",
    }


@pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())
def test_the_page_is_used_by_hand(served: str):
    assert served.startswith("http://127.0.0.1:")
    with browser_page(width=390, height=844) as page:

        def wait(condition: str) -> None:
            """Wait for a condition; the page forbids the script that Playwright's own way runs."""
            end = time.monotonic() + 60
            while not page.evaluate(condition):
                assert time.monotonic() < end, (condition, page.inner_text("body"))
                page.wait_for_timeout(50)

        page.goto(served)
        page.wait_for_selector("#response .line", timeout=60_000)  # after the cookie's page
        tokens = "document.querySelectorAll('#response .line .response .token')"
        wait(f"{tokens}.length === 24")  # the truth and two rules
        offered = "document.querySelector('#forking')"
        assert page.evaluate(f"{offered}.offsetHeight") == 0  # no empty boxes before a choice
        page.evaluate(f"{tokens}[3].click()")
        wait("document.querySelectorAll('input[type=radio]').length === 8")
        seen = "(box => box.top >= 0 && box.bottom <= innerHeight + 1)"
        wait(f"{seen}({offered}.getBoundingClientRect())")
        wait(f"getComputedStyle({tokens}[11]).outlineStyle === 'solid'")
        button = "[...document.querySelectorAll('button')].find(b => b.innerText === '{}')"
        page.evaluate(button.format("Take the alternative") + ".click()")
        wait("document.querySelector('#fork .finding') !== null")
        finding = page.evaluate("document.querySelector('#fork .finding').innerText")
        assert re.search(r"changes the score by .* \(means of 16 continuations of each", finding)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert "Press a token" in page.locator("h1 + p").inner_text()
        page.evaluate(
            "new MutationObserver(() => { window.busy ||= document.querySelector("
            "'#response[aria-busy=true]') !== null; })"
            ".observe(document.body, {subtree: true, childList: true, attributes: true})"
        )
        enter = f"document.querySelector('[name=prompt]').value = {ATTACK!r}"
        page.evaluate(enter)
        page.evaluate(button.format("Sample a response") + ".click()")
        shown = "document.querySelector('#response .prompt').innerText"
        wait(f"{shown}.startsWith('<img')")
        assert page.evaluate(shown).startswith(ATTACK)
        assert page.evaluate("window.busy")  # there was a sign while the response was sampled
        assert page.evaluate("document.title") == "tokengym explore"
        page.evaluate(enter.replace(repr(ATTACK), "''"))
        page.evaluate(button.format("Sample a response") + ".click()")
        wait("document.body.innerText.includes('the prompt is empty; type one')")
        page.evaluate(enter.replace(repr(ATTACK), "'x'.repeat(3000000)"))
        page.evaluate(button.format("Sample a response") + ".click()")
        wait("document.body.innerText.includes('bytes; shorten the prompt')")
        assert page.evaluate("[location.search, document.cookie]") == ["", ""]
        hosts = page.evaluate(
            "[...new Set(performance.getEntriesByType('resource').map(r => new URL(r.name).host))]"
        )
        assert hosts == [served.split("/")[2]]
        refused = r"Failed to load resource: .* status of 4(00|13) "  # an empty prompt, a long one
        assert [said for said in complaints(page) if not re.match(refused, said)] == []


@pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())
def test_another_task_than_the_file_s_is_scored_as_that_task():
    begun = Explorer("MovieReview", LENGTHS)
    stored = [begun.sample(begun.draw_prompt(s), ["sparse"], seed=s).episode for s in (0, 1)]
    question = Explorer("QuestionAnswer").draw_prompt(0)
    explored = ExplorePage("MovieReview", LENGTHS, rewards=("uniform",), stored=stored)
    with Server(explored, port=0) as server, browser_page() as page:
        Thread(target=server.serve_forever, daemon=True).start()
        page.goto(server.address)

        def shows(text: str, env: str) -> None:
            wait = "#response[aria-busy], #error:not(:empty)"
            page.wait_for_selector("#response .line", timeout=60_000)
            page.wait_for_selector(wait, state="detached", timeout=60_000)
            task = page.locator("[name=env]").input_value()
            prompt = page.locator("[name=prompt]").input_value()
            last = [*explored._shown.values()][-1]
            assert (task, prompt) == (env, text)
            assert (last.explorer.env, last.response.episode.prompt) == (env, text)

        shows(stored[0].prompt, MOVIE)
        page.select_option("[name=env]", "tokengym/QuestionAnswer-v0")
        shows(question, "tokengym/QuestionAnswer-v0")
        page.click("[name=next]")  # goes back to the task of the file
        shows(stored[1].prompt, MOVIE)
        server.shutdown()
