"""Ablation of R3: PPO on the bundled questions with components left out.

Kim et al. 2024 (arXiv:2402.03469) report that relevance alone teaches short answers and copies of
the question, and that the length incentive (LI) and the repetition penalty (RP) prevent it. Copying
must pay, and it must be found; so the rewards are trained in several worlds:

    bundled   the bundled encoder and policy
    copying   a policy that was taught to answer with the question now and then, which the bundled
              one never does and large language models do
    likely    a policy for which copying is likely: a quarter of what it was taught are copies
    minilm    the policy of copying, with the encoder all-MiniLM-L6-v2, trained on real text

    python -m studies.r3 run --out runs/r3 [--minilm FOLDER] [--worlds bundled] [--seeds 5]
    python -m studies.r3 publish --out runs/r3 --docs docs/results

A run that has its file is not run again. FOLDER holds the encoder of the world minilm; with the
extra ``tokengym[encoder]`` installed it may be left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from studies.cells import (
    DOCS,
    EARLIER,
    PUBLISHED_KL,
    Docs,
    Out,
    command_line,
    read_rows,
    run_missing,
)
from studies.r3_page import panels, save_figure, table, wins_table
from studies.relevance import minilm_folder
from studies.tables import fill
from tokengym.agents.training import Recorder
from tokengym.base.files import write_csv
from tokengym.base.settings import changed
from tokengym.envs import Episode, bundled
from tokengym.evaluation.measure.evaluate import Evaluation
from tokengym.evaluation.measure.metrics import copy_rate
from tokengym.evaluation.runs.config import ComparisonConfig, TaskSettings
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.runs.run import make_agent, make_evaluator
from tokengym.lab.makers.building.language_model import train_language_model
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.questions import (
    all_questions,
    clean_sentences_said,
    write_conversations,
)

NO_BRANCHING = "reward_branching=false"
REWARDS = {
    "relevance": f"r3:length_incentive=false,repetition_penalty=false,{NO_BRANCHING}",
    "relevance x LI": f"r3:repetition_penalty=false,{NO_BRANCHING}",
    "relevance x RP": f"r3:length_incentive=false,{NO_BRANCHING}",
    "R3": "r3",
    "R3 dense": "r3-dense",
    "R3, one mean": "r3",
}
"""Name in the tables -> reward; the first three pay r_x for every query, whatever its type."""
ONE_MEAN = {"R3, one mean": "by=none"}
"""Rewards that are not normalised by query type, with the option that says so."""
World = Literal["bundled", "copying", "likely", "minilm"]
WORLDS: tuple[World, ...] = get_args(World)
Recipe = Literal["default", "gentle", "pressed", "paper"]
PRESSED: dict[str, Any] = {
    "steps": 80,
    "batch_size": 64,
    "learning_rate": 6e-4,
    "kl_estimator": PUBLISHED_KL,
    "n_epochs": 2,
    "n_minibatches": 1,
}
RECIPES: dict[Recipe, dict[str, Any]] = {
    "default": {"max_new_tokens": 48},
    "gentle": {"normalize": "running:window=512", "steps": 18},
    "pressed": {"normalize": "running:by=none", "kl_coef": 0.05, **PRESSED},
    "paper": {"normalize": "running", "kl_coef": 0.2, "kl_target": 6.0, **PRESSED},
}
"""The recipe "default" is what ``compare --env QuestionAnswer`` trains by. The others normalise the
score by its running mean and deviation and clip it to 10, as the paper: "gentle" by the task's own
rate, batch and KL price, each query type by itself; "pressed" harder, with one mean for both types.
The paper's KL coefficient, adaptive from 0.2 to 6 nats over 10,000 episodes, holds so small a
policy near the reference."""
COPYING: dict[World, float] = {"copying": 0.05, "likely": 0.25, "minilm": 0.05}
"""Share of answers that are the question, in the text that the policy of a world learns from; on
held-out questions it copies less often."""
SETTINGS = training_settings(
    "tokengym/QuestionAnswer-v0",
    max_new_tokens=24,
    **EARLIER,
)
EPISODES = 256
"""Held-out questions that each evaluation asks."""
MINILM: dict[str, Any] = {"steps": 64, "batch_size": 32}
"""The world minilm is trained for fewer steps: its encoder takes most of the time."""
MEASURES = (
    *("score", "kl", "entropy", "length", "relevance_query", "relevance_reference"),
    *("repetition", "copies", "copied_words", "clean_sentences", "right_answers"),
)
GOLDS = ("golds_open", "golds_constrained")
"""The gold scores of the answers to each question at the start and the end of a run, in the order
of the questions: clean sentences, and 1 for a right answer."""
TEXT = ("world", "recipe", "reward", *GOLDS)
COLUMNS = ("world", "recipe", "reward", "seed", "step", *MEASURES, *GOLDS)
QUESTIONS = {question.text: question for question in all_questions()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    world: World
    recipe: Recipe
    reward: str
    seed: int

    def file(self, out: Path) -> Path:
        """Return where its curve is stored."""
        name = f"{self.world}-{self.recipe}-{self.reward.replace(' ', '-')}-{self.seed}.csv"
        return out / "curves" / name


def style_of(episode: Episode) -> dict[str, float]:
    """Return what one answer is like, whatever was asked.

    ``copies``: 1 if it holds at least half of the question's trigrams. ``copied_words``: share of
    its words that stand in the question.
    """
    return {
        "length": len(episode.response_ids),
        "relevance_query": episode.score_parts["relevance_query"],
        "repetition": 1.0 - episode.score_parts["repetition_penalty"],
        "copies": float(copy_rate(episode.response, episode.prompt) >= 0.5),
        "copied_words": copy_rate(episode.prompt, episode.response, n=1),
    }


def figures_of(episode: Episode) -> dict[str, float]:
    """Return what one answer to an open-ended question is like: its style, and the gold score.

    ``clean_sentences``: different sentences of it that the grammar's reference answers can hold.
    """
    return {**style_of(episode), "clean_sentences": _clean_sentences(episode)}


def measure(evaluation: Evaluation) -> dict[str, float]:
    """Return the figures of one evaluation.

    Those of `figures_of` are means over the open-ended questions; ``relevance_reference`` and
    ``right_answers``, the share with a clean sentence, over the constrained ones; the others over
    all.
    """
    groups: dict[str | None, list[Episode]] = {"OPENENDED": [], "CONSTRAINED": []}
    for episode in evaluation.episodes:
        groups[episode.query_type].append(episode)
    answers = [figures_of(episode) for episode in groups["OPENENDED"]]
    constrained = groups["CONSTRAINED"]
    references = [episode.score_parts["relevance_reference"] for episode in constrained]
    return {
        **{name: evaluation.metrics[name] for name in ("score", "kl", "entropy")},
        **{name: float(np.mean([answer[name] for answer in answers])) for name in answers[0]},
        "relevance_reference": float(np.mean(references)),
        "right_answers": float(np.mean([_clean_sentences(e) > 0 for e in constrained])),
    }


def golds_of(episodes: Sequence[Episode]) -> dict[str, str]:
    """Return the gold score of each answer, apart by the type of the question."""
    said = [(episode.query_type, _clean_sentences(episode)) for episode in episodes]
    return {
        "golds_open": " ".join(str(count) for kind, count in said if kind == "OPENENDED"),
        "golds_constrained": " ".join(
            str(min(count, 1)) for kind, count in said if kind == "CONSTRAINED"
        ),
    }


def train(run: Run, policy: Path | None, encoder: str | None) -> list[Any]:
    """Return the curve of one run: a row per evaluation.

    Args:
        run: The run.
        policy: Folder of the policy that copies; None takes the bundled policy.
        encoder: Encoder of the world minilm; None takes the bundled one.
    """
    reward = REWARDS[run.reward]
    settings = changed(SETTINGS, **RECIPES[run.recipe] | (MINILM if run.world == "minilm" else {}))
    if run.reward in ONE_MEAN:
        separator = "," if ":" in settings.normalize else ":"
        normalize = f"{settings.normalize}{separator}{ONE_MEAN[run.reward]}"
        settings = changed(settings, normalize=normalize)
    config = ComparisonConfig(
        env="QuestionAnswer",
        rewards=(reward,),
        training=settings,
        evaluation=EvaluationSettings(every=max(settings.steps // 3, 1), episodes=EPISODES),
        task=TaskSettings(
            scorer=encoder if run.world == "minilm" else None,
            model=None if policy is None else str(policy),
        ),
    )
    agent, evaluator = make_agent(config, reward, run.seed), make_evaluator(config)
    rows: list[dict[str, Any]] = []

    def note(step: int) -> None:
        evaluation = evaluator(agent)
        figures = measure(evaluation)
        told = step in (0, settings.steps)
        golds = golds_of(evaluation.episodes) if told else dict.fromkeys(GOLDS, "")
        rows.append({**asdict(run), "step": step, **figures, **golds})
        print(run, step, {name: round(value, 3) for name, value in figures.items()})
        shown = evaluation.episodes[0]
        print(f"    {shown.prompt!r} -> {shown.response!r}", flush=True)

    recorder = Recorder(settings.steps, config.evaluation.every, note)
    agent.learn(settings.steps * settings.batch_size * settings.max_new_tokens + 1, recorder)
    evaluator.close()
    return rows


def copying_policy(world: World, out: Path) -> Path | None:
    """Return the folder of a world's policy, made if missing; None for the bundled policy.

    Args:
        world: The world.
        out: Folder of the study's runs.
    """
    if world not in COPYING:
        return None
    folder = out / f"policy-{COPYING[world]:g}"
    if not (folder / "config.json").exists():
        make_copying_policy(folder, COPYING[world])
    return folder


def make_copying_policy(folder: Path, share: float) -> None:
    """Teach the bundled policy to answer with the question now and then.

    Args:
        folder: Where the policy is written.
        share: Share of the answers it learns from that are the question.
    """
    from transformers import AutoModelForCausalLM

    bundle = bundled("question_answer")
    train_prompts = {prompt.text for prompt in bundle.prompts("train")}
    questions = [question for text, question in QUESTIONS.items() if text in train_prompts]
    rng = np.random.default_rng(0)
    dice = Dice(rng)
    texts = [
        f"{asked} {asked if dice.chance(share) else answer}"
        for asked, answer in write_conversations(questions, 10_000, rng)
    ]
    ids = bundle.tokenizer(texts).input_ids
    model: Any = AutoModelForCausalLM.from_pretrained(bundle.policy, dtype="float32")
    train_language_model(
        model,
        [[*row, bundle.tokenizer.eos_token_id] for row in ids],
        steps=300,
        generator=torch.Generator().manual_seed(0),
        learning_rate=1e-3,
    )
    model.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)


def run(
    out: Out,
    minilm: Path | None = None,
    worlds: Sequence[World] = WORLDS,
    recipe: Recipe = "gentle",
    rewards: Sequence[str] = tuple(REWARDS),
    seeds: int = 5,
) -> None:
    """Run what is missing, seed by seed.

    Args:
        out: Folder of the study's runs.
        minilm: Folder of the encoder of the world minilm; None takes the installed one.
        worlds: Worlds to run.
        recipe: KL recipe.
        rewards: Names of the rewards, as in the tables.
        seeds: Runs per reward.
    """
    if unknown := set(rewards) - set(REWARDS):
        raise SystemExit(f"--rewards takes {', '.join(REWARDS)}, got {', '.join(sorted(unknown))}")
    policies = {world: copying_policy(world, out) for world in worlds}
    encoder = str(minilm or minilm_folder()) if "minilm" in worlds else None
    run_missing(
        [
            Run(world=world, recipe=recipe, reward=reward, seed=seed)
            for seed in range(seeds)
            for world in worlds
            for reward in rewards
        ],
        lambda one: one.file(out),
        lambda one: write_csv(one.file(out), train(one, policies[one.world], encoder), COLUMNS),
    )


def publish(out: Out, docs: Docs = DOCS) -> None:
    """Write all curves into one file, and the tables and the figure from it.

    Published runs that are not in ``out`` stay.
    """
    made = read_rows(*sorted((out / "curves").glob("*.csv")), text=TEXT)
    file = docs / "r3" / "curves.csv"
    published = read_rows(file, text=TEXT) if file.exists() else []
    again = {_run_of(row) for row in made}
    rows = [row for row in published if _run_of(row) not in again] + made
    rows.sort(key=lambda row: [list(names).index(row[key]) for key, names in _ORDER.items()])
    write_csv(file, rows, COLUMNS)
    tables = {}
    for panel, panel_rows in panels(rows).items():
        tables[f"r3 {panel}"] = table(panel_rows)
        if any(row[GOLDS[0]] for row in panel_rows):
            tables[f"wins {panel}"] = wins_table(panel_rows)
    fill(docs / "r3.md", tables)
    save_figure(docs / "r3" / "curves.png", rows)


_ORDER: dict[str, Any] = {"world": WORLDS, "recipe": RECIPES, "reward": REWARDS}


def _run_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in (*_ORDER, "seed"))


def _clean_sentences(episode: Episode) -> int:
    return clean_sentences_said(QUESTIONS[episode.prompt], episode.response)


if __name__ == "__main__":
    command_line(__doc__, run, publish)
