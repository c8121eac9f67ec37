"""Settings of training on preference pairs, declared once."""

from dataclasses import asdict, dataclass
from typing import Any, get_args

from tokengym.rewards.errors import RewardError
from tokengym.rewards.pairs import Overlong


@dataclass(frozen=True, kw_only=True)
class RewardTraining:
    """How a reward or preference model is trained. Defaults: Dong et al. 2024, arXiv:2405.07863."""

    learning_rate: float = 2e-6
    """Peak learning rate of AdamW; cosine decay. Tiny models and adapters want 1e-4 to 1e-3."""
    epochs: float = 1.0
    """Passes over the pairs; more than one overfits in the paper."""
    batch_size: int = 512
    """Pairs per optimiser step."""
    micro_batch_size: int = 16
    """Pairs per forward pass; the rest of a batch is accumulated."""
    warmup: float = 0.03
    """Share of the steps with a rising learning rate."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_tokens: int = 512
    """Longest text, prompt included; less where the model reads less."""
    overlong: Overlong = "error"
    """Pairs with a longer text: "error" names the first, "drop" leaves them out and counts them,
    "left" cuts the beginning of their prompts, and drops those that are too long without one."""
    append_eos: bool = True
    """Whether a reward model's texts end with EOS, as responses that were finished do."""
    chat_template: bool = False
    """Whether a reward model's prompts go through its tokenizer's chat template, as those of an
    environment with one do; a written-out dialogue is taken apart into its turns."""
    seed: int = 0
    """Seed of new weights, the order of pairs, and dropout."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints: the most work that an interruption loses."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs", "batch_size", "micro_batch_size", "max_tokens"):
            if not (value := getattr(self, name)) > 0:
                raise RewardError(f"{name} must be > 0, got {value}")
        if not 0.0 <= self.warmup < 1.0:
            raise RewardError(f"warmup must be a share of the steps in [0, 1), got {self.warmup}")
        if self.overlong not in get_args(Overlong):
            raise RewardError(f"overlong must be 'error', 'left' or 'drop', got {self.overlong!r}")
        if not self.checkpoint_seconds >= 0:
            raise RewardError(f"checkpoint_seconds must be >= 0, got {self.checkpoint_seconds}")

    def what_counts(self) -> dict[str, Any]:
        """Return the settings that the result depends on."""
        return {name: value for name, value in asdict(self).items() if name != "checkpoint_seconds"}
