"""Faster forms of what learners compute, on a CPU and a GPU, and training in several processes.

The rest of agents reaches them through `tokengym.agents.policy.door`, and works without them.
"""
