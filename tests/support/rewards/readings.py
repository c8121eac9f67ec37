"""Episodes and an encoder whose relevance is worked out by hand."""

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from tests.support.rewards.common import make_episode, scale_weights
from tests.support.rewards.last_row import CONFIGS


def build(name, factor=3.0):
    torch.manual_seed(0)
    model: Any = AutoModelForSequenceClassification.from_config(
        CONFIGS[name](), attn_implementation="eager"
    )
    return scale_weights(model, factor)


def embedded_score(model):
    """Return a function of embedded sequences that gives the score at the last position."""

    def score(embeddings):
        hidden = getattr(model, model.base_model_prefix)(inputs_embeds=embeddings)
        return model.score(hidden.last_hidden_state[:, -1])[:, 0]

    return score


def embed(model, episode):
    ids = torch.tensor([[*episode.prompt_ids, *episode.response_ids]])
    return model.get_input_embeddings()(ids).detach()


EPISODES = [make_episode(response_ids=[5, 6, 1]), make_episode(response_ids=[7])]
