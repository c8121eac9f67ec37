"""SFT and DPO on pairs that people made: Anthropic's HH-RLHF, a tiny model trained from scratch.

The harmless-base test file has 2,312 pairs. The language model is the one that the study
``reward_training`` trains on the same training side, which ``--seed`` and the held-out share fix.

    python -m tokengym.scripts.studies.hh_preferences run --pairs harmless-base-test.jsonl.gz
        --model runs/reward/hh-language_model-0 --seed 0 --out runs/hh
    python -m tokengym.scripts.studies.hh_preferences report --out runs/hh --docs docs/results
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokengym.agents import DPO, SFT
from tokengym.agents.offline.encoding import TextEncoding
from tokengym.envs.files import read_json, write_json
from tokengym.evaluation.statistics import RELIABLE_SEEDS
from tokengym.rewards import read_pairs
from tokengym.rewards.pairs import split_pairs
from tokengym.scripts.studies.tables import fill, iqm_with_interval, markdown_table

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


def run(pairs_file: Path, model: Path, seed: int, out: Path) -> None:
    """Fine-tune on the chosen responses, then DPO from there; measure before and after each."""
    torch.set_num_threads(1)
    found = read_pairs(pairs_file, on_error="skip")
    pairs = found.select(np.random.default_rng(seed).permutation(len(found)).tolist())
    train, held_out = (pairs.select(places) for places in split_pairs(pairs, HELD_OUT))
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
    found = dpo.evaluate()
    found |= dpo.state.log_history[-1]
    return {
        "accuracy": found["eval_rewards/accuracies"],
        "loss": found["eval_loss"],
        "margin": found["eval_rewards/margins"],
    }


def _loss_of_chosen(dpo: DPO, sft: SFT) -> float:
    """Return what DPO left of the likelihood of chosen responses."""
    weights = dpo.policy.language_model.state_dict()
    sft.policy.language_model.load_state_dict(weights)
    return float(sft.evaluate()["eval_loss"])


def report(out: Path, docs: Path) -> None:
    """Write the table of all seeds into the document."""
    runs = [read_json(file) for file in sorted(out.glob("seed-*.json"))]
    lines = []
    for name, meaning in MEASURES.items():
        cells = [meaning]
        for stage in ("before", "sft", "dpo"):
            values = [run[stage].get(name) for run in runs]
            if any(value is None for value in values):
                cells.append("")
                continue
            if len(runs) < RELIABLE_SEEDS:  # too few for an interval
                cells.append(f"{np.mean(values):.3f}")
                continue
            cells.append(iqm_with_interval(np.array(values)))
        lines.append(cells)
    head = ["", "language model", "after SFT", "after DPO"]
    fill(docs / "preferences.md", {"hh": markdown_table(head, lines)})


def main() -> None:
    """Read the command line and do as it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    if arguments.command == "report":
        report(arguments.out, arguments.docs)
        return
    if arguments.pairs is None or arguments.model is None:
        parser.error("run needs --pairs FILE and --model FOLDER")
    run(arguments.pairs, arguments.model, arguments.seed, arguments.out)


if __name__ == "__main__":
    main()
