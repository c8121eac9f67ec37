"""Names of other tools: one line says what a thing is called here, and what to write."""

import re
from typing import Any

import gymnasium as gym
import pytest

import tokengym
from tokengym.agents.ppo.settings import PPOSettings
from tokengym.base.registry import did_you_mean
from tokengym.base.settings import names_of
from tokengym.base.spellings import answer, spellings, word_answer
from tokengym.scripts.cli import find_command, main
from tokengym.scripts.commands.options import options_of

agents: Any = tokengym.agents
compare: Any = tokengym.compare
evaluate: Any = tokengym.evaluate
"""Whose arguments a type checker would refuse."""
AGENTS = ("ppo", "grpo", "dpo")
LINES = (["compare"], *(["train", "--agent", agent] for agent in AGENTS), ["evaluate"])


def known_options(line: list[str]) -> set[str]:
    """Return the names of a command's options."""
    return {one.flag for one in options_of(find_command(line[0]), line[1:])}


@pytest.mark.parametrize("row", spellings(), ids=lambda row: row.names[0])
def test_what_is_to_be_written_exists(row):
    known = [known_options(line) for line in LINES]
    keywords = {flag.replace("-", "_") for one in known for flag in one}
    of_python = keywords | {"env", "agent", "agents", "rewards", "policy_kwargs", "args"}
    of_python |= {*names_of(PPOSettings)}
    assert not row.option or any(row.fits(row.option, one) for one in known)
    assert not row.argument or row.fits(row.argument, of_python)
    # A name that all of them have would never be asked for.
    for name in row.names:
        flag = name.replace("_", "-") if row.option else None
        assert flag is None or not all(flag in one for one in known)


def test_no_row_is_hidden_by_those_before_it():
    said: set[tuple[str, str]] = set()
    for known in map(known_options, LINES):
        for name in {name for row in spellings() for name in row.names}:
            said.add((name, answer(name, known, is_option=True).rpartition("write ")[2]))
    for row in spellings():
        written = row.option.replace("{}", "N").replace("{agent}", "N")
        assert not row.option or any((name, written) in said for name in row.names), row.names


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("compare --seed 3", "write --first-seed 3"),
        ("compare --timesteps 1000", "write --tokens 1000"),
        ("train --n-timesteps 500", "write --tokens 500"),
        ("train dpo --num-train-epochs 3", "passes over given data: write --epochs 3"),
        ("train sft --max-steps 100", "--batch-size of its rows: write --epochs N"),
        ("train --save-freq 1000", "keeps a checkpoint: write --eval-every N"),
        ("train -n 100", "unknown option -n; .*write --tokens 100"),
        ("compare -f logs", "unknown option -f; .*write --out logs"),
        ("train --verbose 1", "progress is shown"),
        ("train --hyperparams learning_rate:1e-3", "write --learning-rate 1e-3"),
        ("train --steps 30", "write --updates 30"),
        ("train -optimize --n-trials 9", "unknown option -optimize; .*write tokengym compare"),
        ("compare --n-trials 9", "write --agents ppo ppo:learning_rate=1e-3"),
        ("train -params learning_rate:1e-3", "unknown option -params; .*write --learning-rate"),
        ("train grpo --loss-agg-mode token-mean", "write --agent NAME:loss_mean=token"),
        ("train --use-vllm true", "not needed: the policy answers all prompts"),
        ("evaluate runs/x --episodes 64", "write --num-episodes 64"),
        ("evaluate runs/x --n-timesteps 100", "write --num-episodes N\n"),
        ("compare --agents ppo:lr=1e-3", "no setting 'lr'; .*write --learning-rate 0.001\n"),
        ("enjoy --algo ppo", "unknown command 'enjoy'; write tokengym evaluate"),
        ("evaluate runs/x --eval-episodes 64", "write --num-episodes 64"),
        ("train --num-episodes 64", "did you mean '--eval-episodes'"),
        ("train grpo --beta 0.04", "option of dpo.*write --kl-coef 0.04"),
        ("compare algorithm.adv_estimator=grpo", "write --advantage grpo"),
        ("compare --agents stable_baselines3:A2C", "write sb3:A2C"),
        ("compare --rewards sparse,uniform", "write sparse uniform"),
        ("compare --env Detox out", "unexpected 'out'; tokengym compare --help shows"),
        ("compare --seeds 4,5", "number of seeds: write --seeds 2 --first-seed 4\n"),
        ("compare MovieReview", "is an environment, .*write --env MovieReview\n"),
        ("train tokengym/Detox-v0 --updates 3", "write --env tokengym/Detox-v0\n"),
        (
            "train --agent ppo --agent grpo",
            "--agent is given twice, .* ppo; leave one out\n",
        ),
        ("train --learning-rate 1e-3 --learning-rate 2", "first with 1e-3; leave one out\n"),
        ("train --learning-rate lin_3e-4", "got 'lin_3e-4'; write 3e-4, which falls to 0"),
        ("train --learning-rate 3,4", "must be FLOAT, got '3,4'\n"),
        ("train --algo ppo", "write --agent ppo\n"),
        ("compare --algos ppo", "write --agents ppo\n"),
        ("evaluate --load-best", "before the options: write tokengym evaluate FOLDER/agent\n"),
        ("evaluate runs/x --n-eval-episodes 64", "write --num-episodes 64"),
        ("train --algo PPO", "write --agent ppo\n"),
        ("train --algo a2c", "write --agent sb3:A2C\n"),
        ("train --algo sb3:A2C", "write --agent sb3:A2C\n"),
        ("train --agent a2c", "unknown agent 'a2c'; write sb3:A2C\n"),
        ("train A2C", "unknown agent 'A2C'; write sb3:A2C\n"),
        ("compare --agents ppo_lstm", "write sb3_contrib:RecurrentPPO\n"),
        ("train --agent sb3:a2c", "stable_baselines3 has no 'a2c'; did you mean sb3:A2C"),
        ("train --agent PPO", "unknown agent 'PPO'; did you mean 'ppo'"),
        ("compare --rewards Sparse", "unknown reward 'Sparse'; did you mean 'sparse'"),
        ("compare --rewards sparse --rewards uniform", "--rewards A B"),
        ("compare --lora_rank 4 --lora-rank 8", "--lora-rank is given twice"),
        ("train --device mps", "device 'mps' is not available.*'auto' or 'cpu'"),
        ("train dpo --pairs nofile.jsonl", "nofile.jsonl"),
    ],
)
def test_other_tools_words_get_one_line_with_what_to_write(typed, said, capsys, monkeypatch):
    def none_made(*args: object, **kwargs: object) -> None:
        raise AssertionError("an environment was made")

    monkeypatch.setattr(gym, "make_vec", none_made)
    assert main(typed.split()) == 2
    shown = capsys.readouterr().err
    assert re.search(said, shown)
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda envs: agents.GRPO("CausalLMPolicy", envs, beta=0.04),
            r"'beta'; .*write kl_coef=0\.04",
        ),
        (
            lambda envs: agents.GRPO("CausalLMPolicy", envs, num_generations=2),
            r"^GRPO\(\) got an unexpected keyword argument 'num_generations'; .*write group_size=2",
        ),
        (lambda envs: agents.PPO("CausalLMPolicy", envs, cliprange=0.1), r"write clip_range=0\.1"),
        (lambda _: compare(reward_funcs="score.py:one"), r'write scorer="score\.py:one"'),
        (lambda _: compare(train_dataset="my.tsv"), r'write dataset="my\.tsv"'),
        (
            lambda envs: agents.PPO("CausalLMPolicy", envs, total_timesteps=9),
            r"agent\.learn\(total_time",
        ),
        (
            lambda envs: agents.PPO("CausalLMPolicy", envs, model="m"),
            r"write policy_kwargs=dict\(model=",
        ),
        (lambda envs: agents.PPO("CausalLMPolicy", envs, normalize_advantage=False), "gae whitens"),
        (
            lambda envs: agents.PPO(
                "CausalLMPolicy", envs, policy_kwargs={"model": "m", "net_arch": [64]}
            ),
            r"'net_arch'; .*the network: write model=FOLDER",
        ),
        (
            lambda envs: agents.PPO("CausalLMPolicy", envs, rollout_buffer_class=None),
            "token rewards are read from the episodes: write nothing",
        ),
        (
            lambda envs: agents.PPO("CausalLMPolicy", envs, learning_rate="lin_1e-4"),
            r"a number > 0, got 'lin_1e-4'; write 1e-4, which falls to 0",
        ),
        (lambda envs: agents.DPO("CausalLMPolicy", envs), r"write DPO\(envs, data\)"),
        (lambda envs: agents.SFT(envs, logging_steps=5), r"write args=transformers\.Training"),
        (lambda envs: gym.make("tokengym/MovieReview-v0", max_tokens=9), "write max_new_tokens=9"),
        (lambda envs: compare("MovieReview", seed=3), "write first_seed=3"),
        (lambda envs: compare("MovieReview", n_timesteps=9), "write tokens=9"),
        (lambda envs: compare("MovieReview", steps=9), "write updates=9"),
        (
            lambda envs: compare("MovieReview", agent="dpo", temperatures=(1.0,)),
            "write sample_temp",
        ),
        (lambda envs: compare("MovieReview", agent="sft", num_train_epochs=2.0), "write epochs=2"),
        (
            lambda envs: evaluate(None, envs, n_eval_episodes=20),
            r"^evaluate\(\) got an .* argument 'n_eval_episodes'; .*write num_episodes=20;",
        ),
        (
            lambda envs: agents.PPO("CausalLMPolicy", envs).learn(total_steps=9),
            r"^learn\(\) got an .* argument 'total_steps'; did you mean 'total_timesteps'",
        ),
    ],
)
def test_other_librarys_arguments_get_one_line_with_what_to_write(call, said):
    envs = gym.make_vec("tokengym/MovieReview-v0", num_envs=2, max_new_tokens=4)
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        call(envs)
    assert "\n" not in str(caught.value)


def test_the_table_is_asked_before_near_matches():
    known = names_of(PPOSettings)
    assert "clip_range" in did_you_mean("cliprange", known)
    assert answer("cliprange", known, 0.1, is_option=False).endswith("write clip_range=0.1")
    assert answer("gama", known, 0.1, is_option=False) == ""
    assert answer("cliprange", {"gamma"}, 0.1, is_option=False) == ""  # not there


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("stable_baselines3:A2C", "write sb3:A2C"),
        ("sb3-contrib:TRPO", "write sb3_contrib:TRPO"),
        ("a2c", "write sb3:A2C"),
        ("dqn", "write sb3:DQN"),
        ("qrdqn", "write sb3_contrib:QRDQN"),
        ("trpo", "write sb3_contrib:TRPO"),
        ("ppo_lstm", "write sb3_contrib:RecurrentPPO"),
        ("sparse,uniform", "names are apart, not joined by a comma: write sparse uniform, in P"),
        ("timesteps", "write tokens, since a timestep is one token"),
        ("lin_3e-4", "write 3e-4, which falls to 0 by learning_rate_schedule"),
    ],
)
def test_words_are_told_as_they_are_written_here(word, said):
    assert word_answer(word).startswith(said)


def test_other_words_have_no_answer():
    assert word_answer("abc:beta=1.0") == word_answer("sparse") == ""
