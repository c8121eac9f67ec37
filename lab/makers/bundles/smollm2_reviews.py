"""The reward model of the bundle smollm2-reviews: adapters that make SmolLM2 judge film reviews.

    python -m tokengym.lab.makers.bundles.smollm2_reviews TRAIN.parquet TEST.parquet OUT

trains it on one half of IMDb (columns ``text`` and ``label``, 1 positive) and measures it on the
other. Passages stand in the bundle's frame. The loss is the cross-entropy of the label at every
token from the eighth on, so that one forward pass trains fifty prefixes; pairs by their last token
alone had not begun to learn after 23 steps. About a quarter of an hour on a core.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

PROMPT_FORMAT = (
    "<|im_start|>user\nContinue this film review.<|im_end|>\n<|im_start|>assistant\n{prompt}"
)
"""Frame of an opening: the policy's turn begins with it, so that it continues the same sentence."""
TOKENS = 56
"""Tokens of a passage."""
FIRST = 8
"""Tokens of a passage that are read before it is judged."""
ENDED = 0.2
"""Share of the passages that end with EOS, after the last full stop within them."""
LAYERS = range(18, 30)
"""Blocks with adapters. The lower ones stay as they are, which saves two fifths of the time."""
RATE, BATCH, WARMUP = 1e-3, 16, 10
MEASURED_AT = (16, 24, 48)
"""Tokens at which accuracy is measured."""
SEED = 0

FILMS = (
    "this film", "the movie", "this drama", "the thriller", "the sequel", "this comedy",
    "the documentary", "this western", "the remake", "the horror film", "this musical",
    "the war film", "the pilot", "this short film", "the adaptation", "this animated film",
    "the crime film", "this road movie", "the director's first film", "the silent film",
)  # fmt: skip
BEGINNINGS = (
    "I saw {} last night and", "After two hours of {} I", "My sister and I watched {} and we",
    "What you notice first about {} is", "The second half of {}", "The acting in {} is",
    "Having read the book, I found {}", "The people who made {}", "If you ask me, {} is",
    "Nobody had told me that {}", "The last scene of {} made me", "When {} came out, I thought it",
    "The music of {} is", "For its budget, {}", "I have seen {} three times now and it",
    "The dialogue in {} sounds",
)  # fmt: skip
"""Openings of reviews, written for this bundle, that promise neither praise nor blame."""
HELD_OUT_FILMS = 4
"""Films at the end of the list whose openings are the test split."""


def openings() -> Iterator[tuple[str, str]]:
    """Yield the bundle's openings with their split; no film is in both."""
    for index, film in enumerate(FILMS):
        split = "test" if index >= len(FILMS) - HELD_OUT_FILMS else "train"
        for beginning in BEGINNINGS:
            text = beginning.format(film)
            yield text[0].upper() + text[1:], split


def passages(file: Path, tokenizer: Any, seed: int) -> Iterator[tuple[list[int], int]]:
    """Yield token ids of a passage in the frame, and its label; half of them are positive.

    Args:
        file: Reviews with their labels.
        tokenizer: The model's.
        seed: Seed of the order, and of the sentences that passages begin with.
    """
    import pandas as pd

    table = pd.read_parquet(file, columns=["text", "label"]).sample(frac=1.0, random_state=seed)
    rng = np.random.default_rng(seed)
    frame = tokenizer(PROMPT_FORMAT.format(prompt=""), add_special_tokens=False)["input_ids"]
    kinds = [iter(table.text[table.label == label]) for label in (0, 1)]
    for index in range(len(table)):
        label = index % 2
        if (text := next(kinds[label], None)) is None:
            return
        flat = " ".join(text.split())
        starts = [0, *(i + 2 for i in range(len(flat) - 300) if flat[i : i + 2] in (". ", "! "))]
        passage = flat[starts[rng.integers(len(starts))] :][:600]
        ids = tokenizer(passage)["input_ids"][:TOKENS]
        if rng.random() < ENDED:
            stops = [i for i, token in enumerate(ids) if tokenizer.decode([token]) == "."]
            if stops and stops[-1] > FIRST:
                ids = [*ids[: stops[-1] + 1][: TOKENS - 1], tokenizer.eos_token_id]
        yield [*frame, *ids], label


def batches(rows: Iterator[tuple[list[int], int]], start: int, pad: int) -> Iterator[Any]:
    """Yield ids (batch, time), labels (batch,), and the mask of judged tokens (batch, time)."""
    while True:
        chosen = [row for _, row in zip(range(BATCH), rows, strict=False)]
        if len(chosen) < BATCH:
            return
        width = max(len(ids) for ids, _ in chosen)
        ids = torch.full((BATCH, width), pad)
        mask = torch.zeros(BATCH, width, dtype=torch.bool)
        for row, (tokens, _) in enumerate(chosen):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, start : len(tokens)] = True
        yield ids, torch.tensor([float(label) for _, label in chosen]), mask


def scores(classifier: Any, ids: Tensor) -> Tensor:
    """Return the head's logit at every token, (batch, time); padding stands to the right."""
    return classifier.score(classifier.model(input_ids=ids, use_cache=False)[0])[..., 0]


def main(
    train: tyro.conf.Positional[Path],
    test: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    model: str = "smollm2",
    steps: int = 250,
    stop: int = 156,
    held_out: int = 320,
) -> None:
    """Train the reward model and store its adapters, head and figures.

    Args:
        train: Reviews to train on.
        test: Reviews to measure on.
        out: Folder to write.
        model: Language model whose trunk it reads.
        steps: Gradient steps of the schedule of the rate.
        stop: Steps after which training ends; the loss no longer fell.
        held_out: Passages to measure on.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=1, dtype=torch.float32
    )
    base.config.pad_token_id = tokenizer.pad_token_id
    base.score.weight.data.zero_()
    adapted = get_peft_model(
        base,
        LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=["q_proj", "v_proj", "o_proj"],
            layers_to_transform=list(LAYERS),
            task_type="SEQ_CLS",
        ),
    )
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    frame = len(tokenizer(PROMPT_FORMAT.format(prompt=""), add_special_tokens=False)["input_ids"])
    options = {"start": frame + FIRST, "pad": tokenizer.pad_token_id}
    data = batches(passages(train, tokenizer, SEED), **options)
    for step, (ids, labels, mask) in zip(range(stop), data, strict=False):
        rate = RATE * min((step + 1) / WARMUP, 0.5 + 0.5 * np.cos(np.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate
        logits = scores(base, ids)[mask]
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, labels[:, None].expand_as(mask)[mask]
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        print(f"{step + 1}/{steps} {loss.item():.3f}", flush=True)
    base.requires_grad_(False).eval()
    adapted.save_pretrained(str(out))
    whole = (row for row in passages(test, tokenizer, 10) if len(row[0]) == frame + TOKENS)
    right = []
    with torch.no_grad():
        for ids, labels, _ in islice(batches(whole, **options), held_out // BATCH):
            read = scores(base, ids)[:, [frame + n - 1 for n in MEASURED_AT]]
            right.append((read > 0) == labels[:, None].bool())
    accuracies = torch.cat(right).float().mean(0).tolist()
    figures = {f"accuracy_{n}": a for n, a in zip(MEASURED_AT, accuracies, strict=True)}
    (out / "figures.json").write_text(
        json.dumps({**figures, "held_out": held_out}, indent=1) + "\n"
    )
    print(figures)


if __name__ == "__main__":
    tyro.cli(main)
