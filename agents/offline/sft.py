"""Supervised fine-tuning on responses, on `transformers.Trainer`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from tokengym.agents.offline.policies import Source
from tokengym.agents.offline.scoring import INPUTS
from tokengym.agents.offline.settings import TEXT_FIGURES
from tokengym.agents.offline.trainer import OfflineOptions, OfflineTrainer
from tokengym.base.settings import accepts_settings, from_keywords
from tokengym.envs.prompts.tables import LearnOn
from tokengym.rewards.pairs.encode import EncodedTexts, TextEncoding, encode_responses
from tokengym.rewards.pairs.read import TableSource

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tokengym.agents.keywords import SFTKeywords


class SFT(OfflineTrainer):
    """Learns to write given responses: the likelihood of their tokens, not of the prompts'.

    loss = -sum over response tokens of log pi(token) / number of response tokens, over the whole
    accumulated batch and all processes; logged beside it: mean_token_log_prob, in nats, and
    mean_token_accuracy, the share of response tokens that are the likeliest ones there, as in TRL.

    Args:
        envs_or_model: As for `DPO`.
        texts: Played episodes; or input of `encode_responses`: a ``datasets.Dataset``, path or
            rows with prompt and completion (or response, or chosen), or their ids, or messages.
            None: the agent only plays.
        eval_texts: Held-out texts for ``evaluate``.
        learn_on: Answers of messages that are learned, "all" or the "last"; overrules the
            ``encoding``'s, see `TextEncoding`.
        keywords: Fields of `OfflineOptions`; ``ref_model`` is the model that the policy measures
            its KL against.

    Raises:
        DatasetError: if a text cannot be learned; the message names row and remedy.
        ModelError: if there is no model.
        ValueError: if a setting is out of range.
    """

    metric_names = TEXT_FIGURES

    default_rate = 2e-5
    """As TRL's SFT, for models of some billion parameters; tiny ones and adapters want 1e-4 to
    1e-3."""
    encode = staticmethod(encode_responses)
    columns: ClassVar[tuple[str, ...]] = ("response_ids",)
    learns_from = "best"
    is_per_token = True

    @accepts_settings(OfflineOptions)
    def __init__(
        self,
        envs_or_model: Source,
        texts: TableSource | EncodedTexts | None = None,
        *,
        eval_texts: TableSource | EncodedTexts | None = None,
        learn_on: LearnOn | None = None,
        **keywords: "Unpack[SFTKeywords]",
    ) -> None:
        options = from_keywords(OfflineOptions, dict(keywords), owner="SFT")
        if learn_on is not None:
            encoding = replace(options.encoding or TextEncoding(), learn_on=learn_on)
            options = replace(options, encoding=encoding)
        super().__init__(
            envs_or_model, texts, eval_texts, options, settings={}, with_reference=False
        )

    def losses(self, inputs: Mapping[str, Tensor], model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return loss and `metric_names` of each response, (texts,) and (texts, metrics)."""
        log_probs, likeliest = model(*(inputs[name] for name in INPUTS), with_likeliest=True)
        return -log_probs, torch.stack([log_probs.detach(), likeliest]).T
