"""Text environments as partners: a game of our own, and those of TextArena and GEM if installed."""

import random
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tokengym.envs import Reply, SettingsError, TokenGenerationEnv, bundled
from tokengym.envs.turns.partner import as_partner
from tokengym.lab.partners.text_game import TextGame
from tokengym.rewards import SparseReward
from tokengym.rewards.scorers.partner import PartnerScore

RNG = np.random.default_rng(0)


class Dice(TextGame):
    """A game that draws from the global generators at its start and in every step."""

    name = "dice"
    begun = 0

    def begin(self, seed: int) -> tuple[Any, str]:
        Dice.begun += 1
        return [random.random()], f"dice {seed}"

    def advance(self, env: Any, text: str) -> Reply:
        env.append(random.random() + np.random.random())
        said = " ".join(f"{number:.6f}" for number in env)
        return Reply(f"{text} {said}", score=1.0, done=text == "stop")


def said(*turns: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text} for text in turns]


def test_a_game_is_played_again_where_it_is_not_open():
    game, other = Dice("x"), Dice("x")
    (row,) = game.prompts(1, first=5)
    assert (row.text, row.metadata) == ("dice 5", {"seed": 5})
    first = game.reply(said("a"), row.metadata, RNG)
    second = game.reply(said("a", "b"), row.metadata, RNG)
    fork = game.reply(said("a", "c"), row.metadata, RNG)  # the open game has gone on
    assert second.text.split()[1:3] == first.text.split()[1:]
    assert fork.text.split()[1:] == second.text.split()[1:]
    begun = Dice.begun
    assert other.reply(said("a", "b"), row.metadata, RNG) == second
    assert other.reply(said("a", "b", "stop"), row.metadata, RNG).done
    assert Dice.begun == begun + 1
    assert not other._open


def test_the_global_generators_stay_as_they_were():
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    game = Dice("x")
    game.prompts(2)
    game.reply(said("a"), {"seed": 1}, RNG)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]


def test_a_row_without_a_seed_is_refused():
    with pytest.raises(SettingsError, match="'seed'"):
        Dice("x").reply(said("a"), {}, RNG)


def test_a_suite_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "gem", None)
    with pytest.raises(SettingsError, match=r"'tokengym-lab\[gem\]'"):
        as_partner("gem:game:GuessTheNumber-v0-easy")


def test_textarena_s_guessing_game_is_a_token_mdp():
    pytest.importorskip("textarena", reason="an extra of tokengym-lab")
    partner: Any = as_partner("textarena:GuessTheNumber-v0")
    tokenizer = bundled("reasoning_gym").tokenizer
    env: Any = SparseReward(
        TokenGenerationEnv(
            tokenizer=tokenizer,
            prompts=partner.prompts(2),
            partner=partner,
            max_turns=10,
            max_turn_tokens=8,
            max_reply_tokens=200,
            max_new_tokens=1500,
        ),
        PartnerScore(),
    )
    env.reset(seed=0, options={"prompt_id": 0})
    low, high, over = 1, 20, False
    while not over:
        guess = (low + high) // 2
        ids = tokenizer.encode(f"[{guess}]", add_special_tokens=False)
        for token in (*ids, tokenizer.eos_token_id):
            _, _, over, _, info = env.step(token)
        if not over:
            role, text, *_ = env.unwrapped.get_state()["turns"][-1]
            assert role == "user"
            low, high = (guess + 1, high) if "higher" in text else (low, guess - 1)
    assert info["score"] == 1.0
    assert info["turns"][-1][:2] == ("assistant", f"[{guess}]")
    with pytest.raises(SettingsError, match="'Nope-v0'"):
        as_partner("textarena:Nope-v0")
    with pytest.raises(SettingsError, match="'TicTacToe-v0'"):
        as_partner("textarena:TicTacToe-v0").prompts(1)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("id", "address"),
    [
        ("code:CodeContest", "gem.envs.code_env:CodeEnv"),
        ("math:Math12K", "gem.envs.math_env:MathEnv"),
        ("rg:arc_1d", "gem.envs.reasoning_gym:ReasoningGymEnv"),
    ],
)
def test_gem_s_environments_that_run_what_is_written_are_refused(
    monkeypatch: pytest.MonkeyPatch, id: str, address: str
):
    made: list[str] = []
    registry = {id: SimpleNamespace(entry_point=address)}
    suite = SimpleNamespace(
        envs=SimpleNamespace(registration=SimpleNamespace(ENV_REGISTRY=registry)), make=made.append
    )
    monkeypatch.setitem(sys.modules, "gem", suite)
    with pytest.raises(SettingsError, match=r"gem\.make"):
        as_partner(f"gem:{id}")
    registry[id].entry_point = "gem.envs.game_env.guess_the_number:GuessTheNumberEnv"
    as_partner(f"gem:{id}")
    assert made == []


def test_gem_s_guessing_game():
    pytest.importorskip("gem", reason="an extra of tokengym-lab")
    partner: Any = as_partner("gem:game:GuessTheNumber-v0-easy")
    (row,) = partner.prompts(1, first=3)
    assert "between 1 and 10" in row.text
    low, high, turns = 1, 10, []
    while True:
        turns.append(f"\\boxed{{{(low + high) // 2}}}")
        reply = partner.reply(said(*turns), row.metadata, RNG)
        assert reply == as_partner("gem:game:GuessTheNumber-v0-easy").reply(
            said(*turns), row.metadata, RNG
        )
        if reply.done:
            break
        middle = (low + high) // 2
        low, high = (middle + 1, high) if "higher" in reply.text else (low, middle - 1)
    assert reply.score == 1.0
