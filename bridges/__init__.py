"""The credit rules in other trainers: TRL, verl and SkyRL, each behind its own installation."""
