"""Offline learning from preferences and demonstrations: DPO and SFT."""
