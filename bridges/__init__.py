"""The credit rules in other trainers, a thin door each, behind the trainer's own installation."""
