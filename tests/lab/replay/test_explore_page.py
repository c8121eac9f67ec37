"""The page of ``tokengym explore``: its parts, what its components call, and the page in a browser.

The last needs ``pip install 'tokengym[explore]'`` and Chromium.
"""

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokengym.agents import PPO
from tokengym.envs import Episode
from tokengym.lab.replay import explore_app
from tokengym.lab.replay.explore import Alternative, Branch, Explorer, Fork, Response
from tokengym.lab.replay.explore_app import ExplorePage, launch
from tokengym.lab.replay.explore_page import (
    alternative_label,
    render_fork,
    render_response,
    styles,
)
from tokengym.lab.replay.replay import Replay
from tokengym.scripts.browser import Page, browser_path
from tokengym.scripts.cli import main

torch.set_num_threads(1)
ATTACK = "<img src=x onerror=\"document.title='owned'\"> ${1+1} {{value}}"
LENGTHS = {"min_new_tokens": 8, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def hostile() -> Response:
    episode = Episode(prompt=ATTACK, response=ATTACK, prompt_ids=(3, 4), response_ids=(4, 5))
    result = Replay(
        env="tokengym/MovieReview-v0",
        source="",
        episodes=(episode,),
        tokens=((ATTACK, " fine"),),
        credits={"abc": (np.array([0.25, -0.5]),)},
        scores={"abc": np.array([-0.25])},
        scorers={"abc": "RewardModel"},
        truth=None,
        agreements={},
    )
    return Response(replay=result, score=-0.25, gold_score=0.5, unknown=1)


def test_a_response_is_shown_as_the_replay_shows_it(hostile: Response):
    shown = render_response(hostile)
    assert "<img" not in shown
    assert "&lt;img src=x" in shown
    assert 'class="token gain" style="--v:0.50" title="+0.250"' in shown
    assert 'class="token loss" style="--v:1.00" title="\u22120.500"' in shown
    assert "score \u22120.250 \u00b7 gold 0.500 \u00b7 2 tokens" in shown
    assert "1 of 2 tokens of the prompt are unknown" in shown
    assert "nth-child" not in shown
    assert ".token:nth-child(2)" in render_response(hostile, 1)
    assert "unknown" not in render_response(replace(hostile, unknown=0))


def test_a_fork_is_told_in_a_sentence_and_in_texts(hostile: Response):
    def branch(token_id: int, token: str, scores: tuple[float, ...]) -> Branch:
        texts = tuple((ATTACK, token, f" {end}") for end, _ in enumerate(scores))
        episodes = tuple(replace(hostile.episode, score=score) for score in scores)
        gold = np.array(scores) / 10
        return Branch(token_id=token_id, episodes=episodes, tokens=texts, gold_scores=gold)

    taken = branch(5, " fine", (1.0, 2.0, 3.0, 2.0))
    fork = Fork(time=1, taken=taken, other=branch(6, " <b>", (2.0, 4.0, 3.0, 3.0)))
    shown = render_fork(hostile, fork)
    assert (
        "\u201c&lt;b&gt;\u201d instead of \u201cfine\u201d changes the score by +1.00 \u00b1 0.408 "
        "and the gold score by +0.100 \u00b1 0.041 (means of 4 continuations of each, \u00b1 one "
        "standard error)."
    ) in shown
    assert "Credit paid for \u201cfine\u201d: abc \u22120.500." in shown
    assert "<img" not in shown
    assert "<b> " not in shown
    assert shown.count('class="swapped"') == 6
    assert shown.count("1 more are not shown") == 2
    greedy = Fork(time=1, taken=branch(5, " a", (1.0,)), other=branch(6, " b", (2.0,)))
    assert "by +1.00 and the gold score by +0.100 (one continuation of each)" in render_fork(
        hostile, greedy
    )


def test_alternatives_are_labelled():
    def label(probability: float, *, is_taken: bool = False) -> str:
        return alternative_label(
            Alternative(token_id=5, text=" good", probability=probability, is_taken=is_taken)
        )

    assert label(0.4649) == "\u201cgood\u201d  46.5 %"
    assert label(0.34, is_taken=True) == "\u201cgood\u201d  34.0 % \u00b7 taken"
    assert label(0.0004) == "\u201cgood\u201d  < 0.1 %"


def test_the_styles_stay_inside_one_element_and_load_nothing():
    text = styles()
    assert ":root" not in text
    assert "--paid:" in text
    assert not re.search(r"https?:|url\(|@import|[`$\\]|\{\{", text)  # Gradio compiles them


def test_the_functions_behind_the_components(tmp_path: Path):
    agent = Explorer("MovieReview", LENGTHS).agent
    assert isinstance(agent, PPO)
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
    assert (
        greedy.response.episode == page.explorer(env, "").sample(prompt, rules, greedy=True).episode
    )
    assert page.begin(str(tmp_path / "run"), env)[:2] == (folder, env)
    assert page.explorer(env, folder) is not page.explorer(env, "")
    assert page.explorer(env, "") is shown.explorer
    own = ExplorePage("Oracle", agent=None)
    assert own.begin(None, "tokengym/Oracle-v0")[2][:3] == ["sparse", "uniform", "abc"]
    with pytest.raises(ValueError, match=r"nowhere is no folder; name one that tokengym train"):
        page.begin("nowhere", env)


def test_a_missing_gradio_and_folder_are_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with monkeypatch.context() as patch:
        patch.setattr(explore_app, "find_spec", lambda name: None)
        assert main(["explore"]) == 2
        said = capsys.readouterr().err
        assert said == "error: tokengym explore needs gradio; pip install 'tokengym[explore]'\n"
        patch.setattr(explore_app, "find_spec", lambda name: object())
        assert main(["explore", "nowhere"]) == 2
        assert "nowhere is no folder; name one that holds runs" in capsys.readouterr().err
        assert main(["explore", "--agent", "nowhere"]) == 2
        assert "nowhere is no folder; name one that tokengym train" in capsys.readouterr().err


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    kwargs = {**LENGTHS, "max_prompt_tokens": 40}
    page = ExplorePage("MovieReview", kwargs, rewards=("uniform", "red"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app: Any = launch(page, port=port)
    yield app.local_url
    app.close()


@pytest.mark.skipif(find_spec("gradio") is None, reason="needs pip install 'tokengym[explore]'")
@pytest.mark.skipif(browser_path() is None, reason="needs Chromium")
def test_the_page_is_used_by_hand(served: str):
    assert served.startswith("http://127.0.0.1:")
    with Page(width=390, height=844) as page:
        page.open(served)
        tokens = "document.querySelectorAll('#response .line .response .token')"
        page.wait_for(f"{tokens}.length === 24")  # the truth and two rules
        page.run(f"{tokens}[3].click()")
        page.wait_for("document.querySelectorAll('input[type=radio]').length === 8")
        page.wait_for(f"getComputedStyle({tokens}[11]).outlineStyle === 'solid'")
        button = "[...document.querySelectorAll('button')].find(b => b.innerText === '{}')"
        page.run(button.format("Take the alternative") + ".click()")
        page.wait_for("document.querySelector('#fork .finding') !== null")
        finding = page.run("document.querySelector('#fork .finding').innerText")
        assert re.search(r"changes the score by .* \(means of 16 continuations of each", finding)
        assert page.run("document.documentElement.scrollWidth") <= 390
        enter = (
            "(value => { const box = document.querySelector('textarea'); box.value = value;"
            " box.dispatchEvent(new Event('input', {bubbles: true})); })(" + repr(ATTACK) + ")"
        )
        page.run(enter)
        page.run(button.format("Sample a response") + ".click()")
        shown = "document.querySelector('#response .prompt').innerText"
        page.wait_for(f"{shown}.startsWith('<img')")
        assert page.run(shown).startswith(ATTACK)
        assert page.run("document.title") == "tokengym explore"
        page.run(enter.replace(repr(ATTACK), "''"))
        page.run(button.format("Sample a response") + ".click()")
        page.wait_for("document.body.innerText.includes('the prompt is empty; type one')")
        hosts = page.run(
            "[...new Set(performance.getEntriesByType('resource').map(r => new URL(r.name).host))]"
        )
        assert hosts == [served.split("/")[2]]
        assert page.messages == []
