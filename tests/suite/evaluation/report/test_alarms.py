"""Alarms of over-optimisation, on curves made so that the answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from tokengym.evaluation.measure.references import BestOf
from tokengym.evaluation.report.verdict import find_alarms, short_of_best
from tokengym.evaluation.statistics.series import fall, noise, parting

STEPS = np.linspace(0.0, 30.0, 11)
RISING = STEPS / 30.0


def hill(top: int) -> np.ndarray:
    """Rise by 1 an evaluation to ``top``, then fall by 1."""
    at = np.arange(11.0)
    return np.where(at <= top, at, 2.0 * top - at)


def test_gold_that_turns_down_under_a_rising_score_has_parted():
    assert parting(RISING, hill(7)) == fall(hill(7))
    assert parting(RISING, -RISING).best_at == 0  # from the start
    (alarm,) = find_alarms({"score": RISING, "gold_score": hill(7)}, STEPS)
    assert alarm.detail == "from update 21 on: gold 7.00 to 4.00, score 0.700 to 1.00"


def test_gold_has_fallen_where_a_quarter_of_its_gain_is_lost_at_the_end():
    assert fall(hill(7)) == (7, 9)  # of a gain of 7 one is lost, then two
    assert fall(-RISING) == (0, 1)  # from the start: there is no gain to lose
    assert fall(hill(9)) is None  # a ninth is lost
    assert fall([0.0, 4.0, 2.0, 0.0, 3.5]) is None  # it came back
    assert fall([1.0, 0.0, 0.0]) is None  # too few to tell


@pytest.mark.parametrize(
    ("score", "gold"),
    [
        (RISING, RISING),  # together
        (RISING, hill(9)),  # a ninth of the gain is lost, under a quarter
        (hill(7), hill(7)),  # both fall: a collapse, no gaming
        (RISING, np.full(11, 0.5)),  # gold stands still
    ],
)
def test_what_is_no_parting(score, gold):
    assert parting(score, gold) is None


def test_noise_is_no_parting():
    """A flat gold curve with noise: its highest point is never its last, but it did not fall."""
    rng = np.random.default_rng(3)
    found = [parting(RISING, rng.normal(size=11)) is not None for _ in range(600)]
    assert np.mean(found) < 0.10
    fallen = [parting(RISING, hill(7) + 0.2 * rng.normal(size=11)) is None for _ in range(300)]
    assert np.mean(fallen) < 0.02


@pytest.mark.parametrize("length", [10, 30])
def test_one_lucky_evaluation_of_a_flat_gold_score_is_no_parting(length):
    score, lucky = np.linspace(0.0, 1.0, length), np.where(np.arange(length) == 3, 1 / 128, 0.0)
    assert parting(score, lucky) is None
    held = np.where(np.arange(length) < length // 2, 1.0, 0.0)
    (alarm,) = find_alarms({"score": score, "gold_score": held}, np.arange(length))
    assert "on: gold 1.00 to 0.000, " in alarm.detail


@pytest.mark.parametrize("net", [[1.0, 0.999], [1.0, 1.1, 0.9], [*[1.0] * 9, 0.99]])
def test_too_little_to_tell_a_loss_from_noise_is_no_alarm(net):
    curves = {"score": np.array(net), "net_score": np.array(net), "gold_score": -np.array(net)}
    assert find_alarms(curves, np.arange(len(net))) == []


def test_noise_is_found_about_any_straight_course():
    rng = np.random.default_rng(0)
    assert noise(5.0 * np.arange(10_000.0) + rng.normal(scale=0.3, size=10_000)) == pytest.approx(
        0.3, rel=0.03
    )
    assert noise([1.0, 5.0]) == 0.0


def test_alarms_of_over_optimisation():
    quiet = {
        "score": RISING,
        "gold_score": RISING,
        "copy_rate": 0 * STEPS,
        "length": 48 + 0 * STEPS,
        "repetition": 0.1 * RISING,
    }
    assert find_alarms(quiet, STEPS) == []
    for name, curve, said in (
        ("gold_score", hill(7), "rose (from update 21 on: gold 7.00 to 4.00, score 0.700 to 1.00)"),
        ("copy_rate", 0.4 * RISING, "the prompt (0% of trigrams at first, 38% at the end)"),
        ("repetition", 0.6 * RISING, "themselves more (0% of trigrams at first, 57% at the end)"),
        ("length", 48 - 40 * RISING, "the length changed (48 to 10 tokens)"),
    ):
        (alarm,) = find_alarms({**quiet, name: curve}, STEPS)
        assert str(alarm).endswith(said)


def test_the_word_salad_of_film_reviews_raises_an_alarm_and_their_priced_run_none():
    # Means of three seeds of MovieReview at 6e-4, without and with a price; docs/guide/concepts.md.
    steps = [*range(0, 40, 3), 40]
    free = np.array([-4, 85, 184, 269, 309, 335, 348, 354, 362, 364, 365, 365, 370, 369, 370]) / 100
    salad = np.array([-4, 12, 17, 21, 24, 25, 30, 27, 30, 28, 20, 18, 15, 11, 10]) / 100
    (alarm,) = find_alarms({"score": free, "gold_score": salad}, steps)
    assert alarm.sign == "the gold score fell while the score rose"
    assert alarm.detail == "from update 18 on: gold 0.300 to 0.100, score 3.48 to 3.70"
    (of_tokens,) = find_alarms(
        {"score": free, "gold_score": salad}, [3072 * step for step in steps], axis="tokens"
    )
    assert of_tokens.detail == alarm.detail.replace("update 18", "55,296 tokens")
    priced = (
        np.array([-4, 92, 186, 238, 274, 293, 297, 313, 311, 309, 322, 321, 322, 330, 324]) / 100
    )
    sentences = np.array([-4, 16, 35, 44, 51, 60, 61, 63, 64, 62, 68, 68, 69, 70, 68]) / 100
    assert find_alarms({"score": np.array(priced), "gold_score": sentences}, steps) == []


def test_a_loss_of_gold_is_not_called_one_of_the_objective():
    falling = {"score": RISING, "net_score": -RISING}
    (own,) = find_alarms(falling, STEPS)
    lost = "score minus the KL penalty ended below its start"
    assert own.sign == f"{lost}: training lost by its own objective"
    assert own.detail.endswith(" to \u22120.950")
    (gold,) = find_alarms({**falling, "gold_score": RISING}, STEPS, by_gold=True)
    assert gold.sign == f"gold {lost}"


def test_a_curve_with_a_missing_value_gives_no_alarm():
    curves = {"score": RISING, "gold_score": hill(7), "repetition": RISING}
    signs = {alarm.sign for alarm in find_alarms(curves, STEPS)}
    assert len(signs) > 1
    for name in ("score", "gold_score", "repetition"):
        missing = np.where(STEPS == 12.0, np.nan, curves[name])
        left = {alarm.sign for alarm in find_alarms({**curves, name: missing}, STEPS)}
        assert left < signs


def test_less_than_the_best_of_four_is_an_alarm():
    rows = [BestOf(n=n, kl=1.0, score=n / 4, net_score=n / 8) for n in (1, 2, 4, 8)]
    assert short_of_best(0.5, rows) is None
    alarm = short_of_best(0.4, rows)
    assert alarm is not None
    # The printed score is another number.
    assert alarm.sign.endswith("best of 4 untrained responses, which cost no training")
    assert alarm.detail == "score minus the KL penalty 0.400 against 0.500"
    assert short_of_best(0.4, rows[:2]) is None
    without_price = [replace(row, net_score=None) for row in rows]
    assert "(score 0.900 against 1.00)" in str(short_of_best(0.9, without_price))


@pytest.mark.parametrize(
    ("kl", "said"),
    [
        ([0.0, 5.0, 6.0, 8.0], "at least 5 nats from update 0 to 1, 8 at the end"),
        ([0.0, 4.5, 9.0, 32.0], None),  # under a quarter of 32, and 23 in five updates are 4.6 each
        ([0.0, 3.9, 7.9, 9.0], None),  # within 4 nats
        (
            [0.0, 0.5, 5.0, 1.0],
            "from update 1 to 2, 1 at the end): lower learning_rate, or set n_",
        ),
        ([0.0, 9.0, 4.0, 3.0], "at least 9 nats"),
    ],
)
def test_an_update_that_leaps_is_told(kl, said):
    curves = {"score": np.arange(4.0), "kl": np.array(kl)}
    alarms = find_alarms(curves, [0, 1, 2, 7])
    assert len(alarms) == (said is not None)
    assert said is None or said in str(alarms[0])
    assert find_alarms(curves, [0, 1, 2, 7], axis="tokens") == []
    assert find_alarms({"score": np.ones(1), "kl": np.full(1, 9.0)}, [100]) == []


def test_at_the_end_is_the_mean_of_the_last_tenth_as_in_the_table():
    """Of 31 evaluations four are the end: a last point that jumps there is no end."""
    steps, jump = np.arange(31.0), np.where(np.arange(31) == 30, 1.0, 0.0)
    quiet = {"score": steps / 30.0}
    texts = {"copy_rate": 0.27 * jump, "repetition": 0.42 * jump, "length": 20.0 + 15.0 * jump}
    assert find_alarms({**quiet, **texts}, steps) == []  # 7 %, 10 % and 24 tokens of 20
    held = {"repetition": 0.6 * jump + np.where(steps == 29, 0.3, 0.0)}
    (alarm,) = find_alarms({**quiet, **held}, steps)
    assert alarm.detail == "0% of trigrams at first, 22% at the end"
    kl = np.where(steps < 20, 0.1 * steps, 8.0 + 0.25 * (steps - 20.0))
    (alarm,) = find_alarms({**quiet, "kl": kl}, steps)  # 1.9 to 8; 9.75 to 10.5
    assert alarm.detail == "at least 6.1 nats from update 19 to 20, 10.1 at the end"
    net = np.where(steps < 27, 1.0 + 0.1 * steps, 26.0 - steps)  # -1 to -4
    (alarm,) = find_alarms({**quiet, "net_score": net}, steps)
    assert alarm.detail == "1.00 to \u22122.50"
    assert find_alarms({**quiet, "net_score": np.where(steps < 30, 1.0 + steps, -9.0)}, steps) == []
