"""Builders of the bundled tasks from their grammars; part of the repository, not of the wheel."""
