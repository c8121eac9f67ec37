"""Stored models: where their parts are, and the adapters among these."""
