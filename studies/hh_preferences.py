"""SFT and DPO on pairs that people made: Anthropic's HH-RLHF, a tiny model trained from scratch.

The harmless-base test file has 2,312 pairs. The language model is the one that the study
``reward_training`` trains on the same training side, which ``--seed`` and the held-out share fix.

    python -m studies.hh_preferences run --pairs harmless-base-test.jsonl.gz
        --model runs/reward/hh-language_model-0 --seed 0 --out runs/hh
    python -m studies.hh_preferences report --out runs/hh --docs docs/results
"""

from pathlib import Path
from typing import Any

import numpy as np

from studies.cells import DOCS, Docs, Out, command_line
from studies.tables import fill, iqm_with_interval, markdown_table
from tokengym.agents import DPO, SFT
from tokengym.base.files import read_json, write_json
from tokengym.evaluation.statistics import RELIABLE_SEEDS
from tokengym.rewards import read_pairs
from tokengym.rewards.pairs import split_pairs
from tokengym.rewards.pairs.encode import TextEncoding

HELD_OUT = 0.2
"""Share of the prompts, as in ``reward_training``."""
LONGEST = 192
"""Tokens; longer dialogues lose their beginning."""
SFT_RATE, DPO_RATE, BATCH = 3e-4, 1e-4, 16
MEASURES = {
    "sft_loss": "nats per token of held-out chosen responses",
    "accuracy": "held-out pairs in the right order",
    "loss": "DPO loss on held-out pairs (log 2 = 0.693)",
    "margin": "margin of the implied rewards",
}


def run(pairs: Path, model: Path, out: Out, seed: int = 0) -> None:
    """Fine-tune on the chosen responses, then DPO from there; measure before and after each.

    Args:
        out: Folder of the study's runs.
        pairs: File of preference pairs.
        model: Folder of the language model.
        seed: Seed of the split and of both trainings.
    """
    all_pairs = read_pairs(pairs, on_error="skip")
    chosen = all_pairs.select(np.random.default_rng(seed).permutation(len(all_pairs)).tolist())
    train, held_out = (chosen.select(places) for places in split_pairs(chosen, HELD_OUT))
    encoding = TextEncoding(max_length=LONGEST, overlong="left", on_error="skip")
    shared: dict[str, Any] = {
        "encoding": encoding,
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "seed": seed,
    }
    sft = SFT(
        str(model), _texts(train), eval_texts=_texts(held_out), learning_rate=SFT_RATE, **shared
    )
    results: dict[str, Any] = {"pairs": len(train), "held_out": len(held_out), "before": {}}
    results["before"]["sft_loss"] = sft.evaluate()["eval_loss"]
    sft.train()
    results["sft"] = {"sft_loss": sft.evaluate()["eval_loss"]}
    dpo = DPO(
        sft.policy.language_model.model,
        list(train),
        eval_pairs=list(held_out),
        tokenizer=sft.tokenizer,
        learning_rate=DPO_RATE,
        **shared,
    )
    results["sft"]["loss"] = _measured(dpo)["loss"]
    dpo.train()
    results["dpo"] = _measured(dpo) | {"sft_loss": _loss_of_chosen(dpo, sft)}
    write_json(out / f"seed-{seed}.json", results)
    print(results)


def _texts(pairs: Any) -> list[dict[str, str]]:
    return [{"prompt": pair.prompt, "completion": pair.chosen} for pair in pairs]


def _measured(dpo: DPO) -> dict[str, float]:
    metrics = dpo.evaluate()
    metrics |= dpo.state.log_history[-1]
    return {
        "accuracy": metrics["eval_rewards/accuracies"],
        "loss": metrics["eval_loss"],
        "margin": metrics["eval_rewards/margins"],
    }


def _loss_of_chosen(dpo: DPO, sft: SFT) -> float:
    """Return what DPO left of the likelihood of chosen responses."""
    weights = dpo.policy.language_model.state_dict()
    sft.policy.language_model.load_state_dict(weights)
    return float(sft.evaluate()["eval_loss"])


def _cell(values: list[float | None]) -> str:
    """Return a measure over seeds, with an interval where there are seeds enough for one."""
    if any(value is None for value in values):
        return ""
    if len(values) < RELIABLE_SEEDS:
        return f"{np.mean(np.array(values, dtype=float)):.3f}"
    return iqm_with_interval(np.array(values))


def report(out: Out, docs: Docs = DOCS) -> None:
    """Write the table of all seeds into the document."""
    runs = [read_json(file) for file in sorted(out.glob("seed-*.json"))]
    stages = {"before": "language model", "sft": "after SFT", "dpo": "after DPO"}
    lines = [
        [meaning, *(_cell([run[stage].get(name) for run in runs]) for stage in stages)]
        for name, meaning in MEASURES.items()
    ]
    fill(docs / "preferences.md", {"hh": markdown_table(["", *stages.values()], lines)})


if __name__ == "__main__":
    command_line(__doc__, run, report)
