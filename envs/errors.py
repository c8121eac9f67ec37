"""What bad input raises: one line that names the value and the remedy.

All derive from ``ValueError``, so that callers who know only Python catch them too. Wrong types
raise plain ``TypeError``.
"""


class TokenGymError(ValueError):
    """Base of every error that tokengym raises for a bad value."""


class PromptError(TokenGymError):
    """An empty prompt set, an empty or overlong prompt, an unknown prompt id."""


class DatasetError(TokenGymError):
    """A data set that cannot be read, or lacks a named column."""


class TokenizerError(TokenGymError):
    """A tokenizer without EOS or pad, or one whose ids do not fit the model."""


class ActionError(TokenGymError):
    """An action outside the vocabulary, or an action mask that allows nothing."""


class BundleError(TokenGymError):
    """A folder of models that lacks a part."""
