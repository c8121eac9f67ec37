"""The version and the address of the repository, alone so that a build reads them by themselves."""

__version__ = "0.2.0"
REPOSITORY = ""
"""Address of the repository, "https://..."; build_docs.py writes it everywhere else."""
