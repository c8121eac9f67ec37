"""Entry points of installed packages, and the names of tokengym-lab, which is one of them.

The laboratory is a distribution of its own. Where it is installed, what it adds is found by entry
points like anyone's; where it is not, the suite knows these names, to say what to install.
"""

from importlib.metadata import EntryPoint, entry_points

INSTALL = "pip install tokengym-lab (in a checkout: pip install ./lab)"
"""Command that installs the laboratory."""
LABORATORY: dict[str, tuple[str, ...]] = {
    "tasks": ("Forks", "Oracle", "ReasoningGym"),
    "rewards": (
        *("abc-d", "abc-d2", "answer-gain", "attribution", "mc", "prm", "pure", "rto", "scar"),
        *("turn-broadcast", "turn-gain", "turn-progress", "turn-return", "turn-score"),
    ),
    "scorers": ("judge", "preference-model", "reasoning-gym"),
    "readings": ("deeplift", "gradient", "integrated-gradients"),
    "agents": ("best-of-n", "nlpo", "online-dpo", "raft"),
    "estimators": ("gigpo", "gigpo-prefix", "turn-auxiliary", "turn-returns"),
    "partners": ("calculator", "gem", "higher-lower", "textarena", "turn-forks", "user"),
    "weights": (
        *("constant", "entropy", "gtpo", "oar", "policy-attention", "position", "random"),
        *("reward-attention", "rsi", "self-teacher", "teacher"),
    ),
    "gold": ("forks", "oracle"),
    "commands": (
        *("train-reward", "collect", "label", "constitution", "replay", "explore", "bench", "push"),
    ),
    "names": (
        *("BestOfN", "Explorer", "NLPO", "OnlineDPO", "RAFT", "from_hub", "push_to_hub", "replay"),
        *("train_preference_model", "train_reward_model"),
        *("agents.BestOfN", "agents.NLPO", "agents.OnlineDPO", "agents.RAFT"),
        *("agents.policy_table", "agents.value_table"),
        *("envs.ExactValues", "envs.ForksEnv", "envs.ForksVectorEnv"),
        *("envs.OracleEnv", "envs.OracleVectorEnv", "envs.PolicyError", "envs.StateTable"),
        *("rewards.ABCD", "rewards.ABCD2", "rewards.Attribution", "rewards.SCAR"),
        *("rewards.Judge", "rewards.PreferenceModel", "rewards.RewardTraining"),
        *("rewards.train_preference_model", "rewards.train_reward_model"),
    ),
}
"""Names that the laboratory adds, by the group of its entry points, ``tokengym.<group>``."""


def plugins(group: str, name: str | None = None) -> list[EntryPoint]:
    """Return the entry points of ``tokengym.<group>``, all or those of one name."""
    points = entry_points(group=f"tokengym.{group}")
    return [point for point in points if name is None or point.name == name]


def missing_laboratory(group: str, name: str) -> str:
    """Return what to install for a name of the laboratory; "" where that is not what is missing."""
    if name not in LABORATORY.get(group, ()) or plugins(group, name):
        return ""
    return f"{name!r} is part of tokengym-lab, which is not installed: {INSTALL}"
