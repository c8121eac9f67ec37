"""Measurements of a frozen policy on held-out prompts."""
