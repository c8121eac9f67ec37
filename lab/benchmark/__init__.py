"""The board: what a credit rule is worth, its properties and its lead on `sparse` in training."""
