"""Preference pairs for learners that take a model object."""

PAIRS = [
    {"prompt": "b c", "chosen": " a a", "rejected": " b c"},
    {"prompt": "d", "chosen": " a b", "rejected": " d"},
]
