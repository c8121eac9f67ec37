"""Learning in iterations of sampling, ranking and training."""
