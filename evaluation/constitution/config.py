"""What a constitutional run is: everything that decides its numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tokengym.agents.constitution.principles import DEFAULT_PRINCIPLES, Principle
from tokengym.evaluation.runs.config import TaskSettings, resolve_env


@dataclass(frozen=True, kw_only=True)
class ConstitutionConfig:
    """How a policy is taught by principles. Rates suit the bundled tiny models.

    Raises:
        ValueError: if a value is out of range, or a name is unknown.
    """

    env: str = "Detox"
    """Whose prompts invite offence: Detox, or Dialogue, of which the harmful requests are taken."""
    principles: tuple[Principle, ...] = DEFAULT_PRINCIPLES
    """One is drawn for each revision; a judge rates by all."""
    model: str | None = None
    """A chat model that responds, criticises and revises; None: the bundled policy responds, rules
    criticise."""
    judge: str | None = None
    """A chat model that rates responses; None: ``model``, or rules where that is None too."""
    toxicity: str | None = None
    """A classifier that measures toxicity; None: the bundle's, or rules."""
    num_prompts: int = 512
    """Red-team prompts answered and revised."""
    revisions: int = 2
    """Times that a response is criticised and rewritten (1 to 4 in the paper)."""
    sft_learning_rate: float = 3e-4
    """Peak rate of learning the revisions."""
    sft_epochs: float = 1.0
    """Passes over them; more leave the judge of the bundled tasks little to tell apart."""
    pair_prompts: int = 512
    """Prompts answered by the revised policy for the judge."""
    responses: int = 4
    """To each of these; the best makes a pair with the worst (2 in the paper, where a model tells
    two clean responses apart; rules tie)."""
    reward_learning_rate: float = 1e-3
    """Peak rate of the reward model."""
    reward_epochs: float = 3.0
    """Passes over the judged pairs."""
    ppo_steps: int = 20
    """Updates."""
    batch_size: int = 64
    """Episodes per update, pairs and texts per optimiser step."""
    ppo_learning_rate: float = 3e-4
    """Of PPO's AdamW."""
    kl_coef: float = 0.05
    """Price of a nat of KL to the revised policy."""
    max_new_tokens: int | None = None
    """Longest response, tokens; None takes the task's."""
    eval_episodes: int = 128
    """Held-out red-team prompts."""
    seed: int = 0
    """Of everything random."""
    task: TaskSettings = field(default_factory=TaskSettings)
    """What the environment is made from."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "env", resolve_env(self.env))
        object.__setattr__(self, "principles", tuple(self.principles))
        if not self.principles:
            raise ValueError("principles must hold at least one, got none")
        for name in (
            "num_prompts",
            "pair_prompts",
            "ppo_steps",
            "batch_size",
            "eval_episodes",
            "sft_learning_rate",
            "sft_epochs",
            "reward_learning_rate",
            "reward_epochs",
            "ppo_learning_rate",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.revisions < 1:
            raise ValueError(
                f"revisions must be at least 1, got {self.revisions}; 1 to 4 are usual"
            )
        if self.responses < 2:
            raise ValueError(f"responses must be at least 2 to make pairs, got {self.responses}")
        if not self.kl_coef >= 0.0:
            raise ValueError(f"kl_coef must be >= 0, got {self.kl_coef}; 0 leaves the KL free")

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
