"""tokengym.evaluation."""
