"""`tokengym/Forks-v0`: verifiable tasks whose decisive tokens are known."""
