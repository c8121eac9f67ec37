"""The Oracle: its exact values against brute force and against its own episodes."""

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest

import tokengym  # noqa: F401  (registers the ids)
from tokengym.envs import OracleEnv, OracleVectorEnv, PolicyError, SettingsError
from tokengym.lab.envs.oracle.score import RULES, oracle_score

PAD, EOS, UNK = range(3)
NAMES = ("<pad>", "<eos>", "<unk>", "good", "bad", "not", "but", "film", "the")
GOOD, BAD, NOT, BUT, FILM, THE = WORDS = range(3, 9)
HORIZON = 3


def random_policy(env: Any, seed: int = 0) -> np.ndarray:
    """Return a policy (states, vocab) with random probabilities on the legal tokens."""
    rng = np.random.default_rng(seed)
    rows = []
    for state in env.states:
        probs = rng.dirichlet(np.full(len(NAMES), 0.5))
        probs[[PAD, UNK]] = 0.0
        if len(state) < env.settings.min_new_tokens:
            probs[EOS] = 0.0
        rows.append(probs / probs.sum())
    return np.array(rows)


def complete_responses(min_new_tokens: int) -> list[tuple[int, ...]]:
    """Return every response that is over, by enumeration."""
    ended = [
        (*words, EOS)
        for length in range(min_new_tokens, HORIZON)
        for words in itertools.product(WORDS, repeat=length)
    ]
    return ended + list(itertools.product(WORDS, repeat=HORIZON))


def chance(env: Any, policy: np.ndarray, response: tuple[int, ...], start: int = 0) -> float:
    """Return the probability of a response's tokens from one of them on."""
    place = {state: row for row, state in enumerate(env.states)}
    steps = range(start, len(response))
    return float(np.prod([policy[place[response[:t]], response[t]] for t in steps]))


def score_of(response: tuple[int, ...]) -> float:
    return oracle_score([NAMES[i] for i in response if i != EOS])


@pytest.mark.parametrize("min_new_tokens", [0, 2])
def test_a_policys_values_are_those_of_brute_force(min_new_tokens: int) -> None:
    env = OracleEnv(max_new_tokens=HORIZON, min_new_tokens=min_new_tokens)
    policy = random_policy(env)

    def expected(beginning: tuple[int, ...]) -> float:
        """Return the mean score of all that may follow, by the probability of each."""
        size = len(beginning)
        return sum(
            chance(env, policy, response, size) * score_of(response)
            for response in complete_responses(min_new_tokens)
            if response[:size] == beginning
        )

    values, q_values = env.policy_values(policy)
    advantages = env.exact_advantages(policy)
    for state in env.states:
        assert values[state] == pytest.approx(expected(state), abs=1e-12)
        for token in range(len(NAMES)):
            legal = token in WORDS or (token == EOS and len(state) >= min_new_tokens)
            assert np.isnan(q_values[state][token]) == np.isnan(advantages[state][token])
            assert np.isnan(q_values[state][token]) == (not legal)
            if legal:
                truth = expected((*state, token))
                assert q_values[state][token] == pytest.approx(truth, abs=1e-12)
                advantage = truth - expected(state)
                assert advantages[state][token] == pytest.approx(advantage, abs=1e-12)


@pytest.mark.parametrize("min_new_tokens", [0, 2])
def test_best_values_are_those_of_brute_force(min_new_tokens: int) -> None:
    env = OracleEnv(max_new_tokens=HORIZON, min_new_tokens=min_new_tokens)
    everything = complete_responses(min_new_tokens)
    values, q_values = env.optimal_values()
    for state in env.states:
        after = {r: score_of(r) for r in everything if r[: len(state)] == state}
        assert values[state] == max(after.values())
        for token in (*WORDS, *([EOS] if len(state) >= min_new_tokens else [])):
            best = max(s for r, s in after.items() if r[len(state)] == token)
            assert q_values[state][token] == best
    advantages = env.optimal_values().advantages.array
    assert np.nanmax(advantages, axis=1).tolist() == [0.0] * len(env.states)


def test_the_best_policy_never_writes_what_the_reference_never_writes() -> None:
    env = OracleEnv(max_new_tokens=HORIZON)
    reference = random_policy(env, seed=0)
    reference[:, env.tokenizer.convert_tokens_to_ids("good")] = 0.0
    reference /= reference.sum(axis=1, keepdims=True)
    best = env.kl_optimal_policy(reference, kl_coef=1e-3)
    np.testing.assert_allclose(best.sum(axis=1), 1.0)
    assert (best[reference == 0] == 0).all()


@pytest.mark.parametrize("min_new_tokens", [0, 2])
@pytest.mark.parametrize("price", [0.05, 0.5, 20.0])
def test_the_best_policy_under_a_price_is_that_of_brute_force(
    min_new_tokens: int, price: float
) -> None:
    """pi(y) = reference(y) exp(score(y) / c) / Z over whole responses, enumerated."""
    env = OracleEnv(max_new_tokens=HORIZON, min_new_tokens=min_new_tokens)
    reference = random_policy(env)
    everything = complete_responses(min_new_tokens)
    prior = np.array([chance(env, reference, response) for response in everything])
    scores = np.array([score_of(response) for response in everything])
    weights = prior * np.exp((scores - scores.max()) / price)
    best = env.kl_optimal_policy(reference, kl_coef=price)
    found = [chance(env, best, response) for response in everything]
    np.testing.assert_allclose(found, weights / weights.sum(), atol=1e-9)
    reached = env.kl_optimal_values(reference, kl_coef=price).values[()]
    assert reached == pytest.approx(scores.max() + price * np.log(weights.sum()), abs=1e-9)

    other = random_policy(env, seed=1)
    objectives = []
    for policy in (best, other):
        probs = np.array([chance(env, policy, response) for response in everything])
        kept = probs > 0
        kl = float((probs[kept] * np.log(probs[kept] / prior[kept])).sum())
        objectives.append(float((probs * scores).sum()) - price * kl)
        value = env.policy_values(policy, reference=reference, kl_coef=price).values[()]
        assert value == pytest.approx(objectives[-1], abs=1e-9)
    assert objectives[0] == pytest.approx(reached, abs=1e-9)
    assert objectives[1] < objectives[0] - 1e-3  # no policy is better than the best one


@pytest.mark.parametrize("min_new_tokens", [0, 2])
def test_the_responses_are_those_of_brute_force(min_new_tokens: int) -> None:
    env = OracleEnv(max_new_tokens=HORIZON, min_new_tokens=min_new_tokens)
    policy = random_policy(env)
    found = env.responses(policy)
    by_ids = dict(zip(found.ids, zip(found.scores, found.probs, strict=True), strict=True))
    for response in complete_responses(min_new_tokens):
        score, prob = by_ids.pop(response)
        assert score == score_of(response)
        assert prob == pytest.approx(chance(env, policy, response), rel=1e-9)
    assert all(prob == 0.0 for _, prob in by_ids.values())
    assert found.probs.sum() == pytest.approx(1.0)
    assert found.probs @ found.scores == pytest.approx(env.policy_values(policy).values[()])
    uniform = env.responses()
    assert uniform.probs @ uniform.scores == pytest.approx(env.policy_values().values[()])


def test_values_agree_with_the_episodes_played() -> None:
    env = gymnasium.make("tokengym/Oracle-v0", max_new_tokens=HORIZON)
    base: Any = env.unwrapped
    assert base.tokenizer.convert_ids_to_tokens(list(range(9))) == list(NAMES)
    _, q_values = base.optimal_values()
    rng = np.random.default_rng(0)
    for _ in range(60):
        _, info = env.reset()
        state: tuple[int, ...] = ()
        over = False
        while not over:
            assert (
                np.flatnonzero(info["action_mask"]).tolist()
                == np.flatnonzero(~np.isnan(q_values[state])).tolist()
            )
            before, token = state, int(rng.choice(np.flatnonzero(info["action_mask"])))
            state = (*state, token)
            _, reward, over, truncated, info = env.step(token)
            assert not truncated
        assert info["response_ids"] == state
        assert reward == info["score"] == q_values[before][token] == score_of(state)


def test_gold_credit_sums_to_the_score() -> None:
    env = OracleEnv()
    policy = random_policy(env)
    credit = env.exact_advantages(policy).along([FILM, NOT, BAD, GOOD, EOS])
    assert credit.shape == (5,)
    start = env.policy_values(policy).values[()]
    assert credit.sum() == pytest.approx(score_of((FILM, NOT, BAD, GOOD)) - start, abs=1e-12)
    # Worth lies in context: "film" alone scores nothing, but makes the rest count.
    uniform = env.exact_advantages()
    assert uniform[()][FILM] > uniform[()][THE]
    assert uniform[(FILM, BAD)][BUT] > uniform[(FILM, BAD)][THE]
    assert uniform[(FILM, NOT)][BAD] > uniform[(FILM, NOT)][GOOD]


def test_forms_of_a_policy_are_one() -> None:
    env = OracleVectorEnv(num_envs=2, max_new_tokens=2)
    array = random_policy(env).astype(np.float32)
    table = dict(zip(env.states, array, strict=True))
    expected = env.exact_advantages(array).array
    for form in (table, lambda state: table[state], array.tolist()):
        np.testing.assert_array_equal(env.exact_advantages(form).array, expected)
    legal = np.array(~np.isnan(expected), dtype=float)
    uniform = env.exact_advantages(legal / legal.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(env.exact_advantages().array, uniform.array)


def test_the_tables_are_mappings() -> None:
    env = OracleEnv(max_new_tokens=2)
    values, q_values = env.optimal_values()
    assert list(values) == list(env.states) == [(), *((word,) for word in WORDS)]
    assert (len(values), values.array.shape, q_values.array.shape) == (7, (7,), (7, 9))
    assert dict(values)[(FILM,)] == 1.0
    assert (GOOD,) in values
    assert (GOOD, GOOD) not in values
    assert values.get((EOS,)) is None
    with pytest.raises(ValueError, match="read-only"):
        values.array[:] = 0
    with pytest.raises(KeyError, match=r"\(0,\).*7 states"):
        values[(PAD,)]
    with pytest.raises(KeyError, match=r"token 0.*\(3,\)"):
        q_values.along([GOOD, PAD])


def test_rules_can_be_left_out() -> None:
    env = OracleEnv(rules=(), max_new_tokens=4, min_new_tokens=4)
    credit = env.exact_advantages().along([GOOD, NOT, BAD, FILM])
    # Additive: a word is worth its own score less the mean of the six, wherever it stands.
    np.testing.assert_allclose(credit, np.array([1, 0, -0.5, 0]) - 0.5 / 6, atol=1e-12)
    assert env.optimal_values().values[()] == 4.0
    only_order = OracleEnv(rules=["order"], max_new_tokens=4)
    assert only_order.optimal_values().values[()] == 3.0
    assert OracleEnv(rules=RULES[::-1]).rules == RULES
    made = gymnasium.make("tokengym/Oracle-v0", rules=["order"], max_new_tokens=2)
    made.reset()
    made.step(GOOD)
    assert made.step(GOOD)[1] == 0.0


def test_environments_share_a_table() -> None:
    one, two = OracleEnv(max_new_tokens=4), OracleVectorEnv(num_envs=3, max_new_tokens=4)
    assert one.optimal_values().values.array is two.optimal_values().values.array
    assert one.tokenizer is two.tokenizer


@pytest.mark.parametrize("build", [OracleEnv, OracleVectorEnv])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": ["negatoin"]}, r"'negatoin'.*'negation'\?"),
        ({"rules": ["x"]}, r"'x'.*negation, selection, order"),
        ({"rules": "order"}, "got one.*'order'"),
        ({"max_new_tokens": 0}, "max_new_tokens.*>= 1, got 0"),
    ],
)
def test_bad_settings(build: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build(**arguments)


def test_a_horizon_too_long_for_a_table_still_plays() -> None:
    env = OracleEnv(max_new_tokens=9)
    env.reset()
    env.step(GOOD)
    with pytest.raises(SettingsError, match=r"max_new_tokens=9.*10,077,696.*8"):
        env.optimal_values()


def test_forbidden_tokens_are_in_no_table() -> None:
    env = OracleEnv(max_new_tokens=3, forbidden_token_ids=[GOOD, EOS])
    values, q_values = env.optimal_values()
    assert len(values) == 1 + 5 + 25
    assert values[()] == 0.5  # film not bad
    assert np.flatnonzero(~np.isnan(q_values[()])).tolist() == [BAD, NOT, BUT, FILM, THE]
    silent = OracleEnv(forbidden_token_ids=WORDS, max_new_tokens=4)
    assert list(silent.optimal_values().values.items()) == [((), 0.0)]
    assert silent.exact_advantages().along([EOS]).tolist() == [0.0]


def test_bad_policies() -> None:
    env = OracleEnv(max_new_tokens=2, min_new_tokens=1)
    good = random_policy(env)
    with pytest.raises(SettingsError, match=r"kl_coef.*0, got 0"):
        env.kl_optimal_values(good, kl_coef=0.0)
    cases: list[tuple[Any, str]] = [
        (good[:, :-1], r"9 probabilities in each of 7 states, shape \(7, 9\), got \(7, 8\)"),
        (good * 2, r"policy_probs of state \(\) are \[.*\]; give probabilities, none negative"),
        (np.full_like(good, np.nan), r"of state \(\) are \[nan"),
        (np.eye(9)[[GOOD] * 6 + [UNK]], r"state \(8,\) give the illegal token 2 1; apply the act"),
        (np.eye(9)[[EOS] * 7], r"state \(\) give the illegal token 1 1; apply the action mask"),
        ({(): good[0]}, r"lacks 6 of 7 states, the first \(3,\); give each state"),
    ]
    for change, message in cases:
        with pytest.raises(PolicyError, match=message):
            env.exact_advantages(change)
    negative = good.copy()
    negative[2, [GOOD, BAD]] = [1.5, -0.5]
    negative[2, [EOS, NOT, BUT, FILM, THE]] = 0
    with pytest.raises(PolicyError, match=r"\(4,\).*-0.5"):
        env.policy_values(negative)


def test_tokens_that_matter_are_those_whose_removal_changes_the_score() -> None:
    env = OracleEnv()
    effects = env.removal_effects([FILM, GOOD, THE, NOT, BAD, EOS])
    assert effects.tolist() == [1.5, 1.0, 0.0, 1.0, 0.5, 0.0]
    assert OracleEnv(rules=()).removal_effects((NOT, BAD)).tolist() == [0.0, -0.5]


def test_models_come_with_the_settings_they_know() -> None:
    def parts(**settings: Any) -> list[bool]:
        bundle = OracleEnv(**settings).bundle
        assert bundle is not None
        return [bundle.has(part) for part in ("policy", "reward_model", "gold")]

    assert parts() == parts(max_new_tokens=8) == [True, True, True]
    assert parts(rules=["order"]) == [True, False, False]
    assert parts(max_new_tokens=9) == [False, False, True]


@pytest.mark.parametrize("build", [OracleEnv, OracleVectorEnv])
@pytest.mark.parametrize(
    "setting", [{"stop_strings": ("good",)}, {"chat_template": True}, {"max_prompt_tokens": 3}]
)
def test_settings_that_the_exact_values_do_not_know_are_refused(build, setting):
    (name,) = setting
    with pytest.raises(TypeError, match=f"got an unexpected keyword argument '{name}'"):
        build(**setting)
