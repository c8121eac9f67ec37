"""DPO and SFT as learners by name."""

from dataclasses import replace

from tokengym.agents.learner import Learner, register_learner
from tokengym.agents.offline.settings import (
    PAIR_FIGURES,
    TEXT_FIGURES,
    DPOSettings,
    SFTSettings,
    logged,
)

DPO_LEARNER = register_learner(
    Learner(
        name="dpo",
        summary="direct preference optimisation on pairs, given or collected from the policy",
        settings=DPOSettings,
        updates="tokengym.agents.offline.collecting:updates",
        check="tokengym.agents.offline.own:check_files",
        steps_setting="num_train_epochs",
        step_name="epoch",
        prompts_setting="num_prompts",
        logged=logged(PAIR_FIGURES),
    )
)
register_learner(
    replace(
        DPO_LEARNER,
        name="sft",
        summary="supervised fine-tuning on responses, given or the best of the policy's own",
        settings=SFTSettings,
        logged=logged(TEXT_FIGURES),
    )
)
