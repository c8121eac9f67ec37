"""Does the lead of `abc-signed` come from a reward model that was chosen for its attention?

The bundled one was. Here four more of each task are trained on preference pairs: three until their
accuracy is 0.65, 0.75 and 0.85, and one of half the width. Nothing but accuracy is looked at before
the runs. `sparse`, `uniform`, `abc-signed` and `sparse` with a critic from the reward model are
trained by each, at their best cells of `studies.one_grid` by score - c KL. Fills film_reviews.md.

    python -m studies.reward_models run --out runs/reward_models [--until 22:00]
    python -m studies.reward_models publish --out runs/reward_models
    python -m studies.reward_models attention --out runs/reward_models    # after the runs
    python -m studies.reward_models page
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from studies import one_grid
from studies.parts import Points, leads, speed
from studies.token_credit import ROWS, UPDATES, WARMUP
from tokengym import Comparison
from tokengym.agents.offline import ResponseCollector, Sampling, make_policy
from tokengym.base import read_json, write_json
from tokengym.envs import Episode, bundled
from tokengym.evaluation.runs import TaskSettings, training_settings
from tokengym.lab.commands.train_reward import BUNDLED as AS_COMMAND
from tokengym.lab.makers.figures import attention_rows, relative_entropy
from tokengym.lab.makers.models import (
    ModelSize,
    choose,
    new_language_model,
    pad_batch,
    reward_logits,
    reward_model_from,
    train_language_model,
)
from tokengym.lab.makers.models import bradley_terry_loss as loss_over_all_pairs
from tokengym.lab.protocol import (
    DRAWN,
    GRID,
    LEARNER,
    PROMPTS,
    best_of_rows,
    scores_of,
    untrained_responses,
)
from tokengym.lab.replay.token_worth import token_worth
from tokengym.lab.study import (
    DOCS,
    Cell,
    Docs,
    Drawn,
    Out,
    Published,
    Round,
    Row,
    Runs,
    Study,
    command_line,
    single_run,
    write_rows,
)
from tokengym.lab.tables import NONE, markdown_table
from tokengym.lab.training.pairwise import bradley_terry_loss
from tokengym.rewards import RewardModel, gold_scorer

Pair = tuple[list[int], list[int]]
"""Token ids of two texts, the better first."""
TASKS = {"MovieReview": "movie_review", "Detox": "detox"}
"""Tasks and their bundles."""
TOKENS, RATE = 24, 1e-3
ARMS: dict[str, dict[str, str]] = {
    "sparse": {"rule": "sparse", "gae_lambda": "0.95"},
    "uniform": {"rule": "uniform", "gae_lambda": "0.8"},
    "abc-signed": {"rule": "abc-signed", "gae_lambda": "0.8"},
    "critic": {"rule": "sparse", "critic": "reward_model", "gae_lambda": "0.8"},
}
"""Arm -> its best cell of the grid at 24 tokens by score - c KL; all at `RATE`."""
SEEDS = range(20, 25)
"""Those of the grid, whose runs are the bundled reward model's on film reviews."""
BUNDLED, NARROW = "bundled", "narrow"
WIDTH = 48
"""Hidden size of the narrow reward model; the others have 96."""
TARGETS = {"0.65": 0.65, "0.75": 0.75, "0.85": 0.85, NARROW: 0.85}
"""Reward model -> accuracy on the pairs of the `CHECKED` prompts at which its training stops. Their
seeds are their places from 1."""
RATED = ("0.85", NARROW)
"""Reward models that learn the gold of single responses: from pairs alone that of 0.85 ended at
0.78 after `MOST_STEPS`."""
MODELS = (*TARGETS, BUNDLED)
"""Reward models, three of them named by the accuracy that was wanted."""
RESPONSES = 4
"""Responses of the untrained policy to each training prompt: two pairs."""
DRAW_SEED = 7
LANGUAGE_STEPS = 900
"""Steps of the narrow reward model's language model, on the same responses."""
CHECKED = 400
"""Training prompts, the last, whose pairs only say when to stop."""
CHECK_EVERY, MOST_STEPS, TEXTS = 10, 1500, 64
"""Steps between two checks, most steps, and responses of a step where their gold is learned."""
WORTH, WAYS, ATTENTION = "models.csv", "reward_model_ways.csv", "attention.csv"
LEARNED = "figures.json"


def cell(task: str, model: str, arm: str) -> Cell:
    """Return an arm's cell on a task by a reward model."""
    return STUDY.cell(task=task, model=model, **ARMS[arm])


def arms_of(model: str) -> list[str]:
    """Return the arms of a reward model: a critic can start from one of the policy's width only."""
    return [arm for arm in ARMS if (model, arm) != (NARROW, "critic")]


def rounds() -> Iterator[Round]:
    """Yield the cells and the seeds wanted of them, in the order in which they are needed.

    On film reviews all seeds of `sparse` and `abc-signed`, then those of the others; then Detox.
    """
    for task in TASKS:
        for pair in (("sparse", "abc-signed"), ("uniform", "critic")):
            for seed in SEEDS:
                yield (
                    [cell(task, model, a) for model in MODELS for a in arms_of(model) if a in pair],
                    (seed,),
                )


def beside(docs: Path) -> list[Row]:
    """Return the runs of film reviews by the bundled reward model, which are the grid's."""
    rows: list[Row] = []
    for arm, about in ARMS.items():
        there = one_grid.STUDY.cell(**about, length=TOKENS, learning_rate=RATE)
        here = cell("MovieReview", BUNDLED, arm)
        for seed, points in one_grid.STUDY.published(docs).runs.runs.get(there, {}).items():
            names = ("step", "tokens", "score", "gold_score", "kl")
            kept = points if seed in SEEDS else []
            rows += [{**here, "seed": seed, **{n: point[n] for n in names}} for point in kept]
    return rows


def config(run: Cell, out: Path) -> Comparison:
    """Return the comparison that a run is of."""
    own = run.model != BUNDLED
    return single_run(
        f"tokengym/{run.task}-v0",
        run.rule,
        updates=UPDATES,
        batch_size=ROWS,
        max_new_tokens=TOKENS,
        **{**LEARNER, "learning_rate": RATE},
        gae_lambda=float(run.gae_lambda),
        value_network=run.critic,
        n_warmup_updates=WARMUP,
        evaluation=GRID,
        task=TaskSettings(scorer=str(made(run.task, run.model, out))) if own else None,
        stream="run",
    )


# --- reward models --------------------------------------------------------------------------------


@cache
def responses(task: str) -> Sequence[Sequence[Episode]]:
    """Return the untrained policy's responses to each training prompt, scored by the bundled one.

    Args:
        task: Name of the task.
    """
    return written(task, "train", len(bundled(TASKS[task]).prompts("train")), RESPONSES)


def written(task: str, split: str, prompts: int, each: int) -> Sequence[Sequence[Episode]]:
    """Return so many responses of the untrained policy to each of the first prompts of a split."""
    env = f"tokengym/{task}-v0"
    lengths: dict[str, Any] = training_settings(env, max_new_tokens=TOKENS).lengths()
    envs: Any = gym.make_vec(env, num_envs=1, reward="sparse", split=split, **lengths)
    collector = ResponseCollector(envs, sampling=Sampling(n=each), max_rows=256)
    return collector.collect(make_policy(envs), range(prompts), seed=DRAW_SEED)


def ids_of(episode: Episode) -> list[int]:
    """Return the token ids of an episode's prompt and response."""
    return [*episode.prompt_ids, *episode.response_ids]


def gold_of(task: str, episodes: Sequence[Episode]) -> np.ndarray:
    """Return the gold score of responses, (responses,)."""
    judge = gold_scorer(bundled(TASKS[task]))
    assert judge is not None, task
    return judge.score(episodes).values


def pairs_of(task: str, groups: Sequence[Sequence[Episode]]) -> list[Pair]:
    """Return neighbours among the responses to a prompt as pairs of ids, the better by gold first.

    Args:
        task: Name of the task.
        groups: Responses to each prompt; a pair of equal gold is left out.
    """
    episodes = [episode for group in groups for episode in group]
    gold = gold_of(task, episodes)
    pairs = []
    for at in range(0, len(episodes), 2):
        if gold[at] != gold[at + 1]:
            better, worse = sorted((at, at + 1), key=lambda place: -gold[place])
            pairs.append((ids_of(episodes[better]), ids_of(episodes[worse])))
    return pairs


def made(task: str, model: str, out: Path) -> Path:
    """Return the folder of a reward model, which is made unless it is there.

    It learns from pairs, with the policy's weights to start from or, the narrow one, those of a
    language model of its own on the same responses. Its scores are then scaled and shifted, by its
    head and its last bias, to the mean and deviation of the bundled one's on the training
    responses: a nat costs the same part of a deviation by each.

    Args:
        task: Name of the task.
        model: Name of the reward model.
        out: Folder of the runs.
    """
    folder = out / "models" / f"{task}-{model}"
    if (folder / LEARNED).exists():
        return folder
    torch.set_num_threads(1)
    bundle, seed = bundled(TASKS[task]), 1 + MODELS.index(model)
    start = (
        narrow_language_model(task, seed)
        if model == NARROW
        else AutoModelForCausalLM.from_pretrained(bundle.policy).float()
    )
    network = reward_model_from(start, seed=seed)
    groups = responses(task)
    pairs, checked = pairs_of(task, groups[:-CHECKED]), pairs_of(task, groups[-CHECKED:])
    loss = partial(loss_of_pairs, pairs=pairs)
    if model in RATED:
        rated = [episode for group in groups[:-CHECKED] for episode in group]
        loss = partial(loss_of_rated, texts=[*map(ids_of, rated)], gold=gold_of(task, rated))
    steps = trained(network, loss, checked, target=TARGETS[model], seed=seed)
    scaled_as(network, [episode for group in groups for episode in group])
    network.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)
    learned = {"pairs": len(pairs)} if model not in RATED else {"responses": len(rated)}
    said = {**learned, "steps": steps, "checked": accuracy(network, checked)}
    write_json(folder / LEARNED, said)  # last, as it says that all is there
    return folder


def trained(
    network: Any,
    loss_of: Callable[[Any, torch.Generator], torch.Tensor],
    checked: Sequence[Pair],
    *,
    target: float,
    seed: int,
) -> int:
    """Train in place until an accuracy is reached, at the command's rate; return the steps.

    The rate rises over the first `CHECK_EVERY` steps and stays.

    Args:
        network: A classifier with one logit.
        loss_of: Returns the loss of a batch that it draws.
        checked: Pairs that say when to stop.
        target: Their accuracy at which it stops.
        seed: Seed of the batches.

    Raises:
        RuntimeError: if the target is not reached.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=AS_COMMAND["learning_rate"],
        weight_decay=AS_COMMAND["weight_decay"],
    )
    reached = 0.0
    for step in range(1, MOST_STEPS + 1):
        optimizer.param_groups[0]["lr"] = AS_COMMAND["learning_rate"] * min(1, step / CHECK_EVERY)
        optimizer.zero_grad(set_to_none=True)
        loss_of(network.train(), generator).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % CHECK_EVERY == 0 and (reached := accuracy(network.eval(), checked)) >= target:
            return step
    raise RuntimeError(
        f"the accuracy is {reached:.3f} after {MOST_STEPS} steps, less than {target}; lower it"
    )


def loss_of_pairs(
    network: Any, generator: torch.Generator, *, pairs: Sequence[Pair]
) -> torch.Tensor:
    """Return the loss of `tokengym train-reward` over some of the pairs, a scalar."""
    batch = [pairs[at] for at in choose(len(pairs), AS_COMMAND["batch_size"], generator)]
    scores = _scores(network, [text for pair in batch for text in pair])
    smoothing = AS_COMMAND["label_smoothing"]
    return bradley_terry_loss(scores[::2], scores[1::2], label_smoothing=smoothing).mean()


def loss_of_rated(
    network: Any, generator: torch.Generator, *, texts: Sequence[list[int]], gold: np.ndarray
) -> torch.Tensor:
    """Return the loss over all pairs of some responses of unlike gold, a scalar."""
    batch = choose(len(texts), TEXTS, generator)
    scores = _scores(network, [texts[at] for at in batch])
    return loss_over_all_pairs(scores, torch.tensor(gold[batch]))


def _scores(network: Any, texts: Sequence[list[int]]) -> torch.Tensor:
    """Return the scores of texts with their gradients, (texts,)."""
    ids, mask = pad_batch(texts, network.config.pad_token_id)
    return network(ids, attention_mask=mask).logits[:, 0]


def accuracy(network: Any, pairs: Sequence[Pair]) -> float:
    """Return the share of pairs whose better response has the higher score."""
    scores = reward_logits(network, [text for pair in pairs for text in pair])
    return float((scores[::2] > scores[1::2]).float().mean())


def narrow_language_model(task: str, seed: int) -> Any:
    """Return a narrow language model of the responses.

    Args:
        task: Name of the task.
        seed: Seed of the weights and of the batches.
    """
    tokenizer: Any = bundled(TASKS[task]).tokenizer
    texts = [ids_of(episode) for group in responses(task) for episode in group]
    language_model = new_language_model(tokenizer, ModelSize(width=WIDTH), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    train_language_model(language_model, texts, steps=LANGUAGE_STEPS, generator=generator)
    return language_model


@torch.no_grad()
def scaled_as(network: Any, episodes: Sequence[Episode]) -> None:
    """Give a reward model's scores the mean and deviation that the episodes' scores have.

    R = w . LN(h) with LN(h) = g * n(h) + b: w is scaled, and b moved along w.

    Args:
        network: A GPT-2 with a linear head without bias; it is changed in place.
        episodes: Responses with the scores that are wanted.
    """
    scores = np.array([episode.score for episode in episodes])
    texts = [ids_of(episode) for episode in episodes]
    weight, bias = network.score.weight, network.transformer.ln_f.bias
    weight *= float(scores.std()) / float(reward_logits(network, texts).std(correction=0))
    missing = float(scores.mean()) - float(reward_logits(network, texts).mean())
    bias += missing * weight[0] / (weight[0] @ weight[0])


# --- what the models are worth --------------------------------------------------------------------


@cache
def held_out(task: str) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """Return the untrained policy's responses to test prompts, and what they are worth.

    Args:
        task: Name of the task.

    Returns:
        Token ids with the prompt's; the bundled reward model's scores and the gold of each, both
        (prompts, drawn).
    """
    episodes = untrained_responses(f"tokengym/{task}-v0", TOKENS)
    gold = gold_of(task, episodes).reshape(-1, DRAWN)
    return [ids_of(episode) for episode in episodes], scores_of(episodes), gold


def judged(task: str, model: str, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a reward model's scores of `held_out` and the gold, both (prompts, drawn)."""
    texts, scores, gold = held_out(task)
    if model == BUNDLED:
        return scores, gold
    network = AutoModelForSequenceClassification.from_pretrained(made(task, model, out)).eval()
    return reward_logits(network, texts).numpy().astype(np.float64).reshape(-1, DRAWN), gold


def lines(task: str, model: str, out: Path) -> list[Row]:
    """Return what the best of n untrained responses has by a reward model, and by gold."""
    rows = best_of_rows(*judged(task, model, out))
    return [{"task": task, "model": model, **row} for row in rows]


def worth(task: str, model: str, out: Path) -> list[Row]:
    """Return how many pairs of responses to test prompts a reward model orders as gold does.

    Args:
        task: Name of the task.
        model: Name of the reward model.
        out: Folder of the runs.
    """
    score, gold = judged(task, model, out)
    by_gold, by_score = gold[:, ::2] - gold[:, 1::2], score[:, ::2] - score[:, 1::2]
    differ = by_gold != 0
    right = int(((by_gold * by_score) > 0)[differ].sum())
    about = {"task": task, "model": model, "right": right, "of": int(differ.sum())}
    about["correlation"] = round(float(np.corrcoef(score.ravel(), gold.ravel())[0, 1]), 4)
    about |= {"mean": round(float(score.mean()), 4), "deviation": round(float(score.std()), 4)}
    names = ("pairs", "responses", "steps")
    figures = {} if model == BUNDLED else read_json(made(task, model, out) / LEARNED)
    return [{**about, **{name: figures.get(name) for name in names}}]


def attended(task: str, model: str, out: Path) -> Row:
    """Return what a reward model's attention singles out in one response to each test prompt.

    Args:
        task: Name of the task.
        model: Name of the reward model.
        out: Folder of the runs.

    Returns:
        ``entropy`` of ABC's weights over that of uniform ones; ``on_opinions``, the attention on a
        token that gold counts in multiples of a uniform one; ``correlation`` of signed attention
        with what a token adds to gold, over all tokens.
    """
    bundle = bundled(TASKS[task])
    path = bundle.reward_model if model == BUNDLED else made(task, model, out)
    network: Any = AutoModelForSequenceClassification.from_pretrained(path).float().eval()
    episodes = [episode for (episode,) in written(task, "test", PROMPTS, 1)]
    gold, tokenizer = gold_scorer(bundle), bundle.tokenizer
    worth = None if gold is None else token_worth(gold, episodes, tokenizer)
    assert worth is not None, task
    added = np.concatenate(worth)
    starts = [len(episode.prompt_ids) for episode in episodes]
    rows = attention_rows(network, [ids_of(episode) for episode in episodes], starts)
    uniform = np.concatenate([np.full(len(row), 1 / len(row)) for row in rows])
    counts = added != 0
    signed = RewardModel(network).score(episodes, attribution="signed-attention").attributions
    assert signed is not None
    return {
        "task": task,
        "model": model,
        "entropy": round(relative_entropy(rows), 4),
        "on_opinions": round(np.concatenate(rows)[counts].sum() / uniform[counts].sum(), 4),
        "correlation": round(float(np.corrcoef(np.concatenate([*signed]), added)[0, 1]), 4),
    }


def attention(out: Out, docs: Docs = DOCS) -> None:
    """Measure what the attention singles out, after the runs.

    Args:
        out: Folder of the study's runs.
        docs: Folder of the study's page.
    """
    rows = [
        attended(task, model, out)
        for task in TASKS
        if all((out / "models" / f"{task}-{model}" / LEARNED).exists() for model in TARGETS)
        for model in MODELS
    ]
    write_rows(docs / STUDY.folder / ATTENTION, rows)


# --- page -----------------------------------------------------------------------------------------


def compared(
    runs: Runs, task: str, model: str, arm: str, base: str = "sparse"
) -> tuple[Points, Points]:
    """Return an arm's runs and those of another by the same reward model."""
    return runs.runs[cell(task, model, arm)], runs.runs[cell(task, model, base)]


def answer_table(runs: Runs, task: str = "MovieReview") -> str:
    """Return every arm's `leads` on `sparse` by the same reward model on a task, and its speed."""
    arms = [*ARMS][1:]
    pairs = {
        (model, arm): compared(runs, task, model, arm)
        for model, arm in product(MODELS, arms)
        if cell(task, model, arm) in runs.runs
    }
    texts = {
        key: "; ".join([*of, speed(*pairs[key])[0].partition(" ")[0]])
        for key, of in leads(pairs).items()
    }
    lines = [[model, *(texts.get((model, arm), NONE) for arm in arms)] for model in MODELS]
    return markdown_table(["reward model", *map(one_grid.short, arms)], lines)


def tables(published: Published) -> dict[str, str]:
    """Return the section's tables by name."""
    return {"models answer": answer_table(published.runs)}


def _drawn(file: str, folder: str, make: Any) -> Drawn:
    """Return what is drawn of each reward model, of film reviews first."""

    def part(task: str, model: str) -> str:
        return f"{folder}/{task}-{model}.csv"

    every = [(task, model) for task in TASKS for model in MODELS]
    parts = {part(task, model): partial(make, task, model) for task, model in every}
    return Drawn(
        file=file,
        parts=parts,
        text=("task", "model"),
        part_of=lambda row: part(row["task"], row["model"]),
    )


STUDY = Study(
    document="film_reviews.md",
    folder="film_reviews",
    runs="reward_models.csv",
    axes={"task": str, "model": str, "rule": str, "gae_lambda": str, "critic": "own"},
    rounds=rounds,
    config=config,
    beside=beside,
    tables=tables,
    first_rate=None,
    holm="table",
    drawn=(_drawn(WORTH, "worth", worth), _drawn(WAYS, "ways", lines)),
)

if __name__ == "__main__":
    command_line(__doc__, STUDY.run, STUDY.publish, STUDY.page, attention)
