"""Comparisons of each kind, for what is said of them."""

COMPARED = {
    "task": {"MovieReview": {"summary": "Continue a film review.", "page": "environments/a.md"}},
    "rewards": {
        "sparse": {"summary": "The whole score on the last token.", "page": "rewards/credits.md"},
        "abc": {"summary": "The score spread.", "page": "rewards/credits.md"},
    },
    "agents": {"ppo": {"summary": "policy gradient", "page": ""}},
}
