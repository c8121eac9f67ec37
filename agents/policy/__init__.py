"""A causal language model as policy, value function and reference."""
