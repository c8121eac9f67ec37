"""Triton kernels, each beside the plain form that it stands in for; reached by name alone."""
