"""Higher or lower against its best play."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from tokengym.envs import SettingsError
from tokengym.lab.partners.higher_lower import (
    HigherLower,
    best_guesses,
    best_score,
    higher_lower_env,
    wrong_guesses,
)
from tokengym.rewards import SparseReward
from tokengym.rewards.scorers.partner import PartnerScore


def test_the_best_play_is_the_best_of_all_orders():
    """A play is an order of the numbers in which those that are excluded are left out."""
    for most in (2, 3, 4, 5):
        totals = []
        for order in permutations(range(1, most + 1)):
            wrong = 0
            for secret in range(1, most + 1):
                low, high = 1, most
                for guess in order:
                    if not low <= guess <= high:
                        continue
                    if guess == secret:
                        break
                    wrong += 1
                    low, high = (guess + 1, high) if secret > guess else (low, guess - 1)
            totals.append(wrong)
        assert min(totals) == wrong_guesses(most)


def test_the_best_play_scores_what_is_said_of_it():
    env: Any = SparseReward(higher_lower_env(), PartnerScore())
    scores = []
    for secret in range(1, 8):
        env.reset(seed=0, options={"prompt_id": secret - 1})
        low, high, over = 1, 7, False
        while not over:
            guess = best_guesses(low, high)[0]
            _, _, over, _, info = env.step(
                env.unwrapped.tokenizer.convert_tokens_to_ids(str(guess))
            )
            low, high = (guess + 1, high) if secret > guess else (low, guess - 1)
        assert info["turns"][-1][:2] == ("assistant", str(secret))
        scores.append(info["score"])
    assert np.mean(scores) == pytest.approx(best_score(7), abs=1e-6)


def test_replies_by_hand():
    rng = np.random.default_rng(0)
    game = HigherLower(cost=0.5)

    def said(text: str) -> Any:
        return game.reply([{"role": "assistant", "content": text}], {"secret": 3}, rng)

    assert [said(text).text for text in ("2", "5", "it is 3", "", "two")] == [
        *("higher", "lower", "", "what", "what")
    ]
    assert (said("3").score, said("3").done, said("4").score) == (1.0, True, -0.5)
    with pytest.raises(SettingsError, match="'secret'"):
        game.reply([{"role": "assistant", "content": "2"}], {}, rng)
