"""One response explored: credit, alternatives, and forks from a token."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokengym.agents import RandomAgent
from tokengym.agents.rollouts import SampledTokens
from tokengym.envs import Episode, Reply
from tokengym.lab.learners.oracle import policy_table
from tokengym.lab.replay.explore import Branch, Explorer, Fork, Response, agent_folder, saved_agents
from tokengym.lab.replay.explore_page import render_fork

LENGTH = {"min_new_tokens": 12, "max_new_tokens": 12}
RULES = ("sparse", "uniform", "abc:beta=1", "red")


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer("MovieReview", LENGTH)


@pytest.fixture(scope="module")
def response(explorer: Explorer) -> Response:
    return explorer.sample(explorer.draw_prompt(0), RULES, seed=1)


@pytest.fixture(scope="module")
def oracle() -> Explorer:
    return Explorer("Oracle", {"max_new_tokens": 3})


class Scripted:
    """Plays the tokens it was given, whatever the text."""

    def __init__(self, tokens: Any) -> None:
        self.tokens = list(tokens)

    def sampler(self, generator: torch.Generator | None) -> "Scripted":
        del generator
        return Scripted(self.tokens)

    def begin(self, observation: Any) -> None:
        del observation

    def act(
        self, rows: Any, observation: Any, action_masks: Any, *, deterministic: bool
    ) -> SampledTokens:
        del observation, action_masks, deterministic
        return SampledTokens(actions=np.full(len(rows), self.tokens.pop(0)))


def test_every_rule_s_credit_sums_to_the_score(response: Response):
    assert tuple(response.replay.credits) == RULES
    for (credit,) in response.replay.credits.values():
        assert len(credit) == len(response.tokens) == len(response.episode.response_ids)
        assert credit.sum() == pytest.approx(response.score, rel=1e-4, abs=1e-5)
    (uniform,) = response.replay.credits["uniform"]
    np.testing.assert_allclose(uniform, response.score / len(uniform), rtol=1e-5)
    assert response.gold_score is not None
    assert response.unknown == ()


def test_sampling_is_seeded_and_greedy_is_not_sampled(explorer: Explorer, response: Response):
    prompt = response.episode.prompt
    again = explorer.sample(prompt, ("sparse",), seed=1)
    assert again.episode.response_ids == response.episode.response_ids
    assert again.score == pytest.approx(response.score)
    other = explorer.sample(prompt, ("sparse",), seed=2)
    assert other.episode.response_ids != response.episode.response_ids
    greedy = explorer.sample(prompt, ("sparse",), seed=1, greedy=True)
    cold = explorer.sample(prompt, ("sparse",), seed=2, temperature=1e-4)
    assert greedy.episode.response_ids == cold.episode.response_ids
    assert explorer.temperature == 1.0  # put back
    assert explorer.draw_prompt(3) == explorer.draw_prompt(3)


def logits_of(explorer: Explorer, episode: Episode, time: int) -> torch.Tensor:
    """Return the model's own logits of a token, without padding or cache; there is no EOS yet."""
    policy: Any = explorer.agent
    ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids[:time]]]).to(policy.device)
    with torch.no_grad():
        logits = policy.language_model.model(input_ids=ids).logits[0, -1].double().cpu()
    logits[explorer.tokenizer.eos_token_id] = -torch.inf
    return logits


def test_alternatives_are_what_the_policy_samples_from(explorer: Explorer, response: Response):
    time, episode = 4, response.episode
    found = explorer.alternatives(response, time, count=5)
    logits = logits_of(explorer, episode, time)
    for temperature, shown in (
        (None, found),
        (0.5, explorer.alternatives(response, time, temperature=0.5, count=5)),
    ):
        expected = (logits / (temperature or 1.0)).softmax(-1).numpy()
        order = np.argsort(-expected)[:5]
        assert [a.token_id for a in shown][:5] == order.tolist()
        for alternative in shown:
            assert alternative.probability == pytest.approx(
                expected[alternative.token_id], rel=1e-4
            )
        assert [a.token_id for a in shown if a.is_taken] == [episode.response_ids[time]]
    everything = explorer.alternatives(response, time, count=10**6)
    assert sum(a.probability for a in everything) == pytest.approx(1.0)
    assert len({a.token_id for a in everything}) == len(everything)
    assert all(a.probability > 0 for a in everything)


def test_the_token_taken_and_the_same_tokens_after_it_give_the_same_score(
    explorer: Explorer, response: Response
):
    ids = response.episode.response_ids
    for time in (0, 5, len(ids) - 1):
        scripted = Explorer("MovieReview", LENGTH, Scripted((*ids[time + 1 :], ids[0])))
        fork = scripted.fork(response, time, ids[time], n=2)
        for branch in (fork.taken, fork.other):
            assert [e.response_ids for e in branch.episodes] == [ids, ids]
            assert branch.episodes[0].response == response.episode.response
            np.testing.assert_allclose(branch.scores, response.score, rtol=1e-5)
            assert branch.gold_scores is not None
            assert branch.gold_scores.tolist() == pytest.approx([response.gold_score] * 2)
        assert fork.score.difference == pytest.approx(0.0, abs=1e-6)


def test_a_greedy_response_is_found_again_from_any_of_its_tokens(explorer: Explorer):
    greedy = explorer.sample(explorer.draw_prompt(1), ("sparse",), greedy=True)
    ids = greedy.episode.response_ids
    for time in (0, 6, len(ids) - 1):
        likeliest = explorer.alternatives(greedy, time)[0]
        assert likeliest.is_taken
        second = explorer.alternatives(greedy, time)[1].token_id
        fork = explorer.fork(greedy, time, second, greedy=True)
        assert [e.response_ids for e in fork.taken.episodes] == [ids]
        assert fork.score.taken == pytest.approx(greedy.score, rel=1e-5)
        assert fork.score.error is None
        (other,) = fork.other.episodes
        assert other.response_ids[: time + 1] == (*ids[:time], second)
        assert len(other.response_ids) == len(ids)


def test_forks_of_the_oracle_agree_with_its_exact_values(oracle: Explorer):
    """The mean over continuations is Q(s, a), which the Oracle knows by dynamic programming."""
    response = oracle.sample("the", ("sparse",), seed=0)
    task: Any = oracle.task
    policy: Any = oracle.agent
    values = task.policy_values(policy_table(policy, task)).values
    first, second = (a.token_id for a in oracle.alternatives(response, 0)[:2])
    response = replace_first(response, first)
    fork = oracle.fork(response, 0, second, n=400, seed=3)
    for branch in (fork.taken, fork.other):
        error = branch.scores.std(ddof=1) / np.sqrt(400)
        assert abs(branch.scores.mean() - values[(branch.token_id,)]) < 5 * error + 1e-6
    assert fork.score.error is not None
    _, low, high = fork.worth
    assert low <= values[(first,)] - values[()] <= high


def replace_first(response: Response, token_id: int) -> Response:
    """Return a response whose first token is another one; the rest of it does not matter."""
    episode = response.episode
    ids = (token_id, *episode.response_ids[1:])
    changed = replace(episode, response_ids=ids, token_rewards=None, log_probs=None)
    return replace(response, replay=replace(response.replay, episodes=(changed,)))


def test_a_token_that_ends_the_text_ends_it(oracle: Explorer):
    response = oracle.sample("the", ("sparse",), seed=0)
    eos = oracle.tokenizer.eos_token_id
    fork = oracle.fork(response, 1, eos, n=3)
    ids = (response.episode.response_ids[0], eos)
    assert [e.response_ids for e in fork.other.episodes] == [ids] * 3
    assert {e.finish_reason for e in fork.other.episodes} == {"eos"}
    assert fork.other.tokens[0][-1] == oracle.tokenizer.eos_token
    last = len(response.episode.response_ids) - 1
    assert len(oracle.fork(response, last, eos, n=2).taken.episodes) == 2


def test_the_change_is_of_means_with_the_error_of_paired_differences(response: Response):
    def branch(*scores: float, gold: tuple[float, ...] | None = None) -> Branch:
        episodes = tuple(replace(response.episode, score=score) for score in scores)
        found = None if gold is None else np.array(gold)
        return Branch(token_id=5, episodes=episodes, tokens=(), gold_scores=found)

    without = np.array([0.0, 0.0, 3.0])
    fork = Fork(time=0, taken=branch(1.0, 2.0, 3.0), other=branch(2.0, 4.0, 3.0), without=without)
    assert fork.worth[0] == pytest.approx(1.0)
    assert fork.score.taken == pytest.approx(2.0)
    assert fork.score.other == pytest.approx(3.0)
    assert fork.score.difference == pytest.approx(1.0)
    assert fork.score.error == pytest.approx(1.0 / np.sqrt(3))  # differences 1, 2, 0
    assert fork.gold_score is None
    taken, other = branch(1.0, gold=(0.5,)), branch(2.0, gold=(0.25,))
    golden = Fork(time=0, taken=taken, other=other, without=np.array([1.0]))
    assert golden.gold_score is not None
    assert golden.gold_score.difference == pytest.approx(-0.25)
    assert golden.gold_score.error is None


def test_continuations_without_a_score_are_left_out(response: Response):
    def branch(*scores: float | None) -> Branch:
        episodes = tuple(replace(response.episode, score=score) for score in scores)
        return Branch(token_id=5, episodes=episodes, tokens=(), gold_scores=None)

    taken, other = branch(1.0, None, 3.0, 2.0), branch(2.0, 4.0, 3.0, None)
    fork = Fork(time=0, taken=taken, other=other, without=np.array([np.nan, 0.0, 3.0, 0.0]))
    assert (fork.score.taken, fork.score.other, fork.score.pairs) == (2.0, 2.5, 2)
    assert fork.score.error == pytest.approx(0.5)  # differences 1, 0
    whole = replace(fork, taken=branch(1.0, 3.0, 2.0), without=np.array([0.0, 3.0, 0.0]))
    assert fork.worth == whole.worth
    assert fork.worth[0] == pytest.approx(1.0)
    # Sides of unequal size: two added scores each, 0 and 4, so means 9/5 and 2, errors by hand.
    fewer = replace(whole, taken=branch(None, 1.0, 3.0))
    half = 1.959963984540054 * np.sqrt(np.var([0, 3, 0, 0, 4]) / 5 + np.var([1, 3, 0, 4]) / 4)
    assert fewer.worth == pytest.approx((1.0, 2.0 - 1.4 - half, 2.0 - 1.4 + half))
    none = replace(fork, taken=branch(None, None, None, None))
    assert np.isnan([*none.worth, none.score.taken, none.score.difference]).all()
    assert (none.score.error, none.score.pairs) == (None, 0)


def test_a_judge_that_leaves_texts_out_can_be_forked():
    def judge(response: str) -> float | None:
        return None if len(response) % 3 == 0 else float(len(response))

    explorer = Explorer("MovieReview", {"scorer": judge, "max_new_tokens": 8})
    prompt = explorer.draw_prompt(0)
    response = explorer.sample(prompt, ("sparse",), seed=1)
    (second, *_) = (a.token_id for a in explorer.alternatives(response, 2) if not a.is_taken)
    fork = explorer.fork(response, 2, second)
    missing = [np.isnan(scores) for scores in (fork.taken.scores, fork.other.scores)]
    assert fork.without.dtype == np.float64
    assert 0 < np.isnan(fork.without).sum() < 16
    assert fork.score.pairs == 16 - (missing[0] | missing[1]).sum()
    assert np.isfinite([*fork.worth, fork.score.difference]).all()
    assert f"({16 - fork.score.pairs} of 16 pairs lack one)" in render_fork(response, fork)


def test_a_prompt_of_one_s_own_is_played_without_another_s_reference():
    explorer = Explorer("QuestionAnswer", {"max_new_tokens": 4})
    drawn = explorer.draw_prompt(0)
    assert explorer.sample(drawn, ("sparse",)).episode.reference is not None
    own = explorer.sample("what is a zzyzx ?", ("sparse",))
    assert own.episode.reference is None
    assert own.episode.prompt == "what is a zzyzx ?"
    assert own.unknown == ("zzyzx",)


def test_a_typed_prompt_may_be_as_long_as_the_model_reads(explorer: Explorer):
    """Longer than any of the task's; credit, alternatives and forks as for a shorter one."""
    assert explorer.task.max_prompt_tokens == 7
    assert explorer.longest_prompt == 256 - 12
    text = "the film " * 122  # 244 tokens
    rules = ("sparse", "uniform", "mc:k=1,segments=2", "r3-dense")
    response = explorer.sample(text, rules, seed=1)
    episode = response.episode
    assert len(episode.prompt_ids) == 244
    assert episode.prompt == text
    (uniform,) = response.replay.credits["uniform"]
    assert uniform.sum() == pytest.approx(response.score, rel=1e-4)
    time = len(episode.response_ids) - 2
    first, second = explorer.alternatives(response, time)[:2]
    likeliest = logits_of(explorer, episode, time).softmax(-1).max().item()
    assert first.probability == pytest.approx(likeliest, rel=1e-4)
    fork = explorer.fork(response, time, second.token_id, n=2)
    assert [e.prompt_ids for e in fork.other.episodes] == [episode.prompt_ids] * 2
    with pytest.raises(ValueError, match=r"246 tokens.*244.*12"):
        explorer.sample(text + "the film", ("sparse",))


def test_a_prompt_is_cut_where_the_environment_cuts_it():
    cutting = {"max_prompt_tokens": 7, "overlong": "left", "max_new_tokens": 4}
    explorer = Explorer("MovieReview", cutting)
    episode = explorer.sample("the film " * 20 + "was a good one", ("sparse",)).episode
    kept = explorer.tokenizer.decode(list(episode.prompt_ids))
    assert str(kept).endswith("was a good one")
    assert len(episode.prompt_ids) == 7


def test_what_cannot_be_explored_is_said(explorer: Explorer, response: Response, tmp_path: Path):
    with pytest.raises(ValueError, match="12 tokens, got 12"):
        explorer.alternatives(response, 12)
    with pytest.raises(ValueError, match=r"^n must.*got 0$"):
        explorer.fork(response, 0, 5, n=0)
    eos = explorer.tokenizer.eos_token_id
    with pytest.raises(ValueError, match=rf"token {eos}.*position 3"):
        explorer.fork(response, 3, eos)
    for outside in (-1, 10**6):
        with pytest.raises(ValueError, match=rf"token {outside}.*position 3"):
            explorer.fork(response, 3, outside)
    with pytest.raises(ValueError, match="unknown reward 'acb'"):
        explorer.sample(response.episode.prompt, ("acb",))
    with pytest.raises(ValueError, match="prompt"):
        explorer.sample("", ("sparse",))
    lost = RandomAgent(explorer.task.single_action_space, seed=0)
    random = Explorer("MovieReview", {"max_new_tokens": 4}, lost)
    played = random.sample("the film", ("sparse",))
    assert len(random.fork(played, 1, 7, n=2).other.episodes) == 2
    assert random.temperature is None
    with pytest.raises(ValueError, match=r"RandomAgent.*probabilities"):
        random.alternatives(played, 0)
    with pytest.raises(ValueError, match=r"no folder.*tokengym train"):
        agent_folder(tmp_path / "nowhere")


def test_saved_agents_are_found_below_a_folder(tmp_path: Path):
    for name in ("a/agent", "b/seed-0/agent", "b/seed-0/unfinished/agent"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "checkpoint.json").write_text("{}")
    (tmp_path / "empty" / "agent").mkdir(parents=True)
    assert saved_agents(tmp_path) == [tmp_path / "a" / "agent", tmp_path / "b/seed-0/agent"]
    assert (
        agent_folder(tmp_path / "a") == agent_folder(tmp_path / "a/agent") == tmp_path / "a/agent"
    )


def test_forks_go_on_inside_conversations() -> None:
    """A fork inside, between and at the end of turns keeps what was said and is answered anew."""

    def asks(conversation: Any, metadata: Any, rng: np.random.Generator) -> Reply:
        return Reply("and why", score=float("good" in conversation[-1]["content"]))

    talk = {"partner": asks, "max_turns": 2, "max_turn_tokens": 3, "max_new_tokens": 16}
    kwargs: dict[str, Any] = {**talk, "scorer": "partner", "min_new_tokens": 3}
    explorer = Explorer("MovieReview", kwargs)
    response = explorer.sample(explorer.draw_prompt(0), ["sparse", "uniform"], seed=1)
    episode = response.episode
    assert [turn.span for turn in episode.turns[:3]] == [(0, 3), (3, 5), (5, 8)]
    for time in (1, 2, 5, 7):
        choosable = explorer.alternatives(response, time)
        other = next(each for each in choosable if not each.is_taken)
        fork = explorer.fork(response, time, other.token_id, n=3)
        for branch in (fork.taken, fork.other):
            for ended in branch.episodes:
                assert ended.response_ids[:time] == episode.response_ids[:time]
                assert ended.response_ids[time] == branch.token_id
                assert ended.response_ids[3:5] == episode.response_ids[3:5]
                assert [turn.role for turn in ended.turns[:3]] == ["assistant", "user", "assistant"]
                assert ended.written is not None
                assert ended.written.tolist() == [1, 1, 1, 0, 0, 1, 1, 1]
                assert ended.score == sum(turn.score or 0 for turn in ended.turns)
    with pytest.raises(ValueError, match=r"token 3.*reply"):
        explorer.alternatives(response, 3)
    with pytest.raises(ValueError, match=r"token 4.*reply"):
        explorer.fork(response, 4, 5)
