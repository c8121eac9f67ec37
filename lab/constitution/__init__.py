"""Constitutional AI and RLAIF as a pipeline whose every stage is kept, measured and reported."""

from tokengym.lab.constitution.pipeline import run_constitution
from tokengym.lab.constitution.scene import ConstitutionConfig

__all__ = ["ConstitutionConfig", "run_constitution"]
