"""Token credit in TRL's GRPO trainer.

    from tokengym.bridges.trl import TokenCreditGRPOTrainer

    trainer = TokenCreditGRPOTrainer(model, credit="abc-signed", scorer="path/to/reward_model",
                                     args=GRPOConfig(...), train_dataset=prompts)
    trainer.train()

TRL gives every token of a completion the same advantage (B,), and computes its loss with one per
token (B, T) where it is given one. The trainer replaces the former by the latter after TRL has
generated and scored; nothing of TRL's method is repeated here. What tools and users said, TRL's
``tool_mask`` and a rollout function's ``env_mask``, is read and not paid. Tested with TRL 1.16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from tokengym.base.chat import ROW_FIELDS, Chat
from tokengym.base.errors import SettingsError
from tokengym.bridges.advantages import check_token_estimator, token_advantages
from tokengym.credit import TokenCredit

OWN = "trl"
"""Name of TRL's own advantages, the same at every token: a control, with credit="sparse"."""
NO_COLUMNS = frozenset({"completions", "environments", "trainer_state", "log_extra", "log_metric"})
"""What TRL hands to reward functions beside the columns of the data."""


def check_config(args: GRPOConfig, credit: str, estimator: str) -> None:
    """Refuse settings of TRL under which credit is lost, or that expect one advantage a row."""
    if not isinstance(args, GRPOConfig):
        raise TypeError(
            f"args must be a GRPOConfig, got {type(args).__name__}, whose trainer has no place for "
            "token credit; take GRPOConfig with estimator='loo'"
        )
    if args.importance_sampling_level != "token":
        raise SettingsError(
            f"importance_sampling_level={args.importance_sampling_level!r} has one ratio for a "
            "response, so that only the mean of its credit is left; take 'token'"
        )
    if args.loss_type in ("vespo", "luspo"):
        raise SettingsError(
            f"loss_type={args.loss_type!r} weighs whole responses by their advantage; take 'dapo', "
            "'grpo', 'dr_grpo', 'bnpo', 'cispo' or 'sapo'"
        )
    if args.off_policy_mask_threshold is not None:
        raise SettingsError(
            "off_policy_mask_threshold masks whole responses by their advantage; leave it out"
        )
    if args.use_liger_kernel:
        raise SettingsError(
            "use_liger_kernel=True computes its loss from one advantage a response; leave it out"
        )
    check_token_estimator(estimator, OWN)
    if estimator == OWN:
        if credit != "sparse":
            raise SettingsError(
                f"estimator={OWN!r} gives every token TRL's own advantage, so that "
                f"credit={credit!r} has no effect; take estimator='loo', or credit='sparse'"
            )
        return
    if list(args.reward_weights or [1.0]) != [1.0]:
        raise SettingsError(
            f"reward_weights={args.reward_weights} has no effect on token credit; weigh in the "
            f"scorer, or take estimator={OWN!r} with credit='sparse'"
        )
    default = GRPOConfig.multi_objective_aggregation
    if args.multi_objective_aggregation != default:
        raise SettingsError(
            f"multi_objective_aggregation={args.multi_objective_aggregation!r} has no effect on "
            f"token credit, which is of one scorer; leave it at {default!r}"
        )


class TokenCreditGRPOTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer` with the advantages of token credit.

    The completions are scored once, as TRL's only reward function, by their own token ids. What TRL
    logs as ``advantages`` are its own, from the scores; rewards, losses and gradients are as they
    are. A completion that the scorer gives no score (None, by a function) has advantage 0 and is
    nobody's baseline.

    Args:
        model: Model or its name, as TRL takes it.
        credit: Credit rule by name, with options as in "abc:beta=1", or "file.py:Name".
        scorer: What scores; see `tokengym.credit.TokenCredit`. A function gets the columns of the
            data set that its parameters name, as in an environment.
        reference_policy: Frozen language model of a rule that reads one; see `TokenCredit`.
        estimator: "loo": reward to go minus that of the prompt's other completions at the same
            token. "reinforce": the reward to go. "trl": TRL's own advantage at every token.
        args: TRL's settings. ``scale_rewards`` has an effect under "trl" alone.
        others: Further arguments of `GRPOTrainer`; not ``reward_funcs``.
    """

    def __init__(
        self,
        model: Any,
        *,
        credit: str = "abc-signed",
        scorer: Any,
        reference_policy: str | Path | None = None,
        estimator: str = "loo",
        args: GRPOConfig | None = None,
        **others: Any,
    ) -> None:
        args = GRPOConfig() if args is None else args
        check_config(args, credit, estimator)
        if "reward_funcs" in others:
            raise TypeError("reward_funcs is tokengym's here; pass scorer and credit")
        self._estimator = estimator
        self._paid: tuple[Tensor, Tensor] | None = None
        self._written: Sequence[Sequence[int]] | None = None
        super().__init__(model, reward_funcs=[self._scores], args=args, **others)
        if estimator != OWN and len(self.reward_funcs) > 1:
            raise SettingsError(
                f"get_reward of {', '.join(self.reward_func_names[1:])} has no effect on token "
                "credit, which is of the scorer; score there what the environment knows, and leave "
                "get_reward out"
            )
        tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
        self._credit = TokenCredit(
            scorer,
            credit,
            tokenizer=tokenizer,
            reference_policy=reference_policy,
        )

    def _scores(
        self, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        """Score the completions of this process and keep their token rewards: a reward function."""
        data = {name: values for name, values in columns.items() if name not in NO_COLUMNS}
        credited = self._credit(
            completion_ids,
            prompts=[
                _read(prompt, {name: data[name][row] for name in ROW_FIELDS if name in data})
                for row, prompt in enumerate(prompts)
            ],
            references=data.pop("reference", None),
            query_types=data.pop("query_type", None),
            metadata=[
                {name: values[row] for name, values in data.items()} for row in range(len(prompts))
            ],
            written=self._written,
        )
        known = [episode.score is not None for episode in credited.episodes]
        self._paid = torch.from_numpy(credited.token_rewards), torch.tensor(known)
        return [episode.score for episode in credited.episodes]

    def _generate(self, *prompts: Any) -> Any:
        generated = super()._generate(*prompts)
        self._written = generated[2]  # 0 at what tools said; TRL tells no reward function of it
        return generated

    def _generate_and_score_completions(
        self, inputs: list[dict[str, Tensor | Any]]
    ) -> dict[str, Tensor | Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mask = output["completion_mask"].bool()
        if "tool_mask" in output:
            mask = mask & output["tool_mask"].bool()
        if self._estimator == OWN:  # (rows,) to (rows, time), which TRL's loss takes as well
            output["advantages"] = output["advantages"].unsqueeze(1).expand(mask.shape).contiguous()
            return output
        assert self._paid is not None
        assert self.model is not None
        size = self.num_generations if self.model.training else self.num_generations_eval
        paid, scored = (part.to(mask.device) for part in self._paid)
        mask &= scored.unsqueeze(1)
        rewards = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
        rewards[:, : paid.shape[1]] = paid
        output["advantages"] = gathered_advantages(
            self.accelerator, rewards * mask, mask, size or 1, self._estimator
        )
        return output


def gathered_advantages(
    accelerator: Any, token_rewards: Tensor, mask: Tensor, group_size: int, estimator: str
) -> Tensor:
    """Return the advantages of this process' rows, (rows, time) each, in reward units.

    Groups of ``group_size`` consecutive rows of all processes, gathered in the processes' order,
    answer one prompt and may span processes.
    """
    # Each process pads to its own longest: all pad alike, see all rows, and keep their own.
    padded = accelerator.pad_across_processes(token_rewards, dim=1)
    everyone = accelerator.gather(padded)  # (rows of all processes, longest time)
    masks = accelerator.gather(accelerator.pad_across_processes(mask.int(), dim=1)).bool()
    prompts = [row // group_size for row in range(len(everyone))]
    advantages = token_advantages(everyone, masks, prompts, estimator)
    first = accelerator.process_index * len(token_rewards)
    return advantages[first : first + len(token_rewards), : token_rewards.shape[1]]


def _read(prompt: Any, row: Mapping[str, Any]) -> str | Chat:
    """Return a prompt as a text or conversation, of whose contents texts alone are scored."""
    if isinstance(prompt, str):
        return prompt
    said = []
    for message in prompt:
        content = message.get("content") or ""  # a message that only calls tools says nothing
        if not isinstance(content, str):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        said.append({**message, "content": content})
    return Chat.of_row(said, row)
