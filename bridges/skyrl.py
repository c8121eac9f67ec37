"""Token credit in SkyRL, never run inside its trainer: token rewards and advantage estimators.

A generator of one's own ends with

    return credited(output, credit)  # a TokenCredit(scorer, "abc-signed", tokenizer=tokenizer)

and ``register(AdvantageEstimatorRegistry, config=config)`` before the run makes
``trainer.algorithm.advantage_estimator=tokengym_loo`` known; a function of named inputs is added by
``register(AdvantageEstimatorRegistry, my_idea)``, as "my-idea". Written from SkyRL 0.3.0
(`GeneratorOutput.rewards: list[list[float]]`, `AdvantageEstimatorRegistry.register`); its
registry and its ``compute_advantages_and_returns`` were run on a CPU, on responses padded on the
left. SkyRL's own "grpo", "rloo" and "maxrl" sum token rewards to one score.
"""

from __future__ import annotations

from typing import Any

from tokengym.base.errors import SettingsError
from tokengym.bridges.advantages import ESTIMATORS
from tokengym.bridges.functions import Advantage
from tokengym.bridges.registries import RegisteredAdvantage, registered
from tokengym.bridges.rows import carried, check_scored
from tokengym.credit import TokenCredit


def credited(output: dict[str, Any], credit: TokenCredit) -> dict[str, Any]:
    """Return a generator's output with the rewards of single tokens, 0 where its loss mask is.

    A response that SkyRL's ``apply_overlong_filtering`` left out, all of whose loss mask is 0, is
    not scored. Its rewards of 0 stay in the baseline of ``tokengym_loo``, as in that of SkyRL's own
    "rloo": the trainer hands an estimator the response mask, which is 1 there.

    Args:
        output: SkyRL's ``GeneratorOutput``: lists with an entry per response.
        credit: Scorer, rule and tokenizer.

    Raises:
        SettingsError: if a response is one step of several: SkyRL takes the rewards of the last
            step alone.
        ValueError: if a response begins with a token that the policy did not write.
    """
    steps = output.get("is_last_step")
    if steps is not None and not all(steps):
        raise SettingsError(
            f"{list(steps).count(False)} of {len(steps)} rows are steps of a longer trajectory, of "
            "which SkyRL reads the last one's rewards only; set "
            "generator.step_wise_trajectories=false"
        )
    kept = [row for row, mask in enumerate(output["loss_masks"]) if any(mask)]
    rewards = [[0.0] * len(ids) for ids in output["response_ids"]]
    if kept:
        ids, prompts, masks = (
            [output[name][row] for row in kept]
            for name in ("response_ids", "prompt_token_ids", "loss_masks")
        )
        sampled = output.get("rollout_logprobs")
        sampled = None if sampled is None else [sampled[row] for row in kept]
        setting = "generator.sampling_params.logprobs=1"
        figures = carried(credit, "SkyRL", sampled, setting)
        paid = credit(ids, prompts=prompts, written=masks, **figures)
        check_scored(paid.scores, "SkyRL")
        for row, tokens in zip(kept, paid.token_rewards, strict=True):
            rewards[row] = tokens[: len(rewards[row])].tolist()
    return {**output, "rewards": rewards}


def register(registry: Any, *advantages: Advantage, config: Any = None) -> None:
    """Make advantages known to SkyRL, by the function's name with hyphens.

    Those of tokengym are known as "tokengym_loo" and "tokengym_reinforce". A function, or word with
    its options, that SkyRL has from here already is left alone.

    Args:
        registry: ``skyrl.backends.skyrl_train.utils.ppo_utils.AdvantageEstimatorRegistry``.
        advantages: Words, or functions of named inputs (see `Advantage`); none: those of tokengym.
        config: SkyRL's configuration, looked through for settings that token rewards switch off.

    Raises:
        SettingsError: naming such a setting, a name that SkyRL has for another function, or what a
            function reads and SkyRL does not pass.
    """
    if config is not None and config.trainer.algorithm.zero_variance_filter:
        raise SettingsError(
            "trainer.algorithm.zero_variance_filter=true has no effect on token rewards, which "
            "SkyRL passes by its filter; set it to false"
        )
    for advantage in advantages or ESTIMATORS:
        function = registered(advantage, "skyrl")
        if function.name not in registry.list_available():
            registry.register(function.name, function)
        elif (known := registry.get(function.name)) is not function:
            is_ours = isinstance(known, RegisteredAdvantage)
            whose = f"from {known.made_of[0]!r}" if is_ours else "of its own"
            raise SettingsError(
                f"SkyRL has an estimator {function.name!r} {whose}; give the function another name"
            )
