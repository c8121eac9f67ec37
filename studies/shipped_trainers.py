"""Reading advantage estimators out of the packages of trainers, without their engines.

A trainer is neither installed nor imported: the definitions of an estimator are read from its file
by their names and run alone. Where a trainer computes advantages in the middle of a method, those
statements are run.
"""

import ast
import asyncio
import inspect
import itertools
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Function = Callable[..., Any]

INDEX: Mapping[str, str] = {
    "verl": "verl",
    "skyrl": "skyrl",
    "trl": "trl",
    "agilerl": "agilerl",
    "torchrl": "torchrl",
    "openrlhf": "openrlhf",
    "trinity-rft": "trinity-rft",
    "atropos": "atroposlib",
    "ms-swift": "ms-swift",
}
"""Trainers by the package that holds their code."""
REPOSITORIES: Mapping[str, str] = {
    "nemo-rl": "https://github.com/NVIDIA-NeMo/RL",
    "prime-rl": "https://github.com/PrimeIntellect-ai/prime-rl",
    "slime": "https://github.com/THUDM/slime",
    "rllm": "https://github.com/rllm-org/rllm",
}
"""Trainers whose code is in no package of the index."""
VERSION = "VERSION"
"""File in a trainer's folder that names what lies there."""
COMMON = {
    "torch": torch,
    "np": np,
    "itertools": itertools,
    "defaultdict": defaultdict,
    "SimpleNamespace": SimpleNamespace,
}
"""Names that every definition may use."""


class MissingError(ValueError):
    """A version of a trainer has no such definition."""


# --- fetching -------------------------------------------------------------------------------------


def fetch(trainer: str, folder: Path) -> str:
    """Download the newest version of a trainer, unpack it, and return its version.

    Nothing of it is installed or run.

    Args:
        trainer: Its name in `INDEX` or `REPOSITORIES`.
        folder: Folder of all trainers.
    """
    place = folder / trainer
    if (place / VERSION).is_file():
        return (place / VERSION).read_text(encoding="utf-8").strip()
    place.mkdir(parents=True, exist_ok=True)
    if trainer in REPOSITORIES:
        command = [
            "git",
            "clone",
            "--quiet",
            "--depth=1",
            REPOSITORIES[trainer],
            str(place / "code"),
        ]
        subprocess.run(command, check=True)
        command = ["git", "-C", str(place / "code"), "log", "-1", "--format=%h of %cs"]
        version = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(place), INDEX[trainer]], check=True)
        archive = next(path for path in place.iterdir() if path.is_file())
        if archive.suffix == ".whl":
            zipfile.ZipFile(archive).extractall(place / "code")
            version = archive.name.split("-")[1]
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(place / "code", filter="data")
            version = archive.name.removesuffix(".tar.gz").rpartition("-")[2]
    (place / VERSION).write_text(f"{version}\n", encoding="utf-8")
    return version


# --- reading definitions --------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """One trainer's files."""

    folder: Path

    @property
    def version(self) -> str:
        """What was fetched: a version, or a commit."""
        return (self.folder / VERSION).read_text(encoding="utf-8").strip()

    def file(self, name: str) -> Path:
        """Return the file whose path ends with a name."""
        found = sorted(self.folder.rglob(f"*/{name}"), key=lambda path: len(path.parts))
        if not found:
            raise MissingError(f"{self.folder.name} {self.version} has no file {name}")
        return found[0]

    def take(self, name: str, *definitions: str, **scope: Any) -> SimpleNamespace:
        """Run definitions of a file, and nothing else of it.

        Args:
            name: End of the file's path.
            definitions: "function" or "Class.method", each without its decorators.
            scope: Names that they use, beside one another and `COMMON`.

        Returns:
            The functions by their last names.
        """
        file = self.file(name)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        known = dict(_definitions(tree))
        names = {**COMMON, **scope}
        future = ast.parse("from __future__ import annotations").body
        for definition in definitions:
            if definition not in known:
                raise MissingError(f"{self.folder.name} {self.version}: {name} has no {definition}")
            node = known[definition]
            node.decorator_list = []
            module = ast.Module([*future, node], [])
            exec(compile(module, str(file), "exec"), names)
        return SimpleNamespace(**{word.rpartition(".")[2]: names[word.rpartition(".")[2]]
                                  for word in definitions})  # fmt: skip

    def statements(self, name: str, method: str, first: str, last: str, **scope: Any) -> Function:
        """Return a run of statements in the middle of a method as a function of their variables.

        Args:
            name: End of the file's path.
            method: "Class.method" that they stand in.
            first: Beginning of the first statement.
            last: Beginning of the last one, in the same block.
            scope: Names that they use, beside `COMMON`.

        Returns:
            A function of their variables by keyword, which returns all variables.
        """
        file = self.file(name)
        text = file.read_text(encoding="utf-8")
        known = dict(_definitions(ast.parse(text)))
        lines = text.splitlines()
        for block in _blocks(known.get(method)):
            starts = [lines[node.lineno - 1].strip() for node in block]
            begins = [i for i, start in enumerate(starts) if start.startswith(first)]
            ends = [i for i, start in enumerate(starts) if start.startswith(last)]
            if begins and any(end >= begins[0] for end in ends):
                end = next(end for end in ends if end >= begins[0])
                body = lines[block[begins[0]].lineno - 1 : block[end].end_lineno]
                code = compile(textwrap.dedent("\n".join(body)), str(file), "exec")

                return partial(_variables, code, {**COMMON, **scope})
        raise MissingError(
            f"{self.folder.name} {self.version}: {method} has no statements from {first!r} to "
            f"{last!r}"
        )


def _variables(code: Any, scope: Mapping[str, Any], **given: Any) -> SimpleNamespace:
    """Run statements and return all variables."""
    names = {**scope, **given}
    exec(code, names)
    return SimpleNamespace(**{name: value for name, value in names.items() if name[:2] != "__"})


def _definitions(tree: ast.Module) -> list[tuple[str, Any]]:
    """Return the functions of a module and the methods of its classes by name."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [(node.name, node) for node in tree.body if isinstance(node, kinds)]
    for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        found += [(f"{owner.name}.{n.name}", n) for n in owner.body if isinstance(n, kinds)]
    return found


def _blocks(node: Any) -> list[list[ast.stmt]]:
    """Return every list of statements inside a definition, outer ones first."""
    return [
        block
        for inner in (ast.walk(node) if node is not None else ())
        for block in (getattr(inner, "body", None), getattr(inner, "orelse", None))
        if isinstance(block, list) and block
    ]


# --- trainers -------------------------------------------------------------------------------------


def verl(function: str, *others: str, **fixed: Any) -> Callable[[Source], Function]:
    """Return what makes a function of verl's registry."""

    def make(source: Source) -> Function:
        tensors = source.take(
            "verl/utils/torch_functional.py", "masked_sum", "masked_mean", "masked_var",
            "masked_whiten",
        )  # fmt: skip
        groups = source.take(
            "verl/utils/groupwise.py", "_resolve_device", "_to_1d_numpy_object_array",
            "as_torch_index", "group_mean_std",
        )  # fmt: skip
        own = source.take(
            "verl/trainer/ppo/core_algos.py", *others, function, verl_F=tensors,
            as_torch_index=partial(groups.as_torch_index, device="cpu"),
            group_mean_std=groups.group_mean_std,
        )  # fmt: skip
        return partial(getattr(own, function), **fixed) if fixed else getattr(own, function)

    return make


def skyrl(function: str, **fixed: Any) -> Callable[[Source], Function]:
    """Return what makes a function of SkyRL's registry.

    Its trainer passes a mask of the whole response, replies included; what a reply's tokens get is
    masked later, in the loss.
    """

    def make(source: Source) -> Function:
        sys.modules.setdefault("loguru", SimpleNamespace(logger=SimpleNamespace(warning=print)))  # type: ignore[arg-type]
        mean = source.take("skyrl_train/utils/torch_utils.py", "masked_mean").masked_mean
        file = "skyrl_train/utils/ppo_utils.py"
        taken = source.take(file, "masked_var", "masked_whiten", function, masked_mean=mean)
        own = getattr(taken, function)

        def by_value(
            token_rewards: Tensor, response_ids: Tensor, values: Tensor, gamma: float
        ) -> Any:
            mask = (response_ids > 0).long()
            return own(token_rewards, values, mask, gamma, **fixed)

        def by_token(token_rewards: Tensor, response_ids: Tensor, gamma: float) -> Any:
            return own(token_rewards, (response_ids > 0).long(), gamma, **fixed)

        def by_group(token_rewards: Tensor, response_ids: Tensor, group_ids: Tensor) -> Any:
            index = np.array([str(int(group)) for group in group_ids], dtype=object)
            return own(token_rewards, (response_ids > 0).long(), index, **fixed)

        words = inspect.signature(own).parameters
        return by_value if "values" in words else by_token if "gamma" in words else by_group

    return make


def trl_grpo(aggregation: str, scale: str) -> Callable[[Source], Function]:
    """Return what makes the advantages of TRL's GRPO trainer."""

    def make(source: Source) -> Function:
        nanstd = source.take("trl/trainer/utils.py", "nanstd").nanstd
        run = source.statements(
            "trl/trainer/grpo_trainer.py", "GRPOTrainer._generate_and_score_completions",
            "unscorable_mask =", "advantages = torch.nan_to_num", nanstd=nanstd,
        )  # fmt: skip
        trainer = SimpleNamespace(
            multi_objective_aggregation=aggregation,
            scale_rewards=scale,
            reward_weights=torch.ones(1),
            reward_funcs=[None],
        )

        def advantages(rewards: Tensor, num_generations: int) -> Tensor:
            found = run(
                self=trainer, rewards_per_func=rewards[:, None], num_generations=num_generations,
                device="cpu",
            )  # fmt: skip
            return found.advantages

        return advantages

    return make


def trl_rloo(normalize: bool) -> Callable[[Source], Function]:
    """Return what makes the advantages of TRL's RLOO trainer."""

    def make(source: Source) -> Function:
        nanstd = source.take("trl/trainer/utils.py", "nanstd").nanstd
        run = source.statements(
            "trl/trainer/rloo_trainer.py", "RLOOTrainer._generate_and_score_completions",
            "grouped_rewards =", "advantages = torch.nan_to_num", nanstd=nanstd,
        )  # fmt: skip
        trainer = SimpleNamespace(normalize_advantages=normalize)

        def advantages(rewards: Tensor, num_generations: int) -> Tensor:
            return run(self=trainer, rewards=rewards, num_generations=num_generations).advantages

        return advantages

    return make


def trl_async(source: Source) -> Function:
    """Return the advantages of TRL's experimental asynchronous GRPO."""
    run = source.statements(
        "async_grpo/async_rollout_worker.py", "_AsyncRolloutLoop._score_group",
        "scored_mask =", "if scored_mask.any",
    )  # fmt: skip

    def advantages(rewards: Tensor, num_generations: int) -> Any:
        groups = rewards.double().numpy().reshape(-1, num_generations)
        return np.concatenate([run(rewards=group).advantages for group in groups])

    return advantages


def agilerl_grpo(granularity: str, norm: str) -> Callable[[Source], Function]:
    """Return what makes the advantages of AgileRL's GRPO."""

    def make(source: Source) -> Function:
        helper = source.take("agilerl/utils/llm_utils.py", "baseline_free_turn_cells")
        methods = (
            "_calculate_advantage", "_calculate_turn_advantage", "_turn_broadcast_advantages",
            "_trajectory_advantages", "_assert_batch_divisible_by_group",
        )  # fmt: skip
        own = source.take(
            "agilerl/algorithms/grpo.py", *(f"GRPO.{name}" for name in methods), **vars(helper)
        )

        def advantages(
            rewards: Tensor, turn_ids: Tensor, action_masks: Tensor, group_size: int
        ) -> Tensor:
            learner = SimpleNamespace(
                group_size=group_size, adv_norm=norm, device="cpu",
                turn_advantage_trajectory_fallback=True,
            )  # fmt: skip
            for name in methods:
                setattr(learner, name, partial(getattr(own, name), learner))
            if granularity == "trajectory":
                return learner._trajectory_advantages(rewards, len(rewards), turn_ids)
            return learner._turn_broadcast_advantages(rewards, turn_ids, action_masks, len(rewards))

        return advantages

    return make


def agilerl_rebn(source: Source) -> Function:
    """Return the advantages of AgileRL's REINFORCE: of tokens, or of turns if there are several."""
    helpers = source.take(
        "agilerl/utils/llm_utils.py", "pool_by_turns", "batch_is_single_turn",
        "resolve_batch_advantage_granularity",
    )  # fmt: skip
    names = ("_compute_token_rewards", "_compute_rebn_advantages", "_compute_rebn_advantages_token",
             "_resolve_advantage_granularity")  # fmt: skip
    own = source.take(
        "agilerl/algorithms/reinforce_llm.py", *(f"REINFORCE.{name}" for name in names),
        **vars(helpers),
    )  # fmt: skip

    def advantages(rewards: Tensor, turn_ids: Tensor, action_masks: Tensor, gamma: float) -> Tensor:
        learner = SimpleNamespace(gamma=gamma, advantage_granularity="auto")
        each = own._compute_token_rewards(learner, action_masks, rewards, turn_ids)
        if own._resolve_advantage_granularity(learner, turn_ids) == "token":
            return own._compute_rebn_advantages_token(learner, each, action_masks)
        return own._compute_rebn_advantages(learner, each, action_masks, turn_ids)

    return advantages


def torchrl_steps(source: Source) -> Function:
    """Return the advantages of TorchRL's MCAdvantage by its default, whose steps are turns here."""
    run = source.statements(
        "objectives/llm/grpo.py", "MCAdvantage._inv_call_single", "reward_mean =", "advantage ="
    )

    def advantages(
        rewards: Tensor, turn_ids: Tensor, action_masks: Tensor, group_size: int
    ) -> Tensor:
        played = torch.arange(rewards.shape[1]) <= turn_ids.max(1, keepdim=True).values
        of_turn = torch.zeros_like(rewards)
        for start in range(0, len(rewards), group_size):
            rows = slice(start, start + group_size)
            reward = rewards[rows][played[rows]]
            of_turn[rows][played[rows]] = run(reward=reward, reward_values=reward).advantage
        return of_turn.gather(1, turn_ids.clamp(min=0)) * action_masks

    return advantages


def torchrl_returns(source: Source) -> Function:
    """Return the advantages of TorchRL's MCAdvantage with trajectory_return="sum"."""
    run = source.statements(
        "objectives/llm/grpo.py", "MCAdvantage._trajectory_advantage", "advantage =", "advantage ="
    )

    def advantages(rewards: Tensor, num_generations: int) -> Tensor:
        return torch.cat([run(returns=own).advantage for own in rewards.split(num_generations)])

    return advantages


def openrlhf(estimator: str) -> Callable[[Source], Function]:
    """Return what makes the advantages of OpenRLHF, through its own method."""

    def make(source: Source) -> Function:
        reward = source.take("openrlhf/models/utils.py", "compute_reward").compute_reward
        names = ("compute_advantages_and_returns", "get_advantages_and_returns",
                 "get_cumulative_returns")  # fmt: skip
        file = "openrlhf/trainer/ppo_utils/experience_maker.py"
        tree = ast.parse(source.file(file).read_text(encoding="utf-8"))
        owner = next(
            name.partition(".")[0] for name, _ in _definitions(tree) if name.endswith(names[0])
        )
        own = source.take(
            file, *(f"{owner}.{name}" for name in names), compute_reward=reward,
            apply_length_penalties=lambda experiences, args: None,
            logger=SimpleNamespace(warning=lambda *_: None),
        )  # fmt: skip

        def advantages(
            scores: Tensor, response_mask: Tensor, values: Tensor, size: int, gamma: float
        ) -> Tensor:
            advantage = SimpleNamespace(
                estimator=estimator, gamma=gamma, lambd=1.0, no_std_norm=False
            )
            args = SimpleNamespace(
                rollout=SimpleNamespace(n_samples_per_prompt=size),
                algo=SimpleNamespace(advantage=advantage),
                reward=SimpleNamespace(clip_range=None),
            )
            experience = SimpleNamespace(
                rewards=scores, index=list(range(len(scores))), values=values, info={},
                kl=torch.zeros(response_mask.shape), action_mask=response_mask.long(),
            )  # fmt: skip
            maker = SimpleNamespace(
                strategy=SimpleNamespace(args=args), advantage_estimator=estimator,
                kl_ctl=SimpleNamespace(value=0.0),
            )  # fmt: skip
            for name in names[1:]:
                setattr(maker, name, partial(getattr(own, name), maker))
            own.compute_advantages_and_returns(maker, [experience])
            return experience.advantages

        # Which of these an estimator reads; those with groups set the discount to 1.
        def by_value(scores: Tensor, response_mask: Tensor, values: Tensor, gamma: float) -> Any:
            return advantages(scores, response_mask, values, len(scores), gamma)

        def by_response(scores: Tensor, response_mask: Tensor, gamma: float) -> Any:
            return by_value(scores, response_mask, torch.zeros(response_mask.shape), gamma)

        def by_group(scores: Tensor, response_mask: Tensor, group_size: int) -> Any:
            nothing = torch.zeros(response_mask.shape)
            return advantages(scores, response_mask, nothing, group_size, 1.0)

        kinds: dict[str, Function] = {"gae": by_value, "reinforce": by_response}
        return kinds.get(estimator, by_group)

    return make


def trinity(file: str, owner: str, **settings: Any) -> Callable[[Source], Function]:
    """Return what makes the advantages of a group in Trinity-RFT."""

    def make(source: Source) -> Function:
        calculate = source.take(
            f"advantage_fn/{file}.py", f"{owner}.calculate_group_advantage"
        ).calculate_group_advantage

        def advantages(scores: Tensor, response_mask: Tensor, group_ids: Tensor) -> Tensor:
            found = torch.zeros(response_mask.shape)
            for group in group_ids.unique():
                rows = (group_ids == group).nonzero()[:, 0]
                some = [
                    SimpleNamespace(reward=float(scores[row]), action_mask=response_mask[row])
                    for row in rows
                ]
                calculate(SimpleNamespace(**settings), "group", some)
                for row, each in zip(rows, some, strict=True):
                    found[row] = each.advantages
            return found

        return advantages

    return make


def trinity_batch(file: str, owner: str) -> Callable[[Source], Function]:
    """Return what makes the advantages of a whole batch in Trinity-RFT."""

    def make(source: Source) -> Function:
        utils = source.take(
            "trinity/algorithm/utils.py", "masked_sum", "masked_mean", "masked_var",
            "masked_whiten",
        )  # fmt: skip
        call = source.take(f"advantage_fn/{file}.py", f"{owner}.__call__", **vars(utils))

        def advantages(
            token_rewards: Tensor, response_mask: Tensor, values: Tensor, gamma: float
        ) -> Tensor:
            batch = {
                "token_level_rewards": token_rewards,
                "response_mask": response_mask.long(),
                "values": values,
            }
            held = SimpleNamespace(batch=batch)
            vars(call)["__call__"](SimpleNamespace(gamma=gamma, lam=1.0), held)
            return held.batch["advantages"]

        return advantages

    return make


def atropos(source: Source) -> Function:
    """Return Atropos's advantages under process supervision."""
    file = "atroposlib/utils/advantages.py"
    names = ("compute_stats", "compute_discounted_returns")
    own = source.take(file, *names, "compute_grpo_process_supervision_advantages")
    return own.compute_grpo_process_supervision_advantages


def swift(estimator: str, scale: str) -> Callable[[Source], Function]:
    """Return what makes the advantages of ms-swift."""

    def make(source: Source) -> Function:
        nanstd = lambda x, dim=None, keepdim=False: x.std(dim=dim, keepdim=keepdim)  # noqa: E731
        own = source.take("swift/rl_core/advantage.py", "compute_advantages", nanstd=nanstd)

        def advantages(rewards: Tensor, num_generations: int) -> Tensor:
            return own.compute_advantages(
                rewards[:, None], torch.ones(1), num_generations, estimator, scale
            )[0]

        return advantages

    return make


def nemo(owner: str, **settings: Any) -> Callable[[Source], Function]:
    """Return what makes the advantages of an estimator of NeMo-RL."""

    def make(source: Source) -> Function:
        utils = source.take(
            "nemo_rl/algorithms/utils.py", "calculate_baseline_and_std_per_prompt",
            "masked_mean", "masked_var",
        )  # fmt: skip
        own = source.take(
            "nemo_rl/algorithms/advantage_estimator.py", f"{owner}.compute_advantage",
            **vars(utils),
        )  # fmt: skip

        def advantages(prompt_ids: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
            return own.compute_advantage(SimpleNamespace(**settings), prompt_ids, rewards, mask)

        return advantages

    return make


def prime(file: str, owner: str) -> Callable[[Source], Function]:
    """Return what makes the advantages of a group in prime-rl."""

    def make(source: Source) -> Function:
        credited: dict[int, float] = {}
        own = source.take(
            f"orchestrator/algo/{file}.py", f"{owner}.score_group",
            iter_trainable_traces=lambda episodes: [(None, trace) for trace in episodes],
            assign_advantages=lambda trace, value: credited.update({trace.row: value}),
        )  # fmt: skip

        def advantages(scores: Tensor, group_ids: Tensor) -> list[float]:
            credited.clear()
            for group in group_ids.unique():
                rows = (group_ids == group).nonzero()[:, 0].tolist()
                traces = [SimpleNamespace(row=row, reward=float(scores[row])) for row in rows]
                asyncio.run(own.score_group(SimpleNamespace(length_penalty=None), traces))
            return [credited[row] for row in range(len(scores))]

        return advantages

    return make


def slime_returns(source: Source) -> Function:
    """Return slime's discounted returns of token rewards."""
    own = source.take(
        "slime/utils/ppo_utils.py", "chunked_discounted_returns", F=torch.nn.functional
    )
    return lambda token_rewards, response_mask, gamma: own.chunked_discounted_returns(
        token_rewards * response_mask, gamma
    )


def slime_gae(source: Source) -> Function:
    """Return slime's GAE of token rewards."""
    own = source.take(
        "slime/utils/ppo_utils.py", "chunked_discounted_returns", "chunked_gae",
        F=torch.nn.functional,
    )  # fmt: skip
    return lambda token_rewards, response_mask, values, gamma: own.chunked_gae(
        token_rewards * response_mask, values, gamma, 1.0
    )[0]


def rllm(function: str, *others: str) -> Callable[[Source], Function]:
    """Return what makes a function of rLLM's registry."""

    def make(source: Source) -> Function:
        helpers = source.take("algorithms/rl_algo.py", *others) if others else SimpleNamespace()
        return getattr(
            source.take("trainer/algorithms/advantage.py", function, **vars(helpers)), function
        )

    return make
