"""Parts behind the door; a GPU's and a group's are imported when asked for."""

from typing import Any

import torch
from torch import Tensor, nn

from tokengym.agents.fast import products
from tokengym.agents.fast.gpt2 import GPT2Stream, has_gpt2_shape
from tokengym.agents.fast.llama import LlamaStream, has_llama_shape
from tokengym.agents.policy.door import Library, Plain
from tokengym.agents.policy.language_model import LanguageModel
from tokengym.agents.policy.streams import Stream
from tokengym.base.registry import imported

CAPTURED_SAMPLER = "tokengym.agents.fast.captured:CapturedSampler"
CHECK_STATIC = "tokengym.agents.fast.static:check_static"
CHECK_KERNELS = "tokengym.agents.fast.kernels.check:check_kernels"
TOKEN_FIGURES = "tokengym.agents.fast.kernels.vocabulary:token_figures"
LONGEST_TEXT = "tokengym.agents.fast.kernels.trunk:longest_text"
HIDDEN = "tokengym.agents.fast.kernels.trunk:hidden"
JOIN = "tokengym.agents.fast.group:join"


class Parts(Plain):
    """The faster parts; see `Plain` for each."""

    def stream(self, language_model: LanguageModel, capacity: int) -> Stream | None:
        """See `Plain.stream`: GPT-2, and Llama and Qwen2 on a CPU, have one."""
        if has_gpt2_shape(language_model):
            return GPT2Stream(language_model, capacity)
        if has_llama_shape(language_model):
            return LlamaStream(language_model, capacity)
        return None

    def captured_sampler(
        self, policy: Any, generator: torch.Generator, share: tuple[int, int] = (0, 1)
    ) -> Any:
        """See `Plain.captured_sampler`."""
        return imported(CAPTURED_SAMPLER)(policy, generator, share)

    def check_static(self, language_model: LanguageModel, dtype: torch.dtype | None) -> None:
        """See `Plain.check_static`."""
        imported(CHECK_STATIC)(language_model, dtype)

    def check_kernels(self, device: torch.device) -> None:
        """See `Plain.check_kernels`."""
        imported(CHECK_KERNELS)(device)

    def token_figures(self, states: Tensor, weight: Tensor, asked: Any) -> tuple[Tensor, ...]:
        """See `Plain.token_figures`."""
        figures: tuple[Tensor, ...] = imported(TOKEN_FIGURES)(states, weight, asked)
        return figures

    def longest_text(self, language_model: LanguageModel) -> int:
        """See `Plain.longest_text`."""
        return int(imported(LONGEST_TEXT)(language_model))

    def hidden(self, trunk: Any, input_ids: Tensor) -> Tensor:
        """See `Plain.hidden`."""
        states: Tensor = imported(HIDDEN)(trunk, input_ids)
        return states

    def library(self, wanted: Any) -> Library:
        """See `Plain.library`."""
        return products.library(wanted)

    def has_onednn(self) -> bool:
        """See `Plain.has_onednn`."""
        return products.has_onednn()

    def use_products(self, model: nn.Module, chosen: Library) -> None:
        """See `Plain.use_products`."""
        products.use_products(model, chosen)

    def multiple(self, chosen: Library) -> int:
        """See `Plain.multiple`."""
        return products.MULTIPLE if chosen == "onednn" else 1

    def product(self, x: Tensor, weight: Tensor) -> Tensor | None:
        """See `Plain.product`."""
        return products.multiplied(x, weight) if products.is_faster(x, weight) else None

    def transposed_product(self, left: Tensor, right: Tensor) -> Tensor:
        """See `Plain.transposed_product`."""
        return products.transposed_product(left, right)

    def join(self, device: torch.device | str) -> Any:
        """See `Plain.join`."""
        return imported(JOIN)(device)
