"""Online DPO, RAFT and best-of-n as learners by name."""

from dataclasses import replace

from tokengym.agents import Learner
from tokengym.agents.offline import Candidates
from tokengym.lab.learners.settings import OnlineDPORun, RAFTRun

ONLINE_DPO = Learner(
    name="online-dpo",
    summary="DPO on pairs of the policy's own responses, drawn anew in each iteration",
    settings=OnlineDPORun,
    train="tokengym.lab.learners.iterative:train_online_dpo",
    steps_setting="iterations",
    prompts_setting="prompts_per_iteration",
)
RAFT = replace(
    ONLINE_DPO,
    name="raft",
    summary="fine-tuning on the best of the policy's own responses, in iterations",
    settings=RAFTRun,
    train="tokengym.lab.learners.iterative:train_raft",
)
BEST_OF_N = Learner(
    name="best-of-n",
    summary="the best of n responses by the scorer; nothing is trained",
    settings=Candidates,
    train="tokengym.lab.learners.best_of_n:train",
    steps_setting="n",
    takes_budget=False,
)
