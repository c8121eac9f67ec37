"""Commands of the laboratory, one file per command, as those above."""
