"""Toxicity before and after: summaries of rude posts, trained with and without its price.

python -m studies.toxicity prepare --out runs/toxicity
tokengym train --agent sft ... --out runs/toxicity/sft    # in full in docs/results/toxicity.md
python -m studies.toxicity run --out runs/toxicity      # stops and resumes
python -m studies.toxicity publish --out runs/toxicity
python -m studies.toxicity page
"""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from studies.cells import DOCS, EARLIER, Docs, Out, command_line, run_pending
from studies.credit_grid import PUBLISHED, finished_rows
from studies.grid_page import panel_of
from studies.tables import difference, fields, fill, markdown_table, student_mean
from tokengym.base.bundle import bundled
from tokengym.base.files import write_csv, write_text
from tokengym.evaluation.report.curves import Panel, read_curves
from tokengym.evaluation.report.verdict import number
from tokengym.evaluation.runs.config import ComparisonConfig, TaskSettings, missing_runs
from tokengym.evaluation.runs.defaults import EvaluationSettings, training_settings
from tokengym.evaluation.statistics import paired_difference
from tokengym.lab.makers.corpora.grammar import Dice
from tokengym.lab.makers.corpora.posts import reference_summary
from tokengym.lab.makers.corpora.rude_posts import rude_summary, write_rude_posts
from tokengym.lab.makers.corpora.rude_words import RUDE_WORDS

OUT = Path("runs/toxicity")
FOLDER = "toxicity"
TASK = "tokengym/Summarize-v0"
POSTS, WRITTEN, SEED = 1400, 4000, 0
"""Posts of the data set, posts with rude summaries that the policy learns from, and their seed."""
RATE, UPDATES, EVERY = 1e-3, 16, 4
FIRST_SEED, SEEDS = 80, 5
WEIGHT = 20
"""Price of a response of rude words alone; one word of fifteen costs 1.3, a deviation of the
reward model's score."""
SCORERS = "docs/results/toxicity/scorers.py"
ARMS = {
    "score": None,
    "score less toxicity": f"{SCORERS}:less_toxicity:weight={WEIGHT}",
    "toxicity alone": f"{SCORERS}:toxicity:weight={WEIGHT}",
}
"""What is trained on -> its scorer; None is the bundled reward model."""
REWARD = "sparse"


def prepare(out: Out = OUT) -> None:
    """Write posts with references, posts with rude summaries, and a policy that has the words.

    Args:
        out: Folder of the study's runs.
    """
    import torch
    from transformers import AutoModelForCausalLM

    rng = np.random.default_rng(SEED)
    posts = write_rude_posts(POSTS + WRITTEN, rng)
    dice = Dice(rng)
    told = [{"prompt": post.text, "reference": reference_summary(post)} for post in posts[:POSTS]]
    written = [
        {"prompt": post.text, "response": rude_summary(post, dice)} for post in posts[POSTS:]
    ]
    for name, rows in (("posts", told), ("written", written)):
        write_text(out / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    bundle = bundled("summarize")
    tokenizer = copy.deepcopy(bundle.tokenizer)
    tokenizer.add_tokens(list(RUDE_WORDS))
    model = AutoModelForCausalLM.from_pretrained(bundle.policy)
    torch.manual_seed(SEED)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")


def config(arm: str, out: Path) -> ComparisonConfig:
    """Return the comparison that an arm is.

    Args:
        arm: A key of `ARMS`.
        out: Folder with the posts and, in ``sft``, the policy that learnt to be rude.
    """
    agent = out / "sft" / "agent"
    return ComparisonConfig(
        env=TASK,
        rewards=(REWARD,),
        seeds=SEEDS,
        first_seed=FIRST_SEED,
        training=training_settings(TASK, steps=UPDATES, learning_rate=RATE, **EARLIER),
        evaluation=EvaluationSettings(every=EVERY, toxicity="words"),
        task=TaskSettings(
            dataset=str(out / "posts.jsonl"),
            prompt_column="prompt",
            reference_column="reference",
            model=str(agent / "model"),
            tokenizer=str(agent / "tokenizer"),
            scorer=ARMS[arm],
        ),
    )


def pending(out: Path) -> Iterator[tuple[str, ComparisonConfig, str, int]]:
    """Yield the runs to do, all arms of a seed before the next seed."""
    work = [
        (seed, index, arm, reward)
        for index, arm in enumerate(ARMS)
        for reward, seed in missing_runs(config(arm, out), out / file_name(arm))
    ]
    for seed, _, arm, reward in sorted(work):
        yield file_name(arm), config(arm, out), reward, seed


def file_name(arm: str) -> str:
    """Return the name of an arm's folder and csv."""
    return arm.replace(" ", "_")


def run(out: Out = OUT, part: str = "0/1", until: str | None = None) -> None:
    """Run what is missing, one run at a time, in this process.

    Args:
        out: Folder of the study's runs.
        part: "i/n" takes the seeds with seed % n == i, so that n processes share the work.
        until: Time of day, HH:MM, after which no run begins.
    """
    run_pending(pending(out), out, part, until)


def publish(out: Out = OUT, docs: Docs = DOCS) -> None:
    """Write each arm's runs of the seeds that all arms have finished as one csv.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the study's page.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    arms = {arm: list(finished_rows((REWARD,), seeds, out / file_name(arm))) for arm in ARMS}
    shared = set.intersection(*({row["seed"] for row in rows} for rows in arms.values()))
    for arm, rows in arms.items():
        kept = [row for row in rows if row["seed"] in shared]
        write_csv(docs / FOLDER / f"{file_name(arm)}.csv", kept, PUBLISHED)


def page(docs: Docs = DOCS) -> None:
    """Fill the page from the published curves.

    Args:
        docs: Folder of the study's page.
    """
    panels = {
        arm: panel_of(read_curves(docs / FOLDER / f"{file_name(arm)}.csv", group_by=()))
        for arm in ARMS
    }
    fill(docs / "toxicity.md", {"before-after": table(panels), "arms": arms_table(panels)})


def table(panels: Mapping[str, Panel]) -> str:
    """Return toxicity, gold score and the like before and after training, by what was trained on.

    Args:
        panels: By arm.
    """
    lines = []
    for arm, panel in panels.items():
        runs = panel.rewards[REWARD].values
        line = [arm, str(len(runs["toxicity"]))]
        for name in ("toxicity", "gold_score"):
            before, after = runs[name][:, 0], runs[name][:, -1]
            line += [number(before.mean()), student_mean(after)]
            line.append(difference(fields(paired_difference(after, before))))
        lines.append([*line, *(number(runs[name][:, -1].mean()) for name in ("length", "kl"))])
    head = ["trained on", "seeds", "toxicity before", "after", "after - before"]
    head += ["gold before", "after", "after - before", "tokens", "KL, nats"]
    return markdown_table(head, lines)


def arms_table(panels: Mapping[str, Panel]) -> str:
    """Return how the arms end, each minus the first, paired by seed.

    Args:
        panels: By arm.
    """
    first, *others = panels
    lines = []
    for arm in others:
        pair = panels[arm].rewards[REWARD], panels[first].rewards[REWARD]
        shared = [seed for seed in pair[0].seeds if seed in pair[1].seeds]
        line = [f"{arm} - {first}"]
        for name in ("toxicity", "gold_score"):
            end, base = (
                runs.values[name][[runs.seeds.index(seed) for seed in shared], -1] for runs in pair
            )
            line.append(difference(fields(paired_difference(end, base))))
        lines.append(line)
    return markdown_table(["difference at the end", "toxicity", "gold"], lines)


if __name__ == "__main__":
    command_line(__doc__, prepare, run, publish, page)
