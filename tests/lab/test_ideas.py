"""Five ideas through every place that takes one: the same texts have the same numbers, or a line.

`tests.support.ideas` has the functions. The numbers are those of ``PPO(advantage=...)``, which
knows all names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support import ideas
from tests.support.evaluation.compare import QUIET, tiny
from tokengym import PPO, TokenCredit, compare, replay
from tokengym.agents.rollouts.playing import RolloutBatch
from tokengym.base.errors import TokenGymError
from tokengym.bridges.registries import registered
from tokengym.bridges.rows import Row, credit_rows
from tokengym.envs import Episode, Reply, bundled
from tokengym.lab.audit import AuditError, check_estimator
from tokengym.lab.audit import registered as audited
from tokengym.rewards import CreditReward, shares

BUNDLE = bundled("movie_review")
ENV = "tokengym/MovieReview-v0"
ROWS, LENGTH, GROUP = 8, 6, 4
WORD = f"{ideas.__file__}:"
NAMES = ("by_entropy", "by_surprise", "by_value_change", "by_verdict", "by_distance")
OF_REWARD = ("by_entropy", "by_surprise")
"""Those that a rule can be: nobody but a trainer has values and hidden states."""
OF_TEXTS = (*OF_REWARD, "by_distance")
"""Those that TRL can compute: it has no critic, and nobody scores single turns."""


def critic(conversation: Any, metadata: Any, rng: np.random.Generator) -> Reply:
    """Answer with one or two words, and score the turn by its length and the draw."""
    words = ["a film", "dull"][int(rng.integers(2))]
    return Reply(words, score=len(conversation[-1]["content"]) / 8 - float(rng.random()))


TALK: Mapping[str, Any] = {
    "partner": critic,
    "max_turns": 3,
    "max_turn_tokens": 3,
    "max_new_tokens": 14,
}


class Kept(PPO):
    """Keeps the round that it learns from, and what was made of it; values are no zeros."""

    played: RolloutBatch
    made: Any

    def assign(self, played: RolloutBatch) -> Any:
        """See `PPO.assign`."""
        if self.policy.critic is not None and not hasattr(self, "played"):
            generator = torch.Generator().manual_seed(1)
            for parameter in self.policy.critic.head.parameters():
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        self.played, self.made = played, super().assign(played)
        return self.made


def trained(envs: Any, **settings: Any) -> Kept:
    """Return a learner after one update."""
    agent = Kept("CausalLMPolicy", envs, seed=3, n_minibatches=1, n_epochs=1, **settings)
    agent.learn(1)
    return agent


def environments(talk: bool, **options: Any) -> Any:
    """Return a batch of environments, with a partner or without."""
    settings = dict(TALK) if talk else {"max_new_tokens": LENGTH}
    return gym.make_vec(ENV, num_envs=ROWS, **{**settings, **options})


@cache
def by_ppo(name: str, talk: bool) -> tuple[list[NDArray[np.float32]], tuple[Episode, ...], Kept]:
    """Return what PPO makes of an idea, a row per episode, and the episodes."""
    agent = trained(environments(talk, reward="sparse"), advantage=getattr(ideas, name))
    episodes = tuple(agent.played.episodes)
    table = agent.made.advantages.numpy()
    return [table[row, : len(e.response_ids)] for row, e in enumerate(episodes)], episodes, agent


def check(
    found: Any, expected: Sequence[NDArray[Any]], what: str = "", within: float = 1e-6
) -> None:
    """Compare rows of numbers, to a share of the largest."""
    assert any(row.any() for row in expected), what
    most = max(1.0, *(float(np.abs(row).max()) for row in expected))
    for one, other in zip(found, expected, strict=True):
        one = np.asarray(one)[: len(other)]
        np.testing.assert_allclose(one, other, rtol=0, atol=within * most, err_msg=what)


def refused(name: str, reads: str, who: str, made: Any) -> str:
    """Return the one line with which something is refused before work."""
    with pytest.raises((TokenGymError, AuditError), match=rf"reads '{reads}'.*{who}") as caught:
        made()
    assert "\n" not in str(caught.value)
    return str(caught.value)


READS = {
    "by_entropy": "entropy",
    "by_surprise": "log_probs",
    "by_value_change": "values",
    "by_verdict": "turn_scores",
    "by_distance": "hidden_states",
}


@pytest.mark.parametrize("talk", [False, True])
def test_ppo_computes_the_formula(talk: bool) -> None:
    """The five by hand, of what the learner's round has: own tokens alone, replies left out."""
    for name in NAMES:
        if name == "by_verdict" and not talk:
            continue
        found, episodes, agent = by_ppo(name, talk)
        for row, episode in enumerate(episodes):
            own = np.ones(len(episode.response_ids), bool)
            if episode.written is not None:
                own = episode.written > 0
            mask, score = torch.ones(1, int(own.sum())).bool(), float(episode.score or 0.0)
            if name in OF_REWARD:
                values = getattr(episode, READS[name])
                assert values is not None
                table = torch.from_numpy(values[own].astype(np.float64))[None]
                sign = -1 if name == "by_surprise" else 1
                expected: Any = score * shares(sign * table, mask)[0].numpy()
            elif name == "by_value_change":
                values = agent.made.values[row, : len(own)].numpy()[own]
                rewards = agent.made.token_rewards[row, : len(own)].numpy()[own]
                expected = rewards + np.append(values[1:], 0.0) - values
            elif name == "by_verdict":
                expected = np.zeros(len(own))
                for turn in episode.turns:
                    if turn.score is not None:
                        expected[turn.span[1] - 1] = turn.score
                expected = expected[own]
            else:
                expected = found[row][own]  # by TRL's own forward, below
                assert expected.sum() == pytest.approx(score, rel=1e-5)
            np.testing.assert_allclose(found[row][own], expected, atol=3e-6, err_msg=name)
            assert not found[row][~own].any()


def test_a_learner_refuses_turn_scores_where_nobody_scores_turns() -> None:
    made = lambda: trained(environments(False), advantage=ideas.by_verdict)  # noqa: E731
    refused("by_verdict", "turn_scores", "partner=", made)


@pytest.mark.parametrize("talk", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_as_a_reward(name: str, talk: bool, tmp_path: Path) -> None:
    """gym.make, the wrapper and replay pay what PPO's advantage is."""
    function = getattr(ideas, name)
    if name not in (*OF_REWARD, *(["by_verdict"] if talk else [])):
        who = "partner=" if name == "by_verdict" else "a trainer alone"
        for made in (
            lambda: environments(talk, reward=function),
            lambda: CreditReward(environments(talk), str(BUNDLE.reward_model), function),
            lambda: replay(by_ppo("by_entropy", talk)[1], [WORD + name], env=ENV),
        ):
            refused(name, READS[name], who, made)
        return
    expected, episodes, _ = by_ppo(name, talk)
    of_make = trained(environments(talk, reward=function)).played.episodes
    wrapped = CreditReward(environments(talk), str(BUNDLE.reward_model), function)
    of_wrapper = trained(wrapped).played.episodes
    for paid in (of_make, of_wrapper):
        assert [e.response_ids for e in paid] == [e.response_ids for e in episodes]
        check([e.token_rewards for e in paid], expected, name)
    kwargs = {"env_kwargs": dict(TALK)} if talk else {}
    shown = replay(episodes, [WORD + name], env=ENV, **kwargs)
    check(shown.credits[WORD + name], expected, name)


@pytest.mark.parametrize("name", NAMES)
def test_as_token_credit(name: str) -> None:
    """Texts from anywhere, with the figures of the policy that wrote them."""
    function = getattr(ideas, name)
    if name not in OF_REWARD:
        who = "partner=" if name == "by_verdict" else "a trainer alone"
        refused(
            *(name, READS[name], who),
            lambda: TokenCredit(BUNDLE.reward_model, function, tokenizer=BUNDLE.tokenizer),
        )
        return
    credit = TokenCredit(BUNDLE.reward_model, function, tokenizer=BUNDLE.tokenizer)
    for talk in (False, True):
        expected, episodes, _ = by_ppo(name, talk)
        given: dict[str, Any] = {
            "responses": [e.response_ids for e in episodes],
            "prompts": [e.prompt_ids for e in episodes],
            "written": [_written(e) for e in episodes],
        }
        figure = {READS[name]: [getattr(e, READS[name]) for e in episodes]}
        check(credit(**given, **figure).token_rewards, expected, name)
        refused(name, READS[name], rf"pass {READS[name]}=", lambda: credit(**given))  # noqa: B023
        short: dict[str, Any] = {READS[name]: [[0.0]] * len(episodes)}
        with pytest.raises(ValueError, match=rf"{READS[name]} has 1 entries for the \d+ tokens"):
            credit(**given, **short)


def _written(episode: Episode) -> list[int]:
    if episode.written is None:
        return [1] * len(episode.response_ids)
    return [int(one) for one in episode.written]


def test_a_comparison_trains_with_what_its_episodes_carry(tmp_path: Path) -> None:
    words = [WORD + name for name in OF_REWARD]
    compare(tiny(rewards=words, seeds=1), tmp_path, console=QUIET)
    for name in OF_REWARD:
        files = [file for file in tmp_path.rglob("*.jsonl") if name in str(file) and "episodes" in
                 file.name]  # fmt: skip
        assert files, sorted(tmp_path.rglob("*"))
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        paid = [row for row in rows if row.get(READS[name]) and row.get("token_rewards")]
        assert paid, name
        sign = -1 if name == "by_surprise" else 1
        for row in paid:
            table = torch.tensor([row[READS[name]]], dtype=torch.float64) * sign
            expected = row["score"] * shares(table, torch.ones_like(table).bool())[0]
            assert row["token_rewards"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_comparison_refuses_the_others_before_it_trains(tmp_path: Path) -> None:
    for name in ("by_value_change", "by_distance", "by_verdict"):
        who = "partner=" if name == "by_verdict" else "a trainer alone"
        made = lambda: compare(tiny(rewards=[WORD + name]), tmp_path / name, console=QUIET)  # noqa: B023, E731
        refused(name, READS[name], who, made)
        assert not list((tmp_path / name).rglob("episodes*"))


@pytest.mark.parametrize("name", NAMES)
def test_audited(name: str) -> None:
    """Only r_t + V_{t+1} - V_t follows the gradient: the others weigh a score, or a turn."""
    function = getattr(ideas, name)
    if name == "by_distance":
        refused(name, "hidden_states", "PPO", lambda: audited(function))
        return
    audit = check_estimator(audited(function))
    assert audit.holds == (name == "by_value_change"), str(audit)
    if name == "by_verdict":  # it is read, and pays each turn its own reward without what follows
        assert audit.verdict != "blind"


@pytest.mark.parametrize("door", ["verl", "skyrl"])
def test_in_the_registries(door: str) -> None:
    """verl passes no values, log-probs or entropies; SkyRL passes values."""
    for name in NAMES:
        function = getattr(ideas, name)
        if (door, name) != ("skyrl", "by_value_change"):
            refused(name, READS[name], r"PPO\(advantage", lambda: registered(function, door))  # noqa: B023
            continue
        for talk in (False, True):
            expected, _, agent = by_ppo(name, talk)
            mask = agent.made.response_mask
            padded = [torch.cat([torch.zeros(ROWS, 2), table.float()], 1) for table in
                      (agent.made.token_rewards, mask, agent.made.values)]  # fmt: skip
            advantages, _ = registered(function, door)(
                padded[0],
                padded[1],
                np.array([str(row // GROUP) for row in range(ROWS)], dtype=object),
                None,
                values=padded[2],
                gamma=1.0,
                lambd=1.0,
            )
            check(advantages[:, 2:].numpy(), expected, name)


@pytest.mark.parametrize("name", NAMES)
def test_in_rows_of_any_trainer(name: str) -> None:
    """The loop of one's own, prime-rl and verifiers are these rows."""
    function = getattr(ideas, name)
    credit = TokenCredit(BUNDLE.reward_model, "sparse", tokenizer=BUNDLE.tokenizer)
    for talk in (False, True):
        expected, episodes, _ = by_ppo(name if talk or name != "by_verdict" else NAMES[0], talk)
        rows = [
            Row(
                prompt_ids=e.prompt_ids,
                response_ids=e.response_ids,
                group=0,
                written=_written(e),
                log_probs=None if e.log_probs is None else e.log_probs.tolist(),
                entropy=None if e.entropy is None else e.entropy.tolist(),
            )
            for e in episodes
        ]
        if name not in OF_REWARD:
            made = lambda: credit_rows(rows, credit, function)  # noqa: B023, E731
            refused(name, READS[name], r"PPO\(advantage", made)
            continue
        check(credit_rows(rows, credit, function).advantages, expected, name)


def grpo(kind: str, name: str, talk: bool, folder: Path, **options: Any) -> Any:
    """Return a trainer of TRL's, whose completions are the texts of PPO's round.

    Args:
        kind: "GRPOTrainer", or "TokenCreditGRPOTrainer".
        name: The idea.
        talk: Whether the texts are conversations.
        folder: Where it may write.
        options: Further arguments.
    """
    if sys.version_info < (3, 11):
        pytest.skip("TRL needs Python 3.11")
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    from tokengym.bridges import trl as bridge

    _, episodes, _ = by_ppo(name, talk)

    def play(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        return {
            "prompt_ids": [list(e.prompt_ids) for e in episodes],
            "completion_ids": [list(e.response_ids) for e in episodes],
            "logprobs": None,
            "env_mask": [_written(e) for e in episodes],
        }

    def scores(prompts: Any, completion_ids: Any, **_: Any) -> list[float]:
        return [float(e.score or 0.0) for e in episodes]

    if kind == "GRPOTrainer":
        options["reward_funcs"] = [scores]
    texts = [prompt.text for prompt in BUNDLE.prompts("train")][:4]
    args = trl.GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=ROWS, num_generations=GROUP,
        max_steps=1, max_completion_length=16, use_cpu=True, bf16=False, report_to=[],
        save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    return getattr(trl if kind == "GRPOTrainer" else bridge, kind)(
        model=AutoModelForCausalLM.from_pretrained(BUNDLE.policy, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=BUNDLE.tokenizer,
        rollout_func=play,
        **options,
    )


def batch_of(trainer: Any) -> dict[str, Any]:
    """Train a step, and return what TRL learned from."""
    kept, theirs = [], trainer._generate_and_score_completions

    def keeping(inputs: Any) -> Any:
        kept.append(theirs(inputs))
        return kept[-1]

    trainer._generate_and_score_completions = keeping
    trainer.train()
    assert any("grad_norm" in line for line in trainer.state.log_history)
    return kept[0]


OF_ANOTHER_FORWARD = 2e-5
"""The policy's figures are read once more there, in float32 and by TRL's kernel.

An entropy of .03 nats is the difference of two numbers near 15, which float32 holds to 1e-6: by
float64 ours is off by 1.9e-5 of the largest share on a processor without AVX-512.
"""


@pytest.mark.parametrize("talk", [False, True])
@pytest.mark.parametrize("name", OF_TEXTS)
def test_in_trl(name: str, talk: bool, tmp_path: Path) -> None:
    """GRPOTrainer trains on the texts of PPO's round, by the same policy."""
    trainer = grpo("GRPOTrainer", name, talk, tmp_path)
    from tokengym.bridges.trl import advantage_fn

    assert advantage_fn(trainer, getattr(ideas, name)) is trainer
    batch = batch_of(trainer)
    check(batch["advantages"].numpy(), by_ppo(name, talk)[0], name, OF_ANOTHER_FORWARD)
    assert batch["advantages"].shape == batch["completion_mask"].shape


@pytest.mark.parametrize("talk", [False, True])
@pytest.mark.parametrize("name", OF_REWARD)
def test_as_a_rule_in_trl(name: str, talk: bool, tmp_path: Path) -> None:
    """The advantage is then the reward to go; TRL's prompts are others, and so are the scores."""
    expected, episodes, _ = by_ppo(name, talk)
    options: dict[str, Any] = {"scorer": BUNDLE.reward_model, "advantage": "reinforce"}
    options["credit"] = getattr(ideas, name)
    batch = batch_of(grpo("TokenCreditGRPOTrainer", name, talk, tmp_path, **options))
    to_go = [
        np.cumsum(paid[::-1])[::-1] / paid.sum() * np.asarray(_written(episode))
        for paid, episode in zip(expected, episodes, strict=True)
    ]
    found = batch["advantages"].numpy()
    assert found[:, 0].all()
    check(found / found[:, :1], to_go, name, 2 * OF_ANOTHER_FORWARD)


def test_trl_refuses_what_it_cannot_supply(tmp_path: Path) -> None:
    trainer = grpo("GRPOTrainer", "by_entropy", False, tmp_path)
    from tokengym.bridges.trl import advantage_fn

    for name in ("by_value_change", "by_verdict"):
        made = lambda: advantage_fn(trainer, getattr(ideas, name))  # noqa: B023, E731
        refused(name, READS[name], r"PPO\(advantage", made)
