"""The seeded grammars that write the bundled tasks' texts."""
