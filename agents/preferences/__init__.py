"""Learning from preferences: pairs from rollouts, SFT, DPO, best-of-n and online DPO."""
