"""Learning from preferences in iterations: respond, rank, train, and respond with the result."""

import hashlib
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

from tokengym.agents import (
    DPO,
    SFT,
    CheckpointError,
    PlaysPolicy,
    TrainingRun,
    Update,
    takes_no_policy_name,
)
from tokengym.agents.offline import (
    KEPT,
    OfflineTrainer,
    ResponseCollector,
    arithmetic_of,
    best_episode,
    make_policy,
    prompt_order,
)
from tokengym.agents.rollouts import Environments
from tokengym.base import accepts_settings, from_keywords, read_json, to_json, write_json
from tokengym.envs import Episode
from tokengym.lab.collect import save_dataset
from tokengym.lab.learners.settings import IterativeSettings, OnlineDPOSettings, RAFTSettings
from tokengym.lab.scorers.preference_model import WinRateScorer
from tokengym.lab.training.results import hash_weights
from tokengym.rewards import Scorer

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig

logger = logging.getLogger(__name__)
Self = TypeVar("Self", bound="IterativeLearner")

RECORD = "iteration.json"
SETTINGS = "settings.json"
RUN = "run.json"
MEASURED = "measured.json"
NUM_PROBES = 4
"""Greedy responses by which another model or scorer is told."""


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """Figures of one iteration."""

    number: int
    """Position of the iteration, from 1."""
    prompts: int
    """Prompts answered."""
    rows: int
    """Pairs, or responses, trained on; fewer than prompts where responses tied."""
    score: float
    """Mean score of all responses, before learning from them; 1/2 for mean win rates."""
    kept_score: float
    """Mean score of the chosen ones; NaN if there were none."""
    loss: float
    """Mean training loss; NaN if there was nothing to learn from."""
    tokens_sampled: int
    """Response tokens sampled so far, all iterations."""
    tokens_trained: int
    """Response tokens that carried loss so far, each as often as it was passed over."""

    @property
    def tokens(self) -> int:
        """Response tokens processed so far: sampled, and trained on."""
        return self.tokens_sampled + self.tokens_trained


class IterativeLearner(PlaysPolicy):
    """Answers prompts, keeps the responses a scorer prefers, learns from them, and repeats.

    The reference stays the policy that the first iteration began with; each iteration starts from
    the weights of the one before. With ``output_dir`` every iteration leaves a folder with its
    data, the policy and its record, and `learn` continues after the last complete one. Each
    iteration has a seed of its own, so a resumed run ends with the same weights.

    Args:
        env: Environment with the prompts, the rules, and the reward's scorer unless one is given.
            It is not stepped.
        model: Path, hub name or model; None takes the environment's bundled one.
        scorer: Ranks the responses; None takes the environment's scorer, not normalised.
        lora: A ``peft.LoraConfig`` to train adapters only; the reference is then the model without.
        dtype, precision, products: See `tokengym.agents.offline.dpo.DPO`.
        output_dir: Folder of the iterations; None keeps nothing.
        max_rows: Most responses written at a time.
        seed: Seed of prompts, sampling and shuffling.
        device: "auto" takes a GPU if there is one.
        settings: Fields of the learner's settings, see `tokengym.lab.learners.settings`.
    """

    settings_class: ClassVar[type[IterativeSettings]] = IterativeSettings
    learner: ClassVar[type[OfflineTrainer]]
    """What learns in an iteration, `DPO` or `SFT`."""

    @takes_no_policy_name("(envs): its policy is made of the environment's model")
    def __init__(
        self,
        env: Environments,
        model: str | Path | PreTrainedModel | None = None,
        *,
        scorer: Scorer | None = None,
        lora: "LoraConfig | None" = None,
        dtype: str = "auto",
        precision: Literal["full", "bf16-mixed"] = "full",
        products: Literal["torch", "onednn"] = "torch",
        output_dir: str | Path | None = None,
        max_rows: int = 256,
        seed: int = 0,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        self.settings = from_keywords(self.settings_class, settings, owner=type(self).__name__)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.seed = seed
        self.device = device
        if self.settings.preference_model is not None:
            if scorer is not None:
                raise ValueError("pass scorer or preference_model, not both: each would rank")
            ranker = self.settings.preference_model
            scorer = WinRateScorer.from_pretrained(ranker, device=device)
        self.collector = ResponseCollector(
            env, scorer=scorer, sampling=self.settings.sampling, max_rows=max_rows
        )
        if self.settings.enhancer == "disagreement" and not self.collector.scorer.disagrees:
            raise ValueError(
                f"enhancer='disagreement' needs a scorer with several heads, got "
                f"{self.collector.scorer.name!r}; train a reward model with --heads 4"
            )
        self.policy = make_policy(
            env,
            model,
            lora=lora,
            dtype=dtype,
            precision=precision,
            products=products,
            seed=seed,
            device=device,
        )
        self.history: list[Iteration] = []
        """Figures of each iteration."""
        self._older = self._weights()

    def __init_subclass__(cls) -> None:
        """Show the learner's settings in its signature."""
        super().__init_subclass__()
        show: Any = accepts_settings(cls.settings_class)
        shown = show(partial(IterativeLearner.__init__, None))  # type: ignore[arg-type]
        cls.__signature__ = shown.__signature__  # type: ignore[attr-defined]

    @property
    def tokens_sampled(self) -> int:
        """Response tokens sampled so far."""
        return self.history[-1].tokens_sampled if self.history else 0

    @property
    def tokens_trained(self) -> int:
        """Response tokens that carried loss so far."""
        return self.history[-1].tokens_trained if self.history else 0

    def learn(
        self: Self, iterations: int = 3, callback: Callable[[Self, Iteration], None] | None = None
    ) -> Self:
        """Continue until that many iterations are complete, those of an earlier run included.

        Args:
            iterations: Iterations in all.
            callback: Called after each iteration made by this call.

        Returns:
            The agent itself.
        """
        self.resume(iterations)
        while len(self.history) < iterations:
            iteration = self.iterate()
            if callback is not None:
                callback(self, iteration)
        return self

    def iterate(self) -> Iteration:
        """Respond, rank and learn once."""
        number, count = len(self.history) + 1, self.settings.prompts_per_iteration
        folder = None if self.output_dir is None else _folder(self.output_dir, number)
        prompts = prompt_order(
            len(self.collector.prompts), count, seed=self.seed, skip=(number - 1) * count
        )
        before = self.collector.num_tokens
        groups = self.respond(prompts, self._seed_of(number, 0))
        sampled = self.collector.num_tokens - before
        kept = KEPT[self.learner.learns_from]
        rows = kept.rows(groups, self.settings.sampling, prompts)
        if folder is not None:
            save_dataset(kept.dataset(rows), folder / f"{self.learner.learns_from}.jsonl")
        loss, trained = float("nan"), 0
        self._older = self._weights()
        if rows:
            loss, trained = self.improve(rows, self._seed_of(number, 1))
        else:
            logger.warning("iteration %d: all responses tie, nothing was learned", number)
        scores = np.array([e.score for group in groups for e in group], dtype=np.float64)
        kept_scores = [row[kept.score] for row in rows]
        iteration = Iteration(
            number=number,
            prompts=len(prompts),
            rows=len(rows),
            score=float(np.mean(scores)) if len(scores) else float("nan"),
            kept_score=float(np.mean(kept_scores)) if rows else float("nan"),
            loss=loss,
            tokens_sampled=self.tokens_sampled + sampled,
            tokens_trained=self.tokens_trained + trained,
        )
        self.history.append(iteration)
        if folder is not None:
            self.save(folder / "agent")
            write_json(folder / RECORD, asdict(iteration))
        return iteration

    def respond(self, prompts: Sequence[int], seed: int) -> list[tuple[Episode, ...]]:
        """Return the scored responses to each prompt, half of them by the enhancer, if any."""
        settings, collector = self.settings, self.collector
        if settings.enhancer == "temperatures":
            return collector.collect(self.policy, prompts, seed=seed)
        generator, half = torch.Generator().manual_seed(seed), settings.sampling.n // 2
        main = collector.write(self.policy, prompts, generator, n=half)
        if settings.enhancer == "checkpoint":
            now = self._weights()
            self._set_weights(self._older)
            other = collector.write(self.policy, prompts, generator, n=half)
            self._set_weights(now)
        else:
            other = self._best_candidates(prompts, generator, half)
        return collector.score([a + b for a, b in zip(main, other, strict=True)])

    def _best_candidates(
        self, prompts: Sequence[int], generator: torch.Generator, count: int
    ) -> list[tuple[Episode, ...]]:
        """Return responses to each prompt, of which each is the best of several candidates.

        By "disagreement", each is the one that the scorer is least sure of. RLHF Workflow's
        enhancer (section 3.2) maximises uncertainty within a distance of the policy; here the
        heads' standard deviation is the uncertainty, of each response by itself, and best-of-n's
        KL the distance.
        """
        size, unsure = self.settings.enhancer_candidates, self.settings.enhancer == "disagreement"
        drawn = self.collector.write(self.policy, prompts, generator, n=count * size)
        sets = [group[k : k + size] for group in drawn for k in range(0, len(group), size)]
        penalty = self.settings.sampling.length_penalty
        best = [
            [max(scored, key=_disagreement) if unsure else best_episode(scored, penalty)]
            if scored
            else []
            for scored in self.collector.score(sets)
        ]
        return [tuple(chain.from_iterable(best[k : k + count])) for k in range(0, len(best), count)]

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the weights that learn, where the enhancer needs it."""
        if self.settings.enhancer != "checkpoint":
            return {}
        named = self.policy.language_model.named_parameters()
        return {name: p.detach().cpu().clone() for name, p in named if p.requires_grad}

    def _set_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.policy.language_model.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])

    def trainer(self, rows: "Dataset | None" = None, **arguments: Any) -> Any:
        """Return the trainer of an iteration, which also writes the policy to a folder.

        Args:
            rows: The data set; None to learn nothing.
            arguments: Further ones of `DPO` or `SFT`.
        """
        make: Any = self.learner
        return make(self.policy, rows, **self.trainer_arguments(), **arguments)

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the arguments of the trainer that are the same in every iteration."""
        return {
            "tokenizer": self.collector.chosen.tokenizer,
            "ref_model": self.policy,  # of every iteration the one that training began at
            "temperature": self.policy.temperature,
            "device": self.device,
        }

    def improve(self, rows: Sequence[dict[str, Any]], seed: int) -> tuple[float, int]:
        """Train the policy.

        Returns:
            The mean loss, and the response tokens that carried it.
        """
        arguments = self.settings.tuning.trainer_arguments(len(rows))
        trainer = self.trainer(KEPT[self.learner.learns_from].dataset(rows), seed=seed, **arguments)
        result = trainer.train()
        return float(result.training_loss), trainer.num_response_tokens

    # --- folders ----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the policy and its reference, as the trainer of its iterations would.

        Args:
            path: The folder; ``DPO.load`` or ``SFT.load`` reads it, and `tokengym evaluate`.
        """
        self.trainer().save(path)

    def configuration(self) -> dict[str, Any]:
        """Return what decides the numbers of every iteration, as plain data.

        ``probe`` holds the scores of a few greedy responses of the policy as it is now, and
        ``prompts`` and ``model`` are hashes.
        """
        prompts = [(p.text, p.reference, p.query_type) for p in self.collector.prompts]
        probes = [index % len(self.collector.prompts) for index in range(NUM_PROBES)]
        return {
            "algorithm": type(self).__name__,
            "seed": self.seed,
            **arithmetic_of(self.policy),
            **to_json(self.settings),
            "environment": to_json(self.collector.chosen.settings),
            "prompts": hashlib.sha256(repr(prompts).encode()).hexdigest(),
            "model": hash_weights(self.policy.language_model),
            "scorer": getattr(self.collector.scorer, "name", type(self.collector.scorer).__name__),
            "probe": self.collector.probe(self.policy, probes),
        }

    def resume(self, iterations: int) -> None:
        """Restore the complete iterations of ``output_dir``, or claim an empty one for this run.

        Args:
            iterations: Most iterations to restore.
        """
        if self.output_dir is None or self.history:
            return
        claim(self.output_dir / SETTINGS, self.configuration())
        while len(self.history) < iterations:
            record = _folder(self.output_dir, len(self.history) + 1) / RECORD
            if not record.exists():
                break
            self.history.append(_read_iteration(record))
        if len(self.history) > 1:
            self.restore(len(self.history) - 1)
        if self.history:
            self._older = self._weights()
            self.restore(len(self.history))

    def restore(self, number: int) -> None:
        """Give the policy the weights it had after an iteration of ``output_dir``."""
        assert self.output_dir is not None
        path = _folder(self.output_dir, number) / "agent"
        loaded = type(self.trainer()).load(path).policy.language_model
        self.policy.language_model.load_state_dict(loaded.state_dict())

    def _seed_of(self, iteration: int, use: int) -> int:
        """Return the seed of one use in one iteration."""
        return int(np.random.SeedSequence([self.seed, iteration, use]).generate_state(1)[0] >> 1)


def _disagreement(episode: Episode) -> float:
    """Return how unsure a scorer is of a response; of one that has no score it says nothing."""
    return episode.score_parts.get("disagreement", -math.inf)


def iterations(run: TrainingRun, learner: type[IterativeLearner]) -> Iterator[Update]:
    """Train a learner in iterations; yield before the first and after each.

    The points of an earlier run are restored with its iterations, so that a resumed curve equals
    an uninterrupted one.
    """
    folder = None if run.folder is None else run.folder / "iterations"
    if folder is not None:
        claim(folder / RUN, run.configuration)
    envs = run.make_envs(1, normalize=False)
    settings = run.settings.learner
    agent = learner(
        envs,
        **run.policy_kwargs(),
        **vars(settings),
        output_dir=folder,
        seed=run.seed,
        device=run.training.device,
    )

    def measured(number: int, tokens: int) -> Iterator[Update]:
        yield Update(step=number, tokens=tokens, agent=agent)
        if folder is not None:
            write_json(_folder(folder, number) / MEASURED, run.state())

    budget = run.training.tokens
    count = run.settings.iterations if budget is None else sys.maxsize
    last = -1 if folder is None else _last_measured(folder, count)
    if folder is not None and last >= 0:
        run.restore(read_json(_folder(folder, last) / MEASURED))
    else:
        last = 0
        yield from measured(0, 0)
    agent.resume(count)
    for iteration in agent.history[last:]:  # made, but stopped before they were measured
        agent.restore(iteration.number)
        yield from measured(iteration.number, iteration.tokens)
    while len(agent.history) < count:
        if budget is not None and agent.history and agent.history[-1].tokens >= budget:
            break
        made = agent.iterate()
        yield from measured(made.number, made.tokens)
    envs.close()


def _last_measured(folder: Path, limit: int) -> int:
    """Return the last iteration that an earlier run measured, 0 before the first; -1: none."""
    number = -1
    while number < limit and (_folder(folder, number + 1) / MEASURED).exists():
        number += 1
    return number


def claim(file: Path, ours: Mapping[str, Any]) -> None:
    """Write a folder's configuration, or refuse the folder if it has another one."""
    ours = to_json(ours)
    if not file.exists():
        if any(file.parent.glob("iteration-*/" + RECORD)):
            raise CheckpointError(
                f"{file.parent} holds iterations without {file.name}, so what they belong to is "
                "unknown; name another output_dir"
            )
        write_json(file, ours)
        return
    theirs = read_json(file)
    if not isinstance(theirs, Mapping):
        raise CheckpointError(f"{file} is damaged; delete {file.parent} and run again")
    differ = [name for name in {**ours, **theirs} if not _same(theirs.get(name), ours.get(name))]
    if differ:
        said = "; ".join(f"{n} = {theirs.get(n)}, here it is {ours.get(n)}" for n in differ)
        raise CheckpointError(
            f"{file.parent} holds iterations with {said}; name another output_dir"
        )


def _same(one: Any, other: Any) -> bool:
    """Return whether two plain values are equal; numbers up to rounding."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4)
    return bool(one == other)


def _read_iteration(file: Path) -> Iteration:
    """Return the record of an iteration."""
    record: Any = read_json(file)
    try:
        values: dict[str, Any] = {
            name: float("nan") if value is None else value for name, value in record.items()
        }
        return Iteration(**values)
    except (AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error}); delete {file.parent} and run again"
        ) from None


def _folder(output_dir: Path, number: int) -> Path:
    return output_dir / f"iteration-{number:03d}"


class OnlineDPO(IterativeLearner):
    """Online iterative DPO: pairs from the current policy, ranked by a scorer.

    Each iteration draws n responses to every prompt, half by the main agent at temperature 1.0 and
    half by the enhancer, the same policy at 0.7, pairs the best with the worst, drops ties and
    identical texts, and continues `DPO` from the policy's weights. The reference is the policy that
    the first iteration began with, throughout.

    See `IterativeLearner` for the arguments, and `OnlineDPOSettings` for the settings among them.

    Source: Dong et al. 2024, "RLHF Workflow", arXiv:2405.07863, section 3; three iterations there.
    """

    settings: OnlineDPOSettings
    settings_class = OnlineDPOSettings
    learner = DPO

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the arguments of `DPO` that are the same in every iteration."""
        return {**super().trainer_arguments(), "loss": self.settings.loss}


def online_dpo_updates(run: TrainingRun) -> Iterator[Update]:
    """Train `OnlineDPO`; see `iterations`."""
    return iterations(run, OnlineDPO)


class RAFT(IterativeLearner):
    """Draws n responses to every prompt, trains on the best by a scorer with `SFT`, and repeats.

    See `IterativeLearner` for the arguments, and `RAFTSettings` for the settings among them.
    Nothing pulls the policy towards the reference, which only serves to measure the distance.

    Source: Dong et al. 2023, "RAFT", arXiv:2304.06767, algorithm 1; the rule is that of rejection
        sampling in Llama 2, arXiv:2307.09288, section 3.2.3.
    """

    settings_class = RAFTSettings
    learner = SFT


def raft_updates(run: TrainingRun) -> Iterator[Update]:
    """Train `RAFT`; see `iterations`."""
    return iterations(run, RAFT)
