"""Decoding with a static cache, in steps that a GPU captures; reached by name alone."""
