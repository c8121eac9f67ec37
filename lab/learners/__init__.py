"""Learners that sample and rank, best-of-n, and weights on the advantage."""
