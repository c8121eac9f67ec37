"""Accuracy of a process model at finding the first error. Figures of docs/results/details/forks.md.

Demonstrations of bracket sequences, two thirds of them right, with labels of steps that are exact,
or by continuations of the bundled policy. On other prompts, whose labels are exact. `train` makes
the process models that `forks.py` pays `prm` by: one per setting, from exact labels.

    python -m studies.forks_steps page
    python -m studies.forks_steps train --out runs/forks_process
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from studies.forks import FAMILY, FILLERS_BEFORE, SETTINGS
from tokengym.agents import PPO, bind_policy
from tokengym.base import Split
from tokengym.envs import Episode, decode
from tokengym.lab.makers.corpora.forks_texts import demonstrate
from tokengym.lab.study import DOCS, Docs, Out, command_line
from tokengym.lab.tables import fill, markdown_table
from tokengym.lab.training import RewardTraining, rows_of_forks, train_process_model
from tokengym.lab.training.process import StepRow, first_error, first_error_f1

SKILL = 0.8
TRAINED, HELD_OUT = 3072, 384
TRAINING = RewardTraining(
    learning_rate=1e-3, batch_size=16, epochs=5, weight_decay=0.1, warmup=0.05
)
GUESSES = 200


@dataclass(frozen=True, kw_only=True)
class Task:
    """Bracket sequences of some length."""

    decisions: int = 3
    distractors: int = 1
    fillers: int = 1
    """Before each decision or distractor."""

    @property
    def steps(self) -> int:
        """Steps of a response: a decision or distractor with its fillers each."""
        return self.decisions + self.distractors

    @property
    def size(self) -> int:
        """Tokens of a step."""
        return self.fillers + 1

    @property
    def knobs(self) -> dict[str, Any]:
        """Keywords of the environment."""
        return {"family": FAMILY, **vars(self)}


MEASURED_TASK = Task()


def demonstrations(
    split: Split, count: int, seed: int, task: Task = MEASURED_TASK
) -> tuple[Any, list[Episode]]:
    """Return the environment, and responses of the demonstrator to prompts drawn from a split."""
    env: Any = gym.make("tokengym/Forks-v0", split=split, **task.knobs).unwrapped
    rng, episodes = np.random.default_rng(seed), []
    for _ in range(count):
        prompt = env.prompts[int(rng.integers(len(env.prompts)))].text
        shown = demonstrate(
            FAMILY, prompt, skill=SKILL, judged_by=SKILL, fillers=task.fillers, rng=rng
        )
        episodes.append(
            Episode(
                prompt=prompt,
                response=" ".join(shown.words),
                prompt_ids=env.tokenizer(prompt)["input_ids"],
                response_ids=env.tokenizer.convert_tokens_to_ids(list(shown.words)),
            )
        )
    return env, episodes


def exact_rows(env: Any, episodes: list[Episode], task: Task = MEASURED_TASK) -> list[StepRow]:
    """Return rows whose labels say whether the response can still be solved after each step."""
    rows = []
    for episode in episodes:
        ids, values = episode.response_ids, env.optimal_values(episode.prompt).values
        starts = range(0, task.steps * task.size, task.size)
        steps = decode(env.tokenizer, [ids[start : start + task.size] for start in starts])
        labels = tuple(values[ids[: start + task.size]] for start in starts)
        rows.append(StepRow(prompt=episode.prompt, completions=tuple(steps), labels=labels))
    return rows


def forked_rows(episodes: list[Episode]) -> list[StepRow]:
    """Return rows whose labels say whether one of 8 continuations of each step was right."""
    envs: Any = gym.make_vec(
        "tokengym/Forks-v0",
        num_envs=64,
        reward=f"mc:k=8,segments={MEASURED_TASK.steps}",
        **MEASURED_TASK.knobs,
    )
    bind_policy(envs, PPO("CausalLMPolicy", envs, seed=0), seed=3)
    paid = envs.reward.evaluate(episodes)
    pieces = envs.reward.credit.pieces(paid)
    return rows_of_forks(paid, envs.unwrapped.tokenizer, pieces, hard=True)


def train(out: Out = Path("runs/forks_process")) -> None:
    """Train a process model for each setting of forks.py, from exact labels.

    Args:
        out: Folder of the models, one by each setting's name.
    """
    for setting, knobs in SETTINGS.items():
        task = Task(**knobs, fillers=FILLERS_BEFORE)
        env, shown = demonstrations("train", TRAINED, seed=2, task=task)
        test_env, held_out = demonstrations("test", HELD_OUT, seed=1, task=task)
        metrics = train_process_model(
            env.bundle.reward_model,
            exact_rows(env, shown, task),
            output_dir=out / setting,
            held_out=exact_rows(test_env, held_out, task),
            training=TRAINING,
        ).metrics
        print(setting, metrics)


def page(docs: Docs = DOCS) -> None:
    """Train on both kinds of labels, and write the figures into the page.

    Args:
        docs: Folder of the page.
    """
    env, held = demonstrations("test", HELD_OUT, seed=1)
    held_out = exact_rows(env, held)
    true = [first_error(row.labels) for row in held_out]
    env, shown = demonstrations("train", TRAINED, seed=2)
    exact, forked = exact_rows(env, shown), forked_rows(shown)
    same = np.mean([np.equal(a.labels, b.labels) for a, b in zip(exact, forked, strict=True)])
    rng = np.random.default_rng(0)
    answers = [None, *range(MEASURED_TASK.steps)]
    guessed = [
        first_error_f1([answers[i] for i in rng.integers(len(answers), size=len(true))], true)
        for _ in range(GUESSES)
    ]
    rows = [["guesses", "", "", f"{np.mean(guessed):.2f}"]]
    for name, labelled, share in (("exact", exact, 1.0), ("by 8 continuations", forked, same)):
        with tempfile.TemporaryDirectory() as folder:
            metrics = train_process_model(
                env.bundle.reward_model,
                labelled,
                output_dir=Path(folder) / "model",
                held_out=held_out,
                training=TRAINING,
            ).metrics
        figures = (share, metrics.accuracy, metrics.first_error_f1)
        rows.append([name, *(f"{figure:.2f}" for figure in figures)])
    header = ["labels", "labels that are right", "accuracy of steps", "F1 of the first error"]
    fill(docs / "details/forks.md", {"process": markdown_table(header, rows)})


if __name__ == "__main__":
    command_line(__doc__, train, page)
