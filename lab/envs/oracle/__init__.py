"""The exactly solvable environment."""
