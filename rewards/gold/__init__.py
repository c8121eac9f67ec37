"""Gold scores of the bundled tasks."""
