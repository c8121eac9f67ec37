"""Rounds of one episode per row, for any agent and any environment."""
