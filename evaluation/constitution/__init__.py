"""Constitutional AI and RLAIF as a pipeline whose every stage is kept, measured and reported."""

from tokengym.evaluation.constitution.config import ConstitutionConfig
from tokengym.evaluation.constitution.pipeline import run_constitution

__all__ = ["ConstitutionConfig", "run_constitution"]
