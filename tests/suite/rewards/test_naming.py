"""Credits and scorers by name, with options, and out of files of one's own."""

import signal
from hashlib import sha256
from pathlib import Path

import gymnasium as gym
import pytest

import tokengym  # noqa: F401  registers the environments
from tokengym.base.saved_code import check_saved
from tokengym.envs import Episode, UntrustedCodeError
from tokengym.rewards import LengthPenalty, Normalize, RewardError, make_reward
from tokengym.rewards.scorers import find_scorer, scorer_names

EPISODE = Episode(prompt="Go", response="on!!", prompt_ids=[1], response_ids=[2, 3])

RULES = """
from tokengym.rewards import LengthPenalty, on_last, token_credit

@token_credit
def half(paid, positions, response_mask, share=0.5):
    first = paid[:, None] * (positions == 0)
    return share * first + (1 - share) * on_last(paid, response_mask)

def shouts(prompt, response):
    return float(response.count("!"))

def make(rate=1.0):
    return LengthPenalty(rate)
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.py"
    path.write_text(RULES)
    return path


def test_scorers_have_names_with_options():
    scorer = find_scorer("length-penalty:rate=0.5,unit=tokens")
    assert isinstance(scorer, LengthPenalty)
    assert (scorer.rate, scorer.unit) == (0.5, "tokens")
    reward = make_reward("uniform", scorer="length-penalty:rate=0.5")
    assert reward.evaluate([EPISODE])[0].score == -2
    assert find_scorer("models/some-folder") is None
    assert set(scorer_names()) >= {"reward-model", "relevance", "toxicity", "sentiment"}
    assert find_scorer("toxicity:words=bad+on").score([EPISODE]).values.tolist() == [-1.0]
    assert (
        make_reward("uniform", scorer="sentiment:include_prompt=false").scorer_name == "Sentiment"
    )


def test_credits_and_scorers_come_out_of_files(rules):
    reward = make_reward(f"{rules}:half:share=0.25", scorer=f"{rules}:shouts")
    (episode,) = reward.evaluate([EPISODE])
    assert episode.score == 2.0
    assert episode.token_rewards.tolist() == [0.5, 1.5]
    assert make_reward(f"{rules}:shouts").evaluate([EPISODE])[0].score == 2.0
    scored = make_reward("sparse", scorer=f"{rules}:make:rate=0.25").evaluate([EPISODE])
    assert scored[0].score == -1.0
    env = gym.make("tokengym/MovieReview-v0", reward=f"{rules}:half", max_new_tokens=3)
    env.reset(seed=0)


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ("length-penalty:rat=1", "'length-penalty'.*'rat'"),
        ("toxicity:words=bad,path=folder", r"words=one\+two"),
        ("toxicity:label=1", "label"),
        ("sentimemt", r"'sentimemt'.*'sentiment'\?"),
        ("absent.py:half", r"no file absent\.py"),
        ("{rules}:hlaf", r"rules\.py.*'hlaf'.*half"),
        ("{rules}:make:rat=1", "'make'.*'rat'"),
    ],
)
def test_scorers_that_do_not_serve(rules, scorer, words):
    with pytest.raises(RewardError, match=words):
        make_reward("sparse", scorer=scorer.format(rules=rules))


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("1 / 0", "A", r"own\.py.*ZeroDivisionError"),
        ("import sys; sys.exit(3)", "A", r"own\.py.*SystemExit: 3"),
        ("raise KeyboardInterrupt", "A", r"own\.py.*KeyboardInterrupt"),
        ("class A:\n def __init__(self): raise SystemExit", "A", "SystemExit"),
        ("class A:\n def __init__(self, b): pass", "A", r"TypeError.*'b'"),
        ("def a(b):\n  raise KeyboardInterrupt", "a:b=1", r"own\.py:a.*: Keyboard"),
    ],
)
def test_code_that_stops_or_raises_is_one_line(tmp_path, code, name, message):
    (tmp_path / "own.py").write_text(code)
    for _ in range(2):  # a file that failed is run again, not half there
        with pytest.raises(RewardError, match=message):
            make_reward(f"{tmp_path / 'own.py'}:{name}", scorer=LengthPenalty())


def test_a_real_interruption_of_a_file_stops_the_process(tmp_path):
    """It must not be recorded as a fault of the run, whose checkpoint would be deleted."""
    (tmp_path / "slow.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job may ignore it
    try:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                make_reward(f"{tmp_path / 'slow.py'}:Anything")
    finally:
        signal.signal(signal.SIGINT, before)


def test_code_in_saved_words_is_refused_with_file_and_hash(rules, tmp_path, monkeypatch):
    saved = {"a": 1, "rewards": ["sparse", {"deep": [f"{rules}:half:share=1"]}]}
    digest = sha256(rules.read_bytes()).hexdigest()
    with pytest.raises(
        UntrustedCodeError, match=rf"run\.json.*rules\.py:half \(SHA-256 {digest}\)"
    ):
        check_saved(saved, "run.json")
    with pytest.raises(UntrustedCodeError, match=r"nothing\.py:A \(.*no such file"):
        check_saved("nothing.py:A", "run.json")
    with pytest.raises(UntrustedCodeError, match="half"):
        check_saved(saved, "run.json", named=[f"{rules}:shouts", None])  # another of its objects
    monkeypatch.chdir(tmp_path)
    check_saved(saved, "run.json", named={"reward": "./rules.py:half"})
    check_saved(saved, "run.json", trust_code=True)
    check_saved({"rewards": ["abc:beta=1"], "model": "org/x.py", "n": None}, "run.json")


def test_environments_do_not_share_the_statistics_of_one_normalize():
    shared = Normalize(LengthPenalty(1.0))
    envs = [
        gym.make("tokengym/MovieReview-v0", reward=make_reward("sparse", scorer=shared))
        for _ in range(2)
    ]
    first, second = (env.get_wrapper_attr("reward").scorer for env in envs)
    first.score([EPISODE])
    assert (first.moments.seen, second.moments.seen, shared.moments.seen) == (1, 0, 0)
