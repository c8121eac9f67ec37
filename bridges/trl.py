"""Token credit in TRL's GRPO trainers, and advantages of one's own.

    from tokengym.bridges.trl import TokenCreditGRPOTrainer

    trainer = TokenCreditGRPOTrainer(model, credit="abc-signed", scorer="path/to/reward_model",
                                     args=GRPOConfig(...), train_dataset=prompts)
    trainer.train()

TRL gives every token of a completion the same advantage (B,), and computes its loss with one per
token (B, T) where it is given one. The trainer replaces the former by the latter after TRL has
generated and scored; nothing of TRL's method is repeated here. What tools and users said, TRL's
``tool_mask`` and a rollout function's ``env_mask``, is read and not paid. A trainer of TRL's own,
with its own reward functions, takes a function of named inputs as

    advantage_fn(trainer, my_idea)  # a GRPOTrainer, or what inherits it
    advantage_fn(trainer, weights=my_weight)  # on TRL's own advantages

before ``trainer.train()``. Tested with TRL 1.16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from tokengym.base.errors import SettingsError
from tokengym.bridges.doors import DOORS, EVERYWHERE
from tokengym.bridges.functions import Advantage, DoorAdvantage
from tokengym.bridges.trl_rows import NO_SCORER, columns_of, read_prompt
from tokengym.credit import Responses, TokenCredit

if TYPE_CHECKING:
    from tokengym.envs import Episode

OWN = "trl"
"""Name of TRL's own advantages, the same at every token: a control, with credit="sparse"."""
NO_COLUMNS = frozenset({"completions", "environments", "trainer_state", "log_extra", "log_metric"})
"""What TRL hands to reward functions beside the columns of the data."""
OF_POLICY = frozenset({"log_probs", "entropy", "hidden_states", "top_log_probs"})
"""Names that the policy is read for once more."""
OF_REFERENCE = frozenset({"ref_log_probs", "kl"})
"""Names that TRL computes where it has a reference."""
NUM_TOP = 20
"""Log-probs before each token that "top_log_probs" has, as under PPO."""


def own_advantage(advantages: Tensor) -> Tensor:
    """TRL's own advantage, the same at every token."""
    return advantages


def check_config(args: GRPOConfig) -> None:
    """Refuse settings of TRL under which credit is lost, or that expect one advantage a row."""
    if not isinstance(args, GRPOConfig):
        raise TypeError(
            f"args must be a GRPOConfig, got {type(args).__name__}, whose trainer has no place for "
            "token credit; take GRPOConfig with advantage='loo'"
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


def check_own(args: GRPOConfig, credit: Any, advantage: Advantage) -> None:
    """Refuse settings that have no effect on token credit, or under TRL's own advantages."""
    if advantage == OWN:
        if credit != "sparse":
            raise SettingsError(
                f"advantage={OWN!r} gives every token TRL's own advantage, so that "
                f"credit={credit!r} has no effect; take advantage='loo', or credit='sparse'"
            )
        return
    if list(args.reward_weights or [1.0]) != [1.0]:
        raise SettingsError(
            f"reward_weights={args.reward_weights} has no effect on token credit; weigh in the "
            f"scorer, or take advantage={OWN!r} with credit='sparse'"
        )
    default = GRPOConfig.multi_objective_aggregation
    if args.multi_objective_aggregation != default:
        raise SettingsError(
            f"multi_objective_aggregation={args.multi_objective_aggregation!r} has no effect on "
            f"token credit, which is of one scorer; leave it at {default!r}"
        )


@dataclass
class _Round:
    """What one process generated and scored."""

    rows: Sequence[Mapping[str, Any]]
    """(rows,) of the data."""
    prompts: Sequence[Any]
    prompt_ids: Sequence[Sequence[int]]
    completion_ids: Sequence[Sequence[int]]
    written: Sequence[Sequence[int]] | None
    """(rows,) of (time,), 0 at what tools said; TRL tells no reward function of it."""
    rewards: Tensor
    """(rows of all processes, functions), reward units; nan where a function gave none."""


class ByAdvantage(GRPOTrainer):
    """TRL's `GRPOTrainer` with the advantages of a function of named inputs; see `advantage_fn`.

    A completion that no reward function gave a score has advantage 0 and is not shown. In an
    evaluation, which learns nothing, all advantages are 0, and ``eval_loss`` says nothing of them.
    Where TRL has ``_transform_advantages`` (its pull request 7298), what it logs as ``advantages``
    in training is each row's mean; else they are its own, from the scores.
    """

    _advantage: DoorAdvantage | None = None
    """None leaves TRL's own, the same at every token."""
    _credit: TokenCredit | None = None
    """What pays single tokens; None pays the weighted sum of TRL's rewards at the last one."""
    _paid: tuple[Tensor, tuple[Episode, ...]] | None = None
    _generated: Any = None
    _round: _Round | None = None
    _whole: Tensor | None = None
    """(rows of all processes, time) advantages that were computed while TRL logged."""

    def _generate(self, *prompts: Any) -> Any:
        self._generated = super()._generate(*prompts)
        return self._generated

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        asked, said, written = self._generated[:3]
        self._round = _Round(inputs, prompts, asked, said, written, rewards=torch.empty(0))
        rewards: Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        self._round.rewards = rewards
        return rewards

    def _transform_advantages(self, advantages: Tensor) -> Tensor:
        """Return the advantages that TRL logs, (rows of all processes,); see pull request 7298."""
        parent = getattr(super(), "_transform_advantages", None)
        advantages = advantages if parent is None else parent(advantages)
        assert self.model is not None
        if self._advantage is None or not self.model.training:
            return advantages
        if not self._advantage.reads.isdisjoint(OF_REFERENCE):
            return advantages
        self._whole, mask = self._everyones(self._own_rows(advantages), {})
        return self._whole.sum(1) / mask.sum(1).clamp(min=1)

    def _generate_and_score_completions(
        self, inputs: list[dict[str, Tensor | Any]]
    ) -> dict[str, Tensor | Any]:
        self._whole = None
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        shape = output["completion_mask"].shape
        if self._advantage is None:  # (rows,) to (rows, time), which TRL's loss takes as well
            output["advantages"] = output["advantages"].unsqueeze(1).expand(shape).contiguous()
            return output
        assert self.model is not None
        if not self.model.training:  # of num_generations_eval=1 nothing by group could be computed
            output["advantages"] = output["advantages"].new_zeros(shape)
            return output
        if self._whole is None:
            self._whole, _ = self._everyones(output["advantages"], output)
        own = self._own_rows(self._whole)[:, : shape[1]]
        output["advantages"] = own.new_zeros(shape)
        output["advantages"][:, : own.shape[1]] = own
        return output

    def _own_rows(self, whole: Tensor) -> Tensor:
        """Return this process' rows of those of all."""
        assert self._round is not None
        first = self.accelerator.process_index * len(self._round.prompts)
        return whole[first : first + len(self._round.prompts)]

    def _everyones(self, own: Tensor, output: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the advantages of all processes' rows and their mask, (rows, longest time) each.

        Args:
            own: (rows,) TRL's advantages of this process' rows.
            output: What TRL made of them, where it has.
        """
        assert self._round is not None
        assert self._advantage is not None
        made, names = self._round, self._advantage.reads
        rewards = made.rewards * self.reward_weights.to(made.rewards.device)
        unscored = self._own_rows(made.rewards.isnan().all(1))
        scores = self._own_rows(rewards.nansum(1))
        mask = self._mask() & ~unscored[:, None]
        given: dict[str, Tensor] = {"scores": scores, "advantages": own[:, None].expand(mask.shape)}
        for name, part in zip(self.reward_func_names, made.rewards.T, strict=True):
            given[f"part {name}"] = self._own_rows(part).nan_to_num()
        given |= self._of_policy(names & OF_POLICY, mask)
        given |= self._of_reference(names & OF_REFERENCE, output, mask)
        parts = {name: given.pop(name) for name in [*given] if name.startswith("part ")}
        given = {name: value for name, value in given.items() if name in names}
        if "score_parts" in names:
            given |= parts
        return gathered_advantages(
            self.accelerator,
            self._advantage,
            self._token_rewards(mask, scores),
            mask,
            self.num_generations or 1,
            given=given,
            episodes=self._episodes() if self._needs_episodes else (),
            tokenizer=self._tokens,
        )

    @property
    def _tokens(self) -> Any:
        return getattr(self.processing_class, "tokenizer", self.processing_class)

    def _mask(self) -> Tensor:
        """Return (rows, time) bool, True at the policy's tokens that TRL learns from."""
        assert self._round is not None
        ids, written = self._round.completion_ids, self._round.written
        mask = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.bool)
        ends = {*self._tokens_that_end()} if self.mask_truncated_completions else None
        for row, own in enumerate(ids):
            if ends is None or own[-1] in ends:
                marks = [1] * len(own) if written is None else written[row]
                mask[row, : len(own)] = torch.tensor(marks, dtype=torch.bool)
        return mask.to(self.accelerator.device)

    def _tokens_that_end(self) -> list[int]:
        return [*self.eos_token_ids, self._tokens.pad_token_id]

    def _token_rewards(self, mask: Tensor, scores: Tensor) -> Tensor:
        """Return what each token earned, (rows, time), reward units."""
        if self._credit is not None:
            assert self._paid is not None
            rewards = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
            rewards[:, : self._paid[0].shape[1]] = self._paid[0].to(mask.device)
            return rewards * mask
        last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
        return last * scores[:, None].float()

    @property
    def _needs_episodes(self) -> bool:
        """Whether something is read that the mask and the rewards do not say."""
        assert self._advantage is not None
        known = {*EVERYWHERE, *DOORS["trl"].more}
        return bool(self._advantage.reads - known)

    def _episodes(self) -> list[Episode]:
        """Return this process' completions as episodes."""
        if self._paid is not None:
            return list(self._paid[1])
        assert self._round is not None
        made = self._round
        data = [{k: v for k, v in row.items() if k != "prompt"} for row in made.rows]
        return Responses(self._tokens).episodes(
            made.completion_ids,
            prompts=[read_prompt(p, row) for p, row in zip(made.prompts, data, strict=True)],
            references=[row.get("reference") for row in data],
            query_types=[row.get("query_type") for row in data],
            metadata=data,
            written=made.written,
        )

    def _of_policy(
        self, names: frozenset[str], mask: Tensor, model: Any = None
    ) -> dict[str, Tensor]:
        """Return figures of the policy that sampled, or of another model, (rows, time, ...) each.

        Rows are padded on the right: TRL pads prompts on the left without saying where they begin,
        so that a model of absolute positions would be read at other ones than it sampled at.
        """
        if not names:
            return {}
        assert self._round is not None
        device = mask.device
        prompts = self._round.prompt_ids
        texts = [[*a, *b] for a, b in zip(prompts, self._round.completion_ids, strict=True)]
        ids = torch.full((len(texts), max(map(len, texts))), self._tokens.pad_token_id)
        attended = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)], attended[row, : len(text)] = torch.tensor(text), 1
        ids, attended = ids.to(device), attended.to(device)
        found = dict[str, Tensor]()  # (rows, whole time - 1, ...), of all tokens but the first
        with torch.no_grad(), _without_dropout(self.model if model is None else model):
            if names & {"log_probs", "entropy"}:
                log_probs, entropy, _ = self._get_per_token_logps_and_entropies(
                    self.model if model is None else model,
                    ids,
                    attended,
                    ids.shape[1] - 1,
                    batch_size=self.args.per_device_train_batch_size,
                    compute_entropy="entropy" in names,
                )
                found |= {"log_probs": log_probs, "entropy": entropy}
            if names & {"hidden_states", "top_log_probs"}:
                found |= self._states(ids, attended, names)
        begins = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        places = begins[:, None] + torch.arange(mask.shape[1], device=device)
        places = places.clamp(max=ids.shape[1] - 2)  # (rows, time), which the mask cuts
        rows = torch.arange(len(texts), device=device)[:, None]
        return {n: found[n][rows, places].float() * _over(mask, found[n]) for n in names}

    def _states(self, ids: Tensor, attended: Tensor, names: frozenset[str]) -> dict[str, Tensor]:
        """Return what the policy's last layer has before each token but the first."""
        model: Any = self.accelerator.unwrap_model(self.model)
        found: dict[str, list[Tensor]] = {"hidden_states": [], "top_log_probs": []}
        for rows in torch.arange(len(ids)).split(self.args.per_device_train_batch_size):
            read = model(
                input_ids=ids[rows], attention_mask=attended[rows], output_hidden_states=True
            )
            found["hidden_states"].append(read.hidden_states[-1][:, :-1])
            if "top_log_probs" in names:
                logits = read.logits[:, :-1].float() / self.temperature
                top = logits.log_softmax(-1).topk(min(NUM_TOP, logits.shape[-1])).values
                found["top_log_probs"].append(top)
        return {name: torch.cat(parts) for name, parts in found.items() if parts}

    def _of_reference(
        self, names: frozenset[str], output: Mapping[str, Any], mask: Tensor
    ) -> dict[str, Tensor]:
        """Return the reference's log-probs, and TRL's estimate of the KL, (rows, time) each."""
        if not names:
            return {}
        if self.ref_model is None:  # adapters that are switched off, which TRL has read
            ref_log_probs = output["ref_per_token_logps"][:, : mask.shape[1]]
        else:
            log_probs = frozenset({"log_probs"})
            ref_log_probs = self._of_policy(log_probs, mask, self.ref_model)["log_probs"]
        found = {"ref_log_probs": ref_log_probs}
        if "kl" in names:
            gap = ref_log_probs - self._of_policy(frozenset({"log_probs"}), mask)["log_probs"]
            found["kl"] = gap.exp() - gap - 1  # as its loss prices it
        return {name: found[name] * mask for name in names}


def gathered_advantages(
    accelerator: Any,
    advantage: DoorAdvantage,
    token_rewards: Tensor,
    mask: Tensor,
    group_size: int,
    *,
    given: Mapping[str, Tensor] | None = None,
    episodes: Sequence[Episode] = (),
    tokenizer: Any = None,
) -> tuple[Tensor, Tensor]:
    """Return the advantages of all processes' rows and their mask, (rows, longest time) each.

    Groups of ``group_size`` consecutive rows of all processes, gathered in the processes' order,
    answer one prompt and may span processes.

    Args:
        accelerator: Accelerate's.
        advantage: What is called with the rows of all processes.
        token_rewards: (rows of this process, time), reward units.
        mask: (rows of this process, time) bool.
        group_size: Completions of each prompt.
        given: Names that the function reads, of this process' rows, (rows,) or (rows, time, ...);
            "part NAME" is one of ``score_parts``.
        episodes: (rows of this process,), where the function reads texts.
        tokenizer: The policy's.
    """

    def gathered(value: Tensor) -> Tensor:
        # Each process pads to its own longest: all pad alike, and see all rows.
        if value.dim() > 1:
            value = accelerator.pad_across_processes(value.contiguous(), dim=1)
        whole: Tensor = accelerator.gather(value)
        return whole

    known: dict[str, Any] = {name: gathered(value) for name, value in sorted((given or {}).items())}
    parts = {name: known.pop(name) for name in [*known] if name.startswith("part ")}
    if parts:
        known["score_parts"] = {name.removeprefix("part "): one for name, one in parts.items()}
    everyones = gathered(mask.int()).bool()
    rewards = gathered(token_rewards)
    advantages, _ = advantage(
        rewards,
        everyones,
        [row // group_size for row in range(len(rewards))],
        given=known,
        episodes=gather_object(list(episodes)) if episodes else (),
        tokenizer=tokenizer,
    )
    return advantages, everyones


@contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    """Read a model as it is, in whatever mode TRL left each of its parts."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _over(mask: Tensor, values: Tensor) -> Tensor:
    """Return a (rows, time) mask with the further axes of some values."""
    return mask.view(*mask.shape, *(1,) * (values.dim() - 2))


def advantage_fn(
    trainer: Any, advantage: Advantage = OWN, *, weights: Advantage | None = None
) -> Any:
    """Give each token of a TRL trainer's completions the advantage of a function of named inputs.

        trainer = GRPOTrainer(model, reward_funcs=score, args=args, train_dataset=data)
        advantage_fn(trainer, my_idea)
        trainer.train()

    Generation, rewards and loss stay TRL's. ``scores`` are the weighted sums of its reward
    functions, ``score_parts`` each of them, ``token_rewards`` the score at the last token, and
    ``advantages`` its own, the same at every token.

    Args:
        trainer: A `GRPOTrainer`, or what inherits it, before it trains.
        advantage: "loo", "reinforce", "path/to/file.py:mine", or a function, see `Advantage`;
            "trl" keeps TRL's own, for weights on them.
        weights: Factors on the advantages, (batch, time), as ``PPO(weights=...)`` takes them: a
            name, "path/to/file.py:mine", or a function.

    Returns:
        The trainer, changed in place.

    Raises:
        SettingsError: if the function reads what the trainer cannot supply, with who can, or under
            settings that take one advantage a completion.
        TypeError: of another trainer.
    """
    if not isinstance(trainer, GRPOTrainer):
        raise TypeError(
            f"trainer must be TRL's GRPOTrainer, got {type(trainer).__name__}; pass one, or what "
            "inherits it"
        )
    if isinstance(trainer, ByAdvantage):
        raise SettingsError(
            f"{type(trainer).__name__} has an advantage already; pass advantage and weights= in "
            "one call, or to TokenCreditGRPOTrainer"
        )
    if advantage == OWN and weights is None:
        raise SettingsError(
            f"advantage {OWN!r} without weights= changes nothing; pass a function of named inputs "
            "as one of the two"
        )
    args: Any = trainer.args
    check_config(args)
    columns = columns_of(trainer.train_dataset)
    kind: Any = type(trainer)
    lacks = {**lacking(args, trainer), **NO_SCORER}
    estimator = own_advantage if advantage == OWN else advantage
    function = DoorAdvantage(estimator, "trl", columns=columns, lacks=lacks, weights=weights)
    default = GRPOConfig.multi_objective_aggregation
    if args.multi_objective_aggregation != default and "advantages" not in function.reads:
        raise SettingsError(
            f"multi_objective_aggregation={args.multi_objective_aggregation!r} has no effect with "
            f"advantage {function.name!r}, which does not read 'advantages'; leave it at "
            f"{default!r}, or read score_parts"
        )
    trainer.__class__ = type(kind.__name__, (ByAdvantage, kind), {"__module__": kind.__module__})
    changed: Any = trainer
    changed._advantage = function
    return changed


def lacking(args: GRPOConfig, trainer: Any = None) -> dict[str, str]:
    """Return the names that a trainer does not have, with what would have it.

    Args:
        args: TRL's settings.
        trainer: TRL's trainer, once there is one: it knows whether its model reads images.
    """
    lacks: dict[str, str] = {}
    if args.beta == 0.0:
        remedy = "TRL reads no reference under beta=0; set GRPOConfig(beta=...)"
        lacks |= dict.fromkeys(sorted(OF_REFERENCE), remedy)
    if getattr(trainer, "_is_vlm", False):  # the further pass has no images
        remedy = "it is read of models of text alone"
        lacks |= dict.fromkeys(sorted(OF_POLICY | OF_REFERENCE), remedy)
    return lacks


class TokenCreditGRPOTrainer(ByAdvantage):
    """TRL's `GRPOTrainer` with the advantages of token credit.

    The completions are scored once, as TRL's only reward function, by their own token ids. Rewards,
    losses and gradients are as they are. A completion that the scorer gives no score (None, by a
    function) has advantage 0 and is nobody's baseline.

    Args:
        model: Model or its name, as TRL takes it.
        credit: Credit rule by name, with options as in "abc:beta=1", "file.py:name", a function
            that `token_credit` marked, or a `TokenCredit`, which brings its scorer. None is
            "abc-signed", or "sparse" where the advantage reads scores and no token rewards.
        scorer: What scores; see `tokengym.credit.TokenCredit`. A function gets the columns of the
            data set that its parameters name, as in an environment.
        reference_policy: Frozen language model of a rule that reads one; see `TokenCredit`.
        advantage: "loo": reward to go minus that of the prompt's other completions at the same
            token. "reinforce": the reward to go. "trl": TRL's own advantage at every token. Or a
            function of named inputs, see `Advantage`.
        weights: Factors on the advantages; see `advantage_fn`.
        args: TRL's settings. ``scale_rewards`` has an effect under "trl" alone.
        others: Further arguments of `GRPOTrainer`; not ``reward_funcs``.

    Raises:
        SettingsError: under settings of TRL that lose the credit, or if the advantage reads what
            cannot be supplied, with who can.
        TypeError: without a scorer, or with ``reward_funcs``.
    """

    def __init__(
        self,
        model: Any,
        *,
        credit: str | Callable[..., Any] | TokenCredit | None = None,
        scorer: Any = None,
        reference_policy: str | Path | None = None,
        advantage: Advantage = "loo",
        weights: Advantage | None = None,
        args: GRPOConfig | None = None,
        **others: Any,
    ) -> None:
        if "reward_funcs" in others:
            raise TypeError(
                "reward_funcs is tokengym's here; pass scorer=, which scores one completion, or "
                "make TRL's own GRPOTrainer and call advantage_fn(trainer, advantage), which keeps "
                "its functions"
            )
        whole = credit if isinstance(credit, TokenCredit) else None
        if whole is not None and (scorer, reference_policy) != (None, None):
            raise TypeError(
                "credit=TokenCredit(...) has its scorer and models; leave out scorer= and "
                "reference_policy="
            )
        if whole is None and (scorer is None or isinstance(scorer, TokenCredit)):
            raise TypeError(
                f"scorer must be what scores a completion, got {scorer!r}; pass the "
                "folder or name of a reward model, a scorer, or a function of one prompt and "
                "response; a TokenCredit is passed as credit="
            )
        args = GRPOConfig() if args is None else args
        check_config(args)
        columns = columns_of(others.get("train_dataset"))
        function, estimator = None, own_advantage if advantage == OWN else advantage
        places: Any = {"columns": columns, "weights": weights}
        if advantage != OWN or weights is not None:
            function = DoorAdvantage(estimator, "trl", lacks=lacking(args), **places)
        if credit is None:
            by_tokens = function is None or function.uses_token_rewards
            credit = "abc-signed" if by_tokens else "sparse"
        check_own(args, whole.reward.credit_name if whole else credit, advantage)
        super().__init__(model, reward_funcs=[self._scores], args=args, **others)
        if function is not None and len(self.reward_funcs) > 1:
            raise SettingsError(
                f"get_reward of {', '.join(self.reward_func_names[1:])} has no effect on token "
                "credit, which is of the scorer; score there what the environment knows, and leave "
                "get_reward out"
            )
        self._credit = whole or TokenCredit(
            scorer, credit, tokenizer=self._tokens, reference_policy=reference_policy
        )
        lacks = lacking(args, self)
        for name in self._credit.carries:
            if name in lacks:
                raise SettingsError(
                    f"credit {self._credit.reward.credit_name!r} reads {name!r}, which is not "
                    f"there; {lacks[name]}"
                )
        if function is not None:
            scored_by = self._credit.reward.raw_scorer
            function = DoorAdvantage(estimator, "trl", scorer=scored_by, lacks=lacks, **places)
            function.check_credit(self._credit)
        self._advantage = function

    def _scores(
        self, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        """Score the completions of this process and keep their token rewards: a reward function."""
        assert self._credit is not None
        data = {name: values for name, values in columns.items() if name not in NO_COLUMNS}
        written = None if self._round is None else self._round.written
        credited = self._credit(
            completion_ids,
            prompts=[
                read_prompt(prompt, {name: values[row] for name, values in data.items()})
                for row, prompt in enumerate(prompts)
            ],
            references=data.pop("reference", None),
            query_types=data.pop("query_type", None),
            metadata=[
                {name: values[row] for name, values in data.items()} for row in range(len(prompts))
            ],
            written=written,
            **self._carried(completion_ids),
        )
        self._paid = torch.from_numpy(credited.token_rewards), credited.episodes
        return [episode.score for episode in credited.episodes]

    def _carried(self, completion_ids: Sequence[Sequence[int]]) -> dict[str, list[list[float]]]:
        """Return the figures of the policy that the rule reads, one for each completion's token."""
        assert self._credit is not None
        names = frozenset(self._credit.carries)
        if not names:
            return {}
        figures = self._of_policy(names, self._mask())
        lengths = [len(ids) for ids in completion_ids]
        return {
            name: [row[:size].tolist() for row, size in zip(values, lengths, strict=True)]
            for name, values in figures.items()
        }
