"""The studies behind docs/results: what was run, and the tables made of it."""
