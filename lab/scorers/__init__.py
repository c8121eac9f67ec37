"""Scorers of the laboratory, one file per scorer."""
