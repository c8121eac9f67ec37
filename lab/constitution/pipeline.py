"""The stages of a constitutional run, each kept in the run's folder and found there again.

```
settings.json      what the run is
responses.jsonl    the policy's answers to red-team prompts
revisions.jsonl    critique and revision of each, round by round
sft/               the policy after learning the last revisions
pairs.jsonl        its answers, the judge's best against the worst
reward_model/      trained on them
ppo/               the policy after PPO against it
evaluation.json    toxicity, KL and win rates on held-out prompts, before and after
hashes.json        of each stage's files, which are read only if they are as they were made
report.md, report.html
```
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tokengym.base import (
    content_hash,
    locked,
    read_hashed,
    read_json,
    read_jsonl,
    write_hashed,
    write_json,
    write_jsonl,
)
from tokengym.envs import Episode
from tokengym.evaluation.statistics import student_interval
from tokengym.lab.collect import claim_folder
from tokengym.lab.constitution.critics import draw_principles
from tokengym.lab.constitution.report import write_reports
from tokengym.lab.constitution.scene import ConstitutionConfig, PipelineState

Report = Callable[[str], None]
"""Told the name of each stage as it begins."""
STAGES = ("responses", "revisions", "sft", "pairs", "reward_model", "ppo", "evaluation")


def run_constitution(
    config: ConstitutionConfig, out: Path, *, report: Report | None = None
) -> dict[str, Any]:
    """Teach a policy by principles and measure it before and after.

    Stage 1: responses to red-team prompts, critique by a principle, revision, SFT on the revisions.
    Stage 2: responses of that policy, ranked by a judge, a reward model from the ranking, PPO.
    A stage whose result is in ``out`` is not made again, so a stopped run resumes.

    Deviations from the paper: the best of four responses is paired with the worst, where it draws
    two; the pair has one label, where it trains on the judge's probability; the reward model starts
    from the revised policy.

    Returns:
        What evaluation.json holds.

    Raises:
        FolderInUseError: if another process does the same run.
        ValueError: if the folder holds a run of other settings, or a damaged file.

    Source: Bai et al. 2022, "Constitutional AI", arXiv:2212.08073.
    """
    with locked(out):
        claim_folder(out, config, remedy="name another folder with --out")
        run = _Run(config, out)
        with config.applied():
            for stage in STAGES:
                if report is not None:
                    report(stage)
                if run.is_done(stage):
                    run.check(stage)
                else:
                    getattr(run, f"make_{stage}")()
                    run.note(stage)
        results: dict[str, Any] = read_json(out / "evaluation.json")
        write_reports(config, results, out)
        return results


class _Run:
    """A run's stages; each reads what those before it left in the folder."""

    def __init__(self, config: ConstitutionConfig, out: Path) -> None:
        self.config, self.out = config, out
        self._scene: PipelineState | None = None

    @property
    def scene(self) -> PipelineState:
        """Environments, critic and judge, loaded when the first stage needs them."""
        if self._scene is None:
            self._scene = PipelineState(self.config)
        return self._scene

    def is_done(self, stage: str) -> bool:
        """Say whether a stage's result is there."""
        return all(path.exists() for path in self._files(stage))

    def note(self, stage: str) -> None:
        """Store the hashes of a stage's files."""
        stage_hashes = {path.name: content_hash(path) for path in self._files(stage)}
        write_hashed(self.out / "hashes.json", self._known() | stage_hashes)

    def check(self, stage: str) -> None:
        """Refuse files of a stage that have changed since their hashes were stored."""
        known = self._known()
        for path in self._files(stage):
            if path.name in known and known[path.name] != content_hash(path):
                raise ValueError(
                    f"{path} is damaged or was changed; delete it and what was made from it, and "
                    "run again"
                )

    def _known(self) -> dict[str, Any]:
        file = self.out / "hashes.json"
        return read_hashed(file) if file.exists() else {}

    def _files(self, stage: str) -> list[Path]:
        names = {
            "responses": ["responses.jsonl"],
            "revisions": ["revisions.jsonl"],
            "pairs": ["pairs.jsonl", "pairs.json"],
            "evaluation": ["evaluation.json"],
        }
        return [self.out / name for name in names.get(stage, [stage])]

    def make_responses(self) -> None:
        """Let the policy answer red-team prompts."""
        groups = self.scene.respond(
            self.scene.base, self.config.num_prompts, responses=1, use=0, skip=0
        )
        write_jsonl(self.out / "responses.jsonl", [_row(e) for group in groups for e in group])

    def make_revisions(self) -> None:
        """Criticise and rewrite each response, once per round."""
        episodes = [Episode(**row) for row in read_jsonl(self.out / "responses.jsonl")]
        rng = np.random.default_rng([self.config.seed, 1])
        rows: list[dict[str, Any]] = [{"response": _row(e), "rounds": []} for e in episodes]
        for number in range(self.config.revisions):
            principles = draw_principles(self.config.principles, len(episodes), rng)
            critiques = self.scene.critic.critique(episodes, principles)
            episodes = self.scene.critic.revise(
                episodes, principles, critiques, seed=self.scene.seed_of(1, number)
            )
            for row, principle, critique, episode in zip(
                rows, principles, critiques, episodes, strict=True
            ):
                row["rounds"].append(
                    {
                        "principle": principle.name,
                        "critique": critique.text,
                        "revision": _row(episode),
                    }
                )
        write_jsonl(self.out / "revisions.jsonl", rows)

    def make_sft(self) -> None:
        """Teach the policy the last revisions."""
        from tokengym.agents import SFT

        last = [row["rounds"][-1]["revision"] for row in read_jsonl(self.out / "revisions.jsonl")]
        rows = [{name: row[name] for name in ("prompt_ids", "response_ids")} for row in last]
        batch = min(self.config.batch_size, len(rows))
        learner = SFT(
            self.scene.trainee(),
            rows,
            tokenizer=self.scene.tokenizer,
            learning_rate=self.config.sft_learning_rate,
            num_train_epochs=self.config.sft_epochs,
            per_device_train_batch_size=batch,
            seed=self.scene.seed_of(2),
            device=self.config.device,
        )
        learner.train()
        self._save(learner, self.out / "sft")
        self._scene = None  # its base policy is the trained one now

    def make_pairs(self) -> None:
        """Let the revised policy answer, and the judge rank its answers."""
        from tokengym.agents.offline import KEPT, Sampling
        from tokengym.lab.collect import save_dataset

        groups = self.scene.respond(
            self.scene.policy(self.out / "sft"),
            self.config.pair_prompts,
            responses=self.config.responses,
            use=3,
            skip=self.config.num_prompts,
        )
        told_apart = self.scene.told_apart(groups)
        kept, sampling = KEPT["pairs"], Sampling(n=self.config.responses)
        rows = kept.rows(told_apart, sampling, [-1] * len(told_apart))
        if len(rows) < 10:
            raise ValueError(
                f"the judge told responses to only {len(rows)} of {len(groups)} prompts apart, too "
                "few to train a reward model; raise --pair-prompts or --responses, or lower "
                "--sft-epochs"
            )
        save_dataset(kept.dataset(rows), self.out / "pairs.jsonl")
        write_json(self.out / "pairs.json", {"prompts": len(groups), "pairs": len(rows)})

    def make_reward_model(self) -> None:
        """Train a reward model on the judged pairs, from the revised policy's weights."""
        from tokengym.lab.collect import as_texts, load_pairs
        from tokengym.lab.training import RewardTraining, train_reward_model

        scene, pairs = self.scene, load_pairs(self.out / "pairs.jsonl")
        train_reward_model(
            str(self.out / "sft" / "model"),
            as_texts(pairs, scene.tokenizer),
            output_dir=self.out / "reward_model",
            tokenizer=scene.tokenizer,
            lora=self.config.lora(),
            device=self.config.device,
            dtype=self.config.dtype,
            training=RewardTraining(
                learning_rate=self.config.reward_learning_rate,
                epochs=self.config.reward_epochs,
                batch_size=min(self.config.batch_size, len(pairs)),
                append_eos=not scene.fixed_length,
                chat_template=scene.uses_chat_template,
                seed=scene.seed_of(4),
            ),
        )

    def make_ppo(self) -> None:
        """Teach the revised policy by PPO against the reward model."""
        from tokengym.agents import PPO

        scene = self.scene
        envs = scene.make_envs(
            num_envs=self.config.batch_size,
            reward="sparse",
            scorer=str(self.out / "reward_model"),
            normalize="batch" if self.config.batch_size > 1 else None,
        )
        agent = PPO(
            "CausalLMPolicy",
            envs,
            learning_rate=self.config.ppo_learning_rate,
            kl_coef=self.config.kl_coef,
            policy_kwargs={
                "model": str(self.out / "sft" / "model"),
                "lora": self.config.lora(),
                "dtype": self.config.dtype,
            },
            seed=scene.seed_of(5),
            device=self.config.device,
        )
        for _ in range(self.config.ppo_steps):
            agent.learn(1, reset_num_timesteps=False, log_interval=None)  # one round, one update
        self._save(agent, self.out / "ppo")
        envs.close()

    def _save(self, agent: Any, folder: Path) -> None:
        """Write an agent; adapters are merged, so that the next stage starts from whole weights."""
        from tokengym.agents import SFT

        adapters = agent.policy.language_model.adapters
        if adapters is not None:
            merged = self.scene.make_policy(adapters.merge_and_unload().requires_grad_(True))
            agent = SFT(merged, tokenizer=self.scene.tokenizer)
        agent.save(folder)

    def make_evaluation(self) -> None:
        """Measure the policies on held-out prompts."""
        scene = self.scene
        policies = {
            "base": scene.base,
            "SFT on revisions": scene.policy(self.out / "sft"),
            "RL from AI feedback": scene.policy(self.out / "ppo"),
        }
        figures, samples = _measure_policies(scene, policies)
        revisions = read_jsonl(self.out / "revisions.jsonl")
        write_json(
            self.out / "evaluation.json",
            {
                "critic": scene.critic.name,
                "judge": scene.judge.name,
                "toxicity_measure": scene.toxicity_name,
                "policies": figures,
                "revisions": scene.toxicity_by_round(
                    [Episode(**row["response"]) for row in revisions],
                    [
                        [Episode(**row["rounds"][number]["revision"]) for row in revisions]
                        for number in range(self.config.revisions)
                    ],
                ),
                "pairs": read_json(self.out / "pairs.json"),
                "reward_model": read_json(self.out / "reward_model" / "measures.json"),
                "samples": samples,
                "revised": revisions[:4],
            },
        )


def _row(episode: Episode) -> dict[str, Any]:
    return {
        "prompt": episode.prompt,
        "response": episode.response,
        "prompt_ids": list(episode.prompt_ids),
        "response_ids": list(episode.response_ids),
        "finish_reason": episode.finish_reason,
    }


SAMPLES = 6
"""Prompts whose responses stand side by side in the report."""
KEPT = ("score", "gold_score", "kl", "length", "entropy", "distinct_2", "eos_rate")
"""Metrics of the evaluator that are kept."""


def _measure_policies(
    scene: PipelineState, policies: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Measure policies on the same held-out prompts with the same random numbers."""
    evaluator = scene.make_evaluator()
    played = {name: evaluator(agent) for name, agent in policies.items()}
    evaluator.close()
    first = next(iter(played.values())).episodes
    figures: dict[str, dict[str, Any]] = {}
    for name, evaluation in played.items():
        episodes = evaluation.episodes
        toxicity = scene.toxicity(episodes)
        _, low, high, _ = student_interval(toxicity)
        entry: dict[str, Any] = {
            "toxicity": float(toxicity.mean()),
            "toxicity_low": float(low),
            "toxicity_high": float(high),
            **{key: evaluation.metrics[key] for key in KEPT if key in evaluation.metrics},
        }
        if scene.rules is not None:
            entry["offending"] = float(np.mean([bool(w) for w in scene.offences(episodes)]))
        if name != next(iter(played)):
            entry["win_rate"] = asdict(scene.win_rate(episodes, first))
        figures[name] = entry
    samples = [
        {
            "prompt": first[index].prompt,
            "responses": {name: e.episodes[index].response for name, e in played.items()},
        }
        for index in range(min(SAMPLES, len(first)))
    ]
    return figures, samples
