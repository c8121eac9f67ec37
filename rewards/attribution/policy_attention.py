"""What a policy attended to while it wrote: the weights of ABC-D and ABC-D2."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokengym.envs.episode import Episode
from tokengym.rewards.attribution import last_row
from tokengym.rewards.errors import ScorerError
from tokengym.rewards.models.batching import padded_batches
from tokengym.rewards.models.loading import (
    check_vocabularies,
    evaluating,
    load_pretrained,
    load_tokenizer,
    positions,
    vocabulary_size,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PolicyAttention:
    """Reads the last layer's attention of a causal language model over finished responses.

    It is recomputed in one pass over the finished text: what position t attends to does not depend
    on what follows it, so this is the attention of the generation, if the model is the one that
    generated. No logits are computed.

    Args:
        model: A causal language model; put in eval mode while it reads.
        tokenizer: Its tokenizer, compared to the policy's by `bind`; None compares sizes.
        batch_size: Most sequences per pass.
        name: In messages.

    Raises:
        ScorerError: if ``batch_size`` is not positive.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        batch_size: int = 32,
        name: str = "PolicyAttention",
    ) -> None:
        if batch_size < 1:
            raise ScorerError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.name = name
        self._backbone: Any = model.base_model
        parameters = inspect.signature(self._backbone.forward).parameters
        self._takes_positions = "position_ids" in parameters

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str = "auto", dtype: str = "float32"
    ) -> "PolicyAttention":
        """Return the reader of the language model stored in a folder or under a hub name.

        Args:
            path: Folder or hub name.
            device: "auto" takes a GPU if there is one.
            dtype: Type of the weights.

        Raises:
            ScorerError: if there is no such model.
        """
        from transformers import AutoModelForCausalLM

        return cls(
            load_pretrained(AutoModelForCausalLM, path, dtype=dtype, device=device),
            tokenizer=load_tokenizer(path),
            name=f"PolicyAttention({Path(path).name})",
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "PolicyAttention":
        """Return itself: a model is shared; Gymnasium copies the arguments of every environment."""
        return self

    def bind(self, tokenizer: "PreTrainedTokenizerBase") -> "PolicyAttention":
        """Return itself after comparing the policy's vocabulary with the model's.

        Raises:
            TokenizerError: if an id would be outside the model, or mean another word.
        """
        size = vocabulary_size(self.model)
        check_vocabularies(policy=tokenizer, own=self.tokenizer, size=size, name=self.name)
        return self

    def matrices(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Return, per episode, the attention of its response's tokens to each other.

        Args:
            episodes: Finished episodes.

        Returns:
            Per episode (n, n): query by key, averaged over the last layer's heads; the rest of
            each row fell on the prompt.

        Raises:
            ScorerError: if an episode is longer than the model reads, or the model's attention
                cannot be read.
        """
        last_row.enable(self.model)
        config = self.model.config.get_text_config()
        sequences = [[*episode.prompt_ids, *episode.response_ids] for episode in episodes]
        limit = positions(self.model)
        for index, ids in enumerate(sequences):
            if limit is not None and len(ids) > limit:
                raise ScorerError(
                    f"episode {index} has {len(ids)} tokens, {self.name!r} reads at most {limit}; "
                    "lower max_prompt_tokens or max_new_tokens"
                )
        device = self.model.device
        result = [np.zeros((0, 0))] * len(episodes)
        with evaluating(self.model), torch.no_grad():
            for batch in padded_batches(sequences, batch_size=self.batch_size):
                inputs = {
                    "input_ids": torch.from_numpy(batch.input_ids).to(device),
                    "attention_mask": torch.from_numpy(batch.attention_mask).to(device),
                }
                if self._takes_positions:
                    inputs["position_ids"] = torch.from_numpy(batch.position_ids).to(device)
                recorder = last_row.MatrixRecorder(int(config.num_hidden_layers) - 1)
                with last_row.record(recorder):
                    self._backbone(**inputs, use_cache=False)
                if recorder.matrix is None:
                    raise ScorerError(
                        f"{type(self.model).__name__} did not call its attention function; take "
                        "another model, or pass metadata['policy_attention']"
                    )
                table = recorder.matrix.cpu().numpy().astype(np.float64)
                for place, index in enumerate(batch.indices):
                    size, start = len(sequences[index]), len(episodes[index].prompt_ids)
                    result[index] = table[place, start:size, start:size]
        return result
