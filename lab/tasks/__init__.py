"""Declarations of the laboratory's tasks, one file per task."""
