"""Pure functions behind credit rules, relevance and pairwise training."""
