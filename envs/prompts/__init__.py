"""Prompts on their way to token ids: the set, its encoded table, sampling and loading."""
