"""PPO for token sequences."""
