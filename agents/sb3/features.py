"""A small network that reads texts, for stock Stable-Baselines3 policies."""

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn


class TokenFeatures(BaseFeaturesExtractor):
    """Embeds the tokens of an observation: their mean, the last one, and how many there are.

    SB3's own extractor reads token ids as if they were magnitudes. This one is meant for tests,
    baselines and tiny vocabularies; for a language model use `CausalLMPolicy`.

    ```python
    PPO("MultiInputPolicy", as_vec_env(envs),
        policy_kwargs=dict(features_extractor_class=TokenFeatures))
    ```

    Args:
        observation_space: ``Dict(input_ids, attention_mask)``.
        embedding_dim: Width of a token's embedding.
    """

    def __init__(self, observation_space: spaces.Dict, embedding_dim: int = 32) -> None:
        super().__init__(observation_space, features_dim=2 * embedding_dim + 1)
        ids = observation_space["input_ids"]
        assert isinstance(ids, spaces.Box)
        self.embedding = nn.Embedding(int(ids.high.max()) + 1, embedding_dim)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return (batch, 2 * embedding_dim + 1) of ids and masks (batch, length), of any type."""
        ids, mask = observations["input_ids"].long(), observations["attention_mask"].float()
        columns = torch.arange(mask.shape[1], device=mask.device)
        counts = mask.sum(1, keepdim=True)  # (batch, 1)
        last = (mask * columns).argmax(1)  # (batch,): the texts begin on the left and have no gaps
        mean = (self.embedding(ids) * mask.unsqueeze(-1)).sum(1) / counts.clamp(min=1.0)
        rows = torch.arange(len(ids), device=mask.device)
        newest = self.embedding(ids[rows, last])
        return torch.cat([mean, newest, counts / mask.shape[1]], dim=1)
