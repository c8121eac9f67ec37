"""Scorers: what a finished response is worth."""
