"""Settings of a constitutional run, and what its stages share: prompts, policies, critic, judge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tokengym.agents import losses
from tokengym.agents.offline import (
    ResponseCollector,
    Sampling,
    make_policy,
    prompt_order,
)
from tokengym.agents.rollouts import GivenPrompts
from tokengym.base import check_count, check_number
from tokengym.envs import Episode, PromptSet
from tokengym.evaluation.measure import resolve_env
from tokengym.evaluation.runs import ModelSettings, TaskSettings, training_settings
from tokengym.lab.constitution.critics import (
    DEFAULT_PRINCIPLES,
    Critic,
    ModelCritic,
    OffenceRules,
    Principle,
    RuleCritic,
    RuleJudge,
)
from tokengym.lab.constitution.judge import PrincipleJudge
from tokengym.lab.scorers.preference_model import WinRateScorer

if TYPE_CHECKING:
    from tokengym.agents import CausalLMPolicy
    from tokengym.evaluation.measure import Evaluator
    from tokengym.rewards import Scorer, Toxicity


WORDS = "words"
"""Name of the rules over words that criticise and judge without a model."""


@dataclass(frozen=True, kw_only=True)
class ConstitutionConfig(ModelSettings):
    """Settings of teaching a policy by principles. Rates suit the bundled tiny models.

    Raises:
        ValueError: if a value is out of range, or a name is unknown.
    """

    env: str = field(default="Detox", metadata={"flag": ""})
    """Task whose prompts invite offence: Detox, or the harmful requests of Dialogue."""
    principles: tuple[Principle, ...] = field(default=DEFAULT_PRINCIPLES, metadata={"flag": ""})
    """One is drawn for each revision, and one for each pair that a model judges."""
    model: str | None = field(default=None, metadata={"flag": "", "is_data": True})
    """Chat model that responds, criticises and revises; None: the bundled policy responds, rules
    criticise."""
    critic: str | None = field(default=None, metadata={"is_data": True})
    """Chat model that criticises and revises: a path, "bundled" for the small one that ships, or
    "words" for rules over words, the baseline; None takes the model, or words without one."""
    judge: str | None = field(default=None, metadata={"is_data": True})
    """Chat model that chooses between responses: likewise."""
    toxicity: str | None = field(default=None, metadata={"is_data": True})
    """Classifier that measures toxicity; None takes the bundle's, or rules."""
    num_prompts: int = 512
    """Red-team prompts answered and revised."""
    revisions: int = 2
    """Times that each response is criticised and rewritten (1 to 4 in the paper)."""
    sft_learning_rate: float = 3e-4
    """Peak learning rate of the fine-tuning on the revisions."""
    sft_epochs: float = 1.0
    """Passes over them; more leave the judge of the bundled tasks little to tell apart."""
    pair_prompts: int = 512
    """Prompts answered by the revised policy for the judge."""
    responses: int = 4
    """Responses to each of these; the best makes a pair with the worst (2 in the paper, where a
    model tells two clean responses apart; rules tie)."""
    reward_learning_rate: float = 1e-3
    """Peak learning rate of the reward model."""
    reward_epochs: float = 3.0
    """Passes over the judged pairs."""
    ppo_steps: int = 20
    """Updates of PPO."""
    batch_size: int = 64
    """Episodes per update, pairs and texts per optimiser step."""
    ppo_learning_rate: float = 3e-4
    """Learning rate of PPO."""
    kl_coef: float = 0.05
    """Price of a nat of KL to the revised policy."""
    eval_episodes: int = 128
    """Held-out red-team prompts."""
    seed: int = 0
    """Seed of everything random."""
    task: TaskSettings = field(default_factory=TaskSettings)
    """Prompts and models that the environment is made from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "env", resolve_env(self.env))
        object.__setattr__(self, "principles", tuple(self.principles))
        if not self.principles:
            raise ValueError("principles must hold at least one, got none")
        counts = ("num_prompts", "pair_prompts", "ppo_steps", "batch_size", "eval_episodes")
        check_number(self, *counts, "sft_epochs", "reward_epochs", above=0.0)
        rates = ("sft_learning_rate", "reward_learning_rate", "ppo_learning_rate")
        check_number(self, *rates, above=0.0)
        check_count(self, "revisions", hint="1 to 4 are usual")
        check_count(self, "responses", least=2, hint="one response makes no pair")
        check_number(self, "kl_coef", least=0.0, hint="0 leaves the KL free")


class PipelineState:
    """Built from a configuration alone; the same one gives the same scene."""

    def __init__(self, config: ConstitutionConfig) -> None:
        self.config = config
        self.rules = self._task_rules()
        """Offences by the rules of the bundled prompts; None where the prompts are others."""
        self._envs = self.make_envs(num_envs=1, reward=None)
        task: Any = self._envs.unwrapped
        self.tokenizer = task.tokenizer
        self.bundle = task.bundle
        self.uses_chat_template = bool(task.settings.chat_template)
        self.fixed_length = task.settings.min_new_tokens >= task.settings.max_new_tokens
        self.chosen = GivenPrompts(self._envs, max_rows=128)
        if self._named(config.critic) is None:
            self._known_rules("critique", "--critic")
        if self._named(config.judge) is None:
            self._known_rules("judgement", "--judge")
        if config.toxicity is None and not self._bundle_classifies:
            self._known_rules("count of offences", "--toxicity")

    # --- environments -----------------------------------------------------------------------------

    def make_envs(self, *, num_envs: int, split: str = "train", **settings: Any) -> Any:
        """Return a batch over the red-team prompts of a split."""
        import gymnasium as gym

        return gym.make_vec(
            self.config.env, num_envs=num_envs, **self._env_kwargs(split), **settings
        )

    def make_evaluator(self) -> "Evaluator":
        """Return what measures policies on the held-out red-team prompts."""
        from tokengym.evaluation.measure import Evaluator

        kwargs = self._env_kwargs("test")
        if self.bundle is None:  # nothing bundled scores: the measure of toxicity does
            kwargs["scorer"] = (
                RuleJudge(self._known_rules("count of offences", "--toxicity"))
                if self.config.toxicity is None
                else self._classifier
            )
        return Evaluator(
            self.config.env,
            kwargs,
            num_episodes=min(self.config.eval_episodes, len(kwargs["prompts"])),
            seed=self.seed_of(6),
        )

    def _env_kwargs(self, split: str) -> dict[str, Any]:
        task = self.config.task
        kwargs: dict[str, Any] = {**self._lengths, **task.env_kwargs(self.config.env)}
        if self.config.model is not None:
            kwargs |= {"tokenizer": self.config.model, "bundle": None}
        prompts = self._prompts(split)
        given = {name: value for name, value in kwargs.items() if value is not None}
        kept = {k: v for k, v in given.items() if k != "dataset" and not k.endswith("_column")}
        return {**kept, "prompts": prompts}

    @property
    def _lengths(self) -> dict[str, Any]:
        """Lengths of responses: as given, or those of the bundle, or of the task."""
        task = self.config.task
        training = training_settings(
            self.config.env, bundle=task.bundle, max_new_tokens=task.max_new_tokens
        )
        return training.lengths()

    def _prompts(self, split: str) -> PromptSet:
        """Return a split's red-team prompts: all, or those that the rules know for harmful."""
        prompts: PromptSet = self._task(split).prompts
        rules = self.rules
        if rules is None:
            return prompts
        chosen = [prompt for prompt in prompts if rules.is_red_team(prompt.text)]
        if not chosen:
            raise ValueError(
                f"{self.config.env} has no red-team prompts among its {len(prompts)} of the split "
                f"{split!r}; take Detox or Dialogue, or pass --dataset"
            )
        return PromptSet(chosen)

    def _task(self, split: str = "train") -> Any:
        """Return the task as it is, with the bundle's own tokenizer."""
        import gymnasium as gym

        kwargs = self.config.task.env_kwargs(self.config.env)
        return gym.make(self.config.env, reward=None, split=split, **kwargs).unwrapped

    def _task_rules(self) -> OffenceRules | None:
        from tokengym.rewards import RuleScorer

        bundle = self._task().bundle
        if self.config.task.dataset is not None or bundle is None or not bundle.has("gold"):
            return None
        try:
            return OffenceRules(RuleScorer.from_file(bundle.gold).rules)
        except TypeError:  # rules of another kind: not what offends
            return None

    # --- who acts, criticises and judges ----------------------------------------------------------

    @cached_property
    def base(self) -> "CausalLMPolicy":
        """The policy that everything starts from."""
        return self.make_policy(self._base_model)

    def trainee(self) -> "CausalLMPolicy":
        """Return the policy that learns the revisions: the base, or with LoRA one with adapters."""
        lora = self.config.lora()
        return self.base if lora is None else self.make_policy(self._base_model, lora=lora)

    def policy(self, folder: Path) -> "CausalLMPolicy":
        """Return a stage's policy, its reference being the one that everything starts from."""
        reference = self._base_model
        if reference is None:
            reference = str(self.bundle.policy)
        return self.make_policy(str(folder / "model"), reference=reference)

    def make_policy(self, model: Any, **settings: Any) -> "CausalLMPolicy":
        """Return a policy of a model, on the run's device and in its precision."""
        return make_policy(
            self._envs,
            model,
            **settings,
            dtype=self.config.dtype,
            seed=self.seed_of(7),
            device=self.config.device,
        )

    @property
    def _base_model(self) -> str | None:
        return self.config.model or self.config.task.model

    @cached_property
    def critic(self) -> Critic:
        """Critic and reviser: the chat model, or rules that say so."""
        path = self._named(self.config.critic)
        if path is None:
            return RuleCritic(self._known_rules("critique", "--critic"), self.base, self.chosen)
        from tokengym.lab.scorers.judge import GreedyAnswers, load_answering_model

        model, tokenizer = load_answering_model(path, dtype="float32", device=self.config.device)
        longest = self._lengths["max_new_tokens"]
        answers = GreedyAnswers(model, tokenizer, max_new_tokens=longest - 1)  # and EOS
        return ModelCritic(answers, self.tokenizer, name=f"the chat model {Path(path).name}")

    @cached_property
    def judge(self) -> "Scorer":
        """Judge of which response follows the principles better."""
        if self.model_judge is None:
            return RuleJudge(self._known_rules("judgement", "--judge"))
        return WinRateScorer(self.model_judge)

    @cached_property
    def model_judge(self) -> PrincipleJudge | None:
        """The chat model that chooses between two responses, None where rules judge."""
        path = self._named(self.config.judge)
        if path is None:
            return None
        return PrincipleJudge.from_pretrained(
            path,
            [principle.text for principle in self.config.principles],
            seed=self.seed_of(9),
            device=self.config.device,
        )

    def _named(self, name: str | None) -> str | None:
        """Return the model that a setting names, the run's own by default; None for the words."""
        name = name or self.config.model
        return None if name == WORDS else name

    def _known_rules(self, what: str, remedy: str) -> OffenceRules:
        if self.rules is None:
            raise ValueError(
                f"{self.config.env} has no rules for a {what} with these prompts; take Detox or "
                f"Dialogue, or name a model with {remedy}"
            )
        return self.rules

    # --- playing and measuring --------------------------------------------------------------------

    def respond(
        self, agent: Any, num_prompts: int, *, responses: int, use: int, skip: int
    ) -> list[tuple[Episode, ...]]:
        """Return responses to red-team prompts, those before ``skip`` left to others.

        Several to a prompt are judged.
        """
        collector = ResponseCollector(
            self._envs, scorer=self.judge, sampling=Sampling(n=responses), max_rows=256
        )
        prompts = prompt_order(len(collector.prompts), num_prompts, seed=self.seed_of(8), skip=skip)
        generator = torch.Generator().manual_seed(self.seed_of(use))
        groups = collector.write(agent, prompts, generator)
        return collector.score(groups) if responses > 1 else groups

    def seed_of(self, *use: int) -> int:
        """Return the seed of one use."""
        return int(np.random.SeedSequence([self.config.seed, *use]).generate_state(1)[0] >> 1)

    @property
    def toxicity_name(self) -> str:
        """Measure of toxicity, in words."""
        if self.config.toxicity is not None:
            return f"mean probability of the toxic class, by {Path(self.config.toxicity).name}"
        if self._bundle_classifies:
            return "mean probability of the toxic class, by the bundled classifier"
        return "share of responses with an offence, by the bundle's rules"

    def toxicity(self, episodes: Sequence[Episode]) -> "np.ndarray[Any, Any]":
        """Return how toxic each response is, (episodes,), in [0, 1]."""
        if self.config.toxicity is not None:
            return -self._classifier.score(episodes).values
        if self._bundle_classifies:
            from tokengym.rewards import make_reward

            model = make_reward("sparse", reward_model=self.bundle.reward_model).scorer
            logits = model.bind(self.tokenizer).score(list(episodes)).values
            return 1.0 / (1.0 + np.exp(logits.astype(np.float64)))
        return np.array([float(bool(words)) for words in self.offences(episodes)])

    def offences(self, episodes: Sequence[Episode]) -> list[tuple[str, ...]]:
        """Return the offending words of each response, by rules."""
        rules = self._known_rules("count of offences", "--toxicity")
        return [rules.offences(episode.prompt, episode.response) for episode in episodes]

    def told_apart(self, groups: Sequence[tuple[Episode, ...]]) -> list[tuple[Episode, ...]]:
        """Return the groups whose best and worst response the judge orders alike in both orders.

        What a model prefers by the place it stands in differs in its win rate by rounding alone.
        """
        if self.model_judge is None:
            return list(groups)
        groups = [group for group in groups if len(group) > 1]
        texts = [[episode.response for episode in group] for group in groups]
        ends = [
            losses.best_against_worst(np.array([e.score for e in group], np.float64), responses)
            or losses.Choice(0, 0)  # equal responses: by the order alone
            for group, responses in zip(groups, texts, strict=True)
        ]
        pairs = [
            (group[0].prompt, responses[choice.chosen], responses[choice.rejected])
            for group, responses, choice in zip(groups, texts, ends, strict=True)
        ]
        as_a = self.model_judge.preferences(pairs)
        as_b = 1.0 - self.model_judge.preferences([(c, b, a) for c, a, b in pairs])
        is_sure = (as_a > 0.5) & (as_b > 0.5)
        return [group for group, sure in zip(groups, is_sure, strict=True) if sure]

    def win_rate(self, first: Sequence[Episode], second: Sequence[Episode]) -> Any:
        """Return how often the judge prefers the first of two policies' responses, a `WinRate`."""
        from tokengym.evaluation.measure import judged

        judge: Any = self.model_judge or self.judge
        return judged(first, second, judge.preferences)

    @cached_property
    def _classifier(self) -> "Toxicity":
        from tokengym.rewards import Toxicity

        assert self.config.toxicity is not None  # where there are no rules it must be named
        return Toxicity.from_pretrained(self.config.toxicity)

    def toxicity_by_round(
        self, responses: Sequence[Episode], revisions: Sequence[Sequence[Episode]]
    ) -> list[float]:
        """Return the mean toxicity of the responses and of each round of revisions."""
        return [float(self.toxicity(list(e)).mean()) for e in (responses, *revisions)]

    @property
    def _bundle_classifies(self) -> bool:
        """Whether the bundle's reward model is a classifier of clean text: Detox's is."""
        task = None if self.bundle is None else self.bundle.manifest.get("task")
        return task == "detox"
