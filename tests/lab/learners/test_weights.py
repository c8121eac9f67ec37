"""Weights on the advantage in PPO: what they do to a run, and what is refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.suite.base import test_registry
from tests.support.agents.common import make_model
from tests.support.agents.turns import TALK
from tests.support.rounds import round_of
from tests.support.rules import rewards_of, rule_of
from tests.support.words import make_word_tokenizer as make_tokenizer
from tokengym import compare, decide
from tokengym.agents import PPO
from tokengym.agents.loading import load_agent
from tokengym.agents.ppo import WEIGHTS, RoundInputs, Weights
from tokengym.agents.rollouts.playing import RolloutBatch
from tokengym.envs import SettingsError, UntrustedCodeError, bundled
from tokengym.lab.learners.weighted import WeightedPPO
from tokengym.lab.learners.weights import random
from tokengym.rewards import RewardModel, token_credit

OWN = """
def double(response_mask):
    return 2.0 * response_mask

nothing = 3
"""


def weights_of(agent: PPO) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.policy.trained_parameters()])


def round_to_weigh(
    agent: WeightedPPO,
    played: RolloutBatch,
    advantages: torch.Tensor,
    ref_log_probs: torch.Tensor,
    episodes: Any = None,
) -> RoundInputs:
    """Return what PPO gives weights."""
    sequences = played.sequences(agent.device)
    inputs = RoundInputs(
        sequences.response_mask,
        {
            "token_rewards": advantages,
            "log_probs": played.log_probs,
            "entropy": partial(
                agent.policy.token_stats, sequences, played.action_masks, name="entropy"
            ),
            "ref_log_probs": ref_log_probs,
            "advantages": advantages,
            "generator": torch.Generator(),
        },
        settings=agent.settings,
        episodes=played.episodes if episodes is None else episodes,
        scorer=agent.reward.scorer,
        tokenizer=agent.env.get_attr("tokenizer")[0],
        models=agent.policy,
    )
    return inputs


def run(make_ppo: Callable[..., PPO], weight: str | None, **settings: Any) -> PPO:
    settings |= {} if weight is None else {"weights": weight}
    agent = make_ppo(model=make_model(), learner=PPO if weight is None else WeightedPPO, **settings)
    agent.learn(2 * 4 * 6)
    return agent


@pytest.mark.parametrize("settings", [{}, {"advantage": "loo", "group_size": 2}])
def test_the_constant_weight_is_the_unweighted_run_bit_for_bit(
    make_ppo: Callable[..., PPO], settings: dict[str, Any]
) -> None:
    plain = weights_of(run(make_ppo, None, **settings))
    assert torch.equal(plain, weights_of(run(make_ppo, "constant", **settings)))
    assert not torch.equal(plain, weights_of(run(make_ppo, "random", **settings)))


@pytest.mark.parametrize(
    "weight",
    ["random", "position:power=-1", "entropy", "gtpo", "policy-attention", "rsi:low=0.9,high=1.1"],
)
def test_advantages_keep_their_mean_over_a_response_where_they_are_the_same_at_every_token(
    make_ppo: Callable[..., PPO], weight: str
) -> None:
    agent: Any = make_ppo(advantage="rloo", group_size=2, learner=WeightedPPO, weights=weight)
    played = agent.collect()
    assert played is not None
    weighed = agent.assign(played)
    agent.weight = Weights.find("constant")
    plain = agent.assign(played)
    mask = plain.response_mask
    torch.testing.assert_close(
        weighed.advantages.sum(1) / mask.sum(1), plain.advantages.sum(1) / mask.sum(1)
    )
    assert not torch.equal(weighed.advantages, plain.advantages)


def test_entropy_weights_are_those_of_the_sampling_policy(make_ppo: Callable[..., PPO]) -> None:
    agent: Any = make_ppo(
        advantage="rloo", group_size=2, learner=WeightedPPO, weights="entropy:top=0.4"
    )
    played = agent.collect()
    assert played is not None
    sequences = played.sequences(agent.device)
    with torch.no_grad():  # the whole texts through the bare model, one by one
        for row, episode in enumerate(played.episodes):
            ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids]])
            log_probs = agent.policy.language_model.model(ids).logits[0].log_softmax(-1)
            expected = -(log_probs.exp() * log_probs).sum(-1)[len(episode.prompt_ids) - 1 : -1]
            found = agent.policy.token_stats(sequences, name="entropy")[row, : len(expected)]
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    carried = agent.assign(played).advantages != 0
    for row, episode in enumerate(played.episodes):
        assert int(carried[row].sum()) in (0, int(np.ceil(0.4 * len(episode.response_ids))))


def test_a_resumed_run_draws_the_same_random_weights(
    make_ppo: Callable[..., PPO], make_envs: Callable[..., Any], tmp_path: Path
) -> None:
    # Two calls of learn are one training only where the rate does not fall to 0 in each.
    settings: Any = {
        "learner": WeightedPPO,
        "weights": "random",
        "learning_rate_schedule": "constant",
    }
    whole = make_ppo(model=make_model(), **settings)
    whole.learn(4 * 4 * 6)
    first = make_ppo(model=make_model(), **settings)
    first.learn(2 * 4 * 6)
    first.save(tmp_path / "agent")
    second = WeightedPPO.load(tmp_path / "agent", env=make_envs(), device="cpu")
    second.learn(2 * 4 * 6, reset_num_timesteps=False)
    assert second.num_timesteps == whole.num_timesteps
    assert torch.equal(weights_of(whole), weights_of(second))


def test_the_reward_models_attention_is_what_abc_spreads_the_score_by() -> None:
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=4, reward="abc", max_new_tokens=8)
    envs.reset(seed=0)
    agent = WeightedPPO("CausalLMPolicy", envs, seed=0, device="cpu", weights="reward-attention")
    played = agent.collect()
    assert played is not None
    sequences = played.sequences(agent.device)
    ones = torch.ones(sequences.response_mask.shape)
    weighed = round_to_weigh(agent, played, ones, ones)
    assert agent.weight is not None
    found = agent.weight.weigh(weighed)
    assert agent.reward.scorer is not None
    scores = agent.reward.scorer.score(played.episodes, attribution="attention")
    paid = rewards_of(rule_of("abc:beta=1"), played.episodes, scores)
    for row, rewards in enumerate(paid):
        size = len(rewards)
        np.testing.assert_allclose(
            found[row, :size].numpy(), size * rewards / rewards.sum(), rtol=1e-3, atol=1e-5
        )


def test_a_teacher_that_is_the_reference_weighs_all_tokens_alike(
    make_ppo: Callable[..., PPO], tmp_path: Path
) -> None:
    make_model().save_pretrained(tmp_path / "teacher")
    (tmp_path / "agent").mkdir()
    agent: Any = make_ppo(model=make_model(), learner=WeightedPPO)
    agent.save(tmp_path / "agent")
    tokenizer = agent.env.get_attr("tokenizer")[0]
    weight = Weights.find(f"teacher:path={tmp_path / 'agent'}").bind(tokenizer)
    played = agent.collect()
    assert played is not None
    sequences = played.sequences(agent.device)
    ref = agent.policy.token_stats(sequences, name="ref_log_probs")
    found = weight.weigh(round_to_weigh(agent, played, ref, ref))
    torch.testing.assert_close(found, sequences.response_mask.float(), rtol=1e-4, atol=1e-4)


def test_a_weight_of_ones_own_is_a_function_in_a_file(
    make_ppo: Callable[..., PPO], tmp_path: Path
) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    doubled = run(make_ppo, f"{path}:double")  # any finite number is a weight
    assert not torch.equal(weights_of(doubled), weights_of(run(make_ppo, None)))
    with pytest.raises(ValueError, match="function of named inputs, got 3"):
        Weights.find(f"{path}:nothing")
    path.write_text(OWN.replace("2.0 *", "1.0 *"))
    assert torch.equal(weights_of(run(make_ppo, f"{path}:double")), weights_of(run(make_ppo, None)))


def test_a_weight_in_a_file_that_a_checkpoint_names_is_not_run(
    make_ppo: Callable[..., PPO], tmp_path: Path
) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN.replace("2.0 *", "1.0 *"))
    make_ppo(learner=WeightedPPO, weights=f"{path}:double").save(tmp_path / "agent")
    for load in (WeightedPPO.load, load_agent):
        with pytest.raises(UntrustedCodeError, match=r"own\.py:double"):
            load(tmp_path / "agent")
    trusted = load_agent(tmp_path / "agent", trust_code=True)
    assert (type(trusted), trusted.weight.name) == (WeightedPPO, "double")


def test_a_scorer_without_attention_is_named(make_ppo: Callable[..., PPO]) -> None:
    with pytest.raises(ValueError, match=r"reward-attention .*reads 'attention'"):
        run(make_ppo, "reward-attention")


def test_every_weight_has_a_name_and_a_description() -> None:
    assert {"constant", "random", "position", "entropy", "gtpo"} <= set(WEIGHTS.names())
    mask = torch.tensor([[True, True, False]])
    seen = {
        "response_mask",
        "positions",
        "advantages",
        "generator",
        "entropy",
        "log_probs",
    }
    for name in WEIGHTS.names():
        if name == "teacher":  # which needs a model
            continue
        weight = Weights.find(name)
        assert weight.function.__doc__
        if seen.issuperset(weight.reads):
            played = round_of(
                torch.zeros(1, 3),
                mask,
                advantages=torch.ones(1, 3),
                generator=torch.Generator(),
                entropy=torch.ones(1, 3),
                log_probs=-torch.ones(1, 3),
            )
            found = weight.weigh(played)
            assert found.sum(1).tolist() == pytest.approx([2.0])


def test_the_policy_that_read_the_answer_and_the_score_s_gradient_weigh() -> None:
    envs = gym.make_vec(
        "tokengym/QuestionAnswer-v0",
        num_envs=4,
        reward="sparse",
        scorer=RewardModel.from_pretrained(bundled("question_answer").reward_model),
        max_new_tokens=5,
    )
    agent = WeightedPPO("CausalLMPolicy", envs, seed=0, device="cpu")
    played = agent.collect()
    assert played is not None
    sequences = played.sequences(agent.device)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None].expand(sequences.response_mask.shape)
    round_ = round_to_weigh(agent, played, signs, signs)
    mask = sequences.response_mask
    model, tokenizer = agent.policy.language_model.model, bundled("question_answer").tokenizer
    found = Weights.find("self-teacher:mix=1,clip=1").weigh(round_)
    for row, episode in enumerate(played.episodes):
        answer = tokenizer(episode.reference, add_special_tokens=False)["input_ids"]
        ratios = []
        for ids in ([*answer, *episode.prompt_ids], [*episode.prompt_ids]):
            with torch.no_grad():
                whole = torch.tensor([[*ids, *episode.response_ids]])
                table = model(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
            ratios.append(table.gather(-1, torch.tensor(episode.response_ids)[:, None])[:, 0])
        weights = ((ratios[0] - ratios[1]) * signs[row, 0]).exp().clamp(0.0, 2.0)
        torch.testing.assert_close(
            found[row][mask[row]], weights / weights.mean(), atol=1e-3, rtol=1e-3
        )
    oar = Weights.find("oar").weigh(round_)
    assert agent.reward.scorer is not None
    rows: Any = agent.reward.scorer.score(played.episodes, attribution="gradient").attributions
    for row, parts in enumerate(rows):
        order = oar[row][mask[row]].argsort(stable=True)
        assert (
            torch.equal(order, torch.tensor(np.abs(parts)).argsort(stable=True))
            or (
                oar[row][mask[row]].sort().values.diff() < 1e-6  # ties at the floor of 0.1
            ).any()
        )
    told = [replace(played.episodes[0], reference=None), *played.episodes[1:]]
    with pytest.raises(ValueError, match=r"reference.*episode 0"):
        Weights.find("self-teacher").weigh(round_to_weigh(agent, played, signs, signs, told))
    for word in ("oar", "self-teacher", "rsi"):
        weighed = signs * Weights.find(word).weigh(round_)
        torch.testing.assert_close(weighed.sum(1), signs.masked_fill(~mask, 0.0).sum(1))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("entorpy", "weights 'entorpy'.*'entropy'"),
        ("entropy:share=0.1", "weights 'entropy'.*'share'"),
        ("entropy:top=0", r"top.*\(0, 1\], got 0"),
        ("teacher", "weights 'teacher' needs"),
        ("rsi:low=2,high=1", "low < high"),
        ("position:power=nan", "power.*got nan"),
        ("oar:boost=inf", "boost.*got inf"),
        ("oar:boost=-1", r"boost.*got -1"),
        ("oar:quantile=0", r"quantile.*\(0, 1\]"),
        ("self-teacher:clip=2", r"clip.*\(0, 1\]"),
    ],
)
def test_what_cannot_be_a_weight_is_refused(
    make_ppo: Callable[..., PPO], word: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_ppo(learner=WeightedPPO, weights=word)


def test_the_registry_names_near_matches_and_refuses_a_taken_name():
    test_registry.test_every_registry_names_near_matches_and_refuses_a_taken_name(WEIGHTS)


class Alternating:
    """Weighs nothing, and counts its rounds: weights with a state."""

    def __init__(self) -> None:
        self.rounds = 0

    def __call__(self, response_mask: torch.Tensor) -> torch.Tensor:
        self.rounds += 1
        return response_mask.float()

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rounds = state["rounds"]


def test_a_checkpoint_keeps_the_state_of_weights(
    make_ppo: Callable[..., PPO], tmp_path: Path
) -> None:
    word = f"{__file__}:Alternating"
    agent: Any = run(make_ppo, word)
    assert agent.weight is not None
    state = agent.weight.state_dict()
    assert state["rounds"] >= 2
    agent.save(tmp_path / "run")
    again = WeightedPPO.load(tmp_path / "run", env=agent.env, device="cpu", weights=word)
    assert again.weight is not None
    assert again.weight.state_dict() == state


SAMPLING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.7}, {}),
    ({"top_k": 3}, {}),
    ({"top_p": 0.8, "temperature": 1.3}, {}),
    ({}, {"min_new_tokens": 4, "forbidden_token_ids": (2,)}),
    ({"top_k": 4, "temperature": 0.7}, TALK),
]
"""Settings of a learner and of its environment under which tokens are not the bare model's."""


def sampled(model: Any, policy: Any, played: RolloutBatch, heads: Sequence[Sequence[int]]) -> Any:
    """Return log-probs of own tokens behind heads by a model's own forward, as they were drawn."""
    rows, masks = [], played.action_masks
    for row, (episode, head) in enumerate(zip(played.episodes, heads, strict=True)):
        prompt = [*head, *episode.prompt_ids]
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *episode.response_ids]])
            table = model(ids).logits[0, len(prompt) - 1 : -1] / policy.temperature
        written = np.ones(len(table)) if episode.written is None else episode.written
        values = []
        for time in np.flatnonzero(written).tolist():
            logits = table[time].clone()
            if masks is not None:
                allowed = masks.at(torch.tensor([row]), torch.tensor([time]))[0]
                logits[~allowed] = -torch.inf
            values.append(float(logits.log_softmax(-1)[episode.response_ids[time]]))
        rows.append(values)
    return rows


@pytest.mark.parametrize("lost", [[], [1]])
@pytest.mark.parametrize(("sampling", "rules"), SAMPLING)
def test_a_teacher_and_a_hint_are_read_as_the_policy_samples(
    make_ppo: Callable[..., PPO],
    make_envs: Callable[..., Any],
    tmp_path: Path,
    sampling: dict[str, Any],
    rules: dict[str, Any],
    lost: list[int],
) -> None:
    seen: dict[str, torch.Tensor] = {}
    shown = [row for row in range(4) if row not in lost]
    hints = ["", "a b", "", "e"]

    @token_credit(name="probe", models={"same": "language", "other": "language"})
    def probe(
        response_mask: torch.Tensor,
        log_probs: torch.Tensor,
        ref_log_probs: torch.Tensor,
        log_probs_after: Any,
        same_log_probs: torch.Tensor,
        other_log_probs: torch.Tensor,
    ) -> torch.Tensor:
        seen.update(log_probs=log_probs, ref=ref_log_probs, same=same_log_probs)
        after = log_probs_after([hints[row] for row in shown])
        seen.update(other=other_log_probs, after=after, mask=response_mask)
        return response_mask.float()

    models: Any = {name: str(tmp_path / name) for name in ("same", "other")}
    for seed, place in enumerate(models.values()):
        make_model(seed=seed, scale=3.0).save_pretrained(place)
        make_tokenizer().save_pretrained(place)
    agent: Any = make_ppo(
        envs=make_envs(num_envs=4, **rules),
        model=make_model(scale=3.0),
        learner=WeightedPPO,
        weights=partial(probe, **models),
        **sampling,
    )
    played = agent.collect()
    episodes = list(played.episodes)
    for row in lost:
        episodes[row] = replace(episodes[row], score=None, finish_reason="error")
    agent.assign(agent.scored(replace(played, episodes=tuple(episodes))))
    how: Any = {"atol": 1e-4, "rtol": 1e-4}
    mask = seen["mask"]
    # The teacher that is the reference departs from it nowhere, nor an empty hint from none.
    torch.testing.assert_close(seen["same"][mask], seen["ref"][mask], **how)
    assert not torch.allclose(seen["other"][mask], seen["ref"][mask], atol=0.1)
    unhinted = mask & torch.tensor([not hints[row] for row in shown])[:, None]
    torch.testing.assert_close(seen["after"][unhinted], seen["log_probs"][unhinted], **how)
    tokenizer, policy = make_tokenizer(), agent.policy
    heads = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in hints]
    expected = sampled(policy.language_model.model, policy, played, heads)
    of_other = sampled(make_model(seed=1, scale=3.0).eval(), policy, played, [[]] * 4)
    for place, row in enumerate(shown):
        for name, rows in (("after", expected), ("other", of_other)):
            own = seen[name][place, : len(rows[row])]
            np.testing.assert_allclose(own, rows[row], **how)


def test_an_agent_that_was_saved_by_the_former_class_is_loaded(
    make_ppo: Callable[..., PPO], tmp_path: Path
) -> None:
    former = type("WeightedPPO", (PPO,), {})
    make_ppo(model=make_model(), learner=former, weights="constant").save(tmp_path / "agent")
    for load in (PPO.load, WeightedPPO.load, load_agent):
        loaded: Any = load(tmp_path / "agent")
        assert (type(loaded), loaded.weight.name) == (PPO, "constant")


def test_the_reference_answer_is_read_behind_bos(make_ppo: Callable[..., PPO], make_envs: Any):
    seen: dict[str, Any] = {}

    def probe(response_mask: torch.Tensor, log_probs_after: Any) -> torch.Tensor:
        seen.update(after=log_probs_after(["a e\n"] * 4), mask=response_mask)
        return response_mask.float()

    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<eos>"
    envs = make_envs(tokenizer=tokenizer, prompts=["<eos> b c"])
    agent: Any = make_ppo(
        envs=envs, model=make_model(scale=3.0), learner=WeightedPPO, weights=token_credit(probe)
    )
    played = agent.collect()
    agent.assign(played)
    model = agent.policy.language_model.model
    for row, episode in enumerate(played.episodes):
        assert episode.prompt_ids == (1, 4, 5)
        ids = torch.tensor([[1, 3, 7, 4, 5, *episode.response_ids]])
        with torch.no_grad():
            table = model(ids).logits[0, 4:-1].log_softmax(-1)
        expected = table.gather(1, ids[0, 5:, None])[:, 0]
        own = seen["after"][row][seen["mask"][row]]
        torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-4)


def test_masks_in_another_process_are_refused(make_ppo: Callable[..., PPO]) -> None:
    agent: Any = make_ppo(top_k=3)
    played = agent.collect()
    elsewhere = replace(played.action_masks, has_all=False)
    with pytest.raises(ValueError, match="train in one process, or leave top_k and top_p out"):
        agent.as_sampled(elsewhere, torch.zeros(6, 8), 0)


def test_weights_with_two_options_in_an_agents_word_are_told_where_to_stand(tmp_path: Path) -> None:
    word = "weighted-ppo:weights=rsi:low=0.5,high=2"
    with pytest.raises(SettingsError, match=r"'high'.*go beside it, as --weights rsi:low=0\.5,"):
        compare("MovieReview", agents=["ppo", word], out=tmp_path)


def test_a_discount_that_weights_read_is_theirs(tmp_path: Path) -> None:
    file = tmp_path / "fading.py"
    file.write_text(
        "from tokengym.agents.losses import mean_one\n"
        "def fade(response_mask, positions, gamma):\n"
        "    return mean_one(gamma ** positions.clamp(min=0), response_mask)\n"
    )
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=4, max_new_tokens=4, reward="uniform")
    how: Any = {"advantage": "rloo", "group_size": 2, "device": "cpu"}
    agent = WeightedPPO("CausalLMPolicy", envs, weights=f"{file}:fade", gamma=0.9, **how)
    assert agent.learn(1).gamma == 0.9
    word = f"weighted-ppo:weights={file}:fade,advantage=rloo,gamma=0.9,group_size=2"
    assert decide("MovieReview", agents=[word, "ppo"]).reference
    with pytest.raises(SettingsError, match="gamma has no effect with advantage='rloo'"):
        WeightedPPO("CausalLMPolicy", envs, weights="constant", gamma=0.9, **how)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_random_weights_are_the_same_draws_under_any_default_dtype(dtype):
    mask = torch.tensor([[True, True, True], [True, True, False]])

    def drawn() -> torch.Tensor:
        return random(mask, torch.Generator().manual_seed(0))

    usual = drawn()
    torch.set_default_dtype(dtype)
    try:
        now = drawn()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(now, usual, rtol=0, atol=0)


def by_level(response_mask, level):
    """Read a column of the data."""
    return 1.0 * response_mask


def by_topic(token_rewards, topic):
    """Read another one."""
    return token_rewards


def test_columns_of_estimator_and_weights_are_known_from_the_settings() -> None:
    assert WeightedPPO is PPO
    settings = WeightedPPO.settings_class(advantage=by_topic, weights=by_level)
    assert WeightedPPO.data_columns(settings) == ["topic", "level"]
    assert WeightedPPO.data_columns(WeightedPPO.settings_class()) == []
