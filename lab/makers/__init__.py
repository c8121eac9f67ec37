"""Makers of the bundled models: their grammars, trainers and writers."""
