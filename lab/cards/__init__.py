"""Cards: the measured properties of one credit rule or advantage estimator."""
