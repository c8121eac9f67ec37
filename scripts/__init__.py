"""tokengym.scripts."""
