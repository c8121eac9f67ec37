"""Settings of a constitutional run: everything that decides its numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tokengym.agents.constitution.principles import DEFAULT_PRINCIPLES, Principle
from tokengym.envs.declared import check_number
from tokengym.evaluation.runs.config import TaskSettings, resolve_env
from tokengym.evaluation.runs.defaults import ModelSettings


@dataclass(frozen=True, kw_only=True)
class ConstitutionConfig(ModelSettings):
    """How a policy is taught by principles. Rates suit the bundled tiny models.

    Raises:
        ValueError: if a value is out of range, or a name is unknown.
    """

    env: str = field(default="Detox", metadata={"flag": ""})
    """Task whose prompts invite offence: Detox, or the harmful requests of Dialogue."""
    principles: tuple[Principle, ...] = field(default=DEFAULT_PRINCIPLES, metadata={"flag": ""})
    """One is drawn for each revision; a judge rates by all."""
    model: str | None = field(default=None, metadata={"flag": ""})
    """Chat model that responds, criticises and revises; None: the bundled policy responds, rules
    criticise."""
    judge: str | None = None
    """Chat model that rates responses; None takes the model, or rules without one."""
    toxicity: str | None = None
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
    max_new_tokens: int | None = None
    """Longest response, tokens; None takes the task's."""
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
        if self.revisions < 1:
            raise ValueError(
                f"revisions must be at least 1, got {self.revisions}; 1 to 4 are usual"
            )
        if self.responses < 2:
            raise ValueError(f"responses must be at least 2 to make pairs, got {self.responses}")
        check_number(self, "kl_coef", least=0.0, hint="0 leaves the KL free")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {**asdict(self), "principles": [asdict(one) for one in self.principles]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ConstitutionConfig":
        """Return the configuration that `as_dict` wrote."""
        return cls(
            **{
                **data,
                "principles": tuple(Principle(**one) for one in data["principles"]),
                "task": TaskSettings(**data["task"]),
            }
        )
