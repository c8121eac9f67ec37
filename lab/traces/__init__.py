"""Texts that other trainers have written to files, as episodes: one small reader per format."""
