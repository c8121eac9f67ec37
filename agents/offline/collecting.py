"""Several scored responses to each chosen prompt, data made of them, and runs on such data.

DPO and SFT learn from data that is given, or collected once from the policy.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from tokengym.agents.contract import TrainingRun, Update
from tokengym.agents.losses.ranking import best_against_worst, best_of
from tokengym.agents.offline.dpo import DPO
from tokengym.agents.offline.own import read_own, text_encoding
from tokengym.agents.offline.policies import encoding_for, make_policy
from tokengym.agents.offline.settings import Candidates, DPOSettings, Sampling
from tokengym.agents.offline.sft import SFT
from tokengym.agents.offline.trainer import AfterEpoch, OfflineTrainer
from tokengym.agents.rollouts.given import (
    GivenPrompts,
    PromptChoice,
    at_temperature,
    temperature_of,
)
from tokengym.agents.rollouts.layers import check_scored_alone
from tokengym.agents.rollouts.playing import Agent, as_sampler
from tokengym.agents.rollouts.rounds import Environments, RoundReward, environment_attribute
from tokengym.base.errors import DatasetError, SettingsError
from tokengym.envs import Episode, PromptSet
from tokengym.rewards import Scorer
from tokengym.rewards.arguments import check_columns
from tokengym.rewards.models.loading import longest_input
from tokengym.rewards.pairs.read import HOLDS_REPLIES
from tokengym.rewards.pairs.store import pairs_dataset, responses_dataset
from tokengym.rewards.reward import warn_unscored
from tokengym.rewards.scorers.base import as_scorer, score_finished

if TYPE_CHECKING:
    from datasets import Dataset

_LOG = logging.getLogger(__name__)

PromptGroup = tuple[Episode, ...]
"""The scored responses to one prompt."""
TrainingRow = dict[str, Any]
"""One row of a data set: texts, and figures of the policy that wrote them."""


class ResponseCollector:
    """Draws several responses to each prompt and scores them.

    Args:
        envs: The environment whose rules and prompts are used; it is not stepped.
        scorer: Scores the responses; None takes the scorer of the environment's reward, not
            normalised.
        sampling: How responses are drawn and paired.
        max_rows: Most episodes played at a time.

    Raises:
        TypeError: if ``envs`` is no token-generation environment.
        ValueError: if there is no scorer, or it needs columns that the data lack.
    """

    def __init__(
        self,
        envs: Environments,
        *,
        scorer: Any | None = None,
        sampling: Candidates | None = None,
        max_rows: int = 128,
    ) -> None:
        self.chosen = GivenPrompts(envs, max_rows=max_rows)
        self.sampling: Candidates = sampling or Sampling()
        if scorer is None:
            check_scored_alone(envs, type(self).__name__)
            scorer = RoundReward(envs).scorer
        if scorer is None:
            raise ValueError(
                "there is nothing to score responses with, got scorer=None and an environment "
                "without reward; pass scorer=, or make the environment with reward='sparse'"
            )
        self.scorer: Scorer = as_scorer(scorer).bind(self.chosen.tokenizer)
        check_columns(self.scorer.name, self.scorer.data_columns, self.chosen.prompts)
        self.num_tokens = 0
        """Response tokens sampled so far."""
        self.unscored = 0
        """Responses so far without a score: their partner or their judge failed."""

    @property
    def prompts(self) -> PromptSet:
        """The environment's prompts; a prompt id is a position in it."""
        return self.chosen.prompts

    def collect(
        self, agent: Agent, prompts: Sequence[PromptChoice], *, seed: int | None = None
    ) -> list[PromptGroup]:
        """Return the scored responses to each prompt.

        Args:
            agent: Anything `tokengym.agents.collect` plays; one without a ``temperature`` of its
                own must be sampled at temperature None.
            prompts: Prompt ids, or prompts.
            seed: Seed of the sampling; None continues the agent's own random state.

        Returns:
            (prompts,) groups of at most ``sampling.n`` episodes with ``score``, temperature by
            temperature; those without one are counted and not there.
        """
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return self.score(self.write(agent, prompts, generator))

    def probe(self, agent: Agent, prompts: Sequence[PromptChoice]) -> list[float]:
        """Return the scores of the agent's greedy responses, which tell another agent or scorer.

        Nothing random is drawn, and the tokens are not counted.
        """
        episodes = self.chosen.play(as_sampler(agent), prompts, deterministic=True)
        return [float(value) for value in self.scorer.score_groups([episodes]).values]

    def write(
        self,
        agent: Agent,
        prompts: Sequence[PromptChoice],
        generator: torch.Generator | None,
        *,
        n: int | None = None,
    ) -> list[PromptGroup]:
        """Return responses to each prompt, without scores; see `collect`.

        Args:
            agent: Writes the responses.
            prompts: Prompt ids, or prompts.
            generator: Source of the sampled tokens; None continues the agent's own.
            n: Responses per prompt, a multiple of the number of temperatures; None takes the
                sampling's.
        """
        share = (n or self.sampling.n) // len(self.sampling.temperatures)
        repeated = [prompt for prompt in prompts for _ in range(share)]
        groups: list[list[Episode]] = [[] for _ in prompts]
        for temperature in self.sampling.temperatures:
            with at_temperature(agent, temperature):
                episodes = self.chosen.play(as_sampler(agent, generator), repeated)
            for index, group in enumerate(groups):
                group += episodes[index * share : (index + 1) * share]
            self.num_tokens += sum(episode.num_written for episode in episodes)
        return [tuple(group) for group in groups]

    def kl_bound(self, agent: Agent) -> float | None:
        """Return the bound on the KL of the best of a group to an agent, see `Candidates`."""
        return self.sampling.kl_bound(temperature_of(agent))

    def score(self, groups: Sequence[PromptGroup]) -> list[PromptGroup]:
        """Return the groups with scores, all responses scored in one call."""
        flat = [episode for group in groups for episode in group]
        if not flat:
            return []
        numbers = [number for number, group in enumerate(groups) for _ in group]
        scores = score_finished(self.scorer, flat, groups=numbers)
        missing = int((~scores.measured).sum())
        if missing and not self.unscored:
            warn_unscored(missing, len(flat), self.scorer.name)
        self.unscored += missing
        scored: list[list[Episode]] = [[] for _ in groups]
        for row in np.flatnonzero(scores.measured).tolist():
            score, parts = float(scores.values[row]), scores.parts_of(row)
            scored[numbers[row]].append(replace(flat[row], score=score, score_parts=parts))
        return [tuple(group) for group in scored]


def pair_rows(
    groups: Sequence[PromptGroup], sampling: Sampling, prompts: Sequence[PromptChoice]
) -> list[TrainingRow]:
    """Return one row per prompt whose best and worst response differ.

    Args:
        groups: Scored responses to each prompt.
        sampling: The length penalty and the least gap.
        prompts: (groups,) the prompt of each group; a prompt id is kept.

    Returns:
        Rows with the columns of `tokengym.rewards.pairs.store.PAIR_COLUMNS`.

    Raises:
        DatasetError: if a response holds a partner's replies.
    """
    rows = []
    for group, prompt in zip(groups, prompts, strict=True):
        choice = group and best_against_worst(
            [_score(episode) for episode in group],
            [episode.response for episode in group],
            length_penalty=sampling.length_penalty,
            min_gap=sampling.min_gap,
        )
        if not choice:
            continue
        chosen, rejected = group[choice.chosen], group[choice.rejected]
        _check_written([chosen, rejected])
        rows.append(
            {
                "prompt": chosen.prompt,
                "chosen": chosen.response,
                "rejected": rejected.response,
                "prompt_ids": list(chosen.prompt_ids),
                "chosen_ids": list(chosen.response_ids),
                "rejected_ids": list(rejected.response_ids),
                "chosen_score": _score(chosen),
                "rejected_score": _score(rejected),
                "prompt_id": _prompt_number(prompt),
            }
        )
    return rows


def best_rows(
    groups: Sequence[PromptGroup], sampling: Candidates, prompts: Sequence[PromptChoice]
) -> list[TrainingRow]:
    """Return the best response to each prompt, for supervised fine-tuning (RAFT).

    Args:
        groups: Scored responses to each prompt.
        sampling: The length penalty.
        prompts: (groups,) the prompt of each group; a prompt id is kept.

    Returns:
        Rows as `response_rows` gives them.

    Source: Dong et al. 2023, "RAFT", arXiv:2304.06767.
    """
    best = [(best_episode(group, sampling.length_penalty),) if group else () for group in groups]
    return response_rows(best, sampling, prompts)


def best_episode(group: Sequence[Episode], length_penalty: float) -> Episode:
    """Return the best episode of a group."""
    scores, texts = [_score(episode) for episode in group], [e.response for e in group]
    return group[best_of(scores, texts, length_penalty=length_penalty)]


def response_rows(
    groups: Sequence[PromptGroup], sampling: Candidates, prompts: Sequence[PromptChoice]
) -> list[TrainingRow]:
    """Return one row per response; see `best_rows`.

    Returns:
        Rows with the columns of `tokengym.rewards.pairs.store.RESPONSE_COLUMNS`.
    """
    del sampling
    _check_written([episode for group in groups for episode in group])
    return [
        {
            "prompt": episode.prompt,
            "response": episode.response,
            "prompt_ids": list(episode.prompt_ids),
            "response_ids": list(episode.response_ids),
            "score": _score(episode),
            "finish_reason": episode.finish_reason,
            "prompt_id": _prompt_number(prompt),
        }
        for group, prompt in zip(groups, prompts, strict=True)
        for episode in group
    ]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Data that is made of scored responses."""

    rows: Callable[[Sequence[PromptGroup], Any, Sequence[PromptChoice]], list[TrainingRow]]
    """Makes the rows of groups, settings of sampling, and the prompt of each group."""
    dataset: Callable[[Sequence[TrainingRow]], "Dataset"]
    """Makes the data set of the rows."""
    score: str
    """Column with the scores of what is learned from."""


KEPT = {
    "pairs": Kept(rows=pair_rows, dataset=pairs_dataset, score="chosen_score"),
    "best": Kept(rows=best_rows, dataset=responses_dataset, score="score"),
    "all": Kept(rows=response_rows, dataset=responses_dataset, score="score"),
}
"""Data by name: the best response against the worst, for `DPO`; the best, or all, for `SFT`."""


def prompt_order(num_prompts: int, count: int, *, seed: int, skip: int = 0) -> list[int]:
    """Return prompt ids in consecutive permutations, so that none comes twice before all did.

    Args:
        num_prompts: Prompts of the environment.
        count: Number of ids.
        seed: Seed of the permutations.
        skip: Ids at the start that were used before.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> first, rest = prompt_order(5, 3, seed=0), prompt_order(5, 2, seed=0, skip=3)
        >>> sorted(first + rest)
        [0, 1, 2, 3, 4]
    """
    if num_prompts < 1 or count < 0 or skip < 0:
        raise ValueError(
            f"num_prompts must be >= 1, count and skip >= 0, got {num_prompts}, {count} and {skip}"
        )
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < skip + count:
        order += rng.permutation(num_prompts).tolist()
    return order[skip : skip + count]


def _check_written(episodes: Sequence[Episode]) -> None:
    """Refuse conversations: rows of ids do not say which tokens the policy wrote."""
    for episode in episodes:
        if episode.num_written < len(episode.response_ids):
            raise DatasetError(f"the response to {episode.prompt[:40]!r} {HOLDS_REPLIES}")


def _prompt_number(prompt: Any) -> int:
    """Return a prompt's position in its environment's set, -1 if it is in none."""
    return int(getattr(prompt, "prompt_id", prompt))


def _score(episode: Episode) -> float:
    if episode.score is None:
        raise ValueError(f"the response {episode.response[:40]!r} has no score; score it first")
    return episode.score


def updates(run: TrainingRun) -> Iterator[Update]:
    """Train `DPO` or `SFT` on data, given or collected from the policy; yield before that.

    The run follows each epoch by a callback, since the Trainer's loop cannot be left.
    """
    settings, envs = run.settings, run.make_envs(1)
    trainer: Any = DPO if isinstance(settings, DPOSettings) else SFT
    policy = make_policy(envs, **run.policy_kwargs(), seed=run.seed, device=run.training.device)
    sampled = 0  # tokens
    encoding = encoding_for(envs, text_encoding(settings))
    tokenizer = environment_attribute(envs, "tokenizer")
    limit = longest_input(policy.language_model.model)
    own = None
    if settings.own_prompts:
        own = read_own(settings, tokenizer, encoding, max_positions=limit)
        if own is None:
            _LOG.warning(
                "%s has token ids and no texts of prompts; the policy is measured on the task's",
                settings.pairs,
            )
    data, held_out = (
        None if source is None else trainer.encode(source, tokenizer, encoding, max_positions=limit)
        for source in ((None, None) if own is not None else (settings.pairs, settings.eval_pairs))
    )
    if own is not None:
        data, held_out = own.train, own.held_out
    yield Update(step=0, tokens=0, agent=policy)  # measured, once all files are read
    if data is None:
        source = _Collected(run, envs, policy, KEPT[trainer.learns_from])
        data = source.train()
        sampled = source.collector.num_tokens
        if held_out is None:
            with run.untimed():
                held_out = source.held_out()
    arguments: dict[str, Any] = {"eval_texts": held_out}
    if trainer is DPO:
        arguments = {"eval_pairs": held_out, "loss": settings.loss}
    agent = trainer(
        policy,
        data,
        **arguments,
        **settings.tuning.trainer_arguments(settings.tuning.batch_size),
        ref_model=policy,  # it was made for this run, with the reference of all learners
        tokenizer=tokenizer,
        encoding=encoding,
        seed=run.seed,
        device=run.training.device,
    )
    begun = 0
    if (budget := run.training.tokens) is not None:
        begun = 1  # what the data cost is spent before anything is learned
        yield Update(step=begun, tokens=sampled, agent=agent)
        if sampled >= budget:
            raise SettingsError(
                f"tokens={budget} are fewer than the {sampled} that the data cost; raise tokens, "
                "or lower num_prompts or n"
            )
        texts: Any = agent.train_dataset
        pass_tokens = sum(len(ids) for name in agent.columns for ids in texts[name])
        agent.args.num_train_epochs = (budget - sampled) / pass_tokens
    log = _Log(run, agent)
    log.measure_held_out()

    def follow(update: Update) -> bool:
        log.measure_held_out()
        step, tokens = begun + update.step, sampled + agent.num_response_tokens
        return run.follow(replace(update, step=step, tokens=tokens, log=log.take()))

    agent.add_callback(AfterEpoch(agent, follow))
    agent.train()
    envs.close()


class _Collected:
    """Data that a run collects from its policy, before training."""

    def __init__(self, run: TrainingRun, envs: Environments, policy: Agent, kept: Kept) -> None:
        self.settings, self.policy, self.kept = run.settings, policy, kept
        self.collector = ResponseCollector(envs, sampling=self.settings.sampling, max_rows=256)
        self.seeds = np.random.SeedSequence(run.seed).generate_state(3).tolist()

    def train(self) -> "Dataset":
        """Return the data to learn from."""
        return self.kept.dataset(self._rows(0, self.settings.num_prompts, self.seeds[1]))

    def held_out(self) -> "Dataset | None":
        """Return the data of further prompts, as far as there are some; None if there are none."""
        used, count = self.settings.num_prompts, self.settings.num_eval_prompts
        if count is None:
            count = used // 8
        count = min(count, len(self.collector.prompts) - used)
        rows = self._rows(used, max(count, 0), self.seeds[2])
        return self.kept.dataset(rows) if rows else None

    def _rows(self, skip: int, count: int, seed: int) -> list[TrainingRow]:
        """Return the rows of so many prompts, after as many as are skipped."""
        num_prompts = len(self.collector.prompts)
        prompts = prompt_order(num_prompts, count, seed=self.seeds[0], skip=skip)
        groups = self.collector.collect(self.policy, prompts, seed=seed)
        return self.kept.rows(groups, self.settings.sampling, prompts)


class _Log(TrainerCallback):
    """The Trainer's log as a run keeps it, a row per optimiser step."""

    def __init__(self, run: TrainingRun, agent: OfflineTrainer) -> None:
        self.run, self.agent = run, agent
        self._rows: list[tuple[int, dict[str, Any]]] = []
        agent.args.logging_steps = 1
        agent.add_callback(self)

    def on_log(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """See `transformers.TrainerCallback`."""
        del args, control
        entries, logs = self.run.training.declaration.logged, others["logs"]
        row = {entry: logs[name] for entry, name in entries.items() if name in logs}
        self._rows.append((state.global_step, row))

    def measure_held_out(self) -> None:
        """Measure loss and figures on the held-out data, if there are some, which logs them."""
        if self.agent.eval_dataset is not None:
            with self.run.untimed():
                self.agent.evaluate()

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the rows since the last call, with their steps."""
        rows, self._rows = self._rows, []
        return rows
