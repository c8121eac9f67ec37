"""Errors that the builder raises for a bad value."""


class BuildError(ValueError):
    """The bundle cannot be built; the message names the value and the remedy."""
