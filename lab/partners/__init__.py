"""Partners of the laboratory, one file per partner."""
