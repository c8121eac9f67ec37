"""Exact tasks and their environments."""
