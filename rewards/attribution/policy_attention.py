"""What a policy attended to while it wrote: the weights of ABC-D and ABC-D2."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution import last_row
from tokengym.rewards.attribution.policy_reader import PolicyReader
from tokengym.rewards.errors import ScorerError


class PolicyAttention(PolicyReader):
    """Reads the last layer's attention of a causal language model over finished responses.

    It is recomputed in one pass over the finished text: what position t attends to does not depend
    on what follows it, so this is the attention of the generation, if the model is the one that
    generated. No logits are computed.
    """

    def matrices(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Return, per episode, the attention of its response's tokens to each other.

        Returns:
            Per episode (n, n): query by key, averaged over the last layer's heads; the rest of
            each row fell on the prompt.

        Raises:
            ScorerError: if an episode is longer than the model reads, or the model's attention
                cannot be read.
        """
        last_row.enable(self.model)
        config = self.model.config.get_text_config()
        result = [np.zeros((0, 0))] * len(episodes)
        for batch, inputs in self.batches(episodes):
            recorder = last_row.MatrixRecorder(int(config.num_hidden_layers) - 1)
            with last_row.record(recorder):
                self.model.base_model(**inputs, use_cache=False)
            if recorder.matrix is None:
                raise ScorerError(
                    f"{type(self.model).__name__} did not call its attention function; take "
                    "another model, or pass metadata['policy_attention']"
                )
            table = recorder.matrix.cpu().numpy().astype(np.float64)
            for place, index in enumerate(batch.indices):
                start = len(episodes[index].prompt_ids)
                size = start + len(episodes[index].response_ids)
                result[index] = table[place, start:size, start:size]
        return result
