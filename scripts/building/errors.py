"""What the builder raises for a bad value."""


class BuildError(ValueError):
    """What was asked for cannot be built; the message names the value and the remedy."""
