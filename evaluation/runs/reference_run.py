"""The reference samples of a comparison: a run of its own, in a folder beside those of the rewards.

The launchers do it as they do the others, so that it is resumed, retried and shown alike.
"""

import time
from pathlib import Path
from typing import Any

from tokengym.envs.files import file_hash, locked, write_hashed
from tokengym.evaluation.measure.references import SAMPLES, ReferenceSamples, draw_references
from tokengym.evaluation.runs.config import ComparisonConfig, reference_run, run_folder
from tokengym.evaluation.runs.record import commit, hardware, read_result, versions
from tokengym.evaluation.runs.run import Report, make_evaluator, policy_kwargs, run


def lacks_references(config: ComparisonConfig, out: Path) -> bool:
    """Return whether a comparison's folder lacks reference samples that the settings ask for.

    A run that failed is not done again.
    """
    wanted = config.evaluation.reference_samples
    folder = run_folder(out, *reference_run(config))
    if not wanted or not (folder / "run.json").exists():
        return bool(wanted)
    result = read_result(folder)
    return result["status"] == "finished" and result.get("samples", 0) < wanted


def run_references(
    config: ComparisonConfig,
    out: Path,
    report: Report | None = None,
) -> ReferenceSamples:
    """Draw and score what is missing of a comparison's reference samples, and record them.

    Args:
        config: The comparison.
        out: Its folder.
        report: Told (progress in the unit of a run's steps, mean score and tokens so far).

    Raises:
        FolderInUseError: if another process does the same in the same folder.
        Exception: whatever the model or the scorer raises.
    """
    from tokengym.agents import PPO
    from tokengym.agents.policy.reference import reference_weights

    folder, wanted = run_folder(out, *reference_run(config)), config.evaluation.reference_samples
    began = time.perf_counter()

    def told(drawn: ReferenceSamples) -> None:
        if report is not None:
            share = min(drawn.scores.shape[1] / wanted, 1.0)
            seconds = time.perf_counter() - began
            point = {"score": drawn.scores.mean(), "tokens": drawn.tokens, "wall_s": seconds}
            report(round(share * config.training.last_step), point)

    with locked(folder), config.training.applied():
        (folder / "run.json").unlink(missing_ok=True)  # it has a hash of the samples so far
        evaluator = make_evaluator(config)
        start = PPO(  # as training starts: a model of fewer tokens is made to fit
            "CausalLMPolicy",
            evaluator.envs,
            advantage="reinforce",
            n_minibatches=1,
            policy_kwargs=policy_kwargs(config),
            seed=config.evaluation.seed,
            device=config.training.device,
        )
        policy = start.policy  # its adapters, which change nothing yet, let it share its backbone
        with reference_weights(policy.language_model, policy.reference):
            drawn = draw_references(evaluator, policy, wanted, file=folder / SAMPLES, told=told)
        evaluator.close()
        record = {
            "status": "finished",
            "samples": drawn.scores.shape[1],
            "tokens": drawn.tokens,
            "wall_s": round(time.perf_counter() - began, 3),
            "settings": config.as_dict(),
            "versions": versions(),
            "made": {"commit": commit(), "hardware": hardware()},
            "measured_by": evaluator.measured_by,
            "files": {SAMPLES: file_hash(folder / SAMPLES)},
        }
        write_hashed(folder / "run.json", record)
    return drawn


def run_or_references(
    config: ComparisonConfig,
    name: str,
    seed: int,
    *,
    out: Path,
    report: Report | None = None,
    **options: Any,
) -> None:
    """Do a run of a comparison, or that of its reference samples; see `run`."""
    if (name, seed) == reference_run(config):
        run_references(config, out, report)
    else:
        run(config, name, seed, out=out, report=report, **options)
